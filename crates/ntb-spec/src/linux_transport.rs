//! What two Linux `ntb_transport` drivers say to each other: scratchpad words, memory layout, frame header.
//!
//! ```text
//!  scratchpads (mine, written by the peer)      a queue pair's part of the peer's memory, as I write it
//!   0 VERSION     4                              slot 0   payload ...             | header
//!   1 QP_LINKS    bit q: queue pair q is ready   slot 1   payload ...             | header
//!   2 NUM_QPS                                     ...
//!   3 NUM_MWS                                    rx_info  the last slot that I have emptied *at my own side*
//!   4 MW0_SZ_HIGH, 5 MW0_SZ_LOW, 6, 7: window 1
//! ```
//!
//! Read from Linux `drivers/ntb/ntb_transport.c` of 6.1 and 6.12, which agree in all of it. Everything is little
//! endian in memory; scratchpads are 32-bit registers.

/// The one version that the driver speaks (`NTB_TRANSPORT_VERSION`).
pub const VERSION: u32 = 4;

/// Scratchpad: the sender's version; written last, so that it vouches for the others.
pub const SCRATCHPAD_VERSION: usize = 0;
/// Scratchpad: one bit a queue pair whose client is ready.
pub const SCRATCHPAD_QP_LINKS: usize = 1;
/// Scratchpad: how many queue pairs the sender has.
pub const SCRATCHPAD_NUM_QPS: usize = 2;
/// Scratchpad: how many memory windows the sender uses.
pub const SCRATCHPAD_NUM_MWS: usize = 3;
/// Scratchpad: upper half of the size of the sender's window 0.
pub const SCRATCHPAD_MW0_SIZE_HIGH: usize = 4;

/// Scratchpads of the upper and of the lower half of a window's size in bytes (`MW0_SZ_HIGH + i * 2`).
#[must_use]
pub const fn window_size_scratchpads(window: usize) -> (usize, usize) {
    let high = SCRATCHPAD_MW0_SIZE_HIGH + window * 2;
    (high, high + 1)
}

/// What a scratchpad holds, for people; windows by their number.
#[must_use]
pub const fn scratchpad_name(index: usize) -> &'static str {
    match index {
        SCRATCHPAD_VERSION => "VERSION",
        SCRATCHPAD_QP_LINKS => "QP_LINKS",
        SCRATCHPAD_NUM_QPS => "NUM_QPS",
        SCRATCHPAD_NUM_MWS => "NUM_MWS",
        4 => "MW0_SZ_HIGH",
        5 => "MW0_SZ_LOW",
        6 => "MW1_SZ_HIGH",
        7 => "MW1_SZ_LOW",
        _ => "(not of ntb_transport)",
    }
}

/// The most bytes of a slot, header included, unless the module's parameter says otherwise (`transport_mtu`).
pub const TRANSPORT_MTU: u32 = 0x1_0000;
/// How long the driver waits before it looks again, in milliseconds (`NTB_LINK_DOWN_TIMEOUT`).
pub const RETRY_MS: u64 = 10;
/// Bytes of `struct ntb_rx_info`, at the end of each queue pair's memory.
pub const RX_INFO_BYTES: usize = 4;
/// Bytes of `struct ntb_payload_header`, at the end of each slot.
pub const HEADER_BYTES: usize = 12;
/// Where the flags lie in it: they are written last.
pub const HEADER_FLAGS_AT: usize = 8;

/// `struct ntb_payload_header`: what stands at the end of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PayloadHeader {
    /// The sender's count of frames since the queue pair came up; the receiver expects its own.
    pub version: u32,
    /// Bytes of payload, from the slot's start.
    pub payload_bytes: u32,
    /// [`DESC_DONE`](Self::DESC_DONE), [`LINK_DOWN`](Self::LINK_DOWN).
    pub flags: u32,
}

impl PayloadHeader {
    /// The slot is the receiver's (`DESC_DONE_FLAG`).
    pub const DESC_DONE: u32 = 1 << 0;
    /// Not a frame: the sender's client has closed its queue pair (`LINK_DOWN_FLAG`).
    pub const LINK_DOWN: u32 = 1 << 1;

    /// As it lies in memory.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.version.to_le_bytes();
        let [e, f, g, h] = self.payload_bytes.to_le_bytes();
        let [i, j, k, l] = self.flags.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// From memory.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; HEADER_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Self {
            version: u32::from_le_bytes([a, b, c, d]),
            payload_bytes: u32::from_le_bytes([e, f, g, h]),
            flags: u32::from_le_bytes([i, j, k, l]),
        }
    }

    /// Whether the slot is the receiver's.
    #[must_use]
    pub const fn is_done(self) -> bool {
        self.flags & Self::DESC_DONE != 0
    }

    /// Whether it says that the peer's client has closed.
    #[must_use]
    pub const fn is_link_down(self) -> bool {
        self.flags & Self::LINK_DOWN != 0
    }
}

/// Queue pairs that share a window, and where in it one of them lies: the split that Linux makes by
/// `QP_TO_MW` (pair q uses window q % windows).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The window.
    pub window: usize,
    /// How many queue pairs lie in it.
    pub pairs: usize,
    /// Which of them this one is, from the window's start.
    pub position: usize,
}

impl Share {
    /// The share of pair `queue` of `queues` in `windows` windows; none where there is no such pair or window.
    #[must_use]
    pub const fn of(queue: usize, queues: usize, windows: usize) -> Option<Self> {
        if windows == 0 || queue >= queues {
            return None;
        }
        let window = queue % windows;
        let extra = if window < queues % windows { 1 } else { 0 };
        Some(Self { window, pairs: queues / windows + extra, position: queue / windows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_lies_in_memory_as_linux_declares_it() {
        let header = PayloadHeader { version: 0x0403_0201, payload_bytes: 0x0807_0605, flags: 0x0C0B_0A09 };
        assert_eq!(header.to_bytes(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(PayloadHeader::from_bytes(header.to_bytes()), header);
        assert!(header.is_done() && !header.is_link_down());
    }

    #[test]
    fn sizes_of_windows_follow_each_other() {
        assert_eq!(window_size_scratchpads(0), (4, 5));
        assert_eq!(window_size_scratchpads(1), (6, 7));
        assert_eq!(scratchpad_name(window_size_scratchpads(1).1), "MW1_SZ_LOW");
    }

    #[test]
    fn pairs_are_dealt_to_windows_in_turn() {
        // Two windows and three pairs: pair 2 shares window 0 with pair 0.
        let share = |queue| Share::of(queue, 3, 2).unwrap();
        assert_eq!(share(0), Share { window: 0, pairs: 2, position: 0 });
        assert_eq!(share(1), Share { window: 1, pairs: 1, position: 0 });
        assert_eq!(share(2), Share { window: 0, pairs: 2, position: 1 });
        assert_eq!(Share::of(3, 3, 2), None);
        assert_eq!(Share::of(0, 1, 0), None);
    }
}
