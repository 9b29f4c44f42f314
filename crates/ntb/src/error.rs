//! What can go wrong at a bridge, and what to do about it.

use crate::{DeviceAddress, FunctionError, Link};
use std::time::Duration;

/// Why a function was not taken for a bridge.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another device.
    #[error("{vendor:04x}:{device:04x} is no NTB that this driver knows: it drives 8086:201c alone")]
    NotAnNtb {
        /// PCI vendor.
        vendor: u16,
        /// PCI device.
        device: u16,
    },
    /// An NTB that is not connected to another one.
    #[error(
        "PPD is {ppd:#04x}: the port is not set up back to back (firmware decides that; 0x01 is USD, 0x11 is DSD)"
    )]
    Topology {
        /// The register.
        ppd: u8,
    },
    /// A BAR that cannot be what it should be.
    #[error(
        "BAR {bar} has {has_bytes:#x} bytes where at least {needs_bytes:#x} are needed, and a power of two"
    )]
    BarSize {
        /// 0 registers, 2 and 4 windows.
        bar: u8,
        /// What it has.
        has_bytes: u64,
        /// What it needs.
        needs_bytes: u64,
    },
    /// The windows of one port work in different ways, of which one is *shared*.
    #[error("one window is shared and the other is not: give both windows of a port the same mode")]
    MixedWindows,
    /// Something below failed.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
}

impl From<FunctionError> for OpenError {
    fn from(error: FunctionError) -> Self {
        Self::Bridge(error.into())
    }
}

/// Why a bridge did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The function below.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// No such window.
    #[error("there is no window {window}: this port has {count}")]
    NoWindow {
        /// What was asked for.
        window: usize,
        /// How many there are.
        count: usize,
    },
    /// No such scratchpad.
    #[error("there is no scratchpad {index}: there are {count}")]
    NoScratchpad {
        /// What was asked for.
        index: u8,
        /// How many there are.
        count: u8,
    },
    /// A doorbell that cannot be used.
    #[error("doorbells {bits:#x} are not all among the valid ones, {valid:#x}")]
    NoDoorbell {
        /// What was asked for.
        bits: u64,
        /// What there is.
        valid: u64,
    },
    /// No message registers.
    #[error("this device has no such message register: real Gen3 has none; start the twin with --messages")]
    NoMessages,
    /// A translation that the window cannot make.
    #[error("{address} is no address for this window: it must be a multiple of {align_bytes:#x}")]
    Unaligned {
        /// What was asked for.
        address: DeviceAddress,
        /// What the window needs.
        align_bytes: u64,
    },
    /// More than the window has.
    #[error("{bytes:#x} bytes do not fit the window of {max_bytes:#x}")]
    TooLarge {
        /// What was asked for.
        bytes: u64,
        /// What there is.
        max_bytes: u64,
    },
    /// A register that does not keep its value.
    #[error("{register} reads {read:#x} after {wrote:#x} was written: the device does not work")]
    Readback {
        /// Which.
        register: &'static str,
        /// What was written.
        wrote: u64,
        /// What came back.
        read: u64,
    },
    /// The link did not come, or did not go.
    #[error(
        "the link is {link} after {waited:?} (LINK_STATUS {link_status:#06x}, NTBCNTL {control:#x}): {hint}"
    )]
    LinkTimeout {
        /// The link at the end.
        link: Link,
        /// How long was waited.
        waited: Duration,
        /// Configuration 0x1A2 at the end.
        link_status: u16,
        /// NTBCNTL at the end.
        control: u32,
        /// What to look at.
        hint: &'static str,
    },
    /// Waiting failed.
    #[error("waiting for the device failed")]
    Wait(#[source] std::io::Error),
    /// Interrupts could not be set up.
    #[error("no eventfds for interrupts")]
    Eventfd(#[source] std::io::Error),
}
