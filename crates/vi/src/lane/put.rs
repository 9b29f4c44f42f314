//! How frames get into slots: the usual one in one straight piece, then all others.
//!
//! A push stores one line, the first that was staged. It alone is *held* back: a receiver looks at the next slot and at none
//! behind it, so those that follow are written to their slots at once, tags and all. Only of the first one nothing may
//! be written, since a line that is written in two steps while it is looked at travels twice. What is held may be a line
//! of rests (see [`event`](super::event)), which is whole when it is published.

use super::event::{
    BODY_BYTES, LINE_FRAME, Line, MOST_RESTS, STAMP, TAIL_BYTES, body_words, one_line_word, rests_word,
    shares_word, short_words, words,
};
use super::order::{Site, release};
use super::sender::BATCH;
use super::short::{self, word};
use super::{FilterId, Geometry, LaneError, Meta, SendError, Sender};
use shm::{LINE_WORDS, Memory, StoreOrder, Window, WindowError};

/// How many slots before it is written a line is fetched.
const AHEAD: u64 = 4;

/// The longest frame whose rest is in one last word.
const LITTLE_MORE: usize = LINE_FRAME + TAIL_BYTES;

/// The first line that waits for a push.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// With its lap in the last one.
    words: [u64; LINE_WORDS + 1],
    /// How many rests are in it; 0 is another line.
    rests: usize,
}

impl Held {
    #[inline]
    pub(super) fn line([a, b, c, d, e, f, g]: [u64; LINE_WORDS], last: u64) -> Self {
        Self { words: [a, b, c, d, e, f, g, last], rests: 0 }
    }

    /// Whether another rest has a place here.
    #[inline(always)]
    fn takes_rests(&self) -> bool {
        (1..MOST_RESTS).contains(&self.rests)
    }

    #[inline(always)]
    fn add_rest(&mut self, rest: u32) {
        let word = self.words.get_mut(self.rests / 2 % (LINE_WORDS + 1));
        word.into_iter().for_each(|word| *word |= u64::from(rest) << (self.rests % 2 * 32));
        self.rests += 1;
    }

    /// Its words, once nothing comes to them.
    #[inline(always)]
    fn whole(&self) -> ([u64; LINE_WORDS], u64) {
        let [a, b, c, d, e, f, g, last] = self.words;
        let count = if self.rests > 0 { rests_word(self.rests) } else { 0 };
        ([a, b, c, d, e, f, g], last | count)
    }
}

impl<O: Window, M: Memory> Sender<O, M> {
    /// Sends one frame at once, with all that was staged before. True: the receiver sleeps and is to be woken.
    ///
    /// # Errors
    /// [`SendError`], and nothing of this frame was sent.
    #[inline(always)]
    pub fn send(&mut self, frame: &[u8], meta: Meta) -> Result<bool, SendError> {
        // The usual case has no frames before it, room enough, no time to carry.
        if self.next == self.published && self.next < self.until && frame.len() <= LITTLE_MORE {
            let Some(body) = frame.first_chunk() else { return self.send_little(frame, meta) };
            if frame.len() <= LINE_FRAME {
                self.put_line(words(body), frame, meta.filter)?;
                self.published = self.next;
                return Ok(self.armed()?);
            }
            if self.has_pair() {
                self.put_pair(words(body), frame, meta.filter)?;
                self.published = self.next;
                return Ok(self.armed()?);
            }
        }
        self.send_other(frame, meta)
    }

    /// Sends a usual frame that does not fill a line.
    #[inline(never)]
    fn send_little(&mut self, frame: &[u8], meta: Meta) -> Result<bool, SendError> {
        self.put_line(body_words(frame), frame, meta.filter)?;
        self.published = self.next;
        Ok(self.armed()?)
    }

    #[inline(never)]
    fn send_other(&mut self, frame: &[u8], meta: Meta) -> Result<bool, SendError> {
        if frame.len() <= self.geometry.short_most() && self.next == self.published {
            self.need_slots(self.short_slots(frame.len()))?;
            self.put_short(frame, meta)?;
            self.published = self.next;
            return Ok(self.armed()?);
        }
        self.stage(&[frame], meta)?;
        Ok(self.push()?)
    }

    /// Says that a frame of so many bytes follows soon: the processor fetches the lines of its event meanwhile.
    #[inline(always)]
    pub fn will_send(&self, bytes: usize) {
        self.outbound.will_store(self.geometry.slot_at(self.next));
        if bytes > LINE_FRAME {
            self.outbound.will_store(self.geometry.slot_at(self.next.wrapping_add(1)));
        }
    }

    /// Stages one frame, as [`stage`](Self::stage) does.
    ///
    /// # Errors
    /// [`SendError`], and nothing of this frame was sent.
    #[inline(always)]
    pub fn stage_one(&mut self, frame: &[u8], meta: Meta) -> Result<(), SendError> {
        // The usual case follows another frame that is staged.
        if self.next != self.published
            && self.next < self.until
            && let Some(body) = frame.first_chunk()
        {
            if frame.len() <= LINE_FRAME && self.staged < BATCH {
                self.fetch_ahead();
                self.put_line(words(body), frame, meta.filter)?;
                self.staged += 1;
                return Ok(());
            }
            if frame.len() > LINE_FRAME && frame.len() <= LITTLE_MORE && self.held.takes_rests() {
                self.fetch_ahead();
                self.put_sharing(words(body), frame, meta.filter)?;
                self.staged += 1;
                return Ok(());
            }
        }
        self.stage_other(frame, meta)
    }

    #[inline(never)]
    fn stage_other(&mut self, frame: &[u8], meta: Meta) -> Result<(), SendError> {
        self.stage(&[frame], meta)
    }

    #[inline(never)]
    pub(super) fn stage_short(&mut self, frame: &[u8], meta: Meta) -> Result<(), SendError> {
        let little_more = frame
            .first_chunk()
            .filter(|_| frame.len() > LINE_FRAME && frame.len() <= LITTLE_MORE && self.until > 0);
        if little_more.is_some() && self.held.rests == MOST_RESTS {
            // The next line of rests is the first of those that are pushed then.
            self.publish_staged()?;
        }
        self.need_slots(self.short_slots(frame.len()))?;
        self.make_room()?;
        if self.next == self.published {
            if let Some(body) = little_more {
                self.held = Held::line([0; LINE_WORDS], self.lap);
                self.next_slot();
                self.put_sharing(words(body), frame, meta.filter)?;
            } else {
                self.hold_short(frame, meta)?;
            }
        } else if let Some(body) = little_more.filter(|_| self.held.takes_rests()) {
            self.put_sharing(words(body), frame, meta.filter)?;
        } else {
            self.put_short(frame, meta)?;
        }
        self.staged += 1;
        Ok(())
    }

    #[inline]
    pub(super) fn stage_line(&mut self, line: &Line) -> Result<(), SendError> {
        self.make_room()?;
        if self.next == self.published {
            self.held = Held::line(line.body, line.word(self.lap));
            self.next_slot();
        } else {
            self.fetch_ahead();
            self.put_words(&line.body, line.last)?;
        }
        self.staged += 1;
        Ok(())
    }

    /// Publishes what is staged.
    #[inline]
    pub(super) fn publish_staged(&mut self) -> Result<(), LaneError> {
        if self.next == self.published {
            return Ok(());
        }
        if self.streamed {
            self.outbound.flush().map_err(|error| self.fail(error.into()))?;
            self.streamed = false;
        }
        // The tag of the first one orders all that were written before it.
        let at = self.geometry.slot_at(self.published);
        let (body, last) = self.held.whole();
        self.held.rests = 0;
        let stored = self.outbound.store_line(at, &body, last, release(Site::PublishEvent));
        stored.map_err(|error| self.fail(error.into()))?;
        self.published = self.next;
        self.staged = 0;
        Ok(())
    }

    /// Slots that a short frame takes.
    #[inline]
    pub(super) fn short_slots(&self, len: usize) -> u64 {
        if len > self.geometry.line_most() { 2 } else { 1 }
    }

    /// Whether there is room for two lines, both of this lap.
    #[inline(always)]
    fn has_pair(&self) -> bool {
        let second = self.next.wrapping_add(1);
        second < self.until && !self.geometry.is_first(second)
    }

    /// Writes a frame that fits one line without a time into the next slot.
    #[inline(always)]
    fn put_line(&mut self, body: [u64; LINE_WORDS], frame: &[u8], filter: FilterId) -> Result<(), LaneError> {
        let tail = frame.get(BODY_BYTES..).map_or(0, word);
        self.put_words(&body, one_line_word(frame.len(), tail, filter))
    }

    /// Writes a frame that is a little longer than a line into the next two slots. The whole of its rest is in the last word of
    /// the second one, which the last word of the first one orders.
    #[inline(always)]
    fn put_pair(&mut self, body: [u64; LINE_WORDS], frame: &[u8], filter: FilterId) -> Result<(), LaneError> {
        let [tail, rest] = tails(frame);
        let at = self.geometry.slot_at(self.next.wrapping_add(1)) + BODY_BYTES;
        let second = u64::from(rest) | self.lap;
        let stored = self.outbound.store_u64(at, second, StoreOrder::Relaxed);
        stored.map_err(|error| self.fail(error.into()))?;
        let (first, _) = short_words(frame.len(), [tail, rest], filter, false);
        self.put_words(&body, first)?;
        self.next_slot();
        Ok(())
    }

    /// Has the processor fetch a slot that is written soon, while the lines before it are still on their way. For staged
    /// frames alone: between frames that go one by one the receiver is close behind, and the lines would go to and fro.
    #[inline(always)]
    fn fetch_ahead(&self) {
        let ahead = self.next.wrapping_add(AHEAD);
        if ahead < self.until {
            self.outbound.will_store(self.geometry.slot_at(ahead));
        }
    }

    /// Writes a frame that is a little longer than a line into the next slot, and its rest into the line of rests that is held.
    #[inline(always)]
    fn put_sharing(
        &mut self,
        body: [u64; LINE_WORDS],
        frame: &[u8],
        filter: FilterId,
    ) -> Result<(), LaneError> {
        let [tail, rest] = tails(frame);
        self.held.add_rest(rest);
        self.put_words(&body, shares_word(frame.len() - LINE_FRAME, tail, filter))
    }

    /// Writes the next slot: its last word, which is given its lap, last.
    #[inline(always)]
    fn put_words(&mut self, body: &[u64; LINE_WORDS], last: u64) -> Result<(), LaneError> {
        let at = self.geometry.slot_at(self.next);
        let stored = self.outbound.store_line(at, body, last | self.lap, release(Site::PublishEvent));
        stored.map_err(|error| self.fail(error.into()))?;
        self.next_slot();
        Ok(())
    }

    /// Writes a line into the next slot.
    #[inline]
    pub(super) fn put(&mut self, line: &Line) -> Result<(), LaneError> {
        self.put_words(&line.body, line.last)
    }

    /// Writes a short frame into the next slot, or the next two: the last word of the first one last.
    fn put_short(&mut self, frame: &[u8], meta: Meta) -> Result<(), LaneError> {
        let (line, second) = self.short_line(frame, meta);
        if let Some(second) = second {
            self.put_second(frame, second)?;
        }
        self.put_words(&line.body, line.last)?;
        if second.is_some() {
            self.next_slot();
        }
        Ok(())
    }

    /// Keeps the first line of a short frame back, and writes the second, if there is one.
    fn hold_short(&mut self, frame: &[u8], meta: Meta) -> Result<(), LaneError> {
        let (line, second) = self.short_line(frame, meta);
        self.held = Held::line(line.body, line.word(self.lap));
        if let Some(second) = second {
            self.put_second(frame, second)?;
            self.next_slot();
        }
        self.next_slot();
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
    fn put_second(&mut self, frame: &[u8], last: u64) -> Result<(), LaneError> {
        let n = self.next + 1;
        let at = self.geometry.slot_at(n);
        let last = last | lap(n, &self.geometry);
        let second = short::second(frame, self.geometry.stamps);
        let stored = self.outbound.write(at, second);
        let stored =
            stored.and_then(|()| self.outbound.store_u64(at + BODY_BYTES, last, StoreOrder::Relaxed));
        stored.map_err(|error| self.fail(error.into()))
    }

    /// Writes the bodies of the lines that a short frame would have, and no last word.
    pub(super) fn warm_slots(&mut self, frame: &[u8]) -> Result<(), LaneError> {
        let stamps = self.geometry.stamps;
        let (first, second) = (short::first(frame, stamps), short::second(frame, stamps));
        let stored = self.outbound.write(self.geometry.slot_at(self.next), first).and_then(
            |()| -> Result<(), WindowError> {
                if second.is_empty() {
                    return Ok(());
                }
                self.outbound.write(self.geometry.slot_at(self.next + 1), second)
            },
        );
        stored.map_err(|error| self.fail(error.into()))
    }

    /// Counts a slot; laps change at the first one alone.
    #[inline(always)]
    pub(super) fn next_slot(&mut self) {
        self.next = self.next.wrapping_add(1);
        if self.geometry.is_first(self.next) {
            self.lap = lap(self.next, &self.geometry);
        }
    }
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
