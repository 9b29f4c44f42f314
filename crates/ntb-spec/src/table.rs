//! One row per register: the form that every table has, and how an access finds its row.

/// What the bits of a register do when they are written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Writes are ignored.
    ReadOnly,
    /// The bits of the mask are stored.
    ReadWrite,
    /// Writing 1 to a bit of the mask clears it.
    WriteOneToClear,
    /// A bit of the mask written as 1 is an event; nothing is stored.
    Strobe,
    /// The register is the peer's: reads give its live value, writes land there.
    Peer,
}

impl Access {
    /// The usual abbreviation.
    #[must_use]
    pub const fn abbreviation(self) -> &'static str {
        match self {
            Self::ReadOnly => "RO",
            Self::ReadWrite => "RW",
            Self::WriteOneToClear => "RW1C",
            Self::Strobe => "W1",
            Self::Peer => "RW peer",
        }
    }
}

/// A register, or an array of equal registers.
#[derive(Debug, Clone, Copy)]
pub struct Row<R> {
    /// Byte offset of the first element in its block.
    pub at: u32,
    /// Width of an element in bytes: 1, 2, 4 or 8.
    pub bytes: u8,
    /// How many elements; they lie side by side.
    pub count: u8,
    /// Which register.
    pub reg: R,
    /// The name that drivers use.
    pub name: &'static str,
    /// What an access does.
    pub access: Access,
    /// The bits that a write may change (or clear).
    pub mask: u64,
    /// Value after reset. Arrays whose elements differ say so in `doc`, and the model sets them.
    pub reset: u64,
    /// What it is for.
    pub doc: &'static str,
    /// Where this was read.
    pub source: &'static str,
}

/// Which part of an element an access covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// Bits 31:0 of a 64-bit register.
    Low,
    /// Bits 63:32 of a 64-bit register.
    High,
}

/// Where an access landed.
#[derive(Debug, Clone, Copy)]
pub struct Hit<R: 'static> {
    /// The row.
    pub row: &'static Row<R>,
    /// Which element of it.
    pub index: u8,
    /// Which part of that element.
    pub part: Part,
}

/// Why an access is no register access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// No register there.
    NoRegister,
    /// A register is there, of another width or at another alignment.
    Width,
}

impl<R> Row<R> {
    /// One past the last byte.
    #[must_use]
    pub const fn end(&self) -> u32 {
        self.at + widen(self.bytes) * widen(self.count)
    }

    /// Offset of an element.
    #[must_use]
    pub const fn offset_of(&self, index: u8) -> u32 {
        self.at + widen(self.bytes) * widen(index)
    }

    /// All ones in the width of an element.
    #[must_use]
    pub const fn ones(&self) -> u64 {
        u64::MAX >> (64 - 8 * widen(self.bytes))
    }
}

const fn widen(small: u8) -> u32 {
    // `From` is not const yet.
    small as u32
}

/// Finds the register that an access of `bytes` at `offset` means. A 64-bit register may be reached whole or by
/// its aligned halves, as processors without 8-byte accesses do (Linux `ntb_hw_intel.h`, `ioread64` fall-back); every other register by its
/// own width alone.
///
/// # Errors
/// [`Miss`] says whether nothing is there or the width is wrong.
pub fn find<R>(table: &'static [Row<R>], offset: u32, bytes: usize) -> Result<Hit<R>, Miss> {
    let row = covering(table, offset).ok_or(Miss::NoRegister)?;
    let width = u32::from(row.bytes);
    let inside = offset - row.at;
    let index = u8::try_from(inside / width).map_err(|_| Miss::NoRegister)?;
    let part = match (bytes, row.bytes, inside % width) {
        (access, own, 0) if access == usize::from(own) => Part::Whole,
        (4, 8, 0) => Part::Low,
        (4, 8, 4) => Part::High,
        _ => return Err(Miss::Width),
    };
    Ok(Hit { row, index, part })
}

/// The row that covers a byte, if any.
#[must_use]
pub fn covering<R>(table: &'static [Row<R>], offset: u32) -> Option<&'static Row<R>> {
    let after = table.partition_point(|row| row.at <= offset);
    after.checked_sub(1).and_then(|at| table.get(at)).filter(|row| offset < row.end())
}

/// Whether a table is sorted, disjoint, aligned and inside `block_bytes`: the compile-time check of each.
#[must_use]
pub const fn is_well_formed<R>(table: &[Row<R>], block_bytes: u32) -> bool {
    let mut free_from = 0;
    let mut at = 0;
    while at < table.len() {
        let row = &table[at];
        if row.at < free_from || row.count == 0 || !row.at.is_multiple_of(widen(row.bytes)) {
            return false;
        }
        if row.mask & !row.ones() != 0 || row.reset & !row.ones() != 0 {
            return false;
        }
        free_from = row.end();
        at += 1;
    }
    free_from <= block_bytes
}
