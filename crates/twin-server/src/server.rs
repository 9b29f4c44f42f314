//! The event loop: two ports, their engines, the control socket, the model's timer, and a descriptor that says stop.

use crate::control_server::Connection;
use crate::dock::{Dock, peer_pid};
use crate::endpoint::Endpoint;
use crate::machine::Machine;
use crate::seat::Seat;
use crate::status;
use crate::trace::Trace;
use crate::windows::{Modes, WindowMode, refusal};
use control::{PortName, Reply, Request, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use twin::{Setup, Side, Time};
use vfio_user::listen::{ListenError, Listener};

/// What one session may have done before the others get their turn, in messages: some 100 µs of work.
const BUDGET: usize = 256;
/// Clients of the control socket at a time.
const MAX_CONNECTIONS: usize = 64;
/// How long the loop leaves a listener alone that cannot accept, for want of descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a twin is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where hosts connect: port a, port b.
    pub ports: [Endpoint; 2],
    /// Where the I/OAT engines of those hosts are, if they get one.
    pub engines: [Option<Endpoint>; 2],
    /// Where `isthmus status` connects, if anywhere.
    pub control: Option<Endpoint>,
    /// Windows and training time.
    pub setup: Setup,
    /// How data crosses each port's windows.
    pub modes: Modes,
    /// Hosts whose memory other processes map too, host a and host b: it is never replaced.
    pub ram_mapped: [bool; 2],
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
    /// A window of that port should work by an engine that its host does not get.
    #[error(
        "a window of port {0} is to work by the DMA engine, which port {0} has not: give it one by --dma-{0} PATH"
    )]
    NoEngine(PortName),
    /// Modes that do not go together; the sentence says what to do.
    #[error("{0}")]
    Modes(String),
    /// The thread that copies for the engines could not be started.
    #[error("the thread that copies for the DMA engines cannot be started")]
    Worker(#[source] io::Error),
    /// Waiting failed; nothing but a lack of memory makes it.
    #[error("waiting for the hosts failed")]
    Poll(#[source] io::Error),
}

/// A twin that listens.
#[derive(Debug)]
pub struct Server {
    machine: Machine,
    /// Port a, port b, and the engines.
    docks: Vec<Dock>,
    control: Option<Listener>,
    connections: Vec<Connection>,
    /// Set while accepting fails: the loop does not spin on a listener that stays readable.
    accept_pause: bool,
}

/// What a descriptor in the poll set belongs to.
#[derive(Debug, Clone, Copy)]
enum Source {
    Stop,
    Session(usize),
    Visitor(usize, usize),
    Listener(usize),
    Control,
    Connection(usize),
    Overlay(u32),
    Piece,
}

impl Server {
    /// Opens the sockets. From here on hosts can connect; they are served by [`run`](Self::run).
    ///
    /// # Errors
    /// [`RunError`] says which socket or file is in the way, and what to do.
    pub fn bind(options: &Options) -> Result<Self, RunError> {
        for (side, (modes, engine)) in Side::BOTH.into_iter().zip(options.modes.iter().zip(&options.engines))
        {
            if modes.contains(&WindowMode::Dma) && engine.is_none() {
                return Err(RunError::NoEngine(status::port_name(side)));
            }
            if let Some(why) = refusal(side, *modes, options.ram_mapped) {
                return Err(RunError::Modes(why));
            }
        }
        let mut docks = Vec::new();
        for (side, endpoint) in Side::BOTH.into_iter().zip(&options.ports) {
            docks.push(Dock::new(Seat::Port(side), endpoint)?);
        }
        for (side, endpoint) in Side::BOTH.into_iter().zip(&options.engines) {
            if let Some(endpoint) = endpoint {
                docks.push(Dock::new(Seat::Engine(side), endpoint)?);
            }
        }
        let control = options.control.as_ref().map(listen).transpose()?;
        let trace = match &options.trace {
            None => None,
            Some(path) => {
                Some(Trace::create(path).map_err(|source| RunError::Trace { path: path.clone(), source })?)
            }
        };
        let mut machine = Machine::new(options.setup, options.modes, options.ram_mapped, trace);
        for (side, endpoint) in Side::BOTH.into_iter().zip(&options.engines) {
            if endpoint.is_some() {
                machine.dma.add(side, &machine.signaller).map_err(RunError::Worker)?;
            }
        }
        Ok(Self { docks, control, machine, connections: Vec::new(), accept_pause: false })
    }

    /// Serves until `stop` becomes readable.
    ///
    /// # Errors
    /// Only when waiting itself fails: what a host or a control client does ends its own connection at most.
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> Result<(), RunError> {
        let mut ready = Vec::new();
        loop {
            if self.wait(stop, &mut ready)? {
                self.machine.await_piece();
                for dock in &mut self.docks {
                    dock.finish(&mut self.machine);
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
                    Source::Session(dock) => self.serve(dock),
                    Source::Visitor(dock, at) => {
                        if let Some(dock) = self.docks.get_mut(dock) {
                            dock.turn_away(at);
                        }
                    }
                    Source::Listener(dock) => self.dock(dock),
                    Source::Control => self.admit(),
                    Source::Connection(at) => self.answer(at),
                    Source::Overlay(pid) => self.machine.serve_overlay(pid),
                    Source::Piece => self.machine.collect_piece(),
                }
            }
            for at in 0..self.docks.len() {
                if let Some(dock) = self.docks.get_mut(at).filter(|dock| dock.held)
                    && !self.machine.holds(dock.seat)
                {
                    dock.held = false;
                    self.serve(at);
                }
            }
            self.machine.run_engines();
            self.tell_watchers();
            let now = self.machine.now();
            for dock in &mut self.docks {
                dock.show_out(now);
            }
        }
    }

    /// Waits until something is to be done, and says what in `ready`, sessions first: a host that left makes room for the
    /// one that is waiting. Returns whether to stop.
    fn wait(&mut self, stop: BorrowedFd<'_>, ready: &mut Vec<Source>) -> Result<bool, RunError> {
        ready.clear();
        let now = self.machine.now();
        let mut sources = vec![Source::Stop];
        let mut fds = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        for (dock_at, dock) in self.docks.iter().enumerate() {
            if let Some(session) =
                dock.session.as_ref().filter(|_| !dock.held && dock.burst.rests_until(now).is_none())
            {
                let mut interest = PollFlags::empty();
                interest.set(PollFlags::IN, session.wants_read());
                interest.set(PollFlags::OUT, session.wants_write());
                sources.push(Source::Session(dock_at));
                fds.push(PollFd::from_borrowed_fd(session.as_fd(), interest));
            }
        }
        if let Some(bell) = self.machine.dma.bell() {
            sources.push(Source::Piece);
            fds.push(PollFd::from_borrowed_fd(bell, PollFlags::IN));
        }
        let mut latest = None;
        for (dock_at, dock) in self.docks.iter().enumerate() {
            if let Some(until) = dock.burst.rests_until(now) {
                latest = Some(latest.map_or(until, |other: Time| other.min(until)));
            }
            for (at, visitor) in dock.turned_away.iter().enumerate() {
                sources.push(Source::Visitor(dock_at, at));
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
            for (dock_at, dock) in self.docks.iter().enumerate() {
                sources.push(Source::Listener(dock_at));
                fds.push(PollFd::from_borrowed_fd(dock.listener.as_fd(), PollFlags::IN));
            }
            if let Some(control) = &self.control {
                sources.push(Source::Control);
                fds.push(PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN));
            }
        }
        let busy = self.docks.iter().any(|dock| dock.again)
            || self.machine.dma.again()
            || self.connections.iter().any(Connection::again);
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
                Source::Session(at) => self.docks.get(at).is_some_and(|dock| dock.again),
                Source::Connection(at) => self.connections.get(at).is_some_and(Connection::again),
                _ => false,
            };
            if !fd.revents().is_empty() || again {
                ready.push(source);
            }
        }
        Ok(matches!(ready.first(), Some(Source::Stop)))
    }

    /// Lets a host's session work.
    ///
    /// Hosts know of each other. One that writes and then has the other read (ntb_test.sh does, over ssh) expects that the read
    /// sees the write, though they come by two sockets. So what the others have posted is carried out before a question
    /// is answered; of a host in a burst, when its rest is over. What a host posts behind a question of its own, or while its
    /// reply is held, keeps its place there.
    fn serve(&mut self, at: usize) {
        let (mut own, mut others) = (BUDGET, BUDGET);
        loop {
            let Some(dock) = self.docks.get_mut(at) else { return };
            let (cost, asks) = dock.take_posted(&mut self.machine, own);
            own = own.saturating_sub(cost);
            if !asks {
                return;
            }
            let now = self.machine.now();
            for (other, dock) in self.docks.iter_mut().enumerate() {
                if other != at && !dock.held && others > 0 && dock.burst.rests_until(now).is_none() {
                    let (cost, _) = dock.take_posted(&mut self.machine, others);
                    others = others.saturating_sub(cost);
                }
            }
            let Some(dock) = self.docks.get_mut(at) else { return };
            own = own.saturating_sub(dock.answer(&mut self.machine, own));
            // One whose neighbours never stop gets an answer each turn all the same.
            if own == 0 || others == 0 || !dock.again {
                return;
            }
        }
    }

    /// A host knocks.
    fn dock(&mut self, at: usize) {
        let Some(dock) = self.docks.get_mut(at) else { return };
        if let Err(error) = dock.admit(&mut self.machine) {
            tracing::warn!(port = dock.seat.name(), %error, "a host cannot be accepted");
            self.accept_pause = true;
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
        let sessions: Vec<_> = self.docks.iter().map(|dock| (dock.seat, dock.status())).collect();
        let machine = &mut self.machine;
        let Some(connection) = self.connections.get_mut(at) else { return };
        let answer = |request: &Request| match request {
            Request::Status => Reply::Status(Box::new(status::status(machine, &sessions))),
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

/// Moves a window to another mode of its class.
fn set_window(machine: &mut Machine, port: PortName, window: u8, mode: control::WindowMode) -> Reply {
    let side = match port {
        PortName::A => Side::A,
        PortName::B => Side::B,
    };
    match machine.set_mode((side, usize::from(window)), mode.into()) {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Error { error },
    }
}

pub(crate) fn listen(endpoint: &Endpoint) -> Result<Listener, RunError> {
    match endpoint {
        Endpoint::Path(path) => Ok(Listener::bind(path)?),
        Endpoint::Inherited { fd, .. } => Ok(Listener::from_fd(fd.try_clone().map_err(RunError::Inherit)?)?),
    }
}
