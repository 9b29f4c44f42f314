//! The sending end of a lane.

use super::event::{LINE_BYTES, LINE_FRAME, Line};
use super::order::{Site, acquire, fence};
use super::put::{Held, lap};
use super::{Address, BadGeometry, Geometry, LaneError, LaneOver, Meta, Nonsense};
use shm::{Lines, LoadOrder, Memory, Routine, Window, WindowError};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Posted buffers of which a cache line tells.
const POSTS_OF_LINE: u64 = 8;

/// Slots that may wait for a push; one more pushes them all.
pub(super) const BATCH: u64 = 64;

/// Up to which slot a frame of a line, or a little more, asks no question: there is credit for the slot, and it is not its
/// lap's last one. Both are 0 on a lane that is over or has times.
#[derive(Debug, Default)]
pub(super) struct Usual {
    /// Frames that are sent at once; 0 while others wait for a push.
    pub(super) send: Cell<u64>,
    /// Frames that are staged behind others: no more than [`BATCH`]; 0 while there are none.
    pub(super) stage: Cell<u64>,
}

/// Why a frame was not sent. The lane is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The receiver has not taken enough yet, or has not posted enough buffers.
    #[error("the receiver has no room")]
    Full,
    /// Longer than all of the lane's buffers together, or than one buffer where a frame may not be scattered.
    #[error("a frame of {bytes} bytes, where {most} is the most")]
    TooLong {
        /// Its length.
        bytes: u32,
        /// What is possible.
        most: u32,
    },
    /// A claim that another lane gave.
    #[error("the claim belongs to another lane")]
    ForeignClaim,
    /// The lane is over.
    #[error(transparent)]
    Failed(#[from] LaneOver),
}

impl SendError {
    /// Lengths that do not fit are the longest that do.
    pub(crate) fn too_long(bytes: usize, most: usize) -> Self {
        let fit = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self::TooLong { bytes: fit(bytes), most: fit(most) }
    }
}

/// The sending end. `O` leads into the receive area, `M` is the return area.
#[derive(Debug)]
pub struct Sender<O, M> {
    /// The receive area, whose beginning is the slots.
    pub(super) slots: Lines<O>,
    inbound: M,
    pub(super) geometry: Geometry,
    /// Tells claims of different lanes apart.
    pub(super) number: u64,
    /// Slots that a receiver may see, ever.
    pub(super) published: Cell<u64>,
    /// Slots written, ever, and the one kept back: the next line goes to this one.
    pub(super) next: Cell<u64>,
    /// The lap that the next slot belongs to, where it stands in a last word.
    pub(super) lap: Cell<u64>,
    /// Slots that the receiver has taken, as it said last.
    pub(super) taken: Cell<u64>,
    /// The first slot that may not be written without a look: 0 on a lane that is over or has times.
    pub(super) until: Cell<u64>,
    /// Posted buffers seen, ever.
    seen: Cell<u64>,
    /// Posted buffers in hand, used in the order in which they came: the longer ago its lines were read, the sooner they are had.
    pub(super) free: RefCell<VecDeque<u32>>,
    /// What follows from what is published, the next slot and the first one without credit.
    pub(super) usual: Usual,
    /// What is not in its slot yet of those that wait for a push.
    pub(super) held: Held,
    /// Payloads from this length on are streamed past the caches.
    pub(super) stream_from: Cell<usize>,
    /// Whether a streamed copy waits for its fence.
    pub(super) streamed: Cell<bool>,
    /// The arming that was answered last.
    woken: Cell<u64>,
    failed: Cell<Option<LaneError>>,
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

impl<O: Window, M: Memory> Sender<O, M> {
    /// The sending end of a lane of this shape, fresh: both areas are zero. The first byte of `outbound` is the first
    /// of the receive area, that of `inbound` the first of the return area.
    ///
    /// # Errors
    /// A geometry that cannot be, or areas that are too short for it.
    pub fn new(geometry: Geometry, outbound: O, inbound: M) -> Result<Self, BadGeometry> {
        let geometry = geometry.check()?;
        super::fits(outbound.bytes(), geometry.receive_bytes())?;
        super::fits(inbound.bytes(), geometry.return_bytes())?;
        Ok(Self {
            slots: Lines::new(outbound, geometry.slots as usize)
                .map_err(|_| BadGeometry::Slots(geometry.slots))?,
            inbound,
            geometry,
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            published: Cell::new(0),
            next: Cell::new(0),
            lap: Cell::new(lap(0, &geometry)),
            taken: Cell::new(0),
            until: Cell::new(if geometry.stamps { 0 } else { geometry.slots.into() }),
            seen: Cell::new(0),
            free: RefCell::new(VecDeque::with_capacity(geometry.buffers as usize)),
            usual: Usual::default(),
            held: Held::default(),
            stream_from: Cell::new(usize::MAX),
            streamed: Cell::new(false),
            woken: Cell::new(0),
            failed: Cell::new(None),
        })
    }

    /// The lane's shape.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Payloads of `bytes` and more go past the caches from now on. It pays towards another die and into
    /// write-combined windows; `usize::MAX` (the default) is never.
    pub fn stream_from(&self, bytes: usize) {
        self.stream_from.set(bytes);
    }

    /// Why the lane is over, if it is.
    pub fn failure(&self) -> Option<LaneError> {
        self.failed.get()
    }

    /// Event slots that are free, as the receiver said last.
    ///
    /// # Errors
    /// The lane is over.
    pub fn space(&self) -> Result<u32, LaneOver> {
        self.look_for_credit()?;
        Ok(u32::try_from(u64::from(self.geometry.slots).saturating_sub(self.used())).unwrap_or(0))
    }

    /// Event slots that hold frames which the receiver has not taken, staged ones too.
    ///
    /// # Errors
    /// The lane is over.
    pub fn fill_level(&self) -> Result<u32, LaneOver> {
        Ok(self.geometry.slots - self.space()?)
    }

    /// Posted buffers in hand.
    ///
    /// # Errors
    /// The lane is over.
    pub fn buffers(&self) -> Result<u32, LaneOver> {
        self.look_for_buffers(usize::MAX)?;
        Ok(u32::try_from(self.free.borrow().len()).unwrap_or(u32::MAX))
    }

    /// Stages a frame that is gathered from `parts`: its payload goes to the receiver now, its event with the next
    /// [`push`](Self::push), or when 64 slots wait. A frame longer than a buffer is scattered over several.
    ///
    /// # Errors
    /// [`SendError`], and nothing of this frame was sent.
    #[inline]
    pub fn stage(&self, parts: &[&[u8]], meta: Meta) -> Result<(), SendError> {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if len <= self.geometry.short_most() {
            if let [frame] = parts {
                return self.stage_short(frame, meta);
            }
            let mut frame = [0; 2 * LINE_FRAME];
            let mut left = frame.get_mut(..len).unwrap_or_default();
            for part in parts {
                let Some((now, later)) = left.split_at_mut_checked(part.len()) else { break };
                now.copy_from_slice(part);
                left = later;
            }
            return self.stage_short(frame.get(..len).unwrap_or_default(), meta);
        }
        self.scatter(len, meta, |sender, at, from, bytes| sender.gather(at, parts, from, bytes))
    }

    /// Stages a frame that lies in shared memory, at `at` of `source`. Between two mappings each byte is copied once, from
    /// there into the receiver's buffer; other windows are copied through a few lines of private memory.
    ///
    /// # Errors
    /// [`SendError`], and nothing of this frame was sent.
    pub fn stage_from(
        &self,
        source: &impl Memory,
        at: usize,
        len: usize,
        meta: Meta,
    ) -> Result<(), SendError> {
        if len <= self.geometry.short_most() {
            let mut frame = [0; 2 * LINE_FRAME];
            let frame = frame.get_mut(..len).unwrap_or_default();
            source.read(at, frame).map_err(|error| self.fail(error.into()))?;
            return self.stage_short(frame, meta);
        }
        self.scatter(len, meta, |sender, to, from, bytes| sender.carry(source, at + from, to, bytes))
    }

    /// Publishes the events of all staged frames. True: the receiver sleeps and is to be woken.
    ///
    /// # Errors
    /// The lane is over.
    #[inline]
    pub fn push(&self) -> Result<bool, LaneOver> {
        self.alive()?;
        self.publish_staged()?;
        Ok(self.armed())
    }

    /// Which slot, counted from the lane's first, the next frame begins at.
    #[inline]
    pub(crate) fn next_slot_number(&self) -> u64 {
        self.next.get()
    }

    /// Slots, counted from the lane's first, whose frames the receiver had not let go when it said so last.
    pub(crate) fn untaken(&self) -> std::ops::Range<u64> {
        self.taken.get()..self.next.get()
    }

    /// Runs the way of a send without sending: writes the frame to the next slot (its first 120 bytes at most), all but
    /// the last word, which is what a receiver looks at. The processor then has code and line at hand.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn warm(&self, frame: &[u8]) -> Result<(), SendError> {
        let frame = frame.get(..self.geometry.short_most()).unwrap_or(frame);
        self.need_slots(self.short_slots(frame.len()))?;
        self.warm_slots(frame)?;
        Ok(())
    }

    /// Slots in use, by staged frames too.
    #[inline(always)]
    fn used(&self) -> u64 {
        self.next.get() - self.taken.get()
    }

    #[inline]
    pub(super) fn alive(&self) -> Result<(), LaneOver> {
        if self.failed.get().is_some() { Err(LaneOver) } else { Ok(()) }
    }

    #[cold]
    pub(super) fn fail(&self, error: LaneError) -> LaneOver {
        self.until.set(0);
        self.usual.send.set(0);
        self.usual.stage.set(0);
        self.failed.set(self.failed.get().or(Some(error)));
        LaneOver
    }

    pub(super) fn buffer_len(&self, bytes: usize) -> Result<u32, SendError> {
        let most = self.geometry.buffer_bytes;
        u32::try_from(bytes)
            .ok()
            .filter(|&len| len <= most)
            .ok_or_else(|| SendError::too_long(bytes, most as usize))
    }

    pub(super) fn address(&self, index: u32) -> Result<Address, LaneOver> {
        // Every index in hand was checked when it came; this says so again, without a panic.
        self.geometry.address(index).ok_or_else(|| self.fail(Nonsense::TooManyBuffers.into()))
    }

    #[inline(always)]
    pub(super) fn need_slots(&self, count: u64) -> Result<(), SendError> {
        self.alive()?;
        if self.used() + count <= u64::from(self.geometry.slots) { Ok(()) } else { self.wait_slots(count) }
    }

    #[cold]
    fn wait_slots(&self, count: u64) -> Result<(), SendError> {
        self.look_for_credit()?;
        if self.used() + count <= u64::from(self.geometry.slots) { Ok(()) } else { Err(SendError::Full) }
    }

    pub(super) fn need_buffers(&self, count: usize) -> Result<(), SendError> {
        self.alive()?;
        if self.free.borrow().len() < count {
            self.look_for_buffers(count)?;
            if self.free.borrow().len() < count {
                return Err(SendError::Full);
            }
        }
        Ok(())
    }

    fn look_for_credit(&self) -> Result<(), LaneOver> {
        self.alive()?;
        let order = acquire(Site::SeeCredit);
        let seen = self.inbound.load_u64(Geometry::CREDIT, order).map_err(|error| self.fail(error.into()))?;
        let (before, sent) = (self.taken.get(), self.published.get());
        if seen < before || seen > sent {
            return Err(self.fail(Nonsense::Credit { seen, before, sent }.into()));
        }
        self.taken.set(seen);
        if !self.geometry.stamps {
            self.until.set(seen + u64::from(self.geometry.slots));
        }
        self.look_ahead();
        Ok(())
    }

    /// Takes posted buffers until there are as many as are wanted, and all of the cache line that the last one is in. The next
    /// line is fetched meanwhile: every line of posts comes from the receiver's processor, and all at once a frame would wait
    /// for all of them.
    fn look_for_buffers(&self, wanted: usize) -> Result<(), LaneOver> {
        self.alive()?;
        let places = self.geometry.posted_slots();
        // Bounded: a receiver that posts without end is a liar, and found out below.
        while self.free.borrow().len() < wanted || !self.seen.get().is_multiple_of(POSTS_OF_LINE) {
            let at = self.geometry.posted_at(self.seen.get());
            let word = self.inbound.load_u64(at, acquire(Site::SeeBuffer));
            let (lap, address) = Address::from_wire(word.map_err(|error| self.fail(error.into()))?);
            let expected = Geometry::lap(self.seen.get(), places);
            if lap != expected {
                if lap == Geometry::lap_before(self.seen.get(), places) {
                    return Ok(());
                }
                return Err(self.fail(Nonsense::PostedLap { seen: lap, expected }.into()));
            }
            let Some(index) = self.geometry.index(address) else {
                return Err(self.fail(Nonsense::Address(address).into()));
            };
            if self.free.borrow().len() >= self.geometry.buffers as usize {
                return Err(self.fail(Nonsense::TooManyBuffers.into()));
            }
            self.free.borrow_mut().push_back(index);
            self.seen.set(self.seen.get() + 1);
        }
        self.inbound.will_load(self.geometry.posted_at(self.seen.get()), LINE_BYTES);
        Ok(())
    }

    /// Writes a frame that fits one buffer into the next one; the line that tells of it.
    pub(super) fn put_payload(&self, frame: &[u8], meta: Meta) -> Result<Line, SendError> {
        self.need_slots(1)?;
        self.need_buffers(1)?;
        let Some(index) = self.free.borrow_mut().pop_front() else { return Err(SendError::Full) };
        self.store_tail(self.geometry.buffer_at(index), frame)?;
        Ok(Line::buffer(self.address(index)?, self.buffer_len(frame.len())?, true, false, meta))
    }

    /// A frame over as many buffers as it needs. All that it needs is there before its first byte is written.
    fn scatter(
        &self,
        len: usize,
        meta: Meta,
        copy: impl Fn(&Self, usize, usize, usize) -> Result<(), LaneOver>,
    ) -> Result<(), SendError> {
        let one = self.geometry.buffer_bytes as usize;
        let parts = len.div_ceil(one);
        let most = (self.geometry.buffers.min(self.geometry.slots) as usize) * one;
        if len > most {
            return Err(SendError::too_long(len, most));
        }
        self.need_slots(parts as u64)?;
        self.need_buffers(parts)?;
        for part in 0..parts {
            let from = part * one;
            let bytes = one.min(len - from);
            let Some(index) = self.free.borrow_mut().pop_front() else { return Err(SendError::Full) };
            copy(self, self.geometry.buffer_at(index), from, bytes)?;
            let address = self.address(index)?;
            let bytes = self.buffer_len(bytes)?;
            let line = Line::buffer(address, bytes, part == 0, part + 1 < parts, meta);
            self.stage_line(&line)?;
        }
        Ok(())
    }

    /// Copies `bytes` bytes of the gathered frame, from its byte `from` on, to `at` of the receive area.
    fn gather(&self, at: usize, parts: &[&[u8]], from: usize, bytes: usize) -> Result<(), LaneOver> {
        let (mut skip, mut left, mut to) = (from, bytes, at);
        for part in parts {
            let Some(rest) = part.get(skip..) else {
                skip -= part.len();
                continue;
            };
            skip = 0;
            let some = rest.get(..left).unwrap_or(rest);
            if some.len() == left {
                return self.store_tail(to, some);
            }
            self.store(to, some)?;
            to += some.len();
            left -= some.len();
        }
        Ok(())
    }

    /// The last part of what goes into a buffer.
    fn store_tail(&self, to: usize, data: &[u8]) -> Result<(), LaneOver> {
        if data.len() >= self.stream_from.get() { self.stream(to, data) } else { self.store(to, data) }
    }

    /// Streams the last part of what goes into a buffer, in whole lines: behind its end the last one is zeros, for which a
    /// buffer, whole lines itself, has room. Stores to a part of a line would wait for it to come from whoever read it last.
    fn stream(&self, to: usize, data: &[u8]) -> Result<(), LaneOver> {
        let whole = data.len().checked_sub((to + data.len()) % LINE_BYTES);
        let Some((lines, rest)) = whole.and_then(|whole| data.split_at_checked(whole)) else {
            return self.store(to, data);
        };
        self.streamed.set(true);
        let mut stored = self.slots.window().write_by(Routine::Stream, to, lines);
        if !rest.is_empty() {
            let mut line = [0; LINE_BYTES];
            line.iter_mut().zip(rest).for_each(|(to, byte)| *to = *byte);
            stored =
                stored.and_then(|()| self.slots.window().write_by(Routine::Stream, to + lines.len(), &line));
        }
        stored.map_err(|error| self.fail(error.into()))
    }

    /// Copies from shared memory into the receive area.
    fn carry(&self, source: &impl Memory, at: usize, to: usize, bytes: usize) -> Result<(), LaneOver> {
        if bytes < self.stream_from.get()
            && let (Some(from), Some(into)) = (source.as_mapping(), self.slots.window().as_mapping())
        {
            return shm::transfer(from, at, into, to, bytes)
                .map_err(|_| self.fail(WindowError::OutOfBounds.into()));
        }
        let mut through = [0; 512];
        let mut done = 0;
        while done < bytes {
            let some = through.get_mut(..(bytes - done).min(512)).unwrap_or_default();
            source.read(at + done, some).map_err(|error| self.fail(error.into()))?;
            if bytes >= self.stream_from.get() {
                self.stream(to + done, some)?;
            } else {
                self.store(to + done, some)?;
            }
            done += some.len();
        }
        Ok(())
    }

    #[inline]
    pub(super) fn store(&self, at: usize, data: &[u8]) -> Result<(), LaneOver> {
        let stored = if data.len() >= self.stream_from.get() {
            self.streamed.set(true);
            self.slots.window().write_by(Routine::Stream, at, data)
        } else {
            self.slots.window().write(at, data)
        };
        stored.map_err(|error| self.fail(error.into()))
    }

    /// Pushes what is staged when as much waits as may.
    #[inline]
    pub(super) fn make_room(&self) -> Result<(), LaneOver> {
        if self.next.get() - self.published.get() >= BATCH { self.publish_staged() } else { Ok(()) }
    }

    /// Whether the receiver went to sleep and was not woken since. Where that cannot be seen the lane is over, and the receiver
    /// is woken: it has what was published.
    #[inline(always)]
    pub(super) fn armed(&self) -> bool {
        self.geometry.wakes && self.look_armed()
    }

    fn look_armed(&self) -> bool {
        fence(Site::LookArmed);
        match self.inbound.load_u64(Geometry::ARMED, LoadOrder::Relaxed) {
            Ok(armed) => self.woken.replace(armed) != armed,
            Err(error) => {
                self.fail(error.into());
                true
            }
        }
    }
}
