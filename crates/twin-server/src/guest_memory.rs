//! A host's memory as it announced it: ranges of bus addresses, some of them mapped here.

use shm::{Access, Mapping};

/// Memory of one host. Ranges do not overlap.
#[derive(Debug, Default)]
pub(crate) struct GuestMemory {
    /// Sorted by address.
    sections: Vec<Section>,
}

#[derive(Debug)]
struct Section {
    first: u64,
    /// The last address, inclusive: a section may end where addresses do.
    last: u64,
    writable: bool,
    /// `None`: announced without a file that may be used; nothing reaches it.
    mapping: Option<Mapping>,
}

/// Why a range is not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddError {
    /// Empty, or past the last address.
    #[error("the range is empty or wraps")]
    Range,
    /// Some of it is there already.
    #[error("the range overlaps one that is mapped already")]
    Overlap,
    /// More sections than a machine has any use for.
    #[error("there are {MAX_SECTIONS} sections already")]
    TooMany,
}

/// No memory is mapped there, or it may not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreachable;

/// As many as the `max_dma_maps` that QEMU states.
pub(crate) const MAX_SECTIONS: usize = 65535;

impl GuestMemory {
    /// Adds a section. A mapping, if there is one, has at least `bytes` bytes.
    pub(crate) fn add(
        &mut self,
        first: u64,
        bytes: u64,
        writable: bool,
        mapping: Option<Mapping>,
    ) -> Result<(), AddError> {
        let last = bytes.checked_sub(1).and_then(|more| first.checked_add(more)).ok_or(AddError::Range)?;
        if self.sections.len() >= MAX_SECTIONS {
            return Err(AddError::TooMany);
        }
        let at = self.sections.partition_point(|section| section.last < first);
        if self.sections.get(at).is_some_and(|next| next.first <= last) {
            return Err(AddError::Overlap);
        }
        self.sections.insert(at, Section { first, last, writable, mapping });
        Ok(())
    }

    /// Removes every section that lies in the range. Returns whether there was one, or `None` if the range cuts a section in two;
    /// then nothing was removed.
    pub(crate) fn remove(&mut self, first: u64, bytes: u64) -> Option<bool> {
        let last = bytes.checked_sub(1).and_then(|more| first.checked_add(more))?;
        let inside = |section: &Section| section.first >= first && section.last <= last;
        let touches = |section: &Section| section.first <= last && section.last >= first;
        if self.sections.iter().any(|section| touches(section) && !inside(section)) {
            return None;
        }
        let before = self.sections.len();
        self.sections.retain(|section| !inside(section));
        Some(self.sections.len() != before)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.sections.clear();
    }

    /// Bytes that can be reached, and bytes that were announced but cannot.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let size = |section: &Section| (section.last - section.first).saturating_add(1);
        let sum = |reachable: bool| {
            let some = self.sections.iter().filter(|section| section.mapping.is_some() == reachable);
            some.map(size).fold(0, u64::saturating_add)
        };
        (sum(true), sum(false))
    }

    /// Whether a store of `bytes` at `address` would land.
    pub(crate) fn check(&self, address: u64, bytes: usize) -> Result<(), Unreachable> {
        self.walk(address, bytes, |_, _, section| section.writable)
    }

    /// Stores `data` at `address`: all of it or, where any byte cannot be reached, none.
    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Result<(), Unreachable> {
        self.check(address, data.len())?;
        let mut rest = data;
        self.walk(address, data.len(), |at, bytes, section| {
            let (now, later) = rest.split_at(bytes);
            rest = later;
            section.mapping.as_ref().is_some_and(|mapping| mapping.write(at, now).is_ok())
        })
    }

    /// Loads from `address`: all of it or nothing.
    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Unreachable> {
        self.walk(address, out.len(), |_, _, _| true)?;
        let len = out.len();
        let mut rest = out;
        self.walk(address, len, |at, bytes, section| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(bytes);
            rest = later;
            section.mapping.as_ref().is_some_and(|mapping| mapping.read(at, now).is_ok())
        })
    }

    /// Walks the mapped sections under a range; `visit` gets the offset in the section, the bytes in it, and
    /// says whether to go on.
    fn walk<'a>(
        &'a self,
        address: u64,
        bytes: usize,
        mut visit: impl FnMut(usize, usize, &'a Section) -> bool,
    ) -> Result<(), Unreachable> {
        let mut at = self.sections.partition_point(|section| section.last < address);
        let mut address = address;
        let mut left = bytes;
        while left > 0 {
            let section =
                self.sections.get(at).filter(|section| section.first <= address).ok_or(Unreachable)?;
            let mapped = section.mapping.as_ref().ok_or(Unreachable)?.bytes();
            let skip = usize::try_from(address - section.first).map_err(|_| Unreachable)?;
            let here = mapped.saturating_sub(skip).min(left);
            if here == 0 || !visit(skip, here, section) {
                return Err(Unreachable);
            }
            left -= here;
            at += 1;
            let step = u64::try_from(here).map_err(|_| Unreachable)?;
            // Only the very last address has no successor, and then nothing may be left.
            match address.checked_add(step) {
                Some(next) => address = next,
                None if left == 0 => {}
                None => return Err(Unreachable),
            }
        }
        Ok(())
    }
}

/// What a section may be used for, as a mapping has it.
pub(crate) fn access(writable: bool) -> Access {
    if writable { Access::ReadWrite } else { Access::Read }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm::SharedFile;

    const PAGE: u64 = 4096;

    fn ram(bytes: u64, writable: bool) -> Option<Mapping> {
        let file = SharedFile::create("ram", bytes).unwrap();
        Some(Mapping::new(&file, 0, bytes, access(writable)).unwrap())
    }

    #[test]
    fn a_range_may_span_sections_but_not_a_hole() {
        let mut memory = GuestMemory::default();
        memory.add(0, PAGE, true, ram(PAGE, true)).unwrap();
        memory.add(PAGE, PAGE, true, ram(PAGE, true)).unwrap();
        memory.add(4 * PAGE, PAGE, true, ram(PAGE, true)).unwrap();
        let data: Vec<u8> = (0..100).collect();
        memory.write(PAGE - 50, &data).unwrap();
        let mut back = [0; 100];
        memory.read(PAGE - 50, &mut back).unwrap();
        assert_eq!(&back[..], &data[..]);
        assert_eq!(memory.write(2 * PAGE - 50, &data), Err(Unreachable));
        memory.read(2 * PAGE - 50, &mut back[..50]).unwrap();
        assert_eq!(back[..50], [0; 50], "a refused store stores nothing");
        assert_eq!(memory.read(4 * PAGE - 1, &mut [0; 2]), Err(Unreachable));
        assert_eq!(memory.read(u64::MAX, &mut [0; 2]), Err(Unreachable));
    }

    #[test]
    fn read_only_and_fileless_sections_refuse() {
        let mut memory = GuestMemory::default();
        memory.add(0, PAGE, false, ram(PAGE, false)).unwrap();
        memory.add(PAGE, PAGE, true, None).unwrap();
        assert_eq!(memory.write(0, &[1]), Err(Unreachable));
        memory.read(0, &mut [0]).unwrap();
        assert_eq!(memory.read(PAGE, &mut [0]), Err(Unreachable));
        assert_eq!(memory.bytes(), (PAGE, PAGE));
    }

    #[test]
    fn overlaps_and_wraps_are_refused_and_the_top_of_memory_is_not() {
        let mut memory = GuestMemory::default();
        memory.add(PAGE, PAGE, true, None).unwrap();
        for (first, bytes) in [(0, PAGE + 1), (2 * PAGE - 1, 1), (PAGE, PAGE), (0, u64::MAX)] {
            assert_eq!(memory.add(first, bytes, true, None), Err(AddError::Overlap), "{first:#x} {bytes:#x}");
        }
        for (first, bytes) in [(0, 0), (u64::MAX, 2), (1, u64::MAX)].into_iter().take(2) {
            assert_eq!(memory.add(first, bytes, true, None), Err(AddError::Range));
        }
        memory.add(u64::MAX - (PAGE - 1), PAGE, true, ram(PAGE, true)).unwrap();
        memory.write(u64::MAX - 1, &[1, 2]).unwrap();
        assert_eq!(memory.write(u64::MAX - 1, &[1, 2, 3]), Err(Unreachable));
    }

    #[test]
    fn a_section_leaves_whole_or_not_at_all() {
        let mut memory = GuestMemory::default();
        memory.add(0, PAGE, true, None).unwrap();
        memory.add(PAGE, PAGE, true, None).unwrap();
        assert_eq!(memory.remove(0, PAGE / 2), None);
        assert_eq!(memory.remove(8 * PAGE, PAGE), Some(false));
        assert_eq!(memory.remove(0, 2 * PAGE), Some(true));
        assert_eq!(memory.bytes(), (0, 0));
    }
}
