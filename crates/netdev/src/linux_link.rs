//! Frames as Linux's `ntb_transport` carries them, for a stock guest whose `ntb_netdev` is at the far end ([`linux_transport`]).
//!
//! A frame is bare Ethernet: no header travels, nothing is left undone, nothing is greeted. Who the peer is and what MTU it
//! has is not told; a frame that is longer than its interface takes is dropped there.

use crate::link::{Agreement, Armed, FrameLink, LinkState, Offer, Sent, Wants};
use crate::vnet_header::{ETHERNET_HEADER_BYTES, Offload};
use linux_transport::{Config, Endpoint, Event, NotSent, Notice, PortError, Received, StartError};
use ntb::Bridge;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// The greatest MTU in bytes: a slot of 64 KiB less its header and an Ethernet header.
pub const LINUX_MTU_MAX: u32 = 65510;

/// The queue pair that carries the frames: `ntb_netdev` of a stock guest makes `eth0` of the first.
const QUEUE: usize = 0;
/// Turns between two looks at the device while frames move.
const TURNS_PER_LOOK: u32 = 16;
/// How soon to look for room: Linux tells nobody when it has emptied a slot.
const ROOM_SOON: Duration = Duration::from_micros(200);

/// The link.
#[derive(Debug)]
pub struct LinuxLink {
    endpoint: Endpoint,
    bridge: Arc<dyn Bridge>,
    mtu: u32,
    up: Option<Agreement>,
    generation: u64,
    turns: u32,
    /// Something was sent that the peer was not rung for.
    unrung: bool,
    /// What arrived while this end was about to sleep.
    stashed: Option<Arrival>,
    buffer: Box<[u8]>,
    failure: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Arrival {
    Frame(usize),
    TooLong,
}

impl LinuxLink {
    /// Takes a bridge, and waits for a peer that speaks `ntb_transport`. Of the offer only the MTU counts.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(bridge: Arc<dyn Bridge>, offer: &Offer) -> Result<Self, StartError> {
        let windows = bridge.window_count().min(Config::default().windows);
        let mut endpoint = Endpoint::open(Arc::clone(&bridge), Config { windows, ..Config::default() })?;
        endpoint.enable(QUEUE);
        Ok(Self {
            endpoint,
            bridge,
            mtu: offer.mtu.min(LINUX_MTU_MAX),
            up: None,
            generation: 0,
            turns: 0,
            unrung: false,
            stashed: None,
            buffer: vec![0; 66 << 10].into(),
            failure: None,
        })
    }

    /// Does what is due, and hears what has happened.
    fn advance(&mut self) {
        match self.endpoint.advance() {
            Ok(notices) => notices.into_iter().for_each(|notice| self.hear(notice)),
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &PortError) {
        self.failure = Some(format!("the device is gone: {error}"));
    }

    fn hear(&mut self, notice: Notice) {
        match notice {
            Notice::Transport(Event::QueueUp { queue: QUEUE }) => {
                let most = self.endpoint.transport().max_payload_bytes(QUEUE).unwrap_or_default();
                let most = most.saturating_sub(ETHERNET_HEADER_BYTES);
                let mtu = self.mtu.min(u32::try_from(most).unwrap_or(u32::MAX));
                self.generation = self.generation.saturating_add(1);
                self.up = Some(Agreement { mtu, offload: Offload::None, peer: None });
            }
            Notice::Transport(Event::QueueDown { queue: QUEUE, why }) => {
                tracing::debug!(?why, "the queue pair is down");
                // What is stashed has arrived, and is delivered when there is a link again.
                self.up = None;
            }
            Notice::Transport(Event::Unfit { words, why }) => {
                tracing::warn!(?words, "the peer's hand-shake does not fit: {why}");
            }
            Notice::Transport(Event::Refused { window, why }) => {
                tracing::warn!(window, "a window of the peer's cannot be served: {why}");
            }
            notice => tracing::debug!(?notice, "transport"),
        }
    }

    fn arrival(&mut self) -> Option<Arrival> {
        if let Some(stashed) = self.stashed.take() {
            return Some(stashed);
        }
        self.up?;
        match self.endpoint.receive(QUEUE, &mut self.buffer) {
            Ok(Some(Received::Frame { bytes, .. })) => Some(Arrival::Frame(bytes)),
            Ok(Some(Received::TooLong { .. })) => Some(Arrival::TooLong),
            Ok(Some(Received::BadVersion { found, expected, .. })) => {
                tracing::warn!(
                    found,
                    expected,
                    "the peer's count of frames is wrong: nothing comes until it is right"
                );
                None
            }
            Ok(None) => None,
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }
}

impl FrameLink for LinuxLink {
    fn state(&mut self) -> io::Result<LinkState> {
        self.turns = self.turns.wrapping_add(1);
        if self.endpoint.timeout().is_zero() || self.turns.is_multiple_of(TURNS_PER_LOOK) {
            self.advance();
        }
        if let Some(failure) = &self.failure {
            return Err(io::Error::new(io::ErrorKind::NotConnected, failure.clone()));
        }
        Ok(match self.up {
            Some(agreement) => LinkState::Up { generation: self.generation, agreement },
            None => LinkState::Down,
        })
    }

    fn send(&mut self, frame: &[u8]) -> Sent {
        if self.up.is_none() {
            return Sent::Down;
        }
        match self.endpoint.send(QUEUE, frame) {
            Ok(_) => {
                self.unrung = true;
                Sent::Taken
            }
            Err(NotSent::Full) => Sent::Full,
            Err(NotSent::Down(_)) => Sent::Down,
            Err(NotSent::Length { .. }) => Sent::TooLong,
            Err(NotSent::Port(error)) => {
                self.fail(&error);
                Sent::Down
            }
        }
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.unrung) {
            return;
        }
        if let Err(error) = self.endpoint.ring() {
            self.fail(&error);
        }
    }

    fn receive(&mut self) -> Option<&[u8]> {
        match self.arrival()? {
            Arrival::Frame(bytes) => self.buffer.get(..bytes),
            // It is gone. What is handed on is longer than any agreement, and counted as that.
            Arrival::TooLong => Some(&self.buffer),
        }
    }

    /// The peer rings for every frame, so there is nothing to announce; only doorbells to clear before the last look.
    fn arm(&mut self, wants: Wants) -> Armed {
        self.publish();
        self.advance();
        self.stashed = self.arrival();
        if self.stashed.is_some() && self.up.is_some() || self.failure.is_some() {
            return Armed::Ready;
        }
        let timeout = self.endpoint.timeout();
        Armed::Sleep(Some(if wants.room.is_some() { timeout.min(ROOM_SOON) } else { timeout }))
    }

    fn wake(&self) -> BorrowedFd<'_> {
        self.endpoint.event_fd()
    }

    fn woken(&mut self) {
        self.advance();
    }
}

impl Drop for LinuxLink {
    fn drop(&mut self) {
        // First the farewell, for a peer that knows the link down by it alone.
        let parted = self.endpoint.disable(QUEUE).and_then(|()| Ok(self.bridge.link_disable()?));
        if let Err(error) = parted {
            tracing::debug!(%error, "no farewell was said");
        }
    }
}

#[cfg(test)]
mod tests;
