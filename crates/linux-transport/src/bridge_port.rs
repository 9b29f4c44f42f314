//! A [`Port`] over a bridge: what the transport asks for, said to [`ntb::Bridge`].

use crate::port::Port;
use ntb::{Bridge, BridgeError, Inbound, Memory, Outbound, StoreOrder, Window, WindowError};
use std::sync::Arc;

/// Why a port over a bridge fails.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The bridge.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// Memory of my own; a window that is closed is no error.
    #[error("window {window}")]
    Window {
        /// Which.
        window: usize,
        /// Why.
        source: WindowError,
    },
}

/// One port of a bridge as the transport uses it.
#[derive(Debug)]
pub struct BridgePort {
    bridge: Arc<dyn Bridge>,
    windows: Vec<Pair>,
}

/// Both directions of a window.
#[derive(Debug)]
struct Pair {
    bytes: u64,
    outbound: Outbound,
    inbound: Option<Inbound>,
}

impl BridgePort {
    /// Takes the windows of a bridge; nothing is opened yet.
    ///
    /// # Errors
    /// When a window cannot be had.
    pub fn new(bridge: Arc<dyn Bridge>) -> Result<Self, PortError> {
        let one = |window| {
            let outbound = bridge.outbound(window)?;
            let bytes = u64::try_from(Window::bytes(&outbound)).unwrap_or(u64::MAX);
            Ok(Pair { bytes, outbound, inbound: None })
        };
        let windows = (0..bridge.window_count()).map(one).collect::<Result<_, BridgeError>>()?;
        Ok(Self { bridge, windows })
    }

    /// The bridge.
    #[must_use]
    pub fn bridge(&self) -> &Arc<dyn Bridge> {
        &self.bridge
    }

    /// Whether the link was down since the windows were asked for.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.windows.iter().any(|pair| !pair.outbound.is_current())
    }

    /// Asks for the windows again, after the link was down.
    ///
    /// # Errors
    /// When a window cannot be had.
    pub fn renew(&mut self) -> Result<(), PortError> {
        for (window, pair) in self.windows.iter_mut().enumerate() {
            pair.outbound = self.bridge.outbound(window)?;
        }
        Ok(())
    }

    fn pair(&mut self, window: usize) -> Result<&mut Pair, PortError> {
        let count = self.windows.len();
        self.windows.get_mut(window).ok_or(PortError::Bridge(BridgeError::NoWindow { window, count }))
    }

    fn inbound(&mut self, window: usize) -> Result<&Inbound, PortError> {
        let inbound = self.pair(window)?.inbound.as_ref();
        inbound.ok_or(PortError::Window { window, source: WindowError::Closed })
    }
}

fn offset(window: usize, at: u64) -> Result<usize, PortError> {
    usize::try_from(at).map_err(|_| PortError::Window { window, source: WindowError::OutOfBounds })
}

fn scratchpad(index: usize) -> u8 {
    // One that there is not is refused by the bridge, by its number.
    u8::try_from(index).unwrap_or(u8::MAX)
}

impl Port for BridgePort {
    type Error = PortError;

    fn scratchpad(&mut self, index: usize) -> Result<u32, PortError> {
        Ok(self.bridge.scratchpad(scratchpad(index))?)
    }

    fn set_scratchpad(&mut self, index: usize, value: u32) -> Result<(), PortError> {
        Ok(self.bridge.scratchpad_write(scratchpad(index), value)?)
    }

    fn set_peer_scratchpad(&mut self, index: usize, value: u32) -> Result<(), PortError> {
        Ok(self.bridge.peer_scratchpad_write(scratchpad(index), value)?)
    }

    fn peer_scratchpad(&mut self, index: usize) -> Result<u32, PortError> {
        Ok(self.bridge.peer_scratchpad(scratchpad(index))?)
    }

    fn outbound_bytes(&self, window: usize) -> u64 {
        self.windows.get(window).map_or(0, |pair| pair.bytes)
    }

    fn open_inbound(&mut self, window: usize, bytes: u64) -> Result<(), PortError> {
        let inbound = self.bridge.inbound(window, bytes)?;
        self.pair(window)?.inbound = Some(inbound);
        Ok(())
    }

    fn close_inbound(&mut self, window: usize) -> Result<(), PortError> {
        self.pair(window)?.inbound = None;
        Ok(())
    }

    fn read_inbound(&mut self, window: usize, at: u64, out: &mut [u8]) -> Result<(), PortError> {
        let at = offset(window, at)?;
        self.inbound(window)?.read(at, out).map_err(|source| PortError::Window { window, source })
    }

    fn write_inbound(&mut self, window: usize, at: u64, data: &[u8]) -> Result<(), PortError> {
        let at = offset(window, at)?;
        self.inbound(window)?.write(at, data).map_err(|source| PortError::Window { window, source })
    }

    fn write_outbound(&mut self, window: usize, at: u64, data: &[u8]) -> Result<(), PortError> {
        let at = offset(window, at)?;
        let outbound = &self.pair(window)?.outbound;
        let stored = match <[u8; 4]>::try_from(data) {
            // A flag, or a slot's number: behind everything else, and whole.
            Ok(word) if at.is_multiple_of(4) => outbound
                .flush()
                .and_then(|()| outbound.store_u32(at, u32::from_le_bytes(word), StoreOrder::Release)),
            _ => outbound.write(at, data),
        };
        match stored {
            // The link is down: what is stored now is lost, as hardware loses it.
            Err(WindowError::Closed) => Ok(()),
            stored => stored.map_err(|source| PortError::Window { window, source }),
        }
    }

    fn ring_peer(&mut self, doorbells: u64) -> Result<(), PortError> {
        Ok(self.bridge.ring(doorbells)?)
    }
}
