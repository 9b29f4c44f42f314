//! Taking what comes: the usual frame, and everything else that an event can be.

use super::body::{Arrival, Body};
use super::event::{
    EARLY_BYTES, INLINE, LINE_FRAME, Line, MOST_RESTS, RESTS, SHARES, STAMP, Said, TAIL_BYTES, TWO_LINES,
    short_said,
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
    /// What it says until then; what no tag says on a lane that is over.
    before: Cell<u16>,
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
        self.before.set(Geometry::lap_before(n, geometry.slots).into());
        if !geometry.stamps {
            self.usual.set(Line::of_lap(self.comes.get()));
        }
    }

    /// Nothing is usual any more, and nothing is nothing.
    pub(super) fn end(&self) {
        self.usual.set(u64::MAX);
        self.before.set(u16::MAX);
    }

    /// Whether a last word says that nothing came.
    #[inline(always)]
    fn is_before(&self, last: u64) -> bool {
        u16::from(Line::lap(last)) == self.before.get()
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

/// The last line of rests that came, in private memory.
#[derive(Debug)]
pub(super) struct Rests {
    rests: [Cell<u32>; MOST_RESTS + 1],
    /// The slot of the frame that has the first of them: the one behind their line. At first one that never comes.
    first: Cell<u64>,
}

impl Default for Rests {
    fn default() -> Self {
        Self { rests: Default::default(), first: Cell::new(1 << 63) }
    }
}

impl Rests {
    /// The rest of a frame in the `n`th slot, if it has one here.
    #[inline(always)]
    fn of(&self, n: u64) -> Option<u64> {
        let behind = n.wrapping_sub(self.first.get());
        if behind >= MOST_RESTS as u64 {
            return None;
        }
        self.rests.get(place(behind)).map(|rest| u64::from(rest.get()))
    }

    /// The same of a frame that is not the first one.
    #[inline(always)]
    fn of_later(&self, n: u64) -> Option<u64> {
        let behind = n.wrapping_sub(self.first.get());
        let later = behind.wrapping_sub(1) < MOST_RESTS as u64 - 1;
        self.rests.get(place(behind)).filter(|_| later).map(|rest| u64::from(rest.get()))
    }

    #[inline(always)]
    fn is_first(&self, n: u64) -> bool {
        n == self.first.get()
    }
}

impl<M: Memory, O: Window> Receiver<M, O> {
    #[inline(always)]
    fn last_word(&self, n: u64, order: LoadOrder) -> Result<u64, LaneOver> {
        self.slots.last(n, order).map_err(|error| self.fail(error.into()))
    }

    /// Whether something came (or the lane's memory makes no sense, which the next [`take`](Self::take) tells).
    ///
    /// # Errors
    /// The lane is over.
    #[inline]
    pub fn has_event(&self) -> Result<bool, LaneOver> {
        self.alive()?;
        let last = self.last_word(self.taken.get(), LoadOrder::Relaxed)?;
        Ok(!self.lap.is_before(last))
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
        let n = self.taken.get();
        let Ok(last) = self.last_word(n, acquire(Site::SeeEvent)) else { return Taken::Other };
        let kind = Line::begins(last) ^ self.lap.usual.get();
        let bytes = Line::short_len(last);
        let free = self.is_free(n);
        if kind == u64::from(INLINE) && bytes <= LINE_MOST && free {
            let body = Body::in_line(n, bytes, u64::from(low32(last))).straight();
            return Taken::Usual(self.take_line(n, last, body));
        }
        if kind == u64::from(SHARES)
            && bytes <= TAIL_MOST
            && free
            && let Some(rest) = self.rests.of_later(n)
        {
            let tails = u64::from(low32(last)) | rest << 32;
            let body = Body::in_line(n, LINE_MOST + bytes, tails).straight();
            return Taken::Usual(self.take_line(n, last, body));
        }
        if self.lap.is_before(last) && self.owes_nothing() {
            return Taken::Nothing;
        }
        if kind == u64::from(TWO_LINES) && bytes <= LINE_MOST {
            return self.take_pair(n, bytes, last);
        }
        if kind == u64::from(RESTS) { self.take_behind_rests(last) } else { Taken::Other }
    }

    /// Whether the sender had credit for the `n`th slot.
    #[inline(always)]
    fn is_free(&self, n: u64) -> bool {
        n.wrapping_sub(self.let_go.get()) < u64::from(self.geometry.slots)
    }

    /// Takes the next slot, which ends with this word and is a line of rests, and the frame behind it, which has the first one.
    #[inline(always)]
    fn take_behind_rests(&self, last: u64) -> Taken {
        let last = self.pass_rests(last);
        let n = self.taken.get();
        let kind = Line::begins(last) ^ self.lap.usual.get();
        let bytes = Line::short_len(last);
        match self.rests.of(n) {
            Some(rest) if kind == u64::from(SHARES) && bytes <= TAIL_MOST && self.is_free(n) => {
                let tails = u64::from(low32(last)) | rest << 32;
                let body = Body::sharing(n, LINE_MOST + bytes, tails, true).straight();
                Taken::Usual(self.take_line(n, last, body))
            }
            _ => Taken::Other,
        }
    }

    /// Takes the next slot, which ends with this word and is a line of rests; the last word of the one behind it. On a lane that
    /// is over a word says nothing that is usual.
    #[inline(never)]
    fn pass_rests(&self, last: u64) -> u64 {
        let n = self.taken.get();
        let taken = self.take_rests(n, last);
        // Stored before the word that was seen with acquire.
        taken.and_then(|()| self.last_word(n.wrapping_add(1), LoadOrder::Relaxed)).unwrap_or(0)
    }

    /// Takes the next two slots, if both are of this lap and free.
    #[inline(always)]
    fn take_pair(&self, n: u64, bytes: u32, last: u64) -> Taken {
        let next = n.wrapping_add(1);
        // Stored before the word that was seen with acquire.
        let Ok(second) = self.last_word(next, LoadOrder::Relaxed) else { return Taken::Other };
        if Line::lap(second) != self.lap.comes.get() || self.geometry.is_first(next) || !self.is_free(next) {
            return Taken::Other;
        }
        self.take_slot(next);
        let tails = u64::from(low32(last)) | u64::from(low32(second)) << 32;
        let body = Body::in_two_lines(n, LINE_MOST + bytes, tails);
        let body = if bytes <= TAIL_MOST { body.straight() } else { body };
        Taken::Usual(Arrival { meta: Meta { filter: Line::filter(last), ..Meta::default() }, body })
    }

    /// Takes the next slot, which holds all of a frame but perhaps its rest.
    #[inline(always)]
    fn take_line(&self, n: u64, last: u64, body: Body) -> Arrival {
        self.take_slot(n);
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
        if self.lap.is_before(last) { Ok(None) } else { Err(self.bad_lap(n, lap)) }
    }

    #[cold]
    fn bad_lap(&self, n: u64, seen: u8) -> LaneOver {
        let slot = low32(n & u64::from(self.geometry.slots - 1));
        let expected = Geometry::lap(n, self.geometry.slots);
        self.fail(Nonsense::Lap { slot, seen, expected }.into())
    }

    /// The line of the next slot in private memory, for events that are more than a short frame.
    fn line(&self, n: u64, last: u64) -> Result<Line, LaneOver> {
        let body = self.slots.body(n);
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
            let read = self.slots.window().read(self.geometry.slot_at(n) + STAMP, &mut stamp);
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
        let rest = self.rests.of(n).ok_or_else(|| self.fail(Nonsense::Rests.into()))?;
        let tails = tails | rest << 32;
        Ok(Arrival { meta, body: Body::sharing(n, len, tails, self.rests.is_first(n)) })
    }

    /// Takes a line of rests: from now on they are in private memory. Its slot goes with the frame behind it, so that slots
    /// are let go in their order by a program that lets its frames go in theirs.
    fn take_rests(&self, n: u64, last: u64) -> Result<(), LaneOver> {
        if self.rests.is_first(n) {
            return Err(self.fail(Nonsense::Rests.into()));
        }
        let words = self.line(n, last)?.body.into_iter().chain([last]);
        let rests = words.flat_map(|word| [low32(word), low32(word >> 32)]);
        self.rests.rests.iter().zip(rests).for_each(|(to, rest)| to.set(rest));
        self.rests.first.set(n.wrapping_add(1));
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
        while Line::is_rests(last) {
            // The frames behind it were stored before it. One behind another is refused.
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
        self.slots.window().read(at, some).map_err(|error| self.fail(error.into()))?;
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
