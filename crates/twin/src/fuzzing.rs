//! Bytes become accesses and events on two ports, and after each of them the twin must still keep its promises.
//!
//! The fuzz target `two_ports` and the replay of its corpus run this. An input is a sequence of records: a byte that
//! says what is done and by whom, then its arguments; what is missing at the end is 0.

use crate::{Effect, LinkState, Refused, Setup, Side, Space, Time, Twin};
use ntb_spec::{INTERRUPT_SOURCES, LINK_SOURCE, bar0, config};
use std::time::Duration;

/// One thing that a host, its loss, or time does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A host connects.
    Attach(Side),
    /// A host is gone.
    Detach(Side),
    /// A host resets its port.
    Reset(Side),
    /// So many milliseconds pass.
    Wait(u16),
    /// A read of configuration space: offset and width.
    ConfigRead(Side, u32, u8),
    /// A write to it: offset, width and value.
    ConfigWrite(Side, u32, u8, u64),
    /// A read of BAR 0: offset and width.
    Read(Side, u32, u8),
    /// A write to it: offset, width and value.
    Write(Side, u32, u8, u64),
    /// A write to an element of a row of the table, in its own width: row, element and value.
    Register(Side, u8, u8, u64),
    /// An access to a window: which, offset and width.
    Window(Side, u8, u64, u8),
}

/// Takes numbers off the front of an input; zeros once it is used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut out = [0; N];
        for (byte, &new) in out.iter_mut().zip(head) {
            *byte = new;
        }
        out
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn offset(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn value(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// What an input says.
#[must_use]
pub fn actions(input: &[u8]) -> Vec<Action> {
    let mut input = Input(input);
    let mut actions = Vec::new();
    while !input.0.is_empty() {
        let what = input.byte();
        let side = if what & 0x80 == 0 { Side::A } else { Side::B };
        actions.push(match what & 0x7F {
            0 => Action::Attach(side),
            1 => Action::Detach(side),
            2 => Action::Reset(side),
            3 => Action::Wait(u16::from_le_bytes(input.take())),
            4 => Action::ConfigRead(side, input.offset(), input.byte()),
            5 => Action::ConfigWrite(side, input.offset(), input.byte(), input.value()),
            6 => Action::Read(side, input.offset(), input.byte()),
            7 => Action::Write(side, input.offset(), input.byte(), input.value()),
            8 => Action::Window(side, input.byte(), input.value(), input.byte()),
            _ => Action::Register(side, input.byte(), input.byte(), input.value()),
        });
    }
    actions
}

/// Does what an input says to a fresh twin.
///
/// # Panics
/// Panics where the twin breaks a promise: that is the point.
pub fn run(input: &[u8]) {
    let mut world = World { twin: Twin::new(&Setup::default()), now: Time::default() };
    for action in actions(input) {
        world.act(action);
    }
}

struct World {
    twin: Twin,
    now: Time,
}

/// What an interrupt depends on.
struct Interrupts {
    pending: u64,
    masked: u64,
}

impl World {
    fn act(&mut self, action: Action) {
        let closed = self.twin.link() != LinkState::Up;
        let before = closed.then(|| Side::BOTH.map(|side| self.registers(side)));
        let interrupts_before = Side::BOTH.map(|side| self.interrupts(side));
        let mut effects = Vec::new();
        let actor = self.carry_out(action, &mut effects);

        self.check_link(&effects);
        for (side, before) in Side::BOTH.into_iter().zip(interrupts_before) {
            self.check_interrupts(side, &before, &effects);
        }
        // Nothing passes a link that is not up.
        if self.twin.link() != LinkState::Up {
            for (side, before) in Side::BOTH.into_iter().zip(before.into_iter().flatten()) {
                assert!(actor == Some(side) || self.registers(side) == before, "{action:?} changed {side:?}");
            }
        }
    }

    /// Returns who did it, if it was a side.
    fn carry_out(&mut self, action: Action, effects: &mut Vec<Effect>) -> Option<Side> {
        let Self { twin, now } = self;
        let width = |bytes: u8| usize::from(bytes % 17);
        let mut buffer = [0x5A; 16];
        let side = match action {
            Action::Attach(side) => {
                twin.attach(*now, side, effects);
                side
            }
            Action::Detach(side) => {
                twin.detach(*now, side, effects);
                side
            }
            Action::Reset(side) => {
                twin.reset(*now, side, effects);
                side
            }
            Action::Wait(milliseconds) => {
                *now = now.after(Duration::from_millis(u64::from(milliseconds)));
                twin.advance(*now, effects);
                return None;
            }
            Action::ConfigRead(side, offset, bytes) => {
                let (out, _) = buffer.split_at_mut(width(bytes));
                twin.config_read(side, offset, out);
                assert!(offset < config::BYTES || out.iter().all(|&byte| byte == 0xFF));
                side
            }
            Action::ConfigWrite(side, offset, bytes, value) => {
                twin.config_write(*now, side, offset, repeat(value, &mut buffer, width(bytes)), effects);
                side
            }
            Action::Read(side, offset, bytes) => {
                let (out, _) = buffer.split_at_mut(width(bytes));
                let bad = twin.counters(side).bad_accesses;
                let hit = twin.bar0_read(side, offset, out);
                assert_eq!(hit, twin.memory_enabled(side) && bar0::lookup(offset, out.len()).is_ok());
                assert!(hit || out.iter().all(|&byte| byte == 0xFF));
                assert_eq!(hit, twin.counters(side).bad_accesses == bad);
                side
            }
            Action::Write(side, offset, bytes, value) => {
                self.write(side, offset, repeat(value, &mut buffer, width(bytes)), effects);
                side
            }
            Action::Register(side, row, index, value) => {
                let rows = bar0::TABLE.iter().cycle();
                if let Some(row) = rows.take(256).nth(usize::from(row)) {
                    let at = row.offset_of(index.checked_rem(row.count).unwrap_or(0));
                    self.write(side, at, repeat(value, &mut buffer, usize::from(row.bytes)), effects);
                }
                side
            }
            Action::Window(side, window, offset, bytes) => {
                self.route(side, usize::from(window % 3), offset, u64::from(bytes));
                // A miss is counted at the peer: only a link that is up lets it get there.
                side
            }
        };
        Some(side)
    }

    fn write(&mut self, side: Side, offset: u32, data: &[u8], effects: &mut Vec<Effect>) {
        let hits = self.twin.memory_enabled(side) && bar0::lookup(offset, data.len()).is_ok();
        let before = (!hits).then(|| Side::BOTH.map(|side| self.registers(side)));
        assert_eq!(self.twin.bar0_write(self.now, side, offset, data, effects), hits);
        if let Some(before) = before {
            assert!(effects.is_empty());
            assert_eq!(Side::BOTH.map(|side| self.registers(side)), before, "a miss changes nothing");
        }
    }

    fn route(&mut self, side: Side, window: usize, offset: u64, bytes: u64) {
        let (address, open) = self.twin.outbound(side, window);
        assert!(address.checked_add(open).is_some() && open <= self.twin.window_bytes(side, window));
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= open);
        match self.twin.route(side, window, offset, bytes) {
            Ok(range) => {
                assert!(fits && self.twin.link() == LinkState::Up && self.twin.bus_master(side.peer()));
                assert_eq!((range.side, Some(range.address)), (side.peer(), address.checked_add(offset)));
            }
            Err(Refused::MemoryDisabled) => assert!(!self.twin.memory_enabled(side)),
            Err(Refused::LinkDown) => assert!(self.twin.link() != LinkState::Up),
            Err(Refused::NotBusMaster) => assert!(!self.twin.bus_master(side.peer())),
            Err(Refused::Limit) => assert!(!fits),
        }
    }

    /// The link is what the ports make of it, both sides can read it, and its effects say so.
    fn check_link(&self, effects: &[Effect]) {
        let link = self.twin.link();
        let wanted = Side::BOTH.into_iter().all(|side| self.twin.attached(side) && self.twin.enabled(side));
        assert_eq!(wanted, link != LinkState::Down);
        for side in Side::BOTH {
            let status = if link == LinkState::Up { 0x2103 } else { 0x0103 };
            assert_eq!(self.register(side, Space::Config, config::LINK_STATUS), status);
        }
        let mut told = effects.iter().enumerate().filter(|(_, effect)| matches!(effect, Effect::Link(_)));
        if let Some((at, &effect)) = told.next() {
            assert_eq!(effect, Effect::Link(link));
            let timer = match link {
                LinkState::Training { until } => Some(until),
                LinkState::Down | LinkState::Up => None,
            };
            assert!(effects.contains(&Effect::Timer(timer)));
            // A driver that is interrupted finds the news.
            let early = effects.iter().take(at).any(|effect| matches!(effect, Effect::Interrupt { .. }));
            assert!(!early && told.next().is_none());
        }
    }

    /// No more interrupts than sources that became deliverable, each with the vector of one that is, and MSI-X on.
    fn check_interrupts(&self, side: Side, before: &Interrupts, effects: &[Effect]) {
        let now = self.interrupts(side);
        let deliverable = now.pending & !now.masked;
        let fresh = deliverable & !(before.pending & !before.masked);
        let mut raised: u32 = 0;
        for effect in effects {
            let &Effect::Interrupt { side: whose, vector } = effect else { continue };
            if whose == side {
                raised = raised.saturating_add(1);
                assert!(self.twin.msix_enabled(side));
                let from = (0..=LINK_SOURCE).filter(|&source| fresh >> source & 1 == 1).any(|source| {
                    let at = bar0::offset_of(bar0::Reg::IntVec, source);
                    self.register(side, Space::Bar0, at) == u64::from(vector)
                });
                assert!(from && usize::from(vector) < INTERRUPT_SOURCES);
            }
        }
        assert!(raised <= fresh.count_ones());
    }

    fn interrupts(&self, side: Side) -> Interrupts {
        let register = |reg| self.register(side, Space::Bar0, bar0::offset_of(reg, 0));
        Interrupts { pending: register(bar0::Reg::IntStatus), masked: register(bar0::Reg::IntDisable) }
    }

    fn registers(&self, side: Side) -> Vec<u64> {
        self.twin.registers(side).map(|register| register.value).collect()
    }

    fn register(&self, side: Side, space: Space, offset: u32) -> u64 {
        let mut all = self.twin.registers(side);
        all.find(|register| register.space == space && register.offset == offset)
            .map_or(0, |found| found.value)
    }
}

/// A value as so many bytes, over and over.
fn repeat(value: u64, buffer: &mut [u8; 16], bytes: usize) -> &[u8] {
    for (slot, byte) in buffer.iter_mut().zip(value.to_le_bytes().into_iter().cycle()) {
        *slot = byte;
    }
    buffer.get(..bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests;
