//! The virtual interface: lanes to receive from and to send on, and one stream of events.

mod detach;

use crate::bell::Bell;
use crate::domain::{PacketBuffer, ProtectionDomain, unique};
use crate::lane::{Claim, LaneError, LaneOver, Meta, PostError, Receiver, SendError, Sender};
use crate::packet::{Packet, RequestId};
use crate::statistics::{Counters, Statistics, add};
use shm::{Mapping, Memory, Window};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

/// Completions that may wait for [`Vi::transmit_unbundle`]; with more, nothing is sent.
const TRANSMITS: usize = 512;
/// Software events that may wait for a poll.
const SOFTWARE_EVENTS: usize = 64;

/// Which lane of an interface, in the order in which they were attached; receiving and sending ones apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u32);

/// What a poll tells.
#[derive(Debug, Default)]
pub enum Event<'vi, D, O: Window = Mapping, M: Memory = Mapping> {
    /// Nothing: a place in the slice that no event was written to.
    #[default]
    Nothing,
    /// A packet came.
    Received(Packet<'vi, D, O, M>),
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

/// A lane that an interface receives from.
#[derive(Debug)]
pub(crate) struct ReceiveLane<O, M> {
    receiver: Receiver<M, O>,
    number: u64,
    requests: Vec<Cell<RequestId>>,
    told: Cell<bool>,
}

impl<O: Window, M: Memory> ReceiveLane<O, M> {
    #[inline(always)]
    pub(crate) fn receiver(&self) -> &Receiver<M, O> {
        &self.receiver
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn request(&self, index: u32) -> RequestId {
        self.requests.get(index as usize).map_or(RequestId(0), Cell::get)
    }
}

/// A lane that an interface sends on.
#[derive(Debug)]
struct SendLane<O, M> {
    sender: RefCell<Sender<O, M>>,
    bell: Option<Bell>,
    /// Whose frame a slot was last used for.
    requests: RefCell<Vec<RequestId>>,
    told: Cell<bool>,
}

/// A buffer that was not posted, and why.
#[derive(Debug)]
pub struct NotPosted<D> {
    /// The buffer, still the application's.
    pub buffer: PacketBuffer<D>,
    /// Why.
    pub reason: PostRefusal,
}

/// Why a buffer was not posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PostRefusal {
    /// It belongs to another protection domain.
    #[error("the buffer belongs to another protection domain")]
    ForeignDomain,
    /// It belongs to a lane that this interface does not receive from.
    #[error("the buffer belongs to no lane of this interface")]
    ForeignLane,
    /// The lane refuses it.
    #[error(transparent)]
    Lane(#[from] PostError),
}

/// Why a frame was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransmitError {
    /// The interface has no such lane.
    #[error("the interface has no such lane to send on")]
    NoSuchLane,
    /// Too many completions wait: [`Vi::transmit_unbundle`] makes room.
    #[error("completions wait to be fetched")]
    CompletionsWait,
    /// The lane refuses it.
    #[error(transparent)]
    Lane(#[from] SendError),
}

impl From<LaneOver> for TransmitError {
    fn from(_: LaneOver) -> Self {
        Self::NoSuchLane
    }
}

/// A virtual interface: one thread drives it, and it gives nothing away to any other.
///
/// All its methods take `&self`, so that a packet that was received can be held while the next one is sent.
#[derive(Debug)]
pub struct Vi<D, O: Window = Mapping, M: Memory = Mapping> {
    domain: u64,
    receive: Vec<ReceiveLane<O, M>>,
    send: Vec<SendLane<O, M>>,
    /// The receiving lane that the next poll begins with.
    turn: Cell<usize>,
    completed: RefCell<VecDeque<RequestId>>,
    /// Completions that a poll has told of.
    told: Cell<usize>,
    software: RefCell<VecDeque<u16>>,
    overflow: Cell<bool>,
    /// Whether there may be an event that no lane tells of.
    others: Cell<bool>,
    bell: Option<Bell>,
    counters: Counters,
    marker: PhantomData<fn() -> D>,
}

impl<D, O: Window, M: Memory> Vi<D, O, M> {
    /// An interface without lanes.
    #[must_use]
    pub fn new(domain: &ProtectionDomain<D>) -> Self {
        Self {
            domain: domain.number(),
            receive: Vec::new(),
            send: Vec::new(),
            turn: Cell::new(0),
            completed: RefCell::new(VecDeque::with_capacity(TRANSMITS)),
            told: Cell::new(0),
            software: RefCell::new(VecDeque::with_capacity(SOFTWARE_EVENTS)),
            overflow: Cell::new(false),
            others: Cell::new(false),
            bell: None,
            counters: Counters::default(),
            marker: PhantomData,
        }
    }

    /// Receives from one more lane. Its buffers are the application's: nothing that needs one arrives until they are
    /// [posted](Self::receive_init).
    pub fn attach_receiver(&mut self, receiver: Receiver<M, O>) -> (LaneId, Vec<PacketBuffer<D>>) {
        let number = unique();
        let geometry = *receiver.geometry();
        let requests = (0..geometry.buffers).map(|_| Cell::default()).collect();
        self.receive.push(ReceiveLane { receiver, number, requests, told: Cell::new(false) });
        (last(self.receive.len()), PacketBuffer::all(self.domain, number, &geometry))
    }

    /// Sends on one more lane. `bell` wakes its receiver.
    pub fn attach_sender(&mut self, sender: Sender<O, M>, bell: Option<Bell>) -> LaneId {
        let requests = RefCell::new(vec![RequestId(0); sender.geometry().slots as usize]);
        self.send.push(SendLane { sender: RefCell::new(sender), bell, requests, told: Cell::new(false) });
        last(self.send.len())
    }

    /// Puts a fresh lane in the place of one that is over.
    ///
    /// # Errors
    /// The new one, when there is no such place.
    pub fn replace_sender(&mut self, lane: LaneId, sender: Sender<O, M>) -> Result<(), Box<Sender<O, M>>> {
        let Some(place) = self.send.get_mut(lane.0 as usize) else { return Err(Box::new(sender)) };
        place.requests = RefCell::new(vec![RequestId(0); sender.geometry().slots as usize]);
        place.told.set(false);
        place.sender = RefCell::new(sender);
        Ok(())
    }

    /// The bell that this interface's receiving lanes are rung by; [`wait`](Self::wait) sleeps on it.
    pub fn set_bell(&mut self, bell: Bell) {
        self.bell = Some(bell);
    }

    /// Queues a buffer for its lane; the sender gets it with [`receive_push`](Self::receive_push). `request` comes back
    /// with the packet that lands in it.
    ///
    /// # Errors
    /// [`NotPosted`], with the buffer.
    pub fn receive_init(&self, buffer: PacketBuffer<D>, request: RequestId) -> Result<(), NotPosted<D>> {
        if buffer.domain() != self.domain {
            return Err(NotPosted { buffer, reason: PostRefusal::ForeignDomain });
        }
        let Some(lane) = self.receive.iter().find(|lane| lane.number == buffer.lane()) else {
            return Err(NotPosted { buffer, reason: PostRefusal::ForeignLane });
        };
        match lane.receiver.post(buffer.index()) {
            Ok(()) => {
                if let Some(place) = lane.requests.get(buffer.index() as usize) {
                    place.set(request);
                }
                Ok(())
            }
            Err(error) => Err(NotPosted { buffer, reason: error.into() }),
        }
    }

    /// Gives the senders all queued buffers. A lane that is over is told by the next poll.
    pub fn receive_push(&self) {
        for lane in &self.receive {
            let _ = lane.receiver.push();
        }
    }

    /// [`receive_init`](Self::receive_init) and [`receive_push`](Self::receive_push).
    ///
    /// # Errors
    /// [`NotPosted`], with the buffer.
    pub fn receive_post(&self, buffer: PacketBuffer<D>, request: RequestId) -> Result<(), NotPosted<D>> {
        self.receive_init(buffer, request)?;
        self.receive_push();
        Ok(())
    }

    /// Sends one frame at once on a lane, with all that was staged there before.
    ///
    /// # Errors
    /// [`TransmitError`], and nothing of this frame was sent.
    #[inline]
    pub fn transmit(
        &self,
        lane: LaneId,
        frame: &[u8],
        meta: Meta,
        request: RequestId,
    ) -> Result<(), TransmitError> {
        let bytes = frame.len();
        let (lane, wake) = self.with_sender(lane, bytes, request, |sender| sender.send(frame, meta))?;
        self.wake(lane, wake);
        Ok(())
    }

    /// Stages a frame that is gathered from `parts`: it is complete for the application (its memory is free), and goes
    /// to the receiver with [`transmit_push`](Self::transmit_push), or when 64 are staged.
    ///
    /// # Errors
    /// [`TransmitError`], and nothing of this frame was staged.
    #[inline]
    pub fn transmitv_init(
        &self,
        lane: LaneId,
        parts: &[&[u8]],
        meta: Meta,
        request: RequestId,
    ) -> Result<(), TransmitError> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.with_sender(lane, bytes, request, |sender| sender.stage(parts, meta)).map(drop)
    }

    /// Stages one frame: [`transmitv_init`](Self::transmitv_init) of one part.
    ///
    /// # Errors
    /// [`TransmitError`], and nothing of this frame was staged.
    #[inline]
    pub fn transmit_init(
        &self,
        lane: LaneId,
        frame: &[u8],
        meta: Meta,
        request: RequestId,
    ) -> Result<(), TransmitError> {
        self.transmitv_init(lane, &[frame], meta, request)
    }

    /// Sends all that was staged on a lane.
    ///
    /// # Errors
    /// [`TransmitError::Lane`] when the lane is over: [`failed_transmits`](Self::failed_transmits) says what is lost.
    #[inline]
    pub fn transmit_push(&self, lane: LaneId) -> Result<(), TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        let wake = lane.sender.borrow_mut().push().map_err(SendError::from)?;
        self.wake(lane, wake);
        Ok(())
    }

    /// Runs the way of [`transmit`](Self::transmit) without sending, so that code and cache line are at hand.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn transmit_warm(&self, lane: LaneId, frame: &[u8]) -> Result<(), TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        Ok(lane.sender.borrow_mut().warm(frame)?)
    }

    /// Slots of a lane that are free, and posted buffers in hand.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn transmit_space(&self, lane: LaneId) -> Result<(u32, u32), TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        let mut sender = lane.sender.borrow_mut();
        Ok((sender.space().map_err(SendError::from)?, sender.buffers().map_err(SendError::from)?))
    }

    /// Whether the receivers have taken everything that was sent on a lane.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn transmit_flushed(&self, lane: LaneId) -> Result<bool, TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        Ok(lane.sender.borrow_mut().fill_level().map_err(SendError::from)? == 0)
    }

    /// Fetches the numbers of frames that were sent, oldest first; how many.
    pub fn transmit_unbundle(&self, requests: &mut [RequestId]) -> usize {
        let mut completed = self.completed.borrow_mut();
        let count = requests.len().min(completed.len());
        for (to, from) in requests.iter_mut().zip(completed.drain(..count)) {
            *to = from;
        }
        self.told.set(self.told.get().saturating_sub(count));
        count
    }

    /// Calls `each` with the number of every frame on a lane that its receiver had not taken when it said so last:
    /// what may be lost when the lane is over.
    ///
    /// # Errors
    /// [`TransmitError::NoSuchLane`].
    pub fn failed_transmits(
        &self,
        lane: LaneId,
        mut each: impl FnMut(RequestId),
    ) -> Result<(), TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        let mask = u64::from(lane.sender.borrow().geometry().slots - 1);
        let untaken = lane.sender.borrow().untaken();
        let mut before = None;
        // Nothing is borrowed while the application's code runs: it may send again.
        for n in untaken {
            let request = lane.requests.borrow().get(crate::bits::place(n & mask)).copied();
            if request != before {
                request.into_iter().for_each(&mut each);
                before = request;
            }
        }
        Ok(())
    }

    /// Does something with a lane's sender that is no frame yet.
    pub(crate) fn claimed<T>(
        &self,
        lane: LaneId,
        with: impl FnOnce(&mut Sender<O, M>) -> Result<T, SendError>,
    ) -> Result<T, TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        Ok(with(&mut lane.sender.borrow_mut())?)
    }

    /// Stages the event of a frame that lies in a claimed buffer; the claim comes back if it could not.
    pub(crate) fn publish(
        &self,
        lane: LaneId,
        claim: Claim,
        len: usize,
        meta: Meta,
        request: RequestId,
    ) -> Result<(), (Option<Claim>, TransmitError)> {
        let mut claim = Some(claim);
        let staged = self.with_sender(lane, len, request, |sender| {
            let Some(this) = claim.take() else { return Ok(()) };
            sender.publish(this, len, meta).map_err(|(this, error)| {
                claim = Some(this);
                error
            })
        });
        staged.map(drop).map_err(|error| (claim, error))
    }

    /// Stages a frame that lies in shared memory.
    pub(crate) fn stage_from(
        &self,
        lane: LaneId,
        memory: &impl Memory,
        at: usize,
        len: usize,
        meta: Meta,
        request: RequestId,
    ) -> Result<(), TransmitError> {
        self.with_sender(lane, len, request, |sender| sender.stage_from(memory, at, len, meta)).map(drop)
    }

    /// The length and the first 40 bytes of a frame whose payload is still on its way to a receiving lane, if its
    /// sender announced it ([`transmit_ctpio`](Self::transmit_ctpio)) and it is the next to come. Nothing is taken:
    /// the frame comes by a poll, and may differ.
    #[must_use]
    pub fn peek(&self, lane: LaneId) -> Option<(u32, [u8; 40])> {
        // A lane that is over is told by the next poll.
        self.receive.get(lane.0 as usize)?.receiver.peek().ok()?
    }

    #[inline(always)]
    fn with_sender<T>(
        &self,
        lane: LaneId,
        bytes: usize,
        request: RequestId,
        send: impl FnOnce(&mut Sender<O, M>) -> Result<T, SendError>,
    ) -> Result<(&SendLane<O, M>, T), TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        let mut completed = self.completed.borrow_mut();
        if completed.len() >= TRANSMITS {
            return Err(TransmitError::CompletionsWait);
        }
        let mut sender = lane.sender.borrow_mut();
        let first = sender.next_slot_number();
        let out = match send(&mut sender) {
            Ok(out) => out,
            Err(error) => {
                if error == SendError::Full {
                    add(&self.counters.full, 1);
                }
                return Err(error.into());
            }
        };
        let mask = u64::from(sender.geometry().slots - 1);
        let mut requests = lane.requests.borrow_mut();
        for n in first..sender.next_slot_number() {
            if let Some(place) = requests.get_mut(crate::bits::place(n & mask)) {
                *place = request;
            }
        }
        completed.push_back(request);
        self.others.set(true);
        add(&self.counters.sent_frames, 1);
        add(&self.counters.sent_bytes, bytes as u64);
        Ok((lane, out))
    }

    #[inline]
    fn wake(&self, lane: &SendLane<O, M>, wake: bool) {
        if wake && let Some(bell) = &lane.bell {
            add(&self.counters.wakeups, 1);
            // A bell that cannot be rung belongs to a process that is gone; its lane says so.
            let _ = bell.ring();
        }
    }

    /// Writes events into `events`, from its beginning; how many. What stood in the places that it writes to is dropped;
    /// places behind the last event are left as they are.
    #[inline]
    pub fn poll<'vi>(&'vi self, events: &mut [Event<'vi, D, O, M>]) -> usize {
        let lanes = self.receive.len();
        let mut count = 0;
        let mut turn = self.turn.get();
        for _ in 0..lanes {
            let Some(lane) = self.receive.get(turn) else { break };
            while let Some(place) = events.get_mut(count) {
                match lane.receiver.take() {
                    Ok(Some(arrival)) => {
                        add(&self.counters.received_packets, 1);
                        add(&self.counters.received_bytes, arrival.body.len() as u64);
                        *place = Event::Received(Packet::new(lane, self.domain, arrival));
                        count += 1;
                    }
                    Ok(None) => break,
                    Err(LaneOver) => {
                        if let Some(reason) = self.first_failure(&lane.told, lane.receiver.failure()) {
                            *place = Event::ReceiveFailed { lane: lane_id(turn), reason };
                            count += 1;
                        }
                        break;
                    }
                }
            }
            turn = if turn + 1 < lanes { turn + 1 } else { 0 };
            if count == events.len() {
                // The one that filled the slice waits for its next turn.
                self.turn.set(turn);
                return count;
            }
        }
        if self.others.get() { self.poll_others(events, count) } else { count }
    }

    fn quiet(&self) -> bool {
        self.completed.borrow().len() == self.told.get()
            && self.software.borrow().is_empty()
            && !self.overflow.get()
    }

    #[inline(never)]
    fn poll_others<'vi>(&'vi self, events: &mut [Event<'vi, D, O, M>], mut count: usize) -> usize {
        let completed = self.completed.borrow().len();
        if completed > self.told.get()
            && let Some(place) = events.get_mut(count)
        {
            *place = Event::Transmitted { count: completed };
            self.told.set(completed);
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
    #[cold]
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
            let failure = lane.sender.borrow().failure();
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

    /// What was counted.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.counters.get()
    }

    /// Begins to count anew.
    pub fn reset_statistics(&self) {
        self.counters.reset();
    }
}

/// The number of the last of so many lanes.
fn last(count: usize) -> LaneId {
    lane_id(count.saturating_sub(1))
}

fn lane_id(at: usize) -> LaneId {
    LaneId(u32::try_from(at).unwrap_or(u32::MAX))
}
