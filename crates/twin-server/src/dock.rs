//! Where a host docks: a socket of one of its two functions, and the session while one is there.

use crate::burst::Burst;
use crate::endpoint::Endpoint;
use crate::machine::Machine;
use crate::seat::Seat;
use crate::server::{RunError, listen};
use crate::status::SessionStatus;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use twin::Time;
use vfio_user::listen::Listener;
use vfio_user::server::{Device, Next, Progress, ServerSession, SessionError, TurnedAway};

/// Clients at a taken socket that may be in the course of being told so, and how long they may stay.
const MAX_TURNED_AWAY: usize = 4;
const TURN_AWAY_WITHIN: Duration = Duration::from_secs(1);

/// A socket, and who sits there.
#[derive(Debug)]
pub(crate) struct Dock {
    pub(crate) seat: Seat,
    name: String,
    pub(crate) listener: Listener,
    pub(crate) session: Option<ServerSession>,
    /// The session's budget ran out: it has work that poll cannot see.
    pub(crate) again: bool,
    pub(crate) burst: Burst,
    /// A reply waits for somebody: the session is left alone until the machine lets it go.
    pub(crate) held: bool,
    /// Others who came meanwhile, to be told that the seat is taken.
    pub(crate) turned_away: Vec<Visitor>,
}

/// Somebody at a seat that is taken.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) client: TurnedAway,
    pub(crate) until: Time,
    over: bool,
}

impl Dock {
    pub(crate) fn new(seat: Seat, endpoint: &Endpoint) -> Result<Self, RunError> {
        Ok(Self {
            seat,
            name: endpoint.to_string(),
            listener: listen(endpoint)?,
            session: None,
            again: false,
            burst: Burst::default(),
            held: false,
            turned_away: Vec::new(),
        })
    }

    /// Carries out what the client has posted, up to its first question. Says what of the budget that took, and whether
    /// there is a question.
    pub(crate) fn take_posted(&mut self, machine: &mut Machine, budget: usize) -> (usize, bool) {
        self.step(machine, |session, device| session.service_posted(device, budget))
    }

    /// Answers one question. Says what of the budget that took.
    pub(crate) fn answer(&mut self, machine: &mut Machine, budget: usize) -> usize {
        self.step(machine, |session, device| session.service_question(device, budget)).0
    }

    fn step(
        &mut self,
        machine: &mut Machine,
        work: impl FnOnce(&mut ServerSession, &mut dyn Device) -> Result<Progress, SessionError>,
    ) -> (usize, bool) {
        let Some(session) = &mut self.session else { return (0, false) };
        let before = *session.counters();
        let result = match self.seat {
            Seat::Port(side) => work(session, &mut machine.port(side)),
            Seat::Engine(side) => work(session, &mut machine.engine(side)),
        };
        let mut done = (0, false);
        let over = match result {
            Ok(progress) => {
                done = (progress.cost, progress.next == Next::Question);
                self.again = matches!(progress.next, Next::Again | Next::Question);
                self.burst.saw(&before, session.counters(), machine.now(), self.again);
                self.held = progress.next == Next::Held;
                progress.next == Next::Closed
            }
            Err(error) => {
                let port = self.seat.name();
                machine.log(self.seat.side(), |left_out| {
                    tracing::warn!(port, %error, left_out, "the host's connection is closed");
                });
                true
            }
        };
        if over {
            self.leave(machine);
        }
        done
    }

    fn leave(&mut self, machine: &mut Machine) {
        let Some(session) = self.session.take() else { return };
        let counters = *session.counters();
        self.again = false;
        self.held = false;
        let (messages, refused) = match self.seat {
            Seat::Port(side) => {
                let host = machine.hosts.get_mut(side);
                (&mut host.messages, &mut host.refused_messages)
            }
            Seat::Engine(side) => {
                let Some(host) = machine.dma.get_mut(side) else { return };
                (&mut host.messages, &mut host.refused_messages)
            }
        };
        *messages = messages.wrapping_add(counters.messages);
        *refused = refused.wrapping_add(counters.refused.total());
        match self.seat {
            Seat::Port(side) => machine.detach(side),
            Seat::Engine(side) => machine.detach_engine(side),
        }
        let port = self.seat.name();
        machine.log(self.seat.side(), |left_out| {
            tracing::info!(port, left_out, "the host is gone; the port waits for the next one");
        });
    }

    /// Carries out what the client has sent, and ends.
    pub(crate) fn finish(&mut self, machine: &mut Machine) {
        let Some(session) = self.session.take() else { return };
        match self.seat {
            Seat::Port(side) => session.finish(&mut machine.port(side)),
            Seat::Engine(side) => session.finish(&mut machine.engine(side)),
        }
    }

    /// A host knocks.
    ///
    /// # Errors
    /// When it cannot be accepted.
    pub(crate) fn admit(&mut self, machine: &mut Machine) -> io::Result<()> {
        let (port, side) = (self.seat.name(), self.seat.side());
        let Some(stream) = self.listener.accept()? else { return Ok(()) };
        if self.session.is_some() {
            machine.log(side, |left_out| {
                tracing::warn!(port, left_out, "a second host is turned away: one is attached already");
            });
            // One that finds no room here sees an end of file at once.
            if self.turned_away.len() < MAX_TURNED_AWAY {
                let until = machine.now().after(TURN_AWAY_WITHIN);
                self.turned_away.push(Visitor { client: TurnedAway::new(stream), until, over: false });
            }
            return Ok(());
        }
        let pid = peer_pid(&stream);
        machine.log(side, |left_out| tracing::info!(port, ?pid, left_out, "a host is attached"));
        self.session = Some(ServerSession::new(stream));
        match self.seat {
            Seat::Port(side) => machine.attach(side, pid),
            Seat::Engine(side) => machine.attach_engine(side, pid),
        }
        Ok(())
    }

    /// A host at a taken seat says something.
    pub(crate) fn turn_away(&mut self, at: usize) {
        if let Some(visitor) = self.turned_away.get_mut(at) {
            visitor.over = visitor.client.service();
        }
    }

    /// Drops those who have been told that the seat is taken, and those who do not want to know.
    pub(crate) fn show_out(&mut self, now: Time) {
        self.turned_away.retain(|visitor| !visitor.over && now < visitor.until);
    }

    pub(crate) fn status(&self) -> SessionStatus {
        let counters = self.session.as_ref().map(|session| *session.counters()).unwrap_or_default();
        SessionStatus {
            socket: self.name.clone(),
            messages: counters.messages,
            refused: counters.refused.total(),
        }
    }
}

/// Who is at the other end, as the kernel says.
pub(crate) fn peer_pid(stream: &UnixStream) -> Option<u32> {
    let credentials = rustix::net::sockopt::socket_peercred(stream).ok()?;
    u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
}
