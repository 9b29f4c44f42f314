//! A process at a service: one interface, its filters, and lanes that come and go with the far side.

use crate::ViId;
use crate::attachment::{Attachment, Files};
use crate::news::NewsReader;
use crate::protocol::{Answer, Notice, Request, Socket, VERSION};
use netdev::MacAddress;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vi::clock::{Clock, DRIFT_PPB, KeeperThread, PeerOffset, Stamp};
use vi::filter::{Filter, HEADER_BYTES, Verdict};
use vi::lane::{FilterId, Geometry};
use vi::{Bell, Event, LaneId, Packet, ProtectionDomain, RequestId, Steered, TransmitError, Vi};

/// How long to wait in one piece for what the service says.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How a client introduces itself.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// What it calls itself, for people.
    pub name: String,
    /// A set that its interface is a member of: with the same user's others of this name it shares the filters that are
    /// added for the set, and each flow goes to one of them.
    pub set: Option<String>,
    /// What frames get their times from. Without one it is [that of the process](vi::clock::shared), where the lanes carry
    /// times ([`Geometry::stamps`]); a clock that is named stamps long frames on other lanes, too.
    pub clock: Option<Clock>,
}

/// The link as a client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkInfo {
    /// The peer's Ethernet address.
    pub peer_mac: MacAddress,
    /// Bytes of an IP packet at most.
    pub mtu: u32,
    /// Whether what no filter takes goes to a kernel.
    pub kernel: bool,
}

/// Why a client cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket may not be opened.
    #[error("{0} may not be opened: run as the user or in the group of the service, or as root")]
    Permission(String),
    /// Nobody serves there.
    #[error("nobody serves at {0}: start `isthmus vi serve` first")]
    Absent(String),
    /// The service ended, or has ended this connection.
    #[error("the service has ended the connection")]
    Gone,
    /// It refused.
    #[error("{0}")]
    Refused(String),
    /// What came makes no sense, or the kernel refused.
    #[error("the connection to the service")]
    Io(#[from] io::Error),
}

/// One interface of a process, given by a service.
///
/// The data path is the interface's: no system call, and the service is not asked. What the service has to say (lanes and filters
/// that come and go) is taken in by [`refresh`](Self::refresh); [`has_news`](Self::has_news) says by one load when that is due.
#[derive(Debug)]
pub struct Client<D> {
    socket: Socket,
    attachment: Attachment<D>,
    wakes: Bell,
    news: NewsReader,
    /// Keeps the process's clock right, if that is the one.
    _kept: Option<Arc<KeeperThread>>,
    seen: Cell<u64>,
    inbox: RefCell<VecDeque<(Notice, Vec<OwnedFd>)>>,
    broken: Cell<bool>,
    vi: ViId,
    mac: MacAddress,
    mtu: u32,
    geometry: Geometry,
    link: Option<LinkInfo>,
    /// There are lanes that nobody sends on, and that are not empty.
    ending: bool,
}

impl<D> Client<D> {
    /// Connects to the service at `path`; the interface has no filters and no lanes yet.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(
        path: &Path,
        domain: &ProtectionDomain<D>,
        options: &ClientOptions,
    ) -> Result<Self, ClientError> {
        let at = || path.display().to_string();
        let socket = Socket::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Permission(at()),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::Absent(at()),
            _ => ClientError::Io(error),
        })?;
        let ClientOptions { name, set, clock } = options.clone();
        // A service that has no place for one more says so at once and hangs up: that is read, whatever became of the greeting.
        let greeted = socket.send(&Request::Hello { version: VERSION, name, set }, &[]);
        let answer = match socket.receive::<Notice>(true) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => socket.receive(true),
            answer => answer,
        };
        let (notice, mut files) = match answer.or_else(|error| greeted.and(Err(error))).map_err(gone)? {
            Some((Notice::Answer(Err(refused)), _)) => return Err(ClientError::Refused(refused)),
            Some(it) => it,
            None => return Err(ClientError::Gone),
        };
        let (Notice::Welcome { vi, mac, mtu, shape }, Some(news), Some(bell)) =
            (notice, files.pop(), files.pop())
        else {
            return Err(nonsense());
        };
        let news = NewsReader::new(news)?;
        let geometry = Geometry::from(shape);
        let kept = match clock {
            None if geometry.stamps => Some(vi::clock::shared()?),
            _ => None,
        };
        let clock = clock.or_else(|| kept.as_ref().map(|kept| kept.clock()));
        let bell = Bell::from_descriptor(bell)?;
        let wakes = bell.try_clone()?;
        Ok(Self {
            socket,
            attachment: Attachment::new(domain, Some(bell), clock),
            wakes,
            news,
            _kept: kept,
            seen: Cell::new(0),
            inbox: RefCell::default(),
            broken: Cell::new(false),
            vi,
            mac: MacAddress::new(mac).map_err(|_| nonsense())?,
            mtu,
            geometry,
            link: None,
            ending: false,
        })
    }

    /// The interface: for everything that needs no table.
    pub fn vi(&self) -> &Vi<D> {
        self.attachment.vi()
    }

    /// Its number at this host.
    pub fn number(&self) -> ViId {
        self.vi
    }

    /// This host's Ethernet address.
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// Bytes of an IP packet at most: what is agreed while the link is up, and before what this host offers.
    pub fn mtu(&self) -> u32 {
        self.link.map_or(self.mtu, |link| link.mtu)
    }

    /// The shape of every lane.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The link, while it is up.
    pub fn link(&self) -> Option<LinkInfo> {
        self.link
    }

    /// Where frames go: the peer's filters.
    pub fn attachment(&self) -> &Attachment<D> {
        &self.attachment
    }

    /// Whether [`refresh`](Self::refresh) has something to do: one load. A service that was killed cannot say so: [`wait`](Self::wait)
    /// sees it, and who only polls calls [`refresh`](Self::refresh) now and then.
    #[inline]
    pub fn has_news(&self) -> bool {
        self.ending || self.news.count() != self.seen.get()
    }

    /// Takes in what the service has said. Never waits.
    ///
    /// # Errors
    /// [`ClientError::Gone`]: the interface has its lanes still, but none will come and go any more.
    pub fn refresh(&mut self) -> Result<(), ClientError> {
        self.fetch();
        let inbox = std::mem::take(self.inbox.get_mut());
        for (notice, files) in inbox {
            if let Notice::Answer(_) = notice {
                return Err(nonsense());
            }
            self.note(notice, files)?;
        }
        self.ending = self.attachment.tidy();
        if self.broken.get() { Err(ClientError::Gone) } else { Ok(()) }
    }

    /// Fetches what the service has said, and takes in at once what decides over packets.
    fn fetch(&self) {
        self.seen.set(self.news.count());
        loop {
            match self.socket.receive::<Notice>(false) {
                Ok(Some((notice, files))) => self.keep(notice, files),
                Ok(None) => return,
                Err(_) => {
                    self.broken.set(true);
                    return;
                }
            }
        }
    }

    fn keep(&self, notice: Notice, files: Vec<OwnedFd>) {
        match notice {
            Notice::OwnFilter { id, filter } => {
                if let Ok(filter) = filter.parse() {
                    self.attachment.own_filter(id, filter);
                }
            }
            Notice::OwnFilterGone(id) => self.attachment.own_filter_gone(id),
            notice => self.inbox.borrow_mut().push_back((notice, files)),
        }
    }

    fn note(&mut self, notice: Notice, files: Vec<OwnedFd>) -> Result<(), ClientError> {
        let mut files = files.into_iter();
        let mut file = || files.next().ok_or_else(nonsense);
        match notice {
            Notice::Up { peer_mac, mtu, kernel } => {
                let peer_mac = MacAddress::new(peer_mac).map_err(|_| nonsense())?;
                self.link = Some(LinkInfo { peer_mac, mtu, kernel });
            }
            Notice::Down => {
                self.link = None;
                self.attachment.down();
            }
            Notice::Filters(change) => {
                self.attachment.filters(&change);
            }
            Notice::MaySend { lane, peer } => {
                let end = Files { receive: file()?, returned: file()? };
                let bell = Bell::from_descriptor(file()?)?;
                self.attachment.may_send(lane, peer, self.geometry, end, bell)?;
            }
            Notice::Receives { lane, peer } => {
                let end = Files { receive: file()?, returned: file()? };
                self.attachment.receives(lane, peer, self.geometry, end)?;
            }
            Notice::NoMoreSending(lane) => self.attachment.no_more_sending(lane),
            Notice::NoMoreReceiving(lane) => self.attachment.no_more_receiving(lane),
            Notice::OwnFilter { .. } | Notice::OwnFilterGone(_) => {}
            Notice::Welcome { .. } | Notice::Answer(_) => return Err(nonsense()),
        }
        Ok(())
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        if !self.socket.send(request, &[]).map_err(gone)? {
            return Err(ClientError::Gone);
        }
        loop {
            match self.socket.receive::<Notice>(true).map_err(gone)? {
                Some((Notice::Answer(answer), _)) => {
                    self.refresh_soon();
                    return answer.map_err(ClientError::Refused);
                }
                Some((notice, files)) => self.keep(notice, files),
                None => {}
            }
        }
    }

    /// What came before an answer is in the inbox, and the page may have said so before.
    fn refresh_soon(&self) {
        if !self.inbox.borrow().is_empty() || self.broken.get() {
            self.seen.set(self.news.count().wrapping_sub(1));
        }
    }

    /// Whether there is nobody to wait for at the end of a lane any more: the service says so, or is gone.
    fn is_over(&self, lane: LaneId) -> bool {
        self.fetch();
        self.refresh_soon();
        let gone = self.attachment.name_of(lane).map(Notice::NoMoreSending);
        self.broken.get() || self.inbox.borrow().iter().any(|(notice, _)| Some(notice) == gone.as_ref())
    }

    /// Adds a filter: what it takes comes to this interface. It holds for frames that the peer sends after it has heard of it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] says why not.
    pub fn add_filter(&mut self, filter: Filter) -> Result<FilterId, ClientError> {
        self.add(filter, false)
    }

    /// Adds a filter for the set: what it takes is spread over its interfaces, flow by flow.
    ///
    /// # Errors
    /// [`ClientError::Refused`] says why not.
    pub fn add_set_filter(&mut self, filter: Filter) -> Result<FilterId, ClientError> {
        self.add(filter, true)
    }

    fn add(&mut self, filter: Filter, set: bool) -> Result<FilterId, ClientError> {
        match self.ask(&Request::AddFilter { filter: filter.to_string(), set })? {
            Answer::Filter(id) => FilterId::new(id).ok_or_else(nonsense),
            _ => Err(nonsense()),
        }
    }

    /// Removes a filter of this interface, or of its set; false if it has none of this number.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn remove_filter(&mut self, filter: FilterId) -> Result<bool, ClientError> {
        match self.ask(&Request::RemoveFilter { id: filter.number() })? {
            Answer::Removed(known) => Ok(known),
            _ => Err(nonsense()),
        }
    }

    /// What the service has counted.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&mut self) -> Result<crate::ServiceStatus, ClientError> {
        match self.ask(&Request::Status)? {
            Answer::Status(status) => Ok(*status),
            _ => Err(nonsense()),
        }
    }

    /// Polls the interface. What no filter of it takes is dropped and counted: its place in `events` is [`Event::Nothing`]. The
    /// sender steers, and need not be trusted.
    #[inline]
    pub fn poll<'vi>(&'vi self, events: &mut [Event<'vi, D>]) -> usize {
        let count = self.attachment.vi().poll(events);
        for event in events.iter_mut().take(count) {
            if let Event::Received(packet) = event
                && !self.takes(packet)
            {
                *event = Event::Nothing;
            }
        }
        count
    }

    /// Whether a filter of this interface takes a packet; one that none takes is counted as a [stranger](Attachment::strangers). Who polls
    /// the [interface](Self::vi) itself, by a [`TimedVi`](vi::TimedVi) say, asks this, as [`poll`](Self::poll) does.
    #[inline]
    pub fn takes(&self, packet: &Packet<'_, D>) -> bool {
        self.attachment.takes(packet) || self.takes_after_all(packet)
    }

    #[cold]
    fn takes_after_all(&self, packet: &Packet<'_, D>) -> bool {
        // The service tells of a filter of the set before the peer hears of it.
        let known = self.has_news() && {
            self.fetch();
            self.refresh_soon();
            self.attachment.takes(packet)
        };
        if !known {
            self.attachment.stranger();
        }
        known
    }

    /// Sends a frame to whom the peer's filters say, or else to its kernel. Whoever has no room loses it, which is counted.
    ///
    /// # Errors
    /// [`TransmitError`].
    #[inline]
    pub fn transmit(&self, frame: &[u8], request: RequestId) -> Result<Steered, TransmitError> {
        self.attachment.transmit(frame, request)
    }

    /// The same, and when it was handed over, by the clock; a time of 0 for an interface without one.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn transmit_timed(
        &self,
        frame: &[u8],
        request: RequestId,
    ) -> Result<(Steered, Stamp), TransmitError> {
        let stamp = self.clock().map_or_else(Stamp::default, Clock::now);
        Ok((self.attachment.transmit_at(frame, stamp.ns, request)?, stamp))
    }

    /// The same, but waits for room, at most `limit`; the time is when there was.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn transmit_timed_when_room(
        &self,
        frame: &[u8],
        request: RequestId,
        limit: Duration,
    ) -> Result<(Steered, Stamp), TransmitError> {
        self.attachment.wait_for_room(frame, frame.len(), limit, |lane| self.is_over(lane))?;
        self.transmit_timed(frame, request)
    }

    /// What frames get their times from.
    pub fn clock(&self) -> Option<&Clock> {
        self.attachment.clock()
    }

    /// How the peer's clock stands to this host's now, as the services have measured it: loads of a page, no message. The
    /// bound is between the services' clocks. A frame's time is by the clock of the process that sent it, which is within its own bound
    /// of its host's CLOCK_TAI, as the services' are. None before the first exchange, while the peer is away, and where lanes carry no times.
    pub fn peer_clock(&self) -> Option<PeerOffset> {
        let (at_ns, mut peer) = self.news.clock()?;
        let age = u128::from(self.clock()?.now_ns().abs_diff(at_ns));
        // Both may drift, in opposite directions, since the page was written.
        let parted = (age * 2 * u128::from(DRIFT_PPB)).div_ceil(1_000_000_000);
        peer.bound_ns = peer.bound_ns.saturating_add(u64::try_from(parted).unwrap_or(u64::MAX));
        Some(peer)
    }

    /// As [`transmit`](Self::transmit), but waits for room, at most `limit`, and for nobody of whom the service says meanwhile that he
    /// is gone.
    ///
    /// # Errors
    /// [`TransmitError`].
    pub fn transmit_when_room(
        &self,
        frame: &[u8],
        request: RequestId,
        limit: Duration,
    ) -> Result<Steered, TransmitError> {
        self.attachment.wait_for_room(frame, frame.len(), limit, |lane| self.is_over(lane))?;
        self.transmit(frame, request)
    }

    /// As [`Attachment::forward`], but waits for room as [`transmit_when_room`](Self::transmit_when_room) does; what was staged before goes
    /// out then. Whoever holds up the one who forwards so holds up the senders of the first link, too, once their lanes are full.
    ///
    /// # Errors
    /// [`TransmitError`] of the first lane that is over.
    pub fn forward_when_room<D2>(
        &self,
        packet: &Packet<'_, D2>,
        request: RequestId,
        limit: Duration,
    ) -> Result<Steered, TransmitError> {
        let header = packet.header::<HEADER_BYTES>();
        let header = header.get(..packet.len()).unwrap_or(&header);
        self.attachment.wait_for_room(header, packet.len(), limit, |lane| self.is_over(lane))?;
        self.attachment.forward(packet, request)
    }

    /// Waits until the link is up and the interface reaches the peer's kernel or `others` interfaces of it.
    ///
    /// # Errors
    /// [`ClientError`]; none when time is up, and then it is false.
    pub fn wait_to_reach(&mut self, others: usize, limit: Duration) -> Result<bool, ClientError> {
        self.wait_for(limit, |client| {
            let (reached, kernel) = client.attachment.reaches();
            client.link.is_some() && kernel && reached >= others
        })
    }

    /// Refreshes until something is so; false when time is up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn wait_for(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<bool, ClientError> {
        let start = Instant::now();
        loop {
            self.refresh()?;
            if done(self) {
                return Ok(true);
            }
            let Some(left) = limit.checked_sub(start.elapsed()) else { return Ok(false) };
            // It is looked again after that.
            let time = Timespec::try_from(left.min(LOOK_AGAIN)).map_err(io::Error::other)?;
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut fds, Some(&time)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
    }

    /// Sleeps until a frame comes, the service has something to say, or `limit` has passed. True: poll and
    /// [`refresh`](Self::refresh).
    ///
    /// # Errors
    /// When descriptors cannot be waited for.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        if self.has_news() || !self.vi().prime() {
            return Ok(true);
        }
        let time = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut fds = [PollFd::new(&self.wakes, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut fds, time.as_ref()) {
            Ok(0) => Ok(false),
            Ok(_) | Err(Errno::INTR) => {
                // A service that is gone has something to say, too, which no page tells of.
                if fds.last().is_some_and(|socket| !socket.revents().is_empty()) {
                    self.seen.set(self.news.count().wrapping_sub(1));
                }
                self.wakes.silence().map(|()| true)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// The descriptors to wait for in an `epoll` of one's own, after [`Vi::prime`] said true: frames, and the service. When the second one
    /// is readable, [`refresh`](Self::refresh): the service says something, or is gone.
    pub fn descriptors(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.wakes.as_fd(), self.socket.as_fd())
    }
}

/// Whether a frame was lost, for callers that count.
#[must_use]
pub fn is_lost(steered: &Steered) -> bool {
    steered.sent == 0 && steered.verdict != Verdict::Blocked
}

fn gone(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            ClientError::Gone
        }
        _ => ClientError::Io(error),
    }
}

fn nonsense() -> ClientError {
    ClientError::Io(io::Error::new(io::ErrorKind::InvalidData, "the service says what makes no sense"))
}
