//! One channel: a state machine between a chain of descriptors and jobs.

use super::{JobFault, JobKind, Outcome, PIECE_BYTES};
use crate::register_file::RegisterFile;
use ntb_spec::ioat::{
    self, CHANNEL, COMMAND_RESET, COMMAND_RESUME, COMMAND_SUSPEND, CONTROL_ERROR_COMPLETION,
    CONTROL_ERROR_INTERRUPT, CONTROL_REARM, Descriptor, Error, OPERATION_COPY, STATUS_COMPLETED, State,
    XFER_CAP,
};

/// Where the registers with behaviour lie in the channel's block.
mod at {
    use ntb_spec::ioat::{Channel, channel_offset};

    pub(super) const CONTROL: u32 = channel_offset(Channel::Control);
    pub(super) const COMMAND: u32 = channel_offset(Channel::Command);
    pub(super) const COUNT: u32 = channel_offset(Channel::Count);
    pub(super) const STATUS: u32 = channel_offset(Channel::Status);
    pub(super) const CHAIN: u32 = channel_offset(Channel::ChainAddress);
    pub(super) const COMPLETION: u32 = channel_offset(Channel::CompletionAddress);
    pub(super) const CURRENT: u32 = channel_offset(Channel::CurrentDescriptor);
    pub(super) const ERROR: u32 = channel_offset(Channel::Error);
    pub(super) const ERROR_MASK: u32 = channel_offset(Channel::ErrorMask);
}

/// What orders and errors make of the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    Running,
    /// Takes no further step, but for the completion of a descriptor whose copy is done.
    Suspended,
    Halted,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Fetch the next descriptor, if one is posted.
    Fetch,
    /// Copy what is left of the descriptor that was fetched from `address`.
    Copy { address: u64, descriptor: Descriptor, copied: u32 },
    /// Write the completion, then perhaps interrupt.
    WriteBack { interrupt: bool },
}

/// The job that is out.
#[derive(Debug, Clone, Copy)]
struct Out {
    generation: u64,
    kind: JobKind,
    /// Its end changes nothing any more.
    abandoned: bool,
    /// A reset waits for it.
    resetting: bool,
}

/// What became of a job that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Return {
    /// It was the channel's, and meant something.
    Accepted,
    /// The channel has given it up meanwhile, or never knew it.
    Stale,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) registers: RegisterFile,
    run: Run,
    phase: Phase,
    /// Address of the next descriptor.
    next: u64,
    /// The last descriptor that completed since CHAINADDR.
    completed: Option<u64>,
    /// How many completed since CHAINADDR, modulo 65536.
    processed: u16,
    out: Option<Out>,
    /// Number of the next job; never goes back.
    generation: u64,
    /// An interrupt may be raised.
    pub(super) armed: bool,
    /// There is a reason for one.
    pub(super) interrupt_due: bool,
    /// Descriptors that completed; no reset clears it.
    pub(super) descriptors: u64,
    /// Bytes that were copied; no reset clears it.
    pub(super) bytes: u64,
    /// Errors that halted the channel; no reset clears it.
    pub(super) errors: u64,
    /// Errors that CHANERR_INT does not know yet.
    pub(super) fresh_errors: u32,
}

impl Channel {
    pub(super) fn new() -> Self {
        Self {
            registers: RegisterFile::new(CHANNEL),
            run: Run::Halted,
            phase: Phase::Fetch,
            next: 0,
            completed: None,
            processed: 0,
            out: None,
            generation: 0,
            armed: true,
            interrupt_due: false,
            descriptors: 0,
            bytes: 0,
            errors: 0,
            fresh_errors: 0,
        }
    }

    /// As after power-on, at once: a job that is out is forgotten.
    pub(super) fn power_on(&mut self) {
        self.registers.reset();
        self.reset();
        self.out = None;
    }

    /// As after power-on, but what only a power-on resets; a job that is out is waited for.
    fn reset(&mut self) {
        self.abandon();
        let Self {
            registers,
            run,
            phase: _,
            next,
            completed,
            processed,
            out,
            generation: _,
            armed,
            interrupt_due,
            descriptors: _,
            bytes: _,
            errors: _,
            fresh_errors,
        } = self;
        for (offset, bytes) in [(at::COUNT, 2), (at::CHAIN, 8), (at::COMPLETION, 8), (at::ERROR, 4)] {
            registers.put(offset, bytes, 0);
        }
        if let Some(out) = out {
            out.resetting = true;
        }
        (*run, *next, *completed, *processed) = (Run::Halted, 0, None, 0);
        (*armed, *interrupt_due, *fresh_errors) = (true, false, 0);
    }

    /// Gives up what is under way.
    fn abandon(&mut self) {
        self.phase = Phase::Fetch;
        if let Some(out) = &mut self.out {
            out.abandoned = true;
        }
    }

    // --- orders -----------------------------------------------------------------------------------------------

    /// A host's write; `offset` lies in the register, which may be reached by halves.
    pub(super) fn write(&mut self, reg: ioat::Channel, offset: u32, data: &[u8]) {
        match reg {
            ioat::Channel::Command => self.command(data.first().copied().unwrap_or(0)),
            ioat::Channel::Control => {
                self.registers.store(offset, data);
                self.armed |= data.first().is_some_and(|&low| u64::from(low) & CONTROL_REARM != 0);
            }
            ioat::Channel::ChainAddress => {
                self.registers.store(offset, data);
                self.begin_chain();
            }
            _ => self.registers.store(offset, data),
        }
    }

    fn command(&mut self, orders: u8) {
        if orders & COMMAND_RESET != 0 {
            self.reset();
        } else if orders & COMMAND_SUSPEND != 0 {
            if self.run == Run::Running {
                self.run = Run::Suspended;
            }
        } else if orders & COMMAND_RESUME != 0 && self.run == Run::Suspended {
            self.run = Run::Running;
        }
    }

    fn begin_chain(&mut self) {
        self.abandon();
        self.registers.put(at::COUNT, 2, 0);
        self.next = self.registers.get(at::CHAIN, 8);
        self.completed = None;
        self.processed = 0;
        self.run = if self.registers.get(at::ERROR, 4) == 0 { Run::Running } else { Run::Halted };
    }

    /// Descriptors that are posted and not completed.
    fn pending(&self) -> u16 {
        let posted = u16::try_from(self.registers.get(at::COUNT, 2)).unwrap_or(0);
        posted.wrapping_sub(self.processed)
    }

    // --- work -------------------------------------------------------------------------------------------------

    /// The step that could be taken now.
    pub(super) fn step(&self) -> Option<JobKind> {
        if self.out.is_some() {
            return None;
        }
        match self.phase {
            Phase::WriteBack { .. } => Some(JobKind::WriteBack {
                address: self.registers.get(at::COMPLETION, 8),
                value: self.completion(),
            }),
            _ if self.run != Run::Running => None,
            Phase::Fetch if self.pending() == 0 => None,
            Phase::Fetch => Some(JobKind::Fetch { address: self.next }),
            // The ranges were checked when the descriptor was fetched: they do not wrap.
            Phase::Copy { descriptor, copied, .. } => Some(JobKind::Copy {
                source: descriptor.source.wrapping_add(u64::from(copied)),
                destination: descriptor.destination.wrapping_add(u64::from(copied)),
                bytes: descriptor.size.saturating_sub(copied).min(PIECE_BYTES),
            }),
        }
    }

    /// Takes that step; the number of the job that is out now.
    pub(super) fn hand_out(&mut self, kind: JobKind) -> u64 {
        let generation = self.generation;
        self.generation = generation.wrapping_add(1);
        self.out = Some(Out { generation, kind, abandoned: false, resetting: false });
        generation
    }

    /// A job came back.
    pub(super) fn take_back(&mut self, generation: u64, result: Result<Outcome, JobFault>) -> Return {
        let Some(out) = self.out.filter(|out| out.generation == generation) else { return Return::Stale };
        self.out = None;
        if out.abandoned {
            return Return::Stale;
        }
        match (self.phase, result) {
            (Phase::Fetch, Ok(Outcome::Fetched(bytes))) => {
                self.begin(Descriptor::from_bytes(&bytes));
            }
            (Phase::Fetch, _) => self.halt(Error::ReadData),
            (Phase::Copy { address, descriptor, copied }, Ok(_)) => {
                let piece = match out.kind {
                    JobKind::Copy { bytes, .. } => bytes,
                    JobKind::Fetch { .. } | JobKind::WriteBack { .. } => 0,
                };
                self.bytes = self.bytes.saturating_add(u64::from(piece));
                let copied = copied.saturating_add(piece);
                if copied < descriptor.size {
                    self.phase = Phase::Copy { address, descriptor, copied };
                } else {
                    self.finish(address, &descriptor);
                }
            }
            (Phase::Copy { .. }, Err(JobFault::Read)) => self.halt(Error::ReadData),
            (Phase::Copy { .. }, Err(JobFault::Write)) => self.halt(Error::WriteData),
            (Phase::WriteBack { interrupt }, Ok(_)) => {
                self.phase = Phase::Fetch;
                self.interrupt_due |= interrupt;
            }
            (Phase::WriteBack { interrupt }, Err(_)) => {
                self.phase = Phase::Fetch;
                self.interrupt_due |= interrupt;
                self.halt(Error::CompletionAddress);
            }
        }
        Return::Accepted
    }

    /// A descriptor was fetched.
    fn begin(&mut self, descriptor: Descriptor) {
        let Descriptor { size, control, source, destination, next: _ } = descriptor;
        let wraps = |first: u64| first.checked_add(u64::from(size.saturating_sub(1))).is_none();
        let address = self.next;
        if control.operation() != OPERATION_COPY {
            self.halt(Error::Control);
        } else if size == 0 || size > XFER_CAP {
            self.halt(Error::Length);
        } else if control.null() {
            self.finish(address, &descriptor);
        } else if wraps(source) {
            self.halt(Error::ReadData);
        } else if wraps(destination) {
            self.halt(Error::WriteData);
        } else {
            self.phase = Phase::Copy { address, descriptor, copied: 0 };
        }
    }

    /// A descriptor is done.
    fn finish(&mut self, address: u64, descriptor: &Descriptor) {
        self.completed = Some(address);
        self.processed = self.processed.wrapping_add(1);
        self.descriptors = self.descriptors.saturating_add(1);
        self.next = descriptor.next;
        self.announce(descriptor.control.completion_write(), descriptor.control.interrupt());
    }

    /// Writes the completion if wanted, and then interrupts if wanted.
    fn announce(&mut self, completion: bool, interrupt: bool) {
        if completion {
            self.phase = Phase::WriteBack { interrupt };
        } else {
            self.phase = Phase::Fetch;
            self.interrupt_due |= interrupt;
        }
    }

    /// An error. A channel that is halted already (its completion could not be written) keeps its first one.
    fn halt(&mut self, error: Error) {
        if self.run == Run::Halted {
            return;
        }
        self.run = Run::Halted;
        self.errors = self.errors.saturating_add(1);
        self.fresh_errors |= error.bit();
        self.registers.put(at::ERROR, 4, u64::from(error.bit()));
        let control = self.registers.get(at::CONTROL, 2);
        let masked = self.registers.get(at::ERROR_MASK, 4) & u64::from(error.bit()) != 0;
        self.announce(
            control & CONTROL_ERROR_COMPLETION != 0 && error != Error::CompletionAddress,
            control & CONTROL_ERROR_INTERRUPT != 0 && !masked,
        );
    }

    // --- state ------------------------------------------------------------------------------------------------

    /// Halts on an address of a descriptor that is needed now and cannot be one.
    pub(super) fn settle(&mut self) {
        let needs_next = self.run == Run::Running && self.phase == Phase::Fetch && self.pending() != 0;
        if needs_next && self.next & !STATUS_COMPLETED != 0 {
            let first = self.completed.is_none();
            self.halt(if first { Error::ChainAddressValue } else { Error::NextDescriptorAlignment });
        }
    }

    /// Shows the state in the registers.
    pub(super) fn publish(&mut self) {
        let resetting = self.out.is_some_and(|out| out.resetting);
        let current = match self.phase {
            Phase::Copy { address, .. } => address,
            Phase::Fetch | Phase::WriteBack { .. } => self.next,
        };
        let control = self.registers.get(at::CONTROL, 2) & !CONTROL_REARM;
        let disarmed = if self.armed { 0 } else { CONTROL_REARM };
        self.registers.put(at::STATUS, 8, self.completed.unwrap_or(0) | tell(self.state()));
        self.registers.put(at::COMMAND, 1, if resetting { u64::from(COMMAND_RESET) } else { 0 });
        self.registers.put(at::CURRENT, 8, current);
        self.registers.put(at::CONTROL, 2, control | disarmed);
    }

    fn state(&self) -> State {
        match (self.run, self.phase) {
            _ if self.out.is_some() => State::Active,
            (_, Phase::WriteBack { .. }) => State::Active,
            (Run::Halted, _) => State::Halted,
            (Run::Suspended, _) => State::Suspended,
            (Run::Running, Phase::Fetch) if self.pending() == 0 => State::Done,
            (Run::Running, _) => State::Active,
        }
    }

    /// What a completion in memory says.
    fn completion(&self) -> u64 {
        let state = match self.run {
            Run::Halted => State::Halted,
            _ if self.pending() == 0 => State::Done,
            _ => State::Active,
        };
        self.completed.unwrap_or(0) | tell(state)
    }
}

const fn tell(state: State) -> u64 {
    state as u64
}
