//! The memory of lanes: the parts of window 1, each a file of its own.
//!
//! ```text
//!   0                     receive_bytes                       lanes × receive_bytes
//!   │ receive area 0      │ receive area 1  │ ..              │ return area 0 │ return area 1 │ ..
//!   └ lane 0 to this host: the peer's sender stores here      └ lane 0 from this host: the peer's receiver stores here
//! ```
//!
//! A part that somebody has had is never used again: the next one gets a fresh file at its place. So a process that keeps the
//! memory of a lane that it gave back reaches nothing of anybody's, and lanes are always zero when they begin.

use ntb::{Bridge, BridgeError, DividedMemory, FunctionError, Outbound};
use shm::SharedFile;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vi::lane::{BadGeometry, Geometry};

/// The window that carries lanes.
const WINDOW: usize = 1;
/// The most lanes: each takes two files, and a window is told of all of them in one message.
pub(crate) const MOST_LANES: u16 = 96;

/// Why there is no room for lanes.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The bridge.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// The device.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// No lane has this shape.
    #[error(transparent)]
    Geometry(#[from] BadGeometry),
    /// Too many, or none.
    #[error("{0} lanes: 4 to {MOST_LANES} are possible")]
    Lanes(u16),
    /// The window is too small.
    #[error(
        "a window of {window} bytes has no room for {lanes} lanes of {lane} bytes: give the twin a larger --mw-size, or choose fewer --lanes or --buffers"
    )]
    Window {
        /// Its length.
        window: u64,
        /// Lanes in each direction.
        lanes: u16,
        /// What one takes.
        lane: u64,
    },
    /// One window, or windows that are messages.
    #[error(
        "lanes for processes need two windows that are the peer's own memory: start the twin with --window direct, and give its --control socket"
    )]
    Mode,
    /// No memory.
    #[error("no memory for lanes")]
    Memory(#[from] std::io::Error),
}

/// One part of the window.
#[derive(Debug)]
struct Part {
    at: u64,
    bytes: u64,
    file: Arc<SharedFile>,
    /// Somebody has had it.
    used: bool,
}

#[derive(Debug)]
pub(super) struct Pool {
    bridge: Arc<dyn Bridge>,
    memory: DividedMemory,
    geometry: Geometry,
    receive: Vec<Part>,
    returns: Vec<Part>,
    outbound: Option<Outbound>,
}

impl Pool {
    pub(super) fn open(bridge: Arc<dyn Bridge>, geometry: Geometry, lanes: u16) -> Result<Self, PoolError> {
        let geometry = geometry.check()?;
        if !(4..=MOST_LANES).contains(&lanes) {
            return Err(PoolError::Lanes(lanes));
        }
        if bridge.window_count() <= WINDOW {
            return Err(PoolError::Mode);
        }
        let align = bridge.window_align(WINDOW)?;
        let (receive_bytes, return_bytes) = (geometry.receive_bytes(), geometry.return_bytes());
        let lane = receive_bytes.saturating_add(return_bytes);
        let bytes = lane.saturating_mul(lanes.into());
        if bytes > align.max_bytes {
            return Err(PoolError::Window { window: align.max_bytes, lanes, lane });
        }
        if bridge.outbound(WINDOW)?.memory().is_none() {
            return Err(PoolError::Mode);
        }
        let memory = bridge.dma_divide(bytes, align.address_bytes)?;
        let parts = |first: u64, bytes: u64| -> Result<Vec<Part>, PoolError> {
            let mut parts = Vec::new();
            for number in 0..u64::from(lanes) {
                let at = first.saturating_add(number.saturating_mul(bytes));
                parts.push(Part { at, bytes, file: plant(&memory, at, bytes)?, used: false });
            }
            Ok(parts)
        };
        let receive = parts(0, receive_bytes)?;
        let returns = parts(receive_bytes.saturating_mul(lanes.into()), return_bytes)?;
        bridge.set_translation(WINDOW, memory.address(), bytes)?;
        Ok(Self { bridge, memory, geometry, receive, returns, outbound: None })
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) fn lanes(&self) -> usize {
        self.receive.len()
    }

    /// The way into the peer's lanes, for a link that is up.
    pub(super) fn connect(&mut self) -> Result<(), BridgeError> {
        self.outbound = Some(self.bridge.outbound(WINDOW)?);
        Ok(())
    }

    /// Fresh memory for what comes on a lane.
    pub(super) fn receive_area(&mut self, lane: u16) -> Result<Arc<SharedFile>, PoolError> {
        fresh(&self.memory, self.receive.get_mut(usize::from(lane)))
    }

    /// Fresh memory for what comes back to the sender of a lane.
    pub(super) fn return_area(&mut self, lane: u16) -> Result<Arc<SharedFile>, PoolError> {
        fresh(&self.memory, self.returns.get_mut(usize::from(lane)))
    }

    /// The peer's memory that a lane from here is received in.
    pub(super) fn peer_receive_area(&self, lane: u16) -> Option<Arc<OwnedFd>> {
        self.peer(self.receive.get(usize::from(lane))?)
    }

    /// The peer's memory that what this end returns on a lane goes to.
    pub(super) fn peer_return_area(&self, lane: u16) -> Option<Arc<OwnedFd>> {
        self.peer(self.returns.get(usize::from(lane))?)
    }

    /// Both ends have the same layout, so the peer's part lies where ours does.
    fn peer(&self, part: &Part) -> Option<Arc<OwnedFd>> {
        let (file, offset) = self.outbound.as_ref()?.under(part.at)?;
        // A part is a whole file: one that is a piece of something larger would give away the rest.
        (offset == 0).then_some(file)
    }
}

fn fresh(memory: &DividedMemory, part: Option<&mut Part>) -> Result<Arc<SharedFile>, PoolError> {
    let part = part.ok_or(PoolError::Lanes(u16::MAX))?;
    if part.used {
        memory.uproot(part.at, part.bytes)?;
        part.file = plant(memory, part.at, part.bytes)?;
    }
    part.used = true;
    Ok(Arc::clone(&part.file))
}

fn plant(memory: &DividedMemory, at: u64, bytes: u64) -> Result<Arc<SharedFile>, PoolError> {
    let file = SharedFile::create("isthmus lane", bytes)?;
    memory.plant(at, &file)?;
    Ok(Arc::new(file))
}

impl Drop for Pool {
    fn drop(&mut self) {
        // The window first, then the memory under it.
        if let Err(error) = self.bridge.clear_translation(WINDOW) {
            tracing::debug!(%error, "the window was not closed");
        }
    }
}
