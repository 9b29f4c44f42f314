//! PCI configuration space of the NTB function: 4096 bytes.
//!
//! The header and the capabilities that every [`function`](crate::function) has, and the device's own bytes at 0xD0 to 0xD4 and
//! 0x1A2. Unlike BAR 0 this space may be accessed in any width at any offset: bytes that no row covers read 0 and
//! ignore writes.

use crate::bar0::{MSIX_PBA, MSIX_TABLE};
pub use crate::function::*;
use crate::function::{function_table, row};
use crate::table::{Row, covering, is_well_formed};
use crate::{MSIX_VECTORS, bits};

/// "NTB_B2B_SKX": the back-to-back NTB of a Skylake Xeon.
pub const DEVICE: u16 = 0x201C;
/// Class code bytes, low byte first: interface, subclass (other), base class (bridge).
pub const CLASS: [u8; 3] = [0x00, 0x80, 0x06];
/// Low bits of a BAR dword: 64-bit, prefetchable memory.
pub const BAR_TYPE: u32 = 0xC;

/// Offset of the four size bytes: IMBAR1SZ, IMBAR2SZ, EMBAR1SZ, EMBAR2SZ.
pub const WINDOW_SIZES: u32 = 0xD0;
/// Offset of PPD.
pub const PPD: u32 = 0xD4;
/// Offset of LINK_STATUS.
pub const LINK_STATUS: u32 = 0x1A2;

/// Every register of configuration space, in the order of its offsets.
#[rustfmt::skip] // a table reads by columns
pub static TABLE: &[Row<Reg>] = function_table! {
    device: DEVICE, "NTB back to back, Skylake Xeon", "Linux PCI_DEVICE_ID_INTEL_NTB_B2B_SKX";
    class: "0x068000, other bridge: bytes 00 80 06", "chosen, as real devices show";
    bars: "BAR 0 registers, BAR 2 window 0, BAR 4 window 1; each 64-bit and prefetchable";
    pin: "none: INTx would make QEMU trap every mapped window";
    msix: MSIX_VECTORS, MSIX_TABLE, MSIX_PBA;
    own: [
        row!(0x0D0, 1 x 4, WindowSizes,   "BARSZ",          ReadOnly,        0,           0,                       "IMBAR1SZ, IMBAR2SZ, EMBAR1SZ, EMBAR2SZ: log2 of bytes", "FreeBSD XEON_GEN3; DPDK XEON_IMBAR1SZ_OFFSET"),
        row!(0x0D4, 1 x 1, Ppd,           "PPD",            ReadOnly,        0,           bits::Ppd::USD.into_bits() as u64, "0x01 upstream, 0x11 downstream, back to back", "Linux gen3_init_dev, xeon_ppd_topo"),
    ];
    extended: [
        row!(0x1A0, 2 x 1, Plain,         "LINK_CONTROL",   ReadWrite,       0x0FEB,      0,                       "link control of the NTB link: storage", "Linux GEN3_LINK_STATUS_OFFSET is two above"),
        row!(0x1A2, 2 x 1, LinkStatus,    "LINK_STATUS",    ReadOnly,        0,           bits::LinkStatus::DOWN.into_bits() as u64, "bits 3:0 speed, 9:4 width, bit 13 active", "Linux GEN3_LINK_STATUS_OFFSET, gen3_poll_link"),
    ];
};

const _: () = assert!(is_well_formed(TABLE, BYTES));

/// The row that covers a byte, if any.
#[must_use]
pub fn row_at(offset: u32) -> Option<&'static Row<Reg>> {
    covering(TABLE, offset)
}
