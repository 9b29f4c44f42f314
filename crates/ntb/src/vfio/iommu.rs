//! The device addresses of a function that VFIO gives out: a container with its group, or an iommufd.

use super::ioctl;
use super::sysfs::{Access, Machine};
use super::{PciAddress, VfioError};
use crate::addresses::AddressSpace;
use crate::memory::Registrar;
use crate::{DeviceAddress, FunctionError};
use rustix::io::Errno;
use shm::Mapping;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The smallest page that memory is given in.
const PAGE: u64 = 4096;

/// Which memory the device reaches, and where. Memory that was given to it holds this, so that it can be taken back.
#[derive(Debug)]
pub(super) struct Iommu {
    way: Way,
    addresses: Mutex<AddressSpace>,
    page_bytes: u64,
}

#[derive(Debug)]
enum Way {
    /// The group is in the container for as long as it is open.
    Container {
        container: OwnedFd,
        _group: OwnedFd,
    },
    Iommufd {
        iommufd: OwnedFd,
        ioas: u32,
    },
}

/// Opens a device, and what translates for it.
pub(super) fn open(machine: &Machine, address: PciAddress) -> Result<(OwnedFd, Iommu), FunctionError> {
    let (device, way, info) = match machine.find(address)? {
        Access::Iommufd { device, iommu } => by_iommufd(address, &device, &iommu)?,
        Access::Group { group, container } => by_group(machine, address, &group, &container)?,
    };
    let space =
        if info.ranges.is_empty() { AddressSpace::default() } else { AddressSpace::within(&info.ranges) };
    // Larger pages than memory has here would be given in part.
    let page_bytes = info.page_bytes.unwrap_or(PAGE).max(PAGE);
    Ok((device, Iommu { way, addresses: Mutex::new(space), page_bytes }))
}

type Opened = (OwnedFd, Way, ioctl::IommuInfo);

fn by_group(
    machine: &Machine,
    address: PciAddress,
    group: &Path,
    container: &Path,
) -> Result<Opened, FunctionError> {
    let group = file(address, group)?;
    let flags = ioctl::group_flags(group.as_fd()).map_err(call("ask for the group's state"))?;
    if flags & ioctl::GROUP_VIABLE == 0 {
        return Err(VfioError::NotViable { device: address, others: machine.neighbours(address) }.into());
    }
    let container = file(address, container)?;
    let version = ioctl::api_version(container.as_fd()).map_err(call("tell its version"))?;
    if version != ioctl::API_VERSION {
        return Err(VfioError::Unknown { what: format!("version {version} of its interface") }.into());
    }
    if !ioctl::has_type1v2(container.as_fd()).map_err(call("tell its kind of IOMMU"))? {
        // It is found by a module of its own, which is loaded by what opens the container, if it is there.
        return Err(
            VfioError::Unknown { what: "no IOMMU of type 1 (modprobe vfio_iommu_type1)".to_owned() }.into()
        );
    }
    ioctl::set_container(group.as_fd(), container.as_fd()).map_err(call("put the group into a container"))?;
    ioctl::set_type1v2(container.as_fd()).map_err(|errno| match errno {
        Errno::PERM => VfioError::UnsafeInterrupts { device: address, module: "vfio_iommu_type1" },
        errno => call("switch the IOMMU on")(errno),
    })?;
    let name = CString::new(address.to_string()).map_err(|_| VfioError::NoDevice { device: address })?;
    let device = ioctl::group_device(group.as_fd(), &name).map_err(call("open the device"))?;
    let info = ioctl::iommu_info(container.as_fd()).map_err(call("tell its device addresses"))?;
    Ok((device, Way::Container { container, _group: group }, info))
}

fn by_iommufd(address: PciAddress, device: &Path, iommu: &Path) -> Result<Opened, FunctionError> {
    let device = file(address, device)?;
    let iommufd = file(address, iommu)?;
    ioctl::bind_iommufd(device.as_fd(), iommufd.as_fd()).map_err(|errno| match errno {
        // Somebody has it by its own file, or by its group.
        Errno::INVAL | Errno::BUSY => taken(address),
        Errno::PERM => VfioError::UnsafeInterrupts { device: address, module: "iommufd" }.into(),
        errno => FunctionError::from(call("bind the device to an iommufd")(errno)),
    })?;
    let ioas = ioctl::ioas_allocate(iommufd.as_fd()).map_err(call("make a space of addresses"))?;
    ioctl::attach_ioas(device.as_fd(), ioas).map_err(call("attach the device to its addresses"))?;
    let info = ioctl::ioas_info(iommufd.as_fd(), ioas).map_err(call("tell its device addresses"))?;
    Ok((device, Way::Iommufd { iommufd, ioas }, info))
}

/// Opens a file of VFIO.
fn file(address: PciAddress, path: &Path) -> Result<OwnedFd, FunctionError> {
    File::options().read(true).write(true).open(path).map(OwnedFd::from).map_err(|source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::ResourceBusy => taken(address),
            io::ErrorKind::PermissionDenied => VfioError::Permission { path }.into(),
            io::ErrorKind::NotFound => VfioError::NoVfio { path }.into(),
            _ => VfioError::Call { what: "open its files", source }.into(),
        }
    })
}

fn taken(address: PciAddress) -> FunctionError {
    FunctionError::Taken { what: address.to_string() }
}

/// The error of a call.
pub(super) fn call(what: &'static str) -> impl Fn(Errno) -> VfioError {
    move |errno| VfioError::Call { what, source: errno.into() }
}

impl Iommu {
    /// The smallest piece of memory that can be given.
    pub(super) fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    pub(super) fn addresses(&self) -> &Mutex<AddressSpace> {
        &self.addresses
    }

    fn lock(&self) -> MutexGuard<'_, AddressSpace> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the device reach memory at an address.
    pub(super) fn give(&self, address: DeviceAddress, memory: &Mapping) -> Result<(), FunctionError> {
        let given = match &self.way {
            Way::Container { container, .. } => ioctl::map_dma(container.as_fd(), address.0, memory),
            Way::Iommufd { iommufd, ioas } => ioctl::ioas_map(iommufd.as_fd(), *ioas, address.0, memory),
        };
        given.map_err(|errno| match errno {
            Errno::NOMEM => {
                let bytes = u64::try_from(memory.bytes()).unwrap_or(u64::MAX);
                VfioError::Pin { bytes, source: errno.into() }.into()
            }
            errno => call("give memory to the device")(errno).into(),
        })
    }
}

impl Registrar for Iommu {
    fn withdraw(&self, address: DeviceAddress, bytes: u64) {
        let taken = match &self.way {
            Way::Container { container, .. } => ioctl::unmap_dma(container.as_fd(), address.0, bytes),
            Way::Iommufd { iommufd, ioas } => ioctl::ioas_unmap(iommufd.as_fd(), *ioas, address.0, bytes),
        };
        match taken {
            Ok(taken) if taken == bytes => self.lock().give_back(address),
            // What the device may still reach is not given away again; the kernel keeps its pages.
            Ok(taken) => tracing::warn!(%address, bytes, taken, "memory was taken from the device in part"),
            Err(errno) => tracing::warn!(%errno, %address, "memory could not be taken from the device"),
        }
    }
}
