//! Which bytes of a host's memory are a window's own now (*alias*), by file: a bus address means this in one map of the
//! host and that in another, and behind a vIOMMU nothing at all.

use super::plan::FilePiece;
use shm::Mapping;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a process sees where it maps a byte of a file.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The file, for so many bytes at least.
    File(u64),
    /// A window's memory, at an offset, for so many bytes.
    Window(Arc<Mapping>, usize, u64),
}

/// A file by device and inode, and an offset.
type Byte = ((u64, u64), u64);

/// What one window has replaced.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    /// By first byte: the length, and where it is in the window.
    ranges: BTreeMap<Byte, (u64, u64)>,
    mapping: Option<Arc<Mapping>>,
}

impl Replaced {
    pub(super) fn new(pieces: &[FilePiece], mapping: &Arc<Mapping>) -> Self {
        let byte = |piece: &FilePiece| (piece.file.identity(), piece.offset);
        let ranges = pieces.iter().map(|piece| (byte(piece), (piece.bytes, piece.at))).collect();
        Self { ranges, mapping: Some(Arc::clone(mapping)) }
    }

    pub(super) fn at(&self, file: (u64, u64), offset: u64) -> Seen {
        let Some(mapping) = &self.mapping else { return Seen::File(u64::MAX) };
        let here = self.ranges.range(..=(file, offset)).next_back();
        if let Some((&(whose, first), &(bytes, at))) = here
            && whose == file
            && let inside = offset.saturating_sub(first)
            && inside < bytes
            && let Ok(at) = usize::try_from(at.saturating_add(inside))
        {
            return Seen::Window(Arc::clone(mapping), at, bytes.saturating_sub(inside));
        }
        let next = self.ranges.range((file, offset)..).next();
        let next = next.filter(|(byte, _)| byte.0 == file).map(|(byte, _)| byte.1);
        Seen::File(next.map_or(u64::MAX, |next| next.saturating_sub(offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm::{Access, SharedFile};

    #[test]
    fn a_byte_is_the_files_or_the_windows_and_so_are_those_behind_it() {
        let ram = Arc::new(SharedFile::create("ram", 1 << 20).unwrap());
        let own = SharedFile::create("window", 8192).unwrap();
        let own = Arc::new(Mapping::new(&own, 0, 8192, Access::ReadWrite).unwrap());
        let piece = |at, offset| FilePiece { at, bytes: 4096, file: Arc::clone(&ram), offset };
        let replaced = Replaced::new(&[piece(0, 0x8000), piece(4096, 0x2000)], &own);
        let file = ram.identity();
        let window = |offset| match replaced.at(file, offset) {
            Seen::Window(_, at, bytes) => Ok((at, bytes)),
            Seen::File(bytes) => Err(bytes),
        };
        assert_eq!(window(0), Err(0x2000));
        assert_eq!(window(0x2000), Ok((4096, 4096)));
        assert_eq!(window(0x2FFF), Ok((8191, 1)));
        assert_eq!(window(0x3000), Err(0x5000));
        assert_eq!(window(0x8010), Ok((16, 4080)));
        assert_eq!(window(0x9000), Err(u64::MAX));
        assert!(matches!(replaced.at((file.0, file.1 + 1), 0x2000), Seen::File(u64::MAX)));
        assert!(matches!(Replaced::default().at(file, 0x2000), Seen::File(u64::MAX)));
    }
}
