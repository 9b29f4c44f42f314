//! UDP frames over IPv4, with the checksums that a NIC would fill in: what the tools send, and programs that have no stack.

use crate::filter::Mac;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Bytes before the payload of a frame without a VLAN tag.
pub const UDP_HEADER_BYTES: usize = 14 + 20 + 8;
/// Bytes of a VLAN tag.
const TAG_BYTES: usize = 4;
/// The shortest frame on a wire, without its check sequence.
const SHORTEST_BYTES: usize = 60;
/// Protocol number of UDP.
const UDP: u8 = 17;

/// The ones' complement sum of the Internet's checksums (RFC 1071), over several parts; each but the last has an even length.
#[must_use]
pub fn ones_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        let (words, rest) = part.as_chunks::<2>();
        sum += words.iter().map(|&word| u64::from(u16::from_be_bytes(word))).sum::<u64>();
        sum += rest.first().map_or(0, |&byte| u64::from(byte) << 8);
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The checksum of an IPv4 header whose own checksum field is zero (`ef_ip_checksum`).
#[must_use]
pub fn ip4_checksum(header: &[u8]) -> u16 {
    !ones_sum(&[header])
}

/// The checksum of UDP over IPv4 (`ef_udp_checksum`): `header` has zero in its checksum field.
#[must_use]
pub fn udp4_checksum(source: Ipv4Addr, destination: Ipv4Addr, header: [u8; 8], payload: &[u8]) -> u16 {
    let [.., high, low, _, _] = header;
    let mut pseudo = [0; 12];
    let fields = source.octets().into_iter().chain(destination.octets()).chain([0, UDP, high, low]);
    pseudo.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    match !ones_sum(&[&pseudo, &header, payload]) {
        // Zero says that there is none.
        0 => 0xFFFF,
        sum => sum,
    }
}

/// The group address of an IPv4 group (RFC 1112), for a destination that is one.
#[must_use]
pub fn group_mac(address: Ipv4Addr) -> Option<Mac> {
    let [_, b, c, d] = address.octets();
    address.is_multicast().then_some([0x01, 0x00, 0x5E, b & 0x7F, c, d])
}

/// From whom to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpFlow {
    /// The sender's Ethernet address.
    pub source_mac: Mac,
    /// The receiver's.
    pub destination_mac: Mac,
    /// The VLAN tag, if there is one.
    pub vlan: Option<u16>,
    /// The sender's address and port.
    pub source: SocketAddrV4,
    /// The receiver's.
    pub destination: SocketAddrV4,
}

impl UdpFlow {
    /// Where the payload begins in a frame of this flow, in bytes.
    #[must_use]
    pub fn payload_at(&self) -> usize {
        UDP_HEADER_BYTES + self.vlan.map_or(0, |_| TAG_BYTES)
    }

    /// Writes a frame with this payload into `frame`, whatever was there; short ones are padded to 60 bytes. A payload of more
    /// than 65507 bytes is cut.
    pub fn write(&self, payload: &[u8], frame: &mut Vec<u8>) {
        let payload = payload.get(..65_507).unwrap_or(payload);
        let bytes = |more: usize| u16::try_from(payload.len() + more).unwrap_or(u16::MAX).to_be_bytes();
        let (source, destination) = (*self.source.ip(), *self.destination.ip());
        frame.clear();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        if let Some(vlan) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend((vlan & 0xFFF).to_be_bytes());
        }
        frame.extend([0x08, 0x00]);
        let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, UDP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        put(&mut ip, 2, bytes(28));
        put(&mut ip, 12, source.octets());
        put(&mut ip, 16, destination.octets());
        let sum = ip4_checksum(&ip);
        put(&mut ip, 10, sum.to_be_bytes());
        frame.extend(ip);
        let mut udp = [0; 8];
        put(&mut udp, 0, self.source.port().to_be_bytes());
        put(&mut udp, 2, self.destination.port().to_be_bytes());
        put(&mut udp, 4, bytes(8));
        let sum = udp4_checksum(source, destination, udp, payload);
        put(&mut udp, 6, sum.to_be_bytes());
        frame.extend(udp);
        frame.extend(payload);
        if frame.len() < SHORTEST_BYTES {
            frame.resize(SHORTEST_BYTES, 0);
        }
    }
}

fn put<const N: usize>(to: &mut [u8], at: usize, bytes: [u8; N]) {
    to.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = from);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Headers;
    use proptest::prelude::*;

    #[test]
    fn the_sum_of_rfc_1071_comes_out() {
        assert_eq!(ones_sum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), 0xddf2);
        assert_eq!(ones_sum(&[&[0xFF]]), 0xFF00);
        assert_eq!(group_mac("239.129.2.3".parse().unwrap()), Some([1, 0, 0x5E, 1, 2, 3]));
        assert_eq!(group_mac("10.0.0.1".parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn frames_are_what_they_say_and_their_sums_are_right(payload in proptest::collection::vec(any::<u8>(), 0..1472),
            vlan in proptest::option::of(0..4096_u16), source: u32, destination: u32, ports: (u16, u16)) {
            let flow = UdpFlow {
                source_mac: [2; 6],
                destination_mac: [4; 6],
                vlan,
                source: SocketAddrV4::new(source.into(), ports.0),
                destination: SocketAddrV4::new(destination.into(), ports.1),
            };
            let mut frame = Vec::new();
            flow.write(&payload, &mut frame);
            let headers = Headers::parse(&frame).unwrap();
            let ip = headers.ip.unwrap();
            prop_assert_eq!((headers.vlan, ip.ports), (vlan, Some(ports)));
            let at = flow.payload_at();
            prop_assert_eq!(&frame[at..at + payload.len()], &payload[..]);
            // Sums over what has its checksum in it are all ones.
            prop_assert_eq!(ones_sum(&[&frame[at - 28..at - 8]]), 0xFFFF);
            let length = frame[at - 4..at - 2].to_vec();
            let pseudo = [&frame[at - 16..at - 8], &[0, UDP], &length].concat();
            prop_assert_eq!(ones_sum(&[&pseudo, &frame[at - 8..at + payload.len()]]), 0xFFFF);
        }
    }
}
