//! A host's memory as it announced it: ranges of bus addresses, some of them mapped here.

use shm::{Access, Mapping, SharedFile};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// Memory of one host. Ranges do not overlap.
#[derive(Debug, Default)]
pub(crate) struct GuestMemory {
    /// By first address. A tree, since a host may announce as many as it likes, in any order, and the other host waits
    /// meanwhile.
    sections: BTreeMap<u64, Section>,
    mappings: usize,
    /// Ranges at which the host sees other memory: an alias window's. By first address, apart.
    views: BTreeMap<u64, View>,
    /// The files that are kept open, by device and inode.
    files: BTreeMap<(u64, u64), Weak<SharedFile>>,
}

/// Memory that the twin can reach: a mapping, and where it comes from.
#[derive(Debug)]
pub(crate) struct Backing {
    pub(crate) mapping: Arc<Mapping>,
    /// Which file it is, by device and inode.
    pub(crate) identity: (u64, u64),
    /// The file, for whoever else is to map it; a host that announces a great many is refused that.
    pub(crate) file: Option<Arc<SharedFile>>,
    /// Where the mapping begins in the file.
    pub(crate) offset: u64,
}

/// A range that is somewhere else than its section says.
#[derive(Debug)]
struct View {
    last: u64,
    mapping: Arc<Mapping>,
    /// Where the range begins in the mapping.
    offset: u64,
}

/// Some bytes of a host's memory where they can be reached.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) mapping: Arc<Mapping>,
    /// Where in the mapping.
    pub(crate) at: usize,
    /// At least 1.
    pub(crate) bytes: u64,
    /// The file that the host announced for them, and where they lie in it.
    pub(crate) file: (u64, u64),
    pub(crate) offset: u64,
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
    /// The last address, inclusive: a section may end where addresses do.
    last: u64,
    /// What the host lets the device do there.
    rights: Rights,
    /// `None`: announced without a file that may be used; nothing reaches it.
    backing: Option<Backing>,
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

/// How many of them may be mapped here. A process has 65530 mappings (`vm.max_map_count`) for both hosts and their DMA
/// engines, each of which has its own, for its libraries and its heap: a host that used them up would leave none to the other.
pub(crate) const MAX_MAPPINGS: usize = 12288;

/// Files that are kept open for a host. A guest has one, or one a NUMA node; a process that divides its window has one for each
/// part.
const MAX_FILES: usize = 256;

impl GuestMemory {
    /// Whether another section may be added: ask before mapping anything.
    pub(crate) fn has_room(&self, mapped: bool) -> bool {
        self.sections.len() < MAX_SECTIONS && !(mapped && self.mappings >= MAX_MAPPINGS)
    }

    /// Adds a section. Its mapping, if there is one, has at least `bytes` bytes.
    pub(crate) fn add(
        &mut self,
        first: u64,
        bytes: u64,
        rights: Rights,
        backing: Option<Backing>,
    ) -> Result<(), AddError> {
        let last = bytes.checked_sub(1).and_then(|more| first.checked_add(more)).ok_or(AddError::Range)?;
        if !self.has_room(backing.is_some()) {
            return Err(AddError::TooMany);
        }
        if self.sections.range(..=last).next_back().is_some_and(|(_, before)| before.last >= first) {
            return Err(AddError::Overlap);
        }
        self.mappings += usize::from(backing.is_some());
        self.sections.insert(first, Section { last, rights, backing });
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
            self.mappings -= usize::from(gone.is_some_and(|section| section.backing.is_some()));
            any = true;
        }
        self.views.retain(|&from, view| view.last < first || from > last);
        Some(any)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.sections.clear();
        self.mappings = 0;
        self.views.clear();
    }

    /// The files under a range, if all of it has files and may be read and written, which nobody checks any more once it is
    /// mapped elsewhere: the host's own memory, whatever views lie over it.
    pub(crate) fn extents(&self, address: u64, bytes: u64) -> Result<Vec<Extent>, Unreachable> {
        let mut extents = Vec::new();
        let mut at = 0;
        while at < bytes {
            let here = address.checked_add(at).ok_or(Unreachable)?;
            let (first, section) =
                self.section(here).filter(|(_, it)| it.rights == Rights::BOTH).ok_or(Unreachable)?;
            let backing = section.backing.as_ref().ok_or(Unreachable)?;
            let file = backing.file.clone().ok_or(Unreachable)?;
            let rest = section.last.saturating_sub(here).saturating_add(1);
            let bytes = rest.min(bytes.saturating_sub(at));
            let offset = backing.offset.checked_add(here.saturating_sub(first)).ok_or(Unreachable)?;
            extents.push(Extent { at, bytes, file, offset });
            at = at.saturating_add(bytes);
        }
        Ok(extents)
    }

    /// Keeps a file open, once however often it is announced: each announcement comes with a descriptor of its own, and a
    /// vIOMMU announces page by page. `None`: there are enough.
    pub(crate) fn keep(&mut self, file: SharedFile) -> Option<Arc<SharedFile>> {
        let identity = file.identity();
        let known = self.files.get(&identity).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.bytes() >= file.bytes()) {
            return Some(known);
        }
        self.files.retain(|_, file| file.strong_count() > 0);
        if self.files.len() >= MAX_FILES {
            return None;
        }
        let file = Arc::new(file);
        self.files.insert(identity, Arc::downgrade(&file));
        Some(file)
    }

    /// From now on the host sees `mapping` at this range, and so does the twin.
    pub(crate) fn add_view(&mut self, first: u64, bytes: u64, mapping: Arc<Mapping>, offset: u64) {
        if let Some(last) = bytes.checked_sub(1).and_then(|more| first.checked_add(more)) {
            self.views.insert(first, View { last, mapping, offset });
        }
    }

    /// The host sees its own memory again wherever it saw `mapping`.
    pub(crate) fn remove_views(&mut self, mapping: &Arc<Mapping>) {
        self.views.retain(|_, view| !Arc::ptr_eq(&view.mapping, mapping));
    }

    /// The section that has an address.
    fn section(&self, address: u64) -> Option<(u64, &Section)> {
        let (&first, section) = self.sections.range(..=address).next_back()?;
        (section.last >= address).then_some((first, section))
    }

    /// Bytes that can be reached, and bytes that were announced but cannot.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let size = |(first, section): (&u64, &Section)| (section.last - first).saturating_add(1);
        let sum = |reachable: bool| {
            let some = self.sections.iter().filter(|(_, section)| section.backing.is_some() == reachable);
            some.map(size).fold(0, u64::saturating_add)
        };
        (sum(true), sum(false))
    }

    /// Where the first of `bytes` bytes at an address lie, for somebody who reaches them later. `None`: they cannot be
    /// reached, or not that way.
    pub(crate) fn span(&self, address: u64, bytes: u64, store: bool) -> Option<Span> {
        let place = self.place(address)?;
        let allowed = if store { place.rights.writable } else { place.rights.readable };
        let (first, section) = self.section(address)?;
        let backing = section.backing.as_ref().filter(|_| allowed)?;
        let offset = backing.offset.checked_add(address.saturating_sub(first))?;
        let there = u64::try_from(place.bytes).unwrap_or(u64::MAX);
        let (mapping, at, bytes) = (Arc::clone(place.mapping), place.at, bytes.min(there));
        Some(Span { mapping, at, bytes, file: backing.identity, offset })
    }

    /// How many bytes from an address on are as unreachable as the first: to the end of its section, or to the next one.
    pub(crate) fn gap(&self, address: u64) -> u64 {
        let end = match self.section(address) {
            Some((_, section)) => section.last.checked_add(1),
            None => self.sections.range(address..).next().map(|(&first, _)| first),
        };
        end.map_or(u64::MAX, |end| end.saturating_sub(address)).max(1)
    }

    /// Whether a store of `bytes` at `address` would land.
    pub(crate) fn check(&self, address: u64, bytes: usize) -> Result<(), Unreachable> {
        self.walk(address, bytes, |place, _| place.rights.writable)
    }

    /// Stores `data` at `address`: all of it or, where any byte cannot be reached, none.
    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Result<(), Unreachable> {
        // One place has all of it, nearly always.
        if let Some(place) = self.place(address).filter(|place| place.bytes >= data.len()) {
            let mapping = Some(place.mapping).filter(|_| place.rights.writable);
            return mapping.and_then(|mapping| mapping.write(place.at, data).ok()).ok_or(Unreachable);
        }
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
        if let Some(place) = self.place(address).filter(|place| place.bytes >= out.len()) {
            let mapping = Some(place.mapping).filter(|_| place.rights.readable);
            return mapping.and_then(|mapping| mapping.read(place.at, out).ok()).ok_or(Unreachable);
        }
        self.walk(address, out.len(), |place, _| place.rights.readable)?;
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
        let (first, section) = self.section(address)?;
        let backing = section.backing.as_ref()?;
        let rights = section.rights;
        let before = self.views.range(..=address).next_back();
        if let Some((&from, view)) = before.filter(|(_, view)| view.last >= address) {
            let skip = view.offset.checked_add(address.saturating_sub(from))?;
            let bytes = length(address, view.last.min(section.last));
            return Some(Place { mapping: &view.mapping, at: usize::try_from(skip).ok()?, bytes, rights });
        }
        let after = self.views.range(address..).next().map(|(&from, _)| from.saturating_sub(1));
        let bytes = length(address, after.map_or(section.last, |last| last.min(section.last)));
        let at = usize::try_from(address.saturating_sub(first)).ok()?;
        Some(Place { mapping: &backing.mapping, at, bytes, rights })
    }
}

/// Where some bytes are in this process.
struct Place<'a> {
    mapping: &'a Arc<Mapping>,
    at: usize,
    bytes: usize,
    rights: Rights,
}

/// Bytes from `first` to `last`, both inclusive.
fn length(first: u64, last: u64) -> usize {
    usize::try_from(last.saturating_sub(first)).unwrap_or(usize::MAX).saturating_add(1)
}

impl Rights {
    const BOTH: Self = Self { readable: true, writable: true };

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

    fn ram(bytes: u64, rights: Rights) -> Option<Backing> {
        let file = SharedFile::create("ram", bytes).unwrap();
        let mapping = Arc::new(Mapping::new(&file, 0, bytes, rights.access()).unwrap());
        Some(Backing { mapping, identity: file.identity(), file: Some(Arc::new(file)), offset: 0 })
    }

    #[test]
    fn a_view_is_seen_instead_of_the_section_under_it() {
        let mut memory = GuestMemory::default();
        memory.add(0, 4 * PAGE, BOTH, ram(4 * PAGE, BOTH)).unwrap();
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
        let page = || {
            let mapping = Arc::new(Mapping::new(&file, 0, PAGE, Access::ReadWrite).unwrap());
            Some(Backing { mapping, identity: file.identity(), file: None, offset: 0 })
        };
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
