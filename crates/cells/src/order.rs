//! Every ordering that is not relaxed, by name and with its partner.
//!
//! Each name is one place in the source. The loom tests run with each of them weakened alone, and demand that a model
//! fails: an ordering that can go without a failure is either not needed or not tested.

use shm::{LoadOrder, StoreOrder, Window, WindowError};

macro_rules! sites {
    ($($(#[$doc:meta])* $site:ident,)*) => {
        /// A place in the source where an access or a fence is ordered.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Site {
            $($(#[$doc])* $site,)*
        }

        impl Site {
            /// All of them.
            #[cfg(all(test, loom))]
            pub(crate) const ALL: &[Self] = &[$(Self::$site,)*];
        }
    };
}

sites! {
    /// fast: the header of a cell, store. Whoever takes the cell sees its data. Partner: `TakeCell`.
    PublishCell,
    /// fast: the header of a cell, load.
    TakeCell,
    /// fast: the count of cells taken, store. Whoever writes a cell anew comes after its reader. Partner: `SeeCredit`.
    GiveCredit,
    /// fast: the count of cells taken, load.
    SeeCredit,
    /// paper: the entry offset, store. Partner: `SeeEntry`.
    MoveEntry,
    /// paper: the entry offset, load.
    SeeEntry,
    /// paper: the exit offset, store. Partner: `SeeExit`.
    MoveExit,
    /// paper: the exit offset, load.
    SeeExit,
    /// The sender between publishing and asking whether the receiver sleeps. Partner: `GoToSleep`.
    LookForSleeper,
    /// The receiver between saying that it sleeps and looking for a cell once more.
    GoToSleep,
    /// The receiver between freeing cells and asking whether the sender waits. Partner: `GoToWait`.
    LookForWaiter,
    /// The sender between saying that it waits and counting free cells once more.
    GoToWait,
    /// An announcement's state, store: its fields, and the ring behind them, are ready. Partner: `SeeAnnouncement`.
    Announce,
    /// An announcement's state, load.
    SeeAnnouncement,
    /// Between withdrawing an announcement and writing the next one in its place. Partner: `ReadTwice`.
    TakeBack,
    /// Between reading an announcement's fields and looking whether it is still the same.
    ReadTwice,
}

pub(crate) fn acquire(site: Site) -> LoadOrder {
    if weakened(site) { LoadOrder::Relaxed } else { LoadOrder::Acquire }
}

pub(crate) fn release(site: Site) -> StoreOrder {
    if weakened(site) { StoreOrder::Relaxed } else { StoreOrder::Release }
}

/// The processor's full fence: what was stored before is stored before what follows is loaded.
pub(crate) fn fence(site: Site) {
    if !weakened(site) {
        shm::full_fence();
    }
}

/// The full fence that holds across a bridge too.
pub(crate) fn settle(site: Site, window: &impl Window) -> Result<(), WindowError> {
    if weakened(site) { Ok(()) } else { window.settle() }
}

#[cfg(not(loom))]
const fn weakened(_site: Site) -> bool {
    false
}

/// The name of the ordering to weaken, for the process that runs the models.
#[cfg(loom)]
pub(crate) const WEAKEN: &str = "CELLS_WEAKEN";

#[cfg(loom)]
fn weakened(site: Site) -> bool {
    static WEAKENED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let name = WEAKENED.get_or_init(|| std::env::var(WEAKEN).ok());
    name.as_deref().is_some_and(|name| name == format!("{site:?}"))
}
