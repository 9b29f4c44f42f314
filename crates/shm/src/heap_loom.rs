//! [`Heap`] in loom's model: the same interface, so that code over windows runs in loom unchanged.
//!
//! Loom follows atomics with all their orderings, and it finds races on plain memory, but it knows no bytes. So each
//! 8 bytes are held three times: as one atomic, as two, and as a plain cell for copies. A word is used in one of the
//! three ways for ever, and the model fails when it is not: that is also what the hardware asks for, since accesses of
//! different sizes to the same bytes are not ordered with each other.
//!
//! What loom cannot see: memory that is mapped twice, streamed (non-temporal) copies and their fence, a peer that does
//! not run our code.

use crate::window::{LoadOrder, Memory, StoreOrder, Window, WindowError, WindowKind};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::atomic::{AtomicU8, Ordering};

const WORD: usize = size_of::<u64>();

/// Zeroed memory in loom's model. Make it inside the model, before its threads.
#[derive(Debug)]
pub struct Heap {
    words: Vec<Word>,
}

#[derive(Debug)]
struct Word {
    whole: AtomicU64,
    halves: [AtomicU32; 2],
    plain: UnsafeCell<[u8; WORD]>,
    used_as: AtomicU8,
}

/// Which of the three a word is; 0 is none yet.
const WHOLE: u8 = 1;
const HALVES: u8 = 2;
const PLAIN: u8 = 3;

// SAFETY: the plain cells are the only thing that is not Sync, and loom stops the model at the first race on one.
unsafe impl Sync for Heap {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Heap {}

impl Word {
    fn new() -> Self {
        Self {
            whole: AtomicU64::new(0),
            halves: [AtomicU32::new(0), AtomicU32::new(0)],
            plain: UnsafeCell::new([0; WORD]),
            used_as: AtomicU8::new(0),
        }
    }

    fn used_as(&self, way: u8) -> &Self {
        let before = self.used_as.swap(way, Ordering::Relaxed);
        assert!(before == 0 || before == way, "a word is used in two ways: {before} and {way}");
        self
    }
}

impl Heap {
    /// `bytes` bytes of zeros, in whole words.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { words: (0..bytes.div_ceil(WORD)).map(|_| Word::new()).collect() }
    }

    fn whole(&self, at: usize) -> Result<&AtomicU64, WindowError> {
        if !at.is_multiple_of(WORD) {
            return Err(WindowError::Misaligned);
        }
        let word = self.words.get(at / WORD).ok_or(WindowError::OutOfBounds)?;
        Ok(&word.used_as(WHOLE).whole)
    }

    fn half(&self, at: usize) -> Result<&AtomicU32, WindowError> {
        if !at.is_multiple_of(4) {
            return Err(WindowError::Misaligned);
        }
        let word = self.words.get(at / WORD).ok_or(WindowError::OutOfBounds)?;
        let [low, high] = &word.used_as(HALVES).halves;
        Ok(if at.is_multiple_of(WORD) { low } else { high })
    }

    fn check(&self, at: usize, len: usize) -> Result<(), WindowError> {
        match at.checked_add(len) {
            Some(end) if end <= self.bytes() => Ok(()),
            _ => Err(WindowError::OutOfBounds),
        }
    }

    /// Words that `len` bytes at `at` touch: the word, the first byte in it, and how many.
    fn pieces(&self, at: usize, len: usize) -> impl Iterator<Item = (&Word, usize, usize)> {
        let mut at = at;
        let end = at + len;
        std::iter::from_fn(move || {
            if at == end {
                return None;
            }
            let word = self.words.get(at / WORD)?.used_as(PLAIN);
            let first = at % WORD;
            let count = (WORD - first).min(end - at);
            at += count;
            Some((word, first, count))
        })
    }
}

impl Window for Heap {
    fn bytes(&self) -> usize {
        self.words.len() * WORD
    }

    fn kind(&self) -> WindowKind {
        WindowKind::Mapped
    }

    fn as_memory(&self) -> Option<&dyn Memory> {
        Some(self)
    }

    fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.check(at, data.len())?;
        let mut data = data;
        for (word, first, count) in self.pieces(at, data.len()) {
            let (now, later) = data.split_at(count);
            word.plain.with_mut(|bytes| {
                // SAFETY: loom has checked that nobody else is at this cell.
                let bytes = unsafe { &mut *bytes };
                bytes.iter_mut().skip(first).zip(now).for_each(|(byte, &new)| *byte = new);
            });
            data = later;
        }
        Ok(())
    }

    fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
        self.half(at)?.store(value, order.into());
        Ok(())
    }

    fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
        self.whole(at)?.store(value, order.into());
        Ok(())
    }

    fn flush(&self) -> Result<(), WindowError> {
        crate::fence::store_fence();
        Ok(())
    }

    fn settle(&self) -> Result<(), WindowError> {
        crate::full_fence();
        Ok(())
    }
}

impl Memory for Heap {
    fn read(&self, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        self.check(at, out.len())?;
        let mut out = out;
        for (word, first, count) in self.pieces(at, out.len()) {
            let (now, later) = out.split_at_mut(count);
            word.plain.with(|bytes| {
                // SAFETY: loom has checked that nobody writes this cell.
                let bytes = unsafe { &*bytes };
                now.iter_mut().zip(bytes.iter().skip(first)).for_each(|(byte, &old)| *byte = old);
            });
            out = later;
        }
        Ok(())
    }

    fn load_u32(&self, at: usize, order: LoadOrder) -> Result<u32, WindowError> {
        Ok(self.half(at)?.load(order.into()))
    }

    fn load_u64(&self, at: usize, order: LoadOrder) -> Result<u64, WindowError> {
        Ok(self.whole(at)?.load(order.into()))
    }
}
