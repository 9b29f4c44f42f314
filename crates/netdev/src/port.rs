//! A port of a bridge that several queues share: who hears of the link and of doorbells, and tells the others.
//!
//! ```text
//!   bridge events ──▶ look() ──┬─ link up:   new windows, a new cells::Link, next epoch ──▶ every queue opens its channel
//!   (queue 0's thread)         ├─ link down: no Link, next epoch ──▶ every queue drains and closes
//!                              └─ doorbell n ──▶ the bell of queue n
//! ```

use crate::cells_link::CellsLink;
use crate::link::Offer;
use cells::{Alarm, Bell, BellFailed, EventBell, Geometry, OpenError, Profile, Regions};
use ntb::{Bridge, BridgeError, Inbound, Outbound, Speed, Width};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The window that carries the frames.
const WINDOW: usize = 0;

/// How a port is used.
#[derive(Debug, Clone)]
pub struct PortOptions {
    /// What this end brings.
    pub offer: Offer,
    /// Which of the two frameworks carries the frames; both ends must choose the same.
    pub profile: Profile,
    /// How often the device is looked at while nothing moves: a twin that ends tells nobody.
    pub heartbeat: Duration,
}

/// Why a port cannot carry frames.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The bridge.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// More queues than doorbells.
    #[error("{queues} queues need a doorbell each, and there are {doorbells}")]
    Doorbells {
        /// How many were asked for.
        queues: u16,
        /// How many there are.
        doorbells: u32,
    },
    /// The window is too small.
    #[error(
        "a window of {window} bytes has no room for {queues} rings with frames of {frame} bytes: give the twin a larger --mw-size, or choose a smaller --mtu or fewer --queues"
    )]
    Window {
        /// Its length.
        window: usize,
        /// How many rings share it.
        queues: u16,
        /// The longest frame.
        frame: usize,
    },
    /// No descriptors left.
    #[error("no eventfd for a queue")]
    Eventfd(#[from] io::Error),
}

/// The rings over this bridge's link.
pub(crate) type Rings = cells::Link<Outbound, Inbound>;

/// What the queues of a port have in common.
#[derive(Debug)]
pub(crate) struct Port {
    bridge: Arc<dyn Bridge>,
    inbound: Arc<Inbound>,
    /// What of it the channels hold, those of an earlier epoch too.
    regions: Regions,
    /// Changes with every change of `way`.
    epoch: AtomicU64,
    way: Mutex<Way>,
    queues: Vec<QueueBells>,
    heartbeat: Duration,
    looked: Mutex<Instant>,
}

/// The way to the peer.
#[derive(Debug)]
enum Way {
    Closed,
    Open {
        outbound: Arc<Outbound>,
        rings: Arc<Rings>,
    },
    /// The device does not answer any more.
    Gone(String),
}

#[derive(Debug)]
struct QueueBells {
    /// What the queue's thread sleeps on.
    bell: EventBell,
    /// The queue's doorbell at the device, one bit.
    doorbell: u64,
    /// It was rung, and is not cleared yet: until it is, it does not ring again.
    rung: AtomicBool,
}

/// Takes a port into use: a window for the peer, a doorbell for each queue, and the link. Returns one link of frames for each
/// queue; the first must have a thread, since it hears for the others.
///
/// # Errors
/// [`PortError`].
pub fn open_cells(bridge: Arc<dyn Bridge>, options: &PortOptions) -> Result<Vec<CellsLink>, PortError> {
    let queues = options.offer.queues;
    let valid = bridge.doorbell_valid_mask();
    if u32::from(queues) > valid.count_ones() {
        return Err(PortError::Doorbells { queues, doorbells: valid.count_ones() });
    }
    let bits = (0..u64::BITS).filter_map(|bell| 1_u64.checked_shl(bell)).filter(|bit| valid & bit != 0);
    let mut bells = Vec::new();
    for doorbell in bits.take(queues.into()) {
        bells.push(QueueBells { bell: EventBell::new()?, doorbell, rung: AtomicBool::new(false) });
    }
    let window_bytes = bridge.window_align(WINDOW)?.max_bytes;
    let inbound = Arc::new(bridge.inbound(WINDOW, window_bytes)?);
    let window = usize::try_from(window_bytes).unwrap_or(usize::MAX);
    let frame = options.offer.offload.frame_bytes_max(options.offer.mtu);
    let geometry =
        ring(options.profile, window, queues, frame).ok_or(PortError::Window { window, queues, frame })?;
    let doorbells = bells.iter().fold(0, |bits, queue| bits | queue.doorbell);
    bridge.doorbells_clear(doorbells)?;
    bridge.doorbells_unmask(doorbells)?;
    let port = Arc::new(Port {
        bridge,
        inbound,
        regions: Regions::default(),
        epoch: AtomicU64::new(0),
        way: Mutex::new(Way::Closed),
        queues: bells,
        heartbeat: options.heartbeat,
        looked: Mutex::new(Instant::now()),
    });
    let links = (0..port.queues.len())
        .map(|queue| CellsLink::new(Arc::clone(&port), queue, geometry, options.offer))
        .collect::<io::Result<_>>()?;
    port.bridge.link_enable(Speed::Auto, Width::Auto)?;
    Ok(links)
}

/// The largest ring of which so many fit into the window, if it carries the frame; at least two of the longest frames are to fit.
fn ring(profile: Profile, window_bytes: usize, queues: u16, frame_bytes: usize) -> Option<Geometry> {
    const FAST_CELL_BYTES: u32 = 4096;
    // The directory of channels, and the words before each ring.
    let share = window_bytes.saturating_sub(4096).checked_div(queues.into())?.saturating_sub(4096);
    let fits = |geometry: &Geometry| {
        geometry.region_bytes() <= share && geometry.longest_frame() >= frame_bytes.saturating_mul(2)
    };
    match profile {
        Profile::Fast => (1..=14)
            .rev()
            .filter_map(|power| Geometry::fast(1_u32.checked_shl(power)?, FAST_CELL_BYTES).ok())
            .find(fits),
        Profile::Paper => {
            let cells = u32::try_from(share / 750).unwrap_or(u32::MAX).saturating_sub(1).min(1 << 14);
            Geometry::paper(cells).ok().filter(fits)
        }
    }
}

impl Port {
    pub(crate) fn epoch(&self) -> u64 {
        // Pairs with the Release in `change`: whoever sees the number finds the way that belongs to it, or a later one.
        self.epoch.load(Ordering::Acquire)
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rings of this epoch, if the link is up.
    ///
    /// # Errors
    /// When the device is gone.
    pub(crate) fn rings(&self) -> io::Result<Option<Arc<Rings>>> {
        match &*self.way() {
            Way::Closed => Ok(None),
            Way::Open { rings, .. } => Ok(Some(Arc::clone(rings))),
            Way::Gone(why) => Err(io::Error::new(io::ErrorKind::NotConnected, why.clone())),
        }
    }

    /// Looks at what has happened at the device. Only the first queue's thread does.
    pub(crate) fn look(&self) {
        match self.bridge.events() {
            Ok(events) => {
                for queue in &self.queues {
                    if events.doorbells & queue.doorbell != 0 {
                        queue.rung.store(true, Ordering::Release);
                        // A bell of this process that cannot be rung is full, and wakes as well.
                        let _ = queue.bell.ring();
                    }
                }
                // A link that went down and came up unseen is no event, but its windows are stale.
                let stale = matches!(&*self.way(), Way::Open { outbound, .. } if !outbound.is_current());
                if let Some(link) = events.link {
                    self.link_is(link.up);
                } else if stale {
                    self.link_is(true);
                }
            }
            Err(error) => self.gone(&error),
        }
    }

    /// The same, and asks the device for its state if nobody has for a while.
    pub(crate) fn look_well(&self) {
        self.look();
        let due = {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            let due = looked.elapsed() >= self.heartbeat;
            if due {
                *looked = Instant::now();
            }
            due
        };
        if !due {
            return;
        }
        let differs = |link: ntb::Link| link.up != matches!(&*self.way(), Way::Open { .. });
        match self.bridge.link() {
            // Its event was there before the answer, and the event counts for more: with it goes which windows are stale.
            Ok(link) if differs(link) => {
                self.look();
                match self.bridge.link() {
                    Ok(link) if differs(link) => self.link_is(link.up),
                    Ok(_) => {}
                    Err(error) => self.gone(&error),
                }
            }
            Ok(_) => {}
            Err(error) => self.gone(&error),
        }
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    fn link_is(&self, up: bool) {
        let way = if up {
            match self.open() {
                Ok(way) => way,
                Err(error) => {
                    tracing::error!(%error, "the link is up, and cannot be used");
                    Way::Closed
                }
            }
        } else {
            Way::Closed
        };
        self.change(way);
    }

    fn open(&self) -> Result<Way, OpenFailed> {
        let outbound = Arc::new(self.bridge.outbound(WINDOW)?);
        let (out, own) = (Arc::clone(&outbound), Arc::clone(&self.inbound));
        let rings = cells::Link::with(out, own, self.regions.clone())?;
        Ok(Way::Open { outbound, rings })
    }

    fn gone(&self, error: &BridgeError) {
        if !matches!(&*self.way(), Way::Gone(_)) {
            self.change(Way::Gone(format!("the device is gone: {error}")));
        }
    }

    fn change(&self, way: Way) {
        // The old way is dropped outside the lock: that closes channels, which ring bells.
        let old = std::mem::replace(&mut *self.way(), way);
        self.epoch.fetch_add(1, Ordering::Release);
        for queue in &self.queues {
            let _ = queue.bell.ring();
        }
        drop(old);
    }

    /// A queue is about to sleep: its doorbell may ring again. What it announced is looked at after this.
    pub(crate) fn clear(&self, queue: usize) {
        let Some(queue) = self.queues.get(queue) else { return };
        if queue.rung.swap(false, Ordering::AcqRel)
            && let Err(error) = self.bridge.doorbells_clear(queue.doorbell)
        {
            self.gone(&error);
        }
    }

    /// What the queue's thread sleeps on, beside the device.
    pub(crate) fn bell(&self, queue: usize) -> Option<&EventBell> {
        self.queues.get(queue).map(|queue| &queue.bell)
    }

    /// The descriptor of the device's events.
    pub(crate) fn device(&self) -> impl AsFd + '_ {
        self.bridge.event_fd()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Err(error) = self.bridge.link_disable() {
            tracing::debug!(%error, "the link was not taken down");
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum OpenFailed {
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    #[error(transparent)]
    Rings(#[from] OpenError),
}

/// A queue's doorbells as its channel sees them. One bell serves its sender and its receiver, which are one thread.
#[derive(Debug)]
pub(crate) struct QueueBell {
    port: Arc<Port>,
    queue: usize,
}

impl QueueBell {
    pub(crate) fn new(port: Arc<Port>, queue: usize) -> Self {
        Self { port, queue }
    }
}

impl Bell for QueueBell {
    fn ring(&self) -> Result<(), BellFailed> {
        let queue = self.port.queues.get(self.queue).ok_or(BellFailed)?;
        self.port.bridge.ring(queue.doorbell).map_err(|_| BellFailed)
    }
}

impl Alarm for QueueBell {
    /// The pump sleeps by itself; this is for callers that wait inside the channel.
    fn sleep(&self, limit: Option<Duration>) -> Result<bool, BellFailed> {
        let bell = self.port.bell(self.queue).ok_or(BellFailed)?;
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        poll(&mut fds, limit.as_ref()).map(|ready| ready > 0).map_err(|_| BellFailed)
    }

    fn rouse(&self) -> Result<(), BellFailed> {
        self.port.bell(self.queue).ok_or(BellFailed)?.ring()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_as_large_as_the_window_allows() {
        let ring_in = |profile, window, queues| ring(profile, window, queues, 65_551);
        assert_eq!(ring_in(Profile::Fast, 4 << 20, 1).map(|ring| ring.cells()), Some(512));
        assert_eq!(ring_in(Profile::Fast, 1 << 20, 2).map(|ring| ring.cells()), Some(64));
        assert_eq!(ring_in(Profile::Fast, 64 << 10, 1), None);
        assert_eq!(ring_in(Profile::Fast, 4 << 20, 0), None);
        let paper = ring_in(Profile::Paper, 1 << 20, 1).unwrap();
        assert!(paper.region_bytes() < 1 << 20 && paper.cells() > 1300, "{paper:?}");
    }
}
