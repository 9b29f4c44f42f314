//! What the bits of an Intel NTB Gen3 (8086:201C, "Skylake Xeon") mean, and those of the I/OAT DMA engine beside it
//! (8086:2021): registers, PCI configuration space.
//!
//! ```text
//!              one table per register block
//!   bar0::TABLE ──┬── twin         dispatch of a guest's access        (offset, width) → register
//!   config::TABLE │── ntb (driver) accessors                           register → offset
//!                 │── trace        names and meanings                  (offset, value) → text
//!                 │── tests        reset, mask, access, width of every row
//!                 └── docs/registers.md
//!   ioat::{GLOBAL, CHANNEL, config::TABLE}: the same for the engine; function: what both have
//! ```
//!
//! There is no public document of Gen3. Every row says which driver and which function it was read from:
//! Linux `drivers/ntb/hw/intel/ntb_hw_gen3.{c,h}` and `ntb_hw_gen1.{c,h}`, FreeBSD `sys/dev/ntb/ntb_hw/ntb_hw_intel.h`,
//! DPDK `drivers/raw/ntb/ntb_hw_intel.{c,h}`. Where no driver tells, the row says "chosen".
//!
//! What this crate does not do: hold state, take accesses, know PCI transport. It is `no_std`, has no unsafe code
//! and allocates nothing.
//!
//! Invariants, checked at compile time: rows are sorted and disjoint, offsets are aligned to their width, and no row
//! leaves its block.

#![no_std]
#![forbid(unsafe_code)]

pub mod bar0;
pub mod bits;
pub mod config;
pub mod function;
pub mod ioat;
pub mod linux_transport;
pub mod meaning;
pub mod messages;
pub mod table;

/// Memory windows of a port: window 0 is BAR 2, window 1 is BAR 4 (Linux `ntb_hw_gen3.c`, `bar = {2, 4}`).
pub const WINDOWS: usize = 2;
/// Scratchpads of a port, 32 bits each (Linux `XEON_SPAD_COUNT`).
pub const SCRATCHPADS: usize = 16;
/// Doorbell bits of a port. Bit 31 shares the link's vector on Gen3 (`NTB_HWERR_MSIX_VECTOR32_BAD`).
pub const DOORBELLS: usize = 32;
/// Interrupt sources of a port: the doorbells, then the link.
pub const INTERRUPT_SOURCES: usize = 33;
/// MSI-X vectors; the Linux driver insists on all of them (`pci_enable_msix_range(33, 33)`).
pub const MSIX_VECTORS: u16 = 33;
/// The interrupt source, and INT_STATUS bit, of a link change.
pub const LINK_SOURCE: u8 = 32;
