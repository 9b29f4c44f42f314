//! How a queue pair's part of a window is cut into slots: the arithmetic of Linux `ntb_transport_init_queue`
//! (outbound) and `ntb_transport_setup_qp_mw` (inbound), which is the same.

use ntb_spec::linux_transport::{HEADER_BYTES, HEADER_FLAGS_AT, RX_INFO_BYTES, Share};

/// Why a window cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLayout {
    /// No room for two slots that hold a byte each.
    #[error("a window of {window_bytes:#x} bytes is too small for {pairs} queue pairs")]
    TooSmall {
        /// Size of the window.
        window_bytes: u64,
        /// Queue pairs that share it.
        pairs: usize,
    },
    /// Linux keeps sizes in 32 bits here.
    #[error("a window of {window_bytes:#x} bytes is larger than ntb_transport can count")]
    TooLarge {
        /// Size of the window.
        window_bytes: u64,
    },
}

/// One queue pair's part of a window. Offsets are bytes from the window's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    window: usize,
    start: u64,
    max_frame: u32,
    entries: u32,
    rx_info: u64,
}

impl Layout {
    /// Cuts a window of `window_bytes` bytes, of which the pair has `share`, into slots of at most `transport_mtu`.
    ///
    /// # Errors
    /// [`BadLayout`] where Linux would divide by zero or count wrongly.
    pub fn new(window_bytes: u64, share: Share, transport_mtu: u32) -> Result<Self, BadLayout> {
        let too_small = BadLayout::TooSmall { window_bytes, pairs: share.pairs };
        let whole = u32::try_from(window_bytes).map_err(|_| BadLayout::TooLarge { window_bytes })?;
        let pairs = u32::try_from(share.pairs).map_err(|_| too_small)?;
        let position = u32::try_from(share.position).map_err(|_| too_small)?;
        let part = whole.checked_div(pairs).ok_or(too_small)?;
        let info = u32::try_from(RX_INFO_BYTES).map_err(|_| too_small)?;
        let slots = part.checked_sub(info).ok_or(too_small)?;
        // "Due to housekeeping, there must be at least 2 buffs".
        let max_frame = transport_mtu.min(slots / 2);
        let header = u32::try_from(HEADER_BYTES).map_err(|_| too_small)?;
        if max_frame <= header {
            return Err(too_small);
        }
        let entries = slots.checked_div(max_frame).ok_or(too_small)?;
        let start = u64::from(part).saturating_mul(u64::from(position));
        let rx_info = start.saturating_add(u64::from(slots));
        Ok(Self { window: share.window, start, max_frame, entries, rx_info })
    }

    /// The window that it lies in.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }

    /// Slots; at least 2.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Bytes of a slot, header included (`tx_max_frame`, `rx_max_frame`).
    #[must_use]
    pub fn max_frame(&self) -> u32 {
        self.max_frame
    }

    /// The most bytes of payload (`ntb_transport_max_size`).
    #[must_use]
    pub fn max_payload_bytes(&self) -> usize {
        usize::try_from(self.max_frame).unwrap_or(usize::MAX).saturating_sub(HEADER_BYTES)
    }

    /// Where a slot starts.
    #[must_use]
    pub fn slot_at(&self, slot: u32) -> u64 {
        self.start.saturating_add(u64::from(slot).saturating_mul(u64::from(self.max_frame)))
    }

    /// Where a slot's header lies: at its end.
    #[must_use]
    pub fn header_at(&self, slot: u32) -> u64 {
        let end = self.slot_at(slot).saturating_add(u64::from(self.max_frame));
        end.saturating_sub(HEADER_BYTES as u64)
    }

    /// Where a slot's flags lie.
    #[must_use]
    pub fn flags_at(&self, slot: u32) -> u64 {
        self.header_at(slot).saturating_add(HEADER_FLAGS_AT as u64)
    }

    /// Where the last emptied slot is told.
    #[must_use]
    pub fn rx_info_at(&self) -> u64 {
        self.rx_info
    }

    /// The slot after one.
    #[must_use]
    pub fn after(&self, slot: u32) -> u32 {
        let next = slot.wrapping_add(1);
        if next >= self.entries { 0 } else { next }
    }

    /// The slot that counts as emptied last when nothing has passed yet.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.entries.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn alone(window_bytes: u64) -> Result<Layout, BadLayout> {
        Layout::new(window_bytes, Share::of(0, 2, 2).unwrap(), 0x1_0000)
    }

    #[test]
    fn sizes_are_those_that_linux_prints() {
        // debugfs of a stock ntb_transport: rx_max_entry 15 with windows of 1 MiB, 63 with 4 MiB; MTU 65510 + 14.
        let layout = alone(1 << 20).unwrap();
        assert_eq!((layout.entries(), layout.max_frame(), layout.max_payload_bytes()), (15, 65536, 65524));
        assert_eq!(layout.rx_info_at(), (1 << 20) - 4);
        assert_eq!((layout.slot_at(14), layout.header_at(14)), (14 << 16, (15 << 16) - 12));
        assert_eq!(alone(4 << 20).unwrap().entries(), 63);
        // Small windows have two slots of half the size, whatever the limit.
        let layout = alone(64 << 10).unwrap();
        assert_eq!((layout.entries(), layout.max_frame()), (2, 32766));
    }

    #[test]
    fn pairs_that_share_a_window_lie_behind_each_other() {
        let second = Layout::new(1 << 20, Share::of(2, 4, 2).unwrap(), 0x1_0000).unwrap();
        assert_eq!((second.window(), second.slot_at(0), second.rx_info_at()), (0, 512 << 10, (1 << 20) - 4));
        assert_eq!(second.entries(), 7);
    }

    #[test]
    fn windows_that_linux_would_divide_by_zero_in_are_refused() {
        for bytes in [0, 4, 5, 29] {
            let told = BadLayout::TooSmall { window_bytes: bytes, pairs: 1 };
            assert_eq!(alone(bytes).unwrap_err(), told);
        }
        assert_eq!(alone(30).unwrap().max_payload_bytes(), 1);
        for window_bytes in [1 << 32, u64::MAX] {
            assert_eq!(alone(window_bytes).unwrap_err(), BadLayout::TooLarge { window_bytes });
        }
        assert!(Layout::new(1 << 20, Share::of(0, 2, 2).unwrap(), 12).is_err());
    }

    proptest! {
        #[test]
        fn parts_lie_inside_the_window_and_do_not_touch(
            bytes in 0_u64..=u64::from(u32::MAX), queues in 1_usize..64, windows in 1_usize..3,
            mtu in 0_u32..0x2_0000,
        ) {
            let mut ends = [0_u64; 3];
            for queue in 0..queues {
                let share = Share::of(queue, queues, windows).unwrap();
                let Ok(layout) = Layout::new(bytes, share, mtu) else { continue };
                prop_assert!(layout.entries() >= 2);
                prop_assert!(layout.slot_at(0) >= ends[share.window]);
                let last = layout.header_at(layout.last()) + HEADER_BYTES as u64;
                prop_assert!(last <= layout.rx_info_at());
                ends[share.window] = layout.rx_info_at() + RX_INFO_BYTES as u64;
                prop_assert!(ends[share.window] <= bytes);
            }
        }
    }
}
