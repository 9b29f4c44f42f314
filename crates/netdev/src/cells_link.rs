//! Frames over a channel of rings of cells ([`cells`]), between two hosts that run this.
//!
//! ```text
//!   Down ──link up──▶ Opening ──the peer opens it too──▶ Greeting ──its greeting──▶ Up
//!    ▲                                                                             │ link down: what has come is
//!    └───────────────────────────────────◀──────────────────────────────────────────┘ still delivered
//! ```

use crate::hello;
use crate::link::{Agreement, Armed, Disagreement, FrameLink, LinkState, Offer, Sent, Wants};
use crate::port::{Port, QueueBell};
use cells::{Bells, EventBell, Fault, Geometry, Opening, Receiver, SendError, Sender, Setup};
use ntb::{Inbound, Outbound};
use rustix::event::epoll;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Turns between two looks at the device while frames move: a link that goes down is seen at the latest then.
const TURNS_PER_LOOK: u32 = 16;
/// How soon to look again while the peer is expected.
const SOON: Duration = Duration::from_millis(20);
/// How soon to try again what the peer or this end refused.
const LATER: Duration = Duration::from_secs(1);

/// One queue's link.
#[derive(Debug)]
pub struct CellsLink {
    port: Arc<Port>,
    queue: usize,
    name: String,
    geometry: Geometry,
    offer: Offer,
    /// The port's epoch that `phase` belongs to.
    epoch: u64,
    phase: Phase,
    /// The channel that is up has ended, for this reason; the next look at the state begins anew.
    ended: Option<Fault>,
    generation: u64,
    /// Frames sent since it came up, and those of earlier links that the peer was not seen to take.
    sent: u64,
    unconfirmed: u64,
    turns: u32,
    /// What was said last of why it does not come up: said once.
    complained: Option<String>,
    /// Readable when there is a reason to wake.
    wake: OwnedFd,
}

#[derive(Debug)]
enum Phase {
    Down,
    /// Until the peer opens the channel too.
    Opening(Box<Opening<Outbound, Inbound>>),
    /// Until the peer's greeting comes.
    Greeting(Box<Ends>),
    Up {
        ends: Box<Ends>,
        agreement: Agreement,
        /// The link or the channel is gone; what has come is still to be delivered, of so many frames at most.
        draining: Option<u32>,
    },
    /// To be tried again then.
    Refused(Instant),
}

#[derive(Debug)]
struct Ends {
    sender: Sender<Outbound, Inbound>,
    receiver: Receiver<Outbound, Inbound>,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Open(#[from] cells::OpenError),
    #[error(transparent)]
    Channel(#[from] Fault),
    #[error(transparent)]
    Hello(#[from] hello::BadHello),
    #[error(transparent)]
    Disagreement(#[from] Disagreement),
    #[error(transparent)]
    Send(#[from] SendError),
}

impl CellsLink {
    pub(crate) fn new(port: Arc<Port>, queue: usize, geometry: Geometry, offer: Offer) -> io::Result<Self> {
        let wake = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = || epoll::EventData::new_u64(0);
        if let Some(bell) = port.bell(queue) {
            epoll::add(&wake, bell, data(), epoll::EventFlags::IN)?;
        }
        if queue == 0 {
            epoll::add(&wake, port.device(), data(), epoll::EventFlags::IN)?;
        }
        Ok(Self {
            epoch: port.epoch(),
            port,
            queue,
            name: format!("net{queue}"),
            geometry,
            offer,
            phase: Phase::Down,
            ended: None,
            generation: 0,
            sent: 0,
            unconfirmed: 0,
            turns: 0,
            complained: None,
            wake,
        })
    }

    /// One step towards a link.
    fn advance(&mut self) -> Result<(), Trouble> {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Down) {
            Phase::Opening(mut opening) => {
                if !opening.poll()? {
                    self.phase = Phase::Opening(opening);
                    return Ok(());
                }
                match opening.finish()? {
                    Ok(channel) => {
                        let (mut sender, receiver) = channel.split();
                        sender.try_send(&hello::write(&self.offer))?;
                        Phase::Greeting(Box::new(Ends { sender, receiver }))
                    }
                    Err(opening) => Phase::Opening(Box::new(opening)),
                }
            }
            Phase::Greeting(mut ends) => match ends.receiver.try_receive()? {
                None => Phase::Greeting(ends),
                Some(greeting) => {
                    let agreement = self.offer.with(&hello::read(greeting)?)?;
                    let needs = agreement.offload.frame_bytes_max(agreement.mtu);
                    let takes = ends.sender.longest_frame();
                    if takes < needs {
                        return Err(Disagreement::Ring { needs, takes }.into());
                    }
                    self.generation = self.generation.saturating_add(1);
                    self.sent = 0;
                    self.complained = None;
                    Phase::Up { ends, agreement, draining: None }
                }
            },
            other => other,
        };
        Ok(())
    }

    /// Begins anew in the port's epoch of now.
    fn begin(&mut self) -> io::Result<()> {
        // First: it frees the channel's name.
        self.phase = Phase::Down;
        self.epoch = self.port.epoch();
        let Some(rings) = self.port.rings()? else { return Ok(()) };
        let setup = Setup {
            longest_frame: self.longest_frame(),
            bells: Some(self.bells()),
            ..Setup::new(self.geometry)
        };
        match rings.open(&self.name, setup) {
            Ok(opening) => self.phase = Phase::Opening(Box::new(opening)),
            Err(error) => self.refuse(&error.into()),
        }
        Ok(())
    }

    fn longest_frame(&self) -> usize {
        self.offer.offload.frame_bytes_max(self.offer.mtu).max(hello::HELLO_BYTES)
    }

    fn bells(&self) -> Bells {
        let bell = Arc::new(QueueBell::new(Arc::clone(&self.port), self.queue));
        Bells {
            peer_receiver: bell.clone(),
            peer_sender: bell.clone(),
            my_receiver: bell.clone(),
            my_sender: bell,
        }
    }

    fn refuse(&mut self, trouble: &Trouble) {
        let again = match trouble {
            // These pass by themselves: the peer comes and goes.
            Trouble::Channel(Fault::PeerRestarted | Fault::PeerClosed | Fault::LinkDown | Fault::Closed)
            | Trouble::Open(cells::OpenError::Fault(_)) => {
                tracing::debug!(channel = self.name, %trouble, "the channel is opened anew");
                SOON
            }
            _ => {
                let text = trouble.to_string();
                if self.complained.as_ref() != Some(&text) {
                    tracing::warn!(channel = self.name, "no link yet: {text}");
                    self.complained = Some(text);
                }
                LATER
            }
        };
        let now = Instant::now();
        self.phase = Phase::Refused(now.checked_add(again).unwrap_or(now));
    }

    /// Nothing goes out any more. What has come is delivered first, and then the channel ends: of more frames than the ring
    /// has cells none was there when it was noticed.
    fn drain(&mut self) {
        if let Phase::Up { ends, draining, .. } = &mut self.phase
            && draining.is_none()
        {
            *draining = Some(self.geometry.cells());
            // The greeting is the oldest of them, and none of the pump's.
            self.unconfirmed = self.unconfirmed.saturating_add(ends.sender.untaken().min(self.sent));
        }
    }

    /// The channel failed while it was up.
    fn fail(&mut self, fault: Fault) {
        // It may not have drained: then what was sent is counted here.
        self.drain();
        match fault {
            Fault::PeerRestarted | Fault::PeerClosed | Fault::LinkDown | Fault::Closed | Fault::Window(_) => {
                tracing::debug!(channel = self.name, %fault, "the channel ended");
            }
            fault => tracing::warn!(channel = self.name, %fault, "the channel failed, and is opened anew"),
        }
        self.refuse(&Fault::Closed.into());
    }

    fn arm_channel(&mut self, wants: Wants) -> Result<bool, Fault> {
        match &mut self.phase {
            Phase::Up { draining: Some(_), .. } => Ok(true),
            Phase::Up { ends, .. } => {
                let room = match wants.room {
                    Some(bytes) => ends.sender.arm(bytes)?,
                    None => false,
                };
                Ok(ends.receiver.arm()? || room)
            }
            Phase::Greeting(ends) => ends.receiver.arm(),
            Phase::Down | Phase::Opening(_) | Phase::Refused(_) => Ok(false),
        }
    }
}

impl FrameLink for CellsLink {
    fn state(&mut self) -> io::Result<LinkState> {
        self.turns = self.turns.wrapping_add(1);
        if self.queue == 0 && self.turns.is_multiple_of(TURNS_PER_LOOK) {
            self.port.look();
        }
        if let Some(fault) = self.ended.take() {
            self.fail(fault);
        }
        if self.epoch != self.port.epoch() {
            match &self.phase {
                Phase::Up { .. } => self.drain(),
                _ => self.begin()?,
            }
        }
        match &self.phase {
            Phase::Opening(_) | Phase::Greeting(_) => {
                if let Err(trouble) = self.advance() {
                    self.refuse(&trouble);
                }
            }
            Phase::Refused(until) if Instant::now() >= *until => self.begin()?,
            Phase::Down | Phase::Refused(_) | Phase::Up { .. } => {}
        }
        Ok(match self.phase {
            Phase::Up { agreement, .. } => LinkState::Up { generation: self.generation, agreement },
            _ => LinkState::Down,
        })
    }

    fn send(&mut self, frame: &[u8]) -> Sent {
        let Phase::Up { ends, draining: None, .. } = &mut self.phase else { return Sent::Down };
        match ends.sender.stage(frame) {
            Ok(()) => {
                self.sent = self.sent.wrapping_add(1);
                Sent::Taken
            }
            Err(SendError::Full { .. }) => Sent::Full,
            // The greeting made sure of the contrary.
            Err(SendError::TooLong { .. }) => Sent::TooLong,
            Err(SendError::Failed(fault)) => {
                tracing::debug!(channel = self.name, %fault, "nothing can be sent any more");
                self.drain();
                Sent::Down
            }
        }
    }

    fn publish(&mut self) {
        if let Phase::Up { ends, draining: None, .. } = &mut self.phase
            && let Err(fault) = ends.sender.publish()
        {
            tracing::debug!(channel = self.name, %fault, "nothing can be sent any more");
            self.drain();
        }
    }

    fn receive(&mut self) -> Option<&[u8]> {
        let Phase::Up { ends, draining, .. } = &mut self.phase else { return None };
        if *draining == Some(0) {
            self.ended = Some(Fault::LinkDown);
            return None;
        }
        match ends.receiver.try_receive() {
            Ok(Some(frame)) => {
                *draining = draining.map(|left| left.saturating_sub(1));
                return Some(frame);
            }
            Ok(None) if draining.is_some() => self.ended = Some(Fault::LinkDown),
            Ok(None) => {}
            // What had arrived whole was delivered before this.
            Err(fault) => self.ended = Some(fault),
        }
        None
    }

    fn arm(&mut self, wants: Wants) -> Armed {
        self.port.clear(self.queue);
        if self.ended.is_some() {
            return Armed::Ready;
        }
        match self.arm_channel(wants) {
            Ok(true) => return Armed::Ready,
            Ok(false) => {}
            Err(fault) => {
                if matches!(self.phase, Phase::Up { .. }) {
                    tracing::debug!(channel = self.name, %fault, "the channel cannot be waited for");
                    self.drain();
                } else {
                    self.refuse(&fault.into());
                }
                return Armed::Ready;
            }
        }
        if self.epoch != self.port.epoch() {
            return Armed::Ready;
        }
        let patience = match self.phase {
            Phase::Opening(_) | Phase::Greeting(_) => SOON,
            Phase::Refused(until) => until.saturating_duration_since(Instant::now()),
            Phase::Down | Phase::Up { .. } => self.port.heartbeat(),
        };
        Armed::Sleep(Some(patience.min(self.port.heartbeat())))
    }

    fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn unconfirmed(&mut self) -> u64 {
        std::mem::take(&mut self.unconfirmed)
    }

    fn woken(&mut self) {
        if let Some(bell) = self.port.bell(self.queue) {
            clear(bell);
        }
        if self.queue == 0 {
            self.port.look_well();
        }
    }
}

/// Forgets rings of a bell of this process; nothing to read is no failure.
fn clear(bell: &EventBell) {
    let _ = rustix::io::read(bell, &mut [0; 8]);
}

#[cfg(test)]
mod tests;
