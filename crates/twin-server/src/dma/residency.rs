//! Which memory is at hand: what the kernel may have to fetch from a disk, or make first, is for the worker.

use super::worker::{From, Run};
use shm::Mapping;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Memory is looked at in blocks of this size. Looking at one takes a fifth of the time in which it is copied.
const BLOCK_BYTES: usize = 256 << 10;
/// So many blocks are remembered ..
const BLOCKS: usize = 1024;
/// .. for so long. The kernel takes away what was not used for long; should it be quicker, one copy waits for a disk.
const FOR: Duration = Duration::from_millis(100);

const _: () = assert!(BLOCK_BYTES <= Mapping::RESIDENT_BYTES);

/// What was found in memory lately.
#[derive(Debug, Default)]
pub(super) struct Residency {
    /// By a number made of mapping and block: the mapping's address, the block, and when.
    known: Vec<Option<(usize, usize, Instant)>>,
}

impl Residency {
    /// Whether copying a run waits for nothing but the memory.
    pub(super) fn is_at_hand(&mut self, run: &Run, now: Instant) -> bool {
        let source = match &run.from {
            From::Memory(from, at) => self.has(from, *at, run.bytes, now),
            From::Ones => true,
        };
        source && self.has(&run.to, run.to_at, run.bytes, now)
    }

    fn has(&mut self, mapping: &Arc<Mapping>, at: usize, bytes: usize, now: Instant) -> bool {
        let last = at.saturating_add(bytes.saturating_sub(1)) / BLOCK_BYTES;
        (at / BLOCK_BYTES..=last).all(|block| self.has_block(mapping, block, now))
    }

    fn has_block(&mut self, mapping: &Arc<Mapping>, block: usize, now: Instant) -> bool {
        // An address that another mapping has meanwhile makes a wrong guess, and no more.
        let identity = Arc::as_ptr(mapping).addr();
        self.known.resize(BLOCKS, None);
        let slot = (identity / size_of::<Mapping>()).wrapping_mul(31).wrapping_add(block) % BLOCKS;
        let Some(known) = self.known.get_mut(slot) else { return false };
        let fresh = |&(whose, which, when): &(usize, usize, Instant)| {
            whose == identity && which == block && now.saturating_duration_since(when) < FOR
        };
        if known.as_ref().is_some_and(fresh) {
            return true;
        }
        let first = block.saturating_mul(BLOCK_BYTES);
        let bytes = mapping.bytes().saturating_sub(first).min(BLOCK_BYTES);
        let resident = mapping.is_resident(first, bytes);
        *known = resident.then_some((identity, block, now));
        resident
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm::{Access, SharedFile};

    #[test]
    fn what_was_never_touched_is_not_at_hand_and_what_was_found_is_remembered() {
        let file = SharedFile::create("test", 1 << 20).unwrap();
        let memory = Arc::new(Mapping::new(&file, 0, 1 << 20, Access::ReadWrite).unwrap());
        let run = |from, to_at, bytes| Run { from, to: Arc::clone(&memory), to_at, bytes };
        let (mut residency, now) = (Residency::default(), Instant::now());
        assert!(!residency.is_at_hand(&run(From::Ones, 0, 100), now));
        shm::fill(&memory, 0, 2 * BLOCK_BYTES, 1).unwrap();
        assert!(residency.is_at_hand(&run(From::Ones, 100, BLOCK_BYTES), now));
        assert!(!residency.is_at_hand(&run(From::Ones, 2 * BLOCK_BYTES - 1, 2), now));
        let from = From::Memory(Arc::clone(&memory), 3 * BLOCK_BYTES);
        assert!(!residency.is_at_hand(&run(from, 0, 100), now), "the source counts too");
        assert_eq!(residency.known.iter().flatten().count(), 2);
        assert!(residency.is_at_hand(&run(From::Ones, 0, 100), now + 2 * FOR));
        // One byte in front of a mapping's end.
        shm::fill(&memory, 3 * BLOCK_BYTES, BLOCK_BYTES, 1).unwrap();
        assert!(residency.is_at_hand(&run(From::Ones, (1 << 20) - 1, 1), now));
    }
}
