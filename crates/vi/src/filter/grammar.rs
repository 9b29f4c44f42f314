//! Filters as text, in the grammar that ef_vi's sample programs take (`efsink`, `efrss`), with ranges of ports added.
//!
//! ```text
//!   udp:[vid=N,]host:port[-port][,rhost:rport]       tcp: the same
//!   eth:[vid=N,]mac
//!   ethertype:[vid=N,]number                         ip-protocol:[vid=N,]number
//!   unicast-all   multicast-all   unicast-mis   multicast-mis   sniff
//! ```
//!
//! Hosts are addresses, IPv6 in brackets. Numbers may be hexadecimal after 0x.

use super::{Filter, Mac, Transport};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A text that is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no filter: {reason}")]
pub struct BadFilter {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl FromStr for Filter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        parse(text).map_err(|reason| BadFilter { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Filter, &'static str> {
    match text {
        "unicast-all" => return Ok(Filter::UnicastAll),
        "multicast-all" => return Ok(Filter::MulticastAll),
        "unicast-mis" => return Ok(Filter::UnicastMismatch),
        "multicast-mis" => return Ok(Filter::MulticastMismatch),
        "sniff" => return Ok(Filter::Sniff),
        _ => {}
    }
    let (kind, rest) = text.split_once(':').ok_or("it has no kind, as in udp:host:port")?;
    let (vlan, rest) = match rest.strip_prefix("vid=").map(|rest| rest.split_once(',')) {
        Some(Some((vlan, rest))) => {
            let vlan = number(vlan).filter(|&vlan| vlan <= 4095).ok_or("a VLAN is a number up to 4095")?;
            (Some(vlan), rest)
        }
        Some(None) => return Err("nothing comes after the VLAN"),
        None => (None, rest),
    };
    match kind {
        "udp" => flow(Transport::Udp, rest, vlan),
        "tcp" => flow(Transport::Tcp, rest, vlan),
        "eth" => {
            Ok(Filter::Mac { mac: mac(rest).ok_or("a MAC is six hexadecimal bytes with colons")?, vlan })
        }
        "ethertype" => Ok(Filter::Ethertype {
            ethertype: number(rest).ok_or("an ethertype is a number up to 0xffff")?,
            vlan,
        }),
        "ip-protocol" => {
            let protocol = number(rest).and_then(|number| u8::try_from(number).ok());
            Ok(Filter::IpProtocol { protocol: protocol.ok_or("an IP protocol is a number up to 255")?, vlan })
        }
        _ => {
            Err("kinds are udp, tcp, eth, ethertype, ip-protocol, unicast-all, multicast-all, unicast-mis, \
                  multicast-mis and sniff")
        }
    }
}

fn flow(transport: Transport, text: &str, vlan: Option<u16>) -> Result<Filter, &'static str> {
    const END: &str = "an end is an address and a port, as in 10.0.0.1:80 or [fd00::1]:80";
    if let Some((local, remote)) = text.split_once(',') {
        let local: SocketAddr = local.parse().map_err(|_| END)?;
        let remote: SocketAddr = remote.parse().map_err(|_| END)?;
        if local.is_ipv4() != remote.is_ipv4() {
            return Err("the two addresses are of different IP versions");
        }
        return Ok(Filter::Full { transport, local, remote, vlan });
    }
    let (host, ports) = text.rsplit_once(':').ok_or(END)?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else { return Err(END) };
    if first > last {
        return Err("the range of ports is empty");
    }
    let address = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']').and_then(|host| host.parse().ok()).map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    };
    Ok(Filter::Local { transport, address: address.ok_or(END)?, first, last, vlan })
}

fn number(text: &str) -> Option<u16> {
    match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| matches!(part.len(), 1 | 2))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = |f: &mut fmt::Formatter<'_>, vlan: Option<u16>| match vlan {
            Some(vlan) => write!(f, "vid={vlan},"),
            None => Ok(()),
        };
        let name = |transport| match transport {
            Transport::Tcp => "tcp:",
            Transport::Udp => "udp:",
        };
        match *self {
            Self::Full { transport, local, remote, vlan } => {
                f.write_str(name(transport))?;
                tag(f, vlan)?;
                write!(f, "{local},{remote}")
            }
            Self::Local { transport, address, first, last, vlan } => {
                f.write_str(name(transport))?;
                tag(f, vlan)?;
                write!(f, "{}", SocketAddr::new(address, first))?;
                if last > first { write!(f, "-{last}") } else { Ok(()) }
            }
            Self::Mac { mac: [a, b, c, d, e, g], vlan } => {
                f.write_str("eth:")?;
                tag(f, vlan)?;
                write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
            Self::IpProtocol { protocol, vlan } => {
                f.write_str("ip-protocol:")?;
                tag(f, vlan)?;
                write!(f, "{protocol}")
            }
            Self::Ethertype { ethertype, vlan } => {
                f.write_str("ethertype:")?;
                tag(f, vlan)?;
                write!(f, "{ethertype:#x}")
            }
            Self::UnicastAll => f.write_str("unicast-all"),
            Self::MulticastAll => f.write_str("multicast-all"),
            Self::UnicastMismatch => f.write_str("unicast-mis"),
            Self::MulticastMismatch => f.write_str("multicast-mis"),
            Self::Sniff => f.write_str("sniff"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_is_read_and_printed() {
        for text in [
            "udp:10.0.0.1:53",
            "udp:vid=7,10.0.0.1:53-99",
            "tcp:[fd00::1]:80",
            "tcp:10.0.0.1:80,10.0.0.2:1024",
            "udp:vid=0,[fd00::1]:80,[fd00::2]:1024",
            "eth:02:00:00:00:00:0a",
            "eth:vid=4095,02:00:00:00:00:0a",
            "ethertype:0x88f7",
            "ip-protocol:vid=3,89",
            "unicast-all",
            "multicast-all",
            "unicast-mis",
            "multicast-mis",
            "sniff",
        ] {
            let filter: Filter = text.parse().unwrap();
            assert_eq!(filter.to_string(), text);
        }
        assert_eq!("ethertype:2048".parse::<Filter>().unwrap().to_string(), "ethertype:0x800");
    }

    #[test]
    fn texts_that_are_no_filters_say_why() {
        for text in [
            "",
            "udp",
            "udp:",
            "udp:10.0.0.1",
            "udp:10.0.0.1:99-98",
            "udp:10.0.0.1:65536",
            "udp:vid=5",
            "sctp:10.0.0.1:1",
            "udp:vid=4096,10.0.0.1:1",
            "udp:fd00::1:80",
            "tcp:10.0.0.1:80,[::1]:80",
            "tcp:10.0.0.1:1-2,10.0.0.2:1",
            "eth:02:00:00:00:00",
            "eth:02:00:00:00:00:00:00",
            "eth:02:00:00:00:00:000",
            "ethertype:0x10000",
            "ip-protocol:256",
            "udp:host:80",
        ] {
            let error = text.parse::<Filter>().unwrap_err();
            assert_eq!(error.text, text);
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "[udptceh:,.=vi0-9a-f\\[\\]x-]{0,30}") {
            if let Ok(filter) = text.parse::<Filter>() {
                prop_assert_eq!(filter.to_string().parse::<Filter>(), Ok(filter));
            }
        }
    }
}
