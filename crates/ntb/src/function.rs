//! The seam below the driver: a PCI function, however it is reached.

use crate::divided::DividedMemory;
use crate::memory::{BarMapping, DmaMemory};
use crate::vfio::VfioError;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

/// Which BAR of a function, 0 to 5. A 64-bit BAR has the number of its low half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BarIndex(pub u8);

impl BarIndex {
    /// The registers of an NTB, and of an I/OAT engine.
    pub const REGISTERS: Self = Self(0);
    /// Memory window 0 of an NTB.
    pub const WINDOW_0: Self = Self(2);
    /// Memory window 1 of an NTB.
    pub const WINDOW_1: Self = Self(4);
}

impl fmt::Display for BarIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BAR {}", self.0)
    }
}

/// An address as devices of this host see it: of memory that was given to a device, or of a device's BAR. Bytes. No address of
/// this process, and none of the peer's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceAddress(pub u64);

impl DeviceAddress {
    /// The address `bytes` further on; `None` where addresses end.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(address) => Some(Self(address)),
            None => None,
        }
    }
}

impl fmt::Debug for DeviceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceAddress({:#x})", self.0)
    }
}

impl fmt::Display for DeviceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A PCI function that this process drives.
///
/// Accesses keep the order of PCI: writes of one function are carried out in the order in which they were made, and a read
/// returns after the writes before it. A write may return before it is carried out (it is *posted*), so that what
/// becomes of it shows in a later read alone. Accesses of 1, 2, 4 and 8 aligned bytes are one access of
/// that width at the device; longer ones may be cut anywhere.
///
/// All methods may be called from any thread. None of them is for a hot path: a mapped window is (see
/// [`bar_map`](Self::bar_map)).
pub trait PciFunction: fmt::Debug + Send + Sync {
    /// Reads configuration space at `offset` (0 to 4095).
    ///
    /// # Errors
    /// [`FunctionError`] when the function is gone or the range is not in configuration space.
    fn config_read(&self, offset: u32, out: &mut [u8]) -> Result<(), FunctionError>;

    /// Writes configuration space.
    ///
    /// # Errors
    /// As [`config_read`](Self::config_read).
    fn config_write(&self, offset: u32, data: &[u8]) -> Result<(), FunctionError>;

    /// Size of a BAR in bytes; 0 for one that the function does not have.
    ///
    /// # Errors
    /// [`FunctionError`] when the function is gone.
    fn bar_bytes(&self, bar: BarIndex) -> Result<u64, FunctionError>;

    /// Reads from a BAR: waits for the answer. What nobody answers reads all ones.
    ///
    /// # Errors
    /// [`FunctionError::Range`] outside the BAR, else when the function is gone.
    fn bar_read(&self, bar: BarIndex, offset: u64, out: &mut [u8]) -> Result<(), FunctionError>;

    /// Writes to a BAR: posted.
    ///
    /// # Errors
    /// As [`bar_read`](Self::bar_read).
    fn bar_write(&self, bar: BarIndex, offset: u64, data: &[u8]) -> Result<(), FunctionError>;

    /// The memory behind a BAR, mapped into this process; `None` where each access has to be a
    /// [`bar_read`](Self::bar_read) or [`bar_write`](Self::bar_write). The answer is fixed by the first call.
    ///
    /// What lies behind it may change at any time. The mapping stays valid: what is closed is a private page that reads all
    /// ones.
    ///
    /// # Errors
    /// [`FunctionError`] when the memory that was offered cannot be used.
    fn bar_map(&self, bar: BarIndex) -> Result<Option<BarMapping>, FunctionError>;

    /// New memory, zeroed, that the device may read and write, at a device address that is a multiple of `align_bytes` (a
    /// power of two). It is withdrawn from the device when its last handle is dropped. Whole pages are given.
    ///
    /// # Errors
    /// [`FunctionError`] when there is no memory or no address left.
    fn dma_allocate(&self, bytes: u64, align_bytes: u64) -> Result<DmaMemory, FunctionError>;

    /// Addresses for `bytes` bytes of memory that comes and goes file by file, from a multiple of `align_bytes` on (a power
    /// of two). Whole pages are given.
    ///
    /// # Errors
    /// [`FunctionError`] when no address is left, or where memory cannot be divided: real devices, and twins in this process.
    fn dma_divide(&self, bytes: u64, align_bytes: u64) -> Result<DividedMemory, FunctionError> {
        let _ = (bytes, align_bytes);
        Err(FunctionError::Refused {
            what: "memory in parts",
            why: "only a twin behind a socket takes it: here one process has all of the memory".to_owned(),
        })
    }

    /// Switches MSI-X on: vector n signals `eventfds[n]`. What was pending is delivered.
    ///
    /// # Errors
    /// [`FunctionError`] when the device has fewer vectors.
    fn enable_vectors(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), FunctionError>;

    /// Switches MSI-X off.
    ///
    /// # Errors
    /// [`FunctionError`] when the function is gone.
    fn disable_vectors(&self) -> Result<(), FunctionError>;

    /// Resets the function: its registers are as after power-on. Memory and eventfds stay known to it.
    ///
    /// # Errors
    /// [`FunctionError`] when the function is gone.
    fn reset(&self) -> Result<(), FunctionError>;
}

/// Why a PCI function could not be had, or did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// Somebody drives it already.
    #[error("{what} is taken: another driver is attached to it; stop that one, or use the other port")]
    Taken {
        /// Socket, port or device.
        what: String,
    },
    /// Its socket or file may not be opened.
    #[error("{} may not be opened: run as the user who started the twin, or as root", path.display())]
    Permission {
        /// Where.
        path: PathBuf,
    },
    /// Nobody serves there.
    #[error("nobody serves at {}: start the twin first (isthmus twin)", path.display())]
    Absent {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It went away, or does not answer any more.
    #[error("the device is gone: {why}; open it anew")]
    Gone {
        /// How that showed.
        why: String,
    },
    /// It refused.
    #[error("the device refused {what}: {why}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// Its reason.
        why: String,
    },
    /// An access outside configuration space or a BAR. Nothing was accessed.
    #[error("{bytes} bytes at {offset:#x} do not lie in {space}")]
    Range {
        /// `configuration space` or `BAR n`.
        space: String,
        /// First byte.
        offset: u64,
        /// How many.
        bytes: usize,
    },
    /// There is no memory, or none that fits.
    #[error("no memory for {what}")]
    Memory {
        /// For what.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel's VFIO.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// Device addresses have run out.
    #[error("there are no {bytes:#x} bytes of device addresses left: free DMA memory first")]
    NoAddress {
        /// How many were asked for.
        bytes: u64,
    },
}

impl FunctionError {
    /// The device is gone, as this says.
    pub fn gone(why: impl fmt::Display) -> Self {
        Self::Gone { why: why.to_string() }
    }
}
