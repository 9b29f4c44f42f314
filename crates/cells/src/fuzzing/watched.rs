//! A memory that is watched, and that a hostile writer changes between two loads of whoever reads it.

use super::WINDOW;
use crate::{DmaEngine, DmaFailed};
use shm::{Heap, LoadOrder, Memory, Routine, StoreOrder, Window, WindowError, WindowKind};
use std::sync::{Arc, Mutex, PoisonError};

/// What a hostile writer stores, and when: a reader that loads a word twice finds two values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ambush {
    /// Loads to let pass before.
    pub(super) after_loads: u8,
    /// Where; none: over what was just loaded.
    pub(super) at: Option<usize>,
    pub(super) value: u64,
}

/// A memory as one side sees it. Its own it may touch in the directory and its region only; the peer says where its
/// region lies in the other one.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) heap: Arc<Heap>,
    end: usize,
    ambush: Mutex<Option<Ambush>>,
}

impl Watched {
    /// The first `end` bytes of a memory.
    pub(super) fn new(heap: &Arc<Heap>, end: usize) -> Arc<Self> {
        Arc::new(Self { heap: Arc::clone(heap), end, ambush: Mutex::default() })
    }

    pub(super) fn lay(&self, ambush: Ambush) {
        *self.ambush.lock().unwrap_or_else(PoisonError::into_inner) = Some(ambush);
    }

    /// No ambush any more.
    pub(super) fn call_off(&self) {
        *self.ambush.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn inside(&self, at: usize, len: usize) -> usize {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.end);
        assert!(inside, "an access at {at:#x} of {len} bytes, where {:#x} is the end", self.end);
        at
    }

    /// After each load.
    fn loaded(&self, at: usize) {
        let mut ambush = self.ambush.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = &mut *ambush else { return };
        if let Some(left) = found.after_loads.checked_sub(1) {
            found.after_loads = left;
            return;
        }
        // Whole words, as a processor would store them: the hostile writer has no other way to a word either.
        let at = found.at.unwrap_or(at).min(WINDOW - 8) & !7;
        let value = found.value.to_le_bytes();
        *ambush = None;
        self.heap.write(at, &value).expect("inside the window");
    }
}

impl Window for Watched {
    fn bytes(&self) -> usize {
        WINDOW
    }

    fn kind(&self) -> WindowKind {
        WindowKind::Mapped
    }

    fn as_memory(&self) -> Option<&dyn Memory> {
        Some(self)
    }

    fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.heap.write(self.inside(at, data.len()), data)
    }

    fn write_by(&self, routine: Routine, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.heap.write_by(routine, self.inside(at, data.len()), data)
    }

    fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
        self.heap.store_u32(self.inside(at, 4), value, order)
    }

    fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
        self.heap.store_u64(self.inside(at, 8), value, order)
    }

    fn flush(&self) -> Result<(), WindowError> {
        self.heap.flush()
    }

    fn settle(&self) -> Result<(), WindowError> {
        self.heap.settle()
    }
}

impl Memory for Watched {
    fn read(&self, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        self.heap.read(self.inside(at, out.len()), out)?;
        self.loaded(at);
        Ok(())
    }

    fn load_u32(&self, at: usize, order: LoadOrder) -> Result<u32, WindowError> {
        let value = self.heap.load_u32(self.inside(at, 4), order)?;
        self.loaded(at);
        Ok(value)
    }

    fn load_u64(&self, at: usize, order: LoadOrder) -> Result<u64, WindowError> {
        let value = self.heap.load_u64(self.inside(at, 8), order)?;
        self.loaded(at);
        Ok(value)
    }
}

/// An engine that copies when it is waited for, and gives up after so many copies.
pub(super) struct Engine {
    pub(super) to: Arc<Watched>,
    pub(super) waiting: Vec<(usize, Vec<u8>)>,
    pub(super) left: usize,
}

impl DmaEngine for Engine {
    fn copy(&mut self, at: usize, data: &[u8]) -> Result<(), DmaFailed> {
        self.left = self.left.checked_sub(1).ok_or(DmaFailed)?;
        self.waiting.push((at, data.to_vec()));
        Ok(())
    }

    fn finish(&mut self) -> Result<(), DmaFailed> {
        self.waiting.drain(..).try_for_each(|(at, data)| self.to.write(at, &data)).map_err(|_| DmaFailed)
    }
}
