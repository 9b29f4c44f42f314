//! BAR 0: the registers that a driver works with.
//!
//! "IM" is this side's internal (own) set, "EM" the external one. In a back-to-back link the doorbell array rings the
//! *peer*, and the array at 0x180 is the *peer's* scratchpads.

use crate::table::{Access, Hit, Miss, Row, find, is_well_formed};

/// Size of BAR 0 in bytes (DPDK `ntb.rst`: 64 KiB, 64-bit, prefetchable).
pub const BYTES: u32 = 0x1_0000;
/// Where the MSI-X table lies in BAR 0 (chosen: free in every driver's view).
pub const MSIX_TABLE: u32 = 0x2000;
/// Where the MSI-X pending bits lie in BAR 0 (chosen).
pub const MSIX_PBA: u32 = 0x3000;

/// The registers of BAR 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reg {
    /// NTB control.
    Control,
    /// Own translation of window 0: where the peer's BAR 2 lands in my memory.
    ImBar1Xbase,
    /// Limit that belongs to it.
    ImBar1Xlmt,
    /// Own translation of window 1.
    ImBar2Xbase,
    /// Limit that belongs to it.
    ImBar2Xlmt,
    /// Doorbell and link status.
    IntStatus,
    /// Doorbell and link mask.
    IntDisable,
    /// Accesses of the peer that missed my windows.
    UsMemMiss,
    /// Own scratchpads.
    Spad,
    /// Vector of each interrupt source.
    IntVec,
    /// Rings the peer.
    Doorbell,
    /// The peer's scratchpads.
    PeerSpad,
    /// External translation of BAR 0.
    EmBar0Xbase,
    /// External translation of window 0.
    EmBar1Xbase,
    /// External limit of window 0: opens the window.
    EmBar1Xlmt,
    /// External translation of window 1.
    EmBar2Xbase,
    /// External limit of window 1.
    EmBar2Xlmt,
    /// External doorbell status.
    EmIntStatus,
    /// External doorbell mask.
    EmIntDisable,
    /// External scratchpads.
    EmSpad,
    /// External doorbell.
    EmDoorbell,
    /// External command register.
    SpciCmd,
    /// External BAR 0.
    EmBar0,
    /// External BAR 1: base of window 0.
    EmBar1,
    /// External BAR 2: base of window 1.
    EmBar2,
}

const ALL: u64 = u64::MAX;
/// Translations have pages.
const PAGE: u64 = !0xFFF;

#[rustfmt::skip] // a table reads by columns
macro_rules! row {
    ($at:literal, $bytes:literal x $count:literal, $reg:ident, $name:literal, $access:ident, $mask:expr, $reset:expr, $doc:literal, $source:literal) => {
        Row { at: $at, bytes: $bytes, count: $count, reg: Reg::$reg, name: $name, access: Access::$access, mask: $mask, reset: $reset, doc: $doc, source: $source }
    };
}

/// Every register of BAR 0, in the order of its offsets.
#[rustfmt::skip] // a table reads by columns
pub static TABLE: &[Row<Reg>] = &[
    row!(0x0000, 4 x 1,  Control,      "NTBCNTL",      ReadWrite,       0x0000_F3FF,      0x3,                    "bit 0 configuration lock, bit 1 link disable, then snoop controls; link enable clears 0x3 and sets 0x154", "Linux gen3_ntb_link_enable, intel_ntb_link_disable; reset value chosen"),
    row!(0x0010, 8 x 1,  ImBar1Xbase,  "IMBAR1XBASE",  ReadWrite,       PAGE,             0,                      "incoming translation of window 0: the peer's BAR 2 lands at this address of mine", "Linux intel_ntb3_mw_set_trans"),
    row!(0x0018, 8 x 1,  ImBar1Xlmt,   "IMBAR1XLMT",   ReadWrite,       ALL,              0,                      "limit of window 0: own BAR 2 address plus size; must read back", "Linux intel_ntb3_mw_set_trans"),
    row!(0x0020, 8 x 1,  ImBar2Xbase,  "IMBAR2XBASE",  ReadWrite,       PAGE,             0,                      "incoming translation of window 1: the peer's BAR 4", "Linux intel_ntb3_mw_set_trans"),
    row!(0x0028, 8 x 1,  ImBar2Xlmt,   "IMBAR2XLMT",   ReadWrite,       ALL,              0,                      "limit of window 1: own BAR 4 address plus size", "Linux intel_ntb3_mw_set_trans"),
    row!(0x0040, 8 x 1,  IntStatus,    "IM_INT_STATUS",WriteOneToClear, 0x1_FFFF_FFFF,    0,                      "bit n is doorbell n, bit 32 is a link change", "Linux ndev_db_read, gen3_poll_link"),
    row!(0x0048, 8 x 1,  IntDisable,   "IM_INT_DISABLE",ReadWrite,      0x1_FFFF_FFFF,    0x1_FFFF_FFFF,          "1 masks the source; unmasking a pending source raises its vector", "Linux ndev_db_set_mask; reset value chosen"),
    row!(0x0070, 2 x 1,  UsMemMiss,    "USMEMMISS",    ReadOnly,        0,                0,                      "accesses of the peer that missed my windows; rolls over", "Linux ndev_ntb3_debugfs_read"),
    row!(0x0080, 4 x 16, Spad,         "IM_SPAD",      ReadWrite,       0xFFFF_FFFF,      0,                      "own scratchpads; what the peer writes lands here", "Linux intel_ntb_spad_read"),
    row!(0x00D0, 1 x 33, IntVec,       "INTVEC",       ReadWrite,       0xFF,             0,                      "MSI-X vector of interrupt source i; after reset doorbell n has n + 1 and the link has 0", "Linux ndev_init_isr; FreeBSD XEON_GEN3_REG_IMINTVEC00"),
    row!(0x0100, 4 x 32, Doorbell,     "IM_DOORBELL",  Strobe,          0x1,              0,                      "writing 1 rings the peer's doorbell n", "Linux intel_ntb3_peer_db_set, intel_ntb3_peer_db_addr"),
    row!(0x0180, 4 x 16, PeerSpad,     "B2B_SPAD",     Peer,            0xFFFF_FFFF,      0,                      "the peer's scratchpads, live; all ones while the link is down", "Linux intel_ntb_peer_spad_read, ntb_perf perf_spad_cmd_send"),
    row!(0x4008, 8 x 1,  EmBar0Xbase,  "EMBAR0XBASE",  ReadWrite,       PAGE,             0,                      "external translation of BAR 0", "Linux GEN3_EMBAR0XBASE_OFFSET"),
    row!(0x4010, 8 x 1,  EmBar1Xbase,  "EMBAR1XBASE",  ReadWrite,       PAGE,             0x2000_0000_0000_0000,  "outgoing back-to-back translation of window 0; fixed by firmware, not used by the twin", "Linux ndev_ntb3_debugfs_read, XEON_B2B_BAR2_ADDR64"),
    row!(0x4018, 8 x 1,  EmBar1Xlmt,   "EMBAR1XLMT",   ReadWrite,       ALL,              0,                      "external limit of window 0; less EMBAR1 it is the number of bytes that are open", "Linux intel_ntb3_mw_set_trans"),
    row!(0x4020, 8 x 1,  EmBar2Xbase,  "EMBAR2XBASE",  ReadWrite,       PAGE,             0x4000_0000_0000_0000,  "outgoing back-to-back translation of window 1", "Linux ndev_ntb3_debugfs_read, XEON_B2B_BAR4_ADDR64"),
    row!(0x4028, 8 x 1,  EmBar2Xlmt,   "EMBAR2XLMT",   ReadWrite,       ALL,              0,                      "external limit of window 1", "Linux intel_ntb3_mw_set_trans"),
    row!(0x4040, 8 x 1,  EmIntStatus,  "EM_INT_STATUS",WriteOneToClear, 0x1_FFFF_FFFF,    0,                      "external doorbell status; nothing sets it in a back-to-back link", "Linux GEN3_EM_INT_STATUS_OFFSET"),
    row!(0x4048, 8 x 1,  EmIntDisable, "EM_INT_DISABLE",ReadWrite,      0x1_FFFF_FFFF,    0x1_FFFF_FFFF,          "external doorbell mask", "Linux GEN3_EM_INT_DISABLE_OFFSET; reset value chosen"),
    row!(0x4080, 4 x 16, EmSpad,       "EM_SPAD",      ReadWrite,       0xFFFF_FFFF,      0,                      "external scratchpads: storage that no driver uses on Gen3", "Linux GEN3_EM_SPAD_OFFSET"),
    row!(0x4100, 8 x 1,  EmDoorbell,   "EM_DOORBELL",  ReadOnly,        0,                0,                      "external doorbell", "Linux ndev_ntb3_debugfs_read"),
    row!(0x4504, 2 x 1,  SpciCmd,      "SPCICMD",      ReadWrite,       0x0547,           0,                      "external command register; drivers write memory enable and bus master", "Linux xeon_gen3_setup_b2b_mw"),
    row!(0x4510, 8 x 1,  EmBar0,       "EMBAR0",       ReadWrite,       PAGE,             0xC,                    "external BAR 0", "Linux ndev_ntb3_debugfs_read"),
    row!(0x4518, 8 x 1,  EmBar1,       "EMBAR1",       ReadWrite,       PAGE,             0x2000_0000_0000_000C,  "external BAR of window 0; drivers mask the low nibble", "Linux intel_ntb3_mw_set_trans"),
    row!(0x4520, 8 x 1,  EmBar2,       "EMBAR2",       ReadWrite,       PAGE,             0x4000_0000_0000_000C,  "external BAR of window 1", "Linux intel_ntb3_mw_set_trans"),
];

const _: () = assert!(is_well_formed(TABLE, BYTES));

/// The register that an access means.
///
/// # Errors
/// [`Miss`] where there is none of that width.
pub fn lookup(offset: u32, bytes: usize) -> Result<Hit<Reg>, Miss> {
    find(TABLE, offset, bytes)
}

/// Offset of a register's element, at compile time: what drivers and the model use. A register without a row, which
/// no constant can name, stops the build.
#[must_use]
pub const fn offset_of(reg: Reg, index: u8) -> u32 {
    let mut at = 0;
    while at < TABLE.len() {
        if TABLE[at].reg as u8 == reg as u8 {
            return TABLE[at].offset_of(index);
        }
        at += 1;
    }
    panic!("every register has a row")
}

/// Vector of an interrupt source after reset: doorbell n has n + 1, the link has 0 (FreeBSD
/// `intel_ntb_init_isr`, which relies on it).
#[must_use]
pub const fn reset_vector(source: u8) -> u8 {
    if source == crate::LINK_SOURCE { 0 } else { source + 1 }
}
