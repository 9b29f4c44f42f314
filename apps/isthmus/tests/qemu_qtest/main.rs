//! A real QEMU at each port, under `-accel qtest`: no guest and no firmware, the tests themselves do what those would.
//!
//! ```text
//!   test ── qtest ──▶ QEMU a ──vfio-user──▶ isthmus twin ◀──vfio-user── QEMU b ◀── qtest ── test
//!     └──────────────── control socket: status, events ────┘
//! ```
//!
//! What the device does is asked of QEMU, and what arrives (messages of MSI-X, stores through a window) is looked up in
//! the memory of the QEMU that should have it. The QEMU is the lab's: in CI (`CI` is set) it is required, and made if it is
//! not there; elsewhere nothing is downloaded, and without one these tests say so and pass.

#![forbid(unsafe_code)]
#![expect(clippy::tests_outside_test_module, reason = "every function of an integration test is a test")]
#![expect(clippy::print_stderr, reason = "a test that fails shows the logs and the registers")]

mod bench;
mod host;
mod qemu;

mod comings_and_goings;
mod config_space;
mod engine;
mod interrupts;
mod link;
mod registers;
mod sockets;
mod windows;
