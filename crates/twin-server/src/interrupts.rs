//! A host's MSI-X vectors: an eventfd each, and what is pending while there is none.

use crate::signaller::{Signalled, Signaller};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use vfio_user::server::IrqChange;
use vfio_user::wire::{IrqIndex, IrqInfo, irq_flags};

/// The vectors of one function.
#[derive(Debug)]
pub(crate) struct Interrupts {
    vectors: Vec<Vector>,
    signaller: Signaller,
    /// Its host has had a signal wait: it gets none any more, until it attaches anew.
    deaf: bool,
}

#[derive(Debug, Default)]
struct Vector {
    eventfd: Option<Arc<OwnedFd>>,
    /// Raised while no eventfd was there: what MSI-X calls a pending bit. QEMU gives a vector its eventfd when the guest
    /// unmasks it, and from then on keeps masked vectors pending by itself.
    pending: bool,
}

impl Interrupts {
    /// So many vectors; the signaller is that of the thread which raises them.
    pub(crate) fn new(vectors: u16, signaller: Signaller) -> Self {
        Self { vectors: (0..vectors).map(|_| Vector::default()).collect(), signaller, deaf: false }
    }

    /// What a client asks for.
    pub(crate) fn change(&mut self, index: IrqIndex, change: IrqChange<'_>) -> Result<(), Errno> {
        match (index, change) {
            (IrqIndex::MSIX, IrqChange::Assign { start, fds }) => self.assign(start, fds)?,
            (IrqIndex::MSIX, IrqChange::Deassign { start, count }) => self.deassign(start, count)?,
            (IrqIndex::MSIX, IrqChange::DisableAll) => self.clear(),
            (IrqIndex::MSIX, IrqChange::Trigger(vectors)) => {
                for vector in vectors.iter() {
                    self.trigger(vector);
                }
            }
            // Errors are never signalled, so their eventfd is not kept. Types without vectors have nothing to disable.
            (IrqIndex::ERR, _) | (_, IrqChange::DisableAll) => {}
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    /// Signals a vector, or keeps it pending.
    pub(crate) fn raise(&mut self, vector: u8) {
        let Some(vector) = self.vectors.get_mut(usize::from(vector)) else { return };
        match &vector.eventfd {
            Some(eventfd) => {
                let signalled = self.signaller.signal(eventfd);
                self.judge(signalled);
            }
            None => vector.pending = true,
        }
    }

    /// A host that has had a signal wait once would do it with each.
    fn judge(&mut self, signalled: Signalled) {
        if signalled == Signalled::Rescued {
            tracing::error!(
                "an eventfd was full and blocking: its host gets no interrupts until it attaches anew"
            );
            self.clear();
            self.deaf = true;
        }
    }

    /// Signals a vector without remembering it: what a client asks for as a test.
    pub(crate) fn trigger(&mut self, vector: u32) {
        if let Some(Vector { eventfd: Some(eventfd), .. }) = self.at(vector) {
            let signalled = self.signaller.signal(eventfd);
            self.judge(signalled);
        }
    }

    fn at(&self, vector: u32) -> Option<&Vector> {
        usize::try_from(vector).ok().and_then(|at| self.vectors.get(at))
    }

    /// Gives vectors from `start` on an eventfd each; what was pending is delivered. All of them or none.
    pub(crate) fn assign(&mut self, start: u32, eventfds: Vec<OwnedFd>) -> Result<(), Errno> {
        if self.deaf {
            return Err(Errno::PERM);
        }
        self.range(start, eventfds.len())?;
        for eventfd in &eventfds {
            if !is_eventfd(eventfd) {
                return Err(Errno::INVAL);
            }
            // So a full counter is no more than that. Its host can undo this, and then the signaller helps.
            let flags = rustix::fs::fcntl_getfl(eventfd)?;
            rustix::fs::fcntl_setfl(eventfd, flags | rustix::fs::OFlags::NONBLOCK)?;
        }
        let mut waited = Signalled::Done;
        let signaller = self.signaller.clone();
        for (slot, eventfd) in self.range(start, eventfds.len())?.iter_mut().zip(eventfds) {
            let eventfd = Arc::new(eventfd);
            if std::mem::take(&mut slot.pending) && waited == Signalled::Done {
                waited = signaller.signal(&eventfd);
            }
            slot.eventfd = Some(eventfd);
        }
        self.judge(waited);
        Ok(())
    }

    /// Takes their eventfds away from `count` vectors from `start` on.
    pub(crate) fn deassign(&mut self, start: u32, count: u32) -> Result<(), Errno> {
        let count = usize::try_from(count).map_err(|_| Errno::INVAL)?;
        for slot in self.range(start, count)? {
            slot.eventfd = None;
        }
        Ok(())
    }

    fn range(&mut self, start: u32, count: usize) -> Result<&mut [Vector], Errno> {
        let start = usize::try_from(start).map_err(|_| Errno::INVAL)?;
        let end = start.checked_add(count).ok_or(Errno::INVAL)?;
        self.vectors.get_mut(start..end).ok_or(Errno::INVAL)
    }

    /// MSI-X goes off: no eventfds, nothing pending.
    pub(crate) fn clear(&mut self) {
        self.vectors.fill_with(Vector::default);
    }

    /// The host is gone; the next one has done nothing yet.
    pub(crate) fn detach(&mut self) {
        self.clear();
        self.deaf = false;
    }

    /// A reset of the device: nothing is pending any more, the eventfds stay (the client set them, the client
    /// takes them away).
    pub(crate) fn reset(&mut self) {
        for vector in &mut self.vectors {
            vector.pending = false;
        }
    }
}

/// What a function with so many MSI-X vectors says of its interrupts.
pub(crate) fn info(index: IrqIndex, vectors: u16) -> IrqInfo {
    match index {
        IrqIndex::MSIX => IrqInfo { flags: irq_flags::EVENTFD, count: u32::from(vectors) },
        // QEMU registers an eventfd for errors and warns where there is none; it is never signalled.
        IrqIndex::ERR => IrqInfo { flags: irq_flags::EVENTFD, count: 1 },
        _ => IrqInfo::default(),
    }
}

/// Those of a file's mode that say what it is.
const TYPE_BITS: u16 = 0o170_000;

/// Whether a descriptor is an eventfd. A write to anything else may wait for somebody (a pipe, a terminal, a file on FUSE) or
/// fill something (a disk).
fn is_eventfd(fd: &OwnedFd) -> bool {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    match rustix::fs::readlink(link, Vec::new()) {
        Ok(name) => name.as_bytes() == b"anon_inode:[eventfd]",
        // No /proc here. Files that are neither on a disk nor in a directory have no type; their writes never wait
        // when told not to. Asked in a way that does not reach a FUSE server.
        Err(_) => {
            let (flags, mask) = (AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE);
            rustix::fs::statx(fd, c"", flags, mask).is_ok_and(|found| found.stx_mode & TYPE_BITS == 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::{ReadWriteFlags, preadv2, read, write};
    use std::io::IoSliceMut;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;
    use std::thread::JoinHandle;
    use std::time::Duration;

    fn taken(fd: &OwnedFd) -> Option<u64> {
        let mut count = [0; 8];
        read(fd, &mut count).ok().map(|_| u64::from_ne_bytes(count))
    }

    #[test]
    fn a_vector_without_eventfd_is_pending_until_it_gets_one() {
        let mut interrupts = Interrupts::new(ntb_spec::MSIX_VECTORS, Signaller::default());
        let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        interrupts.raise(3);
        interrupts.raise(3);
        interrupts.assign(3, vec![fd.try_clone().unwrap()]).unwrap();
        assert_eq!(taken(&fd), Some(1), "one message, however often it was raised");
        interrupts.raise(3);
        assert_eq!(taken(&fd), Some(1));
        interrupts.deassign(3, 1).unwrap();
        interrupts.raise(3);
        interrupts.clear();
        interrupts.assign(3, vec![fd.try_clone().unwrap()]).unwrap();
        assert_eq!(taken(&fd), None, "switching MSI-X off forgets what was pending");
    }

    #[test]
    fn numbers_past_the_last_vector_are_refused_and_a_full_counter_does_not_block() {
        let mut interrupts = Interrupts::new(ntb_spec::MSIX_VECTORS, Signaller::default());
        let fd = eventfd(0, EventfdFlags::empty()).unwrap();
        assert_eq!(interrupts.assign(33, vec![fd.try_clone().unwrap()]), Err(Errno::INVAL));
        assert_eq!(interrupts.deassign(32, 2), Err(Errno::INVAL));
        assert_eq!(interrupts.deassign(u32::MAX, u32::MAX), Err(Errno::INVAL));
        interrupts.raise(255);
        write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        interrupts.assign(0, vec![fd]).unwrap();
        interrupts.raise(0);
    }

    #[test]
    fn nothing_but_an_eventfd_is_taken_and_then_none_of_the_message() {
        let mut interrupts = Interrupts::new(ntb_spec::MSIX_VECTORS, Signaller::default());
        let good = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let (read_end, write_end) = rustix::pipe::pipe().unwrap();
        let file: OwnedFd = std::fs::File::open("/proc/self/exe").unwrap().into();
        let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        for bad in [read_end, write_end, file, epoll] {
            assert_eq!(interrupts.assign(3, vec![good.try_clone().unwrap(), bad]), Err(Errno::INVAL));
        }
        interrupts.raise(3);
        assert_eq!(taken(&good), None, "the good one of a bad message was not kept");
    }

    /// Fills the counter and has writes wait, which whoever holds an eventfd can do at any moment.
    fn clog(fd: &OwnedFd) {
        let flags = rustix::fs::fcntl_getfl(fd).unwrap();
        rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
        let _ = write(fd, &(u64::MAX - 1).to_ne_bytes());
        rustix::fs::fcntl_setfl(fd, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    }

    /// Does it on a thread of its own: a failure of this test is a thread that never ends.
    fn in_time<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        std::thread::spawn(move || done.send(act()));
        result.recv_timeout(Duration::from_secs(20)).expect("it waits for its host")
    }

    #[test]
    fn an_eventfd_that_its_host_makes_blocking_and_fills_stops_nobody_and_is_the_last_of_that_host() {
        let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let mut interrupts = Interrupts::new(ntb_spec::MSIX_VECTORS, Signaller::default());
        interrupts.assign(0, vec![fd.try_clone().unwrap()]).unwrap();
        clog(&fd);
        let mut interrupts = in_time(move || {
            interrupts.raise(0);
            interrupts
        });
        let other = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        assert_eq!(interrupts.assign(0, vec![other.try_clone().unwrap()]), Err(Errno::PERM));
        interrupts.clear();
        assert_eq!(interrupts.assign(0, vec![other.try_clone().unwrap()]), Err(Errno::PERM));
        interrupts.detach();
        interrupts.assign(0, vec![other.try_clone().unwrap()]).unwrap();
        interrupts.raise(0);
        assert_eq!(taken(&other), Some(1), "the next host is another");
    }

    /// Threads that do nothing but fill an eventfd: some wait until they can, some never.
    fn fillers(fd: &OwnedFd, spin: bool, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
        let one = |_| {
            let (fd, stop) = (fd.try_clone().unwrap(), Arc::clone(stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if spin {
                        clog(&fd);
                    } else {
                        let _ = write(&fd, &(u64::MAX - 1).to_ne_bytes());
                    }
                }
            })
        };
        (0..3).map(one).collect()
    }

    #[test]
    fn an_eventfd_that_is_filled_again_as_fast_as_it_is_emptied_stops_nobody() {
        for round in 0..20 {
            let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
            let mut interrupts = Interrupts::new(ntb_spec::MSIX_VECTORS, Signaller::default());
            interrupts.assign(0, vec![fd.try_clone().unwrap()]).unwrap();
            clog(&fd);
            let stop = Arc::new(AtomicBool::new(false));
            let fillers = fillers(&fd, round % 2 == 0, &stop);
            in_time(move || {
                while !interrupts.deaf {
                    interrupts.raise(0);
                }
            });
            stop.store(true, Ordering::Relaxed);
            while fillers.iter().any(|filler| !filler.is_finished()) {
                let _ = preadv2(&fd, &mut [IoSliceMut::new(&mut [0; 8])], u64::MAX, ReadWriteFlags::NOWAIT);
            }
        }
    }

    #[test]
    fn signals_after_a_long_rest_and_in_a_row_are_all_counted() {
        let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let mut interrupts = Interrupts::new(ntb_spec::MSIX_VECTORS, Signaller::default());
        interrupts.assign(0, vec![fd.try_clone().unwrap()]).unwrap();
        for _ in 0..100_000 {
            interrupts.raise(0);
        }
        assert_eq!(taken(&fd), Some(100_000));
    }
}
