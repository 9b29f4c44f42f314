//! A block of registers as bytes, with what a write may do to each bit: built from a register table.

use ntb_spec::table::{Access, Row};

/// Values, masks and reset values of a block, each byte at its own offset.
#[derive(Debug, Clone)]
pub(crate) struct RegisterFile {
    value: Box<[u8]>,
    reset: Box<[u8]>,
    /// Bits that a write stores.
    writable: Box<[u8]>,
    /// Bits that a write of 1 clears.
    clearable: Box<[u8]>,
}

impl RegisterFile {
    /// The block that a table describes, after reset.
    pub(crate) fn new<R>(table: &[Row<R>]) -> Self {
        let bytes = table.last().map_or(0, Row::end);
        let zeros = || vec![0; usize::try_from(bytes).unwrap_or(0)].into_boxed_slice();
        let mut file = Self { value: zeros(), reset: zeros(), writable: zeros(), clearable: zeros() };
        for row in table {
            for index in 0..row.count {
                let at = row.offset_of(index);
                put(&mut file.reset, at, row.bytes, row.reset);
                match row.access {
                    Access::ReadWrite => put(&mut file.writable, at, row.bytes, row.mask),
                    Access::WriteOneToClear => put(&mut file.clearable, at, row.bytes, row.mask),
                    Access::ReadOnly | Access::Strobe | Access::Peer => {}
                }
            }
        }
        file.reset();
        file
    }

    /// Changes what a register is after reset, and is now.
    pub(crate) fn preset(&mut self, offset: u32, bytes: u8, value: u64) {
        put(&mut self.reset, offset, bytes, value);
        put(&mut self.value, offset, bytes, value);
    }

    /// Changes which bits of a register a write stores.
    pub(crate) fn set_writable(&mut self, offset: u32, bytes: u8, mask: u64) {
        put(&mut self.writable, offset, bytes, mask);
    }

    /// Everything as after reset.
    pub(crate) fn reset(&mut self) {
        let Self { value, reset, writable: _, clearable: _ } = self;
        value.copy_from_slice(reset);
    }

    /// Bytes as a host reads them; 0 where the block has none.
    pub(crate) fn load(&self, offset: u32, out: &mut [u8]) {
        for (byte, at) in out.iter_mut().zip(offset..) {
            *byte = index(at).and_then(|at| self.value.get(at)).copied().unwrap_or(0);
        }
    }

    /// A host's write: stores and clears what the masks allow.
    pub(crate) fn store(&mut self, offset: u32, data: &[u8]) {
        for (&new, at) in data.iter().zip(offset..) {
            let Some(at) = index(at) else { return };
            let (Some(value), Some(writable), Some(clearable)) =
                (self.value.get_mut(at), self.writable.get(at), self.clearable.get(at))
            else {
                return;
            };
            *value = (*value & !writable & !(new & clearable)) | (new & writable);
        }
    }

    /// A register's value.
    pub(crate) fn get(&self, offset: u32, bytes: u8) -> u64 {
        let mut whole = [0; 8];
        if let Some(part) = whole.get_mut(..usize::from(bytes)) {
            self.load(offset, part);
        }
        u64::from_le_bytes(whole)
    }

    /// The device's own change of a register, past the masks.
    pub(crate) fn put(&mut self, offset: u32, bytes: u8, new: u64) {
        put(&mut self.value, offset, bytes, new);
    }
}

fn index(offset: u32) -> Option<usize> {
    usize::try_from(offset).ok()
}

fn put(block: &mut [u8], offset: u32, bytes: u8, value: u64) {
    for (new, at) in value.to_le_bytes().into_iter().take(usize::from(bytes)).zip(offset..) {
        if let Some(byte) = index(at).and_then(|at| block.get_mut(at)) {
            *byte = new;
        }
    }
}
