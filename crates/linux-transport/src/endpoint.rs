//! A transport that runs: its bridge, its clock, its doorbells.

use crate::bridge_port::{BridgePort, PortError};
use crate::config::{BadConfig, Config};
use crate::event::Event;
use crate::port::Port;
use crate::queue::Statistics;
use crate::time::Time;
use crate::transport::{NotSent, Received, Sent, Transport};
use ntb::{Bridge, Events, Link, Speed, Width};
use ntb_spec::linux_transport::PayloadHeader;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the link's register is read although nothing was signalled: a device that is gone signals nothing.
const GLANCE: Duration = Duration::from_secs(1);

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There can be no such transport.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// More windows than the bridge has.
    #[error("{asked} memory windows are asked for, and this port has {has}")]
    Windows {
        /// As configured.
        asked: usize,
        /// As the bridge says.
        has: usize,
    },
    /// The port fails.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The link is so now; up after up means that it was down in between.
    Link(Link),
    /// The transport on it.
    Transport(Event),
}

/// One side of a link that speaks `ntb_transport`, over a bridge. Dropping it takes the link down without a farewell, as a
/// process does that is killed; [`close`](Self::close) says farewell.
///
/// A caller waits with [`turn`](Self::turn), or by its own `poll` for [`event_fd`](Self::event_fd) and at most
/// [`timeout`](Self::timeout), and then calls [`advance`](Self::advance). After either it receives until nothing is left.
#[derive(Debug)]
pub struct Endpoint<P = BridgePort> {
    transport: Transport,
    port: P,
    bridge: Arc<dyn Bridge>,
    began: Instant,
    link: Link,
    doorbells: u64,
    next: Option<Time>,
    glance: Instant,
}

impl Endpoint {
    /// Takes a bridge's windows, and lets its link train. Queue pairs are closed.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(bridge: Arc<dyn Bridge>, config: Config) -> Result<Self, StartError> {
        let port = BridgePort::new(Arc::clone(&bridge))?;
        Self::with_port(bridge, port, config)
    }
}

impl<P: Port<Error = PortError> + AsMut<BridgePort>> Endpoint<P> {
    /// The same with something between the transport and the bridge, to look on.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn with_port(bridge: Arc<dyn Bridge>, port: P, config: Config) -> Result<Self, StartError> {
        if config.windows > bridge.window_count() {
            return Err(StartError::Windows { asked: config.windows, has: bridge.window_count() });
        }
        let transport = Transport::new(config)?;
        let doorbells = bridge.doorbell_valid_mask()
            & 1_u64.checked_shl(count(config.queues)).unwrap_or(0).wrapping_sub(1);
        let prepare = || {
            bridge.doorbells_clear(doorbells)?;
            bridge.doorbells_unmask(doorbells)?;
            bridge.link_enable(Speed::Auto, Width::Auto)
        };
        prepare().map_err(PortError::from)?;
        let now = Instant::now();
        Ok(Self {
            transport,
            port,
            bridge,
            began: now,
            link: Link::default(),
            doorbells,
            next: None,
            glance: now,
        })
    }

    /// Readable when a doorbell rang or the link changed.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.bridge.event_fd()
    }

    /// How long nothing has to be done, if nothing happens.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        let until = |next: Time| Duration::from_millis(next.0.saturating_sub(self.now().0));
        self.next.map_or(GLANCE, until).min(GLANCE)
    }

    /// The link as it was last seen.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    /// The transport's state.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Something between transport and bridge.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// Waits until something happens, at most for `limit`, and does what is due.
    ///
    /// # Errors
    /// When the port fails.
    pub fn turn(&mut self, limit: Duration) -> Result<Vec<Notice>, PortError> {
        let events = self.bridge.wait(self.timeout().min(limit))?;
        self.digest(events)
    }

    /// Does what is due.
    ///
    /// # Errors
    /// When the port fails.
    pub fn advance(&mut self) -> Result<Vec<Notice>, PortError> {
        let events = self.bridge.events()?;
        self.digest(events)
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn digest(&mut self, events: Events) -> Result<Vec<Notice>, PortError> {
        let mut notices = Vec::new();
        let rang = events.doorbells & self.doorbells;
        if rang != 0 {
            // Before the rings are looked at: what rings from now on is signalled again.
            self.bridge.doorbells_clear(rang)?;
        }
        let mut link = events.link;
        if link.is_none() && self.glance.elapsed() >= GLANCE {
            let seen = self.bridge.link()?;
            self.glance = Instant::now();
            link = Some(seen).filter(|seen| seen.up != self.link.up);
        }
        // A fall and rise that went by between two looks leaves the register as it was, and windows that lead nowhere.
        if link.is_none() && self.link.up && self.port.as_mut().is_stale() {
            link = Some(self.link);
        }
        if let Some(link) = link {
            self.link = link;
            self.port.as_mut().renew()?;
            self.transport.link(self.now(), link.up, &mut self.port)?;
            notices.push(Notice::Link(link));
        }
        let polled = self.transport.poll(self.now(), &mut self.port);
        notices.extend(self.transport.take_events().into_iter().map(Notice::Transport));
        self.next = polled?;
        Ok(notices)
    }

    /// A client wants a queue pair's frames.
    pub fn enable(&mut self, queue: usize) {
        self.transport.enable(queue);
        self.next = Some(self.now());
    }

    /// A client wants no more of them.
    ///
    /// # Errors
    /// When the port fails.
    pub fn disable(&mut self, queue: usize) -> Result<(), PortError> {
        self.transport.disable(queue, &mut self.port)
    }

    /// As [`Transport::send`].
    ///
    /// # Errors
    /// [`NotSent`].
    pub fn send(&mut self, queue: usize, payload: &[u8]) -> Result<Sent, NotSent<PortError>> {
        self.transport.send(queue, payload, &mut self.port)
    }

    /// As [`Transport::send_altered`].
    ///
    /// # Errors
    /// [`NotSent`].
    pub fn send_altered(
        &mut self,
        queue: usize,
        payload: &[u8],
        alter: impl FnOnce(PayloadHeader) -> PayloadHeader,
    ) -> Result<Sent, NotSent<PortError>> {
        self.transport.send_altered(queue, payload, alter, &mut self.port)
    }

    /// As [`Transport::ring`].
    ///
    /// # Errors
    /// When the port fails.
    pub fn ring(&mut self) -> Result<(), PortError> {
        self.transport.ring(&mut self.port)
    }

    /// As [`Transport::free`].
    ///
    /// # Errors
    /// When the port fails.
    pub fn free(&mut self, queue: usize) -> Result<u32, PortError> {
        self.transport.free(queue, &mut self.port)
    }

    /// As [`Transport::receive`]. Where it returns `None`, the queue pair may have gone down: [`advance`](Self::advance)
    /// tells.
    ///
    /// # Errors
    /// When the port fails.
    pub fn receive(&mut self, queue: usize, buffer: &mut [u8]) -> Result<Option<Received>, PortError> {
        let received = self.transport.receive(queue, buffer, &mut self.port)?;
        if received.is_none() && !self.transport.is_up(queue) {
            self.next = Some(self.now());
        }
        Ok(received)
    }

    /// As [`Transport::statistics`].
    #[must_use]
    pub fn statistics(&self, queue: usize) -> Statistics {
        self.transport.statistics(queue)
    }

    /// Says farewell, and takes the link down.
    ///
    /// # Errors
    /// When the port fails.
    pub fn close(mut self) -> Result<(), PortError> {
        self.transport.close(&mut self.port)?;
        Ok(self.bridge.link_disable()?)
    }
}

fn count(queues: usize) -> u32 {
    u32::try_from(queues).unwrap_or(u32::MAX)
}

impl AsMut<Self> for BridgePort {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}
