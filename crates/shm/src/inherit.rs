//! Descriptors that the parent process left open for us, named by number on the command line.

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// Numbers that were taken: each has one owner.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// A number that names no inherited descriptor.
#[derive(Debug, thiserror::Error)]
#[error(
    "fd:{number} is not an inherited descriptor: open it in the parent and pass its number, above 2, once"
)]
pub struct NotInherited {
    /// What was asked for.
    pub number: RawFd,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Takes a descriptor that the parent left open, and marks it close-on-exec.
///
/// Call it while the arguments are being resolved, before anything else opens descriptors: a number can only be
/// told from one of our own by being open already then.
///
/// # Errors
/// [`NotInherited`] for standard streams, for numbers that are not open and for one that was taken before.
pub fn take_inherited(number: RawFd) -> Result<OwnedFd, NotInherited> {
    let refuse = |source: io::Error| NotInherited { number, source };
    if number <= 2 {
        return Err(refuse(io::Error::other("it is a standard stream, or no descriptor")));
    }
    let mut taken = TAKEN.lock().map_err(|_| refuse(io::Error::other("another thread failed here")))?;
    if taken.contains(&number) {
        return Err(refuse(io::Error::other("it is named twice")));
    }
    // SAFETY: the borrow lasts for the two calls below; a number that is not open makes the first of them fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed).map_err(|errno| refuse(errno.into()))?;
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC).map_err(|errno| refuse(errno.into()))?;
    taken.push(number);
    // SAFETY: it is open (checked), and by this function's contract nobody in this process owns it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_streams_and_closed_numbers_are_refused() {
        for number in [-1, 0, 2, 9999] {
            assert!(take_inherited(number).is_err(), "{number}");
        }
    }

    #[test]
    fn a_number_has_one_owner() {
        use std::os::fd::IntoRawFd;
        let number = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let owned = take_inherited(number).unwrap();
        assert!(take_inherited(number).is_err());
        drop(owned);
    }
}
