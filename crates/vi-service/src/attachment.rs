//! An interface and what it reaches: its lanes, and the peer's filters as a table that leads to them. A client of the service has
//! one, and the service itself has one for the kernel.

use crate::ViId;
use crate::adapter::{Change, Lane, Published};
use shm::{Access, Mapping, SharedFile};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use vi::clock::Clock;
use vi::filter::{Filter, FlowCache, HEADER_BYTES, Headers, Table, Verdict};
use vi::lane::{FilterId, Geometry, Meta, Receiver, SendError, Sender};
use vi::{Bell, LaneId, Packet, ProtectionDomain, RequestId, Steered, TransmitError, Vi};

/// The most interfaces that one frame goes to.
const COPIES: usize = 64;

/// A lane to send on; its place in the list is its number in the interface.
#[derive(Debug)]
struct Place {
    lane: Lane,
    peer: ViId,
}

/// A lane to receive from.
#[derive(Debug)]
struct Source {
    lane: Lane,
    peer: ViId,
    /// Nobody sends on it any more.
    ending: bool,
}

/// An interface with its lanes, and the table that it steers by.
#[derive(Debug)]
pub struct Attachment<D> {
    vi: Vi<D>,
    sends: Vec<Place>,
    receives: Vec<Source>,
    published: Published,
    table: Table<LaneId>,
    cache: RefCell<FlowCache<LaneId>>,
    kernel: Option<LaneId>,
    own: RefCell<Vec<(u16, Filter)>>,
    /// What frames get their times from.
    clock: Option<Clock>,
    /// The shape of the lanes, once there is one.
    geometry: Option<Geometry>,
    strangers: Cell<u64>,
    dropped: Cell<u64>,
}

impl<D> Attachment<D> {
    /// An interface without lanes. With a clock each frame has the time that it was sent at.
    pub fn new(domain: &ProtectionDomain<D>, bell: Option<Bell>, clock: Option<Clock>) -> Self {
        let mut vi = Vi::new(domain);
        if let Some(bell) = bell {
            vi.set_bell(bell);
        }
        Self {
            vi,
            sends: Vec::new(),
            receives: Vec::new(),
            published: Published::default(),
            table: Table::new(),
            cache: RefCell::default(),
            kernel: None,
            own: RefCell::default(),
            clock,
            geometry: None,
            strangers: Cell::new(0),
            dropped: Cell::new(0),
        }
    }

    /// The interface.
    pub fn vi(&self) -> &Vi<D> {
        &self.vi
    }

    /// The peer's filters.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// How many of the peer's interfaces this one reaches, and whether its kernel is one more.
    pub fn reaches(&self) -> (usize, bool) {
        let kernel = self.kernel.is_some();
        (self.sends.len().saturating_sub(usize::from(kernel)), kernel)
    }

    /// The lane to an interface of the peer.
    pub fn lane_to(&self, peer: ViId) -> Option<LaneId> {
        self.sends.iter().position(|place| place.peer == peer).map(lane_id)
    }

    /// The interface of the peer that a lane to send on leads to.
    pub fn peer_of(&self, lane: LaneId) -> Option<ViId> {
        self.sends.get(lane.0 as usize).map(|place| place.peer)
    }

    /// What the adapters call a lane to send on.
    pub(crate) fn name_of(&self, lane: LaneId) -> Option<Lane> {
        self.sends.get(lane.0 as usize).map(|place| place.lane)
    }

    /// Whether what that interface of the peer sends arrives: who has a lane to send on may have it earlier than its receiver.
    pub fn hears(&self, peer: ViId) -> bool {
        self.receives.iter().any(|source| source.peer == peer && !source.ending)
    }

    /// Frames that came although no filter of this interface takes them: dropped.
    pub fn strangers(&self) -> u64 {
        self.strangers.get()
    }

    /// Copies of frames that found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    pub(crate) fn may_send(
        &mut self,
        lane: Lane,
        peer: ViId,
        geometry: Geometry,
        end: Files,
        bell: Bell,
    ) -> io::Result<()> {
        let (receive, returned) = end.map(geometry)?;
        let sender = Sender::new(geometry, receive, returned).map_err(io::Error::other)?;
        self.vi.attach_sender(sender, Some(bell));
        self.geometry = Some(geometry);
        self.sends.push(Place { lane, peer });
        self.steer_anew();
        Ok(())
    }

    pub(crate) fn receives(
        &mut self,
        lane: Lane,
        peer: ViId,
        geometry: Geometry,
        end: Files,
    ) -> io::Result<()> {
        let (receive, returned) = end.map(geometry)?;
        let receiver = Receiver::new(geometry, receive, returned).map_err(io::Error::other)?;
        let (_, buffers) = self.vi.attach_receiver(receiver);
        self.receives.push(Source { lane, peer, ending: false });
        for buffer in buffers {
            let request = RequestId(buffer.index());
            // Fresh buffers of this very lane.
            let _ = self.vi.receive_init(buffer, request);
        }
        self.vi.receive_push();
        Ok(())
    }

    pub(crate) fn no_more_sending(&mut self, lane: Lane) {
        if let Some(at) = self.sends.iter().position(|place| place.lane == lane)
            && self.vi.detach_sender(lane_id(at))
        {
            self.sends.swap_remove(at);
            self.steer_anew();
        }
    }

    pub(crate) fn no_more_receiving(&mut self, lane: Lane) {
        if let Some(source) = self.receives.iter_mut().find(|source| source.lane == lane) {
            source.ending = true;
        }
        self.tidy();
    }

    /// Lets go of lanes that nobody sends on and that are empty. True: there are some that are not.
    pub(crate) fn tidy(&mut self) -> bool {
        for at in (0..self.receives.len()).rev() {
            if self.receives.get(at).is_some_and(|source| source.ending)
                && self.vi.detach_receiver(lane_id(at))
            {
                self.receives.swap_remove(at);
            }
        }
        self.receives.iter().any(|source| source.ending)
    }

    pub(crate) fn filters(&mut self, change: &Change) -> bool {
        let sense = self.published.apply(change);
        if sense {
            self.steer_anew();
        }
        sense
    }

    /// The peer is gone.
    pub(crate) fn down(&mut self) {
        self.published = Published::default();
        self.steer_anew();
    }

    fn steer_anew(&mut self) {
        self.table = self.published.table(|vi| self.lane_to(vi));
        self.cache = RefCell::default();
        self.kernel = self.lane_to(ViId::KERNEL);
    }

    pub(crate) fn own_filter(&self, id: u16, filter: Filter) {
        self.own.borrow_mut().push((id, filter));
    }

    pub(crate) fn own_filter_gone(&self, id: u16) {
        self.own.borrow_mut().retain(|(known, _)| *known != id);
    }

    /// Whether a filter of this interface takes a packet: looked at here, since who sent it may not be trusted.
    #[inline]
    pub(crate) fn takes(&self, packet: &Packet<'_, D>) -> bool {
        // The later part of a jumbo frame has no headers; it came on the lane of its first.
        !packet.starts() || self.takes_headers(&packet.header::<HEADER_BYTES>(), packet.len())
    }

    fn takes_headers(&self, header: &[u8; HEADER_BYTES], len: usize) -> bool {
        let header = header.get(..len).unwrap_or(header);
        let Some(headers) = Headers::parse(header) else { return false };
        self.own.borrow().iter().any(|(_, filter)| filter.matches(&headers))
    }

    /// A packet came that no filter of this interface takes.
    pub(crate) fn stranger(&self) {
        self.strangers.set(self.strangers.get().wrapping_add(1));
    }

    /// Sends a frame to whom the peer's filters say, or else to its kernel. Whoever has no room loses it, and that is counted.
    ///
    /// # Errors
    /// [`TransmitError`] of the first lane that is over.
    #[inline]
    pub fn transmit(&self, frame: &[u8], request: RequestId) -> Result<Steered, TransmitError> {
        self.transmit_at(frame, self.now_ns(), request)
    }

    /// The same, with this time as the one that it was sent at; 0 is none.
    ///
    /// # Errors
    /// As [`transmit`](Self::transmit).
    #[inline]
    pub fn transmit_at(
        &self,
        frame: &[u8],
        stamp_ns: u64,
        request: RequestId,
    ) -> Result<Steered, TransmitError> {
        let mut cache = self.cache.borrow_mut();
        let mut steered = self.vi.transmit_steered(&self.table, &mut cache, frame, stamp_ns, request)?;
        if steered.verdict == Verdict::Kernel
            && let Some(kernel) = self.kernel
        {
            let meta = Meta { stamp: stamp_ns, ..Meta::default() };
            match self.vi.transmit(kernel, frame, meta, request) {
                Ok(()) => steered.sent += 1,
                Err(TransmitError::Lane(SendError::Full)) => steered.full += 1,
                Err(error) => return Err(error),
            }
        }
        if steered.full > 0 {
            self.dropped.set(self.dropped.get().wrapping_add(u64::from(steered.full)));
        }
        Ok(steered)
    }

    /// Waits until all whom a frame of so many bytes concerns have room, at most `limit`, and for none whose lane is over; its headers
    /// say who those are.
    pub(crate) fn wait_for_room(
        &self,
        frame: &[u8],
        bytes: usize,
        limit: Duration,
        is_over: impl Fn(LaneId) -> bool,
    ) -> Result<(), TransmitError> {
        let mut lanes = [None; COPIES];
        let mut count = 0;
        let mut note = |lane| {
            if let Some(place) = lanes.get_mut(count) {
                *place = Some(lane);
                count += 1;
            }
        };
        let verdict = self.cache.borrow_mut().steer(&self.table, frame, |lane, _| note(lane));
        if verdict == Verdict::Kernel
            && let Some(kernel) = self.kernel
        {
            note(kernel);
        }
        let mut since = None;
        for lane in lanes.into_iter().map_while(|lane| lane) {
            while !self.has_room(lane, bytes)? {
                if since.is_none() {
                    // What is staged would never make room.
                    self.push()?;
                }
                if since.get_or_insert_with(Instant::now).elapsed() >= limit {
                    return Ok(());
                }
                if is_over(lane) {
                    break;
                }
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// Where a frame goes first: its lane, and the filter that says so.
    pub fn lane_for(&self, frame: &[u8]) -> Option<(LaneId, FilterId)> {
        let mut found = None;
        let verdict = self.cache.borrow_mut().steer(&self.table, frame, |lane, filter| {
            found.get_or_insert((lane, filter));
        });
        match verdict {
            Verdict::Kernel => self.kernel.map(|kernel| (kernel, FilterId::NONE)),
            _ => found,
        }
    }

    /// Stages a packet that was received, on another link's interface perhaps, for whom the peer's filters say. Sent with
    /// [`push`](Self::push). A part of a frame that is longer than a buffer is dropped, and counted as one that found no room: who gets it
    /// is said by its first part alone.
    ///
    /// # Errors
    /// [`TransmitError`] of the first lane that is over.
    pub fn forward<D2>(&self, packet: &Packet<'_, D2>, request: RequestId) -> Result<Steered, TransmitError> {
        if !packet.starts() || packet.continues() {
            self.dropped.set(self.dropped.get().wrapping_add(1));
            return Ok(Steered { verdict: Verdict::Blocked, sent: 0, full: 1 });
        }
        let header = packet.header::<HEADER_BYTES>();
        let header = header.get(..packet.len()).unwrap_or(&header);
        let mut steered = Steered { verdict: Verdict::Kernel, sent: 0, full: 0 };
        let mut failed = None;
        let stamp = self.now_ns();
        let mut one = |lane, filter| {
            let meta = Meta { filter, stamp, ..Meta::default() };
            match self.vi.transmit_init_packet(lane, packet, meta, request) {
                Ok(()) => steered.sent += 1,
                Err(TransmitError::Lane(SendError::Full)) => steered.full += 1,
                Err(error) => failed = failed.or(Some(error)),
            }
        };
        let verdict = self.cache.borrow_mut().steer(&self.table, header, &mut one);
        if verdict == Verdict::Kernel
            && let Some(kernel) = self.kernel
        {
            one(kernel, FilterId::NONE);
        }
        steered.verdict = verdict;
        if steered.full > 0 {
            self.dropped.set(self.dropped.get().wrapping_add(u64::from(steered.full)));
        }
        failed.map_or(Ok(steered), Err)
    }

    /// The time, or 0 without a clock.
    #[inline]
    fn now_ns(&self) -> u64 {
        self.clock.as_ref().map_or(0, Clock::now_ns)
    }

    /// What frames get their times from.
    pub fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    /// Sends all that is staged, on every lane.
    ///
    /// # Errors
    /// [`TransmitError`] of the first lane that is over.
    pub fn push(&self) -> Result<(), TransmitError> {
        let lanes = 0..self.sends.len();
        lanes.map(|lane| self.vi.transmit_push(lane_id(lane))).fold(Ok(()), Result::and)
    }

    fn has_room(&self, lane: LaneId, bytes: usize) -> Result<bool, TransmitError> {
        let (slots, buffers) = self.vi.transmit_space(lane)?;
        let Some(Geometry { slots: all_slots, buffers: all_buffers, buffer_bytes, .. }) = self.geometry
        else {
            return Ok(true);
        };
        if bytes <= 112 {
            return Ok(slots >= 2);
        }
        let parts = bytes.div_ceil(buffer_bytes as usize);
        // The lane itself says no to what never fits.
        let never = parts > all_buffers as usize || parts > all_slots as usize;
        Ok(never || (slots as usize >= parts.max(2) && buffers as usize >= parts))
    }
}

fn lane_id(at: usize) -> LaneId {
    LaneId(u32::try_from(at).unwrap_or(u32::MAX))
}

/// The two files of one end of a lane.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) receive: OwnedFd,
    pub(crate) returned: OwnedFd,
}

impl Files {
    fn map(self, geometry: Geometry) -> io::Result<(Mapping, Mapping)> {
        let map = |file, bytes| {
            let file = SharedFile::accept(file, bytes).map_err(io::Error::other)?;
            Mapping::new(&file, 0, bytes, Access::ReadWrite).map_err(io::Error::other)
        };
        let geometry = geometry.check().map_err(io::Error::other)?;
        Ok((map(self.receive, geometry.receive_bytes())?, map(self.returned, geometry.return_bytes())?))
    }
}
