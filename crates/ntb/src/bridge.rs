//! What a bridge can do: the Linux NTB API (`include/linux/ntb.h`), complete, in Rust terms.

use crate::{BridgeError, DeviceAddress, DividedMemory, DmaMemory, Events, Inbound, Outbound};
use shm::WindowKind;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Which end of a back-to-back link this is (`ntb_port_number`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Port {
    /// The upstream device, number 0.
    Usd,
    /// The downstream device, number 1.
    Dsd,
}

impl Port {
    /// Linux's number for it (`NTB_PORT_PRI_USD`, `NTB_PORT_SEC_DSD`).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Usd => 0,
            Self::Dsd => 1,
        }
    }

    /// The other end (`ntb_peer_port_number`; there is one peer).
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Usd => Self::Dsd,
            Self::Dsd => Self::Usd,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usd => "USD",
            Self::Dsd => "DSD",
        })
    }
}

/// The link as this port sees it (`ntb_link_is_up`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// Whether it carries anything.
    pub up: bool,
    /// Generation: 3 is 8 GT/s a lane.
    pub speed: u8,
    /// Lanes.
    pub width: u8,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { up, speed, width } = self;
        write!(f, "{} (Gen{speed} x{width})", if *up { "up" } else { "down" })
    }
}

/// How fast a link may train (`enum ntb_speed`). Gen3 hardware takes no wish; the link comes up as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Speed {
    /// As fast as both ends can (`NTB_SPEED_AUTO`).
    #[default]
    Auto,
    /// This generation at most.
    Generation(u8),
}

/// How wide a link may train (`enum ntb_width`). Gen3 hardware takes no wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Width {
    /// As wide as both ends can (`NTB_WIDTH_AUTO`).
    #[default]
    Auto,
    /// So many lanes at most.
    Lanes(u8),
}

/// What a window demands of the memory under it (`ntb_mw_get_align`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowAlign {
    /// The device address must be a multiple of this, in bytes.
    pub address_bytes: u64,
    /// The length should be a multiple of this, in bytes. Mapped windows open whole pages whatever was asked.
    pub size_bytes: u64,
    /// The longest range, in bytes.
    pub max_bytes: u64,
}

/// Where a DMA engine of this host writes what to ring a doorbell at the peer (`ntb_peer_db_addr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoorbellTarget {
    /// Where.
    pub address: DeviceAddress,
    /// What: a little-endian word.
    pub value: u32,
}

/// One end of a non-transparent bridge.
///
/// The names follow Linux; each method says which function of `include/linux/ntb.h` it is. There is one peer, so no method takes
/// a peer index. Doorbell sets are `u64` with bit n for doorbell n.
///
/// All methods may be called from any thread. Only [`events`](Self::events) and what waits by it has one
/// consumer: an event is handed out once.
pub trait Bridge: fmt::Debug + Send + Sync {
    // --- ports ------------------------------------------------------------------------------------------------

    /// Which end this is (`ntb_port_number`).
    fn port(&self) -> Port;

    // --- link -------------------------------------------------------------------------------------------------

    /// The link now, from this port's own register (`ntb_link_is_up`).
    ///
    /// # Errors
    /// When the device is gone.
    fn link(&self) -> Result<Link, BridgeError>;

    /// Lets the link train (`ntb_link_enable`). It is up when both ends have done so and some milliseconds have passed: see
    /// [`wait_for_link`](Self::wait_for_link).
    ///
    /// # Errors
    /// When the device is gone.
    fn link_enable(&self, speed: Speed, width: Width) -> Result<(), BridgeError>;

    /// Takes the link down for both ends (`ntb_link_disable`).
    ///
    /// # Errors
    /// When the device is gone.
    fn link_disable(&self) -> Result<(), BridgeError>;

    /// Blocks until the link is up, or down. Consumes no events but those of the link.
    ///
    /// # Errors
    /// [`BridgeError::LinkTimeout`] names what was seen instead.
    fn wait_for_link(&self, up: bool, timeout: Duration) -> Result<Link, BridgeError>;

    // --- windows ----------------------------------------------------------------------------------------------

    /// How many memory windows there are in each direction (`ntb_mw_count`, `ntb_peer_mw_count`): 2, or 1 in mode
    /// *shared*, where one BAR carries each direction.
    fn window_count(&self) -> usize;

    /// Whether stores through a window are messages or memory.
    ///
    /// # Errors
    /// [`BridgeError::NoWindow`].
    fn window_kind(&self, window: usize) -> Result<WindowKind, BridgeError>;

    /// What the memory under a window has to be like (`ntb_mw_get_align`).
    ///
    /// # Errors
    /// [`BridgeError::NoWindow`].
    fn window_align(&self, window: usize) -> Result<WindowAlign, BridgeError>;

    /// Lets the peer reach `bytes` bytes of memory at `address` through its window (`ntb_mw_set_trans`). Most callers want
    /// [`inbound`](Self::inbound).
    ///
    /// # Errors
    /// [`BridgeError::Unaligned`] and [`BridgeError::TooLarge`] before anything is touched;
    /// [`BridgeError::Readback`] when a register does not keep what was written; then the window is closed.
    fn set_translation(&self, window: usize, address: DeviceAddress, bytes: u64) -> Result<(), BridgeError>;

    /// Closes the window through which the peer reaches this host (`ntb_mw_clear_trans`).
    ///
    /// # Errors
    /// As [`set_translation`](Self::set_translation).
    fn clear_translation(&self, window: usize) -> Result<(), BridgeError>;

    /// The way into the peer: what is stored here lands in the memory that the peer has put under its window
    /// (`ntb_peer_mw_get_addr`). To be asked for again after the link was down.
    ///
    /// # Errors
    /// [`BridgeError::NoWindow`], or when the BAR cannot be mapped.
    fn outbound(&self, window: usize) -> Result<Outbound, BridgeError>;

    /// The way from the peer: new memory of at least `bytes` bytes under the window, open until it is dropped. In mode
    /// *shared* it is a BAR of this port, as large as it is, and always open.
    ///
    /// # Errors
    /// As [`set_translation`](Self::set_translation), or when there is no memory.
    fn inbound(&self, window: usize, bytes: u64) -> Result<Inbound, BridgeError>;

    /// Where this host's DMA engine finds the way into the peer (`ntb_peer_mw_get_addr`).
    ///
    /// # Errors
    /// [`BridgeError::NoWindow`].
    fn outbound_address(&self, window: usize) -> Result<DeviceAddress, BridgeError>;

    /// Memory that devices of this host may reach: for [`set_translation`](Self::set_translation), and as source of a DMA
    /// engine.
    ///
    /// # Errors
    /// When there is none.
    fn dma_allocate(&self, bytes: u64, align_bytes: u64) -> Result<DmaMemory, BridgeError>;

    /// Addresses for memory of this host that comes and goes file by file, so that each part can be given to a process of its
    /// own: for [`set_translation`](Self::set_translation).
    ///
    /// # Errors
    /// Where memory cannot be divided, or no address is left.
    fn dma_divide(&self, bytes: u64, align_bytes: u64) -> Result<DividedMemory, BridgeError>;

    // --- doorbells --------------------------------------------------------------------------------------------

    /// The doorbells that can be used (`ntb_db_valid_mask`).
    fn doorbell_valid_mask(&self) -> u64;

    /// How many interrupt vectors doorbells have (`ntb_db_vector_count`).
    fn doorbell_vector_count(&self) -> u8;

    /// The doorbells that signal a vector (`ntb_db_vector_mask`); empty for one that there is not.
    fn doorbell_vector_mask(&self, vector: u8) -> u64;

    /// The doorbells that the peer has rung and nobody has cleared, masked or not (`ntb_db_read`).
    ///
    /// # Errors
    /// When the device is gone.
    fn doorbells(&self) -> Result<u64, BridgeError>;

    /// Clears doorbells (`ntb_db_clear`); they are clear when it returns. Clear first, then look at what they announced: the
    /// bell rings again only after it was cleared.
    ///
    /// # Errors
    /// [`BridgeError::NoDoorbell`] for bits outside the valid mask.
    fn doorbells_clear(&self, bits: u64) -> Result<(), BridgeError>;

    /// The doorbells that raise no event (`ntb_db_read_mask`). After opening: all.
    fn doorbell_mask(&self) -> u64;

    /// Masks doorbells (`ntb_db_set_mask`).
    ///
    /// # Errors
    /// [`BridgeError::NoDoorbell`] for bits outside the valid mask.
    fn doorbells_mask(&self, bits: u64) -> Result<(), BridgeError>;

    /// Unmasks doorbells (`ntb_db_clear_mask`). What rang meanwhile raises its event now.
    ///
    /// # Errors
    /// [`BridgeError::NoDoorbell`] for bits outside the valid mask.
    fn doorbells_unmask(&self, bits: u64) -> Result<(), BridgeError>;

    /// Rings doorbells at the peer (`ntb_peer_db_set`). Nothing rings while the link is down.
    ///
    /// # Errors
    /// [`BridgeError::NoDoorbell`] for bits outside the valid mask.
    fn ring(&self, bits: u64) -> Result<(), BridgeError>;

    /// What a DMA engine has to write to ring one doorbell (`ntb_peer_db_addr`).
    ///
    /// # Errors
    /// [`BridgeError::NoDoorbell`] for a number outside the valid mask.
    fn doorbell_target(&self, doorbell: u8) -> Result<DoorbellTarget, BridgeError>;

    // --- scratchpads ------------------------------------------------------------------------------------------

    /// How many scratchpads each port has (`ntb_spad_count`), 32 bits each.
    fn scratchpad_count(&self) -> u8;

    /// My scratchpad (`ntb_spad_read`): what I or the peer wrote last.
    ///
    /// # Errors
    /// [`BridgeError::NoScratchpad`].
    fn scratchpad(&self, index: u8) -> Result<u32, BridgeError>;

    /// Writes my scratchpad (`ntb_spad_write`).
    ///
    /// # Errors
    /// [`BridgeError::NoScratchpad`].
    fn scratchpad_write(&self, index: u8, value: u32) -> Result<(), BridgeError>;

    /// The peer's scratchpad (`ntb_peer_spad_read`): a read across the bridge. All ones while the link is down.
    ///
    /// # Errors
    /// [`BridgeError::NoScratchpad`].
    fn peer_scratchpad(&self, index: u8) -> Result<u32, BridgeError>;

    /// Writes the peer's scratchpad (`ntb_peer_spad_write`). Lost while the link is down.
    ///
    /// # Errors
    /// [`BridgeError::NoScratchpad`].
    fn peer_scratchpad_write(&self, index: u8, value: u32) -> Result<(), BridgeError>;

    // --- messages ---------------------------------------------------------------------------------------------

    /// How many message registers there are in each direction (`ntb_msg_count`): none on Gen3 hardware.
    fn message_count(&self) -> u8 {
        0
    }

    /// Which inbound registers hold a message (`ntb_msg_read_sts`, `ntb_msg_inbits`): bit n for register n.
    ///
    /// # Errors
    /// [`BridgeError::NoMessages`].
    fn messages(&self) -> Result<u32, BridgeError> {
        Err(BridgeError::NoMessages)
    }

    /// Takes the message out of an inbound register (`ntb_msg_read`, `ntb_msg_clear_sts`), if one lies there: the peer may send
    /// the next.
    ///
    /// # Errors
    /// [`BridgeError::NoMessages`], also for a register that there is not.
    fn message_take(&self, register: u8) -> Result<Option<u32>, BridgeError> {
        let _ = register;
        Err(BridgeError::NoMessages)
    }

    /// Puts a message into the peer's inbound register of the same number (`ntb_peer_msg_write`). Whether it went: it does not
    /// while the last one lies there, or the link is down.
    ///
    /// # Errors
    /// [`BridgeError::NoMessages`], also for a register that there is not.
    fn message_send(&self, register: u8, value: u32) -> Result<bool, BridgeError> {
        let _ = (register, value);
        Err(BridgeError::NoMessages)
    }

    /// Says what raises [`Events::messages`] (`ntb_msg_set_mask`, `ntb_msg_clear_mask`): bit n of `masked` for the arrival of a
    /// message in register n, bit 8 + n for outbound register n that has room again. After opening: nothing
    /// does.
    ///
    /// # Errors
    /// [`BridgeError::NoMessages`].
    fn messages_mask(&self, masked: u32) -> Result<(), BridgeError> {
        let _ = masked;
        Err(BridgeError::NoMessages)
    }

    // --- events -----------------------------------------------------------------------------------------------

    /// What has happened since the last call; never waits.
    ///
    /// # Errors
    /// When the device is gone.
    fn events(&self) -> Result<Events, BridgeError>;

    /// Readable (`poll`, `epoll`, `AsyncFd`) while [`events`](Self::events) has something to tell.
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// The eventfd of one doorbell vector, for a thread that waits for it alone. Who reads it takes the event from
    /// [`events`](Self::events).
    ///
    /// # Errors
    /// [`BridgeError::NoDoorbell`] for a vector that there is not.
    fn doorbell_fd(&self, vector: u8) -> Result<BorrowedFd<'_>, BridgeError>;

    /// Blocks until [`events`](Self::events) has something to tell, or the time is over; then there are none.
    ///
    /// # Errors
    /// When the device is gone.
    fn wait(&self, timeout: Duration) -> Result<Events, BridgeError>;
}
