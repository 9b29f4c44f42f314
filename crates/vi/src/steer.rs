//! Sending to whom it concerns: the receiver's table at the sender.

use crate::filter::{FlowCache, Table, Verdict};
use crate::interface::{LaneId, TransmitError, Vi};
use crate::lane::{Meta, SendError};
use crate::packet::RequestId;
use shm::{Memory, Window};

/// What became of a frame that was steered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steered {
    /// Whether a filter took it, or whose it is.
    pub verdict: Verdict,
    /// Interfaces that it was sent to.
    pub sent: u32,
    /// Interfaces that had no room: they have lost it, and the statistics say so.
    pub full: u32,
}

/// How an interface hands a frame to one lane: [`Vi::transmit`] or [`Vi::transmit_init`].
type Way<V> = fn(&V, LaneId, &[u8], Meta, RequestId) -> Result<(), TransmitError>;

impl<D, O: Window, M: Memory> Vi<D, O, M> {
    /// Sends a frame to every interface whose filter takes it: `table` is the one that the receiver has published,
    /// with the lanes of this interface as targets, and `cache` keeps its last answer. What comes back as
    /// [`Verdict::Kernel`] is for the net device.
    ///
    /// One that has no room does not hold up the others.
    ///
    /// # Errors
    /// [`TransmitError`] of the first lane that is over; the others have got the frame.
    #[inline(always)]
    pub fn transmit_steered(
        &self,
        table: &Table<LaneId>,
        cache: &mut FlowCache<LaneId>,
        frame: &[u8],
        stamp: u64,
        request: RequestId,
    ) -> Result<Steered, TransmitError> {
        let Some((lane, filter)) = cache.only(table, frame) else {
            return self.to_all(table, cache, frame, stamp, request, Self::transmit);
        };
        if self.transmit_usual(lane, frame, filter, request) {
            return Ok(Steered { verdict: cache.verdict(), sent: 1, full: 0 });
        }
        to_one(cache.verdict(), self.transmit_other(lane, frame, filter, stamp, 0, request))
    }

    /// Stages a frame for every interface whose filter takes it, as [`transmit_steered`](Self::transmit_steered) sends it.
    /// [`transmit_push`](Self::transmit_push) sends what is staged on a lane.
    ///
    /// # Errors
    /// [`TransmitError`] of the first lane that is over; the frame was staged on the others.
    #[inline(always)]
    pub fn transmit_init_steered(
        &self,
        table: &Table<LaneId>,
        cache: &mut FlowCache<LaneId>,
        frame: &[u8],
        stamp: u64,
        request: RequestId,
    ) -> Result<Steered, TransmitError> {
        let Some((lane, filter)) = cache.only(table, frame) else {
            return self.to_all(table, cache, frame, stamp, request, Self::transmit_init);
        };
        if self.transmit_init_usual(lane, frame, filter, request) {
            return Ok(Steered { verdict: cache.verdict(), sent: 1, full: 0 });
        }
        to_one(cache.verdict(), self.transmit_init_other(lane, frame, filter, stamp, 0, request))
    }

    /// Has `send` carry a frame to whom it concerns. The usual frame to one recipient, who is known already, does not come here.
    #[inline(never)]
    fn to_all(
        &self,
        table: &Table<LaneId>,
        cache: &mut FlowCache<LaneId>,
        frame: &[u8],
        stamp: u64,
        request: RequestId,
        send: Way<Self>,
    ) -> Result<Steered, TransmitError> {
        let mut steered = Steered { verdict: Verdict::Kernel, sent: 0, full: 0 };
        let mut failed = None;
        steered.verdict = cache.steer_any(table, frame, &mut |lane, filter| match send(
            self,
            lane,
            frame,
            Meta { filter, stamp, hash: 0 },
            request,
        ) {
            Ok(()) => steered.sent += 1,
            Err(TransmitError::Lane(SendError::Full)) => steered.full += 1,
            Err(error) => failed = failed.or(Some(error)),
        });
        failed.map_or(Ok(steered), Err)
    }
}

/// What became of a frame that had one recipient, and was not usual. The usual one's answer is known where it is asked, and has
/// nothing to do with this.
#[inline(never)]
fn to_one(verdict: Verdict, sent: Result<(), TransmitError>) -> Result<Steered, TransmitError> {
    match sent {
        Ok(()) => Ok(Steered { verdict, sent: 1, full: 0 }),
        Err(TransmitError::Lane(SendError::Full)) => Ok(Steered { verdict, sent: 0, full: 1 }),
        Err(error) => Err(error),
    }
}
