//! What each side brings, and what they come to: the first frame of each on the control channel.

use netdev::MacAddress;
use serde::{Deserialize, Serialize};
use vi::lane::Geometry;

/// The version of the messages that follow, and of the layout of the windows.
const VERSION: u32 = 1;

/// What this end brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// This host's Ethernet address.
    pub mac: MacAddress,
    /// Bytes of an IP packet at most.
    pub mtu: u32,
    /// What it can do.
    pub features: Features,
    /// The shape of every lane.
    pub geometry: Geometry,
    /// How many lanes there are in each direction.
    pub lanes: u16,
    /// Which life of the adapter this is: another number each time.
    pub generation: u64,
}

/// What an end can do; the link has what both can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Features {
    /// Frames that no filter takes go to a kernel.
    pub kernel: bool,
}

/// What both came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The peer's Ethernet address.
    pub peer_mac: MacAddress,
    /// Bytes of an IP packet at most: the lesser of both.
    pub mtu: u32,
    /// What both can do.
    pub features: Features,
    /// Which life of the peer's adapter it is.
    pub peer_generation: u64,
}

/// Why two ends come to no agreement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// Another program.
    #[error("what the peer says is no greeting of an adapter: is it `isthmus vi serve`, too?")]
    Stranger,
    /// Another version.
    #[error("the peer speaks version {0} and this end version {VERSION}: run the same isthmus at both")]
    Version(u32),
    /// Another layout.
    #[error("{what}: the peer has {theirs} and this end {ours}; start both services with the same options")]
    Layout {
        /// Which part of it.
        what: &'static str,
        /// The peer's.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
    /// A value that cannot be.
    #[error("the peer's greeting has an impossible {0}")]
    Value(&'static str),
}

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    isthmus_vi: u32,
    mac: [u8; 6],
    mtu: u32,
    features: Features,
    lanes: u16,
    slots: u32,
    buffers: u32,
    buffer_bytes: u32,
    stamps: bool,
    generation: u64,
}

impl Offer {
    pub(crate) fn greeting(&self) -> Vec<u8> {
        let Geometry { slots, buffers, buffer_bytes, stamps, .. } = self.geometry;
        let hello = Hello {
            isthmus_vi: VERSION,
            mac: self.mac.bytes(),
            mtu: self.mtu,
            features: self.features,
            lanes: self.lanes,
            slots,
            buffers,
            buffer_bytes,
            stamps,
            generation: self.generation,
        };
        serde_json::to_vec(&hello).unwrap_or_default()
    }

    pub(crate) fn with(&self, greeting: &[u8]) -> Result<Agreement, Disagreement> {
        #[derive(Deserialize)]
        struct Version {
            isthmus_vi: u32,
        }
        // A later version may say anything behind its number.
        let version: Version = serde_json::from_slice(greeting).map_err(|_| Disagreement::Stranger)?;
        if version.isthmus_vi != VERSION {
            return Err(Disagreement::Version(version.isthmus_vi));
        }
        let hello: Hello = serde_json::from_slice(greeting).map_err(|_| Disagreement::Value("form"))?;
        let (lane, ours) = (self.geometry, self.lanes);
        for (what, theirs, ours) in [
            ("lanes", u64::from(hello.lanes), u64::from(ours)),
            ("slots of a lane", hello.slots.into(), lane.slots.into()),
            ("buffers of a lane", hello.buffers.into(), lane.buffers.into()),
            ("bytes of a buffer", hello.buffer_bytes.into(), lane.buffer_bytes.into()),
            ("stamps in a lane", hello.stamps.into(), lane.stamps.into()),
        ] {
            if theirs != ours {
                return Err(Disagreement::Layout { what, theirs, ours });
            }
        }
        if !(netdev::MTU_MIN..=netdev::MTU_MAX).contains(&hello.mtu) {
            return Err(Disagreement::Value("MTU"));
        }
        let peer_mac = MacAddress::new(hello.mac).map_err(|_| Disagreement::Value("Ethernet address"))?;
        let features = Features { kernel: self.features.kernel && hello.features.kernel };
        let (mtu, peer_generation) = (self.mtu.min(hello.mtu), hello.generation);
        Ok(Agreement { peer_mac, mtu, features, peer_generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer() -> Offer {
        let mac = MacAddress::new([2, 0, 0x5e, 0, 0x53, 1]).unwrap();
        let features = Features { kernel: true };
        Offer { mac, mtu: 1500, features, geometry: Geometry::default(), lanes: 16, generation: 7 }
    }

    #[test]
    fn two_ends_agree_on_the_lesser() {
        let other = Offer { mtu: 9000, features: Features::default(), generation: 8, ..offer() };
        let agreement = offer().with(&other.greeting()).unwrap();
        assert_eq!((agreement.mtu, agreement.features.kernel, agreement.peer_generation), (1500, false, 8));
    }

    #[test]
    fn another_version_or_layout_is_refused_with_what_to_do() {
        let later = br#"{"isthmus_vi":2,"anything":[]}"#;
        assert_eq!(offer().with(later), Err(Disagreement::Version(2)));
        assert_eq!(offer().with(b"INET\x01\x00"), Err(Disagreement::Stranger));
        assert_eq!(offer().with(br#"{"isthmus_vi":1}"#), Err(Disagreement::Value("form")));
        let other = Offer { geometry: Geometry { buffers: 8, ..Geometry::default() }, ..offer() };
        let refused = offer().with(&other.greeting()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "buffers of a lane: the peer has 8 and this end 256; start both services with the same options"
        );
        let short = Offer { mtu: 10, ..offer() };
        assert_eq!(offer().with(&short.greeting()), Err(Disagreement::Value("MTU")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = offer().with(&bytes);
        }
    }
}
