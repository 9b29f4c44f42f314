//! A mapped range, and copies into and out of it.

use crate::Routine;
use crate::SharedFile;
use crate::raw::Raw;
use crate::window::{LoadOrder, Memory, StoreOrder, Window, WindowError, WindowKind};
use rustix::fs::{FileType, fstat, fstatfs};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;
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

/// What lies behind a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// Memory, cached.
    File,
    /// A device: not cached, each access is one transaction of its own.
    Device,
}

/// A range of a shared file in this process, or of a device.
#[derive(Debug)]
pub struct Mapping {
    /// What mmap returned, at a page boundary of the file.
    map: NonNull<u8>,
    map_bytes: usize,
    /// The range that was asked for, inside `map`.
    range: Raw,
    access: Access,
    behind: Behind,
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
        // SAFETY: `len` bytes from `base` lie in the mapping, which lives as long as `self`; stores ask `access` first.
        let range = unsafe { Raw::new(base, len) };
        Ok(Self { map, map_bytes, range, access, behind: Behind::File })
    }

    /// Maps a region of a device, by the descriptor that its driver has given out (VFIO): `bytes` bytes, whole pages, at
    /// `offset` of that descriptor. The kernel maps it uncached: each access is a transaction on the bus, so copies go by
    /// the widest words that fit and no routine is faster, and [`settle`](Window::settle) has to read.
    ///
    /// The region keeps its length for as long as the mapping lives. Whoever maps it sees to it that the device keeps on decoding:
    /// an access to one that does not is a SIGBUS.
    ///
    /// # Errors
    /// [`MapError`] when the range is not whole pages, the descriptor is no device's, or the kernel refuses.
    pub fn device(device: BorrowedFd<'_>, offset: u64, bytes: u64) -> Result<Self, MapError> {
        let refused = |source| MapError::Mmap { offset, bytes, source };
        let end = offset.checked_add(bytes).filter(|_| bytes > 0);
        let page = u64::try_from(PAGE).unwrap_or(u64::MAX);
        let whole = offset.is_multiple_of(page) && bytes.is_multiple_of(page);
        let range = || MapError::Range { offset, bytes, file_bytes: u64::MAX };
        let len = usize::try_from(bytes).ok().filter(|_| whole && end.is_some()).ok_or_else(range)?;
        if !is_device(device).map_err(refused)? {
            return Err(refused(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not the descriptor of a device",
            )));
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh range chosen by the kernel; nothing of ours lies there.
        let address = unsafe { mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, device, offset) }
            .map_err(|errno| refused(errno.into()))?;
        let map = NonNull::new(address.cast::<u8>()).ok_or_else(range)?;
        // SAFETY: the mapping has `len` bytes and lives as long as `self`.
        let range = unsafe { Raw::new(map, len) };
        Ok(Self { map, map_bytes: len, range, access: Access::ReadWrite, behind: Behind::Device })
    }

    /// Whether accesses are transactions with a device.
    pub(crate) fn is_device(&self) -> bool {
        self.behind == Behind::Device
    }

    /// Says that stores to `bytes` bytes from `at` on follow soon: the processor fetches the lines, with leave to write them, while
    /// the program does something else. Nothing changes; a range that is out of bounds, or is a device's, is ignored.
    #[inline]
    pub fn will_store(&self, at: usize, bytes: usize) {
        if !self.is_device() {
            self.range.will_store(at, bytes);
        }
    }

    /// What copies `bytes` bytes best.
    fn routine(&self, bytes: usize) -> Routine {
        self.fit(Routine::for_size(bytes))
    }

    /// A routine that the memory can take: in uncached memory `rep movsb` goes byte by byte, and a hypervisor
    /// that emulates a device may know no vector instructions.
    fn fit(&self, routine: Routine) -> Routine {
        match self.behind {
            Behind::File => routine,
            Behind::Device => Routine::Words,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.range.bytes()
    }

    /// Where it begins in this process: for arithmetic on places, not for access.
    #[must_use]
    pub fn address(&self) -> usize {
        self.range.address()
    }

    /// `len` bytes at `at` themselves, without a copy: for memory whose other owners one trusts. Everything else in this crate
    /// copies, since a peer may write at any time.
    ///
    /// # Errors
    /// [`OutOfBounds`]: outside the mapping, or a device.
    ///
    /// # Safety
    /// Nobody writes these bytes for as long as the slice lives: not this process, and not a peer that has the memory too. What
    /// a peer sent is so from when it was seen until it was given back, if the peer keeps its protocol.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where shared memory is a reference: the caller vouches for the peer"
    )]
    pub unsafe fn as_slice(&self, at: usize, len: usize) -> Result<&[u8], OutOfBounds> {
        if self.is_device() {
            return Err(OutOfBounds);
        }
        let first = self.range(at, len)?;
        // SAFETY: `len` bytes that are mapped as long as `self` lives (checked by `range`); nobody writes them, by the caller's word.
        Ok(unsafe { std::slice::from_raw_parts(first, len) })
    }

    /// Copies from the mapping at `at` into `out`.
    ///
    /// # Errors
    /// [`OutOfBounds`], and `out` is unchanged.
    pub fn read(&self, at: usize, out: &mut [u8]) -> Result<(), OutOfBounds> {
        self.range.read(self.routine(out.len()), at, out).map_err(|_| OutOfBounds)
    }

    /// Copies `data` into the mapping at `at`.
    ///
    /// # Errors
    /// [`OutOfBounds`], and nothing was stored.
    pub fn write(&self, at: usize, data: &[u8]) -> Result<(), OutOfBounds> {
        if self.access != Access::ReadWrite {
            return Err(OutOfBounds);
        }
        self.range.write(self.routine(data.len()), at, data).map_err(|_| OutOfBounds)
    }

    /// Where `len` bytes at `at` are.
    pub(crate) fn range(&self, at: usize, len: usize) -> Result<*mut u8, OutOfBounds> {
        self.range.range(at, len).map_err(|_| OutOfBounds)
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

    #[inline]
    fn writable(&self) -> Result<&Raw, WindowError> {
        match self.access {
            Access::ReadWrite => Ok(&self.range),
            Access::Read => Err(WindowError::ReadOnly),
        }
    }
}

impl Window for Mapping {
    #[inline]
    fn bytes(&self) -> usize {
        self.range.bytes()
    }

    #[inline]
    fn kind(&self) -> WindowKind {
        WindowKind::Mapped
    }

    #[inline]
    fn as_memory(&self) -> Option<&dyn Memory> {
        Some(self)
    }

    #[inline]
    fn as_mapping(&self) -> Option<&Mapping> {
        Some(self)
    }

    #[inline]
    fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.writable()?.write(self.routine(data.len()), at, data)
    }

    #[inline]
    fn write_by(&self, routine: Routine, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.writable()?.write(self.fit(routine), at, data)
    }

    #[inline]
    fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
        self.writable()?.store_u32(at, value, order)
    }

    #[inline]
    fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
        self.writable()?.store_u64(at, value, order)
    }

    #[inline]
    fn flush(&self) -> Result<(), WindowError> {
        crate::fence::store_fence();
        Ok(())
    }

    /// Stores to a device are posted: a load returns after those before it.
    #[inline]
    fn settle(&self) -> Result<(), WindowError> {
        crate::full_fence();
        if self.behind == Behind::Device {
            self.range.load_u32(0, LoadOrder::Acquire)?;
        }
        Ok(())
    }
}

impl Memory for Mapping {
    #[inline]
    fn read(&self, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        self.range.read(self.routine(out.len()), at, out)
    }

    #[inline]
    fn read_by(&self, routine: Routine, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        self.range.read(self.fit(routine), at, out)
    }

    #[inline]
    fn will_load(&self, at: usize, bytes: usize) {
        self.range.will_load(at, bytes);
    }

    #[inline]
    fn load_u32(&self, at: usize, order: LoadOrder) -> Result<u32, WindowError> {
        self.range.load_u32(at, order)
    }

    #[inline(always)]
    fn load_u64(&self, at: usize, order: LoadOrder) -> Result<u64, WindowError> {
        self.range.load_u64(at, order)
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

/// Whether a descriptor may be a device's: a character device, or an anonymous inode as VFIO's groups give out. No file
/// that somebody could cut is either.
fn is_device(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
    Ok(kind == FileType::CharacterDevice || fstatfs(fd)?.f_type == ANONYMOUS)
}

/// `ANON_INODE_FS_MAGIC` of the kernel's `uapi/linux/magic.h`.
const ANONYMOUS: i64 = 0x0904_1934;

/// What mincore counts in.
const PAGE: usize = 4096;
/// 256 KiB at any alignment.
const MOST_PAGES: usize = 65;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

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
    fn bytes_of_a_peer_that_is_trusted_are_had_without_a_copy() {
        let (file, mapping) = mapping(4096);
        mapping.write(4090, b"packet").unwrap();
        // SAFETY: nobody writes while the slice lives: this test alone has the memory.
        assert_eq!(unsafe { mapping.as_slice(4090, 6) }, Ok(b"packet".as_slice()));
        for (at, len) in [(4090, 7), (usize::MAX, 1), (4097, 0)] {
            // SAFETY: nothing is had.
            assert_eq!(unsafe { mapping.as_slice(at, len) }, Err(OutOfBounds), "{at} {len}");
        }
        let loads = Mapping::new(&file, 4088, 8, Access::Read).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { loads.as_slice(2, 3) }, Ok(b"pac".as_slice()));
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
    fn only_devices_are_mapped_as_devices() {
        let zero = std::fs::File::options().read(true).write(true).open("/dev/zero").unwrap();
        let device = Mapping::device(zero.as_fd(), 0, 8192).unwrap();
        let data: Vec<u8> = (0..=255).cycle().take(5000).collect();
        Window::write_by(&device, Routine::Stream, 3, &data).unwrap();
        let mut seen = vec![0; 5000];
        Memory::read_by(&device, Routine::Rep, 3, &mut seen).unwrap();
        assert!(seen == data);
        device.settle().unwrap();
        for (offset, bytes) in [(0, 0), (1, 4096), (0, 4095), (u64::MAX - 4095, 4096)] {
            let refused = Mapping::device(zero.as_fd(), offset, bytes);
            assert!(matches!(refused, Err(MapError::Range { .. })), "{offset:#x} {bytes:#x}");
        }
        let (memfd, _mapping) = mapping(4096);
        assert!(matches!(Mapping::device(memfd.as_fd(), 0, 4096), Err(MapError::Mmap { .. })));
        let disk = tempfile::tempfile().unwrap();
        assert!(matches!(Mapping::device(disk.as_fd(), 0, 4096), Err(MapError::Mmap { .. })));
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
