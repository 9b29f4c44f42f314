//! The checksums of IP, UDP, TCP and ICMPv6 (`ef_ip_checksum`, `ef_udp_checksum`, .. of ef_vi), and the frames that a
//! receiver may want to be without (`ef_vi_receive_set_discards`).
//!
//! A lane carries what its sender gave it: nobody fills in a checksum, and nobody checks one, unless these are called.

use crate::filter::Headers;
use std::net::IpAddr;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// A sum of 16-bit words, kept wide: 2^16 bytes of 0xFF cannot overflow it.
#[derive(Debug, Clone, Copy, Default)]
struct Sum(u64);

impl Sum {
    fn add(mut self, bytes: &[u8]) -> Self {
        // Two words at a time: modulo 2^16 - 1, which is what the sum is folded to, it is the same.
        let mut chunks = bytes.chunks_exact(4);
        for chunk in &mut chunks {
            self.0 += u64::from(u32::from_be_bytes(chunk.try_into().unwrap_or_default()));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(chunks.remainder()) {
            *to = *from;
        }
        self.0 += u64::from(u32::from_be_bytes(last));
        self
    }

    /// Its complement, folded to 16 bits.
    fn complement(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        !crate::bits::low16(sum)
    }
}

/// The checksum of an IPv4 header, whatever stands in its checksum field (bytes 10 and 11): `ef_ip_checksum`.
#[must_use]
pub fn ipv4_header(header: &[u8]) -> u16 {
    let (before, after) = header.split_at_checked(10).unwrap_or((header, &[]));
    Sum::default().add(before).add(&[0, 0]).add(after.get(2..).unwrap_or_default()).complement()
}

/// The checksum of a UDP datagram from its header on, whatever stands in its checksum field: `ef_udp_checksum`,
/// `ef_udp_checksum_ip6`. Never 0, which means that there is none.
///
/// Addresses of two families have no checksum: 0.
#[must_use]
pub fn udp(source: IpAddr, destination: IpAddr, datagram: &[u8]) -> u16 {
    match transport(source, destination, UDP, datagram, 6) {
        Some(0) => 0xFFFF,
        sum => sum.unwrap_or(0),
    }
}

/// The checksum of a TCP segment from its header on, whatever stands in its checksum field: `ef_tcp_checksum`,
/// `ef_tcp_checksum_ip6`. Addresses of two families have none: 0.
#[must_use]
pub fn tcp(source: IpAddr, destination: IpAddr, segment: &[u8]) -> u16 {
    transport(source, destination, TCP, segment, 16).unwrap_or(0)
}

/// The checksum of an ICMPv6 message from its header on, whatever stands in its checksum field: `ef_icmpv6_checksum`.
#[must_use]
pub fn icmpv6(source: std::net::Ipv6Addr, destination: std::net::Ipv6Addr, message: &[u8]) -> u16 {
    transport(source.into(), destination.into(), ICMPV6, message, 2).unwrap_or(0)
}

/// The checksum of `bytes` with its pseudo-header, with 0 in the field at `field`.
fn transport(source: IpAddr, destination: IpAddr, protocol: u8, bytes: &[u8], field: usize) -> Option<u16> {
    let sum = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Sum::default().add(&source.octets()).add(&destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Sum::default().add(&source.octets()).add(&destination.octets())
        }
        _ => return None,
    };
    // Length and protocol: in words of their own in IPv6, and the same sum in IPv4.
    let length = u32::try_from(bytes.len()).ok()?;
    let sum = sum.add(&length.to_be_bytes()).add(&[0, 0, 0, protocol]);
    // The field lies at an even place, so the sum of what follows it is the same as if it were summed in one go.
    let (before, after) = bytes.split_at_checked(field).unwrap_or((bytes, &[]));
    Some(sum.add(before).add(after.get(2..).unwrap_or_default()).complement())
}

/// Why a frame would be discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiscardReason {
    /// The headers say that there is more than there is, or less than a header.
    Length,
    /// The IPv4 header's checksum is wrong.
    NetworkChecksum,
    /// The checksum of UDP, TCP or ICMPv6 is wrong.
    TransportChecksum,
}

/// Which frames a receiver does not want: `ef_vi_receive_set_discards`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Discards {
    /// Frames whose lengths are wrong.
    pub length: bool,
    /// Frames with a wrong checksum of IPv4.
    pub network_checksum: bool,
    /// Frames with a wrong checksum of UDP, TCP or ICMPv6. Fragments have none of their own and pass.
    pub transport_checksum: bool,
}

impl Discards {
    /// All of them.
    pub const ALL: Self = Self { length: true, network_checksum: true, transport_checksum: true };

    /// Why a frame is to be discarded; none if it is wanted. The frame is a private copy: what a sender may change after the
    /// look is not worth looking at.
    ///
    /// What is not IP passes, and so does a protocol without a checksum that is known here.
    #[must_use]
    pub fn judge(&self, frame: &[u8]) -> Option<DiscardReason> {
        let network = network(frame)?;
        let wrong = |reason, wanted: bool| wanted.then_some(reason);
        let Ok(network) = network else { return wrong(DiscardReason::Length, self.length) };
        if network.header_sum_wrong && self.network_checksum {
            return Some(DiscardReason::NetworkChecksum);
        }
        let Some((protocol, payload)) = network.whole else { return None };
        let (least, field) = match protocol {
            UDP => (8, 6),
            TCP => (20, 16),
            ICMPV6 if network.source.is_ipv6() => (4, 2),
            _ => return None,
        };
        if payload.len() < least {
            return wrong(DiscardReason::Length, self.length);
        }
        let payload = if protocol == UDP {
            // A datagram has a length of its own, and what follows it is no part of it.
            match payload.get(..usize::from(word(payload, 4))).filter(|datagram| datagram.len() >= least) {
                Some(datagram) => datagram,
                None => return wrong(DiscardReason::Length, self.length),
            }
        } else {
            payload
        };
        let said = word(payload, field);
        if protocol == UDP && said == 0 && network.source.is_ipv4() {
            return None;
        }
        let sum = match protocol {
            UDP => Some(udp(network.source, network.destination, payload)),
            _ => transport(network.source, network.destination, protocol, payload, field),
        };
        // 0 and 0xFFFF are the same number in this arithmetic.
        let same = sum.is_some_and(|sum| sum == said || (sum == 0 && said == 0xFFFF && protocol != UDP));
        if same { None } else { wrong(DiscardReason::TransportChecksum, self.transport_checksum) }
    }
}

/// The IP packet in a frame.
struct Network<'frame> {
    source: IpAddr,
    destination: IpAddr,
    header_sum_wrong: bool,
    /// Protocol and payload; none of a fragment, and behind extension headers, which are not walked.
    whole: Option<(u8, &'frame [u8])>,
}

/// None: not IP. An error: lengths that cannot be.
fn network(frame: &[u8]) -> Option<Result<Network<'_>, ()>> {
    let headers = Headers::parse(frame)?;
    let begin = if headers.vlan.is_some() { 18 } else { 14 };
    let packet = frame.get(begin..)?;
    match headers.ethertype {
        0x0800 => Some(ipv4(packet).ok_or(())),
        0x86DD => Some(ipv6(packet).ok_or(())),
        _ => None,
    }
}

fn ipv4(packet: &[u8]) -> Option<Network<'_>> {
    let fixed: &[u8; 20] = packet.first_chunk()?;
    let [first, ..] = fixed;
    let header_bytes = usize::from(first & 15) * 4;
    let total = usize::from(word(fixed, 2));
    if first >> 4 != 4 || header_bytes < 20 || total < header_bytes {
        return None;
    }
    // A frame may be longer than its packet: Ethernet pads to 60 bytes.
    let packet = packet.get(..total)?;
    let (header, payload) = packet.split_at_checked(header_bytes)?;
    // More fragments, or not the first.
    let fragment = word(fixed, 6) & 0x3FFF != 0;
    let address = |at: usize| -> Option<[u8; 4]> { fixed.get(at..at + 4)?.try_into().ok() };
    let protocol = fixed.get(9).copied()?;
    Some(Network {
        source: address(12)?.into(),
        destination: address(16)?.into(),
        header_sum_wrong: ipv4_header(header) != word(fixed, 10),
        whole: (!fragment).then_some((protocol, payload)),
    })
}

fn ipv6(packet: &[u8]) -> Option<Network<'_>> {
    let (fixed, rest) = packet.split_first_chunk::<40>()?;
    let [first, ..] = fixed;
    if first >> 4 != 6 {
        return None;
    }
    let payload = rest.get(..usize::from(word(fixed, 4)))?;
    let address = |at: usize| -> Option<[u8; 16]> { fixed.get(at..at + 16)?.try_into().ok() };
    let protocol = fixed.get(6).copied()?;
    Some(Network {
        source: address(8)?.into(),
        destination: address(24)?.into(),
        header_sum_wrong: false,
        whole: Some((protocol, payload)),
    })
}

/// A big-endian word, 0 where there is none.
fn word(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|word| word.try_into().ok()).map_or(0, u16::from_be_bytes)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use etherparse::{Icmpv6Type, PacketBuilder};
    use proptest::prelude::*;

    /// The right answers are etherparse's.
    fn frame(kind: u8, six: bool, vlan: bool, payload: &[u8], seed: u8) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let (a4, b4) = ([10, seed, 0, 1], [192, 168, seed, 9]);
        let (a6, b6) = ([seed; 16], [!seed; 16]);
        let mut out = Vec::new();
        macro_rules! with_ip {
            ($step:expr) => {{
                let ip = if six { $step.ipv6(a6, b6, 64) } else { $step.ipv4(a4, b4, 64) };
                match kind {
                    0 => ip.udp(1000, 2000).write(&mut out, payload).unwrap(),
                    1 => ip.tcp(1000, 2000, u32::from(seed), 500).write(&mut out, payload).unwrap(),
                    _ if six => {
                        let kind = Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 2 });
                        ip.icmpv6(kind).write(&mut out, payload).unwrap();
                    }
                    _ => ip.udp(1, 2).write(&mut out, payload).unwrap(),
                }
            }};
        }
        if vlan {
            with_ip!(ethernet.single_vlan(etherparse::VlanId::try_new(7).unwrap()))
        } else {
            with_ip!(ethernet)
        }
        out
    }

    proptest! {
        #[test]
        fn what_etherparse_writes_is_right_and_one_flipped_bit_is_wrong(
            kind in 0_u8..3, six: bool, vlan: bool, seed: u8,
            payload in prop::collection::vec(any::<u8>(), 0..120),
            flip in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let mut bytes = frame(kind, six, vlan, &payload, seed);
            prop_assert_eq!(Discards::ALL.judge(&bytes), None);
            let ip = if vlan { 18 } else { 14 };
            if !six {
                let header = &bytes[ip..ip + 20];
                prop_assert_eq!(ipv4_header(header), word(header, 10));
            }
            // Ethernet pads: what follows the packet is nobody's.
            bytes.extend([0xAA; 7]);
            prop_assert_eq!(Discards::ALL.judge(&bytes), None);
            bytes.truncate(bytes.len() - 7);
            let at = ip + (if six { 40 } else { 20 }) + flip.index(bytes.len() - ip - if six { 40 } else { 20 });
            bytes[at] ^= 1 << bit;
            // A checksum that became 0 says that there is none.
            let none = !six && kind != 1 && word(&bytes, ip + 26) == 0;
            prop_assert!(none || Discards::ALL.judge(&bytes).is_some());
            prop_assert_eq!(Discards::default().judge(&bytes), None);
        }

        #[test]
        fn no_frame_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200), ip in 0_usize..3) {
            let mut bytes = bytes;
            if let Some(kind) = bytes.get_mut(12..15) {
                kind.copy_from_slice([&[8, 0, 0x45], &[0x86, 0xDD, 0x60], &[0x81, 0, 0]][ip]);
            }
            let _ = Discards::ALL.judge(&bytes);
            let _ = (ipv4_header(&bytes), udp([1; 4].into(), [2; 16].into(), &bytes));
        }
    }

    #[test]
    fn the_sum_of_rfc_1071_comes_out() {
        let sum = Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(!sum.complement(), 0xddf2);
        assert_eq!(!Sum::default().add(&[0xFF]).complement(), 0xFF00);
    }

    #[test]
    fn each_kind_of_wrong_has_its_reason_and_its_switch() {
        let good = frame(0, false, false, b"payload", 3);
        let broken = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        for (bytes, reason, off) in [
            (
                broken(22, 1),
                DiscardReason::NetworkChecksum,
                Discards { network_checksum: false, ..Discards::ALL },
            ),
            (
                broken(44, 1),
                DiscardReason::TransportChecksum,
                Discards { transport_checksum: false, ..Discards::ALL },
            ),
            (broken(17, 255), DiscardReason::Length, Discards { length: false, ..Discards::ALL }),
            (good[..30].to_vec(), DiscardReason::Length, Discards { length: false, ..Discards::ALL }),
        ] {
            assert_eq!(Discards::ALL.judge(&bytes), Some(reason));
            assert_eq!(off.judge(&bytes), None);
        }
    }
}
