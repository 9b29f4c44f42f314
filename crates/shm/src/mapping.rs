//! A mapped range, and copies into and out of it.

use crate::SharedFile;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::ptr::{self, NonNull};

/// What a mapping may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Loads only.
    Read,
    /// Loads and stores.
    ReadWrite,
}

/// Why a range was not mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The range is empty or leaves the file.
    #[error("the range {offset:#x}+{bytes:#x} does not lie in a file of {file_bytes:#x} bytes")]
    Range {
        /// Offset in the file.
        offset: u64,
        /// Length.
        bytes: u64,
        /// Length of the file.
        file_bytes: u64,
    },
    /// The kernel refused.
    #[error("the range {offset:#x}+{bytes:#x} cannot be mapped")]
    Mmap {
        /// Offset in the file.
        offset: u64,
        /// Length.
        bytes: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An access that leaves its mapping, or stores where only loads are allowed. Nothing was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an access outside the mapping")]
pub struct OutOfBounds;

/// A range of a shared file in this process.
#[derive(Debug)]
pub struct Mapping {
    /// What mmap returned, at a page boundary of the file.
    map: NonNull<u8>,
    map_bytes: usize,
    /// The range that was asked for, inside `map`.
    base: NonNull<u8>,
    bytes: usize,
    access: Access,
}

// SAFETY: a mapping is an address range of the whole process, and every access is volatile.
unsafe impl Send for Mapping {}
// SAFETY: the same; two threads that race on bytes here are no worse than the peer that does.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` bytes at `offset` of `file`, shared.
    ///
    /// # Errors
    /// [`MapError`] when the range is not inside the file or the kernel refuses.
    pub fn new(file: &SharedFile, offset: u64, bytes: u64, access: Access) -> Result<Self, MapError> {
        let range = || MapError::Range { offset, bytes, file_bytes: file.bytes() };
        let end =
            offset.checked_add(bytes).filter(|&end| bytes > 0 && end <= file.bytes()).ok_or_else(range)?;
        let page = file.page_bytes();
        let start = offset - offset % page;
        // Whole pages of the file; what lies outside the range asked for is never touched.
        let map_bytes = (end - start).checked_next_multiple_of(page).ok_or_else(range)?;
        let map_bytes = usize::try_from(map_bytes).map_err(|_| range())?;
        let skip = usize::try_from(offset - start).map_err(|_| range())?;
        let len = usize::try_from(bytes).map_err(|_| range())?;
        let prot = match access {
            Access::Read => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: a fresh range chosen by the kernel; nothing of ours lies there.
        let address = unsafe { mmap(ptr::null_mut(), map_bytes, prot, MapFlags::SHARED, file, start) }
            .map_err(|errno| MapError::Mmap { offset, bytes, source: errno.into() })?;
        let map = NonNull::new(address.cast::<u8>()).ok_or_else(range)?;
        // SAFETY: `skip` < one page <= `map_bytes`, the length of the range at `map`.
        let base = unsafe { map.add(skip) };
        Ok(Self { map, map_bytes, base, bytes: len, access })
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies from the mapping at `at` into `out`.
    ///
    /// # Errors
    /// [`OutOfBounds`], and `out` is unchanged.
    pub fn read(&self, at: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.range(at, out.len())?;
        // SAFETY: `from` is valid for `out.len()` bytes while `self` lives (checked by `range`).
        unsafe { copy_out(from, out) };
        Ok(())
    }

    /// Copies `data` into the mapping at `at`.
    ///
    /// # Errors
    /// [`OutOfBounds`], and nothing was stored.
    pub fn write(&self, at: usize, data: &[u8]) -> Result<(), OutOfBounds> {
        let to = self.range_for_stores(at, data.len())?;
        // SAFETY: `to` is valid and writable for `data.len()` bytes while `self` lives.
        unsafe { copy_in(to, data) };
        Ok(())
    }

    /// Whether `len` bytes at `at` are in memory now, so that an access need not wait for a disk or for a page to be made; at
    /// most [`RESIDENT_BYTES`](Self::RESIDENT_BYTES) at a time. Only a hint: it may change at any time.
    #[must_use]
    pub fn is_resident(&self, at: usize, len: usize) -> bool {
        let Ok(first) = self.range(at, len) else { return false };
        let skip = first.addr() % PAGE;
        let pages = skip.saturating_add(len).div_ceil(PAGE);
        let mut found = [0u8; MOST_PAGES];
        if pages > found.len() {
            return false;
        }
        // At a page's beginning, which lies in the mapping too: `map` begins at one.
        let page = first.wrapping_sub(skip);
        // SAFETY: the pages lie in a mapping of ours, and `found` has a byte for each of them.
        let told = unsafe { libc::mincore(page.cast(), pages.saturating_mul(PAGE), found.as_mut_ptr()) };
        told == 0 && found.iter().take(pages).all(|&page| page & 1 == 1)
    }

    /// The most bytes that [`is_resident`](Self::is_resident) looks for.
    pub const RESIDENT_BYTES: usize = (MOST_PAGES - 1) * PAGE;

    /// Where `len` bytes at `at` are, if they may be stored to.
    pub(crate) fn range_for_stores(&self, at: usize, len: usize) -> Result<*mut u8, OutOfBounds> {
        if self.access == Access::ReadWrite { self.range(at, len) } else { Err(OutOfBounds) }
    }

    /// Where `len` bytes at `at` are.
    pub(crate) fn range(&self, at: usize, len: usize) -> Result<*mut u8, OutOfBounds> {
        let end = at.checked_add(len).ok_or(OutOfBounds)?;
        if end > self.bytes {
            return Err(OutOfBounds);
        }
        // SAFETY: `at` <= `self.bytes`, the length of the range at `base`.
        Ok(unsafe { self.base.as_ptr().add(at) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let address = self.map.as_ptr().cast::<c_void>();
        // SAFETY: exactly the range that `new` mapped; every pointer into it died with `self`.
        let unmapped = unsafe { munmap(address, self.map_bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of a range that mmap returned");
    }
}

const WORD: usize = size_of::<u64>();
/// What mincore counts in.
const PAGE: usize = 4096;
/// 256 KiB at any alignment.
const MOST_PAGES: usize = 65;

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
unsafe fn copy_out(from: *const u8, out: &mut [u8]) {
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
unsafe fn copy_in(to: *mut u8, data: &[u8]) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(bytes: u64) -> (SharedFile, Mapping) {
        let file = SharedFile::create("test", bytes).unwrap();
        let mapping = Mapping::new(&file, 0, bytes, Access::ReadWrite).unwrap();
        (file, mapping)
    }

    #[test]
    fn every_alignment_and_length_round_trips_and_leaves_the_neighbours() {
        let (_file, mapping) = mapping(4096);
        let data: Vec<u8> = (1..=64).collect();
        for at in 0..16 {
            for len in 0..=40 {
                mapping.write(0, &[0xEE; 128]).unwrap();
                mapping.write(at, &data[..len]).unwrap();
                let mut all = [0; 128];
                mapping.read(0, &mut all).unwrap();
                assert_eq!(&all[at..at + len], &data[..len], "{at} {len}");
                assert!(all[..at].iter().chain(&all[at + len..]).all(|&byte| byte == 0xEE), "{at} {len}");
                let mut back = vec![0; len];
                mapping.read(at, &mut back).unwrap();
                assert_eq!(back, &data[..len]);
            }
        }
    }

    #[test]
    fn what_was_touched_is_resident_and_a_hole_is_not() {
        let (_file, mapping) = mapping(1 << 20);
        assert!(!mapping.is_resident(0, 4096));
        mapping.write(5000, &[1; 8000]).unwrap();
        assert!(mapping.is_resident(5000, 8000) && mapping.is_resident(4096, 3 * 4096 - 1));
        assert!(!mapping.is_resident(5000, 12000) && !mapping.is_resident(4095, 2));
        assert!(!mapping.is_resident(0, Mapping::RESIDENT_BYTES + 4097), "more than it looks for");
        assert!(!mapping.is_resident(1 << 20, 1) && !mapping.is_resident(usize::MAX, 2), "outside");
        assert!(mapping.is_resident(5000, 0));
    }

    #[test]
    fn accesses_outside_touch_nothing() {
        let (file, mapping) = mapping(4096);
        let mut out = [7; 8];
        for at in [4089, 4096, usize::MAX - 3, usize::MAX] {
            assert_eq!(mapping.read(at, &mut out), Err(OutOfBounds));
            assert_eq!(mapping.write(at, &out), Err(OutOfBounds));
        }
        assert_eq!(out, [7; 8]);
        let read_only = Mapping::new(&file, 0, 4096, Access::Read).unwrap();
        assert_eq!(read_only.write(0, &[1]), Err(OutOfBounds));
    }

    #[test]
    fn ranges_outside_the_file_are_refused_and_odd_ones_are_not() {
        let file = SharedFile::create("test", 8192).unwrap();
        for (offset, bytes) in [(0, 0), (0, 8193), (8192, 1), (u64::MAX, 2), (4096, u64::MAX)] {
            assert!(matches!(Mapping::new(&file, offset, bytes, Access::Read), Err(MapError::Range { .. })));
        }
        let whole = Mapping::new(&file, 0, 8192, Access::ReadWrite).unwrap();
        let odd = Mapping::new(&file, 5000, 100, Access::ReadWrite).unwrap();
        odd.write(0, b"odd").unwrap();
        let mut seen = [0; 3];
        whole.read(5000, &mut seen).unwrap();
        assert_eq!(&seen, b"odd");
        assert_eq!(odd.write(98, b"odd"), Err(OutOfBounds));
    }
}
