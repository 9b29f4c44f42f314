//! UDP frames over IPv4, with the checksums that a NIC would fill in: what the tools send, and programs that have no stack.

use crate::checksum;
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
        let sum = checksum::ipv4_header(&ip);
        put(&mut ip, 10, sum.to_be_bytes());
        frame.extend(ip);
        let mut udp = [0; 8];
        put(&mut udp, 0, self.source.port().to_be_bytes());
        put(&mut udp, 2, self.destination.port().to_be_bytes());
        put(&mut udp, 4, bytes(8));
        let at = frame.len();
        frame.extend(udp);
        frame.extend(payload);
        let datagram = frame.get_mut(at..).unwrap_or_default();
        let sum = checksum::udp(source.into(), destination.into(), datagram);
        put(datagram, 6, sum.to_be_bytes());
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
    fn a_group_has_an_ethernet_address() {
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
            prop_assert_eq!(checksum::Discards::ALL.judge(&frame), None);
            prop_assert!(frame[at - 2..at] != [0, 0], "there is a checksum");
        }
    }
}
