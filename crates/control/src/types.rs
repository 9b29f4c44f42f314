//! The vocabulary: requests, replies, events.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One of the two ports of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortName {
    /// The upstream device (USD): PPD reads 0x01.
    A,
    /// The downstream device (DSD): PPD reads 0x11.
    B,
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// What a client asks of a twin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Link, ports, windows and counters: answered by [`Reply::Status`].
    Status,
    /// Every register of both ports with its value: answered by [`Reply::Registers`].
    Registers,
    /// From now on send a [`Reply::Event`] at every change: answered by [`Reply::Done`].
    Watch,
    /// I am the overlay in the process of a host: from now on send me [`OverlayCommand`](crate::OverlayCommand)s. Answered by [`Reply::Done`].
    Overlay,
    /// Moves a window to another mode of its class while guests run: answered by [`Reply::Done`].
    SetWindow {
        /// The port that stores through it.
        port: PortName,
        /// 0 is BAR 2, 1 is BAR 4.
        window: u8,
        /// The new mode.
        mode: WindowMode,
    },
    /// What happens to trapped window stores from now on: answered by [`Reply::Done`].
    SetStores {
        /// The new behaviour, for both ports.
        stores: StoreMode,
    },
}

/// What a twin does with a store that reaches it through a messaged window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreMode {
    /// Put it where the peer's translation says.
    #[default]
    Deliver,
    /// Check it and throw it away: the ceiling against which delivery is measured.
    Discard,
}

/// What a twin answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Registers`].
    Registers(Registers),
    /// The request was carried out.
    Done,
    /// The request was not carried out; the sentence says why.
    Error {
        /// A full sentence.
        error: String,
    },
    /// Something changed (only after [`Request::Watch`]).
    Event(Event),
}

/// A change that watchers are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The link changed state.
    Link {
        /// Milliseconds since the twin started.
        at_ms: u64,
        /// The state from now on.
        state: LinkState,
    },
    /// A host attached to a port.
    Attached {
        /// Milliseconds since the twin started.
        at_ms: u64,
        /// Which port.
        port: PortName,
    },
    /// The host of a port went away.
    Detached {
        /// Milliseconds since the twin started.
        at_ms: u64,
        /// Which port.
        port: PortName,
    },
    /// A port was reset by its host.
    Reset {
        /// Milliseconds since the twin started.
        at_ms: u64,
        /// Which port.
        port: PortName,
    },
}

/// The whole twin at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program that serves.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// The link between the ports.
    pub link: LinkStatus,
    /// What becomes of window stores.
    pub stores: StoreMode,
    /// Port a, then port b.
    pub ports: Vec<PortStatus>,
}

/// State of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// At least one port is absent or disabled.
    Down,
    /// Both ports are present and enabled; the training time runs.
    Training,
    /// Frames, doorbells and scratchpads pass.
    Up,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "down",
            Self::Training => "training",
            Self::Up => "up",
        })
    }
}

/// The link and its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Now.
    pub state: LinkState,
    /// How long in this state, in milliseconds.
    pub for_ms: u64,
    /// How often it came up.
    pub ups: u64,
    /// How often it went down after having been up.
    pub downs: u64,
    /// Training time in milliseconds.
    pub training_ms: u64,
}

/// Which end of a back-to-back link a port is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Role {
    /// Upstream device.
    Usd,
    /// Downstream device.
    Dsd,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Its name.
    pub port: PortName,
    /// Its end of the link.
    pub role: Role,
    /// Where hosts connect.
    pub socket: String,
    /// Whether a host is connected.
    pub attached: bool,
    /// That host's process id.
    pub pid: Option<u32>,
    /// Whether the host's driver has enabled the link (NTBCNTL bit 1 clear).
    pub enabled: bool,
    /// Command register: memory decode.
    pub memory_enabled: bool,
    /// Command register: bus master.
    pub bus_master: bool,
    /// How many hosts have attached so far.
    pub attaches: u64,
    /// How many resets (bus reset, function-level reset) so far.
    pub resets: u64,
    /// Bytes of host memory that the twin can reach.
    pub mapped_bytes: u64,
    /// Bytes of host memory that were announced without a file that the twin may use.
    pub unreachable_bytes: u64,
    /// vfio-user messages handled.
    pub messages: u64,
    /// vfio-user messages refused with an error.
    pub refused_messages: u64,
    /// Register accesses that hit no register, or one of another width.
    pub bad_accesses: u64,
    /// Doorbells that this port rang at its peer.
    pub doorbells: u64,
    /// Doorbells that this port rang while the link was down.
    pub doorbells_dropped: u64,
    /// Interrupts raised at this port's host.
    pub interrupts: u64,
    /// The windows through which this port stores into its peer.
    pub windows: Vec<WindowStatus>,
    /// The DMA engine of this port's host, if the twin serves one.
    #[serde(default)]
    pub engine: Option<EngineStatus>,
}

/// The I/OAT engine of a port's host. Counters begin when the twin does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Where the host connects.
    pub socket: String,
    /// Whether it is connected.
    pub attached: bool,
    /// That host's process id.
    pub pid: Option<u32>,
    /// How many channels the engine has.
    pub channels: u8,
    /// Command register: memory decode.
    pub memory_enabled: bool,
    /// Command register: bus master.
    pub bus_master: bool,
    /// How many hosts have attached so far.
    pub attaches: u64,
    /// How many resets (bus reset, function-level reset) so far.
    pub resets: u64,
    /// Bytes of host memory that the engine can reach.
    pub mapped_bytes: u64,
    /// Bytes of host memory that were announced without a file that the twin may use.
    pub unreachable_bytes: u64,
    /// vfio-user messages handled.
    pub messages: u64,
    /// vfio-user messages refused with an error.
    pub refused_messages: u64,
    /// Register accesses that hit no register, or one of another width.
    pub bad_accesses: u64,
    /// Descriptors that completed.
    pub descriptors: u64,
    /// Bytes that descriptors have copied, wherever they went.
    pub copied_bytes: u64,
    /// Pieces of at most 256 KiB that these were copied in.
    pub pieces: u64,
    /// Accesses that led nowhere and halted their channel.
    pub faults: u64,
    /// Errors of any kind that halted a channel.
    pub errors: u64,
    /// Writes into a window that was closed, which were dropped.
    pub drops: u64,
    /// Bytes of those.
    pub dropped_bytes: u64,
    /// Reads from a window that was closed, which gave all ones.
    pub refused_reads: u64,
    /// Interrupts raised at the host.
    pub interrupts: u64,
}

/// How a window works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowMode {
    /// Every access is a message to the twin.
    Trap,
    /// Every access is a message; bulk goes by the I/OAT engine.
    Dma,
    /// The BAR is memory that the peer's BAR is too.
    Shared,
    /// The BAR is memory that the peer's RAM is too.
    Alias,
    /// The BAR is the peer's RAM.
    Direct,
}

/// Whether accesses reach the twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowClass {
    /// Each access is a message.
    Messaged,
    /// Accesses reach memory directly.
    Mapped,
}

/// One window: this port's BAR, the peer's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowStatus {
    /// 0 is BAR 2, 1 is BAR 4.
    pub window: u8,
    /// How it works.
    pub mode: WindowMode,
    /// What that means for accesses.
    pub class: WindowClass,
    /// Size of the BAR in bytes.
    pub bytes: u64,
    /// How many bytes of it the peer's translation opens now; 0 is closed.
    pub open_bytes: u64,
    /// Where it begins in the peer's memory (the peer's XBASE), if open.
    pub translation: Option<u64>,
    /// Stores that were delivered.
    pub stores: u64,
    /// Bytes that were delivered into the peer's memory.
    pub stored_bytes: u64,
    /// Stores that were dropped: window closed, limit, link down, no memory there.
    pub dropped: u64,
    /// Stores that were thrown away because [`StoreMode::Discard`] said so.
    pub discarded: u64,
    /// Bytes of those.
    pub discarded_bytes: u64,
    /// Loads that were answered from the peer's memory.
    pub loads: u64,
    /// Loads that were answered by all ones.
    pub refused_loads: u64,
}

/// All registers of both ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// Port a, then port b, each in the order of the register tables.
    pub registers: Vec<RegisterValue>,
}

/// One register's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterValue {
    /// Whose.
    pub port: PortName,
    /// `config` or `bar0`.
    pub space: String,
    /// Offset in that space.
    pub offset: u32,
    /// Width in bytes.
    pub bytes: u8,
    /// The table's name for it.
    pub name: String,
    /// Its value; side effects of reading do not happen.
    pub value: u64,
    /// What the value means, where the table knows.
    pub meaning: String,
}
