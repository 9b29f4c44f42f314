//! The adapter: one for each link and host. It owns the windows, the filter table, and the lanes, and agrees with the peer's.
//!
//! ```text
//!   window 0: messages (rings of cells)      window 1: lanes, each with two files of its own, at the receiver's host and at the sender's
//!
//!   host that receives                                  host that sends
//!   a filter for VI 3          ──Filters(Add)──▶        the table that its interfaces steer by
//!   memory for what comes      ──Offer(lane)───▶        memory for what comes back
//!   the lane goes to VI 3      ◀──Taken(lane)───        the lane goes to VI 5
//!                   ◀══════════ frames ═════════════
//! ```
//!
//! Every sending interface has a lane to every interface of the peer that has a filter, and one to its kernel, interface 0.

mod clock;
mod control;
mod happening;
mod hello;
mod message;
mod pool;

pub use happening::{AdapterCounts, AdapterError, Happening, LaneEnd};
pub use hello::{Agreement, Disagreement, Features, Offer};
pub use message::{Change, Entry, Lane, Published};
pub use pool::PoolError;

use crate::ViId;
use control::{Control, Heard};
use message::{FileIdentity, Message};
use ntb::{Bridge, Speed, Width};
use pool::Pool;
use shm::SharedFile;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vi::clock::{Clock, PeerOffset};
use vi::filter::{Filter, Table, TableError, Target};
use vi::lane::FilterId;

/// How soon a way into the peer is looked for again that was not there.
const SOON: Duration = Duration::from_millis(5);
/// Messages that are answered at once, and the answers to those: in one turn, so often.
const ROUNDS: usize = 4;
/// How long it is looked for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A lane of this host's: it receives on it.
#[derive(Debug)]
struct Incoming {
    from: ViId,
    to: ViId,
    memory: Arc<SharedFile>,
    /// The peer has taken it.
    taken: bool,
}

/// A lane of the peer's: this host sends on it.
#[derive(Debug)]
struct Outgoing {
    generation: u32,
    from: ViId,
}

/// A lane whose memory at the peer's host is not there yet.
#[derive(Debug)]
struct Wanted {
    lane: Lane,
    receives: bool,
    vi: ViId,
    peer: ViId,
    own: Arc<SharedFile>,
    theirs: FileIdentity,
    until: Instant,
}

/// One end of a link.
pub struct Adapter {
    bridge: Arc<dyn Bridge>,
    control: Control,
    pool: Pool,
    offer: Offer,
    agreement: Option<Agreement>,
    /// Interfaces of this host, and those of the peer that send.
    vis: BTreeSet<ViId>,
    peer_vis: BTreeSet<ViId>,
    /// The filters of this host: checked by the table, published as they are.
    table: Table<u32>,
    published: Published,
    incoming: Vec<Option<Incoming>>,
    generations: Vec<u32>,
    outgoing: Vec<Option<Outgoing>>,
    wanted: Vec<Wanted>,
    /// To be told with the next turn.
    pending: Vec<Happening>,
    counts: AdapterCounts,
    /// A lane was wanted and there was none: told once.
    short: bool,
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter")
            .field("vis", &self.vis)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl Adapter {
    /// Takes a bridge into use: lays out its windows and lets the link train. With a clock that of the peer is measured by it.
    ///
    /// # Errors
    /// [`AdapterError`].
    pub fn open(bridge: Arc<dyn Bridge>, offer: Offer, clock: Option<Clock>) -> Result<Self, AdapterError> {
        let pool = Pool::open(Arc::clone(&bridge), offer.geometry, offer.lanes)?;
        let control = Control::open(Arc::clone(&bridge), offer, clock)?;
        bridge.link_enable(Speed::Auto, Width::Auto)?;
        let lanes = pool.lanes();
        Ok(Self {
            bridge,
            control,
            pool,
            offer,
            agreement: None,
            vis: BTreeSet::from([ViId::KERNEL]),
            peer_vis: BTreeSet::new(),
            table: Table::new(),
            published: Published::default(),
            incoming: (0..lanes).map(|_| None).collect(),
            generations: vec![0; lanes],
            outgoing: (0..lanes).map(|_| None).collect(),
            wanted: Vec::new(),
            pending: Vec::new(),
            counts: AdapterCounts::default(),
            short: false,
        })
    }

    /// What this end brings.
    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// What both have come to, while the peer is there.
    #[must_use]
    pub fn agreement(&self) -> Option<&Agreement> {
        self.agreement.as_ref()
    }

    /// The shape of every lane.
    #[must_use]
    pub fn geometry(&self) -> vi::lane::Geometry {
        self.pool.geometry()
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> AdapterCounts {
        let count = |all: usize| u32::try_from(all).unwrap_or(u32::MAX);
        let lanes_now =
            (count(self.incoming.iter().flatten().count()), count(self.outgoing.iter().flatten().count()));
        let (clock_exchanges, clock_jumps, clock_refused) = self.control.clock_counts();
        AdapterCounts { lanes_now, clock_exchanges, clock_jumps, clock_refused, ..self.counts }
    }

    /// How the clock of the peer's adapter stands to that of this one, and at which time of this one that is so. None before the
    /// first exchange, while the peer is away, and for an adapter without a clock.
    #[must_use]
    pub fn peer_clock(&self) -> Option<(u64, PeerOffset)> {
        self.control.peer_clock()
    }

    /// The filters of this host.
    #[must_use]
    pub fn filters(&self) -> &Published {
        &self.published
    }

    /// Readable when the device has something to tell.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.bridge.event_fd()
    }

    /// How long to sleep before the next [`turn`](Self::turn) at most.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let patience = self.control.patience();
        if self.wanted.is_empty() { patience } else { patience.min(SOON) }
    }

    /// Looks at the device and the peer's messages, and sends what waits. Never waits.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn turn(&mut self, happenings: &mut Vec<Happening>) -> Result<(), AdapterError> {
        happenings.append(&mut self.pending);
        let mut anything = self.listen(happenings)? || !self.wanted.is_empty();
        self.look_for_wanted(happenings);
        for _ in 0..ROUNDS {
            if !anything {
                break;
            }
            // What the messages of the peer gave rise to is said, and what it answers at once is heard.
            self.offer_lanes()?;
            anything = self.listen(happenings)?;
        }
        happenings.append(&mut self.pending);
        Ok(())
    }

    fn listen(&mut self, happenings: &mut Vec<Happening>) -> Result<bool, AdapterError> {
        let mut heard = Vec::new();
        self.control.turn(&mut heard)?;
        let anything = !heard.is_empty();
        for heard in heard {
            match heard {
                Heard::Up(agreement) => self.up(agreement, happenings)?,
                Heard::Down => self.down(happenings),
                Heard::Message(message) => self.hear(message, happenings)?,
            }
        }
        Ok(anything)
    }

    fn up(&mut self, agreement: Agreement, happenings: &mut Vec<Happening>) -> Result<(), AdapterError> {
        self.pool.connect()?;
        self.counts.links = self.counts.links.saturating_add(1);
        self.agreement = Some(agreement);
        for &vi in &self.vis {
            self.control.send(&Message::Sender(vi));
        }
        for entry in self.published.entries() {
            self.control.send(&Message::Filters(Change::Add(entry.clone())));
        }
        happenings.push(Happening::Up(agreement));
        Ok(())
    }

    fn down(&mut self, happenings: &mut Vec<Happening>) {
        self.agreement = None;
        self.peer_vis.clear();
        for number in 0..self.incoming.len() {
            self.no_more_receiving(number, happenings);
        }
        for number in 0..self.outgoing.len() {
            self.no_more_sending(number, happenings);
        }
        self.wanted.clear();
        happenings.push(Happening::Down);
    }

    fn lane(&self, number: usize) -> Lane {
        let generation = self.generations.get(number).copied().unwrap_or(0);
        Lane { number: u16::try_from(number).unwrap_or(u16::MAX), generation }
    }

    fn no_more_receiving(&mut self, number: usize, happenings: &mut Vec<Happening>) {
        let lane = self.lane(number);
        if let Some(gone) = self.incoming.get_mut(number).and_then(Option::take) {
            let waits = self.wanted.iter().any(|wanted| wanted.receives && wanted.lane == lane);
            self.forget(lane, true);
            if gone.taken && self.vis.contains(&gone.to) {
                if waits {
                    happenings.extend(self.last_words(&gone, lane));
                }
                happenings.push(Happening::NoMoreReceiving { vi: gone.to, lane });
            }
        }
    }

    /// A lane whose sender has come and gone before its memory at the peer's host was there: what it has sent is here. What the receiver
    /// gives back goes to memory that is nobody's.
    fn last_words(&self, gone: &Incoming, lane: Lane) -> Option<Happening> {
        let nobodys = SharedFile::create("isthmus lane", self.pool.geometry().check().ok()?.return_bytes());
        let ends = || Some((gone.memory.as_fd().try_clone_to_owned().ok()?, nobodys.ok()?));
        let Some((receive_area, nobodys)) = ends() else {
            tracing::warn!(lane = lane.number, "no memory for a lane: what was sent on it is lost");
            return None;
        };
        let return_area = nobodys.as_fd().try_clone_to_owned().ok()?;
        Some(Happening::Receives(LaneEnd { vi: gone.to, peer: gone.from, lane, receive_area, return_area }))
    }

    fn no_more_sending(&mut self, number: usize, happenings: &mut Vec<Happening>) {
        if let Some(gone) = self.outgoing.get_mut(number).and_then(Option::take) {
            let lane =
                Lane { number: u16::try_from(number).unwrap_or(u16::MAX), generation: gone.generation };
            self.forget(lane, false);
            if self.vis.contains(&gone.from) {
                happenings.push(Happening::NoMoreSending { vi: gone.from, lane });
            }
        }
    }

    fn forget(&mut self, lane: Lane, receives: bool) {
        self.wanted.retain(|wanted| wanted.lane.number != lane.number || wanted.receives != receives);
    }

    fn hear(&mut self, message: Message, happenings: &mut Vec<Happening>) -> Result<(), AdapterError> {
        let sense = match message {
            Message::Sender(vi) => self.peer_vis.len() < MOST_VIS && self.peer_vis.insert(vi),
            Message::SenderGone(vi) => {
                let known = self.peer_vis.remove(&vi);
                for number in 0..self.incoming.len() {
                    if self.incoming.get(number).and_then(Option::as_ref).is_some_and(|lane| lane.from == vi)
                    {
                        self.no_more_receiving(number, happenings);
                    }
                }
                known
            }
            Message::Filters(change) => {
                happenings.push(Happening::Filters(change));
                true
            }
            Message::Offer { lane, from, to, memory } => self.take(lane, from, to, memory)?,
            Message::Taken { lane, memory } => self.taken(lane, memory),
            Message::Withdrawn(lane) => {
                let number = usize::from(lane.number);
                let known = self.outgoing.get(number).and_then(Option::as_ref);
                // One that went with its interface meanwhile is known no more, and that is no error.
                if known.is_some_and(|known| known.generation == lane.generation) {
                    self.no_more_sending(number, happenings);
                }
                true
            }
            Message::Wake(vi) => {
                if self.vis.contains(&vi) {
                    happenings.push(Happening::Wake(vi));
                }
                true
            }
        };
        if !sense {
            self.made_no_sense();
        }
        Ok(())
    }

    /// A message of the peer's makes no sense, as this adapter says or its owner.
    pub(crate) fn made_no_sense(&mut self) {
        self.counts.nonsense = self.counts.nonsense.saturating_add(1);
    }

    /// A lane of the peer's for an interface of this host to send on.
    fn take(&mut self, lane: Lane, from: ViId, to: ViId, theirs: FileIdentity) -> Result<bool, AdapterError> {
        let Some(place) = self.outgoing.get_mut(usize::from(lane.number)) else { return Ok(false) };
        if !self.vis.contains(&from) {
            // It went while the offer was on its way; the peer hears of that.
            return Ok(true);
        }
        if place.is_some() {
            return Ok(false);
        }
        *place = Some(Outgoing { generation: lane.generation, from });
        let own = self.pool.return_area(lane.number)?;
        self.want(lane, false, from, to, own, theirs);
        Ok(true)
    }

    /// The peer has taken a lane of this host's.
    fn taken(&mut self, lane: Lane, theirs: FileIdentity) -> bool {
        if self.lane(usize::from(lane.number)) != lane {
            // Of a lane that was withdrawn meanwhile.
            return usize::from(lane.number) < self.incoming.len();
        }
        let Some(incoming) = self.incoming.get_mut(usize::from(lane.number)).and_then(Option::as_mut) else {
            return true;
        };
        if std::mem::replace(&mut incoming.taken, true) {
            return false;
        }
        let (vi, peer, own) = (incoming.to, incoming.from, Arc::clone(&incoming.memory));
        self.want(lane, true, vi, peer, own, theirs);
        true
    }

    fn want(
        &mut self,
        lane: Lane,
        receives: bool,
        vi: ViId,
        peer: ViId,
        own: Arc<SharedFile>,
        theirs: FileIdentity,
    ) {
        let now = Instant::now();
        let until = now.checked_add(PATIENCE).unwrap_or(now);
        self.wanted.push(Wanted { lane, receives, vi, peer, own, theirs, until });
    }

    /// The peer's half of a lane lies under a window that is closed for a moment whenever one of its other parts changes.
    fn look_for_wanted(&mut self, happenings: &mut Vec<Happening>) {
        let now = Instant::now();
        for wanted in std::mem::take(&mut self.wanted) {
            let number = wanted.lane.number;
            let theirs = match wanted.receives {
                true => self.pool.peer_return_area(number),
                false => self.pool.peer_receive_area(number),
            };
            let found = theirs.filter(|file| FileIdentity::of_descriptor(file) == Some(wanted.theirs));
            let (Some(theirs), Ok(own)) = (found, wanted.own.as_fd().try_clone_to_owned()) else {
                if now < wanted.until {
                    self.wanted.push(wanted);
                } else {
                    self.counts.lanes_failed = self.counts.lanes_failed.saturating_add(1);
                    tracing::error!(
                        lane = number,
                        "the peer's memory of a lane does not lie under the window: is the twin's window 1 direct?"
                    );
                }
                continue;
            };
            let Ok(theirs) = theirs.try_clone() else { continue };
            let (lane, vi, peer) = (wanted.lane, wanted.vi, wanted.peer);
            self.counts.lanes_made = self.counts.lanes_made.saturating_add(1);
            if wanted.receives {
                let end = LaneEnd { vi, peer, lane, receive_area: own, return_area: theirs };
                happenings.push(Happening::Receives(end));
            } else {
                let memory = FileIdentity::of(&wanted.own);
                self.control.send(&Message::Taken { lane, memory });
                let end = LaneEnd { vi, peer, lane, receive_area: theirs, return_area: own };
                happenings.push(Happening::MaySend(end));
            }
        }
    }

    /// Offers what lanes are missing, and withdraws those that nobody wants.
    fn offer_lanes(&mut self) -> Result<(), AdapterError> {
        if self.agreement.is_none() {
            return Ok(());
        }
        for number in 0..self.incoming.len() {
            let unwanted = self.incoming.get(number).and_then(Option::as_ref).is_some_and(|lane| {
                !self.vis.contains(&lane.to) || !(lane.to == ViId::KERNEL || self.published.receives(lane.to))
            });
            if unwanted {
                let lane = self.lane(number);
                self.control.send(&Message::Withdrawn(lane));
                let mut gone = Vec::new();
                self.no_more_receiving(number, &mut gone);
                self.pending.append(&mut gone);
            }
        }
        let receivers: Vec<ViId> = self
            .vis
            .iter()
            .copied()
            .filter(|&vi| vi == ViId::KERNEL || self.published.receives(vi))
            .collect();
        let mut missing = Vec::new();
        for &to in &receivers {
            for &from in &self.peer_vis {
                if !self.incoming.iter().flatten().any(|lane| (lane.from, lane.to) == (from, to)) {
                    missing.push((from, to));
                }
            }
        }
        let mut short = false;
        for (from, to) in missing {
            let Some(number) = self.incoming.iter().position(Option::is_none) else {
                short = true;
                continue;
            };
            if let Some(generation) = self.generations.get_mut(number) {
                *generation = generation.wrapping_add(1);
            }
            let lane = self.lane(number);
            let memory = self.pool.receive_area(lane.number)?;
            let offer = Message::Offer { lane, from, to, memory: FileIdentity::of(&memory) };
            if let Some(place) = self.incoming.get_mut(number) {
                *place = Some(Incoming { from, to, memory, taken: false });
            }
            self.control.send(&offer);
        }
        if short && !self.short {
            self.counts.lanes_short = self.counts.lanes_short.saturating_add(1);
            let lanes = self.pool.lanes();
            tracing::warn!(
                lanes,
                "all lanes are in use: give both services more --lanes, or fewer interfaces"
            );
        }
        self.short = short;
        Ok(())
    }

    /// Another interface of this host.
    ///
    /// # Errors
    /// When there is no memory for lanes.
    pub fn add_vi(&mut self, vi: ViId) -> Result<(), AdapterError> {
        if self.vis.insert(vi) {
            self.control.send(&Message::Sender(vi));
            self.offer_lanes()?;
        }
        Ok(())
    }

    /// An interface of this host is gone, with its filters and lanes.
    ///
    /// # Errors
    /// When there is no memory for lanes.
    pub fn remove_vi(&mut self, vi: ViId, filters: &[FilterId]) -> Result<(), AdapterError> {
        self.vis.remove(&vi);
        for &filter in filters {
            self.remove_filter(filter)?;
        }
        for number in 0..self.outgoing.len() {
            if self.outgoing.get(number).and_then(Option::as_ref).is_some_and(|lane| lane.from == vi) {
                self.no_more_sending(number, &mut Vec::new());
            }
        }
        self.control.send(&Message::SenderGone(vi));
        self.offer_lanes()
    }

    /// Takes a number for a filter for `to`, which are the members of a set if `set` has its number. The peer hears of it by
    /// [`publish_filter`](Self::publish_filter): who receives is told in between.
    ///
    /// # Errors
    /// [`TableError`], and nothing has changed.
    pub fn next_filter(
        &mut self,
        filter: Filter,
        to: &[ViId],
        set: Option<u32>,
    ) -> Result<FilterId, TableError> {
        let one = to.first().map_or(0, |vi| u32::from(vi.0));
        let owner = set.map_or(one, |set| set.saturating_add(1 << 16));
        self.table.add(filter, Target::One(owner))
    }

    /// Tells the peer of a filter that has a number.
    ///
    /// # Errors
    /// When there is no memory for lanes.
    pub fn publish_filter(
        &mut self,
        id: FilterId,
        filter: Filter,
        to: Vec<ViId>,
        set: Option<u32>,
    ) -> Result<(), AdapterError> {
        let entry = Entry { id: id.number(), filter: filter.to_string(), to, set: set.is_some() };
        self.publish(Change::Add(entry));
        self.offer_lanes()
    }

    /// Removes a filter; false if there is none of this number.
    ///
    /// # Errors
    /// When there is no memory for lanes.
    pub fn remove_filter(&mut self, filter: FilterId) -> Result<bool, AdapterError> {
        let known = self.table.remove(filter);
        if known {
            self.publish(Change::Remove(filter.number()));
            self.offer_lanes()?;
        }
        Ok(known)
    }

    /// The members of the set that a filter leads to are others now.
    ///
    /// # Errors
    /// When there is no memory for lanes.
    pub fn set_members(&mut self, filter: FilterId, to: Vec<ViId>) -> Result<(), AdapterError> {
        self.publish(Change::Members { id: filter.number(), to });
        self.offer_lanes()
    }

    fn publish(&mut self, change: Change) {
        self.published.apply(&change);
        self.control.send(&Message::Filters(change));
    }

    /// Tells the peer that one of its interfaces sleeps and has something to fetch.
    pub fn wake(&mut self, peer: ViId) {
        self.control.send(&Message::Wake(peer));
    }
}

/// The most interfaces of a peer.
const MOST_VIS: usize = 4096;

impl Drop for Adapter {
    fn drop(&mut self) {
        if let Err(error) = self.bridge.link_disable() {
            tracing::debug!(%error, "the link was not taken down");
        }
    }
}
