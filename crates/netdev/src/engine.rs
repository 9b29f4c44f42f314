//! A DMA engine of the host that carries cells.
//!
//! ```text
//!   frame ──the processor──▶ staging: memory that the engine reads ══the engine══▶ the window, cell by cell
//! ```
//!
//! A frame lies in private memory, which no engine reaches, so it is copied once into memory that one does. That copy is as
//! long as the one into a window: an engine saves the processor the way across the bridge, and no copy.

use cells::DmaFailed;
use ntb::dma::{DmaCopy, DmaEngine, DmaError, DmaTarget};
use ntb::{DmaMemory, Outbound, Window};
use std::time::Duration;

/// An engine that answers at all has carried a frame by then.
const PATIENCE: Duration = Duration::from_secs(5);

/// Carries the cells of one sender ([`cells::Sender::attach_dma`]) by an engine of its host.
///
/// It is dropped with its sender. An engine under it that resets its channel when it is dropped, as [`ntb::dma::Ioat`] does,
/// then stores nothing more, also if a copy never ended.
#[derive(Debug)]
pub struct CellsEngine {
    engine: Box<dyn DmaEngine>,
    to: Outbound,
    staging: DmaMemory,
    /// Bytes of it that copies under way read.
    used: usize,
    /// Bytes that the engine has not been told of.
    waiting: usize,
}

/// The engine is told of so many bytes at once: telling it costs a register write, and a published cell has 748 bytes.
const BATCH_BYTES: usize = 64 << 10;

impl CellsEngine {
    /// Takes an engine for a window. Pieces of up to `staging_bytes` are under way at once: a frame, at best.
    ///
    /// # Errors
    /// [`DmaError`] when it has no memory.
    pub fn new(engine: Box<dyn DmaEngine>, to: Outbound, staging_bytes: u64) -> Result<Self, DmaError> {
        let staging = engine.allocate(staging_bytes.max(1))?;
        Ok(Self { engine, to, staging, used: 0, waiting: 0 })
    }

    fn stage(&mut self, at: usize, piece: &[u8]) -> Result<(), DmaError> {
        let end = self.used.saturating_add(piece.len());
        if end > self.staging.bytes() {
            self.wait()?;
        }
        self.staging.write(self.used, piece)?;
        let copy = DmaCopy {
            from: self.staging.clone(),
            from_at: self.used,
            to: DmaTarget::Window(self.to.clone()),
            to_at: at,
            bytes: piece.len(),
        };
        match self.engine.queue(copy.clone(), None) {
            Err(DmaError::Full) => {
                // What is staged stays where it is: only this piece has not been queued.
                self.engine.finish(PATIENCE)?;
                self.engine.queue(copy, None)?;
            }
            other => other?,
        }
        self.used = self.used.saturating_add(piece.len());
        self.waiting = self.waiting.saturating_add(piece.len());
        if self.waiting >= BATCH_BYTES {
            self.engine.start()?;
            self.waiting = 0;
        }
        Ok(())
    }

    /// Waits for all that was begun; then the staging memory is free.
    fn wait(&mut self) -> Result<(), DmaError> {
        self.engine.finish(PATIENCE)?;
        if self.engine.pending() > 0 {
            return Err(DmaError::NotQuiet);
        }
        (self.used, self.waiting) = (0, 0);
        Ok(())
    }
}

impl cells::DmaEngine for CellsEngine {
    fn copy(&mut self, at: usize, data: &[u8]) -> Result<(), DmaFailed> {
        let mut at = at;
        for piece in data.chunks(self.staging.bytes().max(1)) {
            self.stage(at, piece).map_err(|error| told(&error))?;
            at = at.saturating_add(piece.len());
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), DmaFailed> {
        self.wait().map_err(|error| told(&error))
    }
}

/// A channel says that its engine failed; why is said here.
fn told(error: &DmaError) -> DmaFailed {
    tracing::warn!(%error, "the engine does not carry a frame");
    DmaFailed
}
