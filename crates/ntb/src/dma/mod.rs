//! Copies that somebody else makes: a DMA engine, or this processor where there is none.
//!
//! ```text
//!   DmaCopy { from: my memory ──▶ to: a window of mine, or my memory } ──submit──▶ engine ──poll──▶ done(result)
//! ```
//! The memory that a copy names is kept until it has ended. [`Ioat`] drives the engine beside an NTB; it reaches
//! what was allocated by itself, and the BARs of its host's NTB. [`CpuCopy`] does the same by the processor.

mod cpu;
mod ioat;

pub use cpu::CpuCopy;
pub use ioat::Ioat;

use crate::{BridgeError, DeviceAddress, DmaMemory, FunctionError, Outbound, Window, WindowError};
use std::fmt;
use std::time::Duration;

/// Where a copy goes.
#[derive(Debug, Clone)]
pub enum DmaTarget {
    /// The peer, through a window.
    Window(Outbound),
    /// Memory of the same engine.
    Memory(DmaMemory),
    /// Any address that the engine knows, such as a doorbell ([`DoorbellTarget`](crate::DoorbellTarget)).
    Address(DeviceAddress),
}

/// One copy.
#[derive(Debug, Clone)]
pub struct DmaCopy {
    /// Where from: memory that the engine allocated.
    pub from: DmaMemory,
    /// First byte there.
    pub from_at: usize,
    /// Where to.
    pub to: DmaTarget,
    /// First byte there.
    pub to_at: usize,
    /// How many bytes.
    pub bytes: usize,
}

/// Told when a copy has ended, by whoever polls.
pub type DmaDone = Box<dyn FnOnce(Result<(), DmaError>) + Send>;

/// Something that copies.
///
/// Copies end in any order unless a [`fence`](Self::fence) is between them. One that has ended has been stored; a doorbell that is
/// rung after that arrives after its bytes. An engine has one user; put it behind a lock to
/// share it.
pub trait DmaEngine: fmt::Debug + Send {
    /// Memory that the engine can read and write.
    ///
    /// # Errors
    /// When there is none.
    fn allocate(&self, bytes: u64) -> Result<DmaMemory, DmaError>;

    /// Queues a copy, which begins at the next [`start`](Self::start) at the latest. `done` is called by a later
    /// [`poll`](Self::poll).
    ///
    /// # Errors
    /// [`DmaError::Full`] when too many are under way: poll first. [`DmaError::Range`] and [`DmaError::Unreachable`] for a
    /// copy that cannot be; nothing was queued.
    fn queue(&mut self, copy: DmaCopy, done: Option<DmaDone>) -> Result<(), DmaError>;

    /// Begins all that is queued: one register write, however many those are. [`poll`](Self::poll) does it too.
    ///
    /// # Errors
    /// [`DmaError`] when the engine is gone.
    fn start(&mut self) -> Result<(), DmaError>;

    /// Queues a copy and starts it.
    ///
    /// # Errors
    /// As [`queue`](Self::queue) and [`start`](Self::start).
    fn copy(&mut self, copy: DmaCopy, done: Option<DmaDone>) -> Result<(), DmaError> {
        self.queue(copy, done)?;
        self.start()
    }

    /// Copies that are queued from now on begin when all before them have ended.
    fn fence(&mut self);

    /// Calls `done` of every copy that has ended, and says how many those are; never waits.
    ///
    /// # Errors
    /// [`DmaError`] when the engine has failed, or a copy that nobody hears of by `done`; every copy under way was told,
    /// and it has begun anew.
    fn poll(&mut self) -> Result<usize, DmaError>;

    /// How many copies are under way.
    fn pending(&self) -> usize;

    /// Polls until no copy is under way, or the time is over. Returns how many ended.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    fn finish(&mut self, timeout: Duration) -> Result<usize, DmaError>;
}

/// Why a copy, or an engine, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// Another device.
    #[error("{vendor:04x}:{device:04x} is no DMA engine that this driver knows: it drives 8086:2021 alone")]
    NotAnEngine {
        /// PCI vendor.
        vendor: u16,
        /// PCI device.
        device: u16,
    },
    /// The engine has registers that cannot be.
    #[error("the engine's {register} is {value:#x}: that cannot be")]
    Registers {
        /// Which.
        register: &'static str,
        /// What it read.
        value: u64,
    },
    /// The engine does not do what it is told.
    #[error("the engine does not become quiet: reset its host")]
    NotQuiet,
    /// Too much is under way.
    #[error("too many copies are under way: poll, and try again")]
    Full,
    /// It leaves its memory or window.
    #[error("{bytes} bytes at {at:#x} leave the memory")]
    Range {
        /// First byte.
        at: usize,
        /// How many.
        bytes: usize,
    },
    /// This engine cannot reach it.
    #[error("this engine cannot reach that target")]
    Unreachable,
    /// The engine stopped at an error: of an address, usually.
    #[error("the engine halted with CHANERR {channel_error:#x} (0x100 source, 0x200 destination)")]
    Halted {
        /// The register.
        channel_error: u32,
    },
    /// A completion that was never issued.
    #[error("the engine says that {completion:#x} has completed, which was never issued")]
    Completion {
        /// What it wrote.
        completion: u64,
    },
    /// The window is closed, or its link has been down.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// Below.
    #[error("{0}")]
    Function(String),
}

impl From<FunctionError> for DmaError {
    fn from(error: FunctionError) -> Self {
        Self::Function(error.to_string())
    }
}

impl From<BridgeError> for DmaError {
    fn from(error: BridgeError) -> Self {
        Self::Function(error.to_string())
    }
}

/// Whether a copy stays in its memory.
fn check(copy: &DmaCopy) -> Result<(), DmaError> {
    let within = |at: usize, room: usize| {
        let range = DmaError::Range { at, bytes: copy.bytes };
        at.checked_add(copy.bytes).filter(|&end| end <= room).map(|_| ()).ok_or(range)
    };
    within(copy.from_at, copy.from.bytes())?;
    match &copy.to {
        DmaTarget::Window(outbound) if !outbound.is_current() => Err(WindowError::Closed.into()),
        DmaTarget::Window(outbound) => within(copy.to_at, outbound.bytes()),
        DmaTarget::Memory(memory) => within(copy.to_at, memory.bytes()),
        DmaTarget::Address(_) => Ok(()),
    }
}
