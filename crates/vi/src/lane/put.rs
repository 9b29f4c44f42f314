//! How frames get into slots: the usual one in one straight piece, then all others.
//!
//! The first line that was staged is *held* back, and a push stores it: a receiver looks at the next slot and at none
//! behind it, so those that follow are written to their slots at once, tags and all. Only of the first one nothing may
//! be written, since a line that is written in two steps while it is looked at travels twice. A line of rests (see
//! [`event`](super::event)) is kept back as well, until nothing comes to it any more; a push stores it before the first line.

use super::event::{
    BODY_BYTES, LINE_FRAME, Line, MOST_RESTS, RESTS_WORD, STAMP, TAIL_BYTES, body_words, one_line_word,
    shares_word, short_words,
};
use super::order::{Site, release};
use super::sender::BATCH;
use super::short::{self, word};
use super::{FilterId, Geometry, LaneOver, Meta, SendError, Sender};
use crate::bits::{low32, place};
use shm::{LINE_WORDS, Memory, StoreOrder, Window, WindowError};
use std::cell::Cell;

/// How many slots before it is written a line is fetched.
const AHEAD: u64 = 4;

/// How many bytes of a buffer are fetched before a frame is written into it: as many lines as may be on their way at once.
const AHEAD_BYTES: usize = 1024;

/// The longest frame whose rest is in one last word.
const LITTLE_MORE: usize = LINE_FRAME + TAIL_BYTES;

/// What is not in its slot yet: the first line that waits for a push, and a line of rests that more may come to.
#[derive(Debug, Default)]
pub(super) struct Held {
    body: Cell<[u64; LINE_WORDS]>,
    /// With its lap.
    last: Cell<u64>,
    /// The line of rests. In whole words, as they are stored: a load of 8 bytes would wait until two stores of 4 bytes to
    /// them have left the processor, and they stand in line behind stores to the window.
    rests: [Cell<u64>; LINE_WORDS + 1],
    /// The slot of the line of rests.
    slot: Cell<u64>,
    /// The first slot behind it whose frame has no rest there; 0 where there is no such line.
    until: Cell<u64>,
}

impl Held {
    fn set(&self, body: [u64; LINE_WORDS], last: u64) {
        self.body.set(body);
        self.last.set(last);
    }

    /// A line of rests in the `n`th slot, which belongs to this lap.
    fn open(&self, n: u64, lap: u64) {
        let [rests @ .., last] = &self.rests;
        rests.iter().for_each(|rest| rest.set(0));
        last.set(RESTS_WORD | lap);
        self.slot.set(n);
        self.until.set(n.wrapping_add(1 + MOST_RESTS as u64));
    }

    /// Whether the rest of a frame in the `n`th slot has a place in it.
    #[inline(always)]
    fn takes_rest_of(&self, n: u64) -> bool {
        n < self.until.get()
    }

    #[inline(always)]
    fn put_rest(&self, n: u64, rest: u32) {
        let behind = place(n.wrapping_sub(self.slot.get()).wrapping_sub(1)) % (MOST_RESTS + 1);
        if let Some(place) = self.rests.get(behind / 2) {
            place.set(place.get() | u64::from(rest) << (behind % 2 * 32));
        }
    }

    /// The line of rests.
    fn rests(&self) -> ([u64; LINE_WORDS], u64) {
        let word = |n: usize| self.rests.get(n).map_or(0, Cell::get);
        (std::array::from_fn(word), word(LINE_WORDS))
    }
}

impl<O: Window, M: Memory> Sender<O, M> {
    /// Sends one frame at once, with all that was staged before. True: the receiver sleeps and is to be woken.
    ///
    /// # Errors
    /// [`SendError`], and nothing of this frame was sent.
    #[inline(always)]
    pub fn send(&self, frame: &[u8], meta: Meta) -> Result<bool, SendError> {
        match self.send_usual(frame, meta.filter) {
            Some(wake) => Ok(wake),
            None => self.send_other(frame, meta.filter, meta.stamp, meta.hash),
        }
    }

    /// Sends a usual frame, one of a line or a little more, where nothing waits for a push. None: [`send_other`](Self::send_other)
    /// sends it, or says why it cannot be sent.
    #[inline(always)]
    pub(crate) fn send_usual(&self, frame: &[u8], filter: FilterId) -> Option<bool> {
        let next = self.next.get();
        if next >= self.usual.send.get() || frame.len() > LITTLE_MORE {
            return None;
        }
        let Some(body) = frame.first_chunk() else { return self.send_little(frame, filter).ok() };
        if frame.len() <= LINE_FRAME {
            self.put_line(body, frame, filter).ok()?;
        } else if next.wrapping_add(1) < self.usual.send.get() {
            self.put_pair(body, frame, filter).ok()?;
        } else {
            return None;
        }
        self.published.set(self.next.get());
        Some(self.armed())
    }

    /// Sends a usual frame that does not fill a line.
    #[inline(never)]
    fn send_little(&self, frame: &[u8], filter: FilterId) -> Result<bool, LaneOver> {
        let last = one_line_word(frame.len(), 0, filter) | self.lap.get();
        let n = self.next.get();
        let stored = self.slots.store(n, &body_words(frame), last, release(Site::PublishEvent));
        stored.map_err(|error| self.fail(error.into()))?;
        self.next.set(n.wrapping_add(1));
        self.published.set(n.wrapping_add(1));
        Ok(self.armed())
    }

    /// In pieces: what is handed over as a whole has been in memory before it was known whether it is needed.
    #[inline(never)]
    pub(crate) fn send_other(
        &self,
        frame: &[u8],
        filter: FilterId,
        stamp: u64,
        hash: u32,
    ) -> Result<bool, SendError> {
        let meta = Meta { filter, stamp, hash };
        if self.next.get() != self.published.get() || frame.len() > self.geometry.buffer_bytes as usize {
            self.stage(&[frame], meta)?;
            return Ok(self.push()?);
        }
        if frame.len() > self.geometry.short_most() {
            let line = self.put_payload(frame, meta)?;
            self.flush_streamed()?;
            self.put(&line)?;
        } else {
            self.need_slots(self.short_slots(frame.len()))?;
            self.put_short(frame, meta)?;
        }
        self.published.set(self.next.get());
        self.look_ahead();
        Ok(self.armed())
    }

    /// What the next frames may do, now that credit, lap or what is staged have changed.
    pub(super) fn look_ahead(&self) {
        let most = self.until.get().min(self.lap_ends(self.next.get()));
        let staged = self.next.get() != self.published.get();
        self.usual.send.set(if staged { 0 } else { most });
        self.usual.stage.set(if staged { most.min(self.published.get() + BATCH) } else { 0 });
    }

    /// Says that a frame of so many bytes follows soon: the processor fetches the lines of its event meanwhile, and those of the
    /// buffer that it will lie in.
    #[inline(always)]
    pub fn will_send(&self, bytes: usize) {
        self.slots.will_store(self.next.get());
        if bytes > LINE_FRAME {
            self.will_send_more(bytes);
        }
    }

    #[inline(never)]
    fn will_send_more(&self, bytes: usize) {
        if bytes <= self.geometry.short_most() {
            self.slots.will_store(self.next.get().wrapping_add(1));
        } else if bytes < self.stream_from.get()
            && let Some(&index) = self.free.borrow().front()
            && let Some(memory) = self.slots.window().as_mapping()
        {
            let bytes = bytes.min(AHEAD_BYTES).min(self.geometry.buffer_bytes as usize);
            memory.will_store(self.geometry.buffer_at(index), bytes);
        }
    }

    /// Stages one frame, as [`stage`](Self::stage) does; how many slots it has taken.
    ///
    /// # Errors
    /// [`SendError`], and nothing of this frame was sent.
    #[inline(always)]
    pub fn stage_one(&self, frame: &[u8], meta: Meta) -> Result<u32, SendError> {
        match self.stage_usual(frame, meta.filter) {
            Some(slots) => Ok(slots),
            None => self.stage_other(frame, meta.filter, meta.stamp, meta.hash),
        }
    }

    /// Stages a usual frame, one of a line or a little more, behind another one that is staged. None:
    /// [`stage_other`](Self::stage_other) stages it, or says why it cannot be sent.
    #[inline(always)]
    pub(crate) fn stage_usual(&self, frame: &[u8], filter: FilterId) -> Option<u32> {
        let n = self.next.get();
        if n >= self.usual.stage.get() {
            return None;
        }
        let body = frame.first_chunk()?;
        let last = if frame.len() <= LINE_FRAME {
            line_word(frame, filter)
        } else if frame.len() > LITTLE_MORE {
            return None;
        } else if self.held.takes_rest_of(n) {
            self.share(frame, filter)
        } else if n.wrapping_add(1) < self.usual.stage.get() {
            return self.open_rests(body, frame, filter).ok().map(|()| 2);
        } else {
            return None;
        };
        self.stage_slot(body, last).ok().map(|()| 1)
    }

    /// In pieces: see [`send_other`](Self::send_other).
    #[inline(never)]
    pub(crate) fn stage_other(
        &self,
        frame: &[u8],
        filter: FilterId,
        stamp: u64,
        hash: u32,
    ) -> Result<u32, SendError> {
        let n = self.next.get();
        // The first of those that wait for a push, if it asks no more than they do.
        if n.wrapping_add(1) < self.usual.send.get()
            && frame.len() <= LITTLE_MORE
            && let Some(body) = frame.first_chunk()
        {
            if frame.len() <= LINE_FRAME {
                self.held.set(words(body), line_word(frame, filter) | self.lap.get());
                self.next.set(n.wrapping_add(1));
            } else {
                self.open_rests(body, frame, filter)?;
            }
            self.look_ahead();
            return Ok(low32(self.next.get().wrapping_sub(n)));
        }
        self.stage(&[frame], Meta { filter, stamp, hash })?;
        Ok(low32(self.next.get().wrapping_sub(n)))
    }

    /// Stages a line of rests and the first frame that has one there. There is room for both in this lap, of which they are not
    /// the last.
    #[inline(never)]
    fn open_rests(&self, body: &[u8; BODY_BYTES], frame: &[u8], filter: FilterId) -> Result<(), LaneOver> {
        self.close_rests()?;
        let n = self.next.get();
        self.held.open(n, self.lap.get());
        self.fetch_ahead(n);
        self.next.set(n.wrapping_add(1));
        let last = self.share(frame, filter);
        // The line's slot belongs to this frame: without it, it is nobody's.
        self.stage_slot(body, last).inspect_err(|_| self.next.set(n))
    }

    /// Writes the next slot, which is not its lap's last one, behind others that wait for a push.
    #[inline(always)]
    fn stage_slot(&self, body: &[u8; BODY_BYTES], last: u64) -> Result<(), LaneOver> {
        let n = self.next.get();
        self.fetch_ahead(n);
        let last = last | self.lap.get();
        let stored = self.slots.store_wide(n, body, last, release(Site::PublishEvent));
        stored.map_err(|error| self.fail(error.into()))?;
        self.next.set(n.wrapping_add(1));
        Ok(())
    }

    /// Nothing comes to the line of rests any more: it goes to its slot, or waits for a push if it is the first.
    fn close_rests(&self) -> Result<(), LaneOver> {
        if self.held.until.replace(0) == 0 {
            return Ok(());
        }
        let slot = self.held.slot.get();
        let (body, last) = self.held.rests();
        if slot == self.published.get() {
            self.held.set(body, last);
            return Ok(());
        }
        let stored = self.slots.store(slot, &body, last, release(Site::PublishEvent));
        stored.map_err(|error| self.fail(error.into()))
    }

    /// The last slot of the lap of the `n`th.
    #[inline(always)]
    fn lap_ends(&self, n: u64) -> u64 {
        n | u64::from(self.geometry.slots.wrapping_sub(1))
    }

    #[inline(never)]
    pub(super) fn stage_short(&self, frame: &[u8], meta: Meta) -> Result<(), SendError> {
        self.need_slots(self.short_slots(frame.len()))?;
        self.make_room()?;
        let n = self.next.get();
        let little_more =
            frame.first_chunk().filter(|_| frame.len() > LINE_FRAME && frame.len() <= LITTLE_MORE);
        if let Some(body) = little_more
            && self.until.get() > 0
            && (self.held.takes_rest_of(n) || n.wrapping_add(1) < self.lap_ends(n))
        {
            if self.held.takes_rest_of(n) {
                self.put_sharing(frame, meta.filter)?;
            } else {
                self.open_rests(body, frame, meta.filter)?;
            }
        } else if n == self.published.get() {
            self.hold_short(frame, meta)?;
        } else {
            self.put_short(frame, meta)?;
        }
        self.look_ahead();
        Ok(())
    }

    pub(super) fn stage_line(&self, line: &Line) -> Result<(), SendError> {
        self.make_room()?;
        if self.next.get() == self.published.get() {
            self.hold(line.body, line.word(self.lap.get()));
        } else {
            self.fetch_ahead(self.next.get());
            self.put(line)?;
        }
        self.look_ahead();
        Ok(())
    }

    /// Keeps a line back, the next one: others may be staged behind it.
    fn hold(&self, body: [u64; LINE_WORDS], last: u64) {
        self.held.set(body, last);
        self.next_slot();
    }

    /// Streamed payloads are to arrive before what tells of them.
    #[inline]
    fn flush_streamed(&self) -> Result<(), LaneOver> {
        if self.streamed.get() {
            self.slots.window().flush().map_err(|error| self.fail(error.into()))?;
            self.streamed.set(false);
        }
        Ok(())
    }

    /// Publishes what is staged.
    #[inline]
    pub(super) fn publish_staged(&self) -> Result<(), LaneOver> {
        if self.next.get() == self.published.get() {
            return Ok(());
        }
        self.flush_streamed()?;
        self.close_rests()?;
        // The tag of the first one orders all that were written before it.
        let (body, last) = (self.held.body.get(), self.held.last.get());
        let stored = self.slots.store(self.published.get(), &body, last, release(Site::PublishEvent));
        stored.map_err(|error| self.fail(error.into()))?;
        self.published.set(self.next.get());
        self.look_ahead();
        Ok(())
    }

    /// Slots that a short frame takes.
    #[inline]
    pub(super) fn short_slots(&self, len: usize) -> u64 {
        if len > self.geometry.line_most() { 2 } else { 1 }
    }

    /// Writes a frame that fits one line without a time into the next slot, which is not its lap's last one.
    #[inline(always)]
    fn put_line(&self, body: &[u8; BODY_BYTES], frame: &[u8], filter: FilterId) -> Result<(), LaneOver> {
        self.put_slot(body, line_word(frame, filter))
    }

    /// Writes a frame that is a little longer than a line into the next two slots, neither of them its lap's last one. The
    /// whole of its rest is in the last word of the second one, which the last word of the first one orders.
    #[inline(always)]
    fn put_pair(&self, body: &[u8; BODY_BYTES], frame: &[u8], filter: FilterId) -> Result<(), LaneOver> {
        let [tail, rest] = tails(frame);
        let second = u64::from(rest) | self.lap.get();
        let stored = self.slots.store_last(self.next.get().wrapping_add(1), second, StoreOrder::Relaxed);
        stored.map_err(|error| self.fail(error.into()))?;
        let (first, _) = short_words(frame.len(), [tail, rest], filter, false);
        self.put_slot(body, first)?;
        self.next.set(self.next.get().wrapping_add(1));
        Ok(())
    }

    /// Has the processor fetch a slot that is written soon after the `n`th, while the lines before it are still on their way.
    /// For staged frames alone: between frames that go one by one the receiver is close behind, and the lines would go to
    /// and fro.
    #[inline(always)]
    fn fetch_ahead(&self, n: u64) {
        let ahead = n.wrapping_add(AHEAD);
        if ahead < self.until.get() {
            self.slots.will_store(ahead);
        }
    }

    /// Puts the rest of a frame that is a little longer than a line into the line of rests that is held; the last word, without
    /// lap, of the frame, which goes into the next slot.
    #[inline(always)]
    fn share(&self, frame: &[u8], filter: FilterId) -> u64 {
        let [tail, rest] = tails(frame);
        self.held.put_rest(self.next.get(), rest);
        shares_word(frame.len().wrapping_sub(LINE_FRAME), tail, filter)
    }

    /// Writes a frame that is a little longer than a line into the next slot, its rest into the line of rests.
    fn put_sharing(&self, frame: &[u8], filter: FilterId) -> Result<(), LaneOver> {
        let last = self.share(frame, filter);
        self.put(&Line { body: body_words(frame), last })
    }

    /// Writes the next slot, which is not its lap's last one: its last word, which is given its lap, last.
    #[inline(always)]
    fn put_slot(&self, body: &[u8; BODY_BYTES], last: u64) -> Result<(), LaneOver> {
        let stored =
            self.slots.store_bytes(self.next.get(), body, last | self.lap.get(), release(Site::PublishEvent));
        stored.map_err(|error| self.fail(error.into()))?;
        self.next.set(self.next.get().wrapping_add(1));
        Ok(())
    }

    /// Writes a line into the next slot.
    pub(super) fn put(&self, line: &Line) -> Result<(), LaneOver> {
        let last = line.word(self.lap.get());
        let stored = self.slots.store(self.next.get(), &line.body, last, release(Site::PublishEvent));
        stored.map_err(|error| self.fail(error.into()))?;
        self.next_slot();
        Ok(())
    }

    /// Writes a short frame into the next slot, or the next two: the last word of the first one last.
    fn put_short(&self, frame: &[u8], meta: Meta) -> Result<(), LaneOver> {
        let (line, second) = self.short_line(frame, meta);
        if let Some(second) = second {
            self.put_second(frame, second)?;
        }
        self.put(&line)?;
        if second.is_some() {
            self.next_slot();
        }
        Ok(())
    }

    /// Keeps the first line of a short frame back, and writes the second, if there is one.
    fn hold_short(&self, frame: &[u8], meta: Meta) -> Result<(), LaneOver> {
        let (line, second) = self.short_line(frame, meta);
        let has_second = second.is_some();
        if let Some(second) = second {
            self.put_second(frame, second)?;
        }
        self.hold(line.body, line.word(self.lap.get()));
        if has_second {
            self.next_slot();
        }
        Ok(())
    }

    /// The first line of a short frame, and the last word, without its lap, of the second if it has one.
    fn short_line(&self, frame: &[u8], meta: Meta) -> (Line, Option<u64>) {
        let stamps = self.geometry.stamps;
        let (last, second) = short_words(frame.len(), short::tails(frame, stamps), meta.filter, stamps);
        let mut body = body_words(short::first(frame, stamps));
        if stamps && let Some(stamp) = body.get_mut(STAMP / 8) {
            *stamp = meta.stamp;
        }
        (Line { body, last }, second)
    }

    /// Writes the second line of a short frame whose first one is the next. The first one's last word orders it.
    fn put_second(&self, frame: &[u8], last: u64) -> Result<(), LaneOver> {
        let n = self.next.get() + 1;
        let at = self.geometry.slot_at(n);
        let last = last | lap(n, &self.geometry);
        let second = short::second(frame, self.geometry.stamps);
        let stored = self.slots.window().write(at, second);
        let stored = stored.and_then(|()| self.slots.store_last(n, last, StoreOrder::Relaxed));
        stored.map_err(|error| self.fail(error.into()))
    }

    /// Writes the bodies of the lines that a short frame would have, and no last word.
    pub(super) fn warm_slots(&self, frame: &[u8]) -> Result<(), LaneOver> {
        let stamps = self.geometry.stamps;
        let (first, second) = (short::first(frame, stamps), short::second(frame, stamps));
        let window = self.slots.window();
        let stored = window.write(self.geometry.slot_at(self.next.get()), first).and_then(
            |()| -> Result<(), WindowError> {
                if second.is_empty() {
                    return Ok(());
                }
                window.write(self.geometry.slot_at(self.next.get() + 1), second)
            },
        );
        stored.map_err(|error| self.fail(error.into()))
    }

    /// Counts a slot.
    fn next_slot(&self) {
        self.next.set(self.next.get().wrapping_add(1));
        self.turn_lap();
    }

    /// Laps change at the first slot alone.
    fn turn_lap(&self) {
        if self.geometry.is_first(self.next.get()) {
            self.lap.set(lap(self.next.get(), &self.geometry));
        }
    }
}

/// The beginning of a frame as words, where it is whole.
fn words(body: &[u8; BODY_BYTES]) -> [u64; LINE_WORDS] {
    let (bytes, _) = body.as_chunks();
    std::array::from_fn(|n| bytes.get(n).map_or(0, |&word| u64::from_le_bytes(word)))
}

/// The last word, without lap, of a frame that fits one line without a time.
#[inline(always)]
fn line_word(frame: &[u8], filter: FilterId) -> u64 {
    one_line_word(frame.len(), frame.get(BODY_BYTES..).map_or(0, word), filter)
}

/// What last words hold of a frame that is a little longer than a line.
#[inline(always)]
fn tails(frame: &[u8]) -> [u32; 2] {
    let tails = frame.get(BODY_BYTES..).unwrap_or_default();
    // One load where it can be one: as the bytes were stored.
    match tails.first_chunk::<8>() {
        Some(&whole) => {
            let [a, b, c, d, e, f, g, h] = whole;
            [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
        }
        None => [word(tails), word(tails.get(TAIL_BYTES..).unwrap_or_default())],
    }
}

/// The lap of the `n`th slot ever, where it stands in a last word.
#[cold]
pub(super) fn lap(n: u64, geometry: &Geometry) -> u64 {
    u64::from(Geometry::lap(n, geometry.slots)) << 56
}
