//! The device as a client sees it: regions, windows and memory around the pure model. No sockets.

use crate::guest_memory::{self, Backing, Rights};
use crate::host::Hosts;
use crate::interrupts::Interrupts;
use crate::quota::Quota;
use crate::trace::{Direction, Trace, TraceSpace};
use crate::windows::{Tag, Verdict, WindowMode, Windows};
use control::{Event, StoreMode, WindowClass};
use ntb_spec::{WINDOWS, bar0, config};
use rustix::io::Errno;
use shm::{Mapping, SharedFile};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use twin::{Effect, LinkState, Setup, Side, Time, Twin};
use vfio_user::server::{Device, IrqChange, Region};
use vfio_user::wire::{DmaMap, DmaUnmap, IrqIndex, IrqInfo, RegionIndex, irq_flags};

/// Both ports with what belongs to their hosts.
#[derive(Debug)]
pub struct Machine {
    pub(crate) twin: Twin,
    pub(crate) hosts: Hosts,
    pub(crate) windows: Windows,
    pub(crate) stores: StoreMode,
    began: Instant,
    /// When the model wants to be called.
    pub(crate) timer: Option<Time>,
    /// Scratch space of every access, so that none allocates.
    effects: Vec<Effect>,
    /// Something has changed that mapped windows depend on.
    replan: bool,
    /// Whose message is being carried out.
    acting: Option<Side>,
    /// Hosts whose message has changed a mapped window: no reply until the overlays have followed. The other host does
    /// not wait for an overlay that is slow, save when the link comes up: that opens windows of both.
    waits: [bool; 2],
    /// Changes that watchers have not been told of yet.
    pub(crate) events: Vec<Event>,
    pub(crate) link_since: Time,
    pub(crate) setup: Setup,
    pub(crate) trace: Option<Trace>,
    /// Log lines about the link.
    lines: Quota,
}

/// What a message's region means here.
enum Place {
    Bar0,
    Window(usize),
    Config,
}

impl Machine {
    /// Two ports, nobody attached.
    #[must_use]
    pub fn new(setup: Setup, modes: [WindowMode; 2], trace: Option<Trace>) -> Self {
        Self {
            twin: Twin::new(&setup),
            hosts: Hosts::new(),
            windows: Windows::new(modes),
            stores: StoreMode::Deliver,
            began: Instant::now(),
            timer: None,
            effects: Vec::new(),
            replan: false,
            acting: None,
            waits: [false; 2],
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
        self.acting = Some(side);
        PortDevice { machine: self, side }
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
        host.interrupts.clear();
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
    fn settle(&mut self) {
        loop {
            self.carry_out();
            if !std::mem::take(&mut self.replan) {
                break;
            }
            let verdict = self.windows.pump(&self.twin, &mut self.hosts);
            self.punish(verdict);
            if let Some(side) = self.acting
                && let Some(waits) = self.waits.get_mut(side as usize)
            {
                *waits = true;
            }
        }
        if !self.windows.is_busy() {
            self.waits = [false; 2];
        }
    }

    /// Whether a host's reply has to wait for an overlay: what it did is not done yet.
    #[must_use]
    pub fn holds(&self, side: Side) -> bool {
        self.waits.get(side as usize) == Some(&true) && self.windows.is_busy()
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
        let verdict = self.windows.expire(&mut self.hosts);
        if !verdict.untrusted.is_empty() {
            self.replan = true;
        }
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
                        self.waits = [true; 2];
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

    fn after_reset(&mut self, now: Time, side: Side) {
        self.hosts.get_mut(side).interrupts.reset();
        let port = crate::status::port_name(side);
        self.log(side, |left_out| tracing::info!(%port, left_out, "reset"));
        self.events.push(Event::Reset { at_ms: millis(now), port });
    }

    fn place(region: RegionIndex) -> Option<Place> {
        match region {
            RegionIndex::BAR0 => Some(Place::Bar0),
            RegionIndex::BAR2 => Some(Place::Window(0)),
            RegionIndex::BAR4 => Some(Place::Window(1)),
            RegionIndex::CONFIG => Some(Place::Config),
            _ => None,
        }
    }

    fn load(&mut self, side: Side, place: &Place, offset: u64, out: &mut [u8]) {
        match *place {
            Place::Window(window) => self.load_window(side, window, offset, out),
            Place::Bar0 => {
                // The region is 64 KiB, so the offset fits.
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                let hit = self.twin.bar0_read(side, offset, out);
                self.record(side, TraceSpace::Bar0, Direction::Read, offset, out, hit);
            }
            Place::Config => {
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                self.twin.config_read(side, offset, out);
                self.record(side, TraceSpace::Config, Direction::Read, offset, out, true);
            }
        }
    }

    fn store(&mut self, side: Side, place: &Place, offset: u64, data: &[u8]) {
        match *place {
            Place::Window(window) => self.store_window(side, window, offset, data),
            Place::Bar0 => {
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                let now = self.now();
                let hit = self.twin.bar0_write(now, side, offset, data, &mut self.effects);
                self.record(side, TraceSpace::Bar0, Direction::Write, offset, data, hit);
                self.settle();
            }
            Place::Config => {
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

    fn record(
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

    /// The memory behind an announcement, if it cannot be cut under us.
    fn back(&mut self, side: Side, map: &DmaMap, rights: Rights, fd: OwnedFd) -> Result<Backing, String> {
        let end = map.fd_offset.checked_add(map.size).ok_or("the range leaves the file")?;
        let file = SharedFile::accept(fd, end).map_err(|unfit| unfit.to_string())?;
        let mapping = Mapping::new(&file, map.fd_offset, map.size, rights.access());
        let mapping = mapping.map_err(|error| error.to_string())?;
        // Kept for others to map, so only if it was opened for writing, as the mapping above has shown.
        let file = rights.writable.then(|| self.hosts.get_mut(side).memory.keep(file)).flatten();
        Ok(Backing { mapping, file, offset: map.fd_offset })
    }

    fn map(&mut self, side: Side, map: DmaMap, fd: Option<OwnedFd>) -> Result<(), Errno> {
        let rights = Rights { readable: map.readable, writable: map.writeable };
        let fd = fd.filter(|_| rights.readable || rights.writable);
        if !self.hosts.get(side).memory.has_room(fd.is_some()) {
            return Err(Errno::NOSPC);
        }
        let backing = match fd.map(|fd| self.back(side, &map, rights, fd)).transpose() {
            Ok(backing) => backing,
            Err(why) => {
                let port = crate::status::port_name(side);
                self.log(side, |left_out| {
                    tracing::warn!(%port, iova = %map.iova, bytes = map.size, why, left_out, "memory that cannot be reached");
                });
                None
            }
        };
        let memory = &mut self.hosts.get_mut(side).memory;
        let added = memory.add(map.iova.0, map.size, rights, backing);
        self.replan = true;
        self.settle();
        added.map_err(|error| match error {
            guest_memory::AddError::Range => Errno::INVAL,
            guest_memory::AddError::Overlap => Errno::EXIST,
            guest_memory::AddError::TooMany => Errno::NOSPC,
        })
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

/// One port of a machine, as a vfio-user session wants it.
#[derive(Debug)]
pub struct PortDevice<'a> {
    machine: &'a mut Machine,
    side: Side,
}

impl PortDevice<'_> {
    /// Whether a region is memory that the peer's region is too, so that nothing is translated.
    #[must_use]
    pub fn is_shared(&self, index: RegionIndex) -> bool {
        let Some(Place::Window(window)) = Machine::place(index) else { return false };
        let (mode, class) = self.machine.windows.mode((self.side, window));
        mode == WindowMode::Shared && class == WindowClass::Mapped
    }
}

impl Drop for PortDevice<'_> {
    fn drop(&mut self) {
        self.machine.acting = None;
    }
}

impl Device for PortDevice<'_> {
    fn region(&self, index: RegionIndex) -> Region {
        let size = match Machine::place(index) {
            Some(Place::Bar0) => u64::from(bar0::BYTES),
            Some(Place::Window(window)) => self.machine.twin.window_bytes(self.side, window),
            Some(Place::Config) => u64::from(config::BYTES),
            None => return Region::ABSENT,
        };
        Region::read_write(size)
    }

    fn mapping(&mut self, index: RegionIndex) -> Option<vfio_user::server::Mapping<'_>> {
        let Some(Place::Window(window)) = Machine::place(index) else { return None };
        let Machine { twin, windows, hosts, .. } = &mut *self.machine;
        let bytes = twin.window_bytes(self.side, window);
        let fd = windows.mapping((self.side, window), bytes, hosts)?;
        Some(vfio_user::server::Mapping { fd, fd_offset: 0, areas: &[] })
    }

    fn hold(&self) -> bool {
        self.machine.holds(self.side)
    }

    fn irq_info(&self, index: IrqIndex) -> IrqInfo {
        match index {
            IrqIndex::MSIX => IrqInfo { flags: irq_flags::EVENTFD, count: Interrupts::count() },
            // QEMU registers an eventfd for errors and warns where there is none; it is never signalled.
            IrqIndex::ERR => IrqInfo { flags: irq_flags::EVENTFD, count: 1 },
            _ => IrqInfo::default(),
        }
    }

    fn region_read(&mut self, index: RegionIndex, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let place = Machine::place(index).ok_or(Errno::INVAL)?;
        self.machine.load(self.side, &place, offset, data);
        Ok(())
    }

    fn region_write(
        &mut self,
        index: RegionIndex,
        offset: u64,
        data: &[u8],
        _posted: bool,
    ) -> Result<(), Errno> {
        let place = Machine::place(index).ok_or(Errno::INVAL)?;
        self.machine.store(self.side, &place, offset, data);
        Ok(())
    }

    fn dma_map(&mut self, map: DmaMap, fd: Option<OwnedFd>) -> Result<(), Errno> {
        self.machine.map(self.side, map, fd)
    }

    fn dma_unmap(&mut self, unmap: DmaUnmap) -> Result<(), Errno> {
        let memory = &mut self.machine.hosts.get_mut(self.side).memory;
        match unmap {
            DmaUnmap::All => memory.clear(),
            DmaUnmap::Range { iova, size } => match memory.remove(iova.0, size) {
                Some(true) => {}
                Some(false) => return Err(Errno::NOENT),
                None => return Err(Errno::INVAL),
            },
        }
        // A neighbour's window on this memory closes, and the reply waits for it.
        self.machine.replan = true;
        self.machine.settle();
        Ok(())
    }

    fn set_irqs(&mut self, index: IrqIndex, change: IrqChange<'_>) -> Result<(), Errno> {
        let interrupts = &mut self.machine.hosts.get_mut(self.side).interrupts;
        match (index, change) {
            (IrqIndex::MSIX, IrqChange::Assign { start, fds }) => {
                interrupts.assign(start, fds)?;
            }
            (IrqIndex::MSIX, IrqChange::Deassign { start, count }) => {
                interrupts.deassign(start, count)?;
            }
            (IrqIndex::MSIX, IrqChange::DisableAll) => interrupts.clear(),
            (IrqIndex::MSIX, IrqChange::Trigger(vectors)) => {
                for vector in vectors.iter() {
                    interrupts.trigger(vector);
                }
            }
            // Errors are never signalled, so their eventfd is not kept. Types without vectors have nothing to disable.
            (IrqIndex::ERR, _) | (_, IrqChange::DisableAll) => {}
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Errno> {
        let machine = &mut *self.machine;
        let now = machine.now();
        machine.twin.reset(now, self.side, &mut machine.effects);
        machine.after_reset(now, self.side);
        machine.settle();
        Ok(())
    }
}

const _: () = assert!(WINDOWS == 2, "place() knows two windows");
