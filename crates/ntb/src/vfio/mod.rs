//! A PCI function of this machine that the kernel gives to this process: VFIO.

mod address;
mod error;
mod ioctl;
mod iommu;
mod sysfs;

use crate::memory::{BarMapping, DmaMemory, DmaProvider, Mapped, Registrar};
use crate::{BarIndex, FunctionError, PciFunction};
pub use address::{BadPciAddress, PciAddress};
pub use error::VfioError;
use ioctl::RegionInfo;
use iommu::{Iommu, call};
use ntb_spec::function::{COMMAND, COMMAND_MEMORY};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};
use shm::{Mapping, Memory, Window};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use sysfs::Machine;

const BARS: usize = 6;
/// The status bit that says that there are capabilities, where the first is told, and their end.
const STATUS: u32 = 0x06;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const CAPABILITIES: u32 = 0x34;
/// The capability of power management, and where in it the power state is (PCI PM 1.2, 3.2).
const POWER_CAPABILITY: u8 = 0x01;
const POWER_CONTROL: u32 = 4;
const POWER_STATE: u8 = 0x03;

/// A function that the kernel's VFIO has given to this process: on hardware, or in a guest with an IOMMU. Dropping it resets the
/// function, as the end of the process does; a window or memory of it that is kept delays that.
///
/// BARs are mapped where VFIO maps them, and uncached (see the crate's front page): an access of 1, 2, 4 or 8 aligned bytes is one
/// transaction. Memory for the device is pinned, and reached by the device through the IOMMU alone.
/// By an iommufd where the kernel has `/dev/iommu` and the device's own file, else through the device's group.
#[derive(Debug)]
pub struct Vfio {
    address: PciAddress,
    // In this order: the device is closed, and with it reset, before what it reaches goes.
    bars: [Bar; BARS],
    config: RegionInfo,
    device: OwnedFd,
    iommu: Arc<Iommu>,
    resets: bool,
    /// MSI-X vectors.
    vectors: u32,
    /// Where configuration space holds the power state, if it does.
    power: Option<u32>,
}

#[derive(Debug)]
struct Bar {
    region: RegionInfo,
    mapping: Option<BarMapping>,
}

impl Vfio {
    /// Takes a function into use that is bound to vfio-pci, and switches its memory decoding on.
    ///
    /// # Errors
    /// [`FunctionError::Taken`] where another process has it; [`FunctionError::Vfio`] says what is missing, and what to do.
    pub fn open(address: PciAddress) -> Result<Self, FunctionError> {
        let (device, iommu) = iommu::open(&Machine::this(), address)?;
        let fd = device.as_fd();
        let (flags, regions, irqs) = ioctl::device_info(fd).map_err(call("describe the device"))?;
        if flags & ioctl::DEVICE_PCI == 0 || regions <= ioctl::CONFIG_REGION {
            let what =
                format!("a device with flags {flags:#x} and {regions} regions, which is no PCI function");
            return Err(VfioError::Unknown { what }.into());
        }
        let vectors = if irqs > ioctl::MSIX_IRQ {
            let (flags, count) =
                ioctl::irq_info(fd, ioctl::MSIX_IRQ).map_err(call("describe its interrupts"))?;
            if flags & ioctl::IRQ_EVENTFD != 0 { count } else { 0 }
        } else {
            0
        };
        let config = region(fd, ioctl::CONFIG_REGION)?;
        let power = find_power(fd, &config)?;
        // A mapped BAR is reached while the function decodes it, and not otherwise.
        let mut command = [0; 2];
        read_at(fd, &config, COMMAND.into(), &mut command, "configuration space")?;
        let on = u16::from_le_bytes(command) | COMMAND_MEMORY;
        write_at(fd, &config, COMMAND.into(), &on.to_le_bytes(), "configuration space")?;
        let bar = |index| {
            let region = region(fd, index)?;
            let mapping = map(fd, &region)?;
            Ok::<_, FunctionError>(Bar { region, mapping })
        };
        let bars = [bar(0)?, bar(1)?, bar(2)?, bar(3)?, bar(4)?, bar(5)?];
        let resets = flags & ioctl::DEVICE_RESETS != 0;
        Ok(Self { address, bars, config, device, iommu: Arc::new(iommu), resets, vectors, power })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> PciAddress {
        self.address
    }

    fn bar(&self, bar: BarIndex) -> Option<&Bar> {
        self.bars.get(usize::from(bar.0))
    }

    /// The BAR of an access that lies in it.
    fn checked(&self, bar: BarIndex, offset: u64, bytes: usize) -> Result<(&Bar, usize), FunctionError> {
        let range = || FunctionError::Range { space: bar.to_string(), offset, bytes };
        let found = self.bar(bar).ok_or_else(range)?;
        within(&found.region, offset, bytes).ok_or_else(range)?;
        Ok((found, usize::try_from(offset).map_err(|_| range())?))
    }

    /// Whether a write of configuration space would have the function stop decoding its BARs: a load from a mapped one would
    /// be the end of this process then.
    fn switches_off(&self, offset: u32, data: &[u8]) -> bool {
        let byte = |at: u32| {
            let nth = usize::try_from(at.checked_sub(offset)?).ok()?;
            data.get(nth).copied()
        };
        let [memory, _] = COMMAND_MEMORY.to_le_bytes();
        byte(COMMAND).is_some_and(|command| command & memory == 0)
            || self.power.and_then(byte).is_some_and(|power| power & POWER_STATE != 0)
    }
}

impl PciFunction for Vfio {
    fn config_read(&self, offset: u32, out: &mut [u8]) -> Result<(), FunctionError> {
        read_at(self.device.as_fd(), &self.config, offset.into(), out, "configuration space")
    }

    /// Refuses what would switch memory decoding or power off: mapped BARs have to stay.
    fn config_write(&self, offset: u32, data: &[u8]) -> Result<(), FunctionError> {
        if self.switches_off(offset, data) {
            let why = "its BARs are mapped, so it has to decode them and stay in D0".to_owned();
            return Err(FunctionError::Refused { what: "a write of configuration space", why });
        }
        write_at(self.device.as_fd(), &self.config, offset.into(), data, "configuration space")
    }

    fn bar_bytes(&self, bar: BarIndex) -> Result<u64, FunctionError> {
        Ok(self.bar(bar).map_or(0, |bar| bar.region.bytes))
    }

    fn bar_read(&self, bar: BarIndex, offset: u64, out: &mut [u8]) -> Result<(), FunctionError> {
        let (found, at) = self.checked(bar, offset, out.len())?;
        match &found.mapping {
            Some(mapping) => Memory::read(&*mapping.memory, at, out).map_err(FunctionError::gone),
            None => read_at(self.device.as_fd(), &found.region, offset, out, "a BAR"),
        }
    }

    fn bar_write(&self, bar: BarIndex, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        let (found, at) = self.checked(bar, offset, data.len())?;
        match &found.mapping {
            Some(mapping) => Window::write(&*mapping.memory, at, data).map_err(FunctionError::gone),
            None => write_at(self.device.as_fd(), &found.region, offset, data, "a BAR"),
        }
    }

    fn bar_map(&self, bar: BarIndex) -> Result<Option<BarMapping>, FunctionError> {
        Ok(self.bar(bar).and_then(|bar| bar.mapping.clone()))
    }

    fn dma_allocate(&self, bytes: u64, align_bytes: u64) -> Result<DmaMemory, FunctionError> {
        let provider = DmaProvider {
            addresses: self.iommu.addresses(),
            page_bytes: self.iommu.page_bytes(),
            unmapper: None,
            registrar: Arc::clone(&self.iommu) as Arc<dyn Registrar>,
        };
        provider.allocate(bytes, align_bytes, |address, _, mapping| self.iommu.give(address, mapping))
    }

    fn enable_vectors(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), FunctionError> {
        let refused = |why| FunctionError::Refused { what: "interrupt vectors", why };
        if u32::try_from(eventfds.len()).map_or(true, |wanted| wanted > self.vectors) {
            return Err(refused(format!("it has {} of {}", self.vectors, eventfds.len())));
        }
        match ioctl::set_irqs(self.device.as_fd(), ioctl::MSIX_IRQ, eventfds) {
            Ok(0) => Ok(()),
            Ok(left) => Err(refused(format!("the kernel has {left} of {} left", eventfds.len()))),
            Err(errno) => Err(call("switch MSI-X on")(errno).into()),
        }
    }

    fn disable_vectors(&self) -> Result<(), FunctionError> {
        match ioctl::set_irqs(self.device.as_fd(), ioctl::MSIX_IRQ, &[]) {
            // It is off.
            Ok(_) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(call("switch MSI-X off")(errno).into()),
        }
    }

    fn reset(&self) -> Result<(), FunctionError> {
        if !self.resets {
            let why = "the kernel knows no way to reset it".to_owned();
            return Err(FunctionError::Refused { what: "a reset", why });
        }
        Ok(ioctl::reset(self.device.as_fd()).map_err(call("reset the device"))?)
    }
}

/// What the kernel says of a region, if that can be.
fn region(device: BorrowedFd<'_>, index: u32) -> Result<RegionInfo, FunctionError> {
    let region = ioctl::region_info(device, index).map_err(call("describe a region"))?;
    let usable = region.flags & ioctl::REGION_READ_WRITE == ioctl::REGION_READ_WRITE;
    let fits = region.offset.checked_add(region.bytes).is_some_and(|end| i64::try_from(end).is_ok());
    if region.bytes > 0 && !(usable && fits) {
        return Err(VfioError::Unknown { what: format!("region {index} as {region:?}") }.into());
    }
    Ok(region)
}

/// Maps a BAR, where all of it may be.
fn map(device: BorrowedFd<'_>, region: &RegionInfo) -> Result<Option<BarMapping>, FunctionError> {
    if region.bytes == 0 || region.flags & ioctl::REGION_MMAP == 0 || region.sparse {
        return Ok(None);
    }
    let mapping = Mapping::device(device, region.offset, region.bytes);
    let mapping = mapping
        .map_err(|error| FunctionError::Memory { what: "a BAR", source: std::io::Error::other(error) })?;
    // No register tells whether a twin has made a window one memory of both hosts.
    Ok(Some(BarMapping { memory: Arc::new(Mapped::fixed(mapping)), shared: false }))
}

/// Where the power state of a function is.
fn find_power(device: BorrowedFd<'_>, config: &RegionInfo) -> Result<Option<u32>, FunctionError> {
    let byte = |at: u32| {
        let mut byte = [0];
        read_at(device, config, at.into(), &mut byte, "configuration space").map(|()| byte[0])
    };
    if byte(STATUS)? & STATUS_CAPABILITIES == 0 {
        return Ok(None);
    }
    let mut at = u32::from(byte(CAPABILITIES)? & !3);
    // More than fit are a circle.
    for _ in 0..64 {
        if at == 0 {
            break;
        }
        if byte(at)? == POWER_CAPABILITY {
            return Ok(at.checked_add(POWER_CONTROL));
        }
        at = u32::from(byte(at.saturating_add(1))? & !3);
    }
    Ok(None)
}

/// Where in the descriptor an access is that lies in its region.
fn within(region: &RegionInfo, offset: u64, bytes: usize) -> Option<u64> {
    let end = offset.checked_add(u64::try_from(bytes).ok()?)?;
    (end <= region.bytes).then(|| region.offset.checked_add(offset)).flatten()
}

fn outside(space: &'static str, offset: u64, bytes: usize) -> FunctionError {
    FunctionError::Range { space: space.to_owned(), offset, bytes }
}

/// Reads from a region by system calls.
fn read_at(
    device: BorrowedFd<'_>,
    region: &RegionInfo,
    offset: u64,
    out: &mut [u8],
    space: &'static str,
) -> Result<(), FunctionError> {
    let bytes = out.len();
    let mut at = within(region, offset, bytes).ok_or_else(|| outside(space, offset, bytes))?;
    let mut rest = out;
    while !rest.is_empty() {
        let done = retry_on_intr(|| pread(device, &mut *rest, at)).map_err(gone)?;
        rest = rest.get_mut(done..).filter(|_| done > 0).ok_or_else(|| short(space))?;
        at = at.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Writes to a region by system calls.
fn write_at(
    device: BorrowedFd<'_>,
    region: &RegionInfo,
    offset: u64,
    data: &[u8],
    space: &'static str,
) -> Result<(), FunctionError> {
    let mut at = within(region, offset, data.len()).ok_or_else(|| outside(space, offset, data.len()))?;
    let mut rest = data;
    while !rest.is_empty() {
        let done = retry_on_intr(|| pwrite(device, rest, at)).map_err(gone)?;
        rest = rest.get(done..).filter(|_| done > 0).ok_or_else(|| short(space))?;
        at = at.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
    }
    Ok(())
}

fn short(space: &str) -> FunctionError {
    FunctionError::gone(format!("an access to {space} moved nothing"))
}

fn gone(errno: Errno) -> FunctionError {
    FunctionError::gone(std::io::Error::from(errno))
}

#[cfg(test)]
mod tests;
