//! Bells: how a sender wakes a receiver that sleeps.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// An eventfd. It works in `epoll`, and can be sent to another process.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
}

impl Bell {
    /// A silent one.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// A bell for two processes that do not trust each other: the first end rings, the second one waits. It is a pipe, each end of
    /// which has flags of its own, so that whoever holds one cannot make a ring at the other wait.
    ///
    /// # Errors
    /// When the kernel gives no descriptors.
    pub fn divided() -> io::Result<(Self, Self)> {
        let (waits, rings) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok((Self { fd: rings }, Self { fd: waits }))
    }

    /// One that another process sent. Whether it is an eventfd shows when it is rung.
    ///
    /// The process shares the descriptor's state: one that undoes what is set here, and fills the counter, makes a
    /// ring wait. Take bells from processes that are trusted that far.
    ///
    /// # Errors
    /// When it cannot be made one that never blocks.
    pub fn from_descriptor(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    /// The same bell for another holder.
    ///
    /// # Errors
    /// When the kernel gives no descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Rings. A bell that nobody silences for 2^64 - 1 rings stays rung.
    ///
    /// # Errors
    /// When the descriptor is no eventfd.
    pub fn ring(&self) -> io::Result<()> {
        match write(&self.fd, &1_u64.to_ne_bytes()) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Silences it.
    ///
    /// # Errors
    /// When the descriptor is no eventfd.
    pub fn silence(&self) -> io::Result<()> {
        // An eventfd gives 8 bytes; a pipe gives as many rings as there are.
        match read(&self.fd, &mut [0; 512]) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sleeps until it rings, or `limit` has passed. True: it rang, and is silent again.
    ///
    /// # Errors
    /// When the descriptor cannot be waited for.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match poll(&mut fds, limit.as_ref()) {
            Ok(0) => Ok(false),
            // A signal is as good as a ring: who wakes looks again.
            Ok(_) | Err(Errno::INTR) => self.silence().map(|()| true),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_rings_once_however_often_and_for_every_holder() {
        let bell = Bell::new().unwrap();
        let sent = Bell::from_descriptor(bell.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert!(!bell.wait(Some(Duration::ZERO)).unwrap());
        sent.ring().unwrap();
        sent.ring().unwrap();
        assert!(bell.wait(None).unwrap());
        assert!(!bell.wait(Some(Duration::ZERO)).unwrap());
    }

    #[test]
    fn a_divided_bell_rings_at_its_other_end_and_never_waits() {
        let (rings, waits) = Bell::divided().unwrap();
        for _ in 0..100_000 {
            rings.ring().unwrap();
        }
        assert!(waits.wait(None).unwrap());
        while waits.wait(Some(Duration::ZERO)).unwrap() {}
        assert!(!waits.wait(Some(Duration::ZERO)).unwrap());
    }

    #[test]
    fn a_full_counter_does_not_hold_up_who_rings() {
        let bell = Bell::new().unwrap();
        write(&bell.fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        bell.ring().unwrap();
        assert!(bell.wait(None).unwrap());
    }

    #[test]
    fn what_is_no_eventfd_is_an_error() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert!(Bell::from_descriptor(read).unwrap().ring().is_err());
    }
}
