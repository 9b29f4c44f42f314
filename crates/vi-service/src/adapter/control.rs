//! The control channel: rings of cells in window 0, and a doorbell. A link that comes up, or a peer that starts anew, begins with
//! greetings again.
//!
//! ```text
//!   Down ──link up──▶ Opening ──the peer opens it too──▶ Greeting ──its greeting fits──▶ Up
//!    ▲                   ▲                                  │                             │
//!    └──── link down ────┴────── the peer starts anew, or says what makes no sense ───────┘
//! ```

use super::clock::{self, Exchange};
use super::hello::{Agreement, Disagreement, Offer};
use super::message::{MESSAGE_BYTES, Message};
use cells::{Fault, Geometry, Opening, Receiver, SendError, Sender, Setup};
use ntb::{Bridge, BridgeError, Inbound, Outbound};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vi::clock::{Clock, PeerOffset};

const WINDOW: usize = 0;
const CHANNEL: &str = "vi";
/// The doorbell that says that there is a message.
const DOORBELL: u64 = 1;
const CELLS: u32 = 32;
const CELL_BYTES: u32 = 2048;
/// Bytes of window 0 that this takes: the ring, its directory and some room.
const WINDOW_BYTES: u64 = 256 << 10;
/// How soon to look again while the peer is expected, or what it writes in the window is.
const SOON: Duration = Duration::from_millis(10);
/// How soon to try again what this end or the peer has refused.
const LATER: Duration = Duration::from_secs(1);
/// How often the device is looked at while nothing moves: a twin that ends tells nobody.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Messages that may wait for room. A peer that takes none for so long is started anew.
const QUEUED: usize = 16384;
/// Messages that are taken in one turn.
const BUDGET: usize = 256;

/// The way to the peer, and the rings in it.
type Way = (Arc<Outbound>, Arc<cells::Link<Outbound, Inbound>>);
type Ring = (Sender<Outbound, Inbound>, Receiver<Outbound, Inbound>);

enum Phase {
    Down,
    Opening(Box<Opening<Outbound, Inbound>>),
    Greeting(Box<Ring>),
    Up(Box<Ring>),
    Waiting(Instant),
}

/// What has happened.
pub(super) enum Heard {
    Up(Agreement),
    Down,
    Message(Message),
}

pub(super) struct Control {
    bridge: Arc<dyn Bridge>,
    inbound: Arc<Inbound>,
    link: Option<Way>,
    phase: Phase,
    offer: Offer,
    queue: VecDeque<Vec<u8>>,
    complained: Option<String>,
    looked: Instant,
    /// The peer's clock, where the lanes carry times.
    exchange: Option<Exchange>,
    /// There may be more messages than one turn takes.
    more: bool,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Open(#[from] cells::OpenError),
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error(transparent)]
    Disagreement(#[from] Disagreement),
    #[error("a greeting cannot be sent: {0}")]
    Send(#[from] SendError),
    #[error("the peer sends what is no message of this version")]
    Nonsense,
    #[error("the peer takes no messages")]
    Deaf,
}

impl Trouble {
    fn exchange(error: SendError) -> Self {
        match error {
            SendError::Failed(fault) => fault.into(),
            other => other.into(),
        }
    }
}

impl Control {
    pub(super) fn open(
        bridge: Arc<dyn Bridge>,
        offer: Offer,
        clock: Option<Clock>,
    ) -> Result<Self, BridgeError> {
        let bytes = bridge.window_align(WINDOW)?.max_bytes.min(WINDOW_BYTES);
        let inbound = Arc::new(bridge.inbound(WINDOW, bytes)?);
        bridge.doorbells_clear(DOORBELL)?;
        bridge.doorbells_unmask(DOORBELL)?;
        Ok(Self {
            bridge,
            inbound,
            link: None,
            phase: Phase::Down,
            offer,
            queue: VecDeque::new(),
            complained: None,
            looked: Instant::now(),
            exchange: clock.map(Exchange::new),
            more: false,
        })
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up(_))
    }

    /// Queues a message; it goes with the next turn.
    pub(super) fn send(&mut self, message: &Message) {
        if self.is_up()
            && let Ok(bytes) = serde_json::to_vec(message)
        {
            self.queue.push_back(bytes);
        }
    }

    /// How the peer's clock stands, and when that is.
    pub(super) fn peer_clock(&self) -> Option<(u64, PeerOffset)> {
        self.exchange.as_ref()?.offset()
    }

    /// Exchanges of times, jumps of the peer's clock, and answers that made no sense, ever.
    pub(super) fn clock_counts(&self) -> (u64, u64, u64) {
        self.exchange.as_ref().map_or((0, 0, 0), Exchange::counts)
    }

    /// How long to sleep at most.
    pub(super) fn patience(&self) -> Duration {
        let exchange = self.exchange.as_ref().filter(|_| self.is_up());
        exchange.map_or(Duration::MAX, Exchange::patience).min(self.patience_for_messages())
    }

    fn patience_for_messages(&self) -> Duration {
        match self.phase {
            Phase::Opening(_) | Phase::Greeting(_) => SOON,
            Phase::Waiting(until) => until.saturating_duration_since(Instant::now()).max(SOON),
            Phase::Up(_) if self.more => Duration::ZERO,
            Phase::Up(_) if !self.queue.is_empty() => SOON,
            Phase::Up(_) | Phase::Down => HEARTBEAT,
        }
    }

    /// Looks at the device and at the channel, and sends what waits.
    pub(super) fn turn(&mut self, heard: &mut Vec<Heard>) -> Result<(), BridgeError> {
        let was_up = self.is_up();
        let events = self.bridge.events()?;
        if events.doorbells & DOORBELL != 0 {
            self.bridge.doorbells_clear(DOORBELL)?;
        }
        let mut link = events.link.map(|link| link.up);
        if link.is_none() && self.looked.elapsed() >= HEARTBEAT {
            self.looked = Instant::now();
            link = Some(self.bridge.link()?.up).filter(|&up| up != self.link.is_some());
        }
        let stale = self.link.as_ref().is_some_and(|(outbound, _)| !outbound.is_current());
        if link == Some(false) || stale {
            self.phase = Phase::Down;
            self.link = None;
        }
        if (link == Some(true) || stale && self.bridge.link()?.up) && self.link.is_none() {
            self.connect()?;
        }
        if let Err(trouble) = self.advance(heard) {
            self.refuse(&trouble);
        }
        if was_up && !self.is_up() {
            self.queue.clear();
            self.exchange.iter_mut().for_each(Exchange::begin);
            heard.push(Heard::Down);
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<(), BridgeError> {
        let outbound = Arc::new(self.bridge.outbound(WINDOW)?);
        match cells::Link::new(Arc::clone(&outbound), Arc::clone(&self.inbound)) {
            Ok(link) => {
                self.link = Some((outbound, link));
                self.phase = Phase::Waiting(Instant::now());
            }
            Err(error) => self.refuse(&error.into()),
        }
        Ok(())
    }

    fn advance(&mut self, heard: &mut Vec<Heard>) -> Result<(), Trouble> {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Down) {
            Phase::Waiting(until) if Instant::now() >= until => match &self.link {
                Some((_, link)) => {
                    let ring = Geometry::fast(CELLS, CELL_BYTES).map_err(cells::OpenError::from)?;
                    let setup = Setup { longest_frame: MESSAGE_BYTES, ..Setup::new(ring) };
                    Phase::Opening(Box::new(link.open(CHANNEL, setup)?))
                }
                None => Phase::Down,
            },
            Phase::Opening(mut opening) => match opening.poll()? {
                false => Phase::Opening(opening),
                true => match opening.finish()? {
                    Ok(channel) => {
                        let (mut sender, receiver) = channel.split();
                        sender.try_send(&self.offer.greeting())?;
                        // The device is looked at again by whoever does not hear it.
                        let _ = self.bridge.ring(DOORBELL);
                        Phase::Greeting(Box::new((sender, receiver)))
                    }
                    Err(opening) => Phase::Opening(Box::new(opening)),
                },
            },
            Phase::Greeting(mut ring) => match ring.1.try_receive()? {
                None => Phase::Greeting(ring),
                Some(greeting) => {
                    let agreement = self.offer.with(greeting)?;
                    self.complained = None;
                    heard.push(Heard::Up(agreement));
                    Phase::Up(ring)
                }
            },
            Phase::Up(mut ring) => {
                self.more = true;
                for _ in 0..BUDGET {
                    let Some(frame) = ring.1.try_receive()? else {
                        self.more = false;
                        break;
                    };
                    if clock::is_ours(frame) {
                        // Who has no clock does not mind that the peer asks.
                        if !self.exchange.as_mut().is_none_or(|exchange| exchange.hear(frame)) {
                            return Err(Trouble::Nonsense);
                        }
                        continue;
                    }
                    heard.push(Heard::Message(serde_json::from_slice(frame).map_err(|_| Trouble::Nonsense)?));
                }
                let mut sent = match &mut self.exchange {
                    Some(exchange) => exchange.say(&mut ring.0).map_err(Trouble::exchange)?,
                    None => false,
                };
                while let Some(message) = self.queue.front() {
                    match ring.0.try_send(message) {
                        Ok(()) => {
                            self.queue.pop_front();
                            sent = true;
                        }
                        Err(SendError::Full { .. }) if self.queue.len() <= QUEUED => break,
                        Err(SendError::Full { .. }) => return Err(Trouble::Deaf),
                        Err(SendError::TooLong { bytes, .. }) => {
                            tracing::error!(bytes, "a message is too long and was not sent");
                            self.queue.pop_front();
                        }
                        Err(SendError::Failed(fault)) => return Err(fault.into()),
                    }
                }
                if sent {
                    let _ = self.bridge.ring(DOORBELL);
                }
                Phase::Up(ring)
            }
            other => other,
        };
        Ok(())
    }

    fn refuse(&mut self, trouble: &Trouble) {
        let again = match trouble {
            // These pass by themselves: the peer comes and goes.
            Trouble::Fault(Fault::PeerRestarted | Fault::PeerClosed | Fault::LinkDown | Fault::Closed)
            | Trouble::Open(cells::OpenError::Fault(_)) => SOON,
            _ => {
                let text = trouble.to_string();
                if self.complained.as_ref() != Some(&text) {
                    tracing::warn!("no agreement with the peer yet: {text}");
                    self.complained = Some(text);
                }
                LATER
            }
        };
        let now = Instant::now();
        self.phase = match self.link {
            Some(_) => Phase::Waiting(now.checked_add(again).unwrap_or(now)),
            None => Phase::Down,
        };
    }
}
