//! What filters look at: the headers at the beginning of a frame, in private memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ethernet addresses are six bytes.
pub type Mac = [u8; 6];

/// How many bytes of a frame are enough to see everything that filters ask: Ethernet, one VLAN tag, the longest IPv4
/// header, ports. IPv6 extension headers are not walked.
pub const HEADER_BYTES: usize = 14 + 4 + 60 + 4;

/// Ethertypes.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;
const VLAN: u16 = 0x8100;
const VLAN_PROVIDER: u16 = 0x88A8;

/// Protocols that have ports where TCP has them.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// The headers of one frame, as far as they are whole. A field of a header that is cut off or broken is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Destination.
    pub destination: Mac,
    /// Source.
    pub source: Mac,
    /// The outer VLAN tag's number, 0 to 4095.
    pub vlan: Option<u16>,
    /// The type behind the VLAN tag.
    pub ethertype: u16,
    /// The IP header.
    pub ip: Option<Ip>,
}

/// An IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol (IPv4), next header (IPv6).
    pub protocol: u8,
    /// Source and destination port of TCP and UDP; none in fragments, as ef_vi has it.
    pub ports: Option<(u16, u16)>,
}

impl Headers {
    /// Reads the headers at the beginning of a frame; none if it is shorter than an Ethernet header.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (destination, rest) = frame.split_first_chunk::<6>()?;
        let (source, rest) = rest.split_first_chunk::<6>()?;
        let (kind, mut rest) = word(rest)?;
        let (mut ethertype, mut vlan) = (kind, None);
        if (kind == VLAN || kind == VLAN_PROVIDER)
            && let Some((tag, inner)) = word(rest)
            && let Some((inner_kind, inner)) = word(inner)
        {
            (vlan, ethertype, rest) = (Some(tag & 0xFFF), inner_kind, inner);
        }
        let ip = match ethertype {
            IPV4 => ipv4(rest),
            IPV6 => ipv6(rest),
            _ => None,
        };
        Some(Self { destination: *destination, source: *source, vlan, ethertype, ip })
    }

    /// Whether the frame is for a group: the lowest bit of the first byte of its destination.
    #[must_use]
    pub fn is_multicast(&self) -> bool {
        self.destination.first().is_some_and(|byte| byte & 1 != 0)
    }
}

fn word(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*word), rest))
}

fn ipv4(packet: &[u8]) -> Option<Ip> {
    let header = packet.first_chunk::<20>()?;
    let [version_and_length, _, _, _, _, _, flags, low, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
        *header;
    let header_bytes = usize::from(version_and_length & 0xF) * 4;
    if version_and_length >> 4 != 4 || header_bytes < 20 {
        return None;
    }
    // More fragments, or an offset: a part of a packet, and only the first part has ports.
    let fragment = u16::from_be_bytes([flags, low]) & 0x3FFF != 0;
    let ports =
        if fragment { None } else { packet.get(header_bytes..).and_then(|rest| ports(protocol, rest)) };
    Some(Ip {
        source: Ipv4Addr::new(s0, s1, s2, s3).into(),
        destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
        protocol,
        ports,
    })
}

fn ipv6(packet: &[u8]) -> Option<Ip> {
    let (header, rest) = packet.split_first_chunk::<40>()?;
    let [version, _, _, _, _, _, protocol, ..] = *header;
    if version >> 4 != 6 {
        return None;
    }
    let source: [u8; 16] = header.get(8..24)?.try_into().ok()?;
    let destination: [u8; 16] = header.get(24..40)?.try_into().ok()?;
    Some(Ip {
        source: Ipv6Addr::from(source).into(),
        destination: Ipv6Addr::from(destination).into(),
        protocol,
        ports: ports(protocol, rest),
    })
}

fn ports(protocol: u8, segment: &[u8]) -> Option<(u16, u16)> {
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let (source, rest) = word(segment)?;
    let (destination, _) = word(rest)?;
    Some((source, destination))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::frames::{udp4, udp6};
    use proptest::prelude::*;

    #[test]
    fn a_datagram_is_seen_through_a_vlan_tag() {
        for vlan in [None, Some(7)] {
            let frame = udp4([2; 6], vlan, "10.0.0.1:53".parse().unwrap(), "239.1.2.3:5000".parse().unwrap());
            let headers = Headers::parse(&frame).unwrap();
            assert_eq!((headers.vlan, headers.ethertype), (vlan, IPV4));
            let ip = headers.ip.unwrap();
            assert_eq!((ip.protocol, ip.ports), (UDP, Some((53, 5000))));
            assert_eq!(ip.destination.to_string(), "239.1.2.3");
            let short = Headers::parse(&frame[..frame.len() - 8]).unwrap().ip.unwrap();
            assert_eq!(short.ports, None);
        }
        let frame = udp6([2; 6], "[fd00::1]:1".parse().unwrap(), "[fd00::2]:65535".parse().unwrap());
        assert_eq!(Headers::parse(&frame).unwrap().ip.unwrap().ports, Some((1, 65535)));
    }

    #[test]
    fn fragments_have_no_ports_and_broken_headers_are_none() {
        let whole = udp4([2; 6], None, "10.0.0.1:53".parse().unwrap(), "10.0.0.2:5000".parse().unwrap());
        for (at, value) in [(20, 0x20), (21, 1), (20, 0x1F)] {
            let mut frame = whole.clone();
            frame[at] = value;
            assert_eq!(Headers::parse(&frame).unwrap().ip.unwrap().ports, None);
        }
        for byte in [0x54, 0x44, 0x00] {
            let mut frame = whole.clone();
            frame[14] = byte;
            assert_eq!(Headers::parse(&frame).unwrap().ip, None, "{byte:#x}");
        }
        let mut options = whole.clone();
        options[14] = 0x46;
        options.splice(34..34, [0; 4]);
        assert_eq!(Headers::parse(&options).unwrap().ip.unwrap().ports, Some((53, 5000)));
        assert_eq!(Headers::parse(&whole[..13]), None);
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(frame in proptest::collection::vec(any::<u8>(), 0..100)) {
            let headers = Headers::parse(&frame);
            prop_assert_eq!(headers.is_some(), frame.len() >= 14);
            // What lies behind the bytes that filters look at changes nothing.
            if let Some(beginning) = frame.get(..HEADER_BYTES) {
                prop_assert_eq!(headers, Headers::parse(beginning));
            }
        }
    }
}
