//! The 16 bytes in front of every message.
//!
//! Source: vfio-user specification, section "Header".

use std::fmt;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size of [`Header`] on the wire, in bytes.
pub const HEADER_BYTES: usize = 16;

/// Largest message either side accepts, header included, in bytes.
///
/// One mebibyte of data (the specification's default `max_data_xfer_size`) plus the header and the fixed part
/// of the largest request that carries data. Anything beyond is a framing error.
pub const MAX_MESSAGE_BYTES: usize = MAX_DATA_BYTES as usize + 64;

/// Most data one region or DMA access may move, in bytes: our `max_data_xfer_size`.
pub const MAX_DATA_BYTES: u32 = 1 << 20;

/// Most file descriptors that we take with one message: our `max_msg_fds`.
///
/// QEMU refuses a larger value at realize ("malformed max_msg_fds"), and splits what does not fit.
pub const MAX_MESSAGE_FDS: usize = 16;

/// A message's identity, chosen by its sender and echoed by the reply. It need not be unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u16);

/// What a message asks for. Source: specification, section "Commands".
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command(pub u16);

impl Command {
    /// Negotiate the protocol version and capabilities; the first message of a connection.
    pub const VERSION: Self = Self(1);
    /// Make a range of the client's memory known to the server.
    pub const DMA_MAP: Self = Self(2);
    /// Withdraw such a range.
    pub const DMA_UNMAP: Self = Self(3);
    /// Ask what the device is.
    pub const GET_INFO: Self = Self(4);
    /// Ask about one region.
    pub const GET_REGION_INFO: Self = Self(5);
    /// Ask for ioeventfds of a region. QEMU never does; not served here.
    pub const GET_REGION_IO_FDS: Self = Self(6);
    /// Ask about one interrupt type.
    pub const GET_IRQ_INFO: Self = Self(7);
    /// Wire up, mask or trigger interrupts.
    pub const SET_IRQS: Self = Self(8);
    /// Read from a region.
    pub const REGION_READ: Self = Self(9);
    /// Write to a region.
    pub const REGION_WRITE: Self = Self(10);
    /// Server to client: read the client's memory.
    pub const DMA_READ: Self = Self(11);
    /// Server to client: write the client's memory.
    pub const DMA_WRITE: Self = Self(12);
    /// Reset the device.
    pub const RESET: Self = Self(13);
    /// Dirty page tracking of old revisions of the specification. Not served here.
    pub const DIRTY_PAGES: Self = Self(14);
    /// Several small posted region writes in one message.
    pub const REGION_WRITE_MULTI: Self = Self(15);
    /// Device features (migration). Not served here.
    pub const DEVICE_FEATURE: Self = Self(16);
    /// Migration data out. Not served here.
    pub const MIG_DATA_READ: Self = Self(17);
    /// Migration data in. Not served here.
    pub const MIG_DATA_WRITE: Self = Self(18);

    /// The command's name in the specification, without its prefix; `None` for a number nobody has assigned.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::VERSION => "VERSION",
            Self::DMA_MAP => "DMA_MAP",
            Self::DMA_UNMAP => "DMA_UNMAP",
            Self::GET_INFO => "DEVICE_GET_INFO",
            Self::GET_REGION_INFO => "DEVICE_GET_REGION_INFO",
            Self::GET_REGION_IO_FDS => "DEVICE_GET_REGION_IO_FDS",
            Self::GET_IRQ_INFO => "DEVICE_GET_IRQ_INFO",
            Self::SET_IRQS => "DEVICE_SET_IRQS",
            Self::REGION_READ => "REGION_READ",
            Self::REGION_WRITE => "REGION_WRITE",
            Self::DMA_READ => "DMA_READ",
            Self::DMA_WRITE => "DMA_WRITE",
            Self::RESET => "DEVICE_RESET",
            Self::DIRTY_PAGES => "DIRTY_PAGES",
            Self::REGION_WRITE_MULTI => "REGION_WRITE_MULTI",
            Self::DEVICE_FEATURE => "DEVICE_FEATURE",
            Self::MIG_DATA_READ => "MIG_DATA_READ",
            Self::MIG_DATA_WRITE => "MIG_DATA_WRITE",
            Self(_) => return None,
        })
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "command {}", self.0),
        }
    }
}

/// The header's flag word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flags(pub u32);

impl Flags {
    /// A command that wants a reply.
    pub const COMMAND: Self = Self(0);
    /// A reply to a command that succeeded.
    pub const REPLY: Self = Self(1);
    /// A command that must never be answered, not even with an error.
    pub const POSTED: Self = Self(0x10);
    /// A reply to a command that failed; [`Header::error`] holds the errno.
    pub const ERROR_REPLY: Self = Self(0x21);

    const TYPE_MASK: u32 = 0x0f;
    const NO_REPLY: u32 = 0x10;
    const ERROR: u32 = 0x20;

    /// Whether the sender forbids an answer.
    #[must_use]
    pub const fn no_reply(self) -> bool {
        self.0 & Self::NO_REPLY != 0
    }

    /// Whether the type bits say reply.
    #[must_use]
    pub const fn is_reply(self) -> bool {
        self.0 & Self::TYPE_MASK == 1
    }

    /// Whether this is a reply that reports an error.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 & Self::ERROR != 0
    }

    /// Whether a server may take this message as a request: type command, and no bit but `No_reply`.
    #[must_use]
    pub const fn is_request(self) -> bool {
        self.0 & !Self::NO_REPLY == 0
    }
}

/// The header of every message, byte for byte as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    id: U16,
    command: U16,
    size: U32,
    flags: U32,
    error: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

impl Header {
    /// A header with its error field zero. `size` counts the header too, in bytes.
    #[must_use]
    pub const fn new(id: MessageId, command: Command, size: u32, flags: Flags) -> Self {
        Self {
            id: U16::new(id.0),
            command: U16::new(command.0),
            size: U32::new(size),
            flags: U32::new(flags.0),
            error: U32::new(0),
        }
    }

    /// The same header with `error` in its error field.
    #[must_use]
    pub const fn with_error(self, error: u32) -> Self {
        Self { error: U32::new(error), ..self }
    }

    /// Reads a header off the front of `bytes`; `None` if fewer than [`HEADER_BYTES`] are there.
    #[must_use]
    pub fn peek(bytes: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// The identity that a reply must echo.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        MessageId(self.id.get())
    }

    /// What is asked.
    #[must_use]
    pub const fn command(&self) -> Command {
        Command(self.command.get())
    }

    /// Size of the whole message in bytes, header included. Not yet checked.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.size.get()
    }

    /// The flag word.
    #[must_use]
    pub const fn flags(&self) -> Flags {
        Flags(self.flags.get())
    }

    /// The errno of an error reply; reserved in commands.
    #[must_use]
    pub const fn error(&self) -> u32 {
        self.error.get()
    }

    /// The size of the whole message if framing can go by it: at least a header, at most `limit` bytes.
    #[must_use]
    pub fn checked_size(&self, limit: usize) -> Option<usize> {
        let size = usize::try_from(self.size()).ok()?;
        (HEADER_BYTES..=limit).contains(&size).then_some(size)
    }
}
