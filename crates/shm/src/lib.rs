#![expect(
    unsafe_code,
    reason = "UNSAFETY: this crate maps memory that other processes write and touches it by volatile access; it is the main room for unsafe, and everything it offers is safe to call"
)]

//! Memory shared with somebody: sealed files, mappings, windows, bounds-checked volatile copies.
//!
//! ```text
//!   a descriptor from a peer ──SharedFile::accept──▶ sealed against shrinking, long enough
//!   SharedFile::create ─────────────────────────────▶ a memfd of ours, sealed
//!                             │
//!                          Mapping::new(file, offset, bytes)
//!                             │
//!                  read(at, &mut [u8])   write(at, &[u8])      copies; never a reference
//!                  transfer(from, to)                          from one mapping to another, at once
//!                             │
//!        trait Window: stores towards a peer      trait Memory: loads too, of what is mapped here
//!        (Mapping, Heap, messaged windows)        (Mapping, Heap)
//! ```
//!
//! **Why never a reference.** The peer may write any byte at any time. A Rust reference to such memory is undefined
//! behaviour the moment it does, so a mapping is a raw pointer and a length, and every access is a volatile load or
//! store of one aligned word into or out of private memory. Rust has no settled model for memory shared with an
//! untrusted process (unsafe-code-guidelines #152); volatile is what it calls least bad.
//!
//! **Why sealed.** A load from a mapped file behind its end is a SIGBUS that kills the process. A memfd that carries
//! `F_SEAL_SHRINK` cannot be cut, so its length, checked once, holds for ever; any other file is refused.
//!
//! Beside that, the few facts about time that take an instruction which Rust calls unsafe: [`ticks`], [`kernel_clock`].
//!
//! What this crate does not do: interpret bytes, lock, allocate on access, know devices.
//!
//! Invariants: a mapping lies inside its file and the file cannot shrink; an access outside a mapping is an error and
//! touches nothing; an aligned access of 1, 2, 4 or 8 bytes is one load or store.

mod copy;
mod counted;
mod fence;
mod file;
#[cfg(not(loom))]
mod heap;
#[cfg(loom)]
#[path = "heap_loom.rs"]
mod heap;
mod inherit;
mod lines;
mod mapping;
mod plain;
mod raw;
mod time;
mod transfer;
mod window;

pub use copy::Routine;
pub use counted::Copied;
pub use fence::full_fence;
pub use file::{SharedFile, Unfit};
pub use heap::Heap;
pub use inherit::{NotInherited, take_inherited};
pub use lines::{LINE_WORDS, Lines};
pub use mapping::{Access, MapError, Mapping, OutOfBounds};
pub use plain::Plain;
pub use time::{KernelClock, kernel_clock, ticks, ticks_are_invariant};
pub use transfer::{fill, transfer};
pub use window::{LoadOrder, Memory, StoreOrder, Window, WindowError, WindowKind};

#[cfg(all(test, not(loom)))]
mod window_tests;
