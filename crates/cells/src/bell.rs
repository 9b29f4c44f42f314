//! Doorbells, as far as a channel needs them: one to ring at the peer, one of my own to sleep on.

use std::time::Duration;

/// A doorbell that cannot be rung or waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the doorbell failed")]
pub struct BellFailed;

/// A doorbell at the peer.
pub trait Bell: Send + Sync {
    /// Rings. What was stored before is seen by whoever is woken.
    ///
    /// # Errors
    /// [`BellFailed`].
    fn ring(&self) -> Result<(), BellFailed>;
}

/// My own doorbell. A ring is kept until somebody sleeps: it is never lost between a look at memory and the sleep.
pub trait Alarm: Send + Sync {
    /// Sleeps until the bell has been rung since the last sleep, at most for `limit`; true if it was rung.
    ///
    /// # Errors
    /// [`BellFailed`].
    fn sleep(&self, limit: Option<Duration>) -> Result<bool, BellFailed>;

    /// Rings my own bell, so that a thread of mine that sleeps looks again.
    ///
    /// # Errors
    /// [`BellFailed`].
    fn rouse(&self) -> Result<(), BellFailed>;
}

#[cfg(not(loom))]
pub use event::EventBell;

#[cfg(not(loom))]
mod event {
    use super::{Alarm, Bell, BellFailed, Duration};
    use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
    use rustix::io::Errno;
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    /// A bell that is an eventfd: between threads, between processes that pass it on, and for `epoll`.
    #[derive(Debug)]
    pub struct EventBell(OwnedFd);

    impl EventBell {
        /// A new one.
        ///
        /// # Errors
        /// When the kernel has no descriptors left.
        pub fn new() -> io::Result<Self> {
            Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
        }

        /// One that somebody sent.
        #[must_use]
        pub fn from_fd(fd: OwnedFd) -> Self {
            Self(fd)
        }

        /// Another handle of the same bell.
        ///
        /// # Errors
        /// When the kernel has no descriptors left.
        pub fn try_clone(&self) -> io::Result<Self> {
            Ok(Self(self.0.try_clone()?))
        }

        /// Forgets rings so far; true if there was one.
        fn clear(&self) -> Result<bool, BellFailed> {
            match rustix::io::read(&self.0, &mut [0; 8]) {
                Ok(_) => Ok(true),
                Err(Errno::AGAIN | Errno::INTR) => Ok(false),
                Err(_) => Err(BellFailed),
            }
        }
    }

    impl AsFd for EventBell {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl Bell for EventBell {
        fn ring(&self) -> Result<(), BellFailed> {
            match rustix::io::write(&self.0, &1_u64.to_ne_bytes()) {
                // A counter that is full wakes as well as any.
                Ok(_) | Err(Errno::AGAIN) => Ok(()),
                Err(_) => Err(BellFailed),
            }
        }
    }

    impl Alarm for EventBell {
        fn sleep(&self, limit: Option<Duration>) -> Result<bool, BellFailed> {
            let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, limit.as_ref()) {
                Ok(0) | Err(Errno::INTR) => Ok(false),
                Ok(_) => self.clear(),
                Err(_) => Err(BellFailed),
            }
        }

        fn rouse(&self) -> Result<(), BellFailed> {
            self.ring()
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_kept_until_somebody_sleeps() {
        let bell = EventBell::new().unwrap();
        assert_eq!(bell.sleep(Some(Duration::ZERO)), Ok(false));
        bell.ring().unwrap();
        bell.try_clone().unwrap().ring().unwrap();
        assert_eq!(bell.sleep(None), Ok(true));
        assert_eq!(bell.sleep(Some(Duration::from_millis(1))), Ok(false), "both rings are one");
    }
}
