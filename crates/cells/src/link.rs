//! A link: two windows, a directory in each, and the channels that share them by name.
//!
//! ```text
//!   my memory (inbound)                     the peer's memory (outbound)
//!   directory: what the peer announces      directory: what I announce
//!   regions: my rings                       regions: the peer's rings
//! ```
//!
//! **How a channel comes up.** Each side announces its region, and its generation: a number that no earlier session
//! had. Whoever sees a new generation of the peer empties its own ring and answers by announcing again, with that
//! generation beside its own. A side may send once the peer has answered its own generation. So a ring is emptied only
//! after its sender has stopped, also when both start anew at the same moment.

use crate::bell::{Alarm, Bell};
use crate::carry::{Carrier, Placement};
use crate::channel::{Channel, Session};
use crate::directory::{Announcement, Slot, State, profile_of, withdraw};
use crate::fault::Fault;
use crate::flow::{Inflow, Outflow, Wake};
use crate::layout::{
    ARMED, BadGeometry, CREDIT, DIRECTORY_BYTES, DIRECTORY_SLOTS, Geometry, LAYOUT_VERSION, MAGIC,
    NAME_BYTES, PROBE, Profile, REGION_ALIGN, SLOT_BYTES, WANTED,
};
use crate::region::Ends;
use crate::{fast, paper};
use shm::{Memory, StoreOrder, Window, WindowKind};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The doorbells of one end of a channel: two in each direction, since its sender and its receiver may sleep at once.
#[derive(Clone)]
pub struct Bells {
    /// Wakes the peer's receiver.
    pub peer_receiver: Arc<dyn Bell>,
    /// Wakes the peer's sender.
    pub peer_sender: Arc<dyn Bell>,
    /// What my receiver sleeps on.
    pub my_receiver: Arc<dyn Alarm>,
    /// What my sender sleeps on.
    pub my_sender: Arc<dyn Alarm>,
}

impl std::fmt::Debug for Bells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bells")
    }
}

/// How this side wants a channel.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The ring that this side receives in.
    pub geometry: Geometry,
    /// Longest frame in bytes that this side takes; no longer than the ring.
    pub longest_frame: usize,
    /// Doorbells to sleep on; none: both ends of this side poll, as published.
    pub bells: Option<Bells>,
    /// How often the adaptive mode polls before it sleeps.
    pub polls: u32,
    /// Where the peer is, as far as copies care.
    pub placement: Placement,
    /// Whether [`Opening::wait`] measures that instead, if the peer does too: it costs some microseconds, or up to
    /// half a second if the peer does not answer.
    pub measure: bool,
}

impl Setup {
    /// Frames as long as the ring, polling, the peer near.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            longest_frame: geometry.longest_frame(),
            bells: None,
            polls: 2000,
            placement: Placement::Near,
            measure: false,
        }
    }
}

/// Why a channel is not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A name that does not fit.
    #[error("a channel's name has 1 to {NAME_BYTES} bytes, not {0}")]
    Name(usize),
    /// The name is in use on this side.
    #[error("a channel {0:?} is open already")]
    NameTaken(String),
    /// The directory is full.
    #[error("a link carries {DIRECTORY_SLOTS} channels, and so many are open")]
    NoSlot,
    /// The window is full.
    #[error("a region of {needs} bytes does not fit into what is left of a window of {window} bytes")]
    NoRoom {
        /// What the ring takes.
        needs: usize,
        /// Length of the window.
        window: usize,
    },
    /// `paper` reads across the bridge.
    #[error("the profile paper reads the peer's exit offset where it lies: it needs a mapped window")]
    NeedsMapped,
    /// What the peer has announced is not of this layout.
    #[error(
        "the peer's directory begins with {found:#018x}, not with {MAGIC:#010x} and layout version {LAYOUT_VERSION}: \
         both sides must run the same layout"
    )]
    Stranger {
        /// Its first word: magic number, and version in the upper half.
        found: u64,
    },
    /// The peer runs the other framework.
    #[error("the peer opens {name:?} with profile {theirs}, this side with {mine}")]
    Profile {
        /// The channel.
        name: String,
        /// The peer's, by name or number.
        theirs: String,
        /// Ours.
        mine: Profile,
    },
    /// The peer announces a ring that cannot be.
    #[error("the peer announces a ring that cannot be")]
    Geometry(#[from] BadGeometry),
    /// The peer's ring does not lie in the window.
    #[error("the peer announces a region at {region:#x} of {bytes:#x} bytes in a window of {window:#x}")]
    Region {
        /// Where it is said to begin.
        region: u64,
        /// What its ring takes.
        bytes: usize,
        /// Length of the window.
        window: usize,
    },
    /// An access failed.
    #[error("the windows cannot be used")]
    Fault(#[from] Fault),
    /// Time is up.
    #[error("the peer did not open {name:?} within {waited:?}: {seen}")]
    TimedOut {
        /// The channel.
        name: String,
        /// How long this side has waited.
        waited: Duration,
        /// What was seen of the peer.
        seen: &'static str,
    },
}

/// One end of a link.
#[derive(Debug)]
pub struct Link<O, I> {
    pub(crate) out: Arc<O>,
    pub(crate) own: Arc<I>,
    regions: Regions,
    faults: AtomicU64,
}

/// Which slots and regions of my memory are in use. A link that is made anew over the same memory, because the bridge's
/// link came up again, shares them with the one before: channels of that one may still be read to their end, and what they
/// hold is not given to others.
#[derive(Debug, Clone, Default)]
pub struct Regions(Arc<Mutex<Ledger>>);

#[derive(Debug, Default)]
struct Ledger {
    channels: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    slot: usize,
    from: usize,
    end: usize,
}

impl<O: Window, I: Memory> Link<O, I> {
    /// Takes both windows: `out` reaches the peer's memory, `own` is what the peer stores into. Announcements of an
    /// earlier process of this side are withdrawn.
    ///
    /// # Errors
    /// [`OpenError`] when a window is too small for a directory, or closed.
    pub fn new(out: Arc<O>, own: Arc<I>) -> Result<Arc<Self>, OpenError> {
        Self::with(out, own, Regions::default())
    }

    /// The same over memory that an earlier link may still have channels in, with its [`Regions`].
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(out: Arc<O>, own: Arc<I>, regions: Regions) -> Result<Arc<Self>, OpenError> {
        for window in [out.bytes(), own.bytes()] {
            if window < DIRECTORY_BYTES {
                return Err(OpenError::NoRoom { needs: DIRECTORY_BYTES, window });
            }
        }
        for slot in 0..DIRECTORY_SLOTS {
            withdraw(&*out, slot.wrapping_mul(SLOT_BYTES))?;
        }
        Ok(Arc::new(Self { out, own, regions, faults: AtomicU64::new(0) }))
    }

    /// Opens a channel; it comes up once the peer opens one of the same name.
    ///
    /// # Errors
    /// [`OpenError`] when this side cannot have it, whatever the peer does.
    pub fn open(self: &Arc<Self>, name: &str, setup: Setup) -> Result<Opening<O, I>, OpenError> {
        let generation = loop {
            let [a, b, c, d, ..] = RandomState::new().hash_one(name).to_le_bytes();
            match u32::from_le_bytes([a, b, c, d]) {
                0 => {}
                random => break random,
            }
        };
        self.open_as(name, setup, generation)
    }

    /// The same with a generation that a test chose.
    pub(crate) fn open_as(
        self: &Arc<Self>,
        name: &str,
        setup: Setup,
        generation: u32,
    ) -> Result<Opening<O, I>, OpenError> {
        if name.is_empty() || name.len() > NAME_BYTES {
            return Err(OpenError::Name(name.len()));
        }
        let paper = setup.geometry.profile() == Profile::Paper;
        if paper && (self.out.kind() != WindowKind::Mapped || self.out.as_memory().is_none()) {
            return Err(OpenError::NeedsMapped);
        }
        let place = self.reserve(name, setup.geometry.region_bytes())?;
        let opening = Opening {
            link: Arc::clone(self),
            name: name.to_owned(),
            setup,
            place,
            generation,
            seen: None,
            looked: "it has announced nothing",
        };
        opening.announce(0)?;
        Ok(opening)
    }

    /// Channels of this end that failed since it was made.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    pub(crate) fn count_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Each change is complete in itself, so a thread that died left nothing half done.
        self.regions.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(self: &Arc<Self>, name: &str, bytes: usize) -> Result<Place<O, I>, OpenError> {
        let mut ledger = self.ledger();
        if ledger.channels.iter().any(|entry| entry.name == name) {
            return Err(OpenError::NameTaken(name.to_owned()));
        }
        let taken = |slot: &usize| ledger.channels.iter().any(|entry| entry.slot == *slot);
        let slot = (0..DIRECTORY_SLOTS).find(|slot| !taken(slot)).ok_or(OpenError::NoSlot)?;
        let window = self.own.bytes();
        let no_room = OpenError::NoRoom { needs: bytes, window };
        // First fit: channels are few and live long.
        let mut from = DIRECTORY_BYTES;
        let mut at = ledger.channels.len();
        for (index, entry) in ledger.channels.iter().enumerate() {
            if entry.from.saturating_sub(from) >= bytes {
                at = index;
                break;
            }
            from = entry.end.checked_next_multiple_of(REGION_ALIGN).ok_or(no_room.clone())?;
        }
        let end = from.checked_add(bytes).filter(|&end| end <= window).ok_or(no_room)?;
        ledger.channels.insert(at, Entry { name: name.to_owned(), slot, from, end });
        Ok(Place { link: Arc::clone(self), slot: slot.wrapping_mul(SLOT_BYTES), mine: from })
    }
}

/// A slot and a region that a channel holds; both are free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<O: Window, I: Memory> {
    link: Arc<Link<O, I>>,
    /// Offset of my announcement in the peer's directory.
    slot: usize,
    /// Where my region begins.
    mine: usize,
}

impl<O: Window, I: Memory> Place<O, I> {
    pub(crate) fn link(&self) -> &Link<O, I> {
        &self.link
    }

    /// Tells the peer that this end is gone.
    pub(crate) fn withdraw(&self) -> Result<(), Fault> {
        withdraw(&*self.link.out, self.slot)
    }
}

impl<O: Window, I: Memory> Drop for Place<O, I> {
    fn drop(&mut self) {
        // A window that is closed has nobody to be told.
        let _closed = self.withdraw();
        let mut ledger = self.link.ledger();
        ledger.channels.retain(|entry| entry.from != self.mine);
    }
}

/// A channel that waits for the peer.
#[derive(Debug)]
pub struct Opening<O: Window, I: Memory> {
    link: Arc<Link<O, I>>,
    name: String,
    setup: Setup,
    place: Place<O, I>,
    generation: u32,
    /// The peer's generation that was answered, and where its announcement stands.
    seen: Option<(u32, usize)>,
    looked: &'static str,
}

impl<O: Window, I: Memory> Opening<O, I> {
    /// Looks at what the peer has announced, and answers; true once both sides agree, and
    /// [`finish`](Self::finish) has the channel.
    ///
    /// # Errors
    /// [`OpenError`] says why the two do not fit.
    pub fn poll(&mut self) -> Result<bool, OpenError> {
        let Some((state, announcement, slot)) = self.find()? else { return Ok(false) };
        self.check(&announcement)?;
        if self.seen != Some((state.mine, slot)) {
            // The peer is new here: it does not send before it has an answer.
            self.empty_ring()?;
            self.seen = Some((state.mine, slot));
            self.announce(state.mine)?;
            self.looked = "it has announced the channel, and not answered ours";
        }
        Ok(state.yours == self.generation)
    }

    /// The channel, if the last [`poll`](Self::poll) said that it is up, and the peer has not changed since.
    ///
    /// # Errors
    /// [`OpenError`], as [`poll`](Self::poll).
    pub fn finish(mut self) -> Result<Result<Channel<O, I>, Self>, OpenError> {
        if !self.poll()? {
            return Ok(Err(self));
        }
        let Some((state, announcement, slot)) = self.find()? else { return Ok(Err(self)) };
        let geometry = self.check(&announcement)?;
        if self.seen != Some((state.mine, slot)) || state.yours != self.generation {
            return Ok(Err(self));
        }
        let ends = Ends {
            out: Arc::clone(&self.link.out),
            theirs: usize::try_from(announcement.region).unwrap_or(usize::MAX),
            own: Arc::clone(&self.link.own),
            mine: self.place.mine,
        };
        let bells = self.setup.bells.as_ref();
        let send_wake = Wake {
            bell: bells
                .filter(|_| announcement.receiver_sleeps)
                .map(|bells| Arc::clone(&bells.peer_receiver)),
            alarm: bells.map(|bells| Arc::clone(&bells.my_sender)),
        };
        let receive_wake = Wake {
            bell: bells.filter(|_| announcement.sender_sleeps).map(|bells| Arc::clone(&bells.peer_sender)),
            alarm: bells.map(|bells| Arc::clone(&bells.my_receiver)),
        };
        let theirs_longest = usize::try_from(announcement.longest_frame).unwrap_or(usize::MAX);
        let outflow = Outflow::new(ends.clone(), geometry, Carrier::new(self.setup.placement), send_wake);
        let longest = self.setup.longest_frame.min(self.setup.geometry.longest_frame());
        let inflow = Inflow::new(ends, self.setup.geometry, longest, receive_wake);
        let session = Session::new(self.place, slot, state, self.setup.bells);
        let measures =
            (self.setup.measure && announcement.measures && self.link.out.kind() == WindowKind::Mapped)
                .then_some(self.generation > state.mine);
        let longest_sent = theirs_longest.min(geometry.longest_frame());
        Ok(Ok(Channel::new(session, outflow, inflow, longest_sent, self.setup.polls, measures)))
    }

    /// Waits for the peer, and measures how far away it is, if both sides want that.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::TimedOut`] says what was seen of the peer.
    pub fn wait(mut self, limit: Duration) -> Result<Channel<O, I>, OpenError> {
        let start = Instant::now();
        loop {
            if self.poll()? {
                match self.finish()? {
                    Ok(mut channel) => {
                        channel.measure(MEASURE_AT_MOST)?;
                        return Ok(channel);
                    }
                    Err(opening) => self = opening,
                }
            }
            let waited = start.elapsed();
            if waited >= limit {
                return Err(OpenError::TimedOut { name: self.name.clone(), waited, seen: self.looked });
            }
            match &self.setup.bells {
                Some(bells) => {
                    // The peer rings when it announces; and it may have no bells.
                    let limit = limit.saturating_sub(waited).min(LOOK_AGAIN);
                    bells.my_receiver.sleep(Some(limit)).map_err(|_| Fault::Bell)?;
                }
                None => std::thread::yield_now(),
            }
        }
    }

    /// The peer's announcement of this name.
    fn find(&self) -> Result<Option<(State, Announcement, usize)>, OpenError> {
        let mut stranger = None;
        for slot in (0..DIRECTORY_SLOTS).map(|slot| slot.wrapping_mul(SLOT_BYTES)) {
            match Slot::read(&*self.link.own, slot)? {
                Slot::Announced(state, found) if found.name == self.name => {
                    return Ok(Some((state, found, slot)));
                }
                Slot::Stranger(found) => stranger = stranger.or(Some(found)),
                Slot::Announced(..) | Slot::Empty => {}
            }
        }
        match stranger {
            Some(found) => Err(OpenError::Stranger { found }),
            None => Ok(None),
        }
    }

    /// The peer's ring, if it fits.
    fn check(&self, announcement: &Announcement) -> Result<Geometry, OpenError> {
        let mine = self.setup.geometry.profile();
        let theirs = profile_of(announcement);
        if theirs != Some(mine) {
            let theirs = theirs.map_or_else(|| announcement.profile.to_string(), |found| found.to_string());
            return Err(OpenError::Profile { name: self.name.clone(), theirs, mine });
        }
        let Announcement { cells, cell_bytes, header_bytes, region, .. } = *announcement;
        let geometry = self.geometry_of(mine, cells, cell_bytes, header_bytes)?;
        let window = self.link.out.bytes();
        let bytes = geometry.region_bytes();
        let end = usize::try_from(region).ok().and_then(|from| from.checked_add(bytes));
        let from = usize::try_from(region).unwrap_or(0);
        if !from.is_multiple_of(REGION_ALIGN) || from < DIRECTORY_BYTES || end.is_none_or(|end| end > window)
        {
            return Err(OpenError::Region { region, bytes, window });
        }
        Ok(geometry)
    }

    #[cfg(not(any(test, feature = "fuzzing")))]
    fn geometry_of(
        &self,
        profile: Profile,
        cells: u32,
        bytes: u32,
        header: u32,
    ) -> Result<Geometry, BadGeometry> {
        Geometry::of(profile, cells, bytes, header)
    }

    /// A test's ring may be tiny, if both sides say the same.
    #[cfg(any(test, feature = "fuzzing"))]
    fn geometry_of(
        &self,
        profile: Profile,
        cells: u32,
        bytes: u32,
        header: u32,
    ) -> Result<Geometry, BadGeometry> {
        let mine = self.setup.geometry;
        if (mine.profile(), mine.cells(), mine.cell_bytes(), mine.header_bytes())
            == (profile, cells, bytes, header)
        {
            return Ok(mine);
        }
        Geometry::of(profile, cells, bytes, header)
    }

    fn empty_ring(&self) -> Result<(), Fault> {
        let (own, mine) = (&*self.link.own, self.place.mine);
        for word in [CREDIT, ARMED, WANTED, PROBE] {
            own.store_u64(mine.wrapping_add(word), 0, StoreOrder::Relaxed)?;
        }
        match self.setup.geometry.profile() {
            Profile::Paper => paper::Receiver::<O, I>::reset_memory(own, mine),
            Profile::Fast => fast::Receiver::<O, I>::reset_memory(own, mine, &self.setup.geometry),
        }
    }

    fn announce(&self, answered: u32) -> Result<(), OpenError> {
        let geometry = &self.setup.geometry;
        let announcement = Announcement {
            profile: geometry.profile().number(),
            header_bytes: geometry.header_bytes(),
            cells: geometry.cells(),
            cell_bytes: geometry.cell_bytes(),
            region: u64::try_from(self.place.mine).unwrap_or(u64::MAX),
            longest_frame: u64::try_from(self.setup.longest_frame).unwrap_or(u64::MAX),
            receiver_sleeps: self.setup.bells.is_some(),
            sender_sleeps: self.setup.bells.is_some(),
            measures: self.setup.measure,
            name: self.name.clone(),
        };
        let state = State { mine: self.generation, yours: answered };
        announcement.write(&*self.link.out, self.place.slot, state)?;
        if let Some(bells) = &self.setup.bells {
            bells.peer_receiver.ring().map_err(|_| Fault::Bell)?;
        }
        Ok(())
    }
}

/// How long a side that waits for its peer sleeps before it looks again by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Both sides come up within microseconds of each other; a loaded machine may take longer to run them.
const MEASURE_AT_MOST: Duration = Duration::from_millis(500);
