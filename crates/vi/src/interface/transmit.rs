//! Sending: frames staged and pushed, their completions, and what is lost when a lane is over.

use super::{LaneId, Vi};
use crate::bell::Bell;
use crate::bits::place;
use crate::lane::{Claim, FilterId, LaneError, Meta, SendError, Sender};
use crate::packet::RequestId;
use crate::statistics::add;
use shm::{Memory, Window};
use std::cell::Cell;

/// A lane that an interface sends on.
#[derive(Debug)]
pub(super) struct SendLane<O, M> {
    pub(super) sender: Sender<O, M>,
    pub(super) bell: Option<Bell>,
    /// Whose frame a slot was last used for.
    requests: Vec<Cell<RequestId>>,
    pub(super) told: Cell<bool>,
    /// The first slot of the frame with which the lane ended, counted from the lane's first: it was refused, and the numbers
    /// from here on are those of frames before it.
    ended_at: Cell<u64>,
}

impl<O: Window, M: Memory> SendLane<O, M> {
    pub(super) fn new(sender: Sender<O, M>, bell: Option<Bell>) -> Self {
        let requests = super::requests(sender.geometry().slots);
        Self { sender, bell, requests, told: Cell::new(false), ended_at: Cell::new(u64::MAX) }
    }

    /// Notes whose frame is in the last so many slots.
    #[inline(always)]
    fn note(&self, slots: u64, request: RequestId) {
        let next = self.sender.next_slot_number();
        self.note_one(next.wrapping_sub(1), request);
        // The usual frame has one.
        if slots > 1 {
            self.note_more(next, slots, request);
        }
    }

    /// Whose frame the `n`th slot was last used for. There are as many places as slots, a power of two.
    #[inline(always)]
    fn request(&self, n: u64) -> Option<&Cell<RequestId>> {
        let mask = self.requests.len().checked_sub(1)?;
        self.requests.get(place(n) & mask)
    }

    #[inline(always)]
    fn note_one(&self, n: u64, request: RequestId) {
        if let Some(place) = self.request(n) {
            place.set(request);
        }
    }

    #[inline(never)]
    fn note_more(&self, next: u64, slots: u64, request: RequestId) {
        (2..=slots).for_each(|back| self.note_one(next.wrapping_sub(back), request));
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

impl<D, O: Window, M: Memory> Vi<D, O, M> {
    /// Sends one frame at once on a lane, with all that was staged there before.
    ///
    /// # Errors
    /// [`TransmitError`], and nothing of this frame was sent.
    #[inline(always)]
    pub fn transmit(
        &self,
        lane: LaneId,
        frame: &[u8],
        meta: Meta,
        request: RequestId,
    ) -> Result<(), TransmitError> {
        if self.transmit_usual(lane, frame, meta.filter, request) {
            return Ok(());
        }
        self.transmit_other(lane, frame, meta.filter, meta.stamp, meta.hash, request)
    }

    /// Sends a usual frame. False: [`transmit`](Self::transmit) sends it, or says why it cannot be sent.
    #[inline(always)]
    pub(crate) fn transmit_usual(
        &self,
        lane: LaneId,
        frame: &[u8],
        filter: FilterId,
        request: RequestId,
    ) -> bool {
        // Written out, not by `with_sender`: what a closure borrows is in memory, and the frame would wait for it.
        let Ok(lane) = self.sender(lane) else { return false };
        let first = lane.sender.next_slot_number();
        let Some(wake) = lane.sender.send_usual(frame, filter) else { return false };
        let slots = lane.sender.next_slot_number().wrapping_sub(first);
        self.sent(lane, slots, frame.len(), request);
        self.wake(lane, wake);
        true
    }

    /// In pieces: see [`Sender::send_other`].
    #[inline(never)]
    pub(crate) fn transmit_other(
        &self,
        lane: LaneId,
        frame: &[u8],
        filter: FilterId,
        stamp: u64,
        hash: u32,
        request: RequestId,
    ) -> Result<(), TransmitError> {
        let send = |sender: &Sender<O, M>| sender.send_other(frame, filter, stamp, hash);
        let (lane, wake) = self.with_sender(lane, frame.len(), request, send)?;
        self.wake(lane, wake);
        Ok(())
    }

    /// Stages a frame that is gathered from `parts`: it is complete for the application (its memory is free), and goes
    /// to the receiver with [`transmit_push`](Self::transmit_push), or when 64 slots are staged.
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
        self.with_sender(lane, bytes, request, |sender| sender.stage(parts, meta))?;
        Ok(())
    }

    /// Stages one frame: [`transmitv_init`](Self::transmitv_init) of one part.
    ///
    /// # Errors
    /// [`TransmitError`], and nothing of this frame was staged.
    #[inline(always)]
    pub fn transmit_init(
        &self,
        lane: LaneId,
        frame: &[u8],
        meta: Meta,
        request: RequestId,
    ) -> Result<(), TransmitError> {
        if self.transmit_init_usual(lane, frame, meta.filter, request) {
            return Ok(());
        }
        self.transmit_init_other(lane, frame, meta.filter, meta.stamp, meta.hash, request)
    }

    /// Stages a usual frame. False: [`transmit_init`](Self::transmit_init) stages it, or says why it cannot be sent.
    #[inline(always)]
    pub(crate) fn transmit_init_usual(
        &self,
        lane: LaneId,
        frame: &[u8],
        filter: FilterId,
        request: RequestId,
    ) -> bool {
        let Ok(lane) = self.sender(lane) else { return false };
        let Some(slots) = lane.sender.stage_usual(frame, filter) else { return false };
        self.sent(lane, slots.into(), frame.len(), request);
        true
    }

    /// In pieces: see [`Sender::send_other`].
    #[inline(never)]
    pub(crate) fn transmit_init_other(
        &self,
        lane: LaneId,
        frame: &[u8],
        filter: FilterId,
        stamp: u64,
        hash: u32,
        request: RequestId,
    ) -> Result<(), TransmitError> {
        let stage = |sender: &Sender<O, M>| sender.stage_other(frame, filter, stamp, hash);
        self.with_sender(lane, frame.len(), request, stage)?;
        Ok(())
    }

    /// Sends all that was staged on a lane.
    ///
    /// # Errors
    /// [`TransmitError::Lane`] when the lane is over: [`failed_transmits`](Self::failed_transmits) says what is lost.
    #[inline]
    pub fn transmit_push(&self, lane: LaneId) -> Result<(), TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        let wake = lane.sender.push().map_err(SendError::from)?;
        self.wake(lane, wake);
        Ok(())
    }

    /// Runs the way of [`transmit`](Self::transmit) without sending, so that code and cache line are at hand.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn transmit_warm(&self, lane: LaneId, frame: &[u8]) -> Result<(), TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        Ok(lane.sender.warm(frame)?)
    }

    /// Says that a frame of about `bytes` bytes goes out on a lane soon, so that its cache lines are fetched while the program
    /// still looks at what it answers: call it when a packet has come, before looking at it. Called earlier it does harm, since
    /// the receiver polls that line; called for nothing it costs a line's way there and back.
    #[inline(always)]
    pub fn transmit_soon(&self, lane: LaneId, bytes: usize) {
        if let Some(lane) = self.send.get(place(lane.0.into())) {
            lane.sender.will_send(bytes);
        }
    }

    /// Slots of a lane that are free, and posted buffers in hand.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn transmit_space(&self, lane: LaneId) -> Result<(u32, u32), TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        let sender = &lane.sender;
        Ok((sender.space().map_err(SendError::from)?, sender.buffers().map_err(SendError::from)?))
    }

    /// Whether the receivers have taken everything that was sent on a lane.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn transmit_flushed(&self, lane: LaneId) -> Result<bool, TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        Ok(lane.sender.fill_level().map_err(SendError::from)? == 0)
    }

    /// Why a lane to send on is over, if it is.
    #[must_use]
    pub fn transmit_failure(&self, lane: LaneId) -> Option<LaneError> {
        self.send.get(lane.0 as usize)?.sender.failure()
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
        let untaken = lane.sender.untaken();
        let mut before = None;
        // Nothing is borrowed while the application's code runs: it may send again.
        for n in untaken.start..untaken.end.min(lane.ended_at.get()) {
            let request = lane.request(n).map(Cell::get);
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
        with: impl FnOnce(&Sender<O, M>) -> Result<T, SendError>,
    ) -> Result<T, TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        Ok(with(&lane.sender)?)
    }

    /// The same with what may take slots: they are this frame's.
    pub(crate) fn claimed_for<T>(
        &self,
        lane: LaneId,
        request: RequestId,
        with: impl FnOnce(&Sender<O, M>) -> Result<T, SendError>,
    ) -> Result<T, TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        let first = lane.sender.next_slot_number();
        let done = with(&lane.sender);
        let slots = lane.sender.next_slot_number().wrapping_sub(first);
        if slots > 0 {
            lane.note(slots, request);
        }
        done.map_err(|error| self.refused(lane, first, error))
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
        self.with_sender(lane, len, request, |sender| sender.stage_from(memory, at, len, meta))?;
        Ok(())
    }

    /// Has a lane's sender send or stage a frame, and notes it; what the sender has said of it.
    fn with_sender<T>(
        &self,
        lane: LaneId,
        bytes: usize,
        request: RequestId,
        with: impl FnOnce(&Sender<O, M>) -> Result<T, SendError>,
    ) -> Result<(&SendLane<O, M>, T), TransmitError> {
        let lane = self.sender(lane)?;
        let first = lane.sender.next_slot_number();
        let said = with(&lane.sender).map_err(|error| self.refused(lane, first, error))?;
        let slots = lane.sender.next_slot_number().wrapping_sub(first);
        self.sent(lane, slots, bytes, request);
        Ok((lane, said))
    }

    /// The sender of a lane, if there is room for one more completion.
    #[inline(always)]
    fn sender(&self, lane: LaneId) -> Result<&SendLane<O, M>, TransmitError> {
        let lane = self.send.get(lane.0 as usize).ok_or(TransmitError::NoSuchLane)?;
        if self.completed.is_full() {
            return Err(TransmitError::CompletionsWait);
        }
        Ok(lane)
    }

    /// Notes a frame that has taken so many slots just now. It comes behind the stores: nobody waits for this.
    #[inline(always)]
    fn sent(&self, lane: &SendLane<O, M>, slots: u64, bytes: usize, request: RequestId) {
        lane.note(slots, request);
        self.completed.put(request);
        add(&self.counters.sent_bytes, bytes as u64);
    }

    /// Counts a frame that was not sent, whose first slot this would have been.
    #[cold]
    fn refused(&self, lane: &SendLane<O, M>, first: u64, error: SendError) -> TransmitError {
        match error {
            SendError::Full => add(&self.counters.full, 1),
            // Some of it may be in slots all the same.
            SendError::Failed(_) => lane.ended_at.set(lane.ended_at.get().min(first)),
            _ => {}
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
