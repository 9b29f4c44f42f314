//! The first frame of each side on a channel: what it brings, so that both come to the same agreement.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | `INET`, the mark of this protocol |
//! | 4 | 2 | version, 1 |
//! | 6 | 2 | queues |
//! | 8 | 4 | MTU |
//! | 12 | 1 | offload: 0 none, 1 checksums, 2 segmentation too |
//! | 13 | 1 | 0 |
//! | 14 | 6 | Ethernet address |
//!
//! Numbers are little-endian. A later version may be longer.

use crate::{MTU_MAX, MTU_MIN, MacAddress, Offer, Offload};

/// Length of a greeting in bytes.
pub(crate) const HELLO_BYTES: usize = 20;
const MARK: [u8; 4] = *b"INET";
const VERSION: u16 = 1;

/// Why a greeting is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHello {
    /// Another program.
    #[error(
        "what the peer sends on this channel is no greeting of a network device: is it `isthmus net`, too?"
    )]
    Stranger,
    /// Another version.
    #[error(
        "the peer speaks version {0} of the greeting, and this end version {VERSION}: run the same isthmus at both"
    )]
    Version(u16),
    /// A value that cannot be.
    #[error("the peer's greeting has an impossible {0}")]
    Value(&'static str),
}

pub(crate) fn write(offer: &Offer) -> [u8; HELLO_BYTES] {
    let [v0, v1] = VERSION.to_le_bytes();
    let [q0, q1] = offer.queues.to_le_bytes();
    let [m0, m1, m2, m3] = offer.mtu.to_le_bytes();
    let offload = match offer.offload {
        Offload::None => 0,
        Offload::Checksum => 1,
        Offload::Segmentation => 2,
    };
    let [a, b, c, d, e, f] = offer.mac.bytes();
    let [i, n, x, t] = MARK;
    [i, n, x, t, v0, v1, q0, q1, m0, m1, m2, m3, offload, 0, a, b, c, d, e, f]
}

pub(crate) fn read(frame: &[u8]) -> Result<Offer, BadHello> {
    let Some((mark, rest)) = frame.split_first_chunk::<4>() else { return Err(BadHello::Stranger) };
    let Some((version, rest)) = rest.split_first_chunk::<2>() else { return Err(BadHello::Stranger) };
    if *mark != MARK {
        return Err(BadHello::Stranger);
    }
    let version = u16::from_le_bytes(*version);
    if version != VERSION {
        return Err(BadHello::Version(version));
    }
    let [q0, q1, m0, m1, m2, m3, offload, _, a, b, c, d, e, f] =
        *<&[u8; 14]>::try_from(rest).map_err(|_| BadHello::Value("length"))?;
    let mtu = u32::from_le_bytes([m0, m1, m2, m3]);
    if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
        return Err(BadHello::Value("MTU"));
    }
    let offload = match offload {
        0 => Offload::None,
        1 => Offload::Checksum,
        2 => Offload::Segmentation,
        _ => return Err(BadHello::Value("offload")),
    };
    let mac = MacAddress::new([a, b, c, d, e, f]).map_err(|_| BadHello::Value("Ethernet address"))?;
    Ok(Offer { mac, mtu, offload, queues: u16::from_le_bytes([q0, q1]) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer() -> Offer {
        let mac = MacAddress::new([2, 0, 0x5e, 0, 0x53, 1]).unwrap();
        Offer { mac, mtu: 9000, offload: Offload::Segmentation, queues: 3 }
    }

    #[test]
    fn a_greeting_is_laid_out_as_documented() {
        let bytes = write(&offer());
        let expected = b"INET\x01\x00\x03\x00\x28\x23\x00\x00\x02\x00\x02\x00\x5e\x00\x53\x01";
        assert_eq!(&bytes, expected);
        assert_eq!(read(&bytes), Ok(offer()));
    }

    #[test]
    fn greetings_that_are_none_are_refused_with_the_reason() {
        let changed = |at: usize, value: u8| {
            let mut bytes = write(&offer());
            bytes[at] = value;
            read(&bytes)
        };
        assert_eq!(changed(0, b'X'), Err(BadHello::Stranger));
        assert_eq!(changed(4, 2), Err(BadHello::Version(2)));
        assert_eq!(changed(11, 1), Err(BadHello::Value("MTU")));
        assert_eq!(changed(9, 0), Err(BadHello::Value("MTU")), "40 bytes");
        assert_eq!(changed(12, 3), Err(BadHello::Value("offload")));
        assert_eq!(changed(14, 1), Err(BadHello::Value("Ethernet address")));
        assert_eq!(read(&write(&offer())[..19]), Err(BadHello::Value("length")));
        assert_eq!(read(b"INET"), Err(BadHello::Stranger));
        assert_eq!(read(b""), Err(BadHello::Stranger));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = read(&bytes);
        }
    }
}
