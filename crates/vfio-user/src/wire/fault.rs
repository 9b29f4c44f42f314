//! Why a request is refused.

use rustix::io::Errno;

/// The class of a refusal; one counter each in [`Counters`](crate::server::Counters).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// A length, an `argsz`, a flag word or a reserved bit makes no sense.
    Malformed,
    /// A command that this side does not serve.
    Unsupported,
    /// VERSION missing, or sent twice.
    Order,
    /// A version or a capability list that cannot be agreed on.
    Version,
    /// A region, vector, offset or count beyond what the device has.
    Range,
    /// File descriptors where none belong, or not as many as needed.
    Fds,
    /// The request was sound; the device declined it.
    Device,
}

/// A refused request: what is wrong and the errno that the error reply carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({kind:?}, {errno})")]
pub struct Fault {
    /// The class, for counting.
    pub kind: FaultKind,
    /// What the peer is told; an [`Errno`] cannot be zero.
    pub errno: Errno,
    /// For the log.
    pub reason: &'static str,
}

impl Fault {
    /// A fault of class `kind`.
    #[must_use]
    pub const fn new(kind: FaultKind, errno: Errno, reason: &'static str) -> Self {
        Self { kind, errno, reason }
    }

    /// [`FaultKind::Malformed`] with `EINVAL`.
    #[must_use]
    pub const fn malformed(reason: &'static str) -> Self {
        Self::new(FaultKind::Malformed, Errno::INVAL, reason)
    }

    /// [`FaultKind::Range`] with `EINVAL`.
    #[must_use]
    pub const fn range(reason: &'static str) -> Self {
        Self::new(FaultKind::Range, Errno::INVAL, reason)
    }

    /// [`FaultKind::Fds`] with `EINVAL`.
    #[must_use]
    pub const fn fds(reason: &'static str) -> Self {
        Self::new(FaultKind::Fds, Errno::INVAL, reason)
    }

    /// [`FaultKind::Device`] with the device's own errno.
    #[must_use]
    pub const fn device(errno: Errno) -> Self {
        Self::new(FaultKind::Device, errno, "declined by the device")
    }
}
