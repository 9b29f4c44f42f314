//! The processor as an engine.

use super::{DmaCopy, DmaDone, DmaEngine, DmaError, DmaTarget, check};
use crate::{DmaMemory, Memory, PciFunction, Window};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How much is in private memory at a time.
const CHUNK: usize = 64 << 10;
/// Copies whose `done` has not been called yet.
const MOST: usize = 1024;

/// Copies by this processor, while they are queued; `done` is called by [`poll`](DmaEngine::poll) all the same.
pub struct CpuCopy {
    function: Arc<dyn PciFunction>,
    ended: Vec<(Option<DmaDone>, Result<(), DmaError>)>,
    chunk: Vec<u8>,
}

impl CpuCopy {
    /// One whose memory is a function's, so that windows can be opened on it.
    #[must_use]
    pub fn new(function: Arc<dyn PciFunction>) -> Self {
        Self { function, ended: Vec::new(), chunk: vec![0; CHUNK] }
    }

    fn carry_out(&mut self, copy: &DmaCopy) -> Result<(), DmaError> {
        let to: &dyn Window = match &copy.to {
            DmaTarget::Window(outbound) => outbound,
            DmaTarget::Memory(memory) => memory,
            DmaTarget::Address(_) => return Err(DmaError::Unreachable),
        };
        let (mut from_at, mut to_at, mut left) = (copy.from_at, copy.to_at, copy.bytes);
        while left > 0 {
            let now = left.min(CHUNK);
            let chunk = self.chunk.get_mut(..now).unwrap_or_default();
            copy.from.read(from_at, chunk)?;
            to.write(to_at, chunk)?;
            left = left.saturating_sub(now);
            from_at = from_at.saturating_add(now);
            to_at = to_at.saturating_add(now);
        }
        Ok(())
    }
}

impl DmaEngine for CpuCopy {
    fn allocate(&self, bytes: u64) -> Result<DmaMemory, DmaError> {
        Ok(self.function.dma_allocate(bytes, 1)?)
    }

    fn queue(&mut self, copy: DmaCopy, done: Option<DmaDone>) -> Result<(), DmaError> {
        check(&copy)?;
        if matches!(copy.to, DmaTarget::Address(_)) {
            return Err(DmaError::Unreachable);
        }
        if self.ended.len() >= MOST {
            return Err(DmaError::Full);
        }
        let result = self.carry_out(&copy);
        self.ended.push((done, result));
        Ok(())
    }

    /// Each copy was made when it was queued.
    fn start(&mut self) -> Result<(), DmaError> {
        Ok(())
    }

    /// Each copy ends before the next one begins as it is.
    fn fence(&mut self) {}

    fn poll(&mut self) -> Result<usize, DmaError> {
        let ended = std::mem::take(&mut self.ended);
        let count = ended.len();
        let mut unheard = Ok(count);
        for (done, result) in ended {
            match (done, result) {
                (Some(done), result) => done(result),
                (None, Err(error)) => unheard = Err(error),
                (None, Ok(())) => {}
            }
        }
        unheard
    }

    fn pending(&self) -> usize {
        self.ended.len()
    }

    fn finish(&mut self, _timeout: Duration) -> Result<usize, DmaError> {
        self.poll()
    }
}

impl fmt::Debug for CpuCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, ended, chunk: _ } = self;
        f.debug_struct("CpuCopy")
            .field("function", function)
            .field("ended", &ended.len())
            .finish_non_exhaustive()
    }
}
