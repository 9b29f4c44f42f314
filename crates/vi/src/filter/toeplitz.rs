//! The Toeplitz hash that spreads flows over the members of a set.
//!
//! Source: Microsoft, "RSS hashing functions" and "Verifying the RSS hash calculation".

use super::Headers;
use std::net::IpAddr;

/// The key that the document's examples use.
pub const DEFAULT_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// The hash of `input` (at most 36 bytes; what is more does not count).
#[must_use]
pub fn toeplitz(key: &[u8; 40], input: &[u8]) -> u32 {
    let mut bits = key.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let mut window = bits.by_ref().take(32).fold(0_u32, |window, bit| window << 1 | u32::from(bit));
    let mut hash = 0;
    for byte in input {
        for bit in (0..8).rev() {
            if byte >> bit & 1 != 0 {
                hash ^= window;
            }
            let Some(next) = bits.next() else { return hash };
            window = window << 1 | u32::from(next);
        }
    }
    hash
}

/// The hash of a flow: addresses, and ports where the frame has them. 0 for a frame without an IP header.
#[must_use]
pub fn flow_hash(key: &[u8; 40], headers: &Headers) -> u32 {
    let Some(ip) = headers.ip else { return 0 };
    let mut input = [0_u8; 36];
    let addresses = match (ip.source, ip.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            copy(&mut input, 0, &source.octets());
            copy(&mut input, 4, &destination.octets());
            8
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            copy(&mut input, 0, &source.octets());
            copy(&mut input, 16, &destination.octets());
            32
        }
        _ => return 0,
    };
    let mut len = addresses;
    if let Some((source, destination)) = ip.ports {
        copy(&mut input, len, &source.to_be_bytes());
        copy(&mut input, len + 2, &destination.to_be_bytes());
        len += 4;
    }
    toeplitz(key, input.get(..len).unwrap_or_default())
}

fn copy(to: &mut [u8], at: usize, from: &[u8]) {
    to.iter_mut().skip(at).zip(from).for_each(|(to, &from)| *to = from);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::frames::{udp4, udp6};

    #[test]
    fn the_examples_of_the_document_come_out() {
        for (to, from, with_ports, without) in [
            ("161.142.100.80:1766", "66.9.149.187:2794", 0x51cc_c178, 0x323e_8fc2),
            ("65.69.140.83:4739", "199.92.111.2:14230", 0xc626_b0ea, 0xd718_262a_u32),
        ] {
            let frame = udp4([2; 6], None, from.parse().unwrap(), to.parse().unwrap());
            let mut headers = Headers::parse(&frame).unwrap();
            assert_eq!(flow_hash(&DEFAULT_KEY, &headers), with_ports);
            headers.ip.as_mut().unwrap().ports = None;
            assert_eq!(flow_hash(&DEFAULT_KEY, &headers), without);
        }
        let from = "[3ffe:2501:200:1fff::7]:2794".parse().unwrap();
        let to = "[3ffe:2501:200:3::1]:1766".parse().unwrap();
        let headers = Headers::parse(&udp6([2; 6], from, to)).unwrap();
        assert_eq!(flow_hash(&DEFAULT_KEY, &headers), 0x4020_7d3d);
    }
}
