//! The memory of windows: files of ours, pieces of a host's, and orders about them.

use super::overlay_peer::Order;
use super::plan::FilePiece;
use super::{PAGE, Ticket};
use crate::guest_memory::Extent;
use crate::host::Hosts;
use control::{FileRange, MAX_OVERLAY_FILES, MAX_OVERLAY_PIECES, Piece};
use rustix::fs::fstat;
use shm::{Access, Mapping, SharedFile};
use std::sync::Arc;
use twin::Side;

/// A file of ours, and where it is mapped here.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    pub(super) file: Arc<SharedFile>,
    pub(super) mapping: Arc<Mapping>,
}

impl Memory {
    pub(super) fn new(name: &str, bytes: u64) -> Result<Self, String> {
        let file = SharedFile::create(name, bytes).map_err(|error| error.to_string())?;
        let mapping = Mapping::new(&file, 0, bytes, Access::ReadWrite).map_err(|error| error.to_string())?;
        Ok(Self { file: Arc::new(file), mapping: Arc::new(mapping) })
    }
}

/// The largest window whose given file is filled with ones.
const FILLED_BYTES: u64 = 16 << 20;

/// What a host maps until the first order: all ones, and nobody else's. A window beyond what stock drivers use
/// reads as zeros for the moment between memory enable and that order; filling it would take its size in memory.
pub(super) fn given(bytes: u64) -> Result<SharedFile, String> {
    let file = SharedFile::create("isthmus window", bytes).map_err(|error| error.to_string())?;
    if bytes <= FILLED_BYTES {
        let mapping = Mapping::new(&file, 0, bytes, Access::ReadWrite).map_err(|error| error.to_string())?;
        copy(bytes, |done, chunk| {
            chunk.fill(0xFF);
            place(done).is_some_and(|at| mapping.write(at, chunk).is_ok())
        })?;
    }
    Ok(file)
}

/// Walks `bytes` in chunks.
pub(super) fn copy(bytes: u64, mut one: impl FnMut(u64, &mut [u8]) -> bool) -> Result<(), String> {
    let mut buffer = [0; 1 << 14];
    let mut done = 0;
    while done < bytes {
        let now = place(bytes.saturating_sub(done)).unwrap_or(usize::MAX).min(buffer.len());
        let chunk = buffer.get_mut(..now).ok_or("a chunk")?;
        if !one(done, chunk) {
            return Err("the window's memory cannot be reached".to_owned());
        }
        done = done.saturating_add(u64::try_from(now).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Copies a piece of a host's memory into the window's own, or back; by the file, since the host may have withdrawn the
/// memory by now.
pub(super) fn exchange(own: &Memory, piece: &FilePiece, back: bool) -> Result<(), String> {
    let host = Mapping::new(&piece.file, piece.offset, piece.bytes, Access::ReadWrite);
    let host = host.map_err(|error| error.to_string())?;
    copy(piece.bytes, |done, chunk| {
        let (Some(here), Some(there)) = (place(piece.at.saturating_add(done)), place(done)) else {
            return false;
        };
        if back {
            own.mapping.read(here, chunk).is_ok() && host.write(there, chunk).is_ok()
        } else {
            host.read(there, chunk).is_ok() && own.mapping.write(here, chunk).is_ok()
        }
    })
}

pub(super) fn place(offset: u64) -> Option<usize> {
    usize::try_from(offset).ok()
}

/// The files under a range of a host's memory, neighbours joined.
pub(super) fn pieces(
    hosts: &Hosts,
    side: Side,
    address: u64,
    bytes: u64,
) -> Result<Vec<FilePiece>, &'static str> {
    let extents = hosts.get(side).memory.extents(address, bytes);
    let extents =
        extents.map_err(|_| "its translation points at no memory that the twin can reach, read and write")?;
    let mut pieces: Vec<FilePiece> = Vec::new();
    let mut files: Vec<Arc<SharedFile>> = Vec::new();
    for extent in extents {
        if extent.file.page_bytes() != PAGE {
            return Err("its memory is made of huge pages");
        }
        if !extent.offset.is_multiple_of(PAGE)
            || !extent.at.is_multiple_of(PAGE)
            || !extent.bytes.is_multiple_of(PAGE)
        {
            return Err("its memory is not made of whole pages");
        }
        let joins = |last: &&mut FilePiece| {
            Arc::ptr_eq(&last.file, &extent.file)
                && last.offset.checked_add(last.bytes) == Some(extent.offset)
        };
        if let Some(last) = pieces.last_mut().filter(joins) {
            last.bytes = last.bytes.saturating_add(extent.bytes);
        } else if pieces.len() >= MAX_OVERLAY_PIECES {
            return Err("its memory is in too many pieces: a window behind a vIOMMU may have 4096 pages");
        } else {
            let Extent { at, bytes, file, offset } = extent;
            if !files.iter().any(|known| Arc::ptr_eq(known, &file)) {
                files.push(Arc::clone(&file));
            }
            // Found here, a fault of this host's memory; found later, it would pass for one of its peer's overlay.
            if files.len() > MAX_OVERLAY_FILES {
                return Err("its memory comes from too many files");
            }
            pieces.push(FilePiece { at, bytes, file, offset });
        }
    }
    Ok(pieces)
}

pub(super) fn range(file: &SharedFile, offset: u64, bytes: u64) -> Result<FileRange, String> {
    let stat = fstat(file).map_err(|errno| errno.to_string())?;
    Ok(FileRange { device: stat.st_dev, inode: stat.st_ino, offset, bytes })
}

/// An order with its files named once each.
pub(super) fn order(
    target: FileRange,
    pieces: &[FilePiece],
    close_on_hangup: bool,
    tag: Ticket,
) -> Result<Order<Ticket>, String> {
    let mut files: Vec<Arc<SharedFile>> = Vec::new();
    let mut named = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let known = files.iter().position(|file| Arc::ptr_eq(file, &piece.file));
        let file = known.unwrap_or_else(|| {
            files.push(Arc::clone(&piece.file));
            files.len().saturating_sub(1)
        });
        named.push(Piece { at: piece.at, bytes: piece.bytes, file, offset: piece.offset });
    }
    if files.len() > MAX_OVERLAY_FILES {
        return Err("the window's memory comes from too many files".to_owned());
    }
    Ok(Order { target, pieces: named, files, close_on_hangup, tag })
}
