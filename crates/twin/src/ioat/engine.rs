//! The whole engine: every access and every job enters here.

use super::channel::{Channel, Return};
use super::{Job, JobFault, Outcome};
use crate::function::{Bar, Function};
use crate::port::elements;
use crate::register_file::RegisterFile;
use crate::{Register, Space};
use ntb_spec::ioat::{
    self, CHANNELS, GLOBAL, Global, INTERRUPT, INTERRUPT_MASTER, INTERRUPT_STATUS, Place, config,
    global_offset,
};

/// What the engine wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Raise an MSI-X vector at the host.
    Interrupt {
        /// The channel, 0 to 3.
        vector: u8,
    },
    /// [`Engine::next_job`] has something.
    Work,
    /// A function-level reset, which arrives as a configuration write, was carried out. Jobs that are out are stale;
    /// the host may expect that their memory stays untouched, so wait for them before you answer it.
    Reset,
}

/// What an engine has counted since it was made; no reset clears it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Accesses that hit no register, or one of another width, or came while memory decode was off.
    pub bad_accesses: u64,
    /// Descriptors that completed.
    pub descriptors: u64,
    /// Bytes that were copied.
    pub bytes: u64,
    /// Errors that halted a channel.
    pub errors: u64,
    /// Jobs that came back after their channel had given them up.
    pub stale_jobs: u64,
    /// Interrupts raised.
    pub interrupts: u64,
    /// Resets of the whole engine, of either kind.
    pub resets: u64,
}

const INTERRUPT_CONTROL: u32 = global_offset(Global::InterruptControl);
const ATTENTION: u32 = global_offset(Global::AttentionStatus);

/// An engine with four channels. See the [module](super) for how to drive it.
#[derive(Debug)]
pub struct Engine {
    function: Function,
    global: RegisterFile,
    channels: [Channel; CHANNELS],
    /// Whose turn it is.
    turn: usize,
    bad_accesses: u64,
    stale_jobs: u64,
    interrupts: u64,
    resets: u64,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// An engine after power-on.
    #[must_use]
    pub fn new() -> Self {
        let bar = Bar { kind: config::BAR_TYPE, bytes: u64::from(ioat::BYTES) };
        Self {
            function: Function::new(config::TABLE, config::CLASS, &[bar]),
            global: RegisterFile::new(GLOBAL),
            channels: std::array::from_fn(|_| Channel::new()),
            turn: 0,
            bad_accesses: 0,
            stale_jobs: 0,
            interrupts: 0,
            resets: 0,
        }
    }

    /// A bus reset, or the host is gone: everything as after power-on. Jobs that are out are stale from now on.
    pub fn reset(&mut self) {
        let Self {
            function,
            global,
            channels,
            turn: _,
            bad_accesses: _,
            stale_jobs: _,
            interrupts: _,
            resets,
        } = self;
        function.reset();
        global.reset();
        for channel in channels {
            channel.power_on();
            channel.publish();
        }
        *resets = resets.saturating_add(1);
    }

    // --- configuration space ----------------------------------------------------------------------------------

    /// A read of any width at any offset; all ones behind the end.
    pub fn config_read(&mut self, offset: u32, out: &mut [u8]) {
        if !self.function.read(offset, out) {
            self.count_bad_access();
        }
    }

    /// A write of any width at any offset; dropped behind the end.
    pub fn config_write(&mut self, offset: u32, data: &[u8], effects: &mut Vec<Effect>) {
        let written = self.function.write(offset, data);
        if !written.inside {
            self.count_bad_access();
        }
        if written.reset {
            self.reset();
            effects.push(Effect::Reset);
            return;
        }
        // MSI-X may be on now.
        self.deliver(effects);
    }

    // --- BAR 0 ------------------------------------------------------------------------------------------------

    /// A read of BAR 0. Returns whether it hit a register; if not, `out` is all ones.
    pub fn bar0_read(&mut self, offset: u32, out: &mut [u8]) -> bool {
        match self.decode(offset, out.len()) {
            Some(Place::Global(_)) => self.global.load(offset, out),
            Some(Place::Channel(index, _)) => match self.channels.get(usize::from(index)) {
                Some(channel) => channel.registers.load(within(offset), out),
                None => out.fill(0xFF),
            },
            None => {
                out.fill(0xFF);
                return false;
            }
        }
        true
    }

    /// A write to BAR 0. Returns whether it hit a register; if not, nothing changed.
    pub fn bar0_write(&mut self, offset: u32, data: &[u8], effects: &mut Vec<Effect>) -> bool {
        match self.decode(offset, data.len()) {
            Some(Place::Global(_)) => self.global.store(offset, data),
            Some(Place::Channel(index, hit)) => {
                if let Some(channel) = self.channels.get_mut(usize::from(index)) {
                    channel.write(hit.row.reg, within(offset), data);
                    self.follow_up(index);
                }
            }
            None => return false,
        }
        self.deliver(effects);
        if self.has_work() {
            effects.push(Effect::Work);
        }
        true
    }

    /// The register that an access means, if memory decode is on and it means one.
    fn decode(&mut self, offset: u32, bytes: usize) -> Option<Place> {
        let place = ioat::lookup(offset, bytes).ok().filter(|_| self.function.memory_enabled());
        if place.is_none() {
            self.count_bad_access();
        }
        place
    }

    // --- work -------------------------------------------------------------------------------------------------

    /// Whether [`Engine::next_job`] has something now.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.channels.iter().any(|channel| channel.step().is_some())
    }

    /// A step to carry out, if there is one. Channels take turns.
    pub fn next_job(&mut self) -> Option<Job> {
        let turns = (0..CHANNELS).map(|ahead| self.turn.wrapping_add(ahead) % CHANNELS);
        let (index, kind) =
            turns.into_iter().find_map(|index| Some((index, self.channels.get(index)?.step()?)))?;
        let generation = self.channels.get_mut(index)?.hand_out(kind);
        self.turn = index.wrapping_add(1) % CHANNELS;
        Some(Job { channel: u8::try_from(index).ok()?, kind, generation })
    }

    /// A job comes back. One that its channel has given up meanwhile changes nothing. A fetch without its bytes counts as
    /// unreadable.
    pub fn complete(&mut self, job: Job, result: Result<Outcome, JobFault>, effects: &mut Vec<Effect>) {
        let Job { channel: index, kind: _, generation } = job;
        let Some(channel) = self.channels.get_mut(usize::from(index)) else { return };
        if channel.take_back(generation, result) == Return::Stale {
            self.stale_jobs = self.stale_jobs.saturating_add(1);
        }
        self.follow_up(index);
        self.deliver(effects);
    }

    /// What follows from a change of a channel, in the registers.
    fn follow_up(&mut self, index: u8) {
        let Some(channel) = self.channels.get_mut(usize::from(index)) else { return };
        channel.settle();
        channel.publish();
        let errors = u64::from(std::mem::take(&mut channel.fresh_errors));
        let known = self.function.registers.get(config::CHANERR_INT, 4);
        self.function.registers.put(config::CHANERR_INT, 4, known | errors);
    }

    /// Raises what is due and may be raised, and shows in INTRCTRL and ATTNSTATUS what is left.
    fn deliver(&mut self, effects: &mut Vec<Effect>) {
        let control = self.global.get(INTERRUPT_CONTROL, 1) & !(INTERRUPT_STATUS | INTERRUPT);
        let on = control & INTERRUPT_MASTER != 0;
        let may_raise = on && self.function.msix_enabled();
        let mut attention = 0;
        for (vector, channel) in (0..).zip(&mut self.channels) {
            if channel.interrupt_due && channel.armed && may_raise {
                (channel.interrupt_due, channel.armed) = (false, false);
                channel.publish();
                self.interrupts = self.interrupts.saturating_add(1);
                effects.push(Effect::Interrupt { vector });
            }
            if channel.interrupt_due || !channel.armed {
                attention |= 1u64.wrapping_shl(u32::from(vector));
            }
        }
        let status = if attention == 0 { 0 } else { INTERRUPT_STATUS };
        let both = if on && attention != 0 { INTERRUPT } else { 0 };
        self.global.put(INTERRUPT_CONTROL, 1, control | status | both);
        self.global.put(ATTENTION, 4, attention);
    }

    // --- to look at -------------------------------------------------------------------------------------------

    /// Whether the engine may access its host's memory: if not, every job fails.
    #[must_use]
    pub fn bus_master(&self) -> bool {
        self.function.bus_master()
    }

    /// Whether the engine decodes memory accesses.
    #[must_use]
    pub fn memory_enabled(&self) -> bool {
        self.function.memory_enabled()
    }

    /// Whether the host has MSI-X on.
    #[must_use]
    pub fn msix_enabled(&self) -> bool {
        self.function.msix_enabled()
    }

    /// What the engine has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let sum = |of: fn(&Channel) -> u64| self.channels.iter().map(of).fold(0, u64::saturating_add);
        Counters {
            bad_accesses: self.bad_accesses,
            descriptors: sum(|channel| channel.descriptors),
            bytes: sum(|channel| channel.bytes),
            errors: sum(|channel| channel.errors),
            stale_jobs: self.stale_jobs,
            interrupts: self.interrupts,
            resets: self.resets,
        }
    }

    /// Every register with its value, without the side effects of reading. A channel's registers have its number as
    /// index.
    pub fn registers(&self) -> impl Iterator<Item = Register> {
        let config =
            config::TABLE.iter().flat_map(|row| elements(Space::Config, row, &self.function.registers));
        let global = GLOBAL.iter().flat_map(|row| elements(Space::Bar0, row, &self.global));
        let channels = (0..).zip(&self.channels).flat_map(|(index, channel)| {
            let rows = ioat::CHANNEL.iter();
            rows.flat_map(|row| elements(Space::Bar0, row, &channel.registers)).map(move |register| {
                Register {
                    offset: ioat::block(index).saturating_add(register.offset),
                    index,
                    array: true,
                    ..register
                }
            })
        });
        config.chain(global).chain(channels)
    }

    fn count_bad_access(&mut self) {
        self.bad_accesses = self.bad_accesses.saturating_add(1);
    }
}

/// Offset in a channel's block.
const fn within(offset: u32) -> u32 {
    offset % ioat::CHANNEL_BYTES
}
