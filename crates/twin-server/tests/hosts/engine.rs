//! A host's DMA engine: a client of its own, on the same memory, driven as Linux drives it.

use crate::house::{Host, House, PATIENCE, RAM_AT, RAM_BYTES, ram_map, take, wait_readable};
use ntb_spec::config;
use ntb_spec::ioat::{self, Channel, Control, Descriptor, channel_offset};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;
use twin::Side;
use vfio_user::client::Client;
use vfio_user::wire::{IrqIndex, RegionIndex};

/// Where a host has put the BARs of its NTB: window 0 is BAR 2, window 1 BAR 4.
pub(crate) const BAR0: u64 = 0xF000_0000;
pub(crate) const BAR2: u64 = 0xF010_0000;
pub(crate) const BAR4: u64 = 0xF020_0000;

/// Where a channel's completions are, and its ring: at the end of memory.
pub(crate) const COMPLETIONS: u64 = RAM_AT + RAM_BYTES - 0x1000;
pub(crate) const RING: u64 = RAM_AT + RAM_BYTES - 0x2_0000;

const ACTIVE: u64 = 0;
pub(crate) const DONE: u64 = 1;
pub(crate) const HALTED: u64 = 3;
pub(crate) const READ_ERROR: u32 = 0x100;
pub(crate) const WRITE_ERROR: u32 = 0x200;

/// What Linux asks of the last descriptor of a transfer.
pub(crate) const TELL: Control = Control::new().with_interrupt(true).with_completion_write(true);

pub(crate) struct Engine {
    pub(crate) client: Client,
    pub(crate) vectors: Vec<OwnedFd>,
}

impl Host {
    /// Puts the BARs of its NTB where this host wants them.
    pub(crate) fn place_bars(&mut self) {
        for (bar, at) in [(0, BAR0), (2, BAR2), (4, BAR4)] {
            self.configure(config::BAR + 4 * bar, &at.to_le_bytes());
        }
    }

    /// Memory by bus address.
    pub(crate) fn peek<const N: usize>(&self, address: u64) -> [u8; N] {
        self.ram.get(address - RAM_AT)
    }

    pub(crate) fn bytes(&self, address: u64, bytes: usize) -> Vec<u8> {
        self.ram.bytes(address - RAM_AT, bytes)
    }

    pub(crate) fn poke(&self, address: u64, data: &[u8]) {
        self.ram.put(address - RAM_AT, data);
    }

    /// Writes a descriptor.
    pub(crate) fn describe(&self, address: u64, descriptor: &Descriptor) {
        self.poke(address, &descriptor.to_bytes());
    }
}

impl Engine {
    /// The engine of a host, with that host's memory, and its driver loaded.
    pub(crate) fn new(house: &House, side: Side, host: &Host) -> Self {
        let client = Client::connect(house.engine_socket(side)).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        let vectors = (0..ioat::MSIX_VECTORS).map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap()).collect();
        let mut engine = Self { client, vectors };
        engine.client.dma_map(ram_map(RAM_AT, RAM_BYTES, 0), Some(host.ram.0.as_fd())).unwrap();
        engine.load_driver();
        engine
    }

    /// What Linux does: decode, master, vectors, interrupts, and for each channel its control and completion address.
    pub(crate) fn load_driver(&mut self) {
        self.configure(config::COMMAND, &[0x06, 0x04]);
        let fds: Vec<BorrowedFd<'_>> = self.vectors.iter().map(AsFd::as_fd).collect();
        self.client.assign_irqs(IrqIndex::MSIX, 0, &fds).unwrap();
        self.configure(config::MSIX + 2, &[0x03, 0x80]);
        self.write(0x03, &[0x09]);
        for channel in 0..4 {
            self.prepare(channel);
        }
    }

    pub(crate) fn prepare(&mut self, channel: u8) {
        self.write_channel(channel, Channel::Control, &ioat::CONTROL_RUN.to_le_bytes());
        let completion = COMPLETIONS + 64 * u64::from(channel);
        self.write_channel(channel, Channel::CompletionAddress, &completion.to_le_bytes());
    }

    pub(crate) fn configure(&mut self, at: u32, data: &[u8]) {
        self.client.region_write(RegionIndex::CONFIG, at.into(), data).unwrap();
    }

    pub(crate) fn config<const N: usize>(&mut self, at: u32) -> [u8; N] {
        let mut out = [0; N];
        self.client.region_read(RegionIndex::CONFIG, at.into(), &mut out).unwrap();
        out
    }

    pub(crate) fn write(&mut self, at: u32, data: &[u8]) {
        self.client.region_write(RegionIndex::BAR0, at.into(), data).unwrap();
    }

    pub(crate) fn read<const N: usize>(&mut self, at: u32) -> [u8; N] {
        let mut out = [0; N];
        self.client.region_read(RegionIndex::BAR0, at.into(), &mut out).unwrap();
        out
    }

    pub(crate) fn write_channel(&mut self, channel: u8, reg: Channel, data: &[u8]) {
        self.write(ioat::block(channel) + channel_offset(reg), data);
    }

    pub(crate) fn read_channel<const N: usize>(&mut self, channel: u8, reg: Channel) -> [u8; N] {
        self.read(ioat::block(channel) + channel_offset(reg))
    }

    /// CHANSTS.
    pub(crate) fn status(&mut self, channel: u8) -> u64 {
        u64::from_le_bytes(self.read_channel(channel, Channel::Status))
    }

    /// CHANERR.
    pub(crate) fn error(&mut self, channel: u8) -> u32 {
        u32::from_le_bytes(self.read_channel(channel, Channel::Error))
    }

    /// Begins a chain.
    pub(crate) fn start(&mut self, channel: u8, chain: u64, count: u16) {
        self.write_channel(channel, Channel::ChainAddress, &chain.to_le_bytes());
        self.write_channel(channel, Channel::Count, &count.to_le_bytes());
    }

    /// Copies by one descriptor, which is told of; it lies in the ring at a place of that channel's.
    pub(crate) fn begin_copy(&mut self, host: &Host, channel: u8, source: u64, destination: u64, size: u32) {
        let at = RING + 0x1000 * u64::from(channel);
        host.describe(at, &Descriptor { size, control: TELL, source, destination, next: at });
        self.start(channel, at, 1);
    }

    /// Waits for a channel's interrupt and re-arms it, as Linux does.
    pub(crate) fn wait(&mut self, channel: u8) {
        let vector = &self.vectors[usize::from(channel)];
        assert!(wait_readable(vector.as_fd(), PATIENCE), "channel {channel} raised no interrupt");
        take(vector).unwrap();
        self.write_channel(channel, Channel::Control, &ioat::CONTROL_RUN.to_le_bytes());
    }

    /// Copies, and waits for its end, which must be a good one.
    pub(crate) fn copy(&mut self, host: &Host, source: u64, destination: u64, size: u32) {
        self.begin_copy(host, 0, source, destination, size);
        self.wait(0);
        assert_eq!(self.error(0), 0, "{:#x}", self.status(0));
        assert_eq!(self.status(0), RING | DONE);
        assert_eq!(u64::from_le_bytes(host.peek(COMPLETIONS)), RING | DONE);
        host.poke(COMPLETIONS, &[0; 8]);
    }

    /// Copies, which must end with that error, and recovers as Linux does (`ioat_eh`): abort, reset, go on.
    pub(crate) fn fails(&mut self, host: &Host, source: u64, destination: u64, size: u32) -> u32 {
        self.begin_copy(host, 0, source, destination, size);
        self.wait(0);
        let error = self.error(0);
        assert_eq!(self.status(0), HALTED);
        assert_eq!(u64::from_le_bytes(host.peek(COMPLETIONS)), HALTED);
        self.recover(0);
        error
    }

    /// Waits until a channel is in a state.
    pub(crate) fn wait_status(&mut self, channel: u8, state: u64) {
        let until = Instant::now() + PATIENCE;
        while self.status(channel) & 7 != state {
            assert!(Instant::now() < until, "channel {channel}: {:#x}", self.status(channel));
        }
    }

    /// Waits until a channel does nothing more by itself.
    pub(crate) fn settled(&mut self, channel: u8) {
        let until = Instant::now() + PATIENCE;
        while self.status(channel) & 7 == ACTIVE {
            assert!(Instant::now() < until, "channel {channel} does not end");
        }
    }

    /// Waits until so many descriptors have completed since the twin began.
    pub(crate) fn wait_descriptors(&mut self, house: &House, count: u64) {
        house.wait_until(|status| status.ports[0].engine.as_ref().unwrap().descriptors == count);
    }

    /// Takes an interrupt if there was one.
    pub(crate) fn forget(&mut self, channel: u8) {
        take(&self.vectors[usize::from(channel)]);
        self.write_channel(channel, Channel::Control, &ioat::CONTROL_RUN.to_le_bytes());
        take(&self.vectors[usize::from(channel)]);
    }

    /// What Linux does with a channel that has halted.
    pub(crate) fn recover(&mut self, channel: u8) {
        let error = self.error(channel);
        self.write_channel(channel, Channel::Error, &error.to_le_bytes());
        self.write_channel(channel, Channel::Command, &[ioat::COMMAND_RESET]);
        let until = Instant::now() + PATIENCE;
        while self.read_channel::<1>(channel, Channel::Command)[0] & ioat::COMMAND_RESET != 0 {
            assert!(Instant::now() < until, "the channel's reset does not end");
        }
        self.prepare(channel);
    }

    /// It still copies.
    pub(crate) fn goes_on(&mut self, host: &Host) {
        host.poke(RAM_AT + 0x10_0000, b"it goes on");
        host.poke(RAM_AT + 0x18_0000, &[0; 10]);
        self.copy(host, RAM_AT + 0x10_0000, RAM_AT + 0x18_0000, 10);
        assert_eq!(&host.peek::<10>(RAM_AT + 0x18_0000), b"it goes on");
    }
}
