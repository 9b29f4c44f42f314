//! How a frame's bytes get into the peer's window: by which routine of the processor, or by a DMA engine.

use crate::fault::Fault;
use shm::{Routine, Window};

/// Where the peer's processor is, as far as copies care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// It shares a cache with this one: copies go through the caches.
    #[default]
    Near,
    /// On another die or socket: larger copies through the caches are slow, unless the processor moves whole lines.
    Far,
    /// Behind a bridge whose window is write-combined: every copy is streamed.
    Bridge,
}

impl Placement {
    /// The routine for a copy of so many bytes.
    fn routine(self, bytes: usize) -> Routine {
        match (self, Routine::for_size(bytes)) {
            // Between dies too the processor's own move of whole lines is the fastest, where it has one.
            (Self::Near, routine) | (Self::Far, routine @ Routine::Rep) => routine,
            (Self::Far, _) if bytes >= FAR_STREAMS => Routine::Stream,
            (Self::Bridge, _) if bytes >= BRIDGE_STREAMS => Routine::Stream,
            (Self::Far | Self::Bridge, routine) => routine,
        }
    }
}

/// From here on streamed copies beat copies through the caches between dies: a round trip with a payload takes as
/// long either way at 512 bytes.
const FAR_STREAMS: usize = 512;
/// A write-combining buffer is a line of 64 bytes; a streamed copy moves two at a time.
const BRIDGE_STREAMS: usize = 128;

/// A DMA engine gave up; what it was to copy may be there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the DMA engine failed")]
pub struct DmaFailed;

/// Something that copies into the peer's window beside the processor.
///
/// All copies of a frame are handed over first and waited for together, before the frame is announced.
pub trait DmaEngine: Send {
    /// Begins to copy `data` to this offset (bytes) of the outbound window, or does it at once. `data` is only
    /// borrowed for the call: an engine that goes on afterwards has taken its own copy, or has it registered.
    ///
    /// # Errors
    /// [`DmaFailed`].
    fn copy(&mut self, at: usize, data: &[u8]) -> Result<(), DmaFailed>;

    /// Waits until all copies are in the peer's memory.
    ///
    /// # Errors
    /// [`DmaFailed`].
    fn finish(&mut self) -> Result<(), DmaFailed>;
}

/// Carries a sender's data.
pub(crate) struct Carrier {
    placement: Placement,
    engine: Option<(usize, Box<dyn DmaEngine>)>,
}

/// How one frame is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Copy and announce cell by cell.
    Cached(Routine),
    /// Copy all cells past the caches, fence, announce.
    Streamed,
    /// The engine copies all cells, then they are announced.
    Engine,
}

impl Carrier {
    pub(crate) fn new(placement: Placement) -> Self {
        Self { placement, engine: None }
    }

    pub(crate) fn place(&mut self, placement: Placement) {
        self.placement = placement;
    }

    /// Frames of `from_bytes` and more go by the engine.
    pub(crate) fn attach(&mut self, engine: Box<dyn DmaEngine>, from_bytes: usize) {
        self.engine = Some((from_bytes, engine));
    }

    /// The way for a frame of so many bytes, in pieces of at most `piece_bytes`.
    pub(crate) fn way(&self, frame_bytes: usize, piece_bytes: usize) -> Way {
        if self.engine.as_ref().is_some_and(|&(from, _)| frame_bytes >= from) {
            return Way::Engine;
        }
        match self.placement.routine(frame_bytes.min(piece_bytes)) {
            Routine::Stream => Way::Streamed,
            routine => Way::Cached(routine),
        }
    }

    pub(crate) fn copy(
        &mut self,
        way: Way,
        window: &impl Window,
        at: usize,
        data: &[u8],
    ) -> Result<(), Fault> {
        match (way, &mut self.engine) {
            (Way::Cached(routine), _) => window.write_by(routine, at, data)?,
            (Way::Engine, Some((_, engine))) => engine.copy(at, data).map_err(|DmaFailed| Fault::Dma)?,
            (Way::Streamed | Way::Engine, _) => window.write_by(Routine::Stream, at, data)?,
        }
        Ok(())
    }

    /// After the last copy of a frame: what was copied comes before what is stored next.
    pub(crate) fn finish(&mut self, way: Way, window: &impl Window) -> Result<(), Fault> {
        match (way, &mut self.engine) {
            (Way::Cached(_), _) => {}
            (Way::Engine, Some((_, engine))) => engine.finish().map_err(|DmaFailed| Fault::Dma)?,
            (Way::Streamed | Way::Engine, _) => window.flush()?,
        }
        Ok(())
    }
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let from = self.engine.as_ref().map(|&(from, _)| from);
        f.debug_struct("Carrier").field("placement", &self.placement).field("engine_from", &from).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::flow::{Inflow, Outflow, Wake};
    use crate::layout::Geometry;
    use crate::region::Ends;
    use shm::Heap;
    use std::sync::Arc;

    #[test]
    fn the_way_follows_the_size_and_the_place() {
        let near = Carrier::new(Placement::Near);
        assert_eq!(near.way(64, 2040), Way::Cached(Routine::Words));
        assert!(matches!(near.way(1 << 20, 2040), Way::Cached(Routine::Rep | Routine::Vector)));
        let far = Carrier::new(Placement::Far);
        assert_eq!(far.way(64, 2040), Way::Cached(Routine::Words));
        let fast_rep = Routine::for_size(512) == Routine::Rep;
        assert_eq!(far.way(512, 2040), if fast_rep { Way::Cached(Routine::Rep) } else { Way::Streamed });
        assert_eq!(Carrier::new(Placement::Bridge).way(128, 2040), Way::Streamed);
    }

    /// An engine that copies when it is asked to finish, and fails once it has made so many copies.
    struct Engine {
        to: Arc<Heap>,
        waiting: Vec<(usize, Vec<u8>)>,
        left: usize,
    }

    impl DmaEngine for Engine {
        fn copy(&mut self, at: usize, data: &[u8]) -> Result<(), DmaFailed> {
            self.left = self.left.checked_sub(1).ok_or(DmaFailed)?;
            self.waiting.push((at, data.to_vec()));
            Ok(())
        }

        fn finish(&mut self) -> Result<(), DmaFailed> {
            self.waiting.drain(..).for_each(|(at, data)| self.to.write(at, &data).unwrap());
            Ok(())
        }
    }

    #[test]
    fn long_frames_go_by_the_engine_and_its_failure_is_told() {
        for (geometry, cells) in [(Geometry::paper(64).unwrap(), 3), (Geometry::fast(16, 2048).unwrap(), 1)] {
            let (a, b) = (Arc::new(Heap::new(4096)), Arc::new(Heap::new(geometry.region_bytes())));
            let at_a = Ends { out: Arc::clone(&b), theirs: 0, own: Arc::clone(&a), mine: 0 };
            let at_b = Ends { out: a, theirs: 0, own: Arc::clone(&b), mine: 0 };
            let mut carrier = Carrier::new(Placement::Near);
            carrier.attach(Box::new(Engine { to: b, waiting: Vec::new(), left: cells }), 1500);
            let mut out = Outflow::new(at_a, geometry, carrier, Wake::default());
            let mut inflow = Inflow::new(at_b, geometry, geometry.longest_frame(), Wake::default());
            // By the processor, by the engine.
            for len in [1499_usize, 1500] {
                let frame: Vec<u8> = (0..len).map(|at| (at * 7).to_le_bytes()[0]).collect();
                out.put(&frame).unwrap();
                out.publish().unwrap();
                assert!(inflow.fetch().unwrap());
                assert_eq!(inflow.frame(), frame);
            }
            assert_eq!(out.put(&[0; 1500]), Err(Fault::Dma));
        }
    }
}
