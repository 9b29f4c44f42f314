//! The receiving end of a lane.

use super::body::Body;
use super::order::{Site, release, settle};
use super::take::{Lap, Rests};
use super::{BadGeometry, Geometry, LaneError, LaneOver, Nonsense, short};
use crate::bits::place;
use shm::{Lines, Memory, Routine, StoreOrder, Window, WindowError};
use std::cell::Cell;

/// Buffers are posted in groups of this many: a cache line of the ring they are posted in.
const POST_BATCH: u64 = 8;

/// How many frames before it is read one is fetched, and how much of it at most: what follows the processor fetches by
/// itself.
const FRAMES_AHEAD: u64 = 5;
const FETCH_MOST: usize = 4096;

/// How so many bytes of a buffer are read. Beside fetches that are on their way vector registers are better than the
/// processor's string move.
fn routine(bytes: usize) -> Routine {
    match Routine::for_size(bytes) {
        Routine::Rep if bytes <= FETCH_MOST => Routine::Vector,
        other => other,
    }
}

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

/// The receiving end. `M` is the receive area, `O` leads into the return area.
///
/// It belongs to one thread; what it gives out may be let go while it is being asked for more.
#[derive(Debug)]
pub struct Receiver<M, O> {
    /// The receive area, whose beginning is the slots.
    pub(super) slots: Lines<M>,
    outbound: O,
    pub(super) geometry: Geometry,
    /// Slots taken, ever.
    pub(super) taken: Cell<u64>,
    /// Slots let go, ever, without a gap.
    pub(super) let_go: Cell<u64>,
    /// Slots let go, as the sender was told.
    credited: Cell<u64>,
    /// The lap of the slot that comes next.
    pub(super) lap: Lap,
    /// Rests of frames that are to come.
    pub(super) rests: Rests,
    /// Slots that were let go before one that came earlier, and how many there are.
    early: Vec<Cell<bool>>,
    early_count: Cell<u64>,
    /// Slots after which the sender is told at once.
    credit_batch: u64,
    /// Letting this slot go has more to do: 0 while slots were let go early.
    settle_at: Cell<u64>,
    holdings: Vec<Cell<Holding>>,
    /// By slot: which event it was, and the buffer that it told of.
    told: Vec<Cell<(u64, u32)>>,
    /// The last event whose frame a frame that was read has fetched, or would have: what is taken up to it is fetched at once.
    fetched_to: Cell<u64>,
    /// Which bytes of it: from where on, and how many.
    read: Cell<(usize, usize)>,
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
            slots: Lines::new(memory, geometry.slots as usize)
                .map_err(|_| BadGeometry::Slots(geometry.slots))?,
            outbound,
            geometry,
            taken: Cell::new(0),
            let_go: Cell::new(0),
            credited: Cell::new(0),
            lap: Lap::of(&geometry, 0),
            rests: Rests::default(),
            early: (0..geometry.slots).map(|_| Cell::new(false)).collect(),
            early_count: Cell::new(0),
            credit_batch: u64::from(geometry.slots / 4).max(1),
            settle_at: Cell::new(u64::from(geometry.slots / 4).max(1)),
            holdings: (0..geometry.buffers).map(|_| Cell::new(Holding::Application)).collect(),
            told: (0..geometry.slots).map(|_| Cell::new((u64::MAX, 0))).collect(),
            fetched_to: Cell::new(0),
            read: Cell::new((0, 0)),
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

    /// Lets slots go that one frame has; credit follows when nothing before them is held. Those that are not held are
    /// left alone.
    #[inline(always)]
    pub(super) fn release(&self, n: u64, count: u64) -> Result<(), LaneOver> {
        let next = n.wrapping_add(count);
        if n != self.let_go.get() {
            (0..count).for_each(|more| self.release_early(n.wrapping_add(more)));
            return Ok(());
        }
        // It was let go before, or is another lane's.
        if next > self.taken.get() {
            return Ok(());
        }
        self.let_go.set(next);
        // Some were let go early, or credit is due: seldom.
        if next >= self.settle_at.get() { self.settle_slots() } else { Ok(()) }
    }

    /// What follows when slots were let go: those behind them that were let go early, and credit.
    #[cold]
    fn settle_slots(&self) -> Result<(), LaneOver> {
        self.release_those_after();
        if self.let_go.get() - self.credited.get() >= self.credit_batch {
            self.credit()?;
        }
        self.see_when_to_settle();
        Ok(())
    }

    fn see_when_to_settle(&self) {
        let due = self.credited.get() + self.credit_batch;
        self.settle_at.set(if self.early_count.get() > 0 { 0 } else { due });
    }

    fn early(&self, n: u64) -> Option<&Cell<bool>> {
        self.early.get(place(n & u64::from(self.geometry.slots - 1)))
    }

    #[cold]
    fn release_early(&self, n: u64) {
        let held = n > self.let_go.get() && n < self.taken.get();
        if let Some(early) = self.early(n).filter(|early| held && !early.get()) {
            early.set(true);
            self.early_count.set(self.early_count.get() + 1);
            self.settle_at.set(0);
        }
    }

    #[cold]
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
        if let Some(index) = body.buffer() {
            return match self.repost(index) {
                Err(PostError::Failed(over)) => Err(over),
                _ => Ok(()),
            };
        }
        self.alive()?;
        let (first, next) = body.slots();
        self.release(first, next.wrapping_sub(first))
    }

    /// [`let_go`](Self::let_go) of a frame of this lane's that was not let go yet. Usually it is short, it is its turn, and
    /// nothing else is to be done then.
    #[inline(always)]
    pub(crate) fn let_go_packet(&self, body: &Body) -> Result<(), LaneOver> {
        let (first, next) = body.slots();
        if body.buffer().is_none() && first == self.let_go.get() && next < self.settle_at.get() {
            self.let_go.set(next);
            return Ok(());
        }
        let [n, tails, rest] = body.words();
        self.let_go_words(n, tails, rest)
    }

    /// In registers, so that the usual packet need not be in memory.
    #[inline(never)]
    fn let_go_words(&self, n: u64, tails: u64, rest: u64) -> Result<(), LaneOver> {
        self.let_go(&Body::of_words([n, tails, rest]))
    }

    pub(super) fn posted(&self, index: u32) -> Result<&Cell<Holding>, LaneOver> {
        self.holdings
            .get(index as usize)
            .filter(|holding| holding.get() == Holding::Posted)
            .ok_or_else(|| self.fail(Nonsense::NotPosted(index).into()))
    }

    #[cold]
    fn credit(&self) -> Result<(), LaneOver> {
        let free = self.let_go.get();
        let stored = self.outbound.store_u64(Geometry::CREDIT, free, release(Site::ReturnCredit));
        stored.map_err(|error| self.fail(error.into()))?;
        self.credited.set(free);
        self.see_when_to_settle();
        Ok(())
    }

    /// Whether the sender knows of everything that was let go.
    #[inline(always)]
    pub(super) fn owes_nothing(&self) -> bool {
        (self.let_go.get() ^ self.credited.get()) | (self.queued.get() ^ self.posted.get()) == 0
    }

    /// Tells the sender what was let go since it was told last, and gives it the buffers that were.
    ///
    /// # Errors
    /// The lane is over.
    #[inline(never)]
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
        match body.buffer() {
            Some(index) => {
                self.fetch_behind(body, at, out.len());
                let at = self.geometry.buffer_at(index) + at;
                self.slots.window().read_by(routine(out.len()), at, out)
            }
            None => short::load(&self.slots, &self.geometry, body.lies(), at, out),
        }
    }

    /// The `n`th event told of a buffer.
    pub(super) fn tell_buffer(&self, n: u64, index: u32) {
        if n <= self.fetched_to.get() {
            let (at, bytes) = self.read.get();
            self.slots.window().will_load(self.geometry.buffer_at(index) + at, bytes);
        }
        if let Some(told) = self.told.get(place(n & u64::from(self.geometry.slots - 1))) {
            told.set((n, index));
        }
    }

    /// Has the processor fetch the same bytes of a frame that comes a few behind this one, if it was taken already: what is
    /// read of one is likely read of the next, and nothing is fetched that nobody will read.
    fn fetch_behind(&self, body: &Body, at: usize, bytes: usize) {
        let bytes = bytes.min(FETCH_MOST);
        let n = body.lies().n.wrapping_add(FRAMES_AHEAD);
        self.fetched_to.set(n);
        self.read.set((at, bytes));
        let Some(told) = self.told.get(place(n & u64::from(self.geometry.slots - 1))) else { return };
        let (number, index) = told.get();
        if number == n {
            self.slots.window().will_load(self.geometry.buffer_at(index) + at, bytes);
        }
    }

    /// The receive area, and where in it a buffer lies: for a copy that goes on to another window.
    pub(crate) fn place(&self, index: u32) -> (&M, usize) {
        (self.slots.window(), self.geometry.buffer_at(index))
    }

    /// The receive area, and where in it a frame lies, if it lies there in one piece.
    pub(crate) fn piece(&self, body: &Body) -> Option<(&M, usize)> {
        let at = match body.buffer() {
            Some(index) => self.geometry.buffer_at(index),
            None if body.len() <= short::piece(self.geometry.stamps) => self.geometry.slot_at(body.lies().n),
            None => return None,
        };
        Some((self.slots.window(), at))
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
    pub(super) fn alive(&self) -> Result<(), LaneOver> {
        if self.over.get() { Err(LaneOver) } else { Ok(()) }
    }

    #[cold]
    pub(super) fn fail(&self, error: LaneError) -> LaneOver {
        if !self.over.replace(true) {
            self.failed.set(Some(error));
            self.lap.end();
            self.settle_at.set(0);
        }
        LaneOver
    }
}
