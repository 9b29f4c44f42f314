//! Guests: artifacts, QEMU processes, consoles, the agent in the guest, plans, reports.

#![forbid(unsafe_code)]

pub mod artifacts;
pub mod channel;
pub mod agent;
pub mod guest;
pub mod options;
pub mod pair;
pub mod plan;
pub mod run_dir;
pub mod trouble;
pub mod twin;
mod cpio;
pub mod initrd;
pub mod interrupt;
pub mod process;
