//! What the transport needs of a host's side of the link.

/// One port of a bridge with scratchpads, memory windows and doorbells.
///
/// Offsets and lengths are bytes. The transport never asks for a range outside a window's
/// [`outbound_bytes`](Self::outbound_bytes), or outside what it gave to [`open_inbound`](Self::open_inbound).
///
/// A store into a window that is closed, or while the link is down, is dropped, as hardware does: that is no error. An
/// error says that the port itself fails; the transport passes it on at once and may be used again, with
/// [`link`](crate::Transport::link) down first.
pub trait Port {
    /// Why the port fails.
    type Error;

    /// Reads one of my scratchpads, which the peer writes.
    ///
    /// # Errors
    /// When the port fails.
    fn scratchpad(&mut self, index: usize) -> Result<u32, Self::Error>;

    /// Writes one of my scratchpads.
    ///
    /// # Errors
    /// When the port fails.
    fn set_scratchpad(&mut self, index: usize, value: u32) -> Result<(), Self::Error>;

    /// Writes one of the peer's scratchpads.
    ///
    /// # Errors
    /// When the port fails.
    fn set_peer_scratchpad(&mut self, index: usize, value: u32) -> Result<(), Self::Error>;

    /// Reads one of the peer's scratchpads, across the link: all ones while it is down. Asked for when a peer keeps the
    /// transport waiting, and never for a frame.
    ///
    /// # Errors
    /// When the port fails.
    fn peer_scratchpad(&mut self, index: usize) -> Result<u32, Self::Error>;

    /// Size of my window into the peer's memory.
    fn outbound_bytes(&self, window: usize) -> u64;

    /// Lets the peer write `bytes` bytes of memory of mine through its window.
    ///
    /// # Errors
    /// When there is no such memory, or the window cannot take so much: `bytes` is the peer's word.
    fn open_inbound(&mut self, window: usize, bytes: u64) -> Result<(), Self::Error>;

    /// Takes that memory from the peer's reach.
    ///
    /// # Errors
    /// When the port fails.
    fn close_inbound(&mut self, window: usize) -> Result<(), Self::Error>;

    /// Copies out of the memory that the peer writes.
    ///
    /// # Errors
    /// When the port fails.
    fn read_inbound(&mut self, window: usize, at: u64, out: &mut [u8]) -> Result<(), Self::Error>;

    /// Copies into the memory that the peer writes.
    ///
    /// # Errors
    /// When the port fails.
    fn write_inbound(&mut self, window: usize, at: u64, data: &[u8]) -> Result<(), Self::Error>;

    /// Stores into the peer's memory. Stores arrive in the order in which they are made.
    ///
    /// # Errors
    /// When the port fails.
    fn write_outbound(&mut self, window: usize, at: u64, data: &[u8]) -> Result<(), Self::Error>;

    /// Rings the peer's doorbells, one bit each, behind all stores made before.
    ///
    /// # Errors
    /// When the port fails.
    fn ring_peer(&mut self, doorbells: u64) -> Result<(), Self::Error>;
}
