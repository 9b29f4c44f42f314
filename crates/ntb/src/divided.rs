//! Memory for a device in parts, each a file of its own.

use crate::{DeviceAddress, FunctionError, Registrar};
use shm::SharedFile;
use std::sync::Arc;

/// Device addresses in a row, at which files come and go: memory that a device may read and write, of which each part is a file
/// of its own, and so can be given to a process of its own.
#[derive(Debug)]
pub struct DividedMemory {
    address: DeviceAddress,
    bytes: u64,
    planter: Arc<dyn Planter>,
}

/// Gives files to a device at addresses that were taken for them.
pub trait Planter: Registrar {
    /// The device may read and write the whole file at `address` when it returns.
    ///
    /// # Errors
    /// [`FunctionError`], and nothing is there.
    fn plant(&self, address: DeviceAddress, file: &SharedFile) -> Result<(), FunctionError>;

    /// The device does not reach that range any more when it returns; the addresses stay taken.
    fn uproot(&self, address: DeviceAddress, bytes: u64);
}

impl DividedMemory {
    /// Addresses that were taken; for implementations of [`PciFunction`](crate::PciFunction).
    #[must_use]
    pub fn new(address: DeviceAddress, bytes: u64, planter: Arc<dyn Planter>) -> Self {
        Self { address, bytes, planter }
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> DeviceAddress {
        self.address
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts a file, whole, at byte `at`, where none is.
    ///
    /// # Errors
    /// [`FunctionError`]: it leaves the range, or the device refuses.
    pub fn plant(&self, at: u64, file: &SharedFile) -> Result<(), FunctionError> {
        self.planter.plant(self.place(at, file.bytes())?, file)
    }

    /// Takes a file of `bytes` bytes away from byte `at`.
    ///
    /// # Errors
    /// [`FunctionError`] when that leaves the range.
    pub fn uproot(&self, at: u64, bytes: u64) -> Result<(), FunctionError> {
        self.planter.uproot(self.place(at, bytes)?, bytes);
        Ok(())
    }

    fn place(&self, at: u64, bytes: u64) -> Result<DeviceAddress, FunctionError> {
        let fits = at.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        fits.then(|| self.address.checked_add(at)).flatten().ok_or_else(|| FunctionError::Refused {
            what: "a file as memory",
            why: format!("{bytes:#x} bytes at {at:#x} leave a range of {:#x}", self.bytes),
        })
    }
}

impl Drop for DividedMemory {
    fn drop(&mut self) {
        self.planter.withdraw(self.address, self.bytes);
    }
}
