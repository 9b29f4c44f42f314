//! Waiting for a bridge in tokio.

use crate::{Bridge, BridgeError, Events};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The events of a bridge, for a task of tokio. It is their one consumer.
///
/// The bridge's other methods are calls that return at once over a mapped window, and after a system call or a message and its answer
/// over vfio-user: some microseconds, as short as most of what tasks do between two awaits.
#[derive(Debug)]
pub struct AsyncEvents {
    fd: AsyncFd<OwnedFd>,
    bridge: Arc<dyn Bridge>,
}

impl AsyncEvents {
    /// Registers a bridge's descriptor with the runtime of the calling task.
    ///
    /// # Errors
    /// [`BridgeError::Wait`] when the descriptor cannot be registered.
    ///
    /// # Panics
    /// Outside a runtime of tokio that has I/O enabled, as [`AsyncFd`] does.
    pub fn new(bridge: Arc<dyn Bridge>) -> Result<Self, BridgeError> {
        let fd = bridge.event_fd().try_clone_to_owned().map_err(BridgeError::Wait)?;
        #[expect(
            deprecated,
            reason = "its successor is an unsafe fn; an OwnedFd is closed by its one owner, which is this AsyncFd"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE).map_err(BridgeError::Wait)?;
        Ok(Self { fd, bridge })
    }

    /// The next events; never empty. Cancelling it loses none.
    ///
    /// # Errors
    /// When the device is gone.
    pub async fn next(&self) -> Result<Events, BridgeError> {
        loop {
            let mut ready = self.fd.readable().await.map_err(BridgeError::Wait)?;
            let events = self.bridge.events()?;
            // Clears what was seen when `readable` returned; what came after that makes it readable again.
            ready.clear_ready();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}
