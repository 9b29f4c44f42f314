//! One twin running: sessions, guest memory, interrupts, windows, control socket.
//!
//! ```text
//!   QEMU a ══vfio-user══▶ ┌ Server ── one thread, one poll ───────────────────┐ ◀══vfio-user══ QEMU b
//!                         │  session a   session b   control   timer   stop   │
//!                         │        │         │                                │
//!                         │        ▼         ▼                                │
//!                         │  Machine ── region → register, window or config   │
//!                         │    twin::Twin        pure model                   │
//!                         │    Host a, Host b    memory, interrupts, counters │
//!                         └───────────────────────────────────────────────────┘
//!   guest a ◀── eventfd ── Interrupts             GuestMemory ── mapped memfd ──▶ RAM of guest b
//! ```
//!
//! A doorbell: [`Server`] reads one bounded frame, the session parses it, [`Machine`] hands offset and value to the model,
//! the model answers with an effect, the effect is one write to an eventfd. A store through a *trapped* window
//! takes the same way, and ends as one copy into the peer's mapped memory. A store through a *mapped* window never comes here: the
//! BAR is memory, which an overlay in the host's process has put there at an order of `windows`.
//!
//! There is one thread, hence no lock: whatever takes long must not run here (QEMU gives up on a device that
//! answers later than 5 s), and nothing waits for a host: a host that does not read its replies is not read from.
//!
//! A host may also be in this process: crate `twin-local` drives a [`Machine`] by function calls, without sockets, and under
//! the same rules. [`Server`] and it differ in who waits: see [`Machine::holds_port`] and [`Machine::wait`].
//!
//! What this crate does not do: decide what a register means (`twin`, `ntb-spec`), parse (`vfio-user`), start anybody.
//!
//! Invariants: host memory is reached only where the host mapped it, while its port masters the bus, through files that
//! cannot shrink; a host that dies takes its maps and descriptors with it and nothing else; one host's
//! nonsense costs the other nothing.

#![forbid(unsafe_code)]

mod announce;
mod burst;
mod control_server;
mod dma;
mod dock;
mod endpoint;
mod guest_memory;
mod host;
mod interrupts;
mod machine;
mod port_device;
mod quota;
mod seat;
mod server;
mod signaller;
mod status;
mod trace;
mod windows;

pub use endpoint::{BadEndpoint, Endpoint};
pub use machine::Machine;
pub use port_device::PortDevice;
pub use server::{Options, RunError, Server};
pub use trace::{Direction, Trace, TraceRecord, TraceSpace};
pub use windows::{Modes, UnknownMode, WindowMode};
