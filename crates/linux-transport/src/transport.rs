//! The hand-shake of the link, and what a caller does with queue pairs once it is through.

use crate::config::{BadConfig, Config};
use crate::event::{Down, Event};
use crate::layout::{BadLayout, Layout};
use crate::pair::{Pair, Phase, Ready};
use crate::port::Port;
use crate::queue::{Arrival, Rings, Statistics};
use crate::time::Time;
use crate::words::{Mismatch, Words};
use ntb_spec::linux_transport::{
    PayloadHeader, RETRY_MS, SCRATCHPAD_QP_LINKS, SCRATCHPAD_VERSION, Share, VERSION,
};

/// How often a transport that is up looks whether the peer still means it, in milliseconds.
const WATCH_MS: u64 = 100;
/// What I put into the place of the peer's version in my scratchpad once its queue pair is up, and it is done with the
/// hand-shake. Where a version appears there again, it has begun anew. Only my side reads this word.
const TAKEN: u32 = VERSION | 1 << 31;
/// The same for the ready bits: the peer writes the whole word whenever it opens or closes a queue pair, and never sets
/// this bit, which is nobody's.
const SEEN: u32 = 1 << 31;

/// Where the link's hand-shake stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No link.
    Down,
    /// Announcing, and looking for the peer's words (`ntb_transport_link_work`).
    Greeting { next: Time },
    /// A window cannot be served: Linux, too, stops here until the link has been down.
    Refused,
    /// Memory is behind the windows.
    Up { next_watch: Time, agreed: Words },
}

/// A frame that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The slot of the peer's ring that it went into.
    pub slot: u32,
    /// Its header, as written.
    pub header: PayloadHeader,
}

/// What [`Transport::receive`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A frame of `bytes` bytes lies in the buffer.
    Frame {
        /// The slot of my ring that it lay in.
        slot: u32,
        /// The sender's count.
        version: u32,
        /// Its length.
        bytes: usize,
    },
    /// A frame longer than the slot or the buffer was thrown away.
    TooLong {
        /// The slot of my ring that it lay in.
        slot: u32,
        /// The length that its header says.
        bytes: u32,
    },
    /// A frame with an unexpected count lies there and stays, as Linux leaves it: nothing comes after it until the sender
    /// writes the expected one. Told once a slot.
    BadVersion {
        /// The slot of my ring.
        slot: u32,
        /// Its count.
        found: u32,
        /// The count that was expected.
        expected: u32,
    },
}

/// Why a frame was not sent; nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum NotSent<E> {
    /// The queue pair is not up, or there is no such one.
    #[error("queue pair {0} is not up")]
    Down(usize),
    /// Empty, or longer than a slot.
    #[error("a frame of {bytes} bytes: queue pairs carry 1 to {most}")]
    Length {
        /// The frame's.
        bytes: usize,
        /// The longest that fits.
        most: usize,
    },
    /// The peer has emptied no slot: try again later.
    #[error("the peer's ring is full")]
    Full,
    /// The port failed.
    #[error("the port fails")]
    Port(E),
}

impl<E> From<E> for NotSent<E> {
    fn from(error: E) -> Self {
        Self::Port(error)
    }
}

/// One side of a link that speaks `ntb_transport`.
///
/// The caller owns the port, the clock and the interrupts: it says when the link changes ([`link`](Self::link)), calls
/// [`poll`](Self::poll) when the time that it returned has come or a doorbell rang, and then
/// [`receive`](Self::receive) until nothing is left.
#[derive(Debug, Clone)]
pub struct Transport {
    config: Config,
    state: State,
    pairs: Vec<Pair>,
    ready: Ready,
    bells: u64,
    told: Option<Words>,
    /// The peer's ready bits when they were marked as seen.
    seen: Option<u32>,
    events: Vec<Event>,
}

impl Transport {
    /// A transport on a link that is down, all of its queue pairs closed.
    ///
    /// # Errors
    /// [`BadConfig`] where there can be no such transport.
    pub fn new(config: Config) -> Result<Self, BadConfig> {
        config.check()?;
        let pairs = (0..config.queues).map(Pair::new).collect();
        Ok(Self {
            config,
            state: State::Down,
            pairs,
            ready: 0,
            bells: 0,
            told: None,
            seen: None,
            events: Vec::new(),
        })
    }

    /// What it was made of.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The link came up or went down (`ntb_transport_event_callback`). A link that is said to be up twice was down in
    /// between.
    ///
    /// # Errors
    /// When the port fails.
    pub fn link<P: Port>(&mut self, now: Time, up: bool, port: &mut P) -> Result<(), P::Error> {
        if self.state != State::Down {
            self.clean_up(port)?;
        }
        if up {
            self.state = State::Greeting { next: now };
        }
        Ok(())
    }

    /// A client wants a queue pair's frames (`ntb_transport_link_up`).
    pub fn enable(&mut self, queue: usize) {
        if let Some(pair) = self.pairs.get_mut(queue) {
            pair.enable();
        }
    }

    /// A client wants no more of them (`ntb_transport_link_down`): the peer is told.
    ///
    /// # Errors
    /// When the port fails.
    pub fn disable<P: Port>(&mut self, queue: usize, port: &mut P) -> Result<(), P::Error> {
        let Some(pair) = self.pairs.get_mut(queue) else { return Ok(()) };
        pair.disable(&mut self.ready, &mut self.bells, &mut self.events, port)?;
        self.ring(port)
    }

    /// Says farewell on every queue pair and takes all memory out of the peer's reach.
    ///
    /// # Errors
    /// When the port fails.
    pub fn close<P: Port>(&mut self, port: &mut P) -> Result<(), P::Error> {
        for queue in 0..self.pairs.len() {
            self.disable(queue, port)?;
        }
        if self.state == State::Down { Ok(()) } else { self.clean_up(port) }
    }

    /// Does what is due. Returns when to be called again at the latest, if ever.
    ///
    /// # Errors
    /// When the port fails, or does not take a window of the size that the peer announced; Linux stops there until the
    /// link has been down, and so does this.
    pub fn poll<P: Port>(&mut self, now: Time, port: &mut P) -> Result<Option<Time>, P::Error> {
        if let State::Greeting { next } = self.state
            && now >= next
        {
            self.state = State::Greeting { next: now.after_ms(RETRY_MS) };
            self.greet(now, port)?;
        }
        if let State::Up { next_watch, agreed } = self.state {
            self.negotiate(now, port)?;
            if now >= next_watch {
                self.state = State::Up { next_watch: now.after_ms(WATCH_MS), agreed };
                self.watch(now, &agreed, port)?;
            }
        }
        Ok(match self.state {
            State::Down | State::Refused => None,
            State::Greeting { next } => Some(next),
            State::Up { next_watch, .. } => {
                let waits = self.pairs.iter().any(Pair::is_busy);
                Some(if waits { next_watch.min(now.after_ms(RETRY_MS)) } else { next_watch })
            }
        })
    }

    /// Whether a queue pair carries frames.
    #[must_use]
    pub fn is_up(&self, queue: usize) -> bool {
        self.pairs.get(queue).is_some_and(Pair::is_up)
    }

    /// The longest frame that a queue pair can send now, in bytes; none while it is down.
    #[must_use]
    pub fn max_payload_bytes(&self, queue: usize) -> Option<usize> {
        let pair = self.pairs.get(queue).filter(|pair| pair.is_up())?;
        pair.rings.as_ref().map(Rings::max_payload_bytes)
    }

    /// Counters of a queue pair.
    #[must_use]
    pub fn statistics(&self, queue: usize) -> Statistics {
        self.pairs.get(queue).map_or_else(Statistics::default, |pair| pair.statistics)
    }

    /// Slots of the peer's ring that are free; 0 while the queue pair is down.
    ///
    /// # Errors
    /// When the port fails.
    pub fn free<P: Port>(&mut self, queue: usize, port: &mut P) -> Result<u32, P::Error> {
        let Some(pair) = self.pairs.get_mut(queue).filter(|pair| pair.is_up()) else { return Ok(0) };
        pair.rings.as_mut().map_or(Ok(0), |rings| rings.free(port, &mut pair.statistics))
    }

    /// Sends a frame: stores alone. The peer is told by [`ring`](Self::ring), once for as many frames as one likes.
    ///
    /// # Errors
    /// [`NotSent`]; nothing was written, unless the port failed.
    pub fn send<P: Port>(
        &mut self,
        queue: usize,
        payload: &[u8],
        port: &mut P,
    ) -> Result<Sent, NotSent<P::Error>> {
        self.send_altered(queue, payload, |header| header, port)
    }

    /// Sends a frame with another header than the right one, to see what the peer makes of it.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_altered<P: Port>(
        &mut self,
        queue: usize,
        payload: &[u8],
        alter: impl FnOnce(PayloadHeader) -> PayloadHeader,
        port: &mut P,
    ) -> Result<Sent, NotSent<P::Error>> {
        let pair = self.pairs.get_mut(queue).filter(|pair| pair.is_up()).ok_or(NotSent::Down(queue))?;
        let rings = pair.rings.as_mut().ok_or(NotSent::Down(queue))?;
        let most = rings.max_payload_bytes();
        if !(1..=most).contains(&payload.len()) {
            return Err(NotSent::Length { bytes: payload.len(), most });
        }
        if rings.free(port, &mut pair.statistics)? == 0 {
            pair.statistics.tx_full = pair.statistics.tx_full.wrapping_add(1);
            return Err(NotSent::Full);
        }
        let (slot, header) = rings.put(port, payload, 0, alter)?;
        pair.statistics.tx_frames = pair.statistics.tx_frames.wrapping_add(1);
        let bytes = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        pair.statistics.tx_bytes = pair.statistics.tx_bytes.wrapping_add(bytes);
        self.bells |= pair.doorbell();
        Ok(Sent { slot, header })
    }

    /// Rings the peer for everything that was sent since the last time.
    ///
    /// # Errors
    /// When the port fails.
    pub fn ring<P: Port>(&mut self, port: &mut P) -> Result<(), P::Error> {
        match std::mem::take(&mut self.bells) {
            0 => Ok(()),
            bells => port.ring_peer(bells),
        }
    }

    /// Takes the next frame of a queue pair into `buffer`, if there is one.
    ///
    /// # Errors
    /// When the port fails.
    pub fn receive<P: Port>(
        &mut self,
        queue: usize,
        buffer: &mut [u8],
        port: &mut P,
    ) -> Result<Option<Received>, P::Error> {
        let Some(pair) = self.pairs.get_mut(queue).filter(|pair| pair.is_up()) else { return Ok(None) };
        let Some(rings) = pair.rings.as_mut() else { return Ok(None) };
        let why = match rings.take(port, buffer, &mut pair.statistics)? {
            Arrival::Empty => return Ok(None),
            Arrival::Frame { slot, version, bytes } => {
                return Ok(Some(Received::Frame { slot, version, bytes }));
            }
            Arrival::TooLong { slot, bytes } => return Ok(Some(Received::TooLong { slot, bytes })),
            Arrival::BadVersion { slot, found, expected } => {
                return Ok(Some(Received::BadVersion { slot, found, expected }));
            }
            Arrival::LinkDown => Down::Message,
            Arrival::Restarted => Down::Count,
        };
        pair.start_over(why, &mut self.ready, &mut self.bells, &mut self.events, port)?;
        self.ring(port)?;
        Ok(None)
    }

    /// One turn of the hand-shake.
    fn greet<P: Port>(&mut self, now: Time, port: &mut P) -> Result<(), P::Error> {
        let mine = Words::mine(&self.config, port);
        mine.announce(&self.config, port)?;
        if self.told.is_none() {
            self.events.push(Event::Announced(mine));
            self.told = Some(Words::default());
        }
        let words = Words::fetch(&self.config, port)?;
        if let Err(why) = words.fit(&self.config) {
            if self.told != Some(words) && why != Mismatch::Silent {
                self.events.push(Event::Unfit { words, why });
            }
            self.told = Some(words);
            return Ok(());
        }
        self.events.push(Event::Agreed(words));
        // Whatever goes wrong from here on does so again: no retry.
        self.state = State::Refused;
        let rings = match self.cut(&words, port) {
            Ok(rings) => rings,
            Err((window, why)) => {
                self.events.push(Event::Refused { window, why });
                return Ok(());
            }
        };
        for (window, bytes) in words.window_bytes.iter().enumerate().take(self.config.windows) {
            if let Err(error) = port.open_inbound(window, *bytes) {
                for window in 0..window {
                    port.close_inbound(window)?;
                }
                return Err(error);
            }
        }
        for (pair, rings) in self.pairs.iter_mut().zip(rings) {
            rings.prepare_inbound(port)?;
            pair.rings = Some(rings);
        }
        self.state = State::Up { next_watch: now.after_ms(WATCH_MS), agreed: words };
        self.events.push(Event::TransportUp);
        Ok(())
    }

    /// Every queue pair's rings, or the window that is too small for them.
    fn cut<P: Port>(&self, words: &Words, port: &P) -> Result<Vec<Rings>, (usize, BadLayout)> {
        let Config { queues, windows, transport_mtu, .. } = self.config;
        let one = |queue| {
            let share = Share::of(queue, queues, windows);
            let share = share.ok_or((0, BadLayout::TooSmall { window_bytes: 0, pairs: queues }))?;
            let at = |bytes: u64| Layout::new(bytes, share, transport_mtu).map_err(|why| (share.window, why));
            let theirs = words.window_bytes.get(share.window).copied().unwrap_or(0);
            Ok(Rings::new(at(self.config.used(port.outbound_bytes(share.window)))?, at(theirs)?))
        };
        (0..queues).map(one).collect()
    }

    fn negotiate<P: Port>(&mut self, now: Time, port: &mut P) -> Result<(), P::Error> {
        for pair in &mut self.pairs {
            let was_up = pair.is_up();
            pair.negotiate(now, &mut self.ready, &mut self.bells, &mut self.events, port)?;
            if pair.is_up() && !was_up {
                port.set_scratchpad(SCRATCHPAD_VERSION, TAKEN)?;
            }
        }
        self.ring(port)
    }

    /// Looks for what no message says: a peer that lost the hand-shake, or began another one.
    fn watch<P: Port>(&mut self, now: Time, agreed: &Words, port: &mut P) -> Result<(), P::Error> {
        self.watch_bits(now, port)?;
        if self.pairs.iter().any(Pair::is_up) {
            if port.scratchpad(SCRATCHPAD_VERSION)? == TAKEN {
                return Ok(());
            }
            self.events.push(Event::PeerRestarted);
            if Words::fetch(&self.config, port)? != *agreed {
                self.clean_up(port)?;
                self.state = State::Greeting { next: now.after_ms(RETRY_MS) };
                return Ok(());
            }
            // The same words: memory stays, counts do not. Linux does this to a queue pair that is up when its client was
            // opened while the link was down.
            port.set_scratchpad(SCRATCHPAD_VERSION, TAKEN)?;
            for pair in self.pairs.iter_mut().filter(|pair| pair.is_up()) {
                pair.start_over(Down::HandShake, &mut self.ready, &mut self.bells, &mut self.events, port)?;
            }
            return self.ring(port);
        }
        let waited = |pair: &Pair| match pair.phase {
            Phase::Waiting(waiting) => waiting.since.is_some_and(|since| since.after_ms(WATCH_MS) <= now),
            Phase::Closed | Phase::Up { .. } => false,
        };
        // Linux zeroes its scratchpads some time after a link went down: what was told too early is lost there.
        if self.pairs.iter().any(waited) && port.peer_scratchpad(SCRATCHPAD_VERSION)? == 0 {
            Words::mine(&self.config, port).announce(&self.config, port)?;
        }
        Ok(())
    }

    /// Looks whether the peer closed a queue pair, or closed it and opened it again, and no frame told.
    fn watch_bits<P: Port>(&mut self, now: Time, port: &mut P) -> Result<(), P::Error> {
        let word = port.scratchpad(SCRATCHPAD_QP_LINKS)?;
        let links = word & !SEEN;
        let rewritten = word & SEEN == 0 && self.seen == Some(links);
        let mut lost = false;
        for pair in &mut self.pairs {
            if pair.misses_bit(links) || rewritten && pair.is_settled(now) {
                lost = true;
                pair.start_over(Down::Bit, &mut self.ready, &mut self.bells, &mut self.events, port)?;
            }
        }
        if lost {
            self.seen = None;
        } else if word & SEEN == 0 && self.pairs.iter().any(|pair| pair.is_settled(now)) {
            self.seen = Some(links);
            port.set_scratchpad(SCRATCHPAD_QP_LINKS, links | SEEN)?;
        }
        self.ring(port)
    }

    /// `ntb_transport_link_cleanup`: queue pairs down, windows closed, scratchpads zero.
    fn clean_up<P: Port>(&mut self, port: &mut P) -> Result<(), P::Error> {
        let before = std::mem::replace(&mut self.state, State::Down);
        for pair in &mut self.pairs {
            pair.lose(&mut self.events);
        }
        (self.ready, self.bells, self.told, self.seen) = (0, 0, None, None);
        self.events.push(Event::TransportDown);
        if matches!(before, State::Up { .. }) {
            for window in 0..self.config.windows {
                port.close_inbound(window)?;
            }
        }
        for index in 0..self.config.scratchpads {
            port.set_scratchpad(index, 0)?;
        }
        Ok(())
    }
}
