//! A host's MSI-X vectors: an eventfd each, and what is pending while there is none.

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::{Errno, write};
use std::os::fd::{AsRawFd, OwnedFd};
use vfio_user::server::IrqChange;
use vfio_user::wire::{IrqIndex, IrqInfo, irq_flags};

/// The vectors of one function.
#[derive(Debug)]
pub(crate) struct Interrupts {
    vectors: Vec<Vector>,
}

#[derive(Debug, Default)]
struct Vector {
    eventfd: Option<OwnedFd>,
    /// Raised while no eventfd was there: what MSI-X calls a pending bit. QEMU gives a vector its eventfd when the guest
    /// unmasks it, and from then on keeps masked vectors pending by itself.
    pending: bool,
}

impl Interrupts {
    pub(crate) fn new(vectors: u16) -> Self {
        Self { vectors: (0..vectors).map(|_| Vector::default()).collect() }
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
            Some(eventfd) => signal(eventfd),
            None => vector.pending = true,
        }
    }

    /// Signals a vector without remembering it: what a client asks for as a test.
    pub(crate) fn trigger(&self, vector: u32) {
        if let Some(Vector { eventfd: Some(eventfd), .. }) = self.at(vector) {
            signal(eventfd);
        }
    }

    fn at(&self, vector: u32) -> Option<&Vector> {
        usize::try_from(vector).ok().and_then(|at| self.vectors.get(at))
    }

    /// Gives vectors from `start` on an eventfd each; what was pending is delivered. All of them or none.
    pub(crate) fn assign(&mut self, start: u32, eventfds: Vec<OwnedFd>) -> Result<(), Errno> {
        let slots = self.range(start, eventfds.len())?;
        for eventfd in &eventfds {
            if !is_eventfd(eventfd) {
                return Err(Errno::INVAL);
            }
            // One whose counter is full must not stop the twin.
            let flags = rustix::fs::fcntl_getfl(eventfd)?;
            rustix::fs::fcntl_setfl(eventfd, flags | rustix::fs::OFlags::NONBLOCK)?;
        }
        for (slot, eventfd) in slots.iter_mut().zip(eventfds) {
            if std::mem::take(&mut slot.pending) {
                signal(&eventfd);
            }
            slot.eventfd = Some(eventfd);
        }
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

    /// MSI-X goes off, or the host is gone: no eventfds, nothing pending.
    pub(crate) fn clear(&mut self) {
        self.vectors.fill_with(Vector::default);
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

/// Adds one to an eventfd. It fails when the counter is full, and then the reader has been told enough.
fn signal(eventfd: &OwnedFd) {
    if let Err(errno) = write(eventfd, &1u64.to_ne_bytes())
        && errno != Errno::AGAIN
    {
        tracing::debug!(%errno, "an interrupt could not be signalled");
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
    use rustix::io::read;

    fn taken(fd: &OwnedFd) -> Option<u64> {
        let mut count = [0; 8];
        read(fd, &mut count).ok().map(|_| u64::from_ne_bytes(count))
    }

    #[test]
    fn a_vector_without_eventfd_is_pending_until_it_gets_one() {
        let mut interrupts = Interrupts::new(ntb_spec::MSIX_VECTORS);
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
        let mut interrupts = Interrupts::new(ntb_spec::MSIX_VECTORS);
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
        let mut interrupts = Interrupts::new(ntb_spec::MSIX_VECTORS);
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
}
