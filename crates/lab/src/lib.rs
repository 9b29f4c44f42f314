//! Guests: artifacts, QEMU processes, consoles, the agent in the guest, plans, reports.

pub mod artifacts;
