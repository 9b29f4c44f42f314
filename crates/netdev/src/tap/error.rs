//! Why there is no TAP, and what to do about it.

use rustix::io::Errno;
use std::io;

/// Why an interface could not be made or set up. Each text ends with what helps.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Not a name that an interface may have.
    #[error(
        "{0:?} is no name for an interface: 1 to 15 bytes, no slash, no colon, no space, neither \".\" nor \"..\""
    )]
    Name(String),
    /// The kernel's TUN driver is not there.
    #[error("there is no /dev/net/tun: load the module `tun`, or give the container that device")]
    NoDriver,
    /// This process may not make interfaces.
    #[error(
        "not permitted to make or change the interface {name}: run as root or with CAP_NET_ADMIN, or have root make it for you by `ip tuntap add mode tap user $USER name {name}`"
    )]
    Permission {
        /// The interface.
        name: String,
    },
    /// Another program holds the TAP, or an interface of another kind has its name.
    #[error("the name {name} is taken: {by}; choose another by --tap, or see `ip -details link show {name}`")]
    NameTaken {
        /// The interface.
        name: String,
        /// By what.
        by: &'static str,
    },
    /// Another interface has the address.
    #[error("the address {address} is taken: an interface here has it already (`ip address` shows which)")]
    AddressTaken {
        /// The address.
        address: std::net::IpAddr,
    },
    /// The MTU is outside what a TAP can do.
    #[error("an MTU of {0} bytes is not possible: a TAP takes 68 to {most}", most = super::MTU_MAX)]
    Mtu(u32),
    /// So many queues are not possible.
    #[error("{0} queues are not possible: 1 to {most}", most = super::QUEUES_MAX)]
    Queues(usize),
    /// The kernel is too old.
    #[error("this kernel's TUN driver cannot do {0}")]
    Unsupported(&'static str),
    /// A step failed in another way.
    #[error("{step} of the interface {name}: {source}")]
    Step {
        /// What was done.
        step: &'static str,
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl TapError {
    /// The error of a step on an interface.
    pub(super) fn of(step: &'static str, name: &str, errno: Errno) -> Self {
        let name = name.to_owned();
        match errno {
            Errno::PERM | Errno::ACCESS => Self::Permission { name },
            errno => Self::Step { step, name, source: errno.into() },
        }
    }
}
