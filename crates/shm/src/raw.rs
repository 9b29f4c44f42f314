//! An address range that somebody else may write at any time, and every way in which this crate touches it.
//!
//! Rust has no settled model for memory shared with a process that is not trusted (unsafe-code-guidelines #152 calls
//! volatile access least bad, #607 is open). Our choice, once, for the whole house: payload by volatile loads and
//! stores into and out of private memory, control words by short-lived atomics, always of the same width.

use crate::copy::{Routine, copy_in, copy_out};
use crate::window::{LoadOrder, StoreOrder, WindowError};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// `bytes` bytes at `base` that stay valid for loads, and for stores unless the owner checks that first, while the
/// owner lives.
#[derive(Debug)]
pub(crate) struct Raw {
    base: NonNull<u8>,
    bytes: usize,
}

/// Bytes of a cache line.
const LINE: usize = 64;

impl Raw {
    /// # Safety
    /// The range is valid as the type says until the value is dropped.
    pub(crate) unsafe fn new(base: NonNull<u8>, bytes: usize) -> Self {
        Self { base, bytes }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn address(&self) -> usize {
        self.base.addr().get()
    }

    #[inline]
    pub(crate) fn read(&self, routine: Routine, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        let from = self.range(at, out.len())?;
        // SAFETY: `from` is valid for `out.len()` bytes while `self` lives (checked by `range`).
        unsafe { copy_out(routine, from, out) };
        Ok(())
    }

    #[inline]
    pub(crate) fn write(&self, routine: Routine, at: usize, data: &[u8]) -> Result<(), WindowError> {
        let to = self.range(at, data.len())?;
        // SAFETY: `to` is valid for `data.len()` bytes while `self` lives (checked by `range`).
        unsafe { copy_in(routine, to, data) };
        Ok(())
    }

    #[inline]
    pub(crate) fn load_u32(&self, at: usize, order: LoadOrder) -> Result<u32, WindowError> {
        let word = self.word::<u32>(at)?;
        // SAFETY: valid and aligned (checked by `word`); the reference lives for this one load.
        let word = unsafe { AtomicU32::from_ptr(word) };
        Ok(u32::from_le(word.load(order.into())))
    }

    #[inline(always)]
    pub(crate) fn load_u64(&self, at: usize, order: LoadOrder) -> Result<u64, WindowError> {
        let word = self.word::<u64>(at)?;
        // SAFETY: valid and aligned (checked by `word`); the reference lives for this one load.
        let word = unsafe { AtomicU64::from_ptr(word) };
        Ok(u64::from_le(word.load(order.into())))
    }

    #[inline]
    pub(crate) fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
        let word = self.word::<u32>(at)?;
        // SAFETY: valid and aligned (checked by `word`); the reference lives for this one store.
        let word = unsafe { AtomicU32::from_ptr(word) };
        word.store(value.to_le(), order.into());
        Ok(())
    }

    #[inline]
    pub(crate) fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
        let word = self.word::<u64>(at)?;
        // SAFETY: valid and aligned (checked by `word`); the reference lives for this one store.
        let word = unsafe { AtomicU64::from_ptr(word) };
        word.store(value.to_le(), order.into());
        Ok(())
    }

    /// Fetches the lines of a range to read them.
    #[inline]
    pub(crate) fn will_load(&self, at: usize, bytes: usize) {
        self.each_line(at, bytes, |line| {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            // SAFETY: a hint: it changes no memory and no register, and faults nowhere.
            unsafe {
                std::arch::asm!("prefetcht0 [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
            }
            #[cfg(not(all(target_arch = "x86_64", not(miri))))]
            let _ = line;
        });
    }

    /// Fetches the lines of a range to write them.
    #[inline]
    pub(crate) fn will_store(&self, at: usize, bytes: usize) {
        self.each_line(at, bytes, fetch_to_store);
    }

    /// The lines that a range has a part of; none of a range that is out of bounds.
    #[inline(always)]
    fn each_line(&self, at: usize, bytes: usize, hint: impl Fn(*mut u8)) {
        let Ok(first) = self.range(at, bytes) else { return };
        let within = first.addr() % LINE;
        (0..within + bytes)
            .step_by(LINE)
            .for_each(|line| hint(first.wrapping_sub(within).wrapping_add(line)));
    }

    /// Where `len` bytes at `at` are.
    #[inline]
    pub(crate) fn range(&self, at: usize, len: usize) -> Result<*mut u8, WindowError> {
        let end = at.checked_add(len).ok_or(WindowError::OutOfBounds)?;
        if end > self.bytes {
            return Err(WindowError::OutOfBounds);
        }
        // SAFETY: `at` <= `self.bytes`, the length of the range at `base`.
        Ok(unsafe { self.base.as_ptr().add(at) })
    }

    #[inline]
    fn word<T>(&self, at: usize) -> Result<*mut T, WindowError> {
        let word = self.range(at, size_of::<T>())?.cast::<T>();
        if !word.is_aligned() {
            return Err(WindowError::Misaligned);
        }
        Ok(word)
    }
}

/// Fetches a line to write it. Every x86-64 processor has the instruction, be it as one that does nothing.
#[inline(always)]
pub(crate) fn fetch_to_store(line: *mut u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint: it changes no memory and no register, and faults nowhere.
    unsafe {
        std::arch::asm!("prefetchw [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = line;
}
