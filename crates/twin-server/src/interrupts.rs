//! A host's MSI-X vectors: an eventfd each, and what is pending while there is none.

use ntb_spec::MSIX_VECTORS;
use rustix::io::{Errno, write};
use std::os::fd::OwnedFd;

/// The vectors of one port.
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
    pub(crate) fn new() -> Self {
        Self { vectors: (0..MSIX_VECTORS).map(|_| Vector::default()).collect() }
    }

    /// How many there are.
    pub(crate) fn count() -> u32 {
        u32::from(MSIX_VECTORS)
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

    /// Gives a vector its eventfd, or takes it away; what was pending is delivered.
    pub(crate) fn assign(&mut self, vector: u32, eventfd: Option<OwnedFd>) -> Result<(), Errno> {
        let at = usize::try_from(vector).map_err(|_| Errno::INVAL)?;
        let slot = self.vectors.get_mut(at).ok_or(Errno::INVAL)?;
        if let Some(eventfd) = &eventfd {
            // A descriptor that blocks on write would stop the twin: an eventfd whose counter is full, a pipe.
            let flags = rustix::fs::fcntl_getfl(eventfd)?;
            rustix::fs::fcntl_setfl(eventfd, flags | rustix::fs::OFlags::NONBLOCK)?;
            if std::mem::take(&mut slot.pending) {
                signal(eventfd);
            }
        }
        slot.eventfd = eventfd;
        Ok(())
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

/// Adds one to an eventfd. It fails when the counter is full, and then the reader has been told enough.
fn signal(eventfd: &OwnedFd) {
    if let Err(errno) = write(eventfd, &1u64.to_ne_bytes())
        && errno != Errno::AGAIN
    {
        tracing::debug!(%errno, "an interrupt could not be signalled");
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
        let mut interrupts = Interrupts::new();
        let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        interrupts.raise(3);
        interrupts.raise(3);
        interrupts.assign(3, Some(fd.try_clone().unwrap())).unwrap();
        assert_eq!(taken(&fd), Some(1), "one message, however often it was raised");
        interrupts.raise(3);
        assert_eq!(taken(&fd), Some(1));
        interrupts.assign(3, None).unwrap();
        interrupts.raise(3);
        interrupts.clear();
        interrupts.assign(3, Some(fd.try_clone().unwrap())).unwrap();
        assert_eq!(taken(&fd), None, "switching MSI-X off forgets what was pending");
    }

    #[test]
    fn numbers_past_the_last_vector_are_refused_and_a_full_counter_does_not_block() {
        let mut interrupts = Interrupts::new();
        let fd = eventfd(0, EventfdFlags::empty()).unwrap();
        assert_eq!(interrupts.assign(33, Some(fd.try_clone().unwrap())), Err(Errno::INVAL));
        interrupts.raise(255);
        write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        interrupts.assign(0, Some(fd)).unwrap();
        interrupts.raise(0);
    }
}
