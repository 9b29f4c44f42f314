//! The event queue: polling it, putting into it, sleeping until something is in it.

use super::{LaneId, ReceiveLane, SOFTWARE_EVENTS, Vi, lane_id};
use crate::lane::{LaneError, LaneOver, Taken};
use crate::packet::Packet;
use crate::statistics::add;
use shm::{Mapping, Memory, Window};
use std::cell::Cell;
use std::io;
use std::time::Duration;

/// What a poll tells.
#[derive(Debug, Default)]
pub enum Event<'vi, D, O: Window = Mapping, M: Memory = Mapping> {
    /// Nothing: a place in the slice that no event was written to.
    #[default]
    Nothing,
    /// A packet came.
    Received(Packet<'vi, D, O, M>),
    /// A lane has packets, where receives are [merged](Vi::merge_receives): [`Vi::receive_unbundle`] fetches them.
    ReceivedMany {
        /// Which.
        lane: LaneId,
    },
    /// Frames were sent; [`Vi::transmit_unbundle`] says which.
    Transmitted {
        /// How many completions wait.
        count: usize,
    },
    /// A lane to receive from is over. Its packets that are held stay readable.
    ReceiveFailed {
        /// Which.
        lane: LaneId,
        /// Why.
        reason: LaneError,
    },
    /// A lane to send on is over; [`Vi::failed_transmits`] says what may be lost.
    TransmitFailed {
        /// Which.
        lane: LaneId,
        /// Why.
        reason: LaneError,
    },
    /// A number that the application [put](Vi::put) into the queue.
    Software(u16),
    /// Software events were lost: the queue was full.
    Overflow,
}

impl<D, O: Window, M: Memory> Vi<D, O, M> {
    /// Writes events into `events`, from its beginning; how many. All that stood there is dropped, behind the last event too:
    /// a packet that was left there would hold up its sender, however many were taken and let go after it.
    #[inline(always)]
    pub fn poll<'vi>(&'vi self, events: &mut [Event<'vi, D, O, M>]) -> usize {
        match events {
            [place] => self.poll_one(place),
            _ => self.poll_many(events),
        }
    }

    /// Who has room for one event waits for that one: a usual frame, or nothing, is told where the question is asked.
    #[inline(always)]
    fn poll_one<'vi>(&'vi self, place: &mut Event<'vi, D, O, M>) -> usize {
        if let [lane] = self.receive.as_slice()
            && !self.merges.get()
        {
            match lane.receiver.take_usual() {
                Taken::Usual(arrival) => {
                    add(&self.counters.received_packets, 1);
                    add(&self.counters.received_bytes, arrival.body.len() as u64);
                    *place = Event::Received(Packet::new(lane, arrival));
                    return 1;
                }
                Taken::Nothing if self.only_lanes_tell() && matches!(place, Event::Nothing) => return 0,
                Taken::Other if self.poll_other(lane, place) => return 1,
                _ => {}
            }
        }
        self.poll_many(std::slice::from_mut(place))
    }

    /// Whether there is no event but those that lanes tell of.
    #[inline(always)]
    fn only_lanes_tell(&self) -> bool {
        !self.others.get() && self.completed.all_told()
    }

    #[inline(never)]
    fn poll_many<'vi>(&'vi self, events: &mut [Event<'vi, D, O, M>]) -> usize {
        let lanes = self.receive.len();
        let mut count = 0;
        let mut turn = self.turn.get();
        for _ in 0..lanes {
            let Some(lane) = self.receive.get(turn) else { break };
            count += match events.get_mut(count..) {
                Some(places) if !self.merges.get() => self.poll_lane(lane, places),
                Some([place, ..]) => self.poll_merged(lane, place),
                _ => 0,
            };
            turn = if turn.wrapping_add(1) < lanes { turn.wrapping_add(1) } else { 0 };
            if count == events.len() {
                // The one that filled the slice waits for its next turn.
                self.turn.set(turn);
                return count;
            }
        }
        if !self.only_lanes_tell() {
            count = self.poll_others(events, count);
        }
        for place in events.iter_mut().skip(count) {
            if !matches!(place, Event::Nothing) {
                *place = Event::Nothing;
            }
        }
        count
    }

    /// Writes what comes by one lane; how many events that is.
    #[inline(always)]
    fn poll_lane<'vi>(&'vi self, lane: &'vi ReceiveLane<O, M>, places: &mut [Event<'vi, D, O, M>]) -> usize {
        let (mut count, mut others): (usize, usize) = (0, 0);
        let mut bytes: u64 = 0;
        for place in places {
            match lane.receiver.take_usual() {
                Taken::Usual(arrival) => {
                    bytes = bytes.wrapping_add(arrival.body.len() as u64);
                    *place = Event::Received(Packet::new(lane, arrival));
                }
                Taken::Nothing => break,
                Taken::Other if self.poll_other(lane, place) => others = others.wrapping_add(1),
                Taken::Other => break,
            }
            count = count.wrapping_add(1);
        }
        if count > 0 {
            add(&self.counters.received_packets, count.wrapping_sub(others) as u64);
            add(&self.counters.received_bytes, bytes);
        }
        count
    }

    /// Tells of what comes by a lane, whatever it is, and counts it; whether that is something.
    #[inline(never)]
    fn poll_other<'vi>(&'vi self, lane: &'vi ReceiveLane<O, M>, place: &mut Event<'vi, D, O, M>) -> bool {
        match lane.receiver.take_other() {
            Ok(Some(arrival)) => {
                add(&self.counters.received_packets, 1);
                add(&self.counters.received_bytes, arrival.body.len() as u64);
                *place = Event::Received(Packet::new(lane, arrival));
                true
            }
            Ok(None) => false,
            Err(LaneOver) => self.tell_failure(lane, place) == 1,
        }
    }

    /// Tells of a lane that has packets, or is over; how many events that is.
    #[inline(never)]
    fn poll_merged<'vi>(&'vi self, lane: &ReceiveLane<O, M>, place: &mut Event<'vi, D, O, M>) -> usize {
        match lane.receiver.has_event() {
            Ok(true) => {
                *place = Event::ReceivedMany { lane: lane.id };
                1
            }
            Ok(false) => lane.receiver.idle().map_or_else(|LaneOver| self.tell_failure(lane, place), |()| 0),
            Err(LaneOver) => self.tell_failure(lane, place),
        }
    }

    /// Tells of a lane that is over, once; how many events that is.
    #[cold]
    fn tell_failure<'vi>(&'vi self, lane: &ReceiveLane<O, M>, place: &mut Event<'vi, D, O, M>) -> usize {
        let Some(reason) = self.first_failure(&lane.told, lane.receiver.failure()) else { return 0 };
        *place = Event::ReceiveFailed { lane: lane.id, reason };
        1
    }

    fn quiet(&self) -> bool {
        self.completed.all_told() && self.software.borrow().is_empty() && !self.overflow.get()
    }

    #[inline(never)]
    fn poll_others<'vi>(&'vi self, events: &mut [Event<'vi, D, O, M>], mut count: usize) -> usize {
        if let Some(place) = events.get_mut(count)
            && let Some(waiting) = self.completed.tell()
        {
            *place = Event::Transmitted { count: waiting };
            count += 1;
        }
        while let Some(place) = events.get_mut(count) {
            let Some(number) = self.software.borrow_mut().pop_front() else { break };
            *place = Event::Software(number);
            count += 1;
        }
        if self.overflow.get()
            && let Some(place) = events.get_mut(count)
        {
            *place = Event::Overflow;
            self.overflow.set(false);
            count += 1;
        }
        self.others.set(!self.quiet());
        count
    }

    /// A failure that was not told yet.
    fn first_failure(&self, told: &Cell<bool>, failure: Option<LaneError>) -> Option<LaneError> {
        if told.replace(true) {
            return None;
        }
        add(&self.counters.lanes_over, 1);
        failure
    }

    /// Lanes to send on that are over and were not told of yet, as events. Sending tells of them too, as an error.
    pub fn poll_senders<'vi>(&'vi self, events: &mut [Event<'vi, D, O, M>]) -> usize {
        let mut count = 0;
        for (at, lane) in self.send.iter().enumerate() {
            let failure = lane.sender.failure();
            if failure.is_some()
                && let Some(place) = events.get_mut(count)
                && let Some(reason) = self.first_failure(&lane.told, failure)
            {
                *place = Event::TransmitFailed { lane: lane_id(at), reason };
                count += 1;
            }
        }
        count
    }

    /// Puts a number into the event queue. When it is full the number is lost, and a poll tells of an overflow.
    pub fn put(&self, number: u16) {
        self.others.set(true);
        let mut software = self.software.borrow_mut();
        if software.len() < SOFTWARE_EVENTS {
            software.push_back(number);
        } else {
            self.overflow.set(true);
            add(&self.counters.overflows, 1);
        }
    }

    /// Whether a poll would tell of something.
    #[must_use]
    pub fn has_event(&self) -> bool {
        !self.quiet() || self.receive.iter().any(|lane| lane.receiver.has_event().unwrap_or(!lane.told.get()))
    }

    /// Arms every receiving lane, then looks once more. True: nothing is there, and whatever comes rings the bell.
    /// After that the bell's descriptor may be waited for, in `epoll` too.
    #[must_use]
    pub fn prime(&self) -> bool {
        // All are armed, whatever the first one says.
        let asleep = self.receive.iter().fold(true, |asleep, lane| {
            let armed = lane.receiver.arm().unwrap_or(lane.told.get());
            asleep && armed
        });
        asleep && self.quiet()
    }

    /// Sleeps until something comes, or `limit` has passed. True: poll again.
    ///
    /// # Errors
    /// Without a [bell](Self::set_bell), or when it cannot be waited for.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        let bell = self.bell.as_ref().ok_or_else(|| io::Error::other("the interface has no bell"))?;
        if !self.prime() {
            return Ok(true);
        }
        bell.wait(limit)
    }
}
