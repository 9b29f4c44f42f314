//! Taking what comes: the usual frame, and everything else that an event can be.

use super::body::{Arrival, Body};
use super::event::{
    BODY_BYTES, EARLY_BYTES, INLINE, LINE_FRAME, Line, MOST_RESTS, SHARES, STAMP, Said, TAIL_BYTES,
    TWO_LINES, short_said,
};
use super::order::{Site, acquire};
use super::receiver::Holding;
use super::{Geometry, LaneOver, Meta, Nonsense, Receiver};
use crate::bits::{low32, place};
use shm::{LoadOrder, Memory, Window};
use std::cell::Cell;

/// [`LINE_FRAME`] and [`TAIL_BYTES`] as lengths on the wire are.
const LINE_MOST: u32 = low32(LINE_FRAME as u64);
const TAIL_MOST: u32 = low32(TAIL_BYTES as u64);

/// The lap of the next slot.
#[derive(Debug)]
pub(super) struct Lap {
    /// What its tag will say.
    comes: Cell<u8>,
    /// What it says until then.
    before: Cell<u8>,
    /// What the last words of usual frames begin with, apart from their kind: one operation on a word that came tells lap
    /// and kind. Lines with a time want a second look, so there it is what no word begins with.
    usual: Cell<u64>,
}

impl Lap {
    pub(super) fn of(geometry: &Geometry, n: u64) -> Self {
        let lap = Self { comes: Cell::new(0), before: Cell::new(0), usual: Cell::new(u64::MAX) };
        lap.turn(geometry, n);
        lap
    }

    /// The `n`th slot is the next one. Laps change at the first slot alone.
    #[cold]
    fn turn(&self, geometry: &Geometry, n: u64) {
        self.comes.set(Geometry::lap(n, geometry.slots));
        self.before.set(Geometry::lap_before(n, geometry.slots));
        if !geometry.stamps {
            self.usual.set(Line::of_lap(self.comes.get()));
        }
    }
}

/// What a look at the next slot has found.
#[derive(Debug)]
pub(crate) enum Taken {
    /// A usual frame.
    Usual(Arrival),
    /// Nothing, and there is nothing to tell the sender.
    Nothing,
    /// Something else: [`Receiver::take_other`] says what.
    Other,
}

/// Rests of frames that are still to come, in private memory.
#[derive(Debug, Default)]
pub(super) struct Rests {
    rests: [Cell<u32>; MOST_RESTS + 1],
    next: Cell<usize>,
    end: Cell<usize>,
    /// The slot of their line, which is let go with the frame that has the first of them.
    slot: Cell<u64>,
}

impl Rests {
    fn left(&self) -> bool {
        self.next.get() < self.end.get()
    }

    /// Whether one is left, and is not the first.
    #[inline(always)]
    fn goes_on(&self) -> bool {
        self.next.get() > 0 && self.left()
    }

    /// The next one; the caller has asked whether one is left.
    #[inline(always)]
    fn take(&self) -> u32 {
        let next = self.next.get();
        self.next.set(next + 1);
        self.rests.get(next % (MOST_RESTS + 1)).map_or(0, Cell::get)
    }
}

impl<M: Memory, O: Window> Receiver<M, O> {
    #[inline(always)]
    fn last_word(&self, n: u64, order: LoadOrder) -> Result<u64, LaneOver> {
        let at = self.geometry.slot_at(n) + BODY_BYTES;
        self.memory.load_u64(at, order).map_err(|error| self.fail(error.into()))
    }

    /// Whether something came (or the lane's memory makes no sense, which the next [`take`](Self::take) tells).
    ///
    /// # Errors
    /// The lane is over.
    #[inline]
    pub fn has_event(&self) -> Result<bool, LaneOver> {
        self.alive()?;
        let last = self.last_word(self.taken.get(), LoadOrder::Relaxed)?;
        Ok(Line::lap(last) != self.lap.before.get())
    }

    /// Takes the next frame, if one came. When none did, the sender is told what was let go since it was told last,
    /// and gets the buffers that were.
    ///
    /// # Errors
    /// The lane is over.
    #[inline]
    pub fn take(&self) -> Result<Option<Arrival>, LaneOver> {
        match self.take_usual() {
            Taken::Usual(arrival) => Ok(Some(arrival)),
            Taken::Nothing => Ok(None),
            Taken::Other => self.take_other(),
        }
    }

    /// Takes the next frame if it is a usual one: all of it is in its line, or all but a rest that came before. Whoever asks
    /// this first, and [`take_other`](Self::take_other) by another way, has the usual frame in registers.
    #[inline(always)]
    pub(crate) fn take_usual(&self) -> Taken {
        if self.alive().is_err() {
            return Taken::Other;
        }
        let n = self.taken.get();
        let Ok(last) = self.last_word(n, acquire(Site::SeeEvent)) else { return Taken::Other };
        let kind = Line::begins(last) ^ self.lap.usual.get();
        let bytes = Line::short_len(last);
        let free = n.wrapping_sub(self.let_go.get()) < u64::from(self.geometry.slots);
        if kind == u64::from(INLINE) && bytes <= LINE_MOST && free {
            return Taken::Usual(self.take_line(n, bytes, last, 0));
        }
        if kind == u64::from(SHARES) && bytes <= TAIL_MOST && free && self.rests.goes_on() {
            let rest = u64::from(self.rests.take()) << 32;
            return Taken::Usual(self.take_line(n, LINE_MOST + bytes, last, rest));
        }
        if Line::lap(last) == self.lap.before.get() && self.owes_nothing() {
            return Taken::Nothing;
        }
        if kind == u64::from(TWO_LINES) && bytes <= LINE_MOST {
            return self.take_pair(n, bytes, last);
        }
        Taken::Other
    }

    /// Takes the next two slots, if both are of this lap and free.
    #[inline(always)]
    fn take_pair(&self, n: u64, bytes: u32, last: u64) -> Taken {
        let next = n.wrapping_add(1);
        let free = next.wrapping_sub(self.let_go.get()) < u64::from(self.geometry.slots);
        // Stored before the word that was seen with acquire.
        let Ok(second) = self.last_word(next, LoadOrder::Relaxed) else { return Taken::Other };
        if Line::lap(second) != self.lap.comes.get() || self.geometry.is_first(next) || !free {
            return Taken::Other;
        }
        self.take_slot(next);
        let tails = u64::from(low32(last)) | u64::from(low32(second)) << 32;
        let body = Body::in_two_lines(n, LINE_MOST + bytes, tails);
        Taken::Usual(Arrival { meta: Meta { filter: Line::filter(last), ..Meta::default() }, body })
    }

    /// Takes the next slot, which holds all of a frame but perhaps its rest.
    #[inline(always)]
    fn take_line(&self, n: u64, len: u32, last: u64, rest: u64) -> Arrival {
        self.take_slot(n);
        let body = Body::in_line(n, len, u64::from(low32(last)) | rest);
        Arrival { meta: Meta { filter: Line::filter(last), ..Meta::default() }, body }
    }

    /// The next slot is the one after the `n`th.
    #[inline(always)]
    fn take_slot(&self, n: u64) {
        let next = n.wrapping_add(1);
        self.taken.set(next);
        if self.geometry.is_first(next) {
            self.lap.turn(&self.geometry, next);
        }
    }

    /// Takes the next frame, whatever it is that came.
    ///
    /// # Errors
    /// The lane is over.
    #[inline(never)]
    pub(crate) fn take_other(&self) -> Result<Option<Arrival>, LaneOver> {
        self.alive()?;
        // Lines that are no frame are passed over, but no more of them than there are slots: a sender that keeps no
        // credit could send them without end.
        for _ in 0..self.geometry.slots {
            let n = self.taken.get();
            let Some(last) = self.next_word()? else {
                self.idle()?;
                return Ok(None);
            };
            if Line::is_rests(last) {
                self.take_rests(n, last)?;
            } else if Line::is_short(last) {
                return self.take_short(n, last).map(Some);
            } else if let Some(arrival) = self.take_described(n, last)? {
                return Ok(Some(arrival));
            }
        }
        Ok(None)
    }

    /// The last word of the next slot, if its line was written.
    fn next_word(&self) -> Result<Option<u64>, LaneOver> {
        let n = self.taken.get();
        let last = self.last_word(n, acquire(Site::SeeEvent))?;
        let lap = Line::lap(last);
        if lap == self.lap.comes.get() {
            return Ok(Some(last));
        }
        if lap == self.lap.before.get() { Ok(None) } else { Err(self.bad_lap(n, lap)) }
    }

    #[cold]
    fn bad_lap(&self, n: u64, seen: u8) -> LaneOver {
        let slot = low32(n & u64::from(self.geometry.slots - 1));
        let expected = Geometry::lap(n, self.geometry.slots);
        self.fail(Nonsense::Lap { slot, seen, expected }.into())
    }

    /// The line of the next slot in private memory, for events that are more than a short frame.
    fn line(&self, n: u64, last: u64) -> Result<Line, LaneOver> {
        let body = self.memory.read_line(self.geometry.slot_at(n));
        Ok(Line { body: body.map_err(|error| self.fail(error.into()))?, last })
    }

    fn take_short(&self, n: u64, last: u64) -> Result<Arrival, LaneOver> {
        let (len, filter) = match short_said(last, &self.geometry) {
            Ok(said) => said,
            Err(nonsense) => return Err(self.fail(nonsense.into())),
        };
        let mut meta = Meta { filter, ..Meta::default() };
        if self.geometry.stamps {
            let mut stamp = [0; 8];
            let read = self.memory.read(self.geometry.slot_at(n) + STAMP, &mut stamp);
            read.map_err(|error| self.fail(error.into()))?;
            meta.stamp = u64::from_le_bytes(stamp);
        }
        let tails = u64::from(low32(last));
        let len = u32::from(len);
        self.hold(n)?;
        if Line::is_two(last) {
            // Stored before the word that was seen with acquire.
            let second = self.last_word(n + 1, LoadOrder::Relaxed)?;
            if Line::lap(second) != self.lap.comes.get() {
                return Err(self.bad_lap(n + 1, Line::lap(second)));
            }
            self.hold(n + 1)?;
            let rest = u64::from(low32(second)) << 32;
            return Ok(Arrival { meta, body: Body::in_two_lines(n, len, tails | rest) });
        }
        if !Line::shares(last) {
            return Ok(Arrival { meta, body: Body::in_line(n, len, tails) });
        }
        let is_first = self.rests.next.get() == 0;
        if !self.rests.left() || is_first && self.rests.slot.get() + 1 != n {
            return Err(self.fail(Nonsense::Rests.into()));
        }
        let tails = tails | u64::from(self.rests.take()) << 32;
        let body = if is_first { Body::after_rests(n, len, tails) } else { Body::in_line(n, len, tails) };
        Ok(Arrival { meta, body })
    }

    /// Takes a line of rests: from now on they are in private memory. Its slot goes with the frame behind it, so that slots
    /// are let go in their order by a program that lets its frames go in theirs.
    fn take_rests(&self, n: u64, last: u64) -> Result<(), LaneOver> {
        let count = place(u64::from(Line::short_len(last)));
        if self.rests.left() || !(1..=MOST_RESTS).contains(&count) {
            return Err(self.fail(Nonsense::Rests.into()));
        }
        let words = self.line(n, last)?.body.into_iter().chain([last]);
        let rests = words.flat_map(|word| [low32(word), low32(word >> 32)]);
        self.rests.rests.iter().zip(rests).for_each(|(to, rest)| to.set(rest));
        self.rests.next.set(0);
        self.rests.end.set(count);
        self.rests.slot.set(n);
        self.hold(n)
    }

    /// Takes an event that says more than a short frame; none if it was an announcement.
    fn take_described(&self, n: u64, last: u64) -> Result<Option<Arrival>, LaneOver> {
        let line = self.line(n, last)?;
        let said = line.said(&self.geometry).map_err(|nonsense| self.fail(nonsense.into()))?;
        let arrival = match said {
            Said::Buffer { index, len, start, continues } => {
                self.posted(index)?.set(Holding::Frame);
                self.tell_buffer(n, index);
                let body = Body::in_buffer(n, index, len, start, continues);
                Some(Arrival { meta: line.meta(said), body })
            }
            Said::Early { index, .. } => {
                self.posted(index)?;
                None
            }
            Said::Short { .. } => None,
        };
        // The line was copied: its slot is free.
        self.hold(n)?;
        self.release(n, 1)?;
        Ok(arrival)
    }

    /// The length and the first 40 bytes (padded with zeros) of the next frame, or of the part of one that is next: of one
    /// that has come, or of one that the sender has announced and whose payload is still on its way. What was peeked
    /// at is not taken.
    ///
    /// # Errors
    /// The lane is over.
    pub fn peek(&self) -> Result<Option<(u32, [u8; EARLY_BYTES])>, LaneOver> {
        self.alive()?;
        let Some(mut last) = self.next_word()? else { return Ok(None) };
        if Line::is_rests(last) {
            // The frames behind it were stored before it.
            self.take_rests(self.taken.get(), last)?;
            let Some(behind) = self.next_word()? else { return Ok(None) };
            last = behind;
        }
        let n = self.taken.get();
        let mut beginning = [0; EARLY_BYTES];
        let (len, at) = if Line::is_short(last) {
            let (len, _) = short_said(last, &self.geometry).map_err(|nonsense| self.fail(nonsense.into()))?;
            (u32::from(len), self.geometry.slot_at(n))
        } else {
            let line = self.line(n, last)?;
            match line.said(&self.geometry).map_err(|nonsense| self.fail(nonsense.into()))? {
                Said::Early { index, len } => {
                    self.posted(index)?;
                    return Ok(Some((len, line.beginning())));
                }
                Said::Buffer { index, len, .. } => {
                    self.posted(index)?;
                    (len, self.geometry.buffer_at(index))
                }
                Said::Short { .. } => return Ok(None),
            }
        };
        // The first line of a short frame holds more of it than this.
        let some = beginning.get_mut(..(len as usize).min(EARLY_BYTES)).unwrap_or_default();
        self.memory.read(at, some).map_err(|error| self.fail(error.into()))?;
        Ok(Some((len, beginning)))
    }

    /// Takes the `n`th slot, which is the next one.
    fn hold(&self, n: u64) -> Result<(), LaneOver> {
        if n - self.let_go.get() >= u64::from(self.geometry.slots) {
            let slot = low32(n & u64::from(self.geometry.slots - 1));
            return Err(self.fail(Nonsense::NoCredit(slot).into()));
        }
        self.take_slot(n);
        Ok(())
    }
}
