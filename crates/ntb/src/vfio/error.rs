//! Why the kernel does not let this process have a device, and what to do about it.

use super::PciAddress;
use std::io;
use std::path::PathBuf;

/// Why a device was not had by VFIO, or did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// No such device.
    #[error("there is no PCI device {device}: `lspci -D -d 8086:201c` lists NTBs")]
    NoDevice {
        /// What was asked for.
        device: PciAddress,
    },
    /// Another driver has it, or none.
    #[error(
        "{device} is driven by {}, and VFIO gives out what vfio-pci has: modprobe vfio-pci && cd /sys/bus/pci && \
         echo vfio-pci > devices/{device}/driver_override && {}echo {device} > drivers_probe",
        driver.as_deref().unwrap_or("nobody"),
        driver.as_ref().map_or_else(String::new, |driver| format!("echo {device} > drivers/{driver}/unbind && "))
    )]
    NotBound {
        /// The device.
        device: PciAddress,
        /// Its driver.
        driver: Option<String>,
    },
    /// Nothing translates for it.
    #[error(
        "{device} is behind no IOMMU, and without one it could reach all memory: switch VT-d or AMD-Vi on in firmware and boot \
         with intel_iommu=on (QEMU: -device intel-iommu,caching-mode=on)"
    )]
    NoIommu {
        /// The device.
        device: PciAddress,
    },
    /// Its neighbours are in use.
    #[error(
        "{device} cannot be told apart from {others}, which other drivers have: bind those to vfio-pci, too"
    )]
    NotViable {
        /// The device.
        device: PciAddress,
        /// Devices of the same IOMMU group, with their drivers.
        others: String,
    },
    /// Interrupts of devices are not checked.
    #[error(
        "this machine does not check where {device} sends interrupts to: switch interrupt remapping on or, for a device that is \
         trusted, echo Y > /sys/module/{module}/parameters/allow_unsafe_interrupts"
    )]
    UnsafeInterrupts {
        /// The device.
        device: PciAddress,
        /// The module with that parameter.
        module: &'static str,
    },
    /// A file of VFIO may not be opened.
    #[error("{} may not be opened: run as root, or chown it to this user", path.display())]
    Permission {
        /// Which.
        path: PathBuf,
    },
    /// A file of VFIO is not there.
    #[error("{} is not there: modprobe vfio-pci vfio_iommu_type1", path.display())]
    NoVfio {
        /// Which.
        path: PathBuf,
    },
    /// Memory cannot be kept in place.
    #[error("{bytes:#x} bytes cannot be pinned for a device: raise the limit of locked memory (ulimit -l)")]
    Pin {
        /// How many.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// What the kernel says is of another kind than this driver knows.
    #[error("VFIO offers {what}: this driver cannot use it")]
    Unknown {
        /// What it is, or says.
        what: String,
    },
    /// A call failed.
    #[error("VFIO fails to {what}")]
    Call {
        /// What was to be done.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}
