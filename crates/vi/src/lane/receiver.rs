//! The receiving end of a lane.

use super::event::{EARLY_BYTES, INLINE_MOST, Line, Said};
use super::order::{Site, acquire, release, settle};
use super::{BadGeometry, Geometry, LaneError, Meta, Nonsense};
use crate::bits::place;
use shm::{Memory, StoreOrder, Window};
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
    Failed(#[from] LaneError),
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Here: a private copy, so it needs no checking twice. The slot is free again.
    Inline {
        /// The frame, padded with zeros.
        bytes: [u8; INLINE_MOST],
        /// Its length in bytes.
        len: u8,
    },
    /// In a buffer, which is now held ([`Holding::Frame`]).
    Buffer {
        /// Which.
        index: u32,
        /// Bytes of the frame in it.
        len: u32,
        /// Whether the frame begins here.
        start: bool,
        /// Whether it goes on in the next event.
        continues: bool,
    },
}

/// A frame, or a part of one, that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// What travelled beside it.
    pub meta: Meta,
    /// The frame.
    pub body: Body,
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
    /// Slots taken, as the sender was told.
    credited: Cell<u64>,
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
            credited: Cell::new(0),
            credit_batch: u64::from(geometry.slots / 4).max(1),
            holdings: (0..geometry.buffers).map(|_| Cell::new(Holding::Application)).collect(),
            queue: (0..geometry.posted_slots()).map(|_| Cell::new(0)).collect(),
            queued: Cell::new(0),
            posted: Cell::new(0),
            armed: Cell::new(0),
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
        let holding = self.held(index, Holding::Frame)?;
        holding.set(Holding::Application);
        Ok(())
    }

    fn held(&self, index: u32, by: Holding) -> Result<&Cell<Holding>, PostError> {
        let holding = self.holdings.get(index as usize).ok_or(PostError::NoSuchBuffer(index))?;
        if holding.get() == by { Ok(holding) } else { Err(PostError::InUse(index)) }
    }

    fn hand_over(&self, index: u32, by: Holding) -> Result<(), PostError> {
        self.alive()?;
        let holding = self.held(index, by)?;
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
    pub fn push(&self) -> Result<(), LaneError> {
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
    pub fn has_event(&self) -> Result<bool, LaneError> {
        self.alive()?;
        let n = self.taken.get();
        let lap = Line::lap(self.last_word(n)?);
        Ok(lap != Geometry::lap_before(n, self.geometry.slots))
    }

    #[inline]
    fn last_word(&self, n: u64) -> Result<u64, LaneError> {
        let at = self.geometry.slot_at(n) + super::event::BODY_BYTES;
        self.memory.load_u64(at, acquire(Site::SeeEvent)).map_err(|error| self.fail(error.into()))
    }

    /// The line in the next slot, if it was written.
    #[inline]
    fn line(&self, n: u64) -> Result<Option<Line>, LaneError> {
        let last = self.last_word(n)?;
        let (lap, expected) = (Line::lap(last), Geometry::lap(n, self.geometry.slots));
        if lap != expected {
            return self.no_line(n, lap, expected);
        }
        let mut line = Line { body: [0; super::event::BODY_BYTES], last };
        let read = self.memory.read(self.geometry.slot_at(n), &mut line.body);
        read.map_err(|error| self.fail(error.into()))?;
        Ok(Some(line))
    }

    #[inline(never)]
    fn no_line(&self, n: u64, lap: u8, expected: u8) -> Result<Option<Line>, LaneError> {
        if lap == Geometry::lap_before(n, self.geometry.slots) {
            return Ok(None);
        }
        let slot = u32::try_from(n & u64::from(self.geometry.slots - 1)).unwrap_or(0);
        Err(self.fail(Nonsense::Lap { slot, seen: lap, expected }.into()))
    }

    /// Takes the next frame, if one came. When none did, the sender is told what was taken since it was told last, and
    /// gets the buffers that were let go.
    ///
    /// # Errors
    /// The lane is over.
    #[inline]
    pub fn take(&self) -> Result<Option<Arrival>, LaneError> {
        self.alive()?;
        // Announcements are passed over, but no more of them than there are slots: a sender that keeps no credit could
        // announce without end.
        for _ in 0..self.geometry.slots {
            let n = self.taken.get();
            let Some(line) = self.line(n)? else {
                self.idle()?;
                return Ok(None);
            };
            let said = line.said(&self.geometry).map_err(|nonsense| self.fail(nonsense.into()))?;
            let stamps = self.geometry.stamps;
            let body = match said {
                Said::Inline { len } => Body::Inline { bytes: line.inline_bytes(stamps), len },
                Said::Buffer { index, len, start, continues } => {
                    self.fill(index)?;
                    Body::Buffer { index, len, start, continues }
                }
                Said::Early { index, .. } => {
                    self.posted(index)?;
                    self.taken_one(n)?;
                    continue;
                }
            };
            self.taken_one(n)?;
            return Ok(Some(Arrival { meta: line.meta(said, stamps), body }));
        }
        Ok(None)
    }

    /// The length and the first 40 bytes of a frame whose payload is still on its way, if the sender announced one
    /// and it is the next to come. What was peeked at is not taken.
    ///
    /// # Errors
    /// The lane is over.
    pub fn peek(&self) -> Result<Option<(u32, [u8; EARLY_BYTES])>, LaneError> {
        self.alive()?;
        let Some(line) = self.line(self.taken.get())? else { return Ok(None) };
        match line.said(&self.geometry).map_err(|nonsense| self.fail(nonsense.into()))? {
            Said::Early { index, len } => {
                self.posted(index)?;
                Ok(Some((len, line.beginning())))
            }
            Said::Inline { .. } | Said::Buffer { .. } => Ok(None),
        }
    }

    fn posted(&self, index: u32) -> Result<&Cell<Holding>, LaneError> {
        self.holdings
            .get(index as usize)
            .filter(|holding| holding.get() == Holding::Posted)
            .ok_or_else(|| self.fail(Nonsense::NotPosted(index).into()))
    }

    fn fill(&self, index: u32) -> Result<(), LaneError> {
        self.posted(index)?.set(Holding::Frame);
        Ok(())
    }

    #[inline]
    fn taken_one(&self, n: u64) -> Result<(), LaneError> {
        self.taken.set(n + 1);
        if n + 1 - self.credited.get() >= self.credit_batch { self.credit() } else { Ok(()) }
    }

    fn credit(&self) -> Result<(), LaneError> {
        let taken = self.taken.get();
        let stored = self.outbound.store_u64(Geometry::CREDIT, taken, release(Site::ReturnCredit));
        stored.map_err(|error| self.fail(error.into()))?;
        self.credited.set(taken);
        Ok(())
    }

    #[inline]
    fn idle(&self) -> Result<(), LaneError> {
        if self.taken.get() != self.credited.get() {
            self.credit()?;
        }
        if self.queued.get() != self.posted.get() {
            self.push()?;
        }
        Ok(())
    }

    /// Copies bytes of a buffer that holds a frame into private memory, from `at` of the buffer on.
    ///
    /// # Errors
    /// [`WindowError::OutOfBounds`](shm::WindowError) behind the buffer's end; `out` is unchanged.
    #[inline]
    pub fn read(&self, index: u32, at: usize, out: &mut [u8]) -> Result<(), shm::WindowError> {
        let end = at.checked_add(out.len()).ok_or(shm::WindowError::OutOfBounds)?;
        if index >= self.geometry.buffers || end > self.geometry.buffer_bytes as usize {
            return Err(shm::WindowError::OutOfBounds);
        }
        self.memory.read(self.geometry.buffer_at(index) + at, out)
    }

    /// Before sleep: arms the lane, then looks once more. True: nothing came, and whatever comes from now on wakes.
    ///
    /// # Errors
    /// The lane is over.
    pub fn arm(&self) -> Result<bool, LaneError> {
        self.alive()?;
        self.idle()?;
        let armed = self.armed.get() + 1;
        let stored = self.outbound.store_u64(Geometry::ARMED, armed, StoreOrder::Relaxed);
        stored.map_err(|error| self.fail(error.into()))?;
        self.armed.set(armed);
        settle(Site::Arm, &self.outbound).map_err(|error| self.fail(error.into()))?;
        Ok(!self.has_event()?)
    }

    #[inline]
    fn alive(&self) -> Result<(), LaneError> {
        self.failed.get().map_or(Ok(()), Err)
    }

    #[cold]
    fn fail(&self, error: LaneError) -> LaneError {
        let first = self.failed.get().unwrap_or(error);
        self.failed.set(Some(first));
        first
    }
}
