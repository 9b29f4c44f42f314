//! PCI configuration space of the I/OAT function: 4096 bytes, in the layout that every [`function`](crate::function) has.

use super::{MSIX_PBA, MSIX_TABLE, MSIX_VECTORS};
pub use crate::function::*;
use crate::function::{function_table, row};
use crate::table::{Row, covering, is_well_formed};

/// "CBDMA" of a Skylake Xeon.
pub const DEVICE: u16 = 0x2021;
/// Class code bytes, low byte first: interface, subclass (other), base class (system peripheral).
pub const CLASS: [u8; 3] = [0x00, 0x80, 0x08];
/// Low bits of the BAR: 64-bit memory, not prefetchable.
pub const BAR_TYPE: u32 = 0x4;
/// Offset of CHANERR_INT.
pub const CHANERR_INT: u32 = 0x180;

/// Every register of configuration space, in the order of its offsets.
#[rustfmt::skip] // a table reads by columns
pub static TABLE: &[Row<Reg>] = function_table! {
    device: DEVICE, "I/OAT DMA engine, Skylake Xeon", "Linux PCI_DEVICE_ID_INTEL_IOAT_SKX";
    class: "0x088000, other system peripheral: bytes 00 80 08", "chosen, as real devices show";
    bars: "BAR 0 registers: 64-bit";
    pin: "none: every channel has an MSI-X vector";
    msix: MSIX_VECTORS, MSIX_TABLE, MSIX_PBA;
    own: [];
    extended: [
        row!(0x180, 4 x 1, Plain,         "CHANERR_INT",    WriteOneToClear, 0x0FFF_FFFF, 0,                       "errors of all channels since they were cleared here", "Linux ioat_reset_hw, ioat_eh"),
        row!(0x184, 4 x 1, Plain,         "CHANERRMSK_INT", ReadWrite,       0x0FFF_FFFF, 0,                       "storage", "Linux IOAT_PCI_CHANERRMASK_INT_OFFSET"),
    ];
};

const _: () = assert!(is_well_formed(TABLE, BYTES));

/// The row that covers a byte, if any.
#[must_use]
pub fn row_at(offset: u32) -> Option<&'static Row<Reg>> {
    covering(TABLE, offset)
}
