//! Both ports and the link: every access and every event enters here.

use crate::link::Link;
use crate::port::Port;
use crate::{Counters, Effect, LinkState, Register, Setup, Side, Time};
use ntb_spec::bar0::{self, Reg};
use ntb_spec::table::{Access, Hit};
use ntb_spec::{LINK_SOURCE, config};

/// The whole device: two ports, one link.
#[derive(Debug)]
pub struct Twin {
    a: Port,
    b: Port,
    link: Link,
}

/// Where an access to a window lands: bus addresses in the peer's memory. The caller checks them against the memory
/// that the peer's host has mapped; nothing else has checked the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerRange {
    /// The port whose memory it is.
    pub side: Side,
    /// First address; the range does not wrap.
    pub address: u64,
}

/// Why an access to a window lands nowhere: it reads all ones, or is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The own port's memory decode is off.
    MemoryDisabled,
    /// The link is not up.
    LinkDown,
    /// The peer opened nothing there.
    Limit,
    /// The peer's port may not master its bus.
    NotBusMaster,
}

impl Twin {
    /// Two ports, nobody attached.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        Self { a: Port::new(Side::A, setup), b: Port::new(Side::B, setup), link: Link::new(setup.training) }
    }

    pub(crate) fn port(&self, side: Side) -> &Port {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    pub(crate) fn port_mut(&mut self, side: Side) -> &mut Port {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.link.is_up()
    }

    // --- events -----------------------------------------------------------------------------------------------

    /// A host connected to a port.
    pub fn attach(&mut self, now: Time, side: Side, effects: &mut Vec<Effect>) {
        let port = self.port_mut(side);
        port.attached = true;
        port.barred = false;
        port.counters.attaches = port.counters.attaches.saturating_add(1);
        self.update_link(now, side.peer(), effects);
    }

    /// A host has lost its claim to the link, until it attaches anew: its memory mappings are out of control.
    pub fn bar(&mut self, now: Time, side: Side, effects: &mut Vec<Effect>) {
        self.port_mut(side).barred = true;
        self.update_link(now, side.peer(), effects);
    }

    /// A host is gone, however it went. Its port loses power: registers as after power-on, so that the next host
    /// does not inherit an enabled link from a driver that is dead.
    pub fn detach(&mut self, now: Time, side: Side, effects: &mut Vec<Effect>) {
        self.port_mut(side).attached = false;
        self.reset(now, side, effects);
    }

    /// A host reset its port: bus reset or function-level reset.
    pub fn reset(&mut self, now: Time, side: Side, effects: &mut Vec<Effect>) {
        self.port_mut(side).reset();
        effects.push(Effect::Translation { side });
        self.update_link(now, side.peer(), effects);
        // That its own reset took the link down is no news to a port: it starts with nothing pending.
        self.port_mut(side).clear_pending();
    }

    /// The time that an [`Effect::Timer`] asked for has come, or any other time.
    pub fn advance(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.update_link(now, Side::A, effects);
    }

    /// Follows the ports' readiness, and tells both sides when the link goes up or down: `first` before its peer.
    ///
    /// Whoever caused the change is told last: ntb_test.sh disables the link at one side, waits until that side
    /// sees it, and then expects that the other side has seen it too.
    fn update_link(&mut self, now: Time, first: Side, effects: &mut Vec<Effect>) {
        let was_up = self.link.is_up();
        let ready = self.a.ready() && self.b.ready();
        let Some(state) = self.link.update(now, ready) else { return };
        effects.push(Effect::Link(state));
        match state {
            LinkState::Training { until } => effects.push(Effect::Timer(Some(until))),
            LinkState::Up | LinkState::Down => effects.push(Effect::Timer(None)),
        }
        if was_up == self.link.is_up() {
            return;
        }
        // The register first on both sides, then the interrupts: a driver that is interrupted reads the register
        // of its own side.
        for side in Side::BOTH {
            let up = self.link.is_up();
            let port = self.port_mut(side);
            port.set_link(up);
            if let Some(messages) = port.messages.as_mut().filter(|_| !up) {
                messages.drop_all();
            }
            effects.push(Effect::Translation { side });
        }
        for side in [first, first.peer()] {
            self.port_mut(side).latch(LINK_SOURCE, effects);
        }
    }

    // --- configuration space ----------------------------------------------------------------------------------

    /// A read of any width at any offset; all ones behind the end.
    pub fn config_read(&mut self, side: Side, offset: u32, out: &mut [u8]) {
        let port = self.port_mut(side);
        if !port.function.read(offset, out) {
            port.count_bad_access();
        }
    }

    /// A write of any width at any offset; dropped behind the end.
    pub fn config_write(
        &mut self,
        now: Time,
        side: Side,
        offset: u32,
        data: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let port = self.port_mut(side);
        let written = port.function.write(offset, data);
        if !written.inside {
            port.count_bad_access();
        }
        if written.reset {
            effects.push(Effect::Reset { side });
            self.reset(now, side, effects);
        } else if written.master {
            effects.push(Effect::Translation { side });
        }
    }

    // --- BAR 0 ------------------------------------------------------------------------------------------------

    /// A read of BAR 0. Returns whether it hit a register; if not, `out` is all ones.
    pub fn bar0_read(&mut self, side: Side, offset: u32, out: &mut [u8]) -> bool {
        if self.is_message(side, offset, out.len()) {
            self.message_read(side, offset, out);
            return true;
        }
        let Some(hit) = self.decode(side, offset, out.len()) else {
            out.fill(0xFF);
            return false;
        };
        match hit.row.reg {
            // The array is the peer's own, live. A link that is down answers like any bus that nobody is on.
            Reg::PeerSpad if self.link.is_up() => {
                let value = self.port(side.peer()).scratchpad(hit.index);
                for (byte, new) in out.iter_mut().zip(value.to_le_bytes()) {
                    *byte = new;
                }
            }
            Reg::PeerSpad => {
                out.fill(0xFF);
                self.count_unreachable(side);
            }
            _ => self.port(side).bar0.load(offset, out),
        }
        true
    }

    /// A write to BAR 0. Returns whether it hit a register; if not, nothing changed.
    pub fn bar0_write(
        &mut self,
        now: Time,
        side: Side,
        offset: u32,
        data: &[u8],
        effects: &mut Vec<Effect>,
    ) -> bool {
        if self.is_message(side, offset, data.len()) {
            self.message_write(side, offset, data, effects);
            return true;
        }
        let Some(hit) = self.decode(side, offset, data.len()) else { return false };
        match (hit.row.access, hit.row.reg) {
            (Access::Strobe, _) => {
                if data.first().is_some_and(|bits| bits & 1 == 1) {
                    self.ring(side, hit.index, effects);
                }
            }
            (Access::Peer, _) if self.link.is_up() => {
                let value = data.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
                self.port_mut(side.peer()).set_scratchpad(hit.index, value);
            }
            (Access::Peer, _) => self.count_unreachable(side),
            (_, Reg::Control) => {
                self.port_mut(side).bar0.store(offset, data);
                self.update_link(now, side.peer(), effects);
            }
            (_, Reg::IntDisable) => {
                let port = self.port_mut(side);
                let before = port.masked();
                port.bar0.store(offset, data);
                port.unmask(before, effects);
            }
            (_, Reg::EmBar1Xlmt | Reg::EmBar2Xlmt) => {
                let port = self.port_mut(side);
                port.bar0.store(offset, data);
                port.latch_inbound(usize::from(hit.row.reg == Reg::EmBar2Xlmt));
                effects.push(Effect::Translation { side });
            }
            _ => self.port_mut(side).bar0.store(offset, data),
        }
        true
    }

    /// The register that an access means, if memory decode is on and it means one.
    fn decode(&mut self, side: Side, offset: u32, bytes: usize) -> Option<Hit<Reg>> {
        let port = self.port_mut(side);
        let hit = bar0::lookup(offset, bytes).ok().filter(|_| port.function.memory_enabled());
        if hit.is_none() {
            port.count_bad_access();
        }
        hit
    }

    fn ring(&mut self, side: Side, doorbell: u8, effects: &mut Vec<Effect>) {
        let up = self.link.is_up();
        let counters = &mut self.port_mut(side).counters;
        if up {
            counters.doorbells = counters.doorbells.saturating_add(1);
            self.port_mut(side.peer()).latch(doorbell, effects);
        } else {
            counters.doorbells_dropped = counters.doorbells_dropped.saturating_add(1);
        }
    }

    fn count_unreachable(&mut self, side: Side) {
        let counters = &mut self.port_mut(side).counters;
        counters.unreachable = counters.unreachable.saturating_add(1);
    }

    // --- windows ----------------------------------------------------------------------------------------------

    /// Where an access of `bytes` at `offset` in window `window` of a port lands in the peer's memory.
    ///
    /// # Errors
    /// [`Refused`] says why it lands nowhere; a miss of the peer's limit is counted at the peer (USMEMMISS).
    pub fn route(
        &mut self,
        side: Side,
        window: usize,
        offset: u64,
        bytes: u64,
    ) -> Result<PeerRange, Refused> {
        if !self.port(side).function.memory_enabled() {
            return Err(Refused::MemoryDisabled);
        }
        if !self.link.is_up() {
            return Err(Refused::LinkDown);
        }
        let peer = self.port_mut(side.peer());
        let (translation, open) = peer.inbound(window);
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= open);
        match translation.checked_add(offset).filter(|_| fits) {
            Some(_) if !peer.function.bus_master() => Err(Refused::NotBusMaster),
            Some(address) => Ok(PeerRange { side: side.peer(), address }),
            _ => {
                peer.count_miss();
                Err(Refused::Limit)
            }
        }
    }

    /// What a window of a port reaches now: the peer's translation and how many bytes it opens; 0 when closed.
    #[must_use]
    pub fn outbound(&self, side: Side, window: usize) -> (u64, u64) {
        let peer = self.port(side.peer());
        if self.link.is_up() && peer.function.bus_master() { peer.inbound(window) } else { (0, 0) }
    }

    // --- to look at -------------------------------------------------------------------------------------------

    /// State of the link.
    #[must_use]
    pub fn link(&self) -> LinkState {
        self.link.state
    }

    /// How often the link came up, and how often it went down from there.
    #[must_use]
    pub fn link_changes(&self) -> (u64, u64) {
        (self.link.ups, self.link.downs)
    }

    /// What a port has counted.
    #[must_use]
    pub fn counters(&self, side: Side) -> Counters {
        self.port(side).counters
    }

    /// Whether a host is attached.
    #[must_use]
    pub fn attached(&self, side: Side) -> bool {
        self.port(side).attached
    }

    /// Whether a port's driver has enabled the link.
    #[must_use]
    pub fn enabled(&self, side: Side) -> bool {
        self.port(side).enabled()
    }

    /// Whether a port decodes memory accesses.
    #[must_use]
    pub fn memory_enabled(&self, side: Side) -> bool {
        self.port(side).function.memory_enabled()
    }

    /// Whether a port may access its host's memory.
    #[must_use]
    pub fn bus_master(&self, side: Side) -> bool {
        self.port(side).function.bus_master()
    }

    /// Whether a port's host has MSI-X on.
    #[must_use]
    pub fn msix_enabled(&self, side: Side) -> bool {
        self.port(side).function.msix_enabled()
    }

    /// Where a port's host has put a BAR, while the port decodes memory: its first bus address and its size in bytes.
    /// BARs 0, 2 and 4 are there; an address of 0 is none.
    #[must_use]
    pub fn bar_range(&self, side: Side, bar: u8) -> Option<(u64, u64)> {
        let port = self.port(side);
        let bytes = match bar {
            0 => u64::from(bar0::BYTES),
            2 => port.window_bytes(0),
            4 => port.window_bytes(1),
            _ => return None,
        };
        let dword = config::BAR.saturating_add(u32::from(bar).saturating_mul(4));
        let first = port.function.registers.get(dword, 8) & !0xF;
        (port.function.memory_enabled() && first != 0).then_some((first, bytes))
    }

    /// Size of a window in bytes.
    #[must_use]
    pub fn window_bytes(&self, side: Side, window: usize) -> u64 {
        self.port(side).window_bytes(window)
    }

    /// Every register of a port with its value, without the side effects of reading.
    pub fn registers(&self, side: Side) -> impl Iterator<Item = Register> {
        self.port(side).registers()
    }
}
