//! What other copies are measured against.

use crate::{Access, MapError, Mapping, SharedFile, WindowError};
use std::io;
use std::ptr;

/// Shared memory that nobody else has, and the C library's `memcpy` into it.
///
/// The same kind of pages as a window's (a memfd, mapped shared), so that a window can be compared with ordinary shared
/// memory. The file never leaves this value and a copy borrows it mutably, which is what makes a plain copy sound here and in no
/// window.
#[derive(Debug)]
pub struct Plain {
    mapping: Mapping,
}

impl Plain {
    /// So many bytes of it.
    ///
    /// # Errors
    /// When the kernel refuses the memory.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let file = SharedFile::create("isthmus plain memory", bytes)?;
        let mapping = Mapping::new(&file, 0, bytes, Access::ReadWrite);
        Ok(Self { mapping: mapping.map_err(|error: MapError| io::Error::other(error))? })
    }

    /// `memcpy`.
    ///
    /// # Errors
    /// [`WindowError::OutOfBounds`], and nothing was copied.
    pub fn copy(&mut self, at: usize, data: &[u8]) -> Result<(), WindowError> {
        let to = self.mapping.range_for_stores(at, data.len()).map_err(|_| WindowError::OutOfBounds)?;
        // SAFETY: `to` is valid for stores of `data.len()` bytes (checked), `data` is private memory elsewhere, and nobody
        // else has this file or borrows this mapping.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_copies_inside_its_bounds_alone() {
        let mut plain = Plain::new(4096).unwrap();
        plain.copy(4000, &[7; 96]).unwrap();
        assert_eq!(plain.copy(4000, &[7; 97]), Err(WindowError::OutOfBounds));
        assert_eq!(plain.copy(usize::MAX, &[7]), Err(WindowError::OutOfBounds));
        let mut seen = [0; 2];
        plain.mapping.read(3999, &mut seen).unwrap();
        assert_eq!(seen, [0, 7]);
    }
}
