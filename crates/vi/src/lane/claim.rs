//! Posted buffers that a sender fills before it is known what becomes of them: what programmed I/O is made of.

use super::event::Line;
use super::{Meta, SendError, Sender};
use shm::{Memory, Window};

/// A posted buffer of the receiver that the sender may fill at leisure, before it says so.
///
/// A claim that is dropped keeps its buffer from both ends for good: give it to [`Sender::publish`] or
/// [`Sender::give_back`].
#[must_use = "a claimed buffer is lost to the lane until it is published or given back"]
#[derive(Debug)]
pub struct Claim {
    lane: u64,
    index: u32,
}

impl<O: Window, M: Memory> Sender<O, M> {
    /// Takes a posted buffer to fill it before it is known what becomes of it.
    ///
    /// # Errors
    /// [`SendError::Full`] when none is posted.
    pub fn claim(&self) -> Result<Claim, SendError> {
        self.need_buffers(1)?;
        let index = self.free.borrow_mut().pop_front().ok_or(SendError::Full)?;
        Ok(Claim { lane: self.number, index })
    }

    /// Copies into a claimed buffer, `at` bytes from its beginning. It may be called again, to patch.
    ///
    /// # Errors
    /// [`SendError::TooLong`] behind the end of the buffer.
    pub fn fill(&self, claim: &Claim, at: usize, data: &[u8]) -> Result<(), SendError> {
        self.alive()?;
        self.ours(claim)?;
        let most = self.geometry.buffer_bytes as usize;
        let end = at.saturating_add(data.len());
        if end > most {
            return Err(SendError::too_long(end, most));
        }
        self.store(self.geometry.buffer_at(claim.index) + at, data)?;
        Ok(())
    }

    /// Says early that a frame of `len` bytes will be in a claimed buffer and how it begins (its first 40 bytes are
    /// taken): a receiver may peek at it. Published at once.
    ///
    /// # Errors
    /// [`SendError`]; nothing was said.
    pub fn announce(&self, claim: &Claim, len: usize, beginning: &[u8], meta: Meta) -> Result<(), SendError> {
        self.ours(claim)?;
        let len = self.buffer_len(len)?;
        self.alive()?;
        self.publish_staged()?;
        self.need_slots(1)?;
        let address = self.address(claim.index)?;
        self.put(&Line::early(address, len, beginning, meta))?;
        self.published.set(self.next.get());
        Ok(())
    }

    /// Stages the event of a frame that lies in a claimed buffer.
    ///
    /// # Errors
    /// [`SendError`], with the claim.
    pub fn publish(&self, claim: Claim, len: usize, meta: Meta) -> Result<(), (Claim, SendError)> {
        let staged = self.ours(&claim).and_then(|()| {
            let len = self.buffer_len(len)?;
            self.need_slots(1)?;
            let address = self.address(claim.index)?;
            self.stage_line(&Line::buffer(address, len, true, false, meta))
        });
        staged.map_err(|error| (claim, error))
    }

    /// Gives a claimed buffer back: the next frame may use it.
    ///
    /// # Errors
    /// [`SendError::ForeignClaim`], with the claim.
    pub fn give_back(&self, claim: Claim) -> Result<(), (Claim, SendError)> {
        match self.ours(&claim) {
            Ok(()) => {
                self.free.borrow_mut().push_front(claim.index);
                Ok(())
            }
            Err(error) => Err((claim, error)),
        }
    }

    fn ours(&self, claim: &Claim) -> Result<(), SendError> {
        if claim.lane == self.number { Ok(()) } else { Err(SendError::ForeignClaim) }
    }
}
