//! The service: one thread with one `poll`. It holds the device; frames between clients do not pass it.

mod kernel;
mod options;
mod session;

pub use kernel::KernelCounts;
pub use options::{ClientStatus, ClockStatus, ServiceError, ServiceOptions, ServiceStatus};

use crate::adapter::{Adapter, AdapterError, Agreement, Happening, LaneEnd, Offer};
use crate::attachment::Files;
use crate::protocol::{Answer, Notice, Request, Socket, VERSION};
use crate::{Features, ViId};
use kernel::Kernel;
use netdev::{ETHERNET_HEADER_BYTES, VLAN_TAG_BYTES};
use ntb::Bridge;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Resource, getrlimit};
use session::{Member, Session};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use vi::Bell;
use vi::clock::KeeperThread;
use vi::filter::MOST_MEMBERS;
use vi::lane::FilterId;

/// Requests of one client that are answered in one turn.
const BUDGET: usize = 16;
/// The most clients.
const MOST_CLIENTS: usize = 64;
/// The longest name of a client or a set, in bytes.
const MOST_NAME: usize = 64;
/// Of the descriptors that the service may have, the part that may wait for clients which do not read (a debugger has stopped one, say): a
/// third. With more of them whoever has the most is sent away, since a service without any is at its end.
const WAITING_PART: u64 = 3;
/// So many may wait in any case.
const FEW_FILES: usize = 256;
/// How long to poll on after the last frame of the kernel's before sleeping.
const TURNS_AWAKE: u32 = 32;

/// Interfaces that share filters.
#[derive(Debug)]
struct Set {
    number: u32,
    user: u32,
    name: String,
    members: Vec<ViId>,
    filters: Vec<(FilterId, String)>,
}

/// A service.
#[derive(Debug)]
pub struct Service {
    adapter: Adapter,
    listener: Socket,
    path: PathBuf,
    sessions: Vec<Session>,
    sets: Vec<Set>,
    kernel: Kernel,
    kernel_rung: Vec<(crate::Lane, ViId, Bell)>,
    last_vi: u16,
    last_set: u32,
    came: u64,
    sent_away: u64,
    /// Keeps the process's clock right, if that is the one.
    _kept: Option<Arc<KeeperThread>>,
    /// What clients were told last of the peer's clock.
    told_clock: (u64, bool),
}

impl Service {
    /// Takes a bridge into use, and listens.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub fn open(bridge: Arc<dyn Bridge>, options: ServiceOptions) -> Result<Self, ServiceError> {
        let ServiceOptions { socket, tap, mac, mtu, geometry, lanes, clock } = options;
        let needs = frame_bytes(mtu);
        if needs > geometry.buffer_bytes as usize {
            return Err(ServiceError::Mtu { mtu, needs, has: geometry.buffer_bytes });
        }
        let listener = Socket::listen(&socket)
            .map_err(|source| ServiceError::Socket { path: socket.clone(), source })?;
        listener.set_nonblocking()?;
        let features = Features { kernel: tap.is_some() };
        let generation = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        let offer = Offer { mac, mtu, features, geometry, lanes, generation };
        let kept = match clock {
            None if geometry.stamps => Some(vi::clock::shared()?),
            _ => None,
        };
        let clock = clock.or_else(|| kept.as_ref().map(|kept| kept.clock()));
        // Times are measured for those that frames carry.
        let adapter = Adapter::open(bridge, offer, clock.clone().filter(|_| geometry.stamps));
        if adapter.is_err() {
            let _ = std::fs::remove_file(&socket);
        }
        Ok(Self {
            adapter: adapter?,
            listener,
            path: socket,
            sessions: Vec::new(),
            sets: Vec::new(),
            kernel: Kernel::new(tap, geometry.buffer_bytes as usize, clock),
            kernel_rung: Vec::new(),
            last_vi: 0,
            last_set: 0,
            came: 0,
            sent_away: 0,
            _kept: kept,
            told_clock: (0, false),
        })
    }

    /// Serves until `stop` is readable.
    ///
    /// # Errors
    /// [`ServiceError`] when the device is gone.
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> Result<(), ServiceError> {
        let mut awake = 0;
        loop {
            let busy = self.kernel.turn();
            awake = if busy { TURNS_AWAKE } else { awake.saturating_sub(1) };
            // The lanes are armed only for a sleep: an armed lane makes its sender ring.
            let patience = match awake {
                0 if self.kernel.attachment.vi().prime() => self.adapter.patience(),
                _ => Duration::ZERO,
            };
            let ready = self.wait(stop, patience)?;
            if ready.stop {
                return Ok(());
            }
            self.turn(&ready)?;
        }
    }

    fn turn(&mut self, ready: &Ready) -> Result<(), ServiceError> {
        for peer in ready.rung.iter().copied() {
            self.adapter.wake(peer);
        }
        if ready.listener {
            self.accept()?;
        }
        for &at in &ready.sessions {
            self.listen_to(at)?;
        }
        let mut happenings = Vec::new();
        self.adapter.turn(&mut happenings)?;
        for happening in happenings {
            self.note(happening)?;
        }
        self.kernel.attachment.tidy();
        self.tell_clock();
        self.send_away()
    }

    /// Writes into everybody's page how the peer's clock stands, if there was an exchange.
    fn tell_clock(&mut self) {
        let clock = self.adapter.peer_clock();
        let now = (self.adapter.counts().clock_exchanges, clock.is_some());
        if now != self.told_clock {
            self.told_clock = now;
            for member in self.sessions.iter_mut().filter_map(|session| session.member.as_mut()) {
                member.news.clock(clock);
            }
        }
    }

    /// Who has something to say.
    fn wait(&mut self, stop: BorrowedFd<'_>, patience: Duration) -> Result<Ready, ServiceError> {
        let mut bells: Vec<(&Bell, ViId)> =
            self.kernel_rung.iter().map(|(_, peer, bell)| (bell, *peer)).collect();
        for member in self.sessions.iter().filter_map(|session| session.member.as_ref()) {
            bells.extend(member.rung.iter().map(|(_, peer, bell)| (bell, *peer)));
        }
        let mut fds = vec![
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::from_borrowed_fd(self.adapter.device(), PollFlags::IN),
        ];
        fds.extend(self.sessions.iter().map(|session| {
            let room = if session.waits_for_room() { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::new(&session.socket, PollFlags::IN | room)
        }));
        fds.extend(bells.iter().map(|(bell, _)| PollFd::new(*bell, PollFlags::IN)));
        fds.extend(self.kernel.tap.iter().map(|(_, queue)| PollFd::new(queue, PollFlags::IN)));
        let time = Timespec::try_from(patience).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
        let signalled: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let is = |at: usize| signalled.get(at).copied().unwrap_or(false);
        let mut rung = Vec::new();
        for (at, (bell, peer)) in (3 + self.sessions.len()..).zip(&bells) {
            if is(at) {
                // One whose other end is gone goes with its client.
                bell.silence().ok();
                rung.push(*peer);
            }
        }
        let sessions = (0..self.sessions.len()).filter(|at| is(3 + at)).collect();
        Ok(Ready { stop: is(0), listener: is(1), sessions, rung })
    }

    fn accept(&mut self) -> Result<(), ServiceError> {
        while let Some(socket) = self.listener.accept()? {
            let mut session = Session::new(socket);
            self.came = self.came.wrapping_add(1);
            if self.sessions.len() >= MOST_CLIENTS {
                let refused = format!("the service has {MOST_CLIENTS} clients already");
                session.say(&Notice::Answer(Err(refused)), Vec::new());
                continue;
            }
            self.sessions.push(session);
        }
        Ok(())
    }

    fn listen_to(&mut self, at: usize) -> Result<(), ServiceError> {
        for _ in 0..BUDGET {
            let Some(session) = self.sessions.get_mut(at) else { return Ok(()) };
            session.flush();
            match session.socket.receive::<Request>(false) {
                // Descriptors that it sends are closed with `_files`.
                Ok(Some((request, _files))) => self.answer(at, request)?,
                Ok(None) => return Ok(()),
                // A process that ends with notices unread resets its connection.
                Err(error) if is_end(&error) => session.end(""),
                Err(error) => session.end(error.to_string()),
            }
            if self.sessions.get(at).is_none_or(|session| session.ended.is_some()) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn answer(&mut self, at: usize, request: Request) -> Result<(), ServiceError> {
        let member = self.sessions.get(at).and_then(|session| session.member.as_ref());
        let known = member.map(|member| (member.vi, member.set));
        let answer = match (request, known) {
            (Request::Hello { version, name, set }, None) => {
                let welcome = self.welcome(at, version, name, set);
                if let (Err(refused), Some(session)) = (welcome, self.sessions.get_mut(at)) {
                    session.say(&Notice::Answer(Err(refused.clone())), Vec::new());
                    session.end(refused);
                }
                return Ok(());
            }
            (Request::AddFilter { filter, set }, Some((vi, member_of))) => {
                self.add_filter(vi, member_of, &filter, set)
            }
            (Request::RemoveFilter { id }, Some((vi, member_of))) => self.remove_filter(vi, member_of, id),
            (Request::Status, Some(_)) => Ok(Answer::Status(Box::new(self.status()))),
            (_, None) | (Request::Hello { .. }, Some(_)) => {
                if let Some(session) = self.sessions.get_mut(at) {
                    session.end("it does not say hello first, and once");
                }
                return Ok(());
            }
        };
        if let Some(session) = self.sessions.get_mut(at) {
            session.say(&Notice::Answer(answer), Vec::new());
        }
        Ok(())
    }

    fn welcome(&mut self, at: usize, version: u32, name: String, set: Option<String>) -> Result<(), String> {
        if version != VERSION {
            return Err(format!(
                "the client speaks version {version} and the service version {VERSION}: run the same isthmus"
            ));
        }
        if name.len() > MOST_NAME || set.as_ref().is_some_and(|set| set.len() > MOST_NAME) {
            return Err(format!("names have at most {MOST_NAME} bytes"));
        }
        let vi = self.free_vi().ok_or("all numbers of interfaces are in use")?;
        let session = self.sessions.get(at).ok_or("the connection is gone")?;
        let user = socket_peercred(&session.socket).map_err(|errno| errno.to_string())?.uid.as_raw();
        let (mut member, files) = Member::new(vi, name).map_err(|error| error.to_string())?;
        member.set = set.map(|set| self.join(vi, user, set)).transpose()?;
        let set = member.set;
        member.news.clock(self.adapter.peer_clock());
        let Offer { mac, mtu, .. } = *self.adapter.offer();
        let shape = self.adapter.geometry().into();
        let up = self.adapter.agreement().map(up);
        let session = self.sessions.get_mut(at).ok_or("the connection is gone")?;
        session.member = Some(member);
        session.say(&Notice::Welcome { vi, mac: mac.bytes(), mtu, shape }, files.into());
        if let Some(up) = up {
            session.say(&up, Vec::new());
        }
        for entry in self.kernel.attachment.published().entries() {
            session.say(&Notice::Filters(crate::adapter::Change::Add(entry.clone())), Vec::new());
        }
        if let Some(set) = set {
            self.tell_set_filters(at, set);
        }
        self.adapter.add_vi(vi).map_err(|error| error.to_string())?;
        if let Some(set) = set {
            self.members_changed(set).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Numbers are not used again soon: what is said of an interface that is gone concerns no other.
    fn free_vi(&mut self) -> Option<ViId> {
        for _ in 0..u16::MAX {
            self.last_vi = self.last_vi.checked_add(1).unwrap_or(1);
            let vi = ViId(self.last_vi);
            if self.sessions.iter().all(|session| session.vi() != Some(vi)) {
                return Some(vi);
            }
        }
        None
    }

    fn session_of(&mut self, vi: ViId) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.vi() == Some(vi))
    }

    fn add_filter(&mut self, vi: ViId, set: Option<u32>, text: &str, to_set: bool) -> Result<Answer, String> {
        let filter: vi::filter::Filter =
            text.parse().map_err(|error: vi::filter::BadFilter| error.to_string())?;
        let members = match (to_set, set) {
            (false, _) => vec![vi],
            (true, Some(number)) => match self.sets.iter().find(|set| set.number == number) {
                Some(set) => set.members.clone(),
                None => return Err("the set is gone".to_owned()),
            },
            (true, None) => return Err("the interface is in no set: name one when it connects".to_owned()),
        };
        let set = set.filter(|_| to_set);
        // Who receives knows the filter before the peer does.
        let id = self.adapter.next_filter(filter, &members, set).map_err(|error| error.to_string())?;
        for &member in &members {
            if let Some(session) = self.session_of(member) {
                session.say(&Notice::OwnFilter { id: id.number(), filter: text.to_owned() }, Vec::new());
            }
        }
        self.adapter.publish_filter(id, filter, members, set).map_err(|error| error.to_string())?;
        match set {
            Some(number) => {
                if let Some(set) = self.sets.iter_mut().find(|set| set.number == number) {
                    set.filters.push((id, text.to_owned()));
                }
            }
            None => {
                if let Some(member) = self.session_of(vi).and_then(|session| session.member.as_mut()) {
                    member.filters.push(id);
                }
            }
        }
        Ok(Answer::Filter(id.number()))
    }

    fn remove_filter(&mut self, vi: ViId, set: Option<u32>, id: u16) -> Result<Answer, String> {
        let Some(id) = FilterId::new(id) else { return Ok(Answer::Removed(false)) };
        let member = self.session_of(vi).and_then(|session| session.member.as_mut());
        let mut told = Vec::new();
        if let Some(member) = member
            && member.filters.contains(&id)
        {
            member.filters.retain(|&known| known != id);
            told.push(vi);
        } else if let Some(set) = self.sets.iter_mut().find(|known| Some(known.number) == set)
            && set.filters.iter().any(|(known, _)| *known == id)
        {
            set.filters.retain(|(known, _)| *known != id);
            told.clone_from(&set.members);
        } else {
            return Ok(Answer::Removed(false));
        }
        self.adapter.remove_filter(id).map_err(|error| error.to_string())?;
        for vi in told {
            if let Some(session) = self.session_of(vi) {
                session.say(&Notice::OwnFilterGone(id.number()), Vec::new());
            }
        }
        Ok(Answer::Removed(true))
    }

    fn join(&mut self, vi: ViId, user: u32, name: String) -> Result<u32, String> {
        if let Some(set) = self.sets.iter_mut().find(|set| set.user == user && set.name == name) {
            if set.members.len() >= MOST_MEMBERS {
                return Err(format!("the set {name} has {MOST_MEMBERS} interfaces already"));
            }
            set.members.push(vi);
            return Ok(set.number);
        }
        self.last_set = self.last_set.wrapping_add(1) & 0xFFFF;
        let (number, members, filters) = (self.last_set, vec![vi], Vec::new());
        self.sets.push(Set { number, user, name, members, filters });
        Ok(number)
    }

    fn tell_set_filters(&mut self, at: usize, number: u32) {
        let Some(set) = self.sets.iter().find(|set| set.number == number) else { return };
        let Some(session) = self.sessions.get_mut(at) else { return };
        for (id, filter) in &set.filters {
            session.say(&Notice::OwnFilter { id: id.number(), filter: filter.clone() }, Vec::new());
        }
    }

    fn members_changed(&mut self, number: u32) -> Result<(), AdapterError> {
        let Some(set) = self.sets.iter().find(|set| set.number == number) else { return Ok(()) };
        for (id, _) in &set.filters {
            self.adapter.set_members(*id, set.members.clone())?;
        }
        Ok(())
    }

    fn note(&mut self, happening: Happening) -> Result<(), ServiceError> {
        match happening {
            Happening::Up(agreement) => {
                tracing::info!(peer = %agreement.peer_mac, mtu = agreement.mtu, "the peer is there");
                if let Some((tap, _)) = &self.kernel.tap {
                    tap.set_mtu(agreement.mtu)?;
                    tap.set_carrier(agreement.features.kernel)?;
                }
                self.tell_all(&up(&agreement));
            }
            Happening::Down => {
                tracing::info!("the peer is gone");
                if let Some((tap, _)) = &self.kernel.tap {
                    tap.set_carrier(false)?;
                }
                self.kernel.attachment.down();
                self.tell_all(&Notice::Down);
            }
            Happening::Filters(change) => {
                if self.kernel.attachment.filters(&change) {
                    self.tell_all(&Notice::Filters(change));
                } else {
                    self.adapter.made_no_sense();
                }
            }
            Happening::MaySend(end) => self.may_send(end)?,
            Happening::Receives(LaneEnd { vi, peer, lane, receive_area, return_area }) => {
                let files = vec![receive_area, return_area];
                match self.session_of(vi) {
                    _ if vi == ViId::KERNEL => {
                        self.kernel.attachment.receives(lane, peer, self.adapter.geometry(), pair(files)?)?;
                    }
                    Some(session) => session.say(&Notice::Receives { lane, peer }, files),
                    None => {}
                }
            }
            Happening::NoMoreSending { vi, lane } => {
                if vi == ViId::KERNEL {
                    self.kernel_rung.retain(|(known, ..)| *known != lane);
                    self.kernel.attachment.no_more_sending(lane);
                } else if let Some(session) = self.session_of(vi) {
                    if let Some(member) = &mut session.member {
                        member.rung.retain(|(known, ..)| *known != lane);
                    }
                    session.say(&Notice::NoMoreSending(lane), Vec::new());
                }
            }
            Happening::NoMoreReceiving { vi, lane } => {
                if vi == ViId::KERNEL {
                    self.kernel.attachment.no_more_receiving(lane);
                } else if let Some(session) = self.session_of(vi) {
                    session.say(&Notice::NoMoreReceiving(lane), Vec::new());
                }
            }
            Happening::Wake(vi) => {
                if let Some(member) = self.session_of(vi).and_then(|session| session.member.as_ref()) {
                    // One that cannot be rung belongs to a process that is about to be missed.
                    member.bell.ring().ok();
                }
            }
        }
        Ok(())
    }

    fn may_send(&mut self, end: LaneEnd) -> Result<(), ServiceError> {
        let LaneEnd { vi, peer, lane, receive_area, return_area } = end;
        let (rings, waits) = Bell::divided()?;
        let geometry = self.adapter.geometry();
        if vi == ViId::KERNEL {
            let files = pair(vec![receive_area, return_area])?;
            self.kernel.attachment.may_send(lane, peer, geometry, files, rings)?;
            self.kernel_rung.push((lane, peer, waits));
        } else if let Some(session) = self.session_of(vi) {
            let files = vec![receive_area, return_area, rings.as_fd().try_clone_to_owned()?];
            if let Some(member) = &mut session.member {
                member.rung.push((lane, peer, waits));
            }
            session.say(&Notice::MaySend { lane, peer }, files);
        }
        Ok(())
    }

    fn tell_all(&mut self, notice: &Notice) {
        for session in self.sessions.iter_mut().filter(|session| session.member.is_some()) {
            session.say(notice, Vec::new());
        }
    }

    /// Whoever keeps too many descriptors waiting is to go.
    fn bound_files(&mut self) {
        loop {
            let waiting: usize = self.sessions.iter().map(Session::waiting_files).sum();
            if waiting <= FEW_FILES {
                return;
            }
            let most = getrlimit(Resource::Nofile).current.map(|limit| limit / WAITING_PART);
            if most.is_none_or(|most| waiting as u64 <= most) {
                return;
            }
            match self.sessions.iter_mut().max_by_key(|session| session.waiting_files()) {
                Some(most) => most.give_up(),
                None => return,
            }
        }
    }

    /// Takes back all that clients had who are gone, or are to go.
    fn send_away(&mut self) -> Result<(), ServiceError> {
        self.bound_files();
        let (stay, go) =
            std::mem::take(&mut self.sessions).into_iter().partition(|session| session.ended.is_none());
        self.sessions = stay;
        for session in go {
            let why = session.ended.unwrap_or_default();
            if !why.is_empty() {
                self.sent_away = self.sent_away.wrapping_add(1);
                tracing::warn!(
                    client = session.member.as_ref().map(|member| member.name.as_str()),
                    "a client was sent away: {why}"
                );
            }
            let Some(member) = session.member else { continue };
            self.adapter.remove_vi(member.vi, &member.filters)?;
            let Some(at) = self.sets.iter().position(|set| Some(set.number) == member.set) else { continue };
            let Some(set) = self.sets.get_mut(at) else { continue };
            set.members.retain(|&vi| vi != member.vi);
            let number = set.number;
            if set.members.is_empty() {
                for (id, _) in self.sets.swap_remove(at).filters {
                    self.adapter.remove_filter(id)?;
                }
            } else {
                self.members_changed(number)?;
            }
        }
        Ok(())
    }

    /// What was counted.
    #[must_use]
    pub fn status(&self) -> ServiceStatus {
        let agreement = self.adapter.agreement();
        let client = |member: &Member| ClientStatus {
            vi: member.vi,
            name: member.name.clone(),
            filters: u32::try_from(member.filters.len()).unwrap_or(u32::MAX),
        };
        ServiceStatus {
            peer_mac: agreement.map(|agreement| agreement.peer_mac.to_string()),
            mtu: agreement.map_or(self.adapter.offer().mtu, |agreement| agreement.mtu),
            clients: self.sessions.iter().filter_map(|session| session.member.as_ref()).map(client).collect(),
            adapter: self.adapter.counts(),
            kernel: self.kernel.counts(),
            sent_away: self.sent_away,
            came: self.came,
            clock: self.adapter.peer_clock().map(|(_, peer)| peer.into()),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may be another's by now only if somebody has removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

#[derive(Debug)]
struct Ready {
    stop: bool,
    listener: bool,
    sessions: Vec<usize>,
    rung: Vec<ViId>,
}

fn pair(files: Vec<OwnedFd>) -> io::Result<Files> {
    let mut files = files.into_iter();
    let mut next = || files.next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput));
    Ok(Files { receive: next()?, returned: next()? })
}

fn up(agreement: &Agreement) -> Notice {
    Notice::Up { peer_mac: agreement.peer_mac.bytes(), mtu: agreement.mtu, kernel: agreement.features.kernel }
}

fn frame_bytes(mtu: u32) -> usize {
    usize::try_from(mtu)
        .unwrap_or(usize::MAX)
        .saturating_add(ETHERNET_HEADER_BYTES)
        .saturating_add(VLAN_TAG_BYTES)
}
