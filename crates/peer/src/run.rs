//! The loop of a peer: what comes, what goes, what is due.

use crate::raw::{RawTest, Score};
use crate::responder::Responder;
use crate::script::{Action, Direction, HeaderLie, Script};
use crate::tap::PlainTap;
use crate::text::{self, Seen};
use crate::watched::Watched;
use crate::{Role, Settings};
use linux_transport::{
    BridgePort, Config, Endpoint, Event, NotSent, Notice, PortError, Received, StartError, Statistics,
};
use ntb::{Bridge, BridgeError, WindowKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Frames taken in one turn, so that what is due comes to its right.
const TURN: usize = 256;
/// Frames that wait for a slot; more are dropped, and counted.
const BACKLOG: usize = 512;
/// Frames of a raw test that wait for a slot.
const RAW_BACKLOG: usize = 16;
/// How long a turn waits at most.
const LONG: Duration = Duration::from_millis(500);
/// How often a full ring is looked at: the peer empties a slot without a doorbell.
const SLOT: Duration = Duration::from_millis(1);

/// Why a peer did not run, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// There is no endpoint.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The port fails: the twin is gone, perhaps.
    #[error("the port fails")]
    Port(#[from] PortError),
    /// No TAP device.
    #[error(transparent)]
    Tap(#[from] netdev::TapError),
    /// The TAP device is gone.
    #[error("the TAP device fails")]
    TapGone(#[source] io::Error),
    /// Waiting failed.
    #[error("waiting failed")]
    Wait(#[source] io::Error),
    /// No queue pair came up, or not again.
    #[error("queue pair {queue} is not up after {waited:?}: {advice}")]
    NotUp {
        /// Which.
        queue: usize,
        /// How long it was waited for.
        waited: Duration,
        /// What was seen, and what to look at.
        advice: String,
    },
}

impl From<BridgeError> for PeerError {
    fn from(error: BridgeError) -> Self {
        Self::Port(error.into())
    }
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which end of the link: USD or DSD.
    pub port: String,
    /// How stores travel: messaged or mapped.
    pub windows: &'static str,
    /// How often the queue pair came up.
    pub came_up: u64,
    /// Frames from the peer.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames to the peer.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames from the peer that were too long, or had an unexpected count.
    pub bad: u64,
    /// Frames that went no further: to the peer for which there was no room, or whose queue pair went down first, and from the peer that
    /// the TAP device did not take.
    pub dropped: u64,
    /// The raw test, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<Score>,
}

/// Something that is treated later.
#[derive(Debug)]
struct Later {
    due: Duration,
    on: Direction,
    frame: Vec<u8>,
}

/// Who sits behind the transport.
#[derive(Debug)]
enum Client {
    Respond(Responder),
    Tap(PlainTap),
    Raw(Responder, Box<RawTest>),
}

/// A peer that runs.
pub(crate) struct Peer<'a> {
    endpoint: Endpoint<Watched>,
    bridge: Arc<dyn Bridge>,
    settings: &'a Settings,
    script: Script,
    client: Client,
    tell: &'a mut dyn FnMut(&str),
    began: Instant,
    buffer: Vec<u8>,
    backlog: VecDeque<(Vec<u8>, HeaderLie)>,
    later: Vec<Later>,
    /// Frames so far, by direction.
    numbers: [u64; 2],
    stalled: [Duration; 2],
    reopen: Option<Duration>,
    down_since: Option<Duration>,
    seen: Seen,
    came_up: u64,
    dropped: u64,
}

impl<'a> Peer<'a> {
    pub(crate) fn new(
        bridge: Arc<dyn Bridge>,
        settings: &'a Settings,
        tell: &'a mut dyn FnMut(&str),
    ) -> Result<Self, PeerError> {
        let script = settings.script.clone();
        let config = Config {
            windows: settings.transport.windows.min(bridge.window_count()),
            lies: script.lies,
            ..settings.transport
        };
        let client = match &settings.role {
            Role::Respond(responder) => Client::Respond(*responder),
            Role::Tap { name, address, prefix } => {
                let mtu = u16::try_from(config.transport_mtu).unwrap_or(u16::MAX).min(1500);
                Client::Tap(PlainTap::create(name, *address, *prefix, mtu)?)
            }
            Role::Raw(responder, plan) => Client::Raw(*responder, Box::new(RawTest::new(*plan))),
        };
        let port = Watched::new(BridgePort::new(Arc::clone(&bridge))?, settings.dump);
        let mut endpoint = Endpoint::with_port(Arc::clone(&bridge), port, config)?;
        endpoint.enable(settings.queue);
        Ok(Self {
            endpoint,
            bridge,
            settings,
            script,
            client,
            tell,
            began: Instant::now(),
            buffer: vec![0; 1 << 16],
            backlog: VecDeque::new(),
            later: Vec::new(),
            numbers: [0; 2],
            stalled: [Duration::ZERO; 2],
            reopen: None,
            down_since: Some(Duration::ZERO),
            seen: Seen::default(),
            came_up: 0,
            dropped: 0,
        })
    }

    /// Runs until `stop` is readable or a raw test is over, and says farewell.
    pub(crate) fn run(mut self, stop: BorrowedFd<'_>) -> Result<Report, PeerError> {
        while !self.wait(stop)? {
            self.turn()?;
            if self.is_over() {
                break;
            }
        }
        let report = self.report();
        self.endpoint.close()?;
        Ok(report)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn say(&mut self, line: &str) {
        let now = self.now();
        (self.tell)(&format!("{:>4}.{:06}  {line}", now.as_secs(), now.subsec_micros()));
    }

    fn is_up(&self) -> bool {
        self.endpoint.transport().is_up(self.settings.queue)
    }

    fn is_over(&self) -> bool {
        matches!(&self.client, Client::Raw(_, test) if test.is_over())
    }

    /// Waits for something to do; true when it is time to stop.
    fn wait(&self, stop: BorrowedFd<'_>) -> Result<bool, PeerError> {
        let timeout = Timespec::try_from(self.patience()).ok();
        let event_fd = self.endpoint.event_fd();
        let mut fds = vec![
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::from_borrowed_fd(event_fd, PollFlags::IN),
        ];
        if let Client::Tap(tap) = &self.client
            && self.is_up()
            && self.backlog.len() < BACKLOG
        {
            fds.push(PollFd::from_borrowed_fd(tap.fd(), PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(fds.first().is_some_and(|fd| !fd.revents().is_empty())),
            Err(errno) => Err(PeerError::Wait(errno.into())),
        }
    }

    /// How long there is nothing to do, if nothing happens.
    fn patience(&self) -> Duration {
        let now = self.now();
        let dues = self.later.iter().map(|later| later.due).chain(self.reopen).chain(self.stalled);
        let next = dues.filter(|due| *due > now).min().map_or(LONG, |due| due.saturating_sub(now));
        let raw = matches!(self.client, Client::Raw(..)) && self.is_up();
        let slot = if self.is_up() && !self.backlog.is_empty() { SLOT } else { LONG };
        let ask = if raw { Duration::from_millis(50) } else { LONG };
        next.min(slot).min(ask).min(self.endpoint.timeout())
    }

    fn turn(&mut self) -> Result<(), PeerError> {
        let notices = self.endpoint.advance()?;
        // The link comes before what was said over it.
        let (link, rest): (Vec<_>, Vec<_>) =
            notices.into_iter().partition(|notice| matches!(notice, Notice::Link(_)));
        for notice in link {
            self.heed(&notice);
        }
        self.show_words();
        for notice in rest {
            self.heed(&notice);
        }
        self.check_patience()?;
        let now = self.now();
        if self.reopen.take_if(|due| *due <= now).is_some() {
            self.endpoint.enable(self.settings.queue);
        }
        self.receive()?;
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|later| later.due <= now);
        self.later = later;
        for Later { on, frame, .. } in due {
            match on {
                Direction::Receive => self.deliver(&frame),
                Direction::Send => self.enqueue(frame, HeaderLie::default()),
            }
        }
        self.produce()?;
        self.flush()
    }

    fn show_words(&mut self) {
        for word in self.endpoint.port_mut().take() {
            self.say(&word.to_string());
        }
    }

    fn heed(&mut self, notice: &Notice) {
        self.say(&text::notice(notice));
        self.seen.note(notice);
        let queue = self.settings.queue;
        match notice {
            Notice::Transport(Event::QueueUp { queue: which }) if *which == queue => {
                self.came_up = self.came_up.saturating_add(1);
                self.down_since = None;
            }
            Notice::Transport(Event::QueueDown { queue: which, .. }) if *which == queue => {
                self.down_since = Some(self.now());
                // They were for somebody who is gone.
                let lost = u64::try_from(self.backlog.len()).unwrap_or(u64::MAX);
                self.dropped = self.dropped.saturating_add(lost);
                self.backlog.clear();
            }
            Notice::Transport(_) | Notice::Link(_) => {}
        }
    }

    fn check_patience(&self) -> Result<(), PeerError> {
        let (Some(since), Some(timeout)) = (self.down_since, self.settings.timeout) else { return Ok(()) };
        if self.now().saturating_sub(since) < timeout {
            return Ok(());
        }
        let queue = self.settings.queue;
        let advice = self.seen.advice(queue);
        Err(PeerError::NotUp { queue, waited: timeout, advice })
    }

    fn receive(&mut self) -> Result<(), PeerError> {
        let queue = self.settings.queue;
        for _ in 0..TURN {
            if self.now() < self.stalled(Direction::Receive) {
                return Ok(());
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = self.endpoint.receive(queue, &mut buffer);
            if let (true, Ok(Some(received))) = (self.settings.dump, &received) {
                self.say(&text::received(queue, received, &buffer));
            }
            if let Ok(Some(Received::Frame { bytes, .. })) = received {
                let frame = buffer.get(..bytes).unwrap_or_default();
                self.obey_received(frame)?;
            }
            self.buffer = buffer;
            if received?.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn stalled(&self, on: Direction) -> Duration {
        let [receive, send] = self.stalled;
        if on == Direction::Receive { receive } else { send }
    }

    /// What the script says of the next frame of a direction, carried out as far as both directions have it in common.
    fn obey(&mut self, on: Direction, frame: &[u8]) -> Result<Option<Action>, PeerError> {
        let now = self.now();
        let [received, sent] = &mut self.numbers;
        let number = if on == Direction::Receive { received } else { sent };
        *number = number.saturating_add(1);
        let action = self.script.action(on, *number);
        if action != Action::Pass {
            let what = if on == Direction::Receive { "receive" } else { "send" };
            let line = format!("script: {what} frame {number}: {action:?}");
            self.say(&line);
        }
        match action {
            Action::Drop => return Ok(None),
            Action::Delay(time) => {
                if self.later.len() < BACKLOG {
                    let due = now.saturating_add(time);
                    self.later.push(Later { due, on, frame: frame.to_vec() });
                } else {
                    self.dropped = self.dropped.saturating_add(1);
                }
                return Ok(None);
            }
            Action::Stall(time) => {
                let [receive, send] = &mut self.stalled;
                let stalled = if on == Direction::Receive { receive } else { send };
                *stalled = now.saturating_add(time);
            }
            Action::Close(time) => {
                self.reopen = Some(now.saturating_add(time));
                self.endpoint.disable(self.settings.queue)?;
            }
            Action::Pass | Action::Corrupt(_) | Action::Header(_) => {}
        }
        Ok(Some(action))
    }

    fn obey_received(&mut self, frame: &[u8]) -> Result<(), PeerError> {
        if self.obey(Direction::Receive, frame)?.is_some() {
            self.deliver(frame);
        }
        Ok(())
    }

    /// Hands a frame of the guest to whom it is for.
    fn deliver(&mut self, frame: &[u8]) {
        let now = self.now();
        let answer = match &mut self.client {
            Client::Respond(responder) => responder.answer(frame),
            Client::Tap(tap) => {
                if !tap.send(frame) {
                    tracing::debug!(bytes = frame.len(), "the TAP device did not take a frame");
                    self.dropped = self.dropped.saturating_add(1);
                }
                None
            }
            Client::Raw(responder, test) => {
                test.frame(now, frame);
                responder.answer(frame)
            }
        };
        if let Some(answer) = answer {
            self.offer(answer);
        }
    }

    /// Takes what the client has to send.
    fn produce(&mut self) -> Result<(), PeerError> {
        for _ in 0..TURN {
            if !self.is_up() {
                return Ok(());
            }
            let now = self.now();
            let frame = match &mut self.client {
                Client::Respond(_) => None,
                Client::Raw(_, test) if self.backlog.len() < RAW_BACKLOG => test.next(now),
                Client::Raw(..) => None,
                Client::Tap(tap) if self.backlog.len() < BACKLOG => {
                    let bytes = tap.receive(&mut self.buffer).map_err(PeerError::TapGone)?;
                    bytes.and_then(|bytes| Some(self.buffer.get(..bytes)?.to_vec()))
                }
                Client::Tap(_) => None,
            };
            let Some(frame) = frame else { return Ok(()) };
            self.offer(frame);
        }
        Ok(())
    }

    /// A frame for the guest, as the script has it.
    fn offer(&mut self, mut frame: Vec<u8>) {
        match self.obey(Direction::Send, &frame) {
            Ok(Some(Action::Corrupt(at))) => {
                let at = at.min(frame.len().saturating_sub(1));
                if let Some(byte) = frame.get_mut(at) {
                    *byte = !*byte;
                }
                self.enqueue(frame, HeaderLie::default());
            }
            Ok(Some(Action::Header(lie))) => self.enqueue(frame, lie),
            Ok(Some(_)) => self.enqueue(frame, HeaderLie::default()),
            Ok(None) => {}
            // The next turn meets the same error.
            Err(error) => tracing::debug!(%error, "a queue pair could not be closed"),
        }
    }

    fn enqueue(&mut self, frame: Vec<u8>, lie: HeaderLie) {
        if self.backlog.len() < BACKLOG {
            self.backlog.push_back((frame, lie));
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Sends as much as there is room for, and rings once.
    fn flush(&mut self) -> Result<(), PeerError> {
        let queue = self.settings.queue;
        if self.now() < self.stalled(Direction::Send) {
            return Ok(());
        }
        while let Some((frame, lie)) = self.backlog.pop_front() {
            match self.endpoint.send_altered(queue, &frame, |header| lie.apply(header)) {
                Ok(sent) if self.settings.dump => self.say(&text::sent(queue, &sent, &frame)),
                Ok(_) => {}
                Err(NotSent::Full) => {
                    self.backlog.push_front((frame, lie));
                    break;
                }
                Err(NotSent::Port(error)) => return Err(error.into()),
                Err(NotSent::Down(_) | NotSent::Length { .. }) => {
                    self.dropped = self.dropped.saturating_add(1);
                }
            }
        }
        Ok(self.endpoint.ring()?)
    }

    fn report(&self) -> Report {
        let Statistics { rx_frames, rx_bytes, rx_bad_version, rx_too_long, tx_frames, tx_bytes, .. } =
            self.endpoint.statistics(self.settings.queue);
        let kind = self.bridge.window_kind(0);
        Report {
            port: self.bridge.port().to_string(),
            windows: if matches!(kind, Ok(WindowKind::Mapped)) { "mapped" } else { "messaged" },
            came_up: self.came_up,
            received: rx_frames,
            received_bytes: rx_bytes,
            sent: tx_frames,
            sent_bytes: tx_bytes,
            bad: rx_bad_version.saturating_add(rx_too_long),
            dropped: self.dropped,
            raw: match &self.client {
                Client::Raw(_, test) => Some(test.score()),
                Client::Respond(_) | Client::Tap(_) => None,
            },
        }
    }
}
