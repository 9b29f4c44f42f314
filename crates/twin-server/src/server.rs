//! The event loop: two ports, the control socket, the model's timer, and a descriptor that says stop.

use crate::burst::Burst;
use crate::control_server::Connection;
use crate::endpoint::Endpoint;
use crate::machine::Machine;
use crate::status::{self, SessionStatus, port_name};
use crate::trace::Trace;
use crate::windows::WindowMode;
use control::{Reply, Request, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use twin::{Setup, Side, Time};
use vfio_user::listen::{ListenError, Listener};
use vfio_user::server::{Next, ServerSession, TurnedAway};

/// What one port may have done before the other gets its turn, in messages: some 100 µs of work.
const BUDGET: usize = 256;
/// Clients of the control socket at a time.
const MAX_CONNECTIONS: usize = 64;
/// Clients at a taken port that may be in the course of being told so, and how long they may stay.
const MAX_TURNED_AWAY: usize = 4;
const TURN_AWAY_WITHIN: Duration = Duration::from_secs(1);
/// How long the loop leaves a listener alone that cannot accept, for want of descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a twin is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where hosts connect: port a, port b.
    pub ports: [Endpoint; 2],
    /// Where `isthmus status` connects, if anywhere.
    pub control: Option<Endpoint>,
    /// Windows and training time.
    pub setup: Setup,
    /// How data crosses each port's windows: port a's, port b's.
    pub modes: [WindowMode; 2],
    /// Where register accesses are written, if anywhere.
    pub trace: Option<PathBuf>,
}

/// Why a twin did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A socket could not be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// An inherited socket could not be used.
    #[error("an inherited socket cannot be used")]
    Inherit(#[source] io::Error),
    /// The trace file could not be made.
    #[error("the trace file {} cannot be made", path.display())]
    Trace {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Waiting failed; nothing but a lack of memory makes it.
    #[error("waiting for the hosts failed")]
    Poll(#[source] io::Error),
}

/// A twin that listens.
#[derive(Debug)]
pub struct Server {
    machine: Machine,
    a: Dock,
    b: Dock,
    control: Option<Listener>,
    connections: Vec<Connection>,
    /// Set while accepting fails: the loop does not spin on a listener that stays readable.
    accept_pause: bool,
}

/// Where a host docks: the socket, and the session while one is there.
#[derive(Debug)]
struct Dock {
    side: Side,
    name: String,
    listener: Listener,
    session: Option<ServerSession>,
    /// The session's budget ran out: it has work that poll cannot see.
    again: bool,
    burst: Burst,
    /// A reply waits for an overlay: the session is left alone until the machine is settled.
    held: bool,
    /// Others who came meanwhile, to be told that the port is taken.
    turned_away: Vec<Visitor>,
}

/// Somebody at a port that is taken.
#[derive(Debug)]
struct Visitor {
    client: TurnedAway,
    until: Time,
    over: bool,
}

/// What a descriptor in the poll set belongs to.
#[derive(Debug, Clone, Copy)]
enum Source {
    Stop,
    Session(Side),
    Visitor(Side, usize),
    Listener(Side),
    Control,
    Connection(usize),
    Overlay(u32),
}

impl Server {
    /// Opens the sockets. From here on hosts can connect; they are served by [`run`](Self::run).
    ///
    /// # Errors
    /// [`RunError`] says which socket or file is in the way, and what to do.
    pub fn bind(options: &Options) -> Result<Self, RunError> {
        let [a, b] = &options.ports;
        let (a, b) = (Dock::new(Side::A, a)?, Dock::new(Side::B, b)?);
        let control = options.control.as_ref().map(listen).transpose()?;
        let trace = match &options.trace {
            None => None,
            Some(path) => {
                Some(Trace::create(path).map_err(|source| RunError::Trace { path: path.clone(), source })?)
            }
        };
        Ok(Self {
            a,
            b,
            control,
            machine: Machine::new(options.setup, options.modes, trace),
            connections: Vec::new(),
            accept_pause: false,
        })
    }

    /// Serves until `stop` becomes readable.
    ///
    /// # Errors
    /// Only when waiting itself fails: what a host or a control client does ends its own connection at most.
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> Result<(), RunError> {
        let mut ready = Vec::new();
        loop {
            if self.wait(stop, &mut ready)? {
                for side in Side::BOTH {
                    let (dock, machine) = self.dock_mut(side);
                    if let Some(session) = dock.session.take() {
                        session.finish(&mut machine.port(side));
                    }
                }
                if let Some(trace) = &mut self.machine.trace {
                    trace.flush();
                }
                return Ok(());
            }
            if self.machine.wait() == Some(Duration::ZERO) {
                self.machine.advance();
            }
            self.machine.expire_overlays();
            for &source in &ready {
                match source {
                    Source::Stop => {}
                    Source::Session(side) => self.serve(side),
                    Source::Visitor(side, at) => self.turn_away(side, at),
                    Source::Listener(side) => self.dock(side),
                    Source::Control => self.admit(),
                    Source::Connection(at) => self.answer(at),
                    Source::Overlay(pid) => self.machine.serve_overlay(pid),
                }
            }
            for side in Side::BOTH {
                let (dock, machine) = self.dock_mut(side);
                if dock.held && !machine.holds(side) {
                    dock.held = false;
                    self.serve(side);
                }
            }
            self.tell_watchers();
            self.show_out();
        }
    }

    /// Waits until something is to be done, and says what in `ready`, sessions first: a host that left makes room for the
    /// one that is waiting. Returns whether to stop.
    fn wait(&mut self, stop: BorrowedFd<'_>, ready: &mut Vec<Source>) -> Result<bool, RunError> {
        ready.clear();
        let now = self.machine.now();
        let mut sources = vec![Source::Stop];
        let mut fds = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        for dock in [&self.a, &self.b] {
            if let Some(session) =
                dock.session.as_ref().filter(|_| !dock.held && dock.burst.rests_until(now).is_none())
            {
                let mut interest = PollFlags::empty();
                interest.set(PollFlags::IN, session.wants_read());
                interest.set(PollFlags::OUT, session.wants_write());
                sources.push(Source::Session(dock.side));
                fds.push(PollFd::from_borrowed_fd(session.as_fd(), interest));
            }
        }
        let mut latest = None;
        for dock in [&self.a, &self.b] {
            if let Some(until) = dock.burst.rests_until(now) {
                latest = Some(latest.map_or(until, |other: Time| other.min(until)));
            }
            for (at, visitor) in dock.turned_away.iter().enumerate() {
                sources.push(Source::Visitor(dock.side, at));
                fds.push(PollFd::from_borrowed_fd(visitor.client.as_fd(), PollFlags::IN));
                latest = Some(latest.map_or(visitor.until, |until: Time| until.min(visitor.until)));
            }
        }
        for (at, connection) in self.connections.iter().enumerate() {
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::IN, connection.wants_read());
            interest.set(PollFlags::OUT, connection.wants_write());
            sources.push(Source::Connection(at));
            fds.push(PollFd::from_borrowed_fd(connection.as_fd(), interest));
        }
        for (pid, fd, wants_write) in self.machine.windows.overlays() {
            let mut interest = PollFlags::IN;
            interest.set(PollFlags::OUT, wants_write);
            sources.push(Source::Overlay(pid));
            fds.push(PollFd::from_borrowed_fd(fd, interest));
        }
        if !self.accept_pause {
            for dock in [&self.a, &self.b] {
                sources.push(Source::Listener(dock.side));
                fds.push(PollFd::from_borrowed_fd(dock.listener.as_fd(), PollFlags::IN));
            }
            if let Some(control) = &self.control {
                sources.push(Source::Control);
                fds.push(PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN));
            }
        }
        let busy = self.a.again || self.b.again || self.connections.iter().any(Connection::again);
        let late = self.machine.windows.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let visitors = latest.map(|Time(latest)| latest.saturating_sub(self.machine.now().0));
        let waits = [self.machine.wait(), late, visitors].into_iter().flatten();
        let mut timeout = if busy { Some(Duration::ZERO) } else { waits.min() };
        if self.accept_pause {
            timeout = Some(timeout.map_or(ACCEPT_PAUSE, |time| time.min(ACCEPT_PAUSE)));
            self.accept_pause = false;
        }
        if timeout != Some(Duration::ZERO)
            && let Some(trace) = &mut self.machine.trace
        {
            trace.flush();
        }
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(RunError::Poll(errno.into())),
        }
        for (fd, &source) in fds.iter().zip(&sources) {
            let again = match source {
                Source::Session(Side::A) => self.a.again,
                Source::Session(Side::B) => self.b.again,
                Source::Connection(at) => self.connections.get(at).is_some_and(Connection::again),
                _ => false,
            };
            if !fd.revents().is_empty() || again {
                ready.push(source);
            }
        }
        Ok(matches!(ready.first(), Some(Source::Stop)))
    }

    fn dock_mut(&mut self, side: Side) -> (&mut Dock, &mut Machine) {
        match side {
            Side::A => (&mut self.a, &mut self.machine),
            Side::B => (&mut self.b, &mut self.machine),
        }
    }

    /// Lets a host's session work.
    fn serve(&mut self, side: Side) {
        let (dock, machine) = self.dock_mut(side);
        let Some(session) = &mut dock.session else { return };
        let before = *session.counters();
        let done = session.service(&mut machine.port(side), BUDGET);
        let over = match done {
            Ok(progress) => {
                dock.again = progress.next == Next::Again;
                dock.burst.saw(&before, session.counters(), machine.now(), dock.again);
                dock.held = progress.next == Next::Held;
                progress.next == Next::Closed
            }
            Err(error) => {
                machine.log(side, |left_out| {
                    tracing::warn!(port = %port_name(side), %error, left_out, "the host's connection is closed");
                });
                true
            }
        };
        if over {
            let counters = *session.counters();
            dock.session = None;
            dock.again = false;
            dock.held = false;
            let host = machine.hosts.get_mut(side);
            host.messages = host.messages.wrapping_add(counters.messages);
            host.refused_messages = host.refused_messages.wrapping_add(counters.refused.total());
            machine.detach(side);
            machine.log(side, |left_out| {
                tracing::info!(port = %port_name(side), left_out, "the host is gone; the port waits for the next one");
            });
        }
    }

    /// A host knocks at a port.
    fn dock(&mut self, side: Side) {
        let (dock, machine) = self.dock_mut(side);
        match dock.listener.accept() {
            Ok(None) => {}
            Ok(Some(stream)) if dock.session.is_some() => {
                machine.log(side, |left_out| {
                    let port = port_name(side);
                    tracing::warn!(%port, left_out, "a second host is turned away: one is attached already");
                });
                // One that finds no room here sees an end of file at once.
                if dock.turned_away.len() < MAX_TURNED_AWAY {
                    let until = machine.now().after(TURN_AWAY_WITHIN);
                    let visitor = Visitor { client: TurnedAway::new(stream), until, over: false };
                    dock.turned_away.push(visitor);
                }
            }
            Ok(Some(stream)) => {
                let pid = peer_pid(&stream);
                machine.log(side, |left_out| {
                    tracing::info!(port = %port_name(side), ?pid, left_out, "a host is attached");
                });
                dock.session = Some(ServerSession::new(stream));
                machine.attach(side, pid);
            }
            Err(error) => {
                tracing::warn!(port = %port_name(side), %error, "a host cannot be accepted");
                self.accept_pause = true;
            }
        }
    }

    /// A host at a taken port says something.
    fn turn_away(&mut self, side: Side, at: usize) {
        let (dock, _) = self.dock_mut(side);
        if let Some(visitor) = dock.turned_away.get_mut(at) {
            visitor.over = visitor.client.service();
        }
    }

    /// Drops those who have been told that the port is taken, and those who do not want to know.
    fn show_out(&mut self) {
        let now = self.machine.now();
        for dock in [&mut self.a, &mut self.b] {
            dock.turned_away.retain(|visitor| !visitor.over && now < visitor.until);
        }
    }

    /// A control client knocks.
    fn admit(&mut self) {
        let accepted = self.control.as_ref().map_or(Ok(None), Listener::accept);
        match accepted {
            Ok(None) => {}
            Ok(Some(stream)) => match Connection::new(stream) {
                Ok(connection) if self.connections.len() >= MAX_CONNECTIONS => {
                    connection.refuse(format!("there are {MAX_CONNECTIONS} control clients already"));
                }
                Ok(connection) => self.connections.push(connection),
                Err(error) => tracing::warn!(%error, "a control client cannot be served"),
            },
            Err(error) => {
                tracing::warn!(%error, "a control client cannot be accepted");
                self.accept_pause = true;
            }
        }
    }

    /// A control client asks, or takes what it was sent.
    fn answer(&mut self, at: usize) {
        // `tell_watchers` removes the connections that are over; positions hold until then.
        let sessions = [self.a.status(), self.b.status()];
        let machine = &mut self.machine;
        let Some(connection) = self.connections.get_mut(at) else { return };
        let answer = |request: &Request| match request {
            Request::Status => Reply::Status(Box::new(status::status(machine, sessions.clone()))),
            Request::Registers => Reply::Registers(status::registers(machine)),
            Request::SetWindow { port, window, mode } => set_window(machine, *port, *window, *mode),
            Request::SetStores { stores } => {
                machine.stores = *stores;
                Reply::Done
            }
            // The connection keeps these itself.
            Request::Watch | Request::Overlay => Reply::Done,
        };
        if connection.service(answer).is_err() {
            connection.close();
        } else if connection.is_overlay() {
            let admitted = connection.stream().and_then(|stream| {
                let pid = peer_pid(&stream).ok_or_else(|| io::Error::other("nobody knows its process"))?;
                machine.admit_overlay(pid, stream)
            });
            if let Err(error) = admitted {
                tracing::warn!(%error, "an overlay is turned away");
            }
            connection.close();
        }
    }

    /// Hands what has happened to everybody who watches, and drops the connections that are over.
    fn tell_watchers(&mut self) {
        let mut news = Vec::new();
        for event in self.machine.take_events() {
            if self.connections.iter().any(Connection::is_watching) {
                // None of these types fails to serialise.
                news.extend(encode(&Reply::Event(event)).unwrap_or_default());
            }
        }
        self.connections.retain_mut(|connection| {
            let told =
                if connection.is_watching() && !news.is_empty() { connection.send(&news) } else { Ok(()) };
            told.and_then(|()| connection.flush()).is_ok() && !connection.is_closed()
        });
    }
}

impl Dock {
    fn new(side: Side, endpoint: &Endpoint) -> Result<Self, RunError> {
        Ok(Self {
            side,
            name: endpoint.to_string(),
            listener: listen(endpoint)?,
            session: None,
            again: false,
            burst: Burst::default(),
            held: false,
            turned_away: Vec::new(),
        })
    }

    fn status(&self) -> SessionStatus {
        let counters = self.session.as_ref().map(|session| *session.counters()).unwrap_or_default();
        SessionStatus {
            socket: self.name.clone(),
            messages: counters.messages,
            refused: counters.refused.total(),
        }
    }
}

/// Moves a window to another mode of its class.
fn set_window(
    machine: &mut Machine,
    port: control::PortName,
    window: u8,
    mode: control::WindowMode,
) -> Reply {
    let side = match port {
        control::PortName::A => Side::A,
        control::PortName::B => Side::B,
    };
    match machine.set_mode((side, usize::from(window)), mode.into()) {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Error { error },
    }
}

fn listen(endpoint: &Endpoint) -> Result<Listener, RunError> {
    match endpoint {
        Endpoint::Path(path) => Ok(Listener::bind(path)?),
        Endpoint::Inherited { fd, .. } => Ok(Listener::from_fd(fd.try_clone().map_err(RunError::Inherit)?)?),
    }
}

/// Who is at the other end, as the kernel says.
fn peer_pid(stream: &UnixStream) -> Option<u32> {
    let credentials = rustix::net::sockopt::socket_peercred(stream).ok()?;
    u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
}
