//! Bells: how a sender wakes a receiver that sleeps.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read, write};
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

    /// One that another process sent. Whether it is an eventfd shows when it is rung.
    #[must_use]
    pub fn from_descriptor(fd: OwnedFd) -> Self {
        Self { fd }
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
        match read(&self.fd, &mut [0; 8]) {
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
