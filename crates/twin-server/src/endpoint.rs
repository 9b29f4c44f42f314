//! Where a socket is: a path, or a descriptor that the parent opened.

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

/// A listening UNIX socket, as named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Made at this path, mode 0600; a stale one is replaced.
    Path(PathBuf),
    /// `fd:N`: listening already, inherited.
    Inherited(RawFd),
}

/// Text that names no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no socket: give a path, or fd:N with the number of an inherited listening socket")]
pub struct BadEndpoint(String);

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        match text.strip_prefix("fd:") {
            Some(number) => number.parse().map(Self::Inherited).map_err(|_| BadEndpoint(text.to_owned())),
            None if text.is_empty() => Err(BadEndpoint(text.to_owned())),
            None => Ok(Self::Path(text.into())),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Inherited(number) => write!(f, "fd:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_numbers() {
        assert_eq!("/run/a.sock".parse(), Ok(Endpoint::Path("/run/a.sock".into())));
        assert_eq!("fd:7".parse(), Ok(Endpoint::Inherited(7)));
        assert!("fd:".parse::<Endpoint>().is_err());
        assert!("fd:x".parse::<Endpoint>().is_err());
        assert!("".parse::<Endpoint>().is_err());
    }
}
