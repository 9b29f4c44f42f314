//! The host side of a non-transparent bridge: a process that drives the registers as a kernel driver does.
//!
//! ```text
//!   your program, cells, vi, ntb_transport
//!        │  trait Bridge: link, windows, doorbells, scratchpads, messages, events  (include/linux/ntb.h in Rust terms)
//!        ▼
//!      Gen3 ── driver of 8086:201c: registers by name, from the tables of ntb-spec
//!        │  trait PciFunction: configuration space, BARs, DMA memory, eventfds
//!        ├── twin_local::LocalPort   calls into a twin in this process
//!        ├── VfioUser                a client of any twin, by its socket
//!        └── Vfio                    a device of this machine that the kernel gives out: hardware, or a twin's port in a guest
//!
//!   Outbound ══stores══▶ memory of the peer          Inbound ◀══stores══ the peer
//! ```
//!
//! # How to use it
//! ```no_run
//! # use ntb::*;
//! # use std::{path::Path, sync::Arc, time::Duration};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The control socket lets windows be memory; without it each store is a message.
//! let port = VfioUser::connect(Path::new("/tmp/a.sock"), Some(Path::new("/tmp/twin.sock")))?;
//! let bridge: Arc<dyn Bridge> = Arc::new(Gen3::open(Arc::new(port))?);
//! let inbound = bridge.inbound(0, 64 << 10)?;               // memory of mine, open to the peer until it is dropped
//! bridge.link_enable(Speed::Auto, Width::Auto)?;
//! bridge.wait_for_link(true, Duration::from_secs(5))?;      // the peer has enabled its end, too
//! let outbound = bridge.outbound(0)?;                       // the way into the peer; ask again after link down
//! outbound.write(0, b"hello")?;                             // traits Window and Memory of crate shm
//! bridge.doorbells_unmask(1 << 3)?;                         // all are masked at first
//! bridge.ring(1 << 3)?;                                     // at the peer
//! let events = bridge.wait(Duration::from_secs(1))?;        // or poll event_fd(), or events() without waiting
//! if events.doorbells & 1 << 3 != 0 {
//!     bridge.doorbells_clear(1 << 3)?;                      // clear first, then look
//!     let mut word = [0; 4];
//!     inbound.read(0, &mut word)?;
//! }
//! if let Some(link) = events.link {
//!     println!("the link is {link}");                       // down: drop Outbound; up: begin anew
//! }
//! # Ok(())
//! # }
//! ```
//! [`Bridge`] is object-safe, and every method takes `&self` from any thread.
//!
//! # Write-combining
//! A kernel maps a window write-combined (Linux `ioremap_wc`), and DPDK measures more than ten times from it. A process cannot ask
//! for that: VFIO maps BARs uncached ([`Vfio`]; Linux `vfio_pci_core_mmap`, `pgprot_noncached`), so each store of up to 8 bytes is a
//! transaction of its own, they arrive in the order in which they were made, and no [`Routine`] makes them fewer: all of them are
//! [`Routine::Words`] there. What has to be fast on hardware goes by a DMA engine ([`dma`]). On a twin that is driven over its socket
//! a mapped window is ordinary memory, cached and coherent, and needs none of it. Code that calls [`Window::flush`] before it rings
//! is right on all of them, and [`Window::settle`] is a read across the bridge where the memory is a device's.
//!
//! # What it does not do
//! Transports: queues, frames and flow control are built on top. It trains no link and moves no data by itself, starts no thread but
//! that of an overlay, and knows no twin: the same driver drives hardware.
//!
//! # Invariants
//! 1. Nothing that a device or a peer answers makes the driver panic, or wait for longer than it was told.
//! 2. Numbers from registers and shared memory are fetched once, checked, then used.
//! 3. The hot path of a mapped window, stores of [`Outbound`] and loads of [`Inbound`], makes no system call, takes no lock, allocates
//!    nothing and reads nothing across the bridge.
//! 4. Memory is taken from the device before it is unmapped, and a window is closed before its memory is.
#![expect(
    unsafe_code,
    reason = "UNSAFETY: the ioctls of VFIO and iommufd, all in vfio/ioctl.rs; no crate that is kept well offers both"
)]
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

pub mod addresses;
#[cfg(feature = "tokio")]
mod async_events;
mod bridge;
pub mod conformance;
mod divided;
pub mod dma;
mod error;
mod events;
mod function;
mod gen3;
mod memory;
mod queue;
mod vfio;
mod vfio_user;
mod window;

pub use self::vfio::{BadPciAddress, PciAddress, Vfio, VfioError};
pub use self::vfio_user::VfioUser;
#[cfg(feature = "tokio")]
pub use async_events::AsyncEvents;
pub use bridge::{Bridge, DoorbellTarget, Link, Port, Speed, Width, WindowAlign};
pub use divided::{DividedMemory, Planter};
pub use error::{BridgeError, OpenError};
pub use events::Events;
pub use function::{BarIndex, DeviceAddress, FunctionError, PciFunction};
pub use gen3::Gen3;
pub use memory::{BarMapping, BarMappings, DmaMemory, DmaProvider, Mapped, Registrar, Unmapper};
pub use queue::{MessageQueue, QueueFull};
pub use shm::{LoadOrder, Memory, Routine, StoreOrder, Window, WindowError, WindowKind};
pub use window::{Inbound, LinkGeneration, Outbound};
