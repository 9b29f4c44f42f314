//! The receiving end of a lane.

use super::event::{BODY_BYTES, EARLY_BYTES, LINE_BYTES, LINE_FRAME, Line, STAMP, Said, short_said};
use super::order::{Site, acquire, release, settle};
use super::{BadGeometry, Geometry, LaneError, LaneOver, Meta, Nonsense, short};
use crate::bits::{low32, place};
use shm::{LoadOrder, Memory, StoreOrder, Window, WindowError};
use std::cell::Cell;

/// Buffers are posted in groups of this many: a cache line of the ring they are posted in.
const POST_BATCH: u64 = 8;

/// Who has a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// The application: it was never posted, or taken out.
    Application,
    /// On its way to the sender, or there.
    Posted,
    /// It holds a frame that was received and not let go.
    Frame,
}

/// Why a buffer was not posted. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The lane has no such buffer.
    #[error("the lane has no buffer {0}")]
    NoSuchBuffer(u32),
    /// It is posted already, or holds a frame.
    #[error("buffer {0} is in use")]
    InUse(u32),
    /// The lane is over.
    #[error(transparent)]
    Failed(#[from] LaneOver),
}

/// Where a frame is. It stays there until it is [let go](Receiver::let_go).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Body {
    /// Which event it was, counted from the lane's first.
    n: u64,
    /// What the last words of its slots hold of a short frame.
    tails: [u32; 2],
    /// The buffer of one that is not short.
    index: u32,
    len: u32,
    short: bool,
    start: bool,
    continues: bool,
}

impl Body {
    /// Bytes of the frame that are here.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never asked whether it is empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The buffer that it is in, and that is now held ([`Holding::Frame`]); none if it is in the slots of its event.
    #[inline]
    #[must_use]
    pub fn buffer(&self) -> Option<u32> {
        (!self.short).then_some(self.index)
    }

    /// Whether the frame begins here.
    #[inline]
    #[must_use]
    pub fn starts(&self) -> bool {
        self.start
    }

    /// Whether the frame goes on in the next event.
    #[inline]
    #[must_use]
    pub fn continues(&self) -> bool {
        self.continues
    }
}

/// A frame, or a part of one, that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// What travelled beside it.
    pub meta: Meta,
    /// The frame.
    pub body: Body,
}

/// Where the next tag will appear, what it will say, and what it says until then.
#[derive(Debug, Clone, Copy)]
struct Next {
    at: usize,
    lap: u8,
    before: u8,
    /// The first bits of the last word of a frame in one line: one comparison tells the usual case.
    usual: u64,
}

impl Next {
    fn of(geometry: &Geometry, n: u64) -> Self {
        let at = geometry.slot_at(n) + BODY_BYTES;
        let lap = Geometry::lap(n, geometry.slots);
        // Lines with a time want a second look.
        let usual = if geometry.stamps { u64::MAX } else { Line::one_line(lap) };
        Self { at, lap, before: Geometry::lap_before(n, geometry.slots), usual }
    }

    /// The one after the `n`th: laps change at the first slot alone.
    #[inline]
    fn after(self, geometry: &Geometry, n: u64) -> Self {
        let slot = (n + 1) & u64::from(geometry.slots - 1);
        if slot == 0 { Self::of(geometry, n + 1) } else { Self { at: self.at + LINE_BYTES, ..self } }
    }
}

/// The receiving end. `M` is the receive area, `O` leads into the return area.
///
/// It belongs to one thread; what it gives out may be let go while it is being asked for more.
#[derive(Debug)]
pub struct Receiver<M, O> {
    memory: M,
    outbound: O,
    geometry: Geometry,
    /// Slots taken, ever.
    taken: Cell<u64>,
    /// Slots let go, ever, without a gap.
    let_go: Cell<u64>,
    /// Slots let go, as the sender was told.
    credited: Cell<u64>,
    /// The tag that comes next, and where.
    next: Cell<Next>,
    /// Slots that were let go before one that came earlier, and how many there are.
    early: Vec<Cell<bool>>,
    early_count: Cell<u64>,
    /// Slots after which the sender is told at once.
    credit_batch: u64,
    holdings: Vec<Cell<Holding>>,
    /// Buffers to post: a ring as long as the one they are posted in.
    queue: Vec<Cell<u32>>,
    /// Buffers queued, ever.
    queued: Cell<u64>,
    /// Buffers posted, ever.
    posted: Cell<u64>,
    /// How often it was armed.
    armed: Cell<u64>,
    over: Cell<bool>,
    failed: Cell<Option<LaneError>>,
}

impl<M: Memory, O: Window> Receiver<M, O> {
    /// The receiving end of a lane of this shape, fresh: both areas are zero, and every buffer is the application's.
    ///
    /// # Errors
    /// A geometry that cannot be, or areas that are too short for it.
    pub fn new(geometry: Geometry, memory: M, outbound: O) -> Result<Self, BadGeometry> {
        let geometry = geometry.check()?;
        super::fits(memory.bytes(), geometry.receive_bytes())?;
        super::fits(outbound.bytes(), geometry.return_bytes())?;
        Ok(Self {
            memory,
            outbound,
            geometry,
            taken: Cell::new(0),
            let_go: Cell::new(0),
            credited: Cell::new(0),
            next: Cell::new(Next::of(&geometry, 0)),
            early: (0..geometry.slots).map(|_| Cell::new(false)).collect(),
            early_count: Cell::new(0),
            credit_batch: u64::from(geometry.slots / 4).max(1),
            holdings: (0..geometry.buffers).map(|_| Cell::new(Holding::Application)).collect(),
            queue: (0..geometry.posted_slots()).map(|_| Cell::new(0)).collect(),
            queued: Cell::new(0),
            posted: Cell::new(0),
            armed: Cell::new(0),
            over: Cell::new(false),
            failed: Cell::new(None),
        })
    }

    /// The lane's shape.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Why the lane is over, if it is.
    pub fn failure(&self) -> Option<LaneError> {
        self.failed.get()
    }

    /// Who has a buffer; none if there is no such buffer.
    pub fn holding(&self, index: u32) -> Option<Holding> {
        self.holdings.get(index as usize).map(Cell::get)
    }

    /// Queues a buffer that the application has: the sender gets it with the next [`push`](Self::push).
    ///
    /// # Errors
    /// [`PostError`].
    pub fn post(&self, index: u32) -> Result<(), PostError> {
        self.hand_over(index, Holding::Application)
    }

    /// Lets go of a buffer that holds a frame: it is queued, and pushed when eight are.
    ///
    /// # Errors
    /// [`PostError`].
    pub fn repost(&self, index: u32) -> Result<(), PostError> {
        self.hand_over(index, Holding::Frame)?;
        if self.queued.get() - self.posted.get() >= POST_BATCH {
            self.push()?;
        }
        Ok(())
    }

    /// Takes a buffer that holds a frame out of the lane: the application has it, until it posts it again.
    ///
    /// # Errors
    /// [`PostError`].
    pub fn keep(&self, index: u32) -> Result<(), PostError> {
        let holding = self.buffer(index, Holding::Frame)?;
        holding.set(Holding::Application);
        Ok(())
    }

    fn buffer(&self, index: u32, by: Holding) -> Result<&Cell<Holding>, PostError> {
        let holding = self.holdings.get(index as usize).ok_or(PostError::NoSuchBuffer(index))?;
        if holding.get() == by { Ok(holding) } else { Err(PostError::InUse(index)) }
    }

    fn hand_over(&self, index: u32, by: Holding) -> Result<(), PostError> {
        self.alive()?;
        let holding = self.buffer(index, by)?;
        let n = self.queued.get();
        // Never more than there are buffers, and the queue has a place for each.
        let place = place(n & u64::from(self.geometry.posted_slots() - 1));
        self.queue.get(place).ok_or(PostError::NoSuchBuffer(index))?.set(index);
        self.queued.set(n + 1);
        holding.set(Holding::Posted);
        Ok(())
    }

    /// Gives the sender all queued buffers.
    ///
    /// # Errors
    /// The lane is over.
    pub fn push(&self) -> Result<(), LaneOver> {
        self.alive()?;
        let places = self.geometry.posted_slots();
        for n in self.posted.get()..self.queued.get() {
            let index = self.queue.get(place(n & u64::from(places - 1))).map_or(0, Cell::get);
            let Some(address) = self.geometry.address(index) else { continue };
            let word = address.with_lap(Geometry::lap(n, places));
            let stored = self.outbound.store_u64(self.geometry.posted_at(n), word, release(Site::PostBuffer));
            stored.map_err(|error| self.fail(error.into()))?;
            self.posted.set(n + 1);
        }
        Ok(())
    }

    /// Whether something came (or the lane's memory makes no sense, which the next [`take`](Self::take) tells).
    ///
    /// # Errors
    /// The lane is over.
    #[inline]
    pub fn has_event(&self) -> Result<bool, LaneOver> {
        self.alive()?;
        let next = self.next.get();
        Ok(Line::lap(self.last_word(next.at, LoadOrder::Relaxed)?) != next.before)
    }

    #[inline(always)]
    fn last_word(&self, at: usize, order: LoadOrder) -> Result<u64, LaneOver> {
        self.memory.load_u64(at, order).map_err(|error| self.fail(error.into()))
    }

    /// The last word of the next slot, if its line was written.
    fn next_word(&self) -> Result<Option<u64>, LaneOver> {
        let next = self.next.get();
        let last = self.last_word(next.at, acquire(Site::SeeEvent))?;
        let lap = Line::lap(last);
        if lap == next.lap {
            return Ok(Some(last));
        }
        if lap == next.before { Ok(None) } else { Err(self.bad_lap(self.taken.get(), lap, next.lap)) }
    }

    #[cold]
    fn bad_lap(&self, n: u64, seen: u8, expected: u8) -> LaneOver {
        let slot = low32(n & u64::from(self.geometry.slots - 1));
        self.fail(Nonsense::Lap { slot, seen, expected }.into())
    }

    /// The line of the next slot in private memory, for events that are more than a short frame.
    fn line(&self, n: u64, last: u64) -> Result<Line, LaneOver> {
        let mut line = Line { body: [0; BODY_BYTES], last };
        let read = self.memory.read(self.geometry.slot_at(n), &mut line.body);
        read.map_err(|error| self.fail(error.into()))?;
        Ok(line)
    }

    /// Takes the next frame, if one came. When none did, the sender is told what was let go since it was told last,
    /// and gets the buffers that were.
    ///
    /// # Errors
    /// The lane is over.
    #[inline(always)]
    pub fn take(&self) -> Result<Option<Arrival>, LaneOver> {
        self.alive()?;
        let next = self.next.get();
        let last = self.last_word(next.at, acquire(Site::SeeEvent))?;
        let n = self.taken.get();
        if Line::begins(last) == next.usual
            && Line::short_len(last) as usize <= LINE_FRAME
            && n.wrapping_sub(self.let_go.get()) < u64::from(self.geometry.slots)
        {
            self.taken.set(n + 1);
            self.next.set(next.after(&self.geometry, n));
            let tails = [low32(last), 0];
            let len = Line::short_len(last);
            let body = Body { n, tails, index: 0, len, short: true, start: true, continues: false };
            return Ok(Some(Arrival { meta: Meta { filter: Line::filter(last), ..Meta::default() }, body }));
        }
        if Line::lap(last) == next.before {
            self.idle()?;
            return Ok(None);
        }
        self.take_other()
    }

    /// The same, whatever it is that came.
    #[inline(never)]
    fn take_other(&self) -> Result<Option<Arrival>, LaneOver> {
        // Announcements are passed over, but no more of them than there are slots: a sender that keeps no credit could
        // announce without end.
        for _ in 0..self.geometry.slots {
            let n = self.taken.get();
            let Some(last) = self.next_word()? else {
                self.idle()?;
                return Ok(None);
            };
            if Line::is_short(last) {
                return self.take_short(n, last).map(Some);
            }
            if let Some(arrival) = self.take_line(n, last)? {
                return Ok(Some(arrival));
            }
        }
        Ok(None)
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
        let mut tails = [low32(last), 0];
        self.hold(n)?;
        if usize::from(len) > self.geometry.line_most() {
            // Stored before the word that was seen with acquire.
            let next = self.next.get();
            let second = self.last_word(next.at, LoadOrder::Relaxed)?;
            if Line::lap(second) != next.lap {
                return Err(self.bad_lap(n + 1, Line::lap(second), next.lap));
            }
            tails[1] = low32(second);
            self.hold(n + 1)?;
        }
        let len = u32::from(len);
        let body = Body { n, tails, index: 0, len, short: true, start: true, continues: false };
        Ok(Arrival { meta, body })
    }

    /// Takes an event that says more than a short frame; none if it was an announcement.
    fn take_line(&self, n: u64, last: u64) -> Result<Option<Arrival>, LaneOver> {
        let line = self.line(n, last)?;
        let said = line.said(&self.geometry).map_err(|nonsense| self.fail(nonsense.into()))?;
        let arrival = match said {
            Said::Buffer { index, len, start, continues } => {
                self.posted(index)?.set(Holding::Frame);
                let body = Body { n, tails: [0; 2], index, len, short: false, start, continues };
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
        self.release(n)?;
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
        let n = self.taken.get();
        let Some(last) = self.next_word()? else { return Ok(None) };
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
    #[inline(always)]
    fn hold(&self, n: u64) -> Result<(), LaneOver> {
        if n - self.let_go.get() >= u64::from(self.geometry.slots) {
            let slot = low32(n & u64::from(self.geometry.slots - 1));
            return Err(self.fail(Nonsense::NoCredit(slot).into()));
        }
        self.taken.set(n + 1);
        self.next.set(self.next.get().after(&self.geometry, n));
        Ok(())
    }

    /// Lets a slot go; credit follows when nothing before it is held. One that is not held is left alone.
    #[inline(always)]
    fn release(&self, n: u64) -> Result<(), LaneOver> {
        if n != self.let_go.get() || n >= self.taken.get() {
            self.release_early(n);
            return Ok(());
        }
        self.let_go.set(n + 1);
        if self.early_count.get() > 0 {
            self.release_those_after();
        }
        if self.let_go.get() - self.credited.get() >= self.credit_batch { self.credit() } else { Ok(()) }
    }

    fn early(&self, n: u64) -> Option<&Cell<bool>> {
        self.early.get(place(n & u64::from(self.geometry.slots - 1)))
    }

    fn release_early(&self, n: u64) {
        let held = (self.let_go.get()..self.taken.get()).contains(&n);
        if let Some(early) = self.early(n).filter(|early| held && !early.get()) {
            early.set(true);
            self.early_count.set(self.early_count.get() + 1);
        }
    }

    fn release_those_after(&self) {
        while let Some(early) = self.early(self.let_go.get()).filter(|early| early.get()) {
            early.set(false);
            self.early_count.set(self.early_count.get() - 1);
            self.let_go.set(self.let_go.get() + 1);
        }
    }

    /// Lets a frame go: its slot, or its buffer, is the sender's again. Buffers are given back when eight were let go
    /// or when a [`take`](Self::take) finds nothing. A frame that was let go before is left alone.
    ///
    /// # Errors
    /// The lane is over.
    #[inline(always)]
    pub fn let_go(&self, body: &Body) -> Result<(), LaneOver> {
        self.alive()?;
        if body.short {
            if body.len() > self.geometry.line_most() {
                self.release(body.n + 1)?;
            }
            return self.release(body.n);
        }
        match self.repost(body.index) {
            Err(PostError::Failed(over)) => Err(over),
            _ => Ok(()),
        }
    }

    fn posted(&self, index: u32) -> Result<&Cell<Holding>, LaneOver> {
        self.holdings
            .get(index as usize)
            .filter(|holding| holding.get() == Holding::Posted)
            .ok_or_else(|| self.fail(Nonsense::NotPosted(index).into()))
    }

    fn credit(&self) -> Result<(), LaneOver> {
        let free = self.let_go.get();
        let stored = self.outbound.store_u64(Geometry::CREDIT, free, release(Site::ReturnCredit));
        stored.map_err(|error| self.fail(error.into()))?;
        self.credited.set(free);
        Ok(())
    }

    /// Tells the sender what was let go since it was told last, and gives it the buffers that were.
    ///
    /// # Errors
    /// The lane is over.
    #[inline]
    pub(crate) fn idle(&self) -> Result<(), LaneOver> {
        if self.let_go.get() != self.credited.get() {
            self.credit()?;
        }
        if self.queued.get() != self.posted.get() {
            self.push()?;
        }
        Ok(())
    }

    /// Copies bytes of a frame into private memory, from its byte `at` on.
    ///
    /// # Errors
    /// [`WindowError::OutOfBounds`] behind the frame's end; `out` is unchanged.
    #[inline(always)]
    pub fn read(&self, body: &Body, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        let end = at.checked_add(out.len()).ok_or(WindowError::OutOfBounds)?;
        if end > body.len() {
            return Err(WindowError::OutOfBounds);
        }
        if body.short {
            return short::load(&self.memory, &self.geometry, body.n, body.tails, at, out);
        }
        self.memory.read(self.geometry.buffer_at(body.index) + at, out)
    }

    /// The receive area, and where in it a buffer lies: for a copy that goes on to another window.
    pub(crate) fn place(&self, index: u32) -> (&M, usize) {
        (&self.memory, self.geometry.buffer_at(index))
    }

    /// Before sleep: arms the lane, then looks once more. True: nothing came, and whatever comes from now on wakes.
    ///
    /// # Errors
    /// The lane is over.
    pub fn arm(&self) -> Result<bool, LaneOver> {
        self.alive()?;
        self.idle()?;
        let armed = self.armed.get() + 1;
        let stored = self.outbound.store_u64(Geometry::ARMED, armed, StoreOrder::Relaxed);
        stored.map_err(|error| self.fail(error.into()))?;
        self.armed.set(armed);
        settle(Site::Arm, &self.outbound).map_err(|error| self.fail(error.into()))?;
        Ok(!self.has_event()?)
    }

    #[inline(always)]
    fn alive(&self) -> Result<(), LaneOver> {
        if self.over.get() { Err(LaneOver) } else { Ok(()) }
    }

    #[cold]
    fn fail(&self, error: LaneError) -> LaneOver {
        if !self.over.replace(true) {
            self.failed.set(Some(error));
        }
        LaneOver
    }
}
