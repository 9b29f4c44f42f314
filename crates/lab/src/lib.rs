//! Guests: artifacts, QEMU processes, consoles, the agent in the guest, plans, reports.

#![forbid(unsafe_code)]

pub mod artifacts;
pub mod channel;
pub mod agent;
mod cpio;
pub mod initrd;
pub mod interrupt;
pub mod process;
