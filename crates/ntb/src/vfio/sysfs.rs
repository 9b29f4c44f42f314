//! What sysfs says of a device before it is opened: its driver, its IOMMU group, its files in `/dev`.

use super::{PciAddress, VfioError};
use std::fs;
use std::path::{Path, PathBuf};

/// The drivers whose devices do not stand in the way of a group: VFIO's own, and ports of switches.
const HARMLESS: [&str; 3] = ["vfio-pci", "pcieport", "pci-stub"];

/// The trees in which a kernel shows its devices. Tests have their own.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    sysfs: PathBuf,
    devices: PathBuf,
}

/// How a device can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access {
    /// By itself, with an iommufd.
    Iommufd {
        /// The device's file.
        device: PathBuf,
        /// The file of iommufds.
        iommu: PathBuf,
    },
    /// Through its group, with a container.
    Group {
        /// The group's file.
        group: PathBuf,
        /// The file of containers.
        container: PathBuf,
    },
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        Self { sysfs: "/sys".into(), devices: "/dev".into() }
    }

    fn device(&self, address: PciAddress) -> PathBuf {
        self.sysfs.join("bus/pci/devices").join(address.to_string())
    }

    /// How a device can be had: by an iommufd where the kernel offers that, else through its group.
    pub(super) fn find(&self, address: PciAddress) -> Result<Access, VfioError> {
        let device = self.device(address);
        if !device.is_dir() {
            return Err(VfioError::NoDevice { device: address });
        }
        // Every driver of VFIO gives out a device of its own there (Linux 6.1); before, it is known by its name.
        let given_out = first_name(&device.join("vfio-dev"));
        let driver = target_name(&device.join("driver"));
        if given_out.is_none() && driver.as_deref() != Some("vfio-pci") {
            return Err(VfioError::NotBound { device: address, driver });
        }
        let Some(group) = target_name(&device.join("iommu_group")) else {
            return Err(VfioError::NoIommu { device: address });
        };
        let iommu = self.devices.join("iommu");
        let alone = given_out.map(|name| self.devices.join("vfio/devices").join(name));
        Ok(match alone.filter(|alone| alone.exists() && iommu.exists()) {
            Some(device) => Access::Iommufd { device, iommu },
            None => Access::Group {
                group: self.devices.join("vfio").join(group),
                container: self.devices.join("vfio/vfio"),
            },
        })
    }

    /// The devices that a device shares its group with and that keep it from being given out, with their drivers.
    pub(super) fn neighbours(&self, address: PciAddress) -> String {
        let Ok(devices) = fs::read_dir(self.device(address).join("iommu_group/devices")) else {
            return "devices of its IOMMU group".to_owned();
        };
        let mut others: Vec<String> = devices
            .flatten()
            .filter_map(|device| {
                let driver = target_name(&device.path().join("driver"))?;
                let name = device.file_name().to_string_lossy().into_owned();
                (!HARMLESS.contains(&driver.as_str())).then(|| format!("{name} ({driver})"))
            })
            .collect();
        others.sort();
        if others.is_empty() { "devices of its IOMMU group".to_owned() } else { others.join(", ") }
    }
}

/// The last name in what a link points to.
fn target_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// The name of what a directory holds.
fn first_name(directory: &Path) -> Option<String> {
    let entry = fs::read_dir(directory).ok()?.flatten().next()?;
    Some(entry.file_name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const NTB: &str = "0000:01:00.0";

    /// A machine with an NTB and a disk, both in group 7.
    fn machine(directory: &Path, driver: Option<&str>, group: bool) -> Machine {
        let (sysfs, devices) = (directory.join("sys"), directory.join("dev"));
        for (name, driver) in [(NTB, driver), ("0000:02:00.0", Some("nvme"))] {
            let device = sysfs.join("bus/pci/devices").join(name);
            fs::create_dir_all(&device).unwrap();
            if let Some(driver) = driver {
                symlink(format!("../../drivers/{driver}"), device.join("driver")).unwrap();
            }
            if group {
                let group = sysfs.join("kernel/iommu_groups/7");
                fs::create_dir_all(group.join("devices")).unwrap();
                symlink(&device, group.join("devices").join(name)).unwrap();
                symlink(&group, device.join("iommu_group")).unwrap();
            }
        }
        Machine { sysfs, devices }
    }

    fn find(machine: &Machine) -> Result<Access, VfioError> {
        machine.find(NTB.parse().unwrap())
    }

    #[test]
    fn a_device_of_vfio_is_had_through_its_group_or_by_an_iommufd() {
        let directory = tempfile::tempdir().unwrap();
        let machine = machine(directory.path(), Some("vfio-pci"), true);
        let dev = |name: &str| machine.devices.join(name);
        let by_group = Access::Group { group: dev("vfio/7"), container: dev("vfio/vfio") };
        assert_eq!(find(&machine).unwrap(), by_group);
        let own = machine.sysfs.join("bus/pci/devices").join(NTB).join("vfio-dev/vfio3");
        fs::create_dir_all(own).unwrap();
        fs::create_dir_all(dev("vfio/devices/vfio3")).unwrap();
        assert_eq!(find(&machine).unwrap(), by_group, "there is no iommufd");
        fs::write(dev("iommu"), "").unwrap();
        let by_itself = Access::Iommufd { device: dev("vfio/devices/vfio3"), iommu: dev("iommu") };
        assert_eq!(find(&machine).unwrap(), by_itself);
        let others = machine.neighbours(NTB.parse().unwrap());
        assert_eq!(others, "0000:02:00.0 (nvme)");
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let said = |driver, group| {
            let directory = tempfile::tempdir().unwrap();
            find(&machine(directory.path(), driver, group)).unwrap_err().to_string()
        };
        let text = said(Some("ntb_hw_intel"), true);
        assert!(text.starts_with("0000:01:00.0 is driven by ntb_hw_intel, and"), "{text}");
        assert!(text.contains("echo vfio-pci > devices/0000:01:00.0/driver_override"), "{text}");
        assert!(text.contains(
            "echo 0000:01:00.0 > drivers/ntb_hw_intel/unbind && echo 0000:01:00.0 > drivers_probe"
        ));
        let text = said(None, true);
        assert!(text.contains("driven by nobody") && !text.contains("unbind"), "{text}");
        assert!(said(Some("vfio-pci"), false).contains("intel_iommu=on"));
        let nobody = Machine { sysfs: "/nowhere".into(), devices: "/nowhere".into() };
        assert!(find(&nobody).unwrap_err().to_string().starts_with("there is no PCI device 0000:01:00.0"));
    }
}
