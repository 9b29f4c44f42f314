//! A host's memory as it announced it: ranges of bus addresses, some of them mapped here.

use shm::{Access, Mapping};
use std::collections::BTreeMap;

/// Memory of one host. Ranges do not overlap.
#[derive(Debug, Default)]
pub(crate) struct GuestMemory {
    /// By first address. A tree, since a host may announce as many as it likes, in any order, and the other host waits
    /// meanwhile.
    sections: BTreeMap<u64, Section>,
    mappings: usize,
}

#[derive(Debug)]
struct Section {
    /// The last address, inclusive: a section may end where addresses do.
    last: u64,
    /// What the host lets the device do there.
    rights: Rights,
    /// `None`: announced without a file that may be used; nothing reaches it.
    mapping: Option<Mapping>,
}

/// What a device may do with a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
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
    #[error("there are {MAX_SECTIONS} sections, or {MAX_MAPPINGS} with a file, already")]
    TooMany,
}

/// No memory is mapped there, or it may not be accessed that way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreachable;

/// As many as the `max_dma_maps` that QEMU states.
pub(crate) const MAX_SECTIONS: usize = 65535;

/// How many of them may be mapped here. A process has 65530 mappings (`vm.max_map_count`) for both hosts, its
/// libraries and its heap: a host that used them up would leave none to the other.
pub(crate) const MAX_MAPPINGS: usize = 16384;

impl GuestMemory {
    /// Whether another section may be added: ask before mapping anything.
    pub(crate) fn has_room(&self, mapped: bool) -> bool {
        self.sections.len() < MAX_SECTIONS && !(mapped && self.mappings >= MAX_MAPPINGS)
    }

    /// Adds a section. A mapping, if there is one, has at least `bytes` bytes.
    pub(crate) fn add(
        &mut self,
        first: u64,
        bytes: u64,
        rights: Rights,
        mapping: Option<Mapping>,
    ) -> Result<(), AddError> {
        let last = bytes.checked_sub(1).and_then(|more| first.checked_add(more)).ok_or(AddError::Range)?;
        if !self.has_room(mapping.is_some()) {
            return Err(AddError::TooMany);
        }
        if self.sections.range(..=last).next_back().is_some_and(|(_, before)| before.last >= first) {
            return Err(AddError::Overlap);
        }
        self.mappings += usize::from(mapping.is_some());
        self.sections.insert(first, Section { last, rights, mapping });
        Ok(())
    }

    /// Removes every section that lies in the range. Returns whether there was one, or `None` if the range cuts a section in two;
    /// then nothing was removed.
    pub(crate) fn remove(&mut self, first: u64, bytes: u64) -> Option<bool> {
        let last = bytes.checked_sub(1).and_then(|more| first.checked_add(more))?;
        let cut_in_front = self.sections.range(..first).next_back().is_some_and(|(_, it)| it.last >= first);
        let cut_at_the_end =
            self.sections.range(first..=last).next_back().is_some_and(|(_, it)| it.last > last);
        if cut_in_front || cut_at_the_end {
            return None;
        }
        let mut any = false;
        while let Some((&at, _)) = self.sections.range(first..=last).next() {
            let gone = self.sections.remove(&at);
            self.mappings -= usize::from(gone.is_some_and(|section| section.mapping.is_some()));
            any = true;
        }
        Some(any)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.sections.clear();
        self.mappings = 0;
    }

    /// Bytes that can be reached, and bytes that were announced but cannot.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let size = |(first, section): (&u64, &Section)| (section.last - first).saturating_add(1);
        let sum = |reachable: bool| {
            let some = self.sections.iter().filter(|(_, section)| section.mapping.is_some() == reachable);
            some.map(size).fold(0, u64::saturating_add)
        };
        (sum(true), sum(false))
    }

    /// Whether a store of `bytes` at `address` would land.
    pub(crate) fn check(&self, address: u64, bytes: usize) -> Result<(), Unreachable> {
        self.walk(address, bytes, |_, _, section| section.rights.writable)
    }

    /// Stores `data` at `address`: all of it or, where any byte cannot be reached, none.
    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Result<(), Unreachable> {
        if let Some((skip, section)) = self.whole(address, data.len()) {
            let mapping = section.mapping.as_ref().filter(|_| section.rights.writable);
            return mapping.and_then(|mapping| mapping.write(skip, data).ok()).ok_or(Unreachable);
        }
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
        if let Some((skip, section)) = self.whole(address, out.len()) {
            let mapping = section.mapping.as_ref().filter(|_| section.rights.readable);
            return mapping.and_then(|mapping| mapping.read(skip, out).ok()).ok_or(Unreachable);
        }
        self.walk(address, out.len(), |_, _, section| section.rights.readable)?;
        let len = out.len();
        let mut rest = out;
        self.walk(address, len, |at, bytes, section| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(bytes);
            rest = later;
            section.mapping.as_ref().is_some_and(|mapping| mapping.read(at, now).is_ok())
        })
    }

    /// The section that has all of a range, which is nearly always so, and where in it the range begins.
    fn whole(&self, address: u64, bytes: usize) -> Option<(usize, &Section)> {
        let (first, section) = self.sections.range(..=address).next_back()?;
        let last = u64::try_from(bytes).ok()?.checked_sub(1)?.checked_add(address)?;
        let skip = usize::try_from(address - first).ok()?;
        (last <= section.last).then_some((skip, section))
    }

    /// Walks the mapped sections under a range; `visit` gets the offset in the section, the bytes in it, and
    /// says whether to go on.
    fn walk<'a>(
        &'a self,
        address: u64,
        bytes: usize,
        mut visit: impl FnMut(usize, usize, &'a Section) -> bool,
    ) -> Result<(), Unreachable> {
        let from = self.sections.range(..=address).next_back().map_or(address, |(&first, _)| first);
        let mut sections = self.sections.range(from..);
        let mut address = address;
        let mut left = bytes;
        while left > 0 {
            let (&first, section) = sections.next().ok_or(Unreachable)?;
            let mapped = section.mapping.as_ref().ok_or(Unreachable)?.bytes();
            let skip = address.checked_sub(first).and_then(|skip| usize::try_from(skip).ok());
            let skip = skip.ok_or(Unreachable)?;
            let here = mapped.saturating_sub(skip).min(left);
            if here == 0 || !visit(skip, here, section) {
                return Err(Unreachable);
            }
            left -= here;
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

impl Rights {
    /// What a mapping with these rights must allow.
    pub(crate) fn access(self) -> Access {
        if self.writable { Access::ReadWrite } else { Access::Read }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm::SharedFile;

    const PAGE: u64 = 4096;
    const BOTH: Rights = Rights { readable: true, writable: true };
    const READ: Rights = Rights { readable: true, writable: false };
    const WRITE: Rights = Rights { readable: false, writable: true };

    fn ram(bytes: u64, rights: Rights) -> Option<Mapping> {
        let file = SharedFile::create("ram", bytes).unwrap();
        Some(Mapping::new(&file, 0, bytes, rights.access()).unwrap())
    }

    #[test]
    fn a_range_may_span_sections_but_not_a_hole() {
        let mut memory = GuestMemory::default();
        memory.add(0, PAGE, BOTH, ram(PAGE, BOTH)).unwrap();
        memory.add(PAGE, PAGE, BOTH, ram(PAGE, BOTH)).unwrap();
        memory.add(4 * PAGE, PAGE, BOTH, ram(PAGE, BOTH)).unwrap();
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
        memory.add(0, PAGE, READ, ram(PAGE, READ)).unwrap();
        memory.add(PAGE, PAGE, BOTH, None).unwrap();
        assert_eq!(memory.write(0, &[1]), Err(Unreachable));
        memory.read(0, &mut [0]).unwrap();
        assert_eq!(memory.read(PAGE, &mut [0]), Err(Unreachable));
        assert_eq!(memory.bytes(), (PAGE, PAGE));
        // A guest behind an IOMMU may allow writes alone.
        memory.add(2 * PAGE, PAGE, WRITE, ram(PAGE, WRITE)).unwrap();
        memory.write(2 * PAGE, &[1]).unwrap();
        assert_eq!(memory.read(2 * PAGE, &mut [0]), Err(Unreachable));
        memory.add(3 * PAGE, PAGE, BOTH, ram(PAGE, BOTH)).unwrap();
        memory.write(3 * PAGE - 1, &[1, 2]).unwrap();
        assert_eq!(memory.read(3 * PAGE - 1, &mut [0; 2]), Err(Unreachable));
    }

    #[test]
    fn overlaps_and_wraps_are_refused_and_the_top_of_memory_is_not() {
        let mut memory = GuestMemory::default();
        memory.add(PAGE, PAGE, BOTH, None).unwrap();
        for (first, bytes) in [(0, PAGE + 1), (2 * PAGE - 1, 1), (PAGE, PAGE), (0, u64::MAX)] {
            assert_eq!(memory.add(first, bytes, BOTH, None), Err(AddError::Overlap), "{first:#x} {bytes:#x}");
        }
        for (first, bytes) in [(0, 0), (u64::MAX, 2), (1, u64::MAX)].into_iter().take(2) {
            assert_eq!(memory.add(first, bytes, BOTH, None), Err(AddError::Range));
        }
        memory.add(u64::MAX - (PAGE - 1), PAGE, BOTH, ram(PAGE, BOTH)).unwrap();
        memory.write(u64::MAX - 1, &[1, 2]).unwrap();
        assert_eq!(memory.write(u64::MAX - 1, &[1, 2, 3]), Err(Unreachable));
    }

    #[test]
    fn a_section_leaves_whole_or_not_at_all() {
        let mut memory = GuestMemory::default();
        memory.add(0, PAGE, BOTH, None).unwrap();
        memory.add(PAGE, PAGE, BOTH, None).unwrap();
        assert_eq!(memory.remove(0, PAGE / 2), None);
        assert_eq!(memory.remove(8 * PAGE, PAGE), Some(false));
        assert_eq!(memory.remove(PAGE / 2, 2 * PAGE), None);
        assert_eq!(memory.remove(PAGE, PAGE + 1), Some(true));
        assert_eq!(memory.remove(0, PAGE - 1), None);
        assert_eq!(memory.remove(0, 2 * PAGE), Some(true));
        assert_eq!(memory.bytes(), (0, 0));
    }

    #[test]
    fn one_host_cannot_use_up_the_mappings_of_the_process() {
        let mut memory = GuestMemory::default();
        let file = SharedFile::create("ram", PAGE).unwrap();
        let page = || Some(Mapping::new(&file, 0, PAGE, Access::ReadWrite).unwrap());
        for at in 0..MAX_MAPPINGS {
            memory.add(at as u64 * PAGE, PAGE, BOTH, page()).unwrap();
        }
        let next = MAX_MAPPINGS as u64 * PAGE;
        assert!(!memory.has_room(true) && memory.has_room(false));
        assert_eq!(memory.add(next, PAGE, BOTH, page()), Err(AddError::TooMany));
        memory.add(next, PAGE, BOTH, None).unwrap();
        assert_eq!(memory.remove(0, PAGE), Some(true));
        memory.add(0, PAGE, BOTH, page()).unwrap();
    }
}
