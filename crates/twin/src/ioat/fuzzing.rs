//! Bytes become accesses to an engine and ends of its jobs, and after each of them it must still keep its promises.
//!
//! The fuzz target `ioat`, the replay of its corpus and a property test run this. An input is a sequence of records: a
//! byte that says what is done, then its arguments; what is missing at the end is 0. The engine starts with memory
//! decode, bus master, MSI-X and interrupts on, and a chain that finds them off turns them on, so that inputs get somewhere.

use super::{Counters, Effect, Engine, Job, JobFault, JobKind, Outcome, PIECE_BYTES};
use crate::Space;
use crate::fuzzing::{Input, repeat};
use ntb_spec::ioat::{
    self, CHANNELS, COMMAND_RESET, COMMAND_SUSPEND, Channel, Control, Descriptor, INTERRUPT_MASTER, Place,
    STATUS_COMPLETED, State, XFER_CAP, block, channel_offset, config,
};
use std::collections::{BTreeMap, BTreeSet};

/// One thing that a host, or the memory, does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A bus reset.
    Reset,
    /// A read of configuration space: offset and width.
    ConfigRead(u32, u8),
    /// A write to it: offset, width and value.
    ConfigWrite(u32, u8, u64),
    /// A read of BAR 0: offset and width.
    Read(u32, u8),
    /// A write to it: offset, width and value.
    Write(u32, u8, u64),
    /// A write to a register of a channel in its own width: channel, row and value.
    Register(u8, u8, u64),
    /// A chain of so many descriptors begins: channel, address over 64 and count.
    Chain(u8, u8, u16),
    /// The caller asks for a job.
    Take,
    /// A job comes back: which of those that are out, how, and what was fetched.
    GiveBack(u8, u8, u64),
}

/// What an input says.
#[must_use]
pub fn actions(input: &[u8]) -> Vec<Action> {
    let mut input = Input(input);
    let mut actions = Vec::new();
    while !input.0.is_empty() {
        actions.push(match input.byte() % 32 {
            0 => Action::Reset,
            1 => Action::ConfigRead(input.offset(), input.byte()),
            2 => Action::ConfigWrite(input.offset(), input.byte(), input.value()),
            3 => Action::Read(input.offset(), input.byte()),
            4 => Action::Write(input.offset(), input.byte(), input.value()),
            5..=11 => Action::Register(input.byte(), input.byte(), input.value()),
            12..=15 => Action::Chain(input.byte(), input.byte(), u16::from_le_bytes(input.take())),
            16..=22 => Action::Take,
            _ => Action::GiveBack(input.byte(), input.byte(), input.value()),
        });
    }
    actions
}

/// Does what an input says to a fresh engine.
///
/// # Panics
/// Panics where the engine breaks a promise: that is the point.
pub fn run(input: &[u8]) {
    let _: Counters = play(&actions(input));
}

/// Does it, and says how much came of it.
fn play(actions: &[Action]) -> Counters {
    let mut world = World::new();
    for &action in actions {
        world.act(action);
    }
    world.suspend_all();
    world.engine.counters()
}

/// What may be expected of a channel.
#[derive(Default)]
struct Expected {
    /// Descriptors that were fetched since the chain began.
    fetched: BTreeSet<u64>,
    fetches: u64,
    /// How many were posted since, not modulo 65536.
    posted: u64,
    /// What is left to copy of the descriptor in hand: source, destination, bytes.
    copy: Option<(u64, u64, u32)>,
    /// Job that is out and still means something.
    out: bool,
}

/// A job that is out.
struct Held {
    job: Job,
    /// It began before the chain of its channel did.
    stale: bool,
    /// It began before the engine was reset.
    forgotten: bool,
}

struct World {
    engine: Engine,
    expected: [Expected; CHANNELS],
    held: Vec<Held>,
}

impl World {
    fn new() -> Self {
        let mut world = Self { engine: Engine::new(), expected: Default::default(), held: Vec::new() };
        world.probe();
        world
    }

    /// A driver begins.
    fn probe(&mut self) {
        self.act(Action::ConfigWrite(config::COMMAND, 2, 0x06));
        self.act(Action::ConfigWrite(config::MSIX_CONTROL, 2, u64::from(config::MSIX_ENABLE)));
        self.act(Action::Write(0x03, 1, 0x09));
        for channel in 0..4 {
            self.act(Action::Write(block(channel), 2, u64::from(ioat::CONTROL_RUN)));
        }
    }

    fn act(&mut self, action: Action) {
        let mut effects = Vec::new();
        let mut buffer = [0x5A; 16];
        let width = |bytes: u8| usize::from(bytes % 17);
        match action {
            Action::Reset => {
                self.engine.reset();
                self.forget();
            }
            Action::ConfigRead(offset, bytes) => {
                let (out, _) = buffer.split_at_mut(width(bytes));
                self.engine.config_read(offset, out);
                assert!(offset < config::BYTES || out.iter().all(|&byte| byte == 0xFF));
            }
            Action::ConfigWrite(offset, bytes, value) => {
                self.engine.config_write(offset, repeat(value, &mut buffer, width(bytes)), &mut effects);
                if effects.contains(&Effect::Reset) {
                    assert_eq!(effects, [Effect::Reset]);
                    self.forget();
                }
            }
            Action::Read(offset, bytes) => {
                let (out, _) = buffer.split_at_mut(width(bytes));
                let hit = self.engine.bar0_read(offset, out);
                assert_eq!(hit, self.engine.memory_enabled() && ioat::lookup(offset, out.len()).is_ok());
                assert!(hit || out.iter().all(|&byte| byte == 0xFF));
            }
            Action::Write(offset, bytes, value) => {
                self.write(offset, repeat(value, &mut buffer, width(bytes)), &mut effects);
            }
            Action::Register(channel, row, value) => {
                if let Some(row) = ioat::CHANNEL.iter().cycle().take(256).nth(usize::from(row)) {
                    let data = repeat(value, &mut buffer, usize::from(row.bytes));
                    self.write(block(channel % 4).saturating_add(row.at), data, &mut effects);
                }
            }
            Action::Chain(channel, address, count) => {
                if !self.engine.memory_enabled() {
                    self.probe();
                }
                let at = |reg| block(channel % 4).saturating_add(channel_offset(reg));
                self.write(at(Channel::Error), &[0xFF; 4], &mut effects);
                let address = (u64::from(address) << 6).to_le_bytes();
                self.write(at(Channel::ChainAddress), &address, &mut effects);
                self.write(at(Channel::Count), &count.to_le_bytes(), &mut effects);
            }
            Action::Take => self.take(),
            Action::GiveBack(which, how, seed) => self.give_back(which, how, seed, &mut effects),
        }
        self.check(&effects);
    }

    /// The engine lost power: whatever is out means nothing any more.
    fn forget(&mut self) {
        self.expected = Default::default();
        for held in &mut self.held {
            (held.stale, held.forgotten) = (true, true);
        }
        assert!(!self.engine.has_work());
    }

    fn write(&mut self, offset: u32, data: &[u8], effects: &mut Vec<Effect>) {
        let place = ioat::lookup(offset, data.len()).ok().filter(|_| self.engine.memory_enabled());
        let before = self.registers();
        let already = effects.len();
        if let Some(Place::Channel(channel, hit)) = place {
            let new_chain = match hit.row.reg {
                Channel::ChainAddress => true,
                Channel::Command => data.first().is_some_and(|orders| orders & COMMAND_RESET != 0),
                _ => false,
            };
            let posted_before = self.register(channel, Channel::Count);
            let hit_any = self.engine.bar0_write(offset, data, effects);
            assert!(hit_any);
            let more = self.register(channel, Channel::Count).wrapping_sub(posted_before) & 0xFFFF;
            let Some(expected) = self.expected.get_mut(usize::from(channel)) else { return };
            if new_chain {
                *expected = Expected::default();
                for held in self.held.iter_mut().filter(|held| held.job.channel == channel) {
                    held.stale = true;
                }
            } else {
                expected.posted = expected.posted.saturating_add(more);
            }
        } else {
            let hit = self.engine.bar0_write(offset, data, effects);
            assert_eq!(hit, place.is_some());
            assert!(hit || effects.is_empty() && self.registers() == before, "a miss changes nothing");
        }
        let told = effects.iter().skip(already).any(|&effect| effect == Effect::Work);
        assert_eq!(told, place.is_some() && self.engine.has_work());
    }

    fn take(&mut self) {
        let ready = self.engine.has_work();
        let job = self.engine.next_job();
        assert_eq!(job.is_some(), ready);
        let Some(job) = job else { return };
        let out = self.held.iter().any(|held| held.job.channel == job.channel && !held.forgotten);
        assert!(!out, "one job at a time");
        let Some(expected) = self.expected.get_mut(usize::from(job.channel)) else { return };
        match job.kind {
            JobKind::Fetch { address } => {
                assert_eq!(address % 64, 0);
                expected.fetches = expected.fetches.saturating_add(1);
                expected.fetched.insert(address);
                assert!(expected.fetches <= expected.posted, "more descriptors than were posted");
            }
            JobKind::Copy { source, destination, bytes } => {
                let left = expected.copy.map(|(_, _, left)| left).unwrap_or_default();
                assert_eq!(expected.copy, Some((source, destination, left)));
                assert_eq!(bytes, left.min(PIECE_BYTES));
                for first in [source, destination] {
                    assert!(first.checked_add(u64::from(bytes).saturating_sub(1)).is_some() && bytes > 0);
                }
            }
            JobKind::WriteBack { address, value } => {
                let completed = value & STATUS_COMPLETED;
                assert!(completed == 0 || expected.fetched.contains(&completed));
                assert!(matches!(State::of(value), Some(State::Active | State::Done | State::Halted)));
                assert_eq!(address % 8, 0);
            }
        }
        expected.out = true;
        self.held.push(Held { job, stale: false, forgotten: false });
    }

    fn give_back(&mut self, which: u8, how: u8, seed: u64, effects: &mut Vec<Effect>) {
        let Some(at) = usize::from(which).checked_rem(self.held.len()) else { return };
        let Held { job, stale, .. } = self.held.swap_remove(at);
        let (channel, kind) = (usize::from(job.channel), job.kind);
        let descriptor = descriptor(seed);
        let result = match how % 16 {
            0 => Err(JobFault::Read),
            1 => Err(JobFault::Write),
            2 => Ok(Outcome::Done),
            _ if matches!(kind, JobKind::Fetch { .. }) => Ok(Outcome::Fetched(descriptor.to_bytes())),
            _ => Ok(Outcome::Done),
        };
        let before = self.engine.counters();
        self.engine.complete(job, result, effects);
        let after = self.engine.counters();
        assert_eq!(after.stale_jobs, before.stale_jobs.saturating_add(u64::from(stale)));
        if stale {
            assert_eq!((after.descriptors, after.bytes), (before.descriptors, before.bytes));
            return;
        }
        let Some(expected) = self.expected.get_mut(channel) else { return };
        expected.out = false;
        match (kind, result) {
            (JobKind::Fetch { .. }, Ok(Outcome::Fetched(_))) => {
                let Descriptor { size, source, destination, .. } = descriptor;
                expected.copy = Some((source, destination, size));
            }
            (JobKind::Copy { bytes, .. }, Ok(_)) => {
                assert_eq!(after.bytes.checked_sub(before.bytes), Some(u64::from(bytes)));
                expected.copy = expected.copy.map(|(source, destination, left)| {
                    let on = |first: u64| first.wrapping_add(u64::from(bytes));
                    (on(source), on(destination), left.saturating_sub(bytes))
                });
            }
            _ => expected.copy = None,
        }
    }

    fn check(&self, effects: &[Effect]) {
        let registers = self.registers();
        let register = |channel, reg| of_channel(&registers, channel, reg);
        let mut vectors = BTreeSet::new();
        for effect in effects {
            if let &Effect::Interrupt { vector } = effect {
                assert!(usize::from(vector) < CHANNELS && self.engine.msix_enabled());
                assert!(vectors.insert(vector), "once, until it is re-armed");
                assert!(registers.get(&0x03).is_some_and(|control| control & INTERRUPT_MASTER != 0));
            }
        }
        for (channel, expected) in (0..).zip(&self.expected) {
            let status = register(channel, Channel::Status);
            let completed = status & STATUS_COMPLETED;
            assert!(completed == 0 || expected.fetched.contains(&completed));
            assert!(register(channel, Channel::Error).count_ones() <= 1);
            let mut held = self.held.iter().filter(|held| held.job.channel == channel && !held.forgotten);
            let out = held.next().is_some();
            assert!(held.next().is_none());
            assert!(!expected.out || out);
            // Whoever reads that the channel is quiet can rely on it.
            assert!(State::of(status).is_some_and(|state| !out || state == State::Active));
            let resetting = register(channel, Channel::Command);
            assert!(resetting == 0 || resetting == u64::from(COMMAND_RESET) && out && !expected.out);
        }
    }

    /// Suspending takes at most the job that is out and one write-back.
    fn suspend_all(&mut self) {
        self.act(Action::ConfigWrite(config::COMMAND, 2, 0x06));
        for channel in 0..4 {
            let at = block(channel).saturating_add(channel_offset(Channel::Command));
            self.act(Action::Write(at, 1, u64::from(COMMAND_SUSPEND)));
        }
        while !self.held.is_empty() {
            self.act(Action::GiveBack(0, 3, 0));
        }
        for _ in 0..CHANNELS {
            self.act(Action::Take);
        }
        while !self.held.is_empty() {
            self.act(Action::GiveBack(0, 3, 0));
        }
        assert!(!self.engine.has_work());
        for channel in 0..4 {
            let state = State::of(self.register(channel, Channel::Status));
            assert!(matches!(state, Some(State::Suspended | State::Halted)), "{channel}: {state:?}");
        }
    }

    /// What BAR 0 holds, by offset.
    fn registers(&self) -> BTreeMap<u32, u64> {
        let bar0 = self.engine.registers().filter(|register| register.space == Space::Bar0);
        bar0.map(|register| (register.offset, register.value)).collect()
    }

    fn register(&self, channel: u8, reg: Channel) -> u64 {
        of_channel(&self.registers(), channel, reg)
    }
}

fn of_channel(registers: &BTreeMap<u32, u64>, channel: u8, reg: Channel) -> u64 {
    let at = block(channel).saturating_add(channel_offset(reg));
    registers.get(&at).copied().unwrap_or(0)
}

/// A descriptor from 8 bytes: mostly one that works.
fn descriptor(seed: u64) -> Descriptor {
    let [size, control, operation, next, far, source, destination, plain] = seed.to_le_bytes();
    let sizes = [2000, 1, 64, PIECE_BYTES, PIECE_BYTES.saturating_add(1), XFER_CAP, 0, u32::MAX];
    let edge = |chosen: u8| match chosen {
        0xFF => u64::MAX,
        0xFE => u64::MAX.wrapping_sub(1999),
        low => u64::from(low) << 12,
    };
    Descriptor {
        size: sizes.into_iter().cycle().nth(usize::from(size)).unwrap_or(0),
        control: Control::from_bits(u32::from(control)).with_operation(if operation > 0xF0 {
            operation
        } else {
            0
        }),
        source: edge(source),
        destination: edge(destination),
        next: if far > 0xF0 { u64::from(plain) } else { u64::from(next) << 6 },
    }
}

#[cfg(test)]
mod tests;
