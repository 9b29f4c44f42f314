//! Filters: which frames an interface gets.
//!
//! The *sender* steers, by the table that the receiver has published: it has the headers in its cache, and nothing is
//! then sent to one who does not want it.
//!
//! **Precedence.** One filter takes a frame: the most special kind that matches, in the order of [`Filter`]'s kinds
//! below; within local port ranges the narrower range; then the one that was added first.
//!
//! | rank | kind | takes |
//! |---|---|---|
//! | 1 | full | protocol, both addresses, both ports |
//! | 2 | local | protocol, own address, own port or range of ports |
//! | 3 | MAC with VLAN | destination MAC and VLAN |
//! | 4 | MAC | destination MAC, whatever the VLAN |
//! | 5 | IP protocol | one protocol of IPv4 and IPv6 |
//! | 6 | ethertype | one ethertype |
//! | 7 | all | all unicast, or all multicast frames |
//! | 8 | mismatch | unicast or multicast frames that nothing above takes |
//!
//! Destinations that add *equal* filters all get a copy. A *sniffer* gets a copy of what goes by, whoever takes it. A
//! frame that nothing takes belongs to the kernel, unless a *block* says that it is dropped.
//!
//! A filter of ranks 1, 2, 5 and 6 may ask for a VLAN: then it takes frames with that tag alone; without, it takes
//! tagged and untagged ones. Fragments have no ports: ranks 1 and 2 do not take them.

mod flow;
#[cfg(test)]
pub(crate) mod frames;
mod grammar;
mod headers;
mod table;
mod toeplitz;

pub use flow::FlowCache;
pub use grammar::BadFilter;
pub use headers::{HEADER_BYTES, Headers, Ip, Mac};
pub use table::{Block, MOST_FILTERS, MOST_MEMBERS, Table, TableError, Target, Verdict};
pub use toeplitz::{DEFAULT_KEY, flow_hash, toeplitz};

use std::net::{IpAddr, SocketAddr};

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its number in an IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => headers::TCP,
            Self::Udp => headers::UDP,
        }
    }
}

/// Which frames a filter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// One flow.
    Full {
        /// Protocol.
        transport: Transport,
        /// The receiver's address and port.
        local: SocketAddr,
        /// The other end's.
        remote: SocketAddr,
        /// The tag, if one is asked for.
        vlan: Option<u16>,
    },
    /// All flows to one address and a port, or a range of ports.
    Local {
        /// Protocol.
        transport: Transport,
        /// The receiver's address.
        address: IpAddr,
        /// First port.
        first: u16,
        /// Last port, the same for one.
        last: u16,
        /// The tag, if one is asked for.
        vlan: Option<u16>,
    },
    /// One destination MAC.
    Mac {
        /// Destination.
        mac: Mac,
        /// The tag, if one is asked for.
        vlan: Option<u16>,
    },
    /// One IP protocol.
    IpProtocol {
        /// Its number.
        protocol: u8,
        /// The tag, if one is asked for.
        vlan: Option<u16>,
    },
    /// One ethertype.
    Ethertype {
        /// The type.
        ethertype: u16,
        /// The tag, if one is asked for.
        vlan: Option<u16>,
    },
    /// Every unicast frame.
    UnicastAll,
    /// Every multicast and broadcast frame.
    MulticastAll,
    /// Unicast frames that no other filter takes.
    UnicastMismatch,
    /// Multicast frames that no other filter takes.
    MulticastMismatch,
    /// A copy of every frame, whoever takes it.
    Sniff,
}

impl Filter {
    /// Whether it takes a frame, precedence aside.
    #[must_use]
    pub fn matches(&self, frame: &Headers) -> bool {
        let tagged = |vlan: Option<u16>| vlan.is_none() || vlan == frame.vlan;
        match *self {
            Self::Full { transport, local, remote, vlan } => frame.ip.is_some_and(|ip| {
                tagged(vlan)
                    && ip.protocol == transport.number()
                    && ip.ports == Some((remote.port(), local.port()))
                    && ip.source == remote.ip()
                    && ip.destination == local.ip()
            }),
            Self::Local { transport, address, first, last, vlan } => frame.ip.is_some_and(|ip| {
                tagged(vlan)
                    && ip.protocol == transport.number()
                    && ip.destination == address
                    && ip.ports.is_some_and(|(_, to)| (first..=last).contains(&to))
            }),
            Self::Mac { mac, vlan } => tagged(vlan) && frame.destination == mac,
            Self::IpProtocol { protocol, vlan } => {
                tagged(vlan) && frame.ip.is_some_and(|ip| ip.protocol == protocol)
            }
            Self::Ethertype { ethertype, vlan } => tagged(vlan) && frame.ethertype == ethertype,
            Self::UnicastAll | Self::UnicastMismatch => !frame.is_multicast(),
            Self::MulticastAll | Self::MulticastMismatch => frame.is_multicast(),
            Self::Sniff => true,
        }
    }

    /// Its rank: the smaller one takes the frame. The second number orders ranges: narrower first.
    #[must_use]
    pub fn rank(&self) -> (u8, u16) {
        match *self {
            Self::Full { .. } => (1, 0),
            Self::Local { first, last, .. } => (2, last.saturating_sub(first)),
            Self::Mac { vlan: Some(_), .. } => (3, 0),
            Self::Mac { vlan: None, .. } => (4, 0),
            Self::IpProtocol { .. } => (5, 0),
            Self::Ethertype { .. } => (6, 0),
            Self::UnicastAll | Self::MulticastAll => (7, 0),
            Self::UnicastMismatch | Self::MulticastMismatch => (8, 0),
            Self::Sniff => (9, 0),
        }
    }
}
