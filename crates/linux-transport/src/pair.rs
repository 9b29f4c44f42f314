//! The negotiation of one queue pair: its client's wish, the ready bits, the "link down" frame.
//!
//! ```text
//!            enable                 my bit out, the peer's bit seen
//!   Closed ─────────▶ Waiting ───────────────────────────────────────▶ Up
//!      ▲                 ▲    ◀── "link down" of the peer, or its bit ──┘│
//!      └─────────────────┴────────────── disable ────────────────────────┘
//! ```
//!
//! Linux (`ntb_qp_link_work`, `ntb_transport_link_down`) leaves the peer's bit in its own scratchpad when it closes, so
//! that one side may come back before the other has noticed that it went, and both count differently for ever. Here
//! the side that closes takes the peer's bit out of its own scratchpad and comes back when it is set anew:
//! Linux sets it every 10 ms after it has noticed, and so does this.
//!
//! Where a peer went and may be back already, it cannot be known what it counts. Then both are made to begin anew
//! ([`Pair::start_over`]): my bit goes, "link down" is said in every slot, and the same rule holds.

use crate::event::{Down, Event};
use crate::port::Port;
use crate::queue::{Rings, Statistics};
use crate::time::Time;
use ntb_spec::linux_transport::{PayloadHeader, RETRY_MS, SCRATCHPAD_QP_LINKS};

/// How long a peer may take to notice a "link down", in milliseconds.
const SHOUT_MS: u64 = 200;

/// How long after a queue pair came up the peer may still write that it is ready, in milliseconds.
const SETTLE_MS: u64 = 1000;

/// What is known of the peer's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// My client is not ready.
    Closed,
    /// My client is ready, the peer's perhaps not.
    Waiting(Waiting),
    /// Frames go both ways.
    Up {
        /// Since when.
        since: Time,
        /// How often in a row the peer's bit was found clear.
        bit_missed: u8,
    },
}

/// How far the negotiation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Waiting {
    /// When to look again.
    next: Time,
    /// Since when nothing has come of it.
    pub(crate) since: Option<Time>,
    /// My rings are ready and my bit is out.
    published: bool,
    /// When to say "link down" in every slot, to a peer that does not answer the one that was said.
    shout: Option<Time>,
}

/// One queue pair.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    number: usize,
    bit: u32,
    client_ready: bool,
    pub(crate) phase: Phase,
    /// There is memory: the transport is up.
    pub(crate) rings: Option<Rings>,
    pub(crate) statistics: Statistics,
    /// The peer's bit has to be set anew before mine goes out.
    hold: bool,
}

/// The bits of my queue pairs that are ready. Linux sends the peer's own bits back with its own; nobody needs that.
pub(crate) type Ready = u32;

impl Pair {
    pub(crate) fn new(number: usize) -> Self {
        let bit = u32::try_from(number).ok().and_then(|number| 1_u32.checked_shl(number)).unwrap_or(0);
        Self {
            number,
            bit,
            client_ready: false,
            phase: Phase::Closed,
            rings: None,
            statistics: Statistics::default(),
            hold: false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// Whether something is due every 10 ms.
    pub(crate) fn is_busy(&self) -> bool {
        self.rings.is_some() && matches!(self.phase, Phase::Waiting(_))
    }

    /// The doorbell that rings the peer's half.
    pub(crate) fn doorbell(&self) -> u64 {
        u64::from(self.bit)
    }

    /// My client wants frames.
    pub(crate) fn enable(&mut self) {
        if !self.client_ready {
            self.client_ready = true;
            self.phase = Phase::Waiting(Waiting::default());
        }
    }

    /// My client wants no more of them.
    pub(crate) fn disable<P: Port>(
        &mut self,
        ready: &mut Ready,
        bells: &mut u64,
        events: &mut Vec<Event>,
        port: &mut P,
    ) -> Result<(), P::Error> {
        if !self.client_ready {
            return Ok(());
        }
        self.client_ready = false;
        let before = std::mem::replace(&mut self.phase, Phase::Closed);
        if matches!(before, Phase::Up { .. }) {
            events.push(Event::QueueDown { queue: self.number, why: Down::Mine });
        }
        if self.rings.is_none() {
            return Ok(());
        }
        let published = match before {
            Phase::Closed => false,
            Phase::Waiting(waiting) => waiting.published,
            Phase::Up { .. } => true,
        };
        self.withdraw(ready, port)?;
        // In this order: of two that close at once, one at least sees that the other has.
        if !self.forget_bit(port)? {
            return Ok(());
        }
        self.hold = true;
        // The peer is up, or was about to be on the strength of my bit.
        let Some(rings) = self.rings.as_mut().filter(|_| published) else { return Ok(()) };
        *bells |= u64::from(self.bit);
        if rings.free(port, &mut self.statistics)? > 0 {
            rings.put(port, &[], PayloadHeader::LINK_DOWN, |header| header)?;
            Ok(())
        } else {
            rings.shout_link_down(port)
        }
    }

    /// Takes my bit out of the peer's scratchpad.
    fn withdraw<P: Port>(&self, ready: &mut Ready, port: &mut P) -> Result<(), P::Error> {
        *ready &= !self.bit;
        port.set_peer_scratchpad(SCRATCHPAD_QP_LINKS, *ready)
    }

    /// Begins anew, with a peer that does so, too: if its bit still stands, whatever it counts now, it is told that I
    /// am gone, and has to set its bit anew.
    pub(crate) fn start_over<P: Port>(
        &mut self,
        why: Down,
        ready: &mut Ready,
        bells: &mut u64,
        events: &mut Vec<Event>,
        port: &mut P,
    ) -> Result<(), P::Error> {
        if self.is_up() {
            events.push(Event::QueueDown { queue: self.number, why });
        }
        self.phase = Phase::Waiting(Waiting::default());
        // Without my bit it cannot come up, unless it just did by the one that stood so far. In this order: see `disable`.
        self.withdraw(ready, port)?;
        self.hold = self.forget_bit(port)?;
        let Some(rings) = self.rings.as_ref().filter(|_| self.hold) else { return Ok(()) };
        *bells |= u64::from(self.bit);
        rings.shout_link_down(port)
    }

    /// Takes the peer's bit out of my scratchpad; whether it was there.
    ///
    /// The register is shared by all queue pairs: a bit that the peer sets for another one between load and store is
    /// lost, until it negotiates that one again.
    fn forget_bit<P: Port>(&self, port: &mut P) -> Result<bool, P::Error> {
        let links = port.scratchpad(SCRATCHPAD_QP_LINKS)?;
        if links & self.bit == 0 {
            return Ok(false);
        }
        port.set_scratchpad(SCRATCHPAD_QP_LINKS, links & !self.bit)?;
        Ok(true)
    }

    /// The next step of coming up, if it is time (`ntb_qp_link_work`).
    pub(crate) fn negotiate<P: Port>(
        &mut self,
        now: Time,
        ready: &mut Ready,
        bells: &mut u64,
        events: &mut Vec<Event>,
        port: &mut P,
    ) -> Result<(), P::Error> {
        let (Phase::Waiting(waiting), Some(rings)) = (&mut self.phase, self.rings.as_mut()) else {
            return Ok(());
        };
        if now < waiting.next {
            return Ok(());
        }
        waiting.next = now.after_ms(RETRY_MS);
        waiting.since.get_or_insert(now);
        let links = port.scratchpad(SCRATCHPAD_QP_LINKS)?;
        let peer_is_ready = links & self.bit != 0;
        if self.hold && !peer_is_ready {
            // Has it overlooked that I went? It does where it began anew before, unnoticed, and looks at another slot.
            if now >= *waiting.shout.get_or_insert(now.after_ms(SHOUT_MS)) {
                waiting.shout = Some(now.after_ms(SHOUT_MS));
                rings.shout_link_down(port)?;
                *bells |= u64::from(self.bit);
            }
            return Ok(());
        }
        // The bit is looked at once more: a peer that came up between two looks has set it before it sent.
        if waiting.published
            && !peer_is_ready
            && rings.has_first(port)?
            && port.scratchpad(SCRATCHPAD_QP_LINKS)? & self.bit == 0
        {
            // It was up on the strength of my bit, and went, before I looked.
            return self.start_over(Down::Message, ready, bells, events, port);
        }
        if !waiting.published {
            rings.restart();
            rings.prepare_inbound(port)?;
            rings.prepare_outbound(port)?;
            waiting.published = true;
            *ready |= self.bit;
        }
        // Every time: a peer that was late may have zeroed its scratchpads meanwhile.
        port.set_peer_scratchpad(SCRATCHPAD_QP_LINKS, *ready)?;
        if peer_is_ready {
            if rings.is_suspect(port)? {
                // It was up, went and came back before I looked, perhaps.
                return self.start_over(Down::Message, ready, bells, events, port);
            }
            self.hold = false;
            self.phase = Phase::Up { since: now, bit_missed: 0 };
            events.push(Event::QueueUp { queue: self.number });
        }
        Ok(())
    }

    /// Looks whether the peer's bit is still there. A peer whose ring is full closes without a frame.
    pub(crate) fn misses_bit(&mut self, links: u32) -> bool {
        let Phase::Up { bit_missed, .. } = &mut self.phase else { return false };
        *bit_missed = if links & self.bit == 0 { bit_missed.saturating_add(1) } else { 0 };
        // Once is nothing: its frame may be under way.
        *bit_missed >= 2
    }

    /// Whether it has been up for so long that the peer has nothing left to write about it.
    pub(crate) fn is_settled(&self, now: Time) -> bool {
        matches!(self.phase, Phase::Up { since, .. } if since.after_ms(SETTLE_MS) <= now)
    }

    /// The link is down: everything but the client's wish is gone.
    pub(crate) fn lose(&mut self, events: &mut Vec<Event>) {
        if self.is_up() {
            events.push(Event::QueueDown { queue: self.number, why: Down::Link });
        }
        self.rings = None;
        self.hold = false;
        self.phase = if self.client_ready { Phase::Waiting(Waiting::default()) } else { Phase::Closed };
    }
}
