//! Memory that this process shares with a device, or through it with the peer.

use crate::addresses::AddressSpace;
use crate::{BarIndex, DeviceAddress, FunctionError};
use shm::{
    Access, LoadOrder, Mapping, Memory, Routine, SharedFile, StoreOrder, Window, WindowError, WindowKind,
};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Takes a mapping that is to be unmapped, and sees to it that nobody replaces its pages at that moment.
///
/// An overlay finds addresses by what is mapped there, and puts other memory there by `mmap(MAP_FIXED)`. Between
/// the two the address must not be given to somebody else.
pub trait Unmapper: fmt::Debug + Send + Sync {
    /// Drops the mapping of a file, which device and inode name.
    fn unmap(&self, file: (u64, u64), mapping: Mapping);

    /// The file that lies under byte `at` of the mapped file now, and which of its bytes, where that is known.
    fn under(&self, file: (u64, u64), at: u64) -> Option<(Arc<OwnedFd>, u64)> {
        let _ = (file, at);
        None
    }
}

/// A mapping that may be unmapped only in agreement with whoever replaces its pages.
#[derive(Debug)]
pub struct Mapped {
    /// `None` only while it is being dropped.
    mapping: Option<Mapping>,
    unmapper: Option<((u64, u64), Arc<dyn Unmapper>)>,
}

impl Mapped {
    /// Memory whose pages nobody replaces.
    #[must_use]
    pub fn fixed(mapping: Mapping) -> Self {
        Self { mapping: Some(mapping), unmapper: None }
    }

    /// Memory of a file, named by device and inode, whose pages are replaced by somebody who knows when not to.
    #[must_use]
    pub fn overlaid(file: (u64, u64), mapping: Mapping, unmapper: Arc<dyn Unmapper>) -> Self {
        Self { mapping: Some(mapping), unmapper: Some((file, unmapper)) }
    }

    /// The file that lies under byte `at` now, and which of its bytes: for another process that is to reach these pages
    /// and no others. None where no file of its own lies there.
    #[must_use]
    pub fn under(&self, at: u64) -> Option<(Arc<OwnedFd>, u64)> {
        let (file, unmapper) = self.unmapper.as_ref()?;
        unmapper.under(*file, at)
    }

    #[inline]
    fn inner(&self) -> Result<&Mapping, WindowError> {
        self.mapping.as_ref().ok_or(WindowError::Closed)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let (Some(mapping), Some((file, unmapper))) = (self.mapping.take(), &self.unmapper) {
            unmapper.unmap(*file, mapping);
        }
    }
}

/// A BAR as memory of this process.
#[derive(Debug, Clone)]
pub struct BarMapping {
    /// The memory.
    pub memory: Arc<Mapped>,
    /// It is the peer's BAR too (window mode *shared*): nothing is translated, and neither host's own memory is
    /// reached.
    pub shared: bool,
}

/// BARs of a function that were asked for: an answer does not change ([`PciFunction::bar_map`](crate::PciFunction::bar_map)).
#[derive(Debug, Default)]
pub struct BarMappings(Mutex<[Option<Option<BarMapping>>; 6]>);

impl BarMappings {
    /// The mapping of a BAR: what `map` says when it is asked for first.
    ///
    /// # Errors
    /// What `map` says; it is asked again then.
    pub fn get(
        &self,
        bar: BarIndex,
        map: impl FnOnce() -> Result<Option<BarMapping>, FunctionError>,
    ) -> Result<Option<BarMapping>, FunctionError> {
        let mut mappings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = mappings.get_mut(usize::from(bar.0)) else { return Ok(None) };
        match known {
            Some(known) => Ok(known.clone()),
            None => Ok(known.insert(map()?).clone()),
        }
    }
}

/// Takes memory back from a device.
pub trait Registrar: fmt::Debug + Send + Sync {
    /// The device must not reach this range any more when it returns. A device that is gone reaches nothing.
    fn withdraw(&self, address: DeviceAddress, bytes: u64);
}

/// Makes memory for a device: for implementations of [`PciFunction`](crate::PciFunction).
#[derive(Debug)]
pub struct DmaProvider<'a> {
    /// Which device addresses are free.
    pub addresses: &'a Mutex<AddressSpace>,
    /// Memory is given in multiples of this, at multiples of this: a power of two, at least 4096.
    pub page_bytes: u64,
    /// Who replaces its pages, if somebody does.
    pub unmapper: Option<Arc<dyn Unmapper>>,
    /// Who takes it back; that frees its address, too.
    pub registrar: Arc<dyn Registrar>,
}

impl DmaProvider<'_> {
    /// New memory, zeroed, at a free address, which `give` makes known to the device.
    ///
    /// # Errors
    /// [`FunctionError`] when there is no memory or no address, and what `give` says.
    pub fn allocate(
        self,
        bytes: u64,
        align_bytes: u64,
        give: impl FnOnce(DeviceAddress, &SharedFile, &Mapping) -> Result<(), FunctionError>,
    ) -> Result<DmaMemory, FunctionError> {
        let none = FunctionError::NoAddress { bytes };
        let bytes = bytes.max(1).checked_next_multiple_of(self.page_bytes).ok_or(none)?;
        let memory = |source| FunctionError::Memory { what: "a device", source };
        let file = SharedFile::create("isthmus dma memory", bytes).map_err(memory)?;
        let mapping = Mapping::new(&file, 0, bytes, Access::ReadWrite);
        let mapping = mapping.map_err(|error| memory(io::Error::other(error)))?;
        let lock = || self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let address = lock().take(bytes, align_bytes.max(self.page_bytes))?;
        if let Err(error) = give(address, &file, &mapping) {
            lock().give_back(address);
            return Err(error);
        }
        let mapped = match self.unmapper {
            Some(unmapper) => Mapped::overlaid(file.identity(), mapping, unmapper),
            None => Mapped::fixed(mapping),
        };
        Ok(DmaMemory::new(mapped, address, self.registrar))
    }
}

/// Memory of this process that a device may read and write. Clones are handles to the same memory.
#[derive(Debug, Clone)]
pub struct DmaMemory(Arc<Registration>);

#[derive(Debug)]
struct Registration {
    memory: Mapped,
    address: DeviceAddress,
    registrar: Arc<dyn Registrar>,
}

impl DmaMemory {
    /// Memory that was given to a device at `address`; for implementations of [`PciFunction`](crate::PciFunction).
    #[must_use]
    pub fn new(memory: Mapped, address: DeviceAddress, registrar: Arc<dyn Registrar>) -> Self {
        Self(Arc::new(Registration { memory, address, registrar }))
    }

    /// Where the device finds its first byte.
    #[must_use]
    pub fn address(&self) -> DeviceAddress {
        self.0.address
    }

    /// The memory.
    #[inline]
    #[must_use]
    pub fn memory(&self) -> &Mapped {
        &self.0.memory
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let bytes = u64::try_from(Window::bytes(&self.memory)).unwrap_or(u64::MAX);
        self.registrar.withdraw(self.address, bytes);
    }
}

/// Both traits of `shm` for what has memory inside.
macro_rules! memory_of {
    ($whose:ty, |$me:ident| $inner:expr) => {
        impl Window for $whose {
            fn bytes(&self) -> usize {
                let $me = self;
                $inner.map_or(0, Window::bytes)
            }

            fn kind(&self) -> WindowKind {
                WindowKind::Mapped
            }

            fn as_memory(&self) -> Option<&dyn Memory> {
                Some(self)
            }

            fn as_mapping(&self) -> Option<&shm::Mapping> {
                let $me = self;
                $inner.ok()?.as_mapping()
            }

            #[inline]
            fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
                let $me = self;
                Window::write($inner?, at, data)
            }

            #[inline]
            fn write_by(&self, routine: Routine, at: usize, data: &[u8]) -> Result<(), WindowError> {
                let $me = self;
                $inner?.write_by(routine, at, data)
            }

            #[inline]
            fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
                let $me = self;
                $inner?.store_u32(at, value, order)
            }

            #[inline]
            fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
                let $me = self;
                $inner?.store_u64(at, value, order)
            }

            fn flush(&self) -> Result<(), WindowError> {
                let $me = self;
                $inner?.flush()
            }

            fn settle(&self) -> Result<(), WindowError> {
                let $me = self;
                $inner?.settle()
            }
        }

        impl Memory for $whose {
            #[inline]
            fn read(&self, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
                let $me = self;
                Memory::read($inner?, at, out)
            }

            #[inline]
            fn read_by(&self, routine: Routine, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
                let $me = self;
                $inner?.read_by(routine, at, out)
            }

            #[inline]
            fn will_load(&self, at: usize, bytes: usize) {
                let $me = self;
                if let Ok(memory) = $inner {
                    memory.will_load(at, bytes);
                }
            }

            #[inline]
            fn load_u32(&self, at: usize, order: LoadOrder) -> Result<u32, WindowError> {
                let $me = self;
                $inner?.load_u32(at, order)
            }

            #[inline(always)]
            fn load_u64(&self, at: usize, order: LoadOrder) -> Result<u64, WindowError> {
                let $me = self;
                $inner?.load_u64(at, order)
            }
        }
    };
}
pub(crate) use memory_of;

memory_of!(Mapped, |me| me.inner());
memory_of!(DmaMemory, |me| Ok::<_, WindowError>(me.memory()));
