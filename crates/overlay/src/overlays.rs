//! The primitive: that range of that file, wherever this process maps it, is these pieces from now on.

use crate::maps::{self, Query, normal_device};
use control::{FileRange, MAX_OVERLAY_PIECES, OverlayCommand, Piece};
use rustix::fs::{MemfdFlags, fstat, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::ffi::c_void;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The process does not map the range, or not all of it, or not shared.
    #[error("this process does not map that range of that file")]
    NotMapped,
    /// Offsets or lengths that are no pages, leave the range, overlap, or name no file; or too many pieces.
    #[error("the pieces do not fit the range: {0}")]
    BadPieces(&'static str),
    /// The kernel refused.
    #[error("the kernel refused: {0}")]
    System(#[from] io::Error),
}

/// The ranges that this process has had replaced, and the memory of closed ones.
#[derive(Debug)]
pub struct Overlays {
    ranges: Vec<Range>,
    ones: Ones,
    query: Option<Query>,
}

/// A range and where it lies in this process.
#[derive(Debug)]
struct Range {
    target: FileRange,
    addresses: Vec<usize>,
    /// What was put at its beginning, as device and inode: as long as it is there, the addresses are ours.
    first: (u64, u64),
    close_on_hangup: bool,
    /// What lies there, with the files: none where they are not kept.
    under: Vec<(Piece, Arc<OwnedFd>)>,
}

const PAGE: u64 = 4096;

impl Overlays {
    /// Nothing replaced yet.
    ///
    /// # Errors
    /// When the kernel refuses the memory of closed ranges.
    pub fn new() -> io::Result<Self> {
        Ok(Self { ranges: Vec::new(), ones: Ones::new()?, query: Query::open().ok() })
    }

    /// Carries out one order; `files` are the descriptors that its pieces name.
    ///
    /// # Errors
    /// [`OverlayError`]. What could not be put is closed if the order allows closing.
    pub fn apply(&mut self, command: &OverlayCommand, files: &[BorrowedFd<'_>]) -> Result<(), OverlayError> {
        let target = FileRange { device: normal_device(command.target.device), ..command.target };
        check(&target, &command.pieces, files.len())?;
        let addresses = self.find(&target)?;
        let mut result = Ok(());
        for &address in &addresses {
            result = result.and_then(|()| self.put(address, target.bytes, &command.pieces, files));
        }
        if result.is_err() && command.close_on_hangup {
            for &address in &addresses {
                // Whatever comes of it, the range stays known, and is closed once more when the twin is gone.
                drop(self.ones.cover(address, target.bytes));
            }
        }
        self.ranges.retain(|range| range.target != target);
        let first = match command.pieces.as_slice() {
            [first, ..] if result.is_ok() && first.at == 0 => {
                let first_file = identity(files.get(first.file))?;
                let itself = first_file == (target.device, target.inode)
                    && (first.offset, first.bytes) == (target.offset, target.bytes);
                if itself {
                    // As it was before anybody came; to remember it would have no end.
                    return Ok(());
                }
                first_file
            }
            _ => self.ones.identity,
        };
        let under = if result.is_ok() { kept(&command.pieces, files) } else { Vec::new() };
        let close_on_hangup = command.close_on_hangup;
        self.ranges.push(Range { target, addresses, first, close_on_hangup, under });
        result
    }

    /// The file that was put under byte `at` of a range of this file, and which byte of it lies there: what this process may
    /// hand to another one that is to reach these pages and no others.
    #[must_use]
    pub fn under(&self, file: (u64, u64), at: u64) -> Option<(Arc<OwnedFd>, u64)> {
        let file = (normal_device(file.0), file.1);
        let mut ranges = self.ranges.iter().filter(|range| (range.target.device, range.target.inode) == file);
        ranges.find_map(|range| {
            let at = at.checked_sub(range.target.offset)?;
            range.under.iter().find_map(|(piece, file)| {
                let skip = at.checked_sub(piece.at).filter(|&skip| skip < piece.bytes)?;
                Some((Arc::clone(file), piece.offset.checked_add(skip)?))
            })
        })
    }

    /// Forgets the ranges of a file, which this process is about to unmap: its addresses may be somebody else's next.
    pub fn forget(&mut self, file: (u64, u64)) {
        let file = (normal_device(file.0), file.1);
        self.ranges.retain(|range| (range.target.device, range.target.inode) != file);
    }

    /// The twin is gone: every range that may be closed is.
    pub fn hang_up(&mut self) {
        for range in std::mem::take(&mut self.ranges) {
            if range.close_on_hangup
                && let Ok(addresses) = self.verify(&range)
            {
                for address in addresses {
                    // There is nobody left to tell.
                    drop(self.ones.cover(address, range.target.bytes));
                }
            }
        }
    }

    /// Where the range lies: known from before and still so, or looked up.
    fn find(&mut self, target: &FileRange) -> Result<Vec<usize>, OverlayError> {
        if let Some(range) = self.ranges.iter().find(|range| range.target == *target)
            && let Ok(addresses) = self.verify(range)
        {
            return Ok(addresses);
        }
        let mut found = Vec::new();
        // What is somebody else's by now is forgotten: addresses are used again.
        let known = std::mem::take(&mut self.ranges);
        self.ranges =
            known.into_iter().filter(|range| range.target != *target && self.verify(range).is_ok()).collect();
        let areas = maps::areas()?;
        for (nth, area) in areas.iter().enumerate() {
            let same = area.shared && (area.device, area.inode) == (target.device, target.inode);
            let Some(skip) = target.offset.checked_sub(area.offset).filter(|_| same) else { continue };
            let Some(address) = usize::try_from(skip).ok().and_then(|skip| area.start.checked_add(skip))
            else {
                continue;
            };
            // What was put under another range shows the same file, and is that range's affair.
            let taken = self.ranges.iter().any(|range| range.addresses.contains(&address));
            if address < area.end && !taken && covers(&areas, nth, address, target) {
                found.push(address);
            }
        }
        if found.is_empty() { Err(OverlayError::NotMapped) } else { Ok(found) }
    }

    /// The addresses of a range, if what was put there is there still: a process that unmaps a BAR may have something else at
    /// its address by now.
    fn verify(&self, range: &Range) -> Result<Vec<usize>, OverlayError> {
        let still = |&address: &usize| match self.query.as_ref().map(|query| query.identity(address)) {
            Some(Ok(identity)) => Ok(identity == range.first),
            _ => maps::areas().map(|areas| {
                let here = areas.iter().find(|area| area.start <= address && address < area.end);
                here.is_some_and(|area| (area.device, area.inode) == range.first)
            }),
        };
        for address in &range.addresses {
            if !still(address)? {
                return Err(OverlayError::NotMapped);
            }
        }
        Ok(range.addresses.clone())
    }

    fn put(
        &self,
        address: usize,
        bytes: u64,
        pieces: &[Piece],
        files: &[BorrowedFd<'_>],
    ) -> Result<(), OverlayError> {
        let place = |at: u64| {
            let at = usize::try_from(at).ok().and_then(|at| address.checked_add(at));
            at.ok_or(OverlayError::BadPieces("past the last address"))
        };
        let mut covered = 0;
        for piece in pieces {
            if piece.at > covered {
                self.ones.cover(place(covered)?, piece.at.saturating_sub(covered))?;
            }
            let file = files.get(piece.file).ok_or(OverlayError::BadPieces("no such file"))?;
            replace(place(piece.at)?, piece.bytes, *file, piece.offset, MapFlags::SHARED)?;
            covered = piece.at.saturating_add(piece.bytes);
        }
        if covered < bytes {
            self.ones.cover(place(covered)?, bytes.saturating_sub(covered))?;
        }
        Ok(())
    }
}

/// The pieces with their files, to be handed on. A process without descriptors to spare does without.
fn kept(pieces: &[Piece], files: &[BorrowedFd<'_>]) -> Vec<(Piece, Arc<OwnedFd>)> {
    let kept: Vec<Option<Arc<OwnedFd>>> =
        files.iter().map(|file| file.try_clone_to_owned().ok().map(Arc::new)).collect();
    let file = |piece: &Piece| kept.get(piece.file).and_then(Option::as_ref).map(Arc::clone);
    pieces.iter().filter_map(|piece| Some((*piece, file(piece)?))).collect()
}

/// Whether the areas from `nth` on cover the whole range without a gap, in the file and in memory.
fn covers(areas: &[maps::Area], nth: usize, address: usize, target: &FileRange) -> bool {
    let Some(end) = usize::try_from(target.bytes).ok().and_then(|bytes| address.checked_add(bytes)) else {
        return false;
    };
    let mut next: Option<(usize, u64)> = None;
    for area in areas.iter().skip(nth) {
        let same = area.shared && (area.device, area.inode) == (target.device, target.inode);
        if !same || next.is_some_and(|next| next != (area.start, area.offset)) {
            return false;
        }
        if area.end >= end {
            return true;
        }
        let bytes = area.end.saturating_sub(area.start);
        next = Some((area.end, area.offset.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX))));
    }
    false
}

/// Pages, ascending, apart, inside the range.
fn check(target: &FileRange, pieces: &[Piece], files: usize) -> Result<(), OverlayError> {
    let pages = |number: u64| number.is_multiple_of(PAGE);
    if target.bytes == 0 || !pages(target.bytes) || !pages(target.offset) {
        return Err(OverlayError::BadPieces("the range is no whole pages"));
    }
    if pieces.len() > MAX_OVERLAY_PIECES {
        return Err(OverlayError::BadPieces("too many"));
    }
    let mut free = 0;
    for piece in pieces {
        if piece.bytes == 0 || !pages(piece.at) || !pages(piece.bytes) || !pages(piece.offset) {
            return Err(OverlayError::BadPieces("a piece is no whole pages"));
        }
        if piece.at < free {
            return Err(OverlayError::BadPieces("they overlap or are out of order"));
        }
        if piece.file >= files {
            return Err(OverlayError::BadPieces("a piece names no file"));
        }
        free = piece.at.checked_add(piece.bytes).ok_or(OverlayError::BadPieces("past the last address"))?;
    }
    if free > target.bytes { Err(OverlayError::BadPieces("they leave the range")) } else { Ok(()) }
}

/// Replaces what is mapped at an address of this process.
fn replace(address: usize, bytes: u64, file: BorrowedFd<'_>, offset: u64, kind: MapFlags) -> io::Result<()> {
    let len = usize::try_from(bytes).map_err(io::Error::other)?;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let at = ptr::with_exposed_provenance_mut::<c_void>(address);
    // SAFETY: the caller has found this range in the list of mappings as the one that the twin named, or has put
    // there what lies there now. Its owner reaches it through raw pointers that stay valid: the range is never
    // unmapped, only its pages change, which is what shared memory does anyway.
    unsafe { mmap(at, len, prot, kind | MapFlags::FIXED, file, offset) }?;
    Ok(())
}

fn identity(file: Option<&BorrowedFd<'_>>) -> io::Result<(u64, u64)> {
    let file = file.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let stat = fstat(file)?;
    Ok((normal_device(stat.st_dev), stat.st_ino))
}

/// The memory of closed ranges: a file of all ones, mapped privately again and again.
#[derive(Debug)]
struct Ones {
    file: std::fs::File,
    identity: (u64, u64),
}

/// Size of the file: large, so that a window of 512 MiB takes 256 mappings.
const ONES_BYTES: u64 = 2 << 20;

impl Ones {
    fn new() -> io::Result<Self> {
        let fd = memfd_create("isthmus closed window", MemfdFlags::CLOEXEC)?;
        let identity = identity(Some(&fd.as_fd()))?;
        let mut file = std::fs::File::from(fd);
        let chunk = [0xFF; 1 << 16];
        let mut written = 0;
        while written < ONES_BYTES {
            file.write_all(&chunk)?;
            written = written.saturating_add(1 << 16);
        }
        Ok(Self { file, identity })
    }

    /// Puts fresh ones over a range.
    fn cover(&self, address: usize, bytes: u64) -> io::Result<()> {
        let mut at = address;
        let mut left = bytes;
        while left > 0 {
            let now = left.min(ONES_BYTES);
            replace(at, now, self.file.as_fd(), 0, MapFlags::PRIVATE)?;
            left = left.saturating_sub(now);
            at = at.saturating_add(usize::try_from(now).map_err(io::Error::other)?);
        }
        Ok(())
    }
}
