//! A host with an engine: memory from address 0 on, and somebody who carries out jobs.

use ntb_spec::ioat::{Control, Descriptor};
use twin::ioat::{Effect, Engine, Job, JobFault, JobKind, Outcome};

pub(crate) const CONTROL: u32 = 0x00;
pub(crate) const COMMAND: u32 = 0x04;
pub(crate) const COUNT: u32 = 0x06;
pub(crate) const STATUS: u32 = 0x08;
pub(crate) const CHAIN: u32 = 0x10;
pub(crate) const COMPLETION: u32 = 0x18;
pub(crate) const ERROR: u32 = 0x28;

pub(crate) const ACTIVE: u64 = 0;
pub(crate) const DONE: u64 = 1;
pub(crate) const SUSPENDED: u64 = 2;
pub(crate) const HALTED: u64 = 3;

/// Every bit that Linux sets in a descriptor that it wants to hear of.
pub(crate) const TELL: Control = Control::new().with_interrupt(true).with_completion_write(true);

pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) memory: Vec<u8>,
    /// Vectors that were raised since somebody looked.
    pub(crate) raised: Vec<u8>,
    /// Jobs that were carried out.
    pub(crate) jobs: Vec<(u8, JobKind)>,
}

impl Host {
    /// Memory decode, bus master, MSI-X and interrupts are on.
    pub(crate) fn new(bytes: usize) -> Self {
        let mut host =
            Self { engine: Engine::new(), memory: vec![0; bytes], raised: Vec::new(), jobs: Vec::new() };
        host.config(0x04, [0x06, 0x04]);
        host.config(0x82, [0x03, 0x80]);
        host.write(0x03, [0x09]);
        host
    }

    // --- registers --------------------------------------------------------------------------------------------

    pub(crate) fn hear(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Interrupt { vector } => self.raised.push(vector),
                Effect::Work => assert!(self.engine.has_work()),
                Effect::Reset => {}
            }
        }
    }

    pub(crate) fn heard(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.raised)
    }

    pub(crate) fn config<const N: usize>(&mut self, at: u32, bytes: [u8; N]) {
        let mut effects = Vec::new();
        self.engine.config_write(at, &bytes, &mut effects);
        self.hear(effects);
    }

    pub(crate) fn write<const N: usize>(&mut self, at: u32, bytes: [u8; N]) {
        let mut effects = Vec::new();
        assert!(self.engine.bar0_write(at, &bytes, &mut effects), "{at:#x}");
        self.hear(effects);
    }

    pub(crate) fn read<const N: usize>(&mut self, at: u32) -> [u8; N] {
        let mut out = [0; N];
        assert!(self.engine.bar0_read(at, &mut out), "{at:#x}");
        out
    }

    pub(crate) fn w8(&mut self, channel: u8, at: u32, value: u8) {
        self.write(block(channel) + at, [value]);
    }

    pub(crate) fn w16(&mut self, channel: u8, at: u32, value: u16) {
        self.write(block(channel) + at, value.to_le_bytes());
    }

    pub(crate) fn w32(&mut self, channel: u8, at: u32, value: u32) {
        self.write(block(channel) + at, value.to_le_bytes());
    }

    /// As Linux writes an address: low half, then high half.
    pub(crate) fn address(&mut self, channel: u8, at: u32, value: u64) {
        let [low, high] = [value & 0xFFFF_FFFF, value >> 32].map(|half| u32::try_from(half).unwrap());
        self.w32(channel, at, low);
        self.w32(channel, at + 4, high);
    }

    pub(crate) fn r8(&mut self, channel: u8, at: u32) -> u8 {
        u8::from_le_bytes(self.read(block(channel) + at))
    }

    pub(crate) fn r16(&mut self, channel: u8, at: u32) -> u16 {
        u16::from_le_bytes(self.read(block(channel) + at))
    }

    pub(crate) fn r32(&mut self, channel: u8, at: u32) -> u32 {
        u32::from_le_bytes(self.read(block(channel) + at))
    }

    pub(crate) fn status(&mut self, channel: u8) -> u64 {
        u64::from_le_bytes(self.read(block(channel) + STATUS))
    }

    // --- memory -----------------------------------------------------------------------------------------------

    fn range(&self, address: u64, bytes: usize) -> Option<std::ops::Range<usize>> {
        let first = usize::try_from(address).ok()?;
        let end = first.checked_add(bytes).filter(|&end| end <= self.memory.len())?;
        self.engine.bus_master().then_some(first..end)
    }

    pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
        let range = self.range(address, bytes.len()).unwrap();
        self.memory[range].copy_from_slice(bytes);
    }

    pub(crate) fn bytes(&self, address: u64, bytes: usize) -> &[u8] {
        &self.memory[self.range(address, bytes).unwrap()]
    }

    pub(crate) fn word(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.bytes(address, 8).try_into().unwrap())
    }

    /// Writes descriptors side by side, each pointing to the next and the last to the first.
    pub(crate) fn ring(&mut self, at: u64, descriptors: &[Descriptor]) {
        let count = u64::try_from(descriptors.len()).unwrap();
        for (index, descriptor) in (0..).zip(descriptors) {
            let next = at + 64 * ((index + 1) % count);
            self.put(at + 64 * index, &Descriptor { next, ..*descriptor }.to_bytes());
        }
    }

    // --- jobs -------------------------------------------------------------------------------------------------

    /// What a job comes to in this memory.
    pub(crate) fn carry_out(&mut self, kind: JobKind) -> Result<Outcome, JobFault> {
        match kind {
            JobKind::Fetch { address } => {
                let range = self.range(address, 64).ok_or(JobFault::Read)?;
                Ok(Outcome::Fetched(self.memory[range].try_into().unwrap()))
            }
            JobKind::Copy { source, destination, bytes } => {
                let bytes = usize::try_from(bytes).unwrap();
                let from = self.range(source, bytes).ok_or(JobFault::Read)?;
                let to = self.range(destination, bytes).ok_or(JobFault::Write)?;
                self.memory.copy_within(from, to.start);
                Ok(Outcome::Done)
            }
            JobKind::WriteBack { address, value } => {
                let range = self.range(address, 8).ok_or(JobFault::Write)?;
                self.memory[range].copy_from_slice(&value.to_le_bytes());
                Ok(Outcome::Done)
            }
        }
    }

    pub(crate) fn give_back(&mut self, job: Job, result: Result<Outcome, JobFault>) {
        let mut effects = Vec::new();
        self.engine.complete(job, result, &mut effects);
        self.hear(effects);
    }

    /// One job, if there is one.
    pub(crate) fn step(&mut self) -> bool {
        let Some(job) = self.engine.next_job() else { return false };
        self.jobs.push((job.channel, job.kind));
        let result = self.carry_out(job.kind);
        self.give_back(job, result);
        true
    }

    /// Until there is nothing to do.
    pub(crate) fn run(&mut self) {
        while self.step() {}
    }

    /// A chain begins; nothing of it is carried out yet.
    pub(crate) fn start(&mut self, channel: u8, chain: u64, count: u16) {
        self.address(channel, CHAIN, chain);
        self.w16(channel, COUNT, count);
    }
}

pub(crate) fn block(channel: u8) -> u32 {
    0x80 * (u32::from(channel) + 1)
}

pub(crate) fn null(control: Control) -> Descriptor {
    Descriptor { size: 1, control: control.with_null(true), ..Descriptor::default() }
}

pub(crate) fn copy(source: u64, destination: u64, size: u32, control: Control) -> Descriptor {
    Descriptor { size, control, source, destination, next: 0 }
}
