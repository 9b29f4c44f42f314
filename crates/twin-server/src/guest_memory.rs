//! A host's memory as it announced it: ranges of bus addresses, some of them mapped here.

use shm::{Access, Mapping, SharedFile};
use std::sync::Arc;

/// Memory of one host. Ranges do not overlap.
#[derive(Debug, Default)]
pub(crate) struct GuestMemory {
    /// Sorted by address.
    sections: Vec<Section>,
    /// Ranges that the host sees other memory at: an alias window's. Sorted, apart.
    views: Vec<View>,
}

/// Memory that the twin can reach: a mapping, and where it comes from.
#[derive(Debug)]
pub(crate) struct Backing {
    pub(crate) mapping: Mapping,
    pub(crate) file: Arc<SharedFile>,
    /// Where the mapping begins in the file.
    pub(crate) offset: u64,
}

/// A range that is somewhere else than its section says.
#[derive(Debug)]
struct View {
    first: u64,
    last: u64,
    mapping: Arc<Mapping>,
    /// Where the range begins in the mapping.
    offset: u64,
}

/// Some bytes of a host's memory as a range of a file.
#[derive(Debug)]
pub(crate) struct Extent {
    /// Bytes before it in the range that was asked for.
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    pub(crate) file: Arc<SharedFile>,
    pub(crate) offset: u64,
}

#[derive(Debug)]
struct Section {
    first: u64,
    /// The last address, inclusive: a section may end where addresses do.
    last: u64,
    writable: bool,
    /// `None`: announced without a file that may be used; nothing reaches it.
    backing: Option<Backing>,
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
    /// Adds a section. Its mapping, if there is one, has at least `bytes` bytes.
    pub(crate) fn add(
        &mut self,
        first: u64,
        bytes: u64,
        writable: bool,
        backing: Option<Backing>,
    ) -> Result<(), AddError> {
        let last = bytes.checked_sub(1).and_then(|more| first.checked_add(more)).ok_or(AddError::Range)?;
        if self.sections.len() >= MAX_SECTIONS {
            return Err(AddError::TooMany);
        }
        let at = self.sections.partition_point(|section| section.last < first);
        if self.sections.get(at).is_some_and(|next| next.first <= last) {
            return Err(AddError::Overlap);
        }
        self.sections.insert(at, Section { first, last, writable, backing });
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
        self.views.retain(|view| view.last < first || view.first > last);
        Some(self.sections.len() != before)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.sections.clear();
        self.views.clear();
    }

    /// The files under a range, if all of it has files and may be written; the host's own memory, whatever views lie over it.
    pub(crate) fn extents(&self, address: u64, bytes: u64) -> Result<Vec<Extent>, Unreachable> {
        let mut extents = Vec::new();
        let mut at = 0;
        while at < bytes {
            let here = address.checked_add(at).ok_or(Unreachable)?;
            let section = self.section(here).filter(|section| section.writable).ok_or(Unreachable)?;
            let backing = section.backing.as_ref().ok_or(Unreachable)?;
            let skip = here.saturating_sub(section.first);
            let rest = section.last.saturating_sub(here).saturating_add(1);
            let bytes = rest.min(bytes.saturating_sub(at));
            let offset = backing.offset.checked_add(skip).ok_or(Unreachable)?;
            extents.push(Extent { at, bytes, file: Arc::clone(&backing.file), offset });
            at = at.saturating_add(bytes);
        }
        Ok(extents)
    }

    /// The file with this identity, if a section has it already: each announcement of the same memory comes with a descriptor of its
    /// own, and a vIOMMU announces page by page.
    pub(crate) fn known_file(&self, same: impl Fn(&SharedFile) -> bool) -> Option<Arc<SharedFile>> {
        let files = self.sections.iter().filter_map(|section| section.backing.as_ref());
        files.map(|backing| &backing.file).find(|file| same(file)).map(Arc::clone)
    }

    /// From now on the host sees `mapping` at this range, and so does the twin.
    pub(crate) fn add_view(&mut self, first: u64, bytes: u64, mapping: Arc<Mapping>, offset: u64) {
        let Some(last) = bytes.checked_sub(1).and_then(|more| first.checked_add(more)) else { return };
        let at = self.views.partition_point(|view| view.first < first);
        self.views.insert(at, View { first, last, mapping, offset });
    }

    /// The host sees its own memory again wherever it saw `mapping`.
    pub(crate) fn remove_views(&mut self, mapping: &Arc<Mapping>) {
        self.views.retain(|view| !Arc::ptr_eq(&view.mapping, mapping));
    }

    fn section(&self, address: u64) -> Option<&Section> {
        let at = self.sections.partition_point(|section| section.last < address);
        self.sections.get(at).filter(|section| section.first <= address)
    }

    /// Bytes that can be reached, and bytes that were announced but cannot.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let size = |section: &Section| (section.last - section.first).saturating_add(1);
        let sum = |reachable: bool| {
            let some = self.sections.iter().filter(|section| section.backing.is_some() == reachable);
            some.map(size).fold(0, u64::saturating_add)
        };
        (sum(true), sum(false))
    }

    /// Whether a store of `bytes` at `address` would land.
    pub(crate) fn check(&self, address: u64, bytes: usize) -> Result<(), Unreachable> {
        self.walk(address, bytes, |place, _| place.writable)
    }

    /// Stores `data` at `address`: all of it or, where any byte cannot be reached, none.
    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Result<(), Unreachable> {
        self.check(address, data.len())?;
        let mut rest = data;
        self.walk(address, data.len(), |place, bytes| {
            let (now, later) = rest.split_at(bytes);
            rest = later;
            place.mapping.write(place.at, now).is_ok()
        })
    }

    /// Loads from `address`: all of it or nothing.
    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Unreachable> {
        self.walk(address, out.len(), |_, _| true)?;
        let len = out.len();
        let mut rest = out;
        self.walk(address, len, |place, bytes| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(bytes);
            rest = later;
            place.mapping.read(place.at, now).is_ok()
        })
    }

    /// Walks what lies under a range; `visit` gets each place with the bytes there, and says whether to go on.
    fn walk(
        &self,
        address: u64,
        bytes: usize,
        mut visit: impl FnMut(&Place<'_>, usize) -> bool,
    ) -> Result<(), Unreachable> {
        let mut address = address;
        let mut left = bytes;
        while left > 0 {
            let place = self.place(address).ok_or(Unreachable)?;
            let here = place.bytes.min(left);
            if here == 0 || !visit(&place, here) {
                return Err(Unreachable);
            }
            left = left.saturating_sub(here);
            // Only the very last address has no successor, and then nothing may be left.
            match u64::try_from(here).ok().and_then(|step| address.checked_add(step)) {
                Some(next) => address = next,
                None if left == 0 => {}
                None => return Err(Unreachable),
            }
        }
        Ok(())
    }

    /// What the host sees at an address, and how far it goes.
    fn place(&self, address: u64) -> Option<Place<'_>> {
        let section = self.section(address)?;
        let backing = section.backing.as_ref()?;
        let after = self.views.partition_point(|view| view.last < address);
        let view = self.views.get(after);
        if let Some(view) = view.filter(|view| view.first <= address) {
            let skip = view.offset.checked_add(address.saturating_sub(view.first))?;
            return Some(Place {
                mapping: &view.mapping,
                at: usize::try_from(skip).ok()?,
                bytes: length(address, view.last.min(section.last)),
                writable: section.writable,
            });
        }
        let last = view.map_or(section.last, |view| section.last.min(view.first.saturating_sub(1)));
        Some(Place {
            mapping: &backing.mapping,
            at: usize::try_from(address.saturating_sub(section.first)).ok()?,
            bytes: length(address, last),
            writable: section.writable,
        })
    }
}

/// Where some bytes are in this process.
struct Place<'a> {
    mapping: &'a Mapping,
    at: usize,
    bytes: usize,
    writable: bool,
}

/// Bytes from `first` to `last`, both inclusive.
fn length(first: u64, last: u64) -> usize {
    usize::try_from(last.saturating_sub(first)).unwrap_or(usize::MAX).saturating_add(1)
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

    fn ram(bytes: u64, writable: bool) -> Option<Backing> {
        let file = Arc::new(SharedFile::create("ram", bytes).unwrap());
        let mapping = Mapping::new(&file, 0, bytes, access(writable)).unwrap();
        Some(Backing { mapping, file, offset: 0 })
    }

    #[test]
    fn a_view_is_seen_instead_of_the_section_under_it() {
        let mut memory = GuestMemory::default();
        memory.add(0, 4 * PAGE, true, ram(4 * PAGE, true)).unwrap();
        let window = SharedFile::create("window", PAGE).unwrap();
        let window = Arc::new(Mapping::new(&window, 0, PAGE, Access::ReadWrite).unwrap());
        memory.add_view(PAGE, PAGE, Arc::clone(&window), 0);
        memory.write(PAGE - 2, &[1, 2, 3, 4]).unwrap();
        memory.write(2 * PAGE - 1, &[5, 6]).unwrap();
        let mut seen = [0; 2];
        window.read(0, &mut seen).unwrap();
        assert_eq!(seen, [3, 4]);
        memory.remove_views(&window);
        memory.read(PAGE - 2, &mut seen).unwrap();
        assert_eq!(seen, [1, 2]);
        memory.read(PAGE, &mut seen).unwrap();
        assert_eq!(seen, [0, 0]);
        memory.read(2 * PAGE - 1, &mut seen).unwrap();
        assert_eq!(seen, [0, 6]);
        let extents = memory.extents(PAGE, 2 * PAGE).unwrap();
        assert_eq!((extents[0].at, extents[0].bytes, extents[0].offset), (0, 2 * PAGE, PAGE));
        assert!(memory.extents(3 * PAGE, 2 * PAGE).is_err());
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
