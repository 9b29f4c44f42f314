//! Where a socket is: a path, or a descriptor that the parent opened.

use std::fmt;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// A listening UNIX socket, as named on the command line.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// Made at this path, mode 0600; a stale one is replaced.
    Path(PathBuf),
    /// `fd:N`: listening already, inherited.
    Inherited {
        /// The number it was named by.
        number: RawFd,
        /// The descriptor, taken.
        fd: Arc<OwnedFd>,
    },
}

/// Text that names no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum BadEndpoint {
    /// Neither a path nor a number.
    #[error("{0:?} names no socket: give a path, or fd:N with the number of an inherited listening socket")]
    Form(String),
    /// A number that is no inherited descriptor.
    #[error(transparent)]
    Inherit(#[from] shm::NotInherited),
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    /// Takes the descriptor that `fd:N` names, at once: a number can be told from one of our own only before anything
    /// else is opened, and reading the arguments comes first.
    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        match text.strip_prefix("fd:") {
            Some(digits) => {
                let number = digits.parse().map_err(|_| BadEndpoint::Form(text.to_owned()))?;
                Ok(Self::Inherited { number, fd: Arc::new(shm::take_inherited(number)?) })
            }
            None if text.is_empty() => Err(BadEndpoint::Form(text.to_owned())),
            None => Ok(Self::Path(text.into())),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Inherited { number, .. } => write!(f, "fd:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_numbers() {
        assert!(
            matches!("/run/a.sock".parse(), Ok(Endpoint::Path(path)) if path.as_os_str() == "/run/a.sock")
        );
        for nonsense in ["", "fd:", "fd:x", "fd:-1", "fd:2", "fd:9999"] {
            assert!(nonsense.parse::<Endpoint>().is_err(), "{nonsense}");
        }
    }
}
