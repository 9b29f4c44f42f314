//! Programmed I/O: frames that lie with the receiver before they are sent.
//!
//! ```text
//!   Pio          one frame staged in the receiver's buffer; patched; sent; staged again
//!   Alternative  several frames staged (STOP); sent by their events alone (GO), or dropped (DISCARD)
//!   cut-through  a frame is announced with its beginning, its payload follows, then it is sent
//! ```
//!
//! All of them hold buffers that the receiver has posted: as long as they do, other frames have so many fewer.

use crate::interface::{LaneId, TransmitError, Vi};
use crate::lane::{Claim, Meta, SendError};
use crate::packet::{Packet, RequestId};
use shm::{Memory, Window};

/// A frame that is staged with the receiver and patched before it goes. Its template stays here, to be staged anew.
#[must_use = "a staged frame that is dropped keeps a buffer from the lane: discard it"]
#[derive(Debug)]
pub struct Pio {
    lane: LaneId,
    frame: Vec<u8>,
    claim: Option<Claim>,
}

impl Pio {
    /// Stages the frame, if it is not staged: best done off the path where time counts.
    ///
    /// # Errors
    /// [`TransmitError`]; [`SendError::Full`] while the receiver has no buffer posted.
    pub fn stage<D, O: Window, M: Memory>(&mut self, vi: &Vi<D, O, M>) -> Result<(), TransmitError> {
        if self.claim.is_none() {
            self.claim = Some(vi.claimed(self.lane, |sender| {
                let claim = sender.claim()?;
                match sender.fill(&claim, 0, &self.frame) {
                    Ok(()) => Ok(claim),
                    Err(error) => Err(give_back(sender, claim, error)),
                }
            })?);
        }
        Ok(())
    }

    /// Changes bytes of the frame, in the template and where it is staged.
    ///
    /// # Errors
    /// [`SendError::TooLong`] behind the frame's end; nothing was changed.
    pub fn patch<D, O: Window, M: Memory>(
        &mut self,
        vi: &Vi<D, O, M>,
        at: usize,
        bytes: &[u8],
    ) -> Result<(), TransmitError> {
        let most = self.frame.len();
        let end = at.saturating_add(bytes.len());
        let part = self.frame.get_mut(at..end).ok_or_else(|| SendError::too_long(end, most))?;
        if let Some(claim) = &self.claim {
            vi.claimed(self.lane, |sender| sender.fill(claim, at, bytes))?;
        }
        part.copy_from_slice(bytes);
        Ok(())
    }

    /// Sends the frame: if it is staged, one cache line goes to the receiver. It is to be staged again afterwards.
    ///
    /// # Errors
    /// [`TransmitError`]; the frame stays staged.
    pub fn send<D, O: Window, M: Memory>(
        &mut self,
        vi: &Vi<D, O, M>,
        meta: Meta,
        request: RequestId,
    ) -> Result<(), TransmitError> {
        self.stage(vi)?;
        if let Some(claim) = self.claim.take() {
            vi.publish(self.lane, claim, self.frame.len(), meta, request).map_err(|(claim, error)| {
                self.claim = claim;
                error
            })?;
        }
        // It has been taken over: a lane that is over tells of it as lost.
        let _over = vi.transmit_push(self.lane);
        Ok(())
    }

    /// Gives the buffer back, if the frame is staged.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn discard<D, O: Window, M: Memory>(mut self, vi: &Vi<D, O, M>) -> Result<(), TransmitError> {
        let Some(claim) = self.claim.take() else { return Ok(()) };
        vi.claimed(self.lane, |sender| sender.give_back(claim).map_err(|(_, error)| error))
    }
}

/// Frames that are staged with the receiver and go together, or not at all.
#[must_use = "staged frames that are dropped keep their buffers from the lane: discard them"]
#[derive(Debug)]
pub struct Alternative {
    lane: LaneId,
    staged: Vec<Frame>,
    most: usize,
}

#[derive(Debug)]
struct Frame {
    claim: Claim,
    len: usize,
    meta: Meta,
    request: RequestId,
}

impl Alternative {
    /// How many frames are staged.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.staged.len()
    }

    /// Stages one more frame, at most as long as a buffer.
    ///
    /// # Errors
    /// [`TransmitError`]; [`SendError::Full`] when there are as many as were asked for, or no buffer is posted.
    pub fn stage<D, O: Window, M: Memory>(
        &mut self,
        vi: &Vi<D, O, M>,
        frame: &[u8],
        meta: Meta,
        request: RequestId,
    ) -> Result<(), TransmitError> {
        if self.staged.len() >= self.most {
            return Err(SendError::Full.into());
        }
        let claim = vi.claimed(self.lane, |sender| {
            let claim = sender.claim()?;
            match sender.fill(&claim, 0, frame) {
                Ok(()) => Ok(claim),
                Err(error) => Err(give_back(sender, claim, error)),
            }
        })?;
        self.staged.push(Frame { claim, len: frame.len(), meta, request });
        Ok(())
    }

    /// GO: sends what is staged, in order. Each frame is one cache line now.
    ///
    /// # Errors
    /// [`TransmitError`]; frames that were not sent stay staged.
    pub fn go<D, O: Window, M: Memory>(&mut self, vi: &Vi<D, O, M>) -> Result<(), TransmitError> {
        let mut outcome = Ok(());
        // What cannot go is put back in its place; those behind it then stay as well, so that order is kept.
        self.staged.reverse();
        while let Some(frame) = self.staged.pop() {
            let Frame { claim, len, meta, request } = frame;
            if let Err((claim, error)) = vi.publish(self.lane, claim, len, meta, request) {
                self.staged.extend(claim.map(|claim| Frame { claim, len, meta, request }));
                outcome = Err(error);
                break;
            }
        }
        self.staged.reverse();
        vi.transmit_push(self.lane)?;
        outcome
    }

    /// DISCARD: drops what is staged and gives the buffers back.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn discard<D, O: Window, M: Memory>(&mut self, vi: &Vi<D, O, M>) -> Result<(), TransmitError> {
        while let Some(frame) = self.staged.pop() {
            vi.claimed(self.lane, |sender| sender.give_back(frame.claim).map_err(|(_, error)| error))?;
        }
        Ok(())
    }
}

/// A claim of this very sender goes back, and the error that made it useless goes on.
fn give_back<O: Window, M: Memory>(
    sender: &crate::lane::Sender<O, M>,
    claim: Claim,
    error: SendError,
) -> SendError {
    sender.give_back(claim).map_or_else(|(_, foreign)| foreign, |()| error)
}

impl<D, O: Window, M: Memory> Vi<D, O, M> {
    /// A frame to be staged and patched, at most as long as a buffer of the lane.
    pub fn pio(&self, lane: LaneId, frame: &[u8]) -> Pio {
        Pio { lane, frame: frame.to_vec(), claim: None }
    }

    /// Room for `most` frames that are staged and go together.
    pub fn alternative(&self, lane: LaneId, most: usize) -> Alternative {
        Alternative { lane, staged: Vec::with_capacity(most), most }
    }

    /// Sends a frame cut-through: a receiver that [peeks](Vi::peek) sees its length and first 40 bytes while the
    /// rest is on its way. It costs one slot more than [`transmit`](Vi::transmit).
    ///
    /// # Errors
    /// [`TransmitError`], and nothing of this frame was sent.
    pub fn transmit_ctpio(
        &self,
        lane: LaneId,
        frame: &[u8],
        meta: Meta,
        request: RequestId,
    ) -> Result<(), TransmitError> {
        let claim = self.claimed_for(lane, request, |sender| {
            if sender.space()? < 2 {
                return Err(SendError::Full);
            }
            let claim = sender.claim()?;
            let sent = sender
                .announce(&claim, frame.len(), frame, meta)
                .and_then(|()| sender.fill(&claim, 0, frame));
            match sent {
                Ok(()) => Ok(claim),
                Err(error) => Err(give_back(sender, claim, error)),
            }
        })?;
        match self.publish(lane, claim, frame.len(), meta, request) {
            Ok(()) => {
                // As above.
                let _over = self.transmit_push(lane);
                Ok(())
            }
            Err((Some(claim), error)) => self
                .claimed(lane, |sender| Err::<(), _>(give_back(sender, claim, SendError::Full)))
                .map_err(|_| error),
            Err((None, error)) => Err(error),
        }
    }

    /// Stages a received packet on another lane: it is copied from where it lies into the next receiver's buffer,
    /// through a few lines of private memory.
    ///
    /// # Errors
    /// [`TransmitError`], and nothing was staged.
    pub fn transmit_init_packet<D2, O2: Window, M2: Memory>(
        &self,
        lane: LaneId,
        packet: &Packet<'_, D2, O2, M2>,
        meta: Meta,
        request: RequestId,
    ) -> Result<(), TransmitError> {
        match packet.place() {
            Some((memory, at)) => self.stage_from(lane, memory, at, packet.len(), meta, request),
            None => {
                let frame: [u8; 128] = packet.header();
                self.transmit_init(lane, frame.get(..packet.len()).unwrap_or_default(), meta, request)
            }
        }
    }
}
