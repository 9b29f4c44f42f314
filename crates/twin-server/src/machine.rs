//! The device as a client sees it: regions, windows and memory around the pure model. No sockets.

use crate::dma::Dma;
use crate::host::Hosts;
use crate::port_device::PortDevice;
use crate::quota::Quota;
use crate::seat::Seat;
use crate::signaller::Signaller;
use crate::trace::{Direction, Trace, TraceSpace};
use crate::windows::{Modes, Tag, Verdict, WindowMode, Windows};
use control::{Event, StoreMode};
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use twin::{Effect, LinkState, Setup, Side, Time, Twin};
use vfio_user::wire::RegionIndex;

/// Both ports with what belongs to their hosts.
#[derive(Debug)]
pub struct Machine {
    pub(crate) twin: Twin,
    pub(crate) hosts: Hosts,
    pub(crate) windows: Windows,
    pub(crate) dma: Dma,
    /// Of the one thread that uses this.
    pub(crate) signaller: Signaller,
    pub(crate) stores: StoreMode,
    began: Instant,
    /// When the model wants to be called.
    pub(crate) timer: Option<Time>,
    /// Scratch space of every access, so that none allocates.
    pub(crate) effects: Vec<Effect>,
    /// Something has changed that mapped windows depend on.
    pub(crate) replan: bool,
    /// Whose message is being carried out.
    pub(crate) acting: Option<Seat>,
    /// Sessions whose last message has an effect elsewhere that it waits for.
    waits: [Wait; Seat::COUNT],
    /// Changes that watchers have not been told of yet.
    pub(crate) events: Vec<Event>,
    pub(crate) link_since: Time,
    pub(crate) setup: Setup,
    pub(crate) trace: Option<Trace>,
    /// Log lines about the link.
    lines: Quota,
}

/// What a session's reply waits for.
#[derive(Debug, Clone, Copy, Default)]
struct Wait {
    /// The overlays, which have to follow. The other host does not wait for an overlay that is slow, save when the link
    /// comes up: that opens windows of both.
    overlays: bool,
    /// The piece with this number: it was planned before the message.
    piece: Option<u64>,
}

/// What a message's region means here.
pub(crate) enum Location {
    Bar0,
    Window(usize),
    Config,
}

impl Machine {
    /// Two ports, nobody attached. `ram_mapped`: hosts whose memory other processes map too.
    #[must_use]
    pub fn new(setup: Setup, modes: Modes, ram_mapped: [bool; 2], trace: Option<Trace>) -> Self {
        let signaller = Signaller::default();
        Self {
            twin: Twin::new(&setup),
            hosts: Hosts::new(&signaller),
            windows: Windows::new(modes, ram_mapped),
            dma: Dma::default(),
            signaller,
            stores: StoreMode::Deliver,
            began: Instant::now(),
            timer: None,
            effects: Vec::new(),
            replan: false,
            acting: None,
            waits: [Wait::default(); Seat::COUNT],
            events: Vec::new(),
            link_since: Time::default(),
            setup,
            trace,
            lines: Quota::default(),
        }
    }

    /// Time since the machine was made, as the model and the trace have it.
    #[must_use]
    pub fn now(&self) -> Time {
        Time(self.began.elapsed())
    }

    /// The device of one port, for a session.
    pub fn port(&mut self, side: Side) -> PortDevice<'_> {
        self.acting = Some(Seat::Port(side));
        PortDevice::new(self, side)
    }

    /// A client connected.
    pub fn attach(&mut self, side: Side, pid: Option<u32>) {
        let now = self.now();
        self.hosts.get_mut(side).pid = pid;
        self.windows.attach(side);
        self.twin.attach(now, side, &mut self.effects);
        self.events.push(Event::Attached { at_ms: millis(now), port: crate::status::port_name(side) });
        self.settle();
    }

    /// A client is gone: its memory, its eventfds and its link go with it.
    pub fn detach(&mut self, side: Side) {
        let now = self.now();
        let host = self.hosts.get_mut(side);
        host.pid = None;
        host.memory.clear();
        host.interrupts.detach();
        self.windows.detach(side);
        self.twin.detach(now, side, &mut self.effects);
        self.events.push(Event::Detached { at_ms: millis(now), port: crate::status::port_name(side) });
        self.settle();
    }

    /// Lets the model act on time that has passed. Call it when [`wait`](Self::wait) is over.
    pub fn advance(&mut self) {
        let now = self.now();
        self.twin.advance(now, &mut self.effects);
        self.settle();
    }

    /// What has happened since the last call, for those who watch. Whoever drives a machine takes it now and then.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// When the model wants to be called; `None`: not before somebody does something.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        self.timer
    }

    /// How long nothing needs to happen; `None`: until somebody does something.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.timer.map(|Time(at)| at.saturating_sub(self.now().0))
    }

    /// Carries out what the model wants done, until it wants nothing more.
    pub(crate) fn settle(&mut self) {
        loop {
            self.carry_out();
            if !self.replan {
                break;
            }
            self.wait_for_piece();
            if let Some(wait) = self.acting.and_then(|seat| self.waits.get_mut(seat.index())) {
                wait.overlays = true;
            }
            if self.dma.in_flight().is_some() {
                // A piece may be on its way to memory that is to be exchanged; its end comes back here.
                return;
            }
            self.replan = false;
            let verdict = self.windows.pump(&self.twin, &mut self.hosts);
            self.punish(verdict);
        }
        if !self.windows.is_busy() && !self.replan {
            for wait in &mut self.waits {
                wait.overlays = false;
            }
        }
    }

    /// Whoever acts has changed something that a piece may depend on: its reply waits until the one under way is done.
    pub(crate) fn wait_for_piece(&mut self) {
        let piece = self.dma.in_flight();
        if let Some(wait) = self.acting.and_then(|seat| self.waits.get_mut(seat.index())) {
            wait.piece = piece;
        }
    }

    /// Whether a port's reply has to wait: what its host did is not done yet.
    #[must_use]
    pub fn holds_port(&self, side: Side) -> bool {
        self.holds(Seat::Port(side))
    }

    /// Whether a session's reply has to wait.
    pub(crate) fn holds(&self, seat: Seat) -> bool {
        let Some(wait) = self.waits.get(seat.index()) else { return false };
        let piece = self.dma.in_flight();
        piece.is_some() && piece == wait.piece || wait.overlays && (self.windows.is_busy() || self.replan)
    }

    /// A process's overlay has introduced itself.
    ///
    /// # Errors
    /// When there are too many, or the stream cannot be used.
    pub fn admit_overlay(&mut self, pid: u32, stream: UnixStream) -> io::Result<()> {
        let verdict = self.windows.admit(pid, stream, &self.hosts)?;
        self.punish(verdict);
        self.settle();
        Ok(())
    }

    /// A host whose mappings are out of control has no link until it attaches anew.
    fn punish(&mut self, verdict: Verdict) {
        let now = self.now();
        for side in verdict.untrusted {
            self.twin.bar(now, side, &mut self.effects);
            self.replan = true;
        }
    }

    /// Moves a window to another mode of its class.
    pub(crate) fn set_mode(&mut self, tag: Tag, mode: WindowMode) -> Result<(), String> {
        if mode == WindowMode::Dma && self.dma.get(tag.0).is_none() {
            let port = crate::status::port_name(tag.0);
            return Err(format!("port {port} has no DMA engine: start the twin with --dma-{port} PATH"));
        }
        self.windows.set_mode(tag, mode)?;
        self.replan = true;
        self.settle();
        Ok(())
    }

    /// An overlay has something to read, to write, or is late.
    pub fn serve_overlay(&mut self, pid: u32) {
        let verdict = self.windows.service(pid, &mut self.hosts);
        self.replan = true;
        self.punish(verdict);
        self.settle();
    }

    /// Whether an order for an overlay waits to be sent, and when the earliest of those under way is late.
    #[must_use]
    pub fn overlay_state(&self) -> (bool, Option<Instant>) {
        (self.windows.overlays().any(|(_, _, wants_write)| wants_write), self.windows.deadline())
    }

    /// Overlays that have not answered in time are given up.
    pub fn expire_overlays(&mut self) {
        // One that is late may answer at this very moment: then its step is done, and the next has to begin.
        self.replan |= self.windows.deadline().is_some_and(|at| Instant::now() >= at);
        let verdict = self.windows.expire(&mut self.hosts);
        self.punish(verdict);
        self.settle();
    }

    fn carry_out(&mut self) {
        if self.effects.is_empty() {
            return;
        }
        let now = self.now();
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Interrupt { side, vector } => self.hosts.get_mut(side).interrupts.raise(vector),
                Effect::Timer(at) => self.timer = at,
                Effect::Link(state) => {
                    self.link_since = now;
                    if state == LinkState::Up {
                        // Windows that were set up before open now. Who reads that the link is up finds them open.
                        for seat in [Seat::Port(Side::A), Seat::Port(Side::B)] {
                            if let Some(wait) = self.waits.get_mut(seat.index()) {
                                wait.overlays = true;
                            }
                        }
                    }
                    let state = match state {
                        LinkState::Down => control::LinkState::Down,
                        LinkState::Training { .. } => control::LinkState::Training,
                        LinkState::Up => control::LinkState::Up,
                    };
                    if let Some(left_out) = self.lines.take(now) {
                        tracing::info!(%state, left_out, "link");
                    }
                    self.events.push(Event::Link { at_ms: millis(now), state });
                }
                Effect::Reset { side } => self.after_reset(now, side),
                // A messaged window asks the model at every access; a mapped one is memory that has to change.
                Effect::Translation { .. } => self.replan = true,
            }
        }
        self.effects = effects;
    }

    pub(crate) fn after_reset(&mut self, now: Time, side: Side) {
        self.hosts.get_mut(side).interrupts.reset();
        let port = crate::status::port_name(side);
        self.log(side, |left_out| tracing::info!(%port, left_out, "reset"));
        self.events.push(Event::Reset { at_ms: millis(now), port });
    }

    pub(crate) fn place(region: RegionIndex) -> Option<Location> {
        match region {
            RegionIndex::BAR0 => Some(Location::Bar0),
            RegionIndex::BAR2 => Some(Location::Window(0)),
            RegionIndex::BAR4 => Some(Location::Window(1)),
            RegionIndex::CONFIG => Some(Location::Config),
            _ => None,
        }
    }

    pub(crate) fn load(&mut self, side: Side, location: &Location, offset: u64, out: &mut [u8]) {
        match *location {
            Location::Window(window) => self.load_window(side, window, offset, out),
            Location::Bar0 => {
                // The region is 64 KiB, so the offset fits.
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                let hit = self.twin.bar0_read(side, offset, out);
                self.record(side, TraceSpace::Bar0, Direction::Read, offset, out, hit);
            }
            Location::Config => {
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                self.twin.config_read(side, offset, out);
                self.record(side, TraceSpace::Config, Direction::Read, offset, out, true);
            }
        }
    }

    pub(crate) fn store(&mut self, side: Side, location: &Location, offset: u64, data: &[u8]) {
        match *location {
            Location::Window(window) => self.store_window(side, window, offset, data),
            Location::Bar0 => {
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                let now = self.now();
                let hit = self.twin.bar0_write(now, side, offset, data, &mut self.effects);
                self.record(side, TraceSpace::Bar0, Direction::Write, offset, data, hit);
                self.settle();
            }
            Location::Config => {
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                let now = self.now();
                let msix_before = self.twin.msix_enabled(side);
                let memory_before = self.twin.memory_enabled(side);
                self.twin.config_write(now, side, offset, data, &mut self.effects);
                self.record(side, TraceSpace::Config, Direction::Write, offset, data, true);
                self.replan |= memory_before != self.twin.memory_enabled(side);
                self.settle();
                if msix_before && !self.twin.msix_enabled(side) {
                    self.hosts.get_mut(side).interrupts.reset();
                }
            }
        }
    }

    fn store_window(&mut self, side: Side, window: usize, offset: u64, data: &[u8]) {
        if let Some(memory) = self.windows.shared_memory((side, window)) {
            let landed = usize::try_from(offset).is_ok_and(|at| memory.write(at, data).is_ok());
            if let Some(counters) = self.hosts.get_mut(side).windows.get_mut(window) {
                counters.count_store(landed, false, length(data));
            }
            return;
        }
        let discard = self.stores == StoreMode::Discard;
        let landed = self.twin.route(side, window, offset, length(data)).is_ok_and(|range| {
            // The ceiling checks the route and the memory map like delivery does, and differs by the store alone.
            let memory = &self.hosts.get(range.side).memory;
            if discard {
                memory.check(range.address, data.len()).is_ok()
            } else {
                memory.write(range.address, data).is_ok()
            }
        });
        if let Some(counters) = self.hosts.get_mut(side).windows.get_mut(window) {
            counters.count_store(landed, discard, length(data));
        }
    }

    fn load_window(&mut self, side: Side, window: usize, offset: u64, out: &mut [u8]) {
        let landed = match self.windows.shared_memory((side, window)) {
            Some(memory) => usize::try_from(offset).is_ok_and(|at| memory.read(at, out).is_ok()),
            None => self
                .twin
                .route(side, window, offset, length(out))
                .is_ok_and(|range| self.hosts.get(range.side).memory.read(range.address, out).is_ok()),
        };
        if !landed {
            out.fill(0xFF);
        }
        if let Some(counters) = self.hosts.get_mut(side).windows.get_mut(window) {
            counters.count_load(landed);
        }
    }

    pub(crate) fn record(
        &mut self,
        side: Side,
        space: TraceSpace,
        direction: Direction,
        offset: u32,
        data: &[u8],
        hit: bool,
    ) {
        if self.trace.is_some() {
            let now = self.now();
            if let Some(trace) = &mut self.trace {
                trace.record(now, side, space, direction, offset, data, hit);
            }
        }
    }

    /// Logs what a host has brought about, unless it does so too often; `line` gets the number of lines left out before, if any.
    pub(crate) fn log(&mut self, side: Side, line: impl FnOnce(Option<u64>)) {
        let now = self.now();
        if let Some(left_out) = self.hosts.get_mut(side).lines.take(now) {
            line(left_out);
        }
    }
}

fn length(data: &[u8]) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

pub(crate) fn millis(Time(at): Time) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}
