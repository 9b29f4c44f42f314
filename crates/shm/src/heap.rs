//! A window that is ordinary memory of this process: for tests, and for two ends in one process.

use crate::Routine;
use crate::raw::Raw;
use crate::window::{LoadOrder, Memory, StoreOrder, Window, WindowError, WindowKind};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Where it begins: at a page, so that offsets have the alignment they have in a mapping.
const ALIGN: usize = 4096;

/// Zeroed memory of this process. Share it between two ends by `Arc`.
///
/// When the crate is built with `--cfg loom` this type has the same interface and lives in the model: words that are
/// loaded and stored become loom's atomics, and copies are checked for races.
#[derive(Debug)]
pub struct Heap {
    range: Raw,
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory belongs to this value; every access is volatile or atomic.
unsafe impl Send for Heap {}
// SAFETY: the same; two threads that race on bytes here are what the type is for.
unsafe impl Sync for Heap {}

impl Heap {
    /// `bytes` bytes of zeros.
    ///
    /// # Panics
    /// When there is no memory.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.max(1), ALIGN).expect("a size that fits an address");
        // SAFETY: the layout's size is not 0.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        // SAFETY: the allocation has at least `bytes` bytes and lives as long as the value.
        let range = unsafe { Raw::new(base, bytes) };
        Self { range, base, layout }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout; every pointer into it died with `self`.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

impl Window for Heap {
    fn bytes(&self) -> usize {
        self.range.bytes()
    }

    fn kind(&self) -> WindowKind {
        WindowKind::Mapped
    }

    fn as_memory(&self) -> Option<&dyn Memory> {
        Some(self)
    }

    fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.range.write(Routine::for_size(data.len()), at, data)
    }

    fn write_by(&self, routine: Routine, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.range.write(routine, at, data)
    }

    fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
        self.range.store_u32(at, value, order)
    }

    fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
        self.range.store_u64(at, value, order)
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
        self.range.read(Routine::for_size(out.len()), at, out)
    }

    fn read_by(&self, routine: Routine, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        self.range.read(routine, at, out)
    }

    fn load_u32(&self, at: usize, order: LoadOrder) -> Result<u32, WindowError> {
        self.range.load_u32(at, order)
    }

    fn load_u64(&self, at: usize, order: LoadOrder) -> Result<u64, WindowError> {
        self.range.load_u64(at, order)
    }
}
