//! Each place where a lane relies on memory order has a name here.
//!
//! In loom's model a place can be weakened, one at a time, and then the model must fail: an order that no test misses
//! is either not needed or not tested.

use shm::{LoadOrder, StoreOrder, Window, WindowError};

/// A place that relies on order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    /// The store of a tag, after the frame.
    PublishEvent,
    /// The load of a tag, before the frame.
    SeeEvent,
    /// The store of credit, after the slots were read.
    ReturnCredit,
    /// The load of credit, before the slots are written again.
    SeeCredit,
    /// The store of a posted buffer, after its frame was read.
    PostBuffer,
    /// The load of a posted buffer, before it is written again.
    SeeBuffer,
    /// The fence of a receiver between arming and the last look.
    Arm,
    /// The fence of a sender between publishing and the look whether the lane is armed.
    LookArmed,
}

#[cfg(not(loom))]
mod strength {
    use super::Site;

    #[inline(always)]
    pub(super) fn weak(_: Site) -> bool {
        false
    }
}

#[cfg(loom)]
pub(crate) mod strength {
    use super::Site;
    use std::sync::Mutex;

    static WEAK: Mutex<Option<Site>> = Mutex::new(None);

    /// Weakens one place for the models that follow.
    pub(crate) fn weaken(site: Option<Site>) {
        *WEAK.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = site;
    }

    pub(super) fn weak(site: Site) -> bool {
        *WEAK.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) == Some(site)
    }
}

#[inline(always)]
pub(crate) fn release(site: Site) -> StoreOrder {
    if strength::weak(site) { StoreOrder::Relaxed } else { StoreOrder::Release }
}

#[inline(always)]
pub(crate) fn acquire(site: Site) -> LoadOrder {
    if strength::weak(site) { LoadOrder::Relaxed } else { LoadOrder::Acquire }
}

/// The receiver's fence, across the bridge.
#[inline]
pub(crate) fn settle(site: Site, window: &impl Window) -> Result<(), WindowError> {
    if strength::weak(site) { Ok(()) } else { window.settle() }
}

/// The sender's fence, of its own processor.
#[inline]
pub(crate) fn fence(site: Site) {
    if !strength::weak(site) {
        shm::full_fence();
    }
}
