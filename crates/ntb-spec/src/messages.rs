//! Message registers: an extension of this twin, **not hardware**. No Gen3 device has them.
//!
//! Other bridges do (IDT has four each way, Linux `ntb_hw_idt.c`), and clients of the Linux API use them where they are. The block
//! lies at 0x8000 of BAR 0, where Gen3 has nothing, and is there only if the twin was started with it (`--messages`); otherwise these
//! offsets hit no register.
//!
//! A message is 32 bits. It goes from an outbound register to the peer's inbound register of the same number, and lies there until
//! the peer clears its *arrived* bit; the next one goes only then. A message that cannot go, since the last one lies there
//! or the link is down, is dropped and sets *refused*. A link that goes down takes what lies in both directions along.

use crate::table::{Access, Hit, Miss, Row, find, is_well_formed};

/// Where the block begins in BAR 0.
pub const BASE: u32 = 0x8000;
/// Registers in each direction.
pub const REGISTERS: usize = 4;
/// Upper half of `MSG_CAP`: "MS".
pub const SIGNATURE: u32 = 0x4D53;
/// `MSG_CAP` of a twin that has the block: signature, number of registers.
pub const CAPABILITY: u32 = SIGNATURE << 16 | 4;
/// The vector that is raised after reset: the one that doorbells and link leave free in Linux's set-up.
pub const RESET_VECTOR: u8 = 32;
/// `MSG_STATUS` bits of messages that have arrived: bit n for register n.
pub const ARRIVED: u32 = 0xF;
/// `MSG_STATUS` bit of outbound register 0 that the peer has taken its message: there is room again.
pub const TAKEN_SHIFT: u32 = 8;
/// `MSG_STATUS` bit of outbound register 0 that its message was refused.
pub const REFUSED_SHIFT: u32 = 16;
/// Every bit of `MSG_STATUS`.
pub const ALL: u32 = ARRIVED | ARRIVED << TAKEN_SHIFT | ARRIVED << REFUSED_SHIFT;

/// The registers of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reg {
    /// Says that the block is there.
    Capability,
    /// MSI-X vector of all its events.
    Vector,
    /// What has happened.
    Status,
    /// What raises no vector.
    Mask,
    /// Messages from the peer.
    Inbound,
    /// Messages to the peer.
    Outbound,
}

#[rustfmt::skip] // a table reads by columns
macro_rules! row {
    ($at:literal, $bytes:literal x $count:literal, $reg:ident, $name:literal, $access:ident, $mask:expr, $reset:expr, $doc:literal) => {
        Row { at: $at, bytes: $bytes, count: $count, reg: Reg::$reg, name: $name, access: Access::$access, mask: $mask, reset: $reset, doc: $doc, source: "chosen" }
    };
}

/// Every register of the block, in the order of its offsets in BAR 0.
#[rustfmt::skip] // a table reads by columns
pub static TABLE: &[Row<Reg>] = &[
    row!(0x8000, 4 x 1, Capability, "MSG_CAP",    ReadOnly,        0,                    CAPABILITY as u64,   "bits 31:16 \"MS\", bits 7:0 registers in each direction"),
    row!(0x8004, 1 x 1, Vector,     "MSG_VECTOR", ReadWrite,       0xFF,                 RESET_VECTOR as u64, "MSI-X vector of all events of this block"),
    row!(0x8008, 4 x 1, Status,     "MSG_STATUS", WriteOneToClear, ALL as u64,           0,                   "bit n: a message lies in MSG_IN n, clearing it takes it; bit 8 + n: the peer has taken that of MSG_OUT n; bit 16 + n: MSG_OUT n was refused"),
    row!(0x800C, 4 x 1, Mask,       "MSG_MASK",   ReadWrite,       ALL as u64,           ALL as u64,          "1 masks that bit of MSG_STATUS; unmasking a pending one raises the vector"),
    row!(0x8010, 4 x 4, Inbound,    "MSG_IN",     ReadOnly,        0,                    0,                   "the message that the peer sent last"),
    row!(0x8020, 4 x 4, Outbound,   "MSG_OUT",    Strobe,          0xFFFF_FFFF,          0,                   "a write of any value sends it"),
];

const _: () = assert!(is_well_formed(TABLE, crate::bar0::BYTES));
const _: () = assert!((CAPABILITY & 0xFF) as usize == REGISTERS);

/// The register that an access means.
///
/// # Errors
/// [`Miss`] where there is none of that width.
pub fn lookup(offset: u32, bytes: usize) -> Result<Hit<Reg>, Miss> {
    find(TABLE, offset, bytes)
}

/// Offset of a register's element in BAR 0, at compile time.
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
