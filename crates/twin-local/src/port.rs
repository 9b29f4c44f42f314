//! One port of a twin in this process, as a PCI function.

use crate::twin::{House, Shared};
use isthmus_overlay::Service;
use ntb::addresses::{AddressSpace, place_bars};
use ntb::{
    BarIndex, BarMapping, BarMappings, DeviceAddress, DmaMemory, DmaProvider, FunctionError, Mapped,
    PciFunction, Registrar, Unmapper,
};
use ntb_spec::function;
use rustix::io::Errno;
use shm::{Access, Mapping, SharedFile};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use twin::Side;
use twin_server::PortDevice;
use vfio_user::server::{Device, IrqChange};
use vfio_user::wire::{DmaAddr, DmaMap, DmaUnmap, IrqIndex, RegionIndex};

const PAGE: u64 = 4096;

/// A port of a [`LocalTwin`](crate::LocalTwin). Dropping it detaches: the port loses power, the peer sees the link go down.
#[derive(Debug)]
pub struct LocalPort {
    plug: Arc<Plug>,
    mappings: BarMappings,
}

/// The claim to a port. Memory that was given to the device holds it, too: it is taken back through it.
#[derive(Debug)]
struct Plug {
    house: Arc<House>,
    side: Side,
    /// Which attachment this is.
    number: u64,
    addresses: Mutex<AddressSpace>,
}

impl LocalPort {
    pub(crate) fn new(house: Arc<House>, side: Side, number: u64) -> Result<Self, FunctionError> {
        let plug = Arc::new(Plug { house, side, number, addresses: Mutex::default() });
        let port = Self { plug, mappings: BarMappings::default() };
        place_bars(&port)?;
        Ok(port)
    }

    fn shared(&self) -> &Shared {
        &self.plug.house.shared
    }

    /// Does something to the port's device, and returns when it is done.
    fn device<T>(&self, action: impl FnOnce(&mut PortDevice<'_>) -> T) -> T {
        let side = self.plug.side;
        self.shared().run(side, |state| action(&mut state.machine.port(side)))
    }

    /// An access to a region, if it lies there.
    fn access<T>(
        &self,
        region: RegionIndex,
        offset: u64,
        bytes: usize,
        action: impl FnOnce(&mut PortDevice<'_>) -> Result<T, Errno>,
    ) -> Result<T, FunctionError> {
        self.device(|device| {
            let size = device.region(region).size;
            let end = u64::try_from(bytes).ok().and_then(|bytes| offset.checked_add(bytes));
            if end.is_none_or(|end| end > size) {
                let space = if region == RegionIndex::CONFIG {
                    "configuration space".to_owned()
                } else {
                    region.to_string()
                };
                return Err(FunctionError::Range { space, offset, bytes });
            }
            action(device).map_err(|errno| refused("an access", errno))
        })
    }

    fn map(&self, bar: BarIndex) -> Result<Option<BarMapping>, FunctionError> {
        let (size, file, shared) = self.device(|device| {
            let region = RegionIndex(bar.0.into());
            let size = device.region(region).size;
            let file = device.mapping(region).map(|mapping| mapping.fd.try_clone_to_owned());
            (size, file, device.is_shared(region))
        });
        let memory = |source| FunctionError::Memory { what: "a window", source };
        let Some(file) = file.transpose().map_err(memory)? else { return Ok(None) };
        let file = SharedFile::accept(file, size).map_err(|unfit| memory(io::Error::other(unfit)))?;
        let mapping = Mapping::new(&file, 0, size, Access::ReadWrite);
        let mapping = mapping.map_err(|error| memory(io::Error::other(error)))?;
        let unmapper = Arc::new(Overlay(Arc::clone(&self.plug.house.overlay)));
        let memory = Arc::new(Mapped::overlaid(file.identity(), mapping, unmapper));
        Ok(Some(BarMapping { memory, shared }))
    }
}

impl PciFunction for LocalPort {
    fn config_read(&self, offset: u32, out: &mut [u8]) -> Result<(), FunctionError> {
        self.access(RegionIndex::CONFIG, offset.into(), out.len(), |device| {
            device.region_read(RegionIndex::CONFIG, offset.into(), out)
        })
    }

    fn config_write(&self, offset: u32, data: &[u8]) -> Result<(), FunctionError> {
        self.access(RegionIndex::CONFIG, offset.into(), data.len(), |device| {
            device.region_write(RegionIndex::CONFIG, offset.into(), data, true)
        })
    }

    fn bar_bytes(&self, bar: BarIndex) -> Result<u64, FunctionError> {
        Ok(self.device(|device| device.region(region(bar)).size))
    }

    fn bar_read(&self, bar: BarIndex, offset: u64, out: &mut [u8]) -> Result<(), FunctionError> {
        self.access(region(bar), offset, out.len(), |device| device.region_read(region(bar), offset, out))
    }

    fn bar_write(&self, bar: BarIndex, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        self.access(region(bar), offset, data.len(), |device| {
            device.region_write(region(bar), offset, data, true)
        })
    }

    fn bar_map(&self, bar: BarIndex) -> Result<Option<BarMapping>, FunctionError> {
        self.mappings.get(bar, || self.map(bar))
    }

    fn dma_allocate(&self, bytes: u64, align_bytes: u64) -> Result<DmaMemory, FunctionError> {
        let provider = DmaProvider {
            addresses: &self.plug.addresses,
            page_bytes: PAGE,
            unmapper: None,
            registrar: Arc::clone(&self.plug) as Arc<dyn Registrar>,
        };
        provider.allocate(bytes, align_bytes, |address, file, mapping| {
            let size = u64::try_from(mapping.bytes()).unwrap_or(u64::MAX);
            let fd = file.as_fd().try_clone_to_owned();
            let fd = fd.map_err(|source| FunctionError::Memory { what: "a device", source })?;
            let iova = DmaAddr(address.0);
            let map = DmaMap { iova, size, fd_offset: 0, readable: true, writeable: true };
            self.device(|device| device.dma_map(map, Some(fd))).map_err(|errno| refused("memory", errno))
        })
    }

    fn enable_vectors(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), FunctionError> {
        let fds = eventfds.iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<Vec<_>>>();
        let fds = fds.map_err(|source| FunctionError::Memory { what: "interrupts", source })?;
        self.device(|device| device.set_irqs(IrqIndex::MSIX, IrqChange::Assign { start: 0, fds }))
            .map_err(|errno| refused("interrupt vectors", errno))?;
        self.config_write(function::MSIX_CONTROL, &function::MSIX_ENABLE.to_le_bytes())
    }

    fn disable_vectors(&self) -> Result<(), FunctionError> {
        self.config_write(function::MSIX_CONTROL, &[0, 0])?;
        self.device(|device| device.set_irqs(IrqIndex::MSIX, IrqChange::DisableAll))
            .map_err(|errno| refused("interrupt vectors", errno))
    }

    fn reset(&self) -> Result<(), FunctionError> {
        self.device(|device| device.reset()).map_err(|errno| refused("a reset", errno))?;
        place_bars(self)
    }
}

impl Plug {
    fn lock_addresses(&self) -> std::sync::MutexGuard<'_, AddressSpace> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registrar for Plug {
    fn withdraw(&self, address: DeviceAddress, bytes: u64) {
        let side = self.side;
        let unmap = DmaUnmap::Range { iova: DmaAddr(address.0), size: bytes };
        let withdrawn = self.house.shared.run(side, |state| match state.is_driven_by(side, self.number) {
            true => state.machine.port(side).dma_unmap(unmap),
            // It left with its driver, and what is there now is another one's.
            false => Ok(()),
        });
        if let Err(errno) = withdrawn {
            tracing::debug!(%errno, %address, "memory could not be withdrawn");
        }
        self.lock_addresses().give_back(address);
    }
}

impl Drop for LocalPort {
    fn drop(&mut self) {
        let side = self.plug.side;
        self.plug.house.shared.run(side, |state| {
            state.machine.detach(side);
            if let Some(driver) = state.driver.get_mut(side as usize) {
                *driver = 0;
            }
        });
    }
}

/// The overlay of this process as the one that knows when to unmap.
#[derive(Debug)]
struct Overlay(Arc<Service>);

impl Unmapper for Overlay {
    fn unmap(&self, file: (u64, u64), mapping: Mapping) {
        self.0.unmap(file, mapping);
    }
}

fn region(bar: BarIndex) -> RegionIndex {
    RegionIndex(bar.0.into())
}

fn refused(what: &'static str, errno: Errno) -> FunctionError {
    FunctionError::Refused { what, why: io::Error::from(errno).to_string() }
}
