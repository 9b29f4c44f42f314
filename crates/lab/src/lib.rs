//! Guests: artifacts, QEMU processes, consoles, the agent in the guest, plans, reports.

#![forbid(unsafe_code)]

pub mod artifacts;
pub mod channel;
pub mod agent;
pub mod health;
pub mod perf;
pub mod selftest;
pub mod steps;
pub mod guest;
pub mod options;
pub mod pair;
pub mod plan;
pub mod run_dir;
pub mod trouble;
pub mod twin;

pub mod initrd;
pub mod interrupt;
pub mod process;
