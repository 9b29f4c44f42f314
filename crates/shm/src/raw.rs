//! An address range that somebody else may write at any time, and every way in which this crate touches it.
//!
//! Rust has no settled model for memory shared with a process that is not trusted (unsafe-code-guidelines #152 calls
//! volatile access least bad, #607 is open). Our choice, once, for the whole house: payload by volatile loads and
//! stores into and out of private memory, control words by short-lived atomics, always of the same width.

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

impl Raw {
    /// # Safety
    /// The range is valid as the type says until the value is dropped.
    pub(crate) unsafe fn new(base: NonNull<u8>, bytes: usize) -> Self {
        Self { base, bytes }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn read(&self, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        let from = self.range(at, out.len())?;
        // SAFETY: `from` is valid for `out.len()` bytes while `self` lives (checked by `range`).
        unsafe { copy_out(from, out) };
        Ok(())
    }

    pub(crate) fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
        let to = self.range(at, data.len())?;
        // SAFETY: `to` is valid for `data.len()` bytes while `self` lives (checked by `range`).
        unsafe { copy_in(to, data) };
        Ok(())
    }

    pub(crate) fn load_u32(&self, at: usize, order: LoadOrder) -> Result<u32, WindowError> {
        let word = self.word::<u32>(at)?;
        // SAFETY: valid and aligned (checked by `word`); the reference lives for this one load.
        let word = unsafe { AtomicU32::from_ptr(word) };
        Ok(u32::from_le(word.load(order.into())))
    }

    pub(crate) fn load_u64(&self, at: usize, order: LoadOrder) -> Result<u64, WindowError> {
        let word = self.word::<u64>(at)?;
        // SAFETY: valid and aligned (checked by `word`); the reference lives for this one load.
        let word = unsafe { AtomicU64::from_ptr(word) };
        Ok(u64::from_le(word.load(order.into())))
    }

    pub(crate) fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
        let word = self.word::<u32>(at)?;
        // SAFETY: valid and aligned (checked by `word`); the reference lives for this one store.
        let word = unsafe { AtomicU32::from_ptr(word) };
        word.store(value.to_le(), order.into());
        Ok(())
    }

    pub(crate) fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
        let word = self.word::<u64>(at)?;
        // SAFETY: valid and aligned (checked by `word`); the reference lives for this one store.
        let word = unsafe { AtomicU64::from_ptr(word) };
        word.store(value.to_le(), order.into());
        Ok(())
    }

    fn range(&self, at: usize, len: usize) -> Result<*mut u8, WindowError> {
        let end = at.checked_add(len).ok_or(WindowError::OutOfBounds)?;
        if end > self.bytes {
            return Err(WindowError::OutOfBounds);
        }
        // SAFETY: `at` <= `self.bytes`, the length of the range at `base`.
        Ok(unsafe { self.base.as_ptr().add(at) })
    }

    fn word<T>(&self, at: usize) -> Result<*mut T, WindowError> {
        let word = self.range(at, size_of::<T>())?.cast::<T>();
        if !word.is_aligned() {
            return Err(WindowError::Misaligned);
        }
        Ok(word)
    }
}

const WORD: usize = size_of::<u64>();

/// How many bytes come before the first aligned word, at most `len`.
fn head(address: *const u8, len: usize) -> usize {
    (address.addr().wrapping_neg() % WORD).min(len)
}

/// Whether an access of `len` bytes at `address` is one machine word of `T`.
fn is_one<T>(address: *const u8, len: usize) -> bool {
    len == size_of::<T>() && address.addr().is_multiple_of(size_of::<T>())
}

/// Copies out of shared memory: small aligned accesses are one load, the rest goes by aligned words.
///
/// # Safety
/// `from` is valid for reads of `out.len()` bytes; others may write them meanwhile.
pub(crate) unsafe fn copy_out(from: *const u8, out: &mut [u8]) {
    macro_rules! one {
        ($word:ty) => {
            if is_one::<$word>(from, out.len()) {
                // SAFETY: valid by the caller, aligned and of this length (checked).
                let word = unsafe { from.cast::<$word>().read_volatile() };
                out.copy_from_slice(&word.to_ne_bytes());
                return;
            }
        };
    }
    one!(u8);
    one!(u16);
    one!(u32);
    one!(u64);
    let (before, rest) = out.split_at_mut(head(from, out.len()));
    let mut at = from;
    for byte in before {
        // SAFETY: inside the range that the caller vouches for.
        *byte = unsafe { at.read_volatile() };
        // SAFETY: at most one past that range.
        at = unsafe { at.add(1) };
    }
    let mut words = rest.chunks_exact_mut(WORD);
    for chunk in &mut words {
        // SAFETY: inside the range; aligned, since `head` bytes came before.
        let word = unsafe { at.cast::<u64>().read_volatile() };
        chunk.copy_from_slice(&word.to_ne_bytes());
        // SAFETY: at most one past the range.
        at = unsafe { at.add(WORD) };
    }
    for byte in words.into_remainder() {
        // SAFETY: inside the range.
        *byte = unsafe { at.read_volatile() };
        // SAFETY: at most one past the range.
        at = unsafe { at.add(1) };
    }
}

/// Copies into shared memory, the same way.
///
/// # Safety
/// `to` is valid for writes of `data.len()` bytes; others may read and write them meanwhile.
pub(crate) unsafe fn copy_in(to: *mut u8, data: &[u8]) {
    macro_rules! one {
        ($word:ty) => {
            if is_one::<$word>(to, data.len()) {
                let mut word = [0; size_of::<$word>()];
                word.copy_from_slice(data);
                // SAFETY: valid by the caller, aligned and of this length (checked).
                unsafe { to.cast::<$word>().write_volatile(<$word>::from_ne_bytes(word)) };
                return;
            }
        };
    }
    one!(u8);
    one!(u16);
    one!(u32);
    one!(u64);
    let (before, rest) = data.split_at(head(to, data.len()));
    let mut at = to;
    for &byte in before {
        // SAFETY: inside the range that the caller vouches for.
        unsafe { at.write_volatile(byte) };
        // SAFETY: at most one past that range.
        at = unsafe { at.add(1) };
    }
    let (words, after) = rest.as_chunks::<WORD>();
    for &word in words {
        // SAFETY: inside the range; aligned, since `head` bytes came before.
        unsafe { at.cast::<u64>().write_volatile(u64::from_ne_bytes(word)) };
        // SAFETY: at most one past the range.
        at = unsafe { at.add(WORD) };
    }
    for &byte in after {
        // SAFETY: inside the range.
        unsafe { at.write_volatile(byte) };
        // SAFETY: at most one past the range.
        at = unsafe { at.add(1) };
    }
}
