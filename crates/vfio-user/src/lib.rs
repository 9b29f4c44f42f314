//! The vfio-user protocol, version 0.0: how a PCI device in one process is given to a QEMU in another.
//!
//! # The way data takes
//! ```text
//!   QEMU ══UNIX socket══▶ server::ServerSession ──▶ wire::Request ──▶ server::Device (yours)
//!                         batched reads, frames,    typed, checked    answers, effects
//!                         file descriptors          no copy
//!
//!   client::Client ══UNIX socket══▶ any server      for tests, benches and user-space drivers
//! ```
//! * [`wire`]: bytes to typed values and back. No I/O, no file descriptors, no state.
//! * [`server`]: one connection, driven by the caller's event loop. Never waits, holds no lock, starts no thread.
//! * [`client`]: one connection, blocking.
//! * [`listen`]: a socket at a path, mode 0600, stale ones replaced.
//!
//! # What it does not do
//! No requests from server to client (DMA_READ, DMA_WRITE): devices reach guest memory through the file
//! descriptors of DMA_MAP. No migration (DEVICE_FEATURE, MIG_DATA_*), no dirty pages, no ioeventfds of regions, no
//! twin socket; such requests are refused with `EOPNOTSUPP`, numbers nobody has assigned with `ENOSYS`. It does not
//! map memory and does not judge what is behind a file descriptor.
//!
//! # Invariants
//! 1. Nothing that a peer sends makes either session panic, wait, or hold more than a fixed amount of memory
//!    and file descriptors.
//! 2. A request is framed before it is looked into: a bad one is answered with a real errno and the next one is
//!    read correctly. Only a size that cannot be right ends a session.
//! 3. A message that wants no reply gets none, not even an error; it moves a counter.
//! 4. Every other request gets exactly one reply, in order, no longer than the request, save for what the client
//!    made room for itself (`argsz`, `count`).
//! 5. A file descriptor reaches the message it was sent with, or is closed.
//!
//! Source: the vfio-user specification (QEMU, `docs/interop/vfio-user.rst`), and what QEMU's client does.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod client;
pub mod listen;
pub mod server;
mod socket;
pub mod wire;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
