//! One queue pair's rings: slots, headers, counts. No negotiation.
//!
//! A sender owns the slots from `tx_index` up to the one that the receiver emptied last, less one. A receiver finds
//! a frame by its flag, and takes it if its count is the expected one.

use crate::layout::Layout;
use crate::port::Port;
use ntb_spec::linux_transport::{HEADER_BYTES, HEADER_FLAGS_AT, PayloadHeader, RX_INFO_BYTES};
use std::sync::atomic::{Ordering, fence};

/// Counters of a queue pair since it was made, named after Linux's debugfs where that has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Frames received (`rx_pkts`).
    pub rx_frames: u64,
    /// Their payload (`rx_bytes`).
    pub rx_bytes: u64,
    /// Looks at a frame whose count was not the expected one (`rx_err_ver`).
    pub rx_bad_version: u64,
    /// Frames longer than a slot or than the caller's buffer (`rx_err_oflow`).
    pub rx_too_long: u64,
    /// Frames sent (`tx_pkts`).
    pub tx_frames: u64,
    /// Their payload (`tx_bytes`).
    pub tx_bytes: u64,
    /// Attempts to send into a full ring (`tx_ring_full`).
    pub tx_full: u64,
    /// Slot numbers of the peer that are none.
    pub bad_rx_info: u64,
}

/// What lies at the receiver's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Nothing yet.
    Empty,
    /// A frame, copied to the caller's buffer.
    Frame { slot: u32, version: u32, bytes: usize },
    /// A frame that did not fit anywhere; thrown away.
    TooLong { slot: u32, bytes: u32 },
    /// A frame with an unexpected count; it stays, as Linux leaves it.
    BadVersion { slot: u32, found: u32, expected: u32 },
    /// The peer's client has closed.
    LinkDown,
    /// The peer counts from 0 again, at slot 0.
    Restarted,
}

/// Indices and counts of both directions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rings {
    tx: Layout,
    rx: Layout,
    tx_index: u32,
    tx_count: u32,
    rx_index: u32,
    rx_count: u32,
    /// The slot that was last told to have an unexpected count: it is told once.
    told: Option<u32>,
}

impl Rings {
    pub(crate) fn new(tx: Layout, rx: Layout) -> Self {
        Self { tx, rx, tx_index: 0, tx_count: 0, rx_index: 0, rx_count: 0, told: None }
    }

    pub(crate) fn max_payload_bytes(&self) -> usize {
        self.tx.max_payload_bytes()
    }

    /// Both directions begin anew (`ntb_qp_link_down_reset`).
    pub(crate) fn restart(&mut self) {
        *self = Self::new(self.tx, self.rx);
    }

    /// Makes my memory what a sender that begins anew expects.
    pub(crate) fn prepare_inbound<P: Port>(&self, port: &mut P) -> Result<(), P::Error> {
        self.reset_rx_info(port)?;
        for slot in 0..self.rx.entries() {
            port.write_inbound(self.rx.window(), self.rx.header_at(slot), &[0; HEADER_BYTES])?;
        }
        Ok(())
    }

    /// Takes back what I ever sent, and tells the peer that I have emptied nothing.
    ///
    /// Linux does neither. A flag that is left of an earlier count makes a reader look at a slot that is being written,
    /// and a late store of an emptied slot can make a fresh ring look full.
    pub(crate) fn prepare_outbound<P: Port>(&self, port: &mut P) -> Result<(), P::Error> {
        for slot in 0..self.tx.entries() {
            port.write_outbound(self.tx.window(), self.tx.flags_at(slot), &0_u32.to_le_bytes())?;
        }
        self.tell_emptied(port, self.rx.last())
    }

    /// Says "link down" in every slot, for a peer that looks at another one than I think, or has emptied none. What it
    /// has not taken yet is lost. Lengths and counts stay, so that it may be in the middle of a frame.
    pub(crate) fn shout_link_down<P: Port>(&self, port: &mut P) -> Result<(), P::Error> {
        let flags = PayloadHeader::DESC_DONE | PayloadHeader::LINK_DOWN;
        for slot in 0..self.tx.entries() {
            port.write_outbound(self.tx.window(), self.tx.flags_at(slot), &flags.to_le_bytes())?;
        }
        Ok(())
    }

    /// Whether the peer has sent anything since my headers were zeroed.
    pub(crate) fn has_first<P: Port>(&self, port: &mut P) -> Result<bool, P::Error> {
        Ok(self.header(port, 0)?.is_some())
    }

    /// Whether what lies in my memory may be of two counts: a "link down" among it, or a full ring, into which a peer
    /// that closed could not have written one.
    pub(crate) fn is_suspect<P: Port>(&self, port: &mut P) -> Result<bool, P::Error> {
        let mut done = 0_u32;
        for slot in 0..self.rx.entries() {
            let Some(header) = self.header(port, slot)? else { continue };
            done = done.saturating_add(1);
            if header.is_link_down() {
                return Ok(true);
            }
        }
        Ok(done >= self.rx.last())
    }

    /// In my memory: the peer has emptied nothing, so that all slots but one are free to send.
    fn reset_rx_info<P: Port>(&self, port: &mut P) -> Result<(), P::Error> {
        port.write_inbound(self.rx.window(), self.rx.rx_info_at(), &self.tx.last().to_le_bytes())
    }

    fn tell_emptied<P: Port>(&self, port: &mut P, slot: u32) -> Result<(), P::Error> {
        port.write_outbound(self.tx.window(), self.tx.rx_info_at(), &slot.to_le_bytes())
    }

    /// Slots that can be sent into now (`ntb_transport_tx_free_entry`).
    pub(crate) fn free<P: Port>(&self, port: &mut P, statistics: &mut Statistics) -> Result<u32, P::Error> {
        if self.tx_count == 0 {
            // Nothing has been sent, so nothing can be in the way, whatever a late store of the peer says.
            self.reset_rx_info(port)?;
            return Ok(self.tx.last());
        }
        let mut word = [0; RX_INFO_BYTES];
        port.read_inbound(self.rx.window(), self.rx.rx_info_at(), &mut word)?;
        let emptied = u32::from_le_bytes(word);
        if emptied >= self.tx.entries() {
            statistics.bad_rx_info = statistics.bad_rx_info.wrapping_add(1);
            return Ok(0);
        }
        let ahead = if emptied >= self.tx_index { 0 } else { self.tx.entries() };
        Ok(ahead.wrapping_add(emptied).wrapping_sub(self.tx_index))
    }

    /// Writes a frame into the next slot, which must be free: payload, then header, then its flag. `alter` may
    /// falsify the header. The doorbell is the caller's.
    pub(crate) fn put<P: Port>(
        &mut self,
        port: &mut P,
        payload: &[u8],
        flags: u32,
        alter: impl FnOnce(PayloadHeader) -> PayloadHeader,
    ) -> Result<(u32, PayloadHeader), P::Error> {
        let (window, slot) = (self.tx.window(), self.tx_index);
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let flags = flags | PayloadHeader::DESC_DONE;
        let header = alter(PayloadHeader { version: self.tx_count, payload_bytes, flags });
        if !payload.is_empty() {
            port.write_outbound(window, self.tx.slot_at(slot), payload)?;
        }
        let [a, b, c, d, e, f, g, h, flags @ ..] = header.to_bytes();
        port.write_outbound(window, self.tx.header_at(slot), &[a, b, c, d, e, f, g, h])?;
        // Everything before is there when the flag is.
        fence(Ordering::Release);
        port.write_outbound(window, self.tx.flags_at(slot), &flags)?;
        self.tx_index = self.tx.after(slot);
        self.tx_count = self.tx_count.wrapping_add(1);
        Ok((slot, header))
    }

    /// A slot's flags, and behind them the header that they vouch for; each is read once.
    fn header<P: Port>(&self, port: &mut P, slot: u32) -> Result<Option<PayloadHeader>, P::Error> {
        let window = self.rx.window();
        let mut flags = [0; 4];
        port.read_inbound(window, self.rx.flags_at(slot), &mut flags)?;
        let flags = u32::from_le_bytes(flags);
        if flags & PayloadHeader::DESC_DONE == 0 {
            return Ok(None);
        }
        // A flag that is seen vouches for what was written before it.
        fence(Ordering::Acquire);
        let mut bytes = [0; HEADER_FLAGS_AT];
        port.read_inbound(window, self.rx.header_at(slot), &mut bytes)?;
        let [a, b, c, d, e, f, g, h] = bytes;
        let (version, payload_bytes) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        Ok(Some(PayloadHeader { version, payload_bytes, flags }))
    }

    /// Takes what lies at the next slot.
    pub(crate) fn take<P: Port>(
        &mut self,
        port: &mut P,
        buffer: &mut [u8],
        statistics: &mut Statistics,
    ) -> Result<Arrival, P::Error> {
        let (slot, expected) = (self.rx_index, self.rx_count);
        let Some(header) = self.header(port, slot)? else {
            return Ok(if self.has_restarted(port)? { Arrival::Restarted } else { Arrival::Empty });
        };
        if header.is_link_down() {
            self.hand_back(port, slot)?;
            return Ok(Arrival::LinkDown);
        }
        if header.version != expected {
            if self.has_restarted(port)? {
                return Ok(Arrival::Restarted);
            }
            if self.told == Some(slot) {
                return Ok(Arrival::Empty);
            }
            self.told = Some(slot);
            statistics.rx_bad_version = statistics.rx_bad_version.wrapping_add(1);
            return Ok(Arrival::BadVersion { slot, found: header.version, expected });
        }
        self.told = None;
        let bytes = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        let place = buffer.get_mut(..bytes).filter(|_| bytes <= self.rx.max_payload_bytes());
        let arrival = match place {
            None => {
                statistics.rx_too_long = statistics.rx_too_long.wrapping_add(1);
                Arrival::TooLong { slot, bytes: header.payload_bytes }
            }
            Some(place) => {
                port.read_inbound(self.rx.window(), self.rx.slot_at(slot), place)?;
                statistics.rx_frames = statistics.rx_frames.wrapping_add(1);
                statistics.rx_bytes = statistics.rx_bytes.wrapping_add(u64::from(header.payload_bytes));
                Arrival::Frame { slot, version: header.version, bytes }
            }
        };
        // The payload is copied before the slot is the sender's again.
        fence(Ordering::Release);
        self.hand_back(port, slot)?;
        self.tell_emptied(port, slot)?;
        self.rx_index = self.rx.after(slot);
        // Linux does not count a frame that is too long, and understands nothing that comes after it.
        self.rx_count = expected.wrapping_add(1);
        Ok(arrival)
    }

    fn hand_back<P: Port>(&self, port: &mut P, slot: u32) -> Result<(), P::Error> {
        port.write_inbound(self.rx.window(), self.rx.flags_at(slot), &0_u32.to_le_bytes())
    }

    /// Whether a frame with count 0 lies in slot 0 although I have passed it: the peer's queue pair began anew, and
    /// no message said so. Linux does that where it finds a stale "link down" in its own memory.
    fn has_restarted<P: Port>(&self, port: &mut P) -> Result<bool, P::Error> {
        // A count that is about to wrap comes to 0 by itself.
        if self.rx_count == 0 || self.rx_count.wrapping_neg() <= self.rx.entries() {
            return Ok(false);
        }
        let first = self.header(port, 0)?;
        Ok(first.is_some_and(|first| !first.is_link_down() && first.version == 0))
    }
}
