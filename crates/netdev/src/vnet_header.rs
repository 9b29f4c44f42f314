//! The virtio header that stands before each frame of a TAP (`struct virtio_net_hdr_v1`, `include/uapi/linux/virtio_net.h`;
//! Virtual I/O Device 1.2, 5.1.6): what the sender's kernel left undone, for the receiver's kernel to do or to skip.
//!
//! Isthmus computes no checksum and cuts no segment: the twelve bytes travel with the frame. But a peer wrote them, so they are
//! checked against the frame and against what was agreed before a kernel sees them.

use crate::tap::ioctl::{TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6};

/// Length of the header in bytes.
pub const VNET_HEADER_BYTES: usize = 12;
/// Length of an Ethernet header in bytes (`ETH_HLEN`).
pub const ETHERNET_HEADER_BYTES: usize = 14;
/// Length of a VLAN tag, which an MTU does not count, in bytes (`VLAN_HLEN`).
pub const VLAN_TAG_BYTES: usize = 4;
/// The longest IP packet in bytes, segments of a stream included.
const PACKET_MAX: usize = 65535;

/// The checksum from `csum_start` on is still to be computed.
const NEEDS_CSUM: u8 = 1;
/// The checksum was checked.
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// A flag beside the kind: the segments carry an ECN mark.
const GSO_ECN: u8 = 0x80;

/// What two kernels leave undone between them. Each step includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Offload {
    /// Nothing: every frame is complete, and the header does not travel.
    #[default]
    None,
    /// Checksums of TCP and UDP.
    Checksum,
    /// Segmentation of TCP, and of UDP where the kernel can: one frame is up to 64 KiB of a stream, whatever the MTU.
    Segmentation,
}

impl Offload {
    /// The flags of TUNSETOFFLOAD, the best first.
    pub(crate) fn tun_flags(self) -> &'static [u32] {
        const TCP: u32 = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        match self {
            Self::None => &[0],
            Self::Checksum => &[TUN_F_CSUM],
            Self::Segmentation => &[TCP | TUN_F_USO4 | TUN_F_USO6, TCP],
        }
    }

    /// Whether the header travels with the frames.
    #[must_use]
    pub fn has_header(self) -> bool {
        self > Self::None
    }

    /// The longest frame with its Ethernet header, a VLAN tag and, where it travels, the virtio header, in bytes.
    #[must_use]
    pub fn frame_bytes_max(self, mtu: u32) -> usize {
        let packet = match self {
            Self::None | Self::Checksum => usize::try_from(mtu).unwrap_or(PACKET_MAX),
            Self::Segmentation => PACKET_MAX,
        };
        let header = if self.has_header() { VNET_HEADER_BYTES } else { 0 };
        packet.saturating_add(ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES).saturating_add(header)
    }
}

/// Why a frame is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Shorter than an Ethernet header.
    Short,
    /// Longer than what was agreed.
    Long,
    /// Its virtio header contradicts the frame or the agreement.
    Header,
}

/// The virtio header of a frame that is complete.
pub(crate) const COMPLETE: [u8; VNET_HEADER_BYTES] = [0; VNET_HEADER_BYTES];

/// Checks what came from a TAP: a virtio header and a frame.
///
/// # Errors
/// [`Unfit`] says what is wrong with it.
pub(crate) fn check_whole(with_header: &[u8], offload: Offload, mtu: u32) -> Result<(), Unfit> {
    match with_header.split_first_chunk::<VNET_HEADER_BYTES>() {
        Some((header, frame)) => check(header, frame, offload, mtu),
        None => Err(Unfit::Short),
    }
}

/// Takes apart what came over a link, with a virtio header or without as agreed, and checks it.
///
/// # Errors
/// [`Unfit`] says what is wrong with it.
pub(crate) fn take_apart(
    carried: &[u8],
    offload: Offload,
    mtu: u32,
) -> Result<(&[u8; VNET_HEADER_BYTES], &[u8]), Unfit> {
    let (header, frame) = if offload.has_header() {
        carried.split_first_chunk::<VNET_HEADER_BYTES>().ok_or(Unfit::Short)?
    } else {
        (&COMPLETE, carried)
    };
    check(header, frame, offload, mtu).map(|()| (header, frame))
}

fn check(header: &[u8; VNET_HEADER_BYTES], frame: &[u8], offload: Offload, mtu: u32) -> Result<(), Unfit> {
    if frame.len() < ETHERNET_HEADER_BYTES {
        return Err(Unfit::Short);
    }
    let [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1, _, _] = *header;
    let mtu = usize::try_from(mtu).unwrap_or(PACKET_MAX);
    let whole = gso == GSO_NONE;
    let packet = if whole { mtu } else { PACKET_MAX };
    if frame.len() > packet.saturating_add(ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES) {
        return Err(Unfit::Long);
    }
    if offload == Offload::None {
        // The header was made here, or is that of a kernel that was told to complete all.
        return if flags & NEEDS_CSUM == 0 && whole { Ok(()) } else { Err(Unfit::Header) };
    }
    let word = |low, high| usize::from(u16::from_le_bytes([low, high]));
    let (header_bytes, segment_bytes) = (word(h0, h1), word(s0, s1));
    let (checksum_start, checksum_offset) = (word(c0, c1), word(o0, o1));
    if flags & !(NEEDS_CSUM | DATA_VALID) != 0 {
        return Err(Unfit::Header);
    }
    let checksum_end = checksum_start.saturating_add(checksum_offset).saturating_add(2);
    if flags & NEEDS_CSUM != 0 && (checksum_start < ETHERNET_HEADER_BYTES || checksum_end > frame.len()) {
        return Err(Unfit::Header);
    }
    if whole {
        return Ok(());
    }
    let known = matches!(gso & !GSO_ECN, GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4);
    let fits = (1..=mtu).contains(&segment_bytes) && header_bytes <= frame.len();
    if offload == Offload::Segmentation && known && fits && flags & NEEDS_CSUM != 0 {
        Ok(())
    } else {
        Err(Unfit::Header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: [u8; 12] = [0; 12];
    /// TCP over IPv4: the checksum starts behind Ethernet and IP header, and lies 16 bytes into the TCP header.
    const CHECKSUM: [u8; 12] = [NEEDS_CSUM, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0];
    const SEGMENTS: [u8; 12] = [NEEDS_CSUM, GSO_TCPV4, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];

    fn frame(header: [u8; 12], bytes: usize) -> Vec<u8> {
        let mut frame = header.to_vec();
        frame.resize(VNET_HEADER_BYTES + bytes, 0);
        frame
    }

    #[test]
    fn complete_frames_pass_at_every_level() {
        for offload in [Offload::None, Offload::Checksum, Offload::Segmentation] {
            assert_eq!(check_whole(&frame(PLAIN, 14), offload, 1500), Ok(()));
            assert_eq!(check_whole(&frame(PLAIN, 1518), offload, 1500), Ok(()), "with a VLAN tag");
            assert_eq!(check_whole(&frame(PLAIN, 1519), offload, 1500), Err(Unfit::Long));
            assert_eq!(check_whole(&frame(PLAIN, 13), offload, 1500), Err(Unfit::Short));
            assert_eq!(check_whole(&[], offload, 1500), Err(Unfit::Short));
            assert_eq!(check_whole(&frame(PLAIN, 65535), offload, 65521), Ok(()));
        }
    }

    #[test]
    fn what_was_not_agreed_is_refused() {
        assert_eq!(check_whole(&frame(CHECKSUM, 100), Offload::None, 1500), Err(Unfit::Header));
        assert_eq!(check_whole(&frame(CHECKSUM, 100), Offload::Checksum, 1500), Ok(()));
        assert_eq!(check_whole(&frame(SEGMENTS, 40_000), Offload::Checksum, 1500), Err(Unfit::Header));
        assert_eq!(check_whole(&frame(SEGMENTS, 40_000), Offload::Segmentation, 1500), Ok(()));
        assert_eq!(check_whole(&frame(SEGMENTS, 65_554), Offload::Segmentation, 1500), Err(Unfit::Long));
    }

    #[test]
    fn a_checksum_lies_inside_its_frame() {
        let place = |start: u16, offset: u16| {
            let mut header = CHECKSUM;
            header[6..8].copy_from_slice(&start.to_le_bytes());
            header[8..10].copy_from_slice(&offset.to_le_bytes());
            check_whole(&frame(header, 100), Offload::Checksum, 1500)
        };
        assert_eq!(place(34, 64), Ok(()));
        for (start, offset) in [(34, 65), (99, 0), (u16::MAX, u16::MAX), (0, 16), (13, 16)] {
            assert_eq!(place(start, offset), Err(Unfit::Header), "{start} + {offset}");
        }
    }

    #[test]
    fn segments_have_a_known_kind_and_a_length() {
        let with = |at: usize, value: u8| {
            let mut header = SEGMENTS;
            header[at] = value;
            check_whole(&frame(header, 40_000), Offload::Segmentation, 1500)
        };
        assert_eq!(with(1, GSO_TCPV6 | GSO_ECN), Ok(()));
        assert_eq!(with(1, GSO_UDP_L4), Ok(()));
        assert_eq!(with(1, 3), Err(Unfit::Header), "UDP fragments, which Linux gave up");
        assert_eq!(with(1, GSO_ECN), Err(Unfit::Header));
        assert_eq!(with(5, 6), Err(Unfit::Header), "segments above the MTU");
        assert_eq!(with(0, 0), Err(Unfit::Header), "segments with complete checksums");
        assert_eq!(with(0, 0x80), Err(Unfit::Header), "an unknown flag");
        let mut none = SEGMENTS;
        none[4..6].fill(0);
        assert_eq!(check_whole(&frame(none, 40_000), Offload::Segmentation, 1500), Err(Unfit::Header));
    }

    #[test]
    fn the_longest_frame_is_what_the_check_lets_pass() {
        for (offload, mtu) in [(Offload::None, 1500), (Offload::Checksum, 9000), (Offload::None, 65521)] {
            let longest =
                offload.frame_bytes_max(mtu) - if offload.has_header() { VNET_HEADER_BYTES } else { 0 };
            assert_eq!(check_whole(&frame(PLAIN, longest), offload, mtu), Ok(()));
            assert_eq!(check_whole(&frame(PLAIN, longest + 1), offload, mtu), Err(Unfit::Long));
        }
        let longest = Offload::Segmentation.frame_bytes_max(1500) - VNET_HEADER_BYTES;
        assert_eq!(check_whole(&frame(SEGMENTS, longest), Offload::Segmentation, 1500), Ok(()));
        assert_eq!(check_whole(&frame(SEGMENTS, longest + 1), Offload::Segmentation, 1500), Err(Unfit::Long));
    }

    #[test]
    fn the_header_travels_only_where_that_is_agreed() {
        assert_eq!(take_apart(&[7; 60], Offload::None, 1500), Ok((&COMPLETE, &[7; 60][..])));
        let carried = frame(CHECKSUM, 60);
        assert_eq!(take_apart(&carried, Offload::Checksum, 1500), Ok((&CHECKSUM, &[0; 60][..])));
        assert_eq!(take_apart(&carried[..11], Offload::Checksum, 1500), Err(Unfit::Short));
        assert_eq!(take_apart(&[], Offload::None, 1500), Err(Unfit::Short));
    }

    proptest! {
        /// Whatever passes, a kernel can follow inside the frame.
        #[test]
        fn what_passes_points_nowhere_outside(header: [u8; 12], bytes in 0_usize..2000, level in 0_u8..3, mtu in 68_u32..3000) {
            let offload = [Offload::None, Offload::Checksum, Offload::Segmentation][usize::from(level)];
            if check_whole(&frame(header, bytes), offload, mtu).is_ok() {
                prop_assert!(bytes >= ETHERNET_HEADER_BYTES);
                if header[0] & NEEDS_CSUM != 0 {
                    let start = usize::from(u16::from_le_bytes([header[6], header[7]]));
                    let offset = usize::from(u16::from_le_bytes([header[8], header[9]]));
                    prop_assert!(start + offset + 2 <= bytes);
                }
                prop_assert!(header[1] == 0 || offload == Offload::Segmentation);
            }
        }
    }
}
