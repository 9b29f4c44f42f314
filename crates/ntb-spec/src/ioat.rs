//! The I/OAT DMA engine (8086:2021, "CBDMA" of a Skylake Xeon): registers, descriptors, configuration space.
//!
//! ```text
//!   BAR 0   0x000  GLOBAL    what the engine is, interrupt control
//!           0x080  CHANNEL   channel 0        CHAINADDR ─▶ descriptor ─▶ next ─▶ next ─▶ ...   (a ring, in Linux)
//!           0x100  CHANNEL   channel 1        DMACOUNT     how many of them are posted since CHAINADDR
//!            ...                              CHANCMP   ◀─ address of the last one that completed, and the state
//! ```
//!
//! There is no public document of this generation. Every row says which driver it was read from: Linux
//! `drivers/dma/ioat/{init,dma,prep}.c`, its `registers.h` and `hw.h`. Where no driver tells, the row says "chosen".

use crate::table::{Access, Hit, Miss, Row, find, is_well_formed};

pub mod config;
mod descriptor;
mod meaning;

pub use descriptor::{Control, DESCRIPTOR_BYTES, Descriptor, OPERATION_COPY};
pub use meaning::Meaning;

/// Size of BAR 0 in bytes.
pub const BYTES: u32 = 0x4000;
/// Channels of an engine (Linux `IOAT_MAX_CHANS` is the most that a driver takes).
pub const CHANNELS: usize = 4;
/// MSI-X vectors: channel n has vector n. Linux insists on as many as there are channels
/// (`ioat_dma_setup_interrupts`, `pci_enable_msix_exact`).
pub const MSIX_VECTORS: u16 = 4;
/// Where the MSI-X table lies in BAR 0 (chosen).
pub const MSIX_TABLE: u32 = 0x2000;
/// Where the MSI-X pending bits lie in BAR 0 (chosen).
pub const MSIX_PBA: u32 = 0x3000;
/// Distance of the channels' blocks, and offset of the first (Linux `ioat_init_channel`).
pub const CHANNEL_BYTES: u32 = 0x80;
/// log2 of the most bytes that one descriptor may copy: XFERCAP.
pub const XFER_CAP_LOG2: u8 = 20;
/// The most bytes that one descriptor may copy.
pub const XFER_CAP: u32 = 1 << XFER_CAP_LOG2;

/// Registers of the whole engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Global {
    /// How many channels.
    ChannelCount,
    /// log2 of the most bytes of a descriptor.
    XferCap,
    /// General control.
    GeneralControl,
    /// Interrupt control.
    InterruptControl,
    /// Which channels want attention.
    AttentionStatus,
    /// Version of the interface.
    Version,
    /// Offset of per-port registers.
    PerPortOffset,
    /// Interrupt coalescing.
    InterruptDelay,
    /// State of the device.
    DeviceStatus,
    /// What it can do besides copying.
    Capabilities,
    /// Offset of the DCA registers.
    DcaOffset,
}

/// Registers of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Channel control.
    Control,
    /// Which interfaces the channel is compatible with.
    Compatibility,
    /// Orders: suspend, resume, reset.
    Command,
    /// Descriptors posted since CHAINADDR, modulo 65536.
    Count,
    /// State, and the last descriptor that completed.
    Status,
    /// Address of the first descriptor.
    ChainAddress,
    /// Where completions are written to.
    CompletionAddress,
    /// Descriptor in hand.
    CurrentDescriptor,
    /// Errors.
    Error,
    /// Errors that raise no interrupt.
    ErrorMask,
    /// Direct cache access.
    DcaControl,
}

/// INTRCTRL bit 0: interrupts are on (Linux `IOAT_INTRCTRL_MASTER_INT_EN`).
pub const INTERRUPT_MASTER: u64 = 1 << 0;
/// INTRCTRL bit 1: a channel wants attention (Linux `IOAT_INTRCTRL_INT_STATUS`).
pub const INTERRUPT_STATUS: u64 = 1 << 1;
/// INTRCTRL bit 2: both of them (Linux `IOAT_INTRCTRL_INT`).
pub const INTERRUPT: u64 = 1 << 2;

/// CHANCTRL bit 0: written as 1 it re-arms the interrupt; it reads 1 from an interrupt until then (Linux
/// `IOAT_CHANCTRL_INT_REARM`).
pub const CONTROL_REARM: u64 = 1 << 0;
/// CHANCTRL bit 2: an error is written to CHANCMP (Linux `IOAT_CHANCTRL_ERR_COMPLETION_EN`).
pub const CONTROL_ERROR_COMPLETION: u64 = 1 << 2;
/// CHANCTRL bit 4: an error raises an interrupt (Linux `IOAT_CHANCTRL_ERR_INT_EN`).
pub const CONTROL_ERROR_INTERRUPT: u64 = 1 << 4;
/// What Linux writes to CHANCTRL (`IOAT_CHANCTRL_RUN`).
pub const CONTROL_RUN: u16 = 0x1D;

/// CHANCMD bit 2 (Linux `IOAT_CHANCMD_SUSPEND`).
pub const COMMAND_SUSPEND: u8 = 1 << 2;
/// CHANCMD bit 4 (Linux `IOAT_CHANCMD_RESUME`).
pub const COMMAND_RESUME: u8 = 1 << 4;
/// CHANCMD bit 5; reads 1 until the channel is quiet (Linux `IOAT_CHANCMD_RESET`, `ioat_reset_pending`).
pub const COMMAND_RESET: u8 = 1 << 5;

/// CHANSTS bits 2:0 (Linux `IOAT_CHANSTS_STATUS`).
pub const STATUS_STATE: u64 = 0x7;
/// CHANSTS bits 63:6: address of the last descriptor that completed (Linux
/// `IOAT_CHANSTS_COMPLETED_DESCRIPTOR_ADDR`).
pub const STATUS_COMPLETED: u64 = !0x3F;

/// CHANSTS bits 2:0: what a channel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It works, or something of it is still under way.
    Active = 0,
    /// All that was posted is done.
    Done = 1,
    /// Stopped between two pieces of work, by an order.
    Suspended = 2,
    /// Reset, or stopped by an error.
    Halted = 3,
}

impl State {
    /// The state that CHANSTS, or a completion in memory, tells.
    #[must_use]
    pub const fn of(status: u64) -> Option<Self> {
        match status & STATUS_STATE {
            0 => Some(Self::Active),
            1 => Some(Self::Done),
            2 => Some(Self::Suspended),
            3 => Some(Self::Halted),
            _ => None,
        }
    }
}

/// CHANERR bits that the twin sets, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Error {
    /// The address of the next descriptor is no multiple of 64 (Linux `IOAT_CHANERR_NEXT_DESC_ALIGN_ERR`).
    NextDescriptorAlignment = 3,
    /// CHAINADDR is no multiple of 64 (Linux `IOAT_CHANERR_CHAIN_ADDR_VALUE_ERR`).
    ChainAddressValue = 4,
    /// A source or a descriptor cannot be read (Linux `IOAT_CHANERR_READ_DATA_ERR`).
    ReadData = 8,
    /// A destination cannot be written (Linux `IOAT_CHANERR_WRITE_DATA_ERR`).
    WriteData = 9,
    /// A descriptor asks for an operation that the engine does not have (Linux `IOAT_CHANERR_CONTROL_ERR`).
    Control = 10,
    /// A descriptor's size is 0 or above XFERCAP (Linux `IOAT_CHANERR_LENGTH_ERR`).
    Length = 11,
    /// CHANCMP cannot be written (Linux `IOAT_CHANERR_COMPLETION_ADDR_ERR`).
    CompletionAddress = 12,
}

impl Error {
    /// Its bit.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }
}

const ALL: u64 = u64::MAX;
/// Every bit of CHANERR that Linux has a name for (`chanerr_str`).
const ERRORS: u64 = 0x0FFF_FFFF;

#[rustfmt::skip] // a table reads by columns
macro_rules! row {
    ($at:literal, $bytes:literal, $reg:expr, $name:literal, $access:ident, $mask:expr, $reset:expr, $doc:literal, $source:literal) => {
        Row { at: $at, bytes: $bytes, count: 1, reg: $reg, name: $name, access: Access::$access, mask: $mask, reset: $reset, doc: $doc, source: $source }
    };
}

/// The registers of the whole engine.
#[rustfmt::skip] // a table reads by columns
pub static GLOBAL: &[Row<Global>] = &[
    row!(0x00, 1, Global::ChannelCount,     "CHANCNT",       ReadOnly,  0,      CHANNELS as u64,      "bits 4:0 number of channels", "Linux ioat_enumerate_channels"),
    row!(0x01, 1, Global::XferCap,          "XFERCAP",       ReadOnly,  0,      XFER_CAP_LOG2 as u64, "bits 4:0 log2 of the most bytes that a descriptor may copy", "Linux ioat_enumerate_channels"),
    row!(0x02, 1, Global::GeneralControl,   "GENCTRL",       ReadOnly,  0,      0,                    "general control: nothing to control", "Linux IOAT_GENCTRL_OFFSET"),
    row!(0x03, 1, Global::InterruptControl, "INTRCTRL",      ReadWrite, 0x09,   0,                    "bit 0 interrupts on, bit 1 a channel wants attention, bit 2 both, bit 3 a vector for each channel; reading changes nothing", "Linux ioat_dma_setup_interrupts, ioat_dma_do_interrupt"),
    row!(0x04, 4, Global::AttentionStatus,  "ATTNSTATUS",    ReadOnly,  0,      0,                    "bit n: channel n raised an interrupt that is not re-armed, or would raise one", "Linux ioat_dma_do_interrupt"),
    row!(0x08, 1, Global::Version,          "VER",           ReadOnly,  0,      0x32,                 "version 3.2", "Linux ioat_pci_probe"),
    row!(0x0A, 2, Global::PerPortOffset,    "PERPORTOFFSET", ReadOnly,  0,      0,                    "no registers per port", "Linux IOAT_PERPORTOFFSET_OFFSET"),
    row!(0x0C, 2, Global::InterruptDelay,   "INTRDELAY",     ReadWrite, 0x3FFF, 0,                    "microseconds of interrupt coalescing: storage; bit 15 is 0, there is none", "Linux __ioat_cleanup, IOAT_INTRDELAY_MASK"),
    row!(0x0E, 2, Global::DeviceStatus,     "DEVICE_STATUS", ReadOnly,  0,      0,                    "not degraded, not restricted", "Linux IOAT_DEVICE_STATUS_OFFSET"),
    row!(0x10, 4, Global::Capabilities,     "DMACAP",        ReadOnly,  0,      0,                    "copies and null descriptors alone", "Linux ioat3_dma_probe"),
    row!(0x14, 2, Global::DcaOffset,        "DCAOFFSET",     ReadOnly,  0,      0,                    "no direct cache access", "Linux ioat_dca_init"),
];

/// The registers of one channel, from the start of its block.
#[rustfmt::skip] // a table reads by columns
pub static CHANNEL: &[Row<Channel>] = &[
    row!(0x00, 2, Channel::Control,           "CHANCTRL",     ReadWrite,       0xF33C,      0,                     "bit 0 re-arms the interrupt and reads 1 until re-armed, bit 2 completion and bit 4 interrupt on an error; the rest is storage", "Linux ioat_alloc_chan_resources, ioat_cleanup_event"),
    row!(0x02, 2, Channel::Compatibility,     "DMA_COMP",     ReadOnly,        0,           0x2,                   "compatible with version 2", "Linux IOAT_DMA_COMP_V2; value chosen"),
    row!(0x04, 1, Channel::Command,           "CHANCMD",      Strobe,          0x34,        0,                     "bit 2 suspend, bit 4 resume, bit 5 reset, which reads 1 until the channel is quiet", "Linux ioat_suspend, ioat_reset_pending"),
    row!(0x06, 2, Channel::Count,             "DMACOUNT",     ReadWrite,       0xFFFF,      0,                     "descriptors posted since CHAINADDR, modulo 65536; a write starts them", "Linux __ioat_issue_pending"),
    row!(0x08, 8, Channel::Status,            "CHANSTS",      ReadOnly,        0,           State::Halted as u64,  "bits 63:6 last descriptor completed since CHAINADDR, 0 if none; bits 2:0 0 active, 1 done, 2 suspended, 3 halted", "Linux ioat_chansts, ioat_quiesce"),
    row!(0x10, 8, Channel::ChainAddress,      "CHAINADDR",    ReadWrite,       ALL,         0,                     "address of the first descriptor; a write of either half begins a chain: nothing posted, nothing completed, not suspended", "Linux ioat_set_chainaddr, __ioat_restart_chan"),
    row!(0x18, 8, Channel::CompletionAddress, "CHANCMP",      ReadWrite,       !0x7,        0,                     "where completions are written to, 8 bytes as in CHANSTS", "Linux ioat_alloc_chan_resources, ioat_get_current_completion"),
    row!(0x20, 8, Channel::CurrentDescriptor, "CDAR",         ReadOnly,        0,           0,                     "descriptor in hand, or the next one", "Linux IOAT_CDAR_OFFSET"),
    row!(0x28, 4, Channel::Error,             "CHANERR",      WriteOneToClear, ERRORS,      0,                     "why the channel halted: one bit at most; it starts again when this is 0", "Linux ioat_eh, ioat_reset_hw"),
    row!(0x2C, 4, Channel::ErrorMask,         "CHANERR_MASK", ReadWrite,       ERRORS,      0,                     "errors that raise no interrupt", "Linux ioat_intr_quirk"),
    row!(0x30, 4, Channel::DcaControl,        "DCACTRL",      ReadWrite,       0xFFFF_FFFF, 0,                     "direct cache access: storage", "Linux ioat3_dma_probe"),
];

const _: () = assert!(is_well_formed(GLOBAL, CHANNEL_BYTES));
const _: () = assert!(is_well_formed(CHANNEL, CHANNEL_BYTES));
const _: () = assert!(CHANNELS == MSIX_VECTORS as usize);
const _: () = assert!(CHANNEL_BYTES * (MSIX_VECTORS as u32 + 1) <= MSIX_TABLE && MSIX_PBA < BYTES);

/// Where an access to BAR 0 landed.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// A register of the whole engine.
    Global(Hit<Global>),
    /// A register of a channel: its number, below [`CHANNELS`], and the register.
    Channel(u8, Hit<Channel>),
}

/// The register that an access to BAR 0 means.
///
/// # Errors
/// [`Miss`] where there is none of that width.
pub fn lookup(offset: u32, bytes: usize) -> Result<Place, Miss> {
    let within = offset % CHANNEL_BYTES;
    match u8::try_from(offset / CHANNEL_BYTES) {
        Ok(0) => find(GLOBAL, within, bytes).map(Place::Global),
        Ok(block) if usize::from(block) <= CHANNELS => {
            find(CHANNEL, within, bytes).map(|hit| Place::Channel(block - 1, hit))
        }
        _ => Err(Miss::NoRegister),
    }
}

/// Offset of a register of the whole engine, at compile time.
#[must_use]
pub const fn global_offset(reg: Global) -> u32 {
    let mut at = 0;
    while at < GLOBAL.len() {
        if GLOBAL[at].reg as u8 == reg as u8 {
            return GLOBAL[at].at;
        }
        at += 1;
    }
    panic!("every register has a row")
}

/// Offset of a register in its channel's block, at compile time.
#[must_use]
pub const fn channel_offset(reg: Channel) -> u32 {
    let mut at = 0;
    while at < CHANNEL.len() {
        if CHANNEL[at].reg as u8 == reg as u8 {
            return CHANNEL[at].at;
        }
        at += 1;
    }
    panic!("every register has a row")
}

/// Offset of a channel's block in BAR 0.
#[must_use]
pub const fn block(channel: u8) -> u32 {
    CHANNEL_BYTES * (channel as u32 + 1)
}
