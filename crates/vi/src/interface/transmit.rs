//! Sending: frames staged and pushed, their completions, and what is lost when a lane is over.

use super::{LaneId, Vi};
use crate::bell::Bell;
use crate::bits::place;
use crate::lane::{Claim, LaneOver, Meta, SendError, Sender};
use crate::packet::RequestId;
use crate::statistics::add;
use shm::{Memory, Window};
use std::cell::{Cell, RefCell};

/// A lane that an interface sends on.
#[derive(Debug)]
pub(super) struct SendLane<O, M> {
    pub(super) sender: RefCell<Sender<O, M>>,
    pub(super) bell: Option<Bell>,
    /// Whose frame a slot was last used for.
    pub(super) requests: Vec<Cell<RequestId>>,
    pub(super) told: Cell<bool>,
}

impl<O, M> SendLane<O, M> {
    /// Notes whose frame is in the slots from `first` to before `end`.
    #[inline(always)]
    fn note(&self, first: u64, end: u64, request: RequestId) {
        // There are as many places as slots, a power of two.
        let mask = self.requests.len().wrapping_sub(1);
        let mut n = first;
        while n != end {
            if let Some(place) = self.requests.get(place(n) & mask) {
                place.set(request);
            }
            n = n.wrapping_add(1);
        }
    }
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

impl<D, O: Window, M: Memory> Vi<D, O, M> {
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
        self.with_sender(lane, frame.len(), request, |sender| sender.stage_one(frame, meta)).map(drop)
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
    #[inline]
    pub fn transmit_unbundle(&self, requests: &mut [RequestId]) -> usize {
        self.completed.fetch(requests)
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
            let request = lane.requests.get(place(n & mask)).map(Cell::get);
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

    #[inline(always)]
    fn with_sender<T>(
        &self,
        lane: LaneId,
        bytes: usize,
        request: RequestId,
        send: impl FnOnce(&mut Sender<O, M>) -> Result<T, SendError>,
    ) -> Result<(&SendLane<O, M>, T), TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        if self.completed.is_full() {
            return Err(TransmitError::CompletionsWait);
        }
        let mut sender = lane.sender.borrow_mut();
        let first = sender.next_slot_number();
        let out = match send(&mut sender) {
            Ok(out) => out,
            Err(error) => return Err(self.refused(error)),
        };
        // Behind the stores: nobody waits for this.
        lane.note(first, sender.next_slot_number(), request);
        self.completed.put(request);
        self.others.set(true);
        add(&self.counters.sent_frames, 1);
        add(&self.counters.sent_bytes, bytes as u64);
        Ok((lane, out))
    }

    #[cold]
    fn refused(&self, error: SendError) -> TransmitError {
        if error == SendError::Full {
            add(&self.counters.full, 1);
        }
        error.into()
    }

    #[inline]
    fn wake(&self, lane: &SendLane<O, M>, wake: bool) {
        if wake && let Some(bell) = &lane.bell {
            add(&self.counters.wakeups, 1);
            // A bell that cannot be rung belongs to a process that is gone; its lane says so.
            let _ = bell.ring();
        }
    }
}
