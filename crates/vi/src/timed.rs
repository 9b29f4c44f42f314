//! An interface with a clock: times on what is sent and received, a pace, a timer, and frames that are not wanted.
//!
//! It stands before a [`Vi`] and costs nobody anything who does not ask for it: the clock is read once for each frame.

use crate::checksum::{DiscardReason, Discards};
use crate::clock::{Clock, Stamp};
use crate::interface::{Event, LaneId, TransmitError, Vi};
use crate::lane::Meta;
use crate::pace::Pace;
use crate::packet::{Packet, RequestId};
use crate::timer::EventTimer;
use shm::{Mapping, Memory, Window};
use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;

/// What a poll with a clock tells.
#[derive(Debug, Default)]
pub enum TimedEvent<'vi, D, O: Window = Mapping, M: Memory = Mapping> {
    /// Nothing: a place in the slice that no event was written to.
    #[default]
    Nothing,
    /// What the interface told, and when it was taken. The sender's time is the packet's own
    /// ([`Packet::stamp`](crate::Packet::stamp)).
    Event(Event<'vi, D, O, M>, Stamp),
    /// A packet that is not wanted. Of a frame in several packets it is the last one, which says so of all of them: the ones before had come
    /// as they are.
    Discarded {
        /// The packet, as it came.
        packet: Packet<'vi, D, O, M>,
        /// Why it is not wanted.
        reason: DiscardReason,
        /// When it was taken.
        stamp: Stamp,
    },
    /// The timer ran out. It does not run any more.
    Timer(Stamp),
}

/// Why a frame was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacedError {
    /// The pace does not allow it yet.
    #[error("the pace allows the next frame in {0:?}")]
    Early(Duration),
    /// The interface refuses it.
    #[error(transparent)]
    Transmit(#[from] TransmitError),
}

/// An interface, a clock, and what is asked of both.
#[derive(Debug)]
pub struct TimedVi<'vi, D, O: Window = Mapping, M: Memory = Mapping> {
    vi: &'vi Vi<D, O, M>,
    clock: Clock,
    pace: Cell<Option<Pace>>,
    timer: Cell<EventTimer>,
    discards: Cell<Discards>,
    /// Where a frame is looked at: what a sender may change after the look is not worth looking at.
    scratch: RefCell<Vec<u8>>,
    /// Frames in several packets, as far as they have come; one for each lane that had such.
    parts: RefCell<Vec<(LaneId, Vec<u8>)>>,
}

/// As much of a frame as lengths and checksums can be about: a VLAN's header and an IP packet. What lies behind is padding.
const JUDGED_BYTES: usize = 18 + 65535;

impl<'vi, D, O: Window, M: Memory> TimedVi<'vi, D, O, M> {
    /// Without a pace, a timer and discards.
    #[must_use]
    pub fn new(vi: &'vi Vi<D, O, M>, clock: Clock) -> Self {
        Self {
            vi,
            clock,
            pace: Cell::new(None),
            timer: Cell::default(),
            discards: Cell::default(),
            scratch: RefCell::default(),
            parts: RefCell::default(),
        }
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// From now on frames go at this pace (`ef_vi_pace`); its ticks are [the clock's](Clock::ticks_in).
    pub fn set_pace(&self, pace: Option<Pace>) {
        self.pace.set(pace);
    }

    /// Which frames are not wanted (`ef_vi_receive_set_discards`). To look at a frame it is copied once.
    pub fn set_discards(&self, discards: Discards) {
        self.discards.set(discards);
        // What came before is not known to be whole.
        self.parts.borrow_mut().clear();
    }

    /// Which frames are not wanted.
    #[must_use]
    pub fn discards(&self) -> Discards {
        self.discards.get()
    }

    /// The timer runs for `time` from the next event on (`ef_eventq_timer_prime`).
    pub fn timer_prime(&self, time: Duration) {
        self.timer.set(EventTimer::Primed { ticks: self.clock.ticks_in(time) });
    }

    /// The timer runs for `time` from now on (`ef_eventq_timer_run`).
    pub fn timer_run(&self, time: Duration) {
        self.timer.set(EventTimer::run(self.clock.ticks(), self.clock.ticks_in(time)));
    }

    /// The timer does not run any more (`ef_eventq_timer_clear`).
    pub fn timer_clear(&self) {
        self.timer.set(EventTimer::Clear);
    }

    /// Sends one frame at once, with the time in it, if its lane [carries times](crate::lane::Geometry::stamps): when
    /// it was handed over is what comes back (`EF_EVENT_TYPE_TX_WITH_TIMESTAMP` comes later).
    ///
    /// # Errors
    /// [`PacedError`], and nothing of this frame was sent.
    #[inline]
    pub fn transmit(
        &self,
        lane: LaneId,
        frame: &[u8],
        meta: Meta,
        request: RequestId,
    ) -> Result<Stamp, PacedError> {
        self.paced(frame.len(), |stamp| self.vi.transmit(lane, frame, Meta { stamp, ..meta }, request))
    }

    /// Stages one frame with the time in it.
    ///
    /// # Errors
    /// [`PacedError`], and nothing of this frame was staged.
    #[inline]
    pub fn transmitv_init(
        &self,
        lane: LaneId,
        parts: &[&[u8]],
        meta: Meta,
        request: RequestId,
    ) -> Result<Stamp, PacedError> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.paced(bytes, |stamp| self.vi.transmitv_init(lane, parts, Meta { stamp, ..meta }, request))
    }

    fn paced(
        &self,
        bytes: usize,
        send: impl FnOnce(u64) -> Result<(), TransmitError>,
    ) -> Result<Stamp, PacedError> {
        let ticks = self.clock.ticks();
        let pace = self.pace.get();
        let paid = pace.map(|mut pace| pace.pay(ticks, bytes).map(|()| pace)).transpose();
        let paid = paid.map_err(|wait| PacedError::Early(self.clock.time_of(wait)))?;
        let stamp = self.clock.at(ticks);
        send(stamp.ns)?;
        // Only what went is paid for.
        self.pace.set(paid);
        Ok(stamp)
    }

    /// Writes events into `events`, from its beginning; how many. Each is taken by itself, so that its time is its own. All that
    /// stood in the slice is dropped, as [`Vi::poll`] does.
    pub fn poll(&self, events: &mut [TimedEvent<'vi, D, O, M>]) -> usize {
        let mut count = 0;
        while let Some(place) = events.get_mut(count) {
            let mut event = [Event::Nothing];
            if self.vi.poll(&mut event) == 0 {
                break;
            }
            let ticks = self.clock.ticks();
            let stamp = self.clock.at(ticks);
            self.timer.set(self.timer.get().started(ticks));
            let [event] = event;
            *place = match event {
                Event::Received(packet) => self.judged(packet, stamp),
                event => TimedEvent::Event(event, stamp),
            };
            count += 1;
        }
        if self.timer.get() != EventTimer::Clear
            && let Some(place) = events.get_mut(count)
        {
            let ticks = self.clock.ticks();
            if self.timer.get().left(ticks) == Some(0) {
                self.timer.set(EventTimer::Clear);
                *place = TimedEvent::Timer(self.clock.at(ticks));
                count += 1;
            }
        }
        for place in events.iter_mut().skip(count) {
            if !matches!(place, TimedEvent::Nothing) {
                *place = TimedEvent::Nothing;
            }
        }
        count
    }

    /// A packet that is wanted, or is not.
    fn judged(&self, packet: Packet<'vi, D, O, M>, stamp: Stamp) -> TimedEvent<'vi, D, O, M> {
        let discards = self.discards.get();
        if discards == Discards::default() {
            return TimedEvent::Event(Event::Received(packet), stamp);
        }
        if !packet.starts() || packet.continues() {
            return match self.whole(&packet) {
                None => TimedEvent::Event(Event::Received(packet), stamp),
                Some(reason) => TimedEvent::Discarded { packet, reason, stamp },
            };
        }
        let mut scratch = self.scratch.borrow_mut();
        scratch.resize(packet.len(), 0);
        let reason = match packet.read(0, &mut scratch) {
            Ok(()) => discards.judge(&scratch),
            Err(_) => Some(DiscardReason::Length),
        };
        match reason {
            None => TimedEvent::Event(Event::Received(packet), stamp),
            Some(reason) => TimedEvent::Discarded { packet, reason, stamp },
        }
    }

    /// Takes a part of a frame; what is wrong with the frame, if this was its last part and the others are here.
    #[cold]
    fn whole(&self, packet: &Packet<'vi, D, O, M>) -> Option<DiscardReason> {
        let mut parts = self.parts.borrow_mut();
        let at = match parts.iter().position(|(lane, _)| *lane == packet.lane()) {
            Some(at) => at,
            None => {
                parts.push((packet.lane(), Vec::new()));
                parts.len() - 1
            }
        };
        let (_, frame) = parts.get_mut(at)?;
        if packet.starts() {
            frame.clear();
        } else if frame.is_empty() {
            // Its beginning was not seen.
            return None;
        }
        let begin = frame.len();
        let some = packet.len().min(JUDGED_BYTES.saturating_sub(begin));
        frame.resize(begin + some, 0);
        let read = packet.read(0, frame.get_mut(begin..)?);
        if packet.continues() {
            return None;
        }
        let reason = match read {
            Ok(()) => self.discards.get().judge(frame),
            Err(_) => Some(DiscardReason::Length),
        };
        frame.clear();
        reason
    }

    /// Sleeps until something comes, the timer runs out, or `limit` has passed. True: poll again.
    ///
    /// # Errors
    /// As [`Vi::wait`].
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let left = self.timer.get().left(self.clock.ticks());
        let left = left.map(|ticks| self.clock.time_of(ticks));
        if left == Some(Duration::ZERO) {
            return Ok(true);
        }
        let shorter = match (limit, left) {
            (Some(limit), Some(left)) => Some(limit.min(left)),
            (limit, left) => limit.or(left),
        };
        let woken = self.vi.wait(shorter)?;
        Ok(woken || self.timer.get().left(self.clock.ticks()) == Some(0))
    }
}
