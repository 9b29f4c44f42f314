//! Guests: artifacts, QEMU processes, consoles, the agent in the guest, plans, reports.
//!
//! ```text
//!  Options + Artifacts ──▶ Plan (printable) ──▶ Pair::boot
//!                                                 ├── Twin    `isthmus twin`, its control socket
//!                                                 └── Guest×2 QEMU, console, channel ◀── virtio-serial ──▶ agent
//!  Pair ──▶ perf::measure ──▶ Report          Pair ──▶ selftest::run ──▶ Report
//!  Plan ──▶ opposite::run: one guest, and a process at the other port
//!  Plan ──▶ vfio::suite, vfio::opposite: a process in a guest, which drives the guest's device
//!  Pair or a lab that is up ──▶ Access ──▶ run, terminal
//! ```
//!
//! What it does not do: know a device. It starts the binaries that users start, and what it knows of the twin
//! it knows from the control socket.
//!
//! Invariants: everything waits for a fact and until a deadline; everything started dies with the lab; what
//! went wrong is either the thing under test ([`trouble::UnderTest`]) or a run that could not run.

#![forbid(unsafe_code)]

pub mod access;
pub mod agent;
pub mod artifacts;
pub mod channel;
pub mod copy;
pub mod debug;
pub mod guest;
pub mod health;
pub mod initrd;
pub mod interrupt;
mod kvm;
pub mod opposite;
pub mod options;
pub mod pair;
pub mod perf;
pub mod plan;
pub mod process;
pub mod run;
pub mod run_dir;
pub mod selftest;
pub mod steps;
pub mod terminal;
pub mod trouble;
pub mod twin;
pub mod up;
pub mod vfio;
pub mod windows;
