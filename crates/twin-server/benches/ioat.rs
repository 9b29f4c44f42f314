//! What a DMA engine moves through a window: `cargo bench -p twin-server --bench ioat`
//!
//! A whole twin runs on a thread of its own; the host and its engine are clients on its sockets, as QEMU is. 256 MiB go from
//! the host's memory through window 0 into the peer's, by descriptors of 512 KiB as ntb_perf's, one after the other. The rate
//! is from the order (DMACOUNT) to the interrupt. Beside it, in turns within one run, memcpy of the same bytes between
//! the same kinds of memory by one thread; the ratio is the median of the rounds' ratios, since this machine
//! may have other things to do.
//!
//! Two ratios: by the clock, and by the processor time that this process used for either, which does not count the time for which
//! others had the processor.
//!
//! *warm*: the same MiB again and again, as ntb_perf does. *cold*: each byte of the source once.
#![expect(clippy::print_stdout, reason = "a bench reports to whoever runs it")]

use ntb_spec::bar0::{Reg, offset_of};
use ntb_spec::ioat::{self, Channel, Control, DESCRIPTOR_BYTES, Descriptor, channel_offset};
use ntb_spec::{MSIX_VECTORS, config};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::{ClockId, clock_gettime};
use shm::{Access, Mapping, SharedFile};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use twin::Setup;
use twin_server::{Endpoint, Modes, Options, Server};
use vfio_user::client::Client;
use vfio_user::wire::{DmaAddr, DmaMap, IrqIndex, RegionIndex};

const ROUNDS: usize = 15;
const TOTAL: u64 = 256 << 20;
const WINDOW: u64 = 1 << 20;
const RAM_AT: u64 = 0x10_0000;
const BAR2: u64 = 0x80_0000_0000;
/// The ring lies behind the bytes to copy, and completions behind the ring.
const RING: u64 = RAM_AT + TOTAL;
const COMPLETION: u64 = RING + 0x10_0000;
const RAM_BYTES: u64 = TOTAL + 0x20_0000;

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    let (rounds, total) = if quick { (1, 4 << 20) } else { (ROUNDS, TOTAL) };
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let options = Options {
        ports: [Endpoint::Path(at("a")), Endpoint::Path(at("b"))],
        engines: [Some(Endpoint::Path(at("dma-a"))), None],
        control: None,
        setup: Setup { training: Duration::from_millis(1), ..Setup::default() },
        modes: Modes::default(),
        ram_mapped: [false; 2],
        trace: None,
    };
    let (stop, stopped) = UnixStream::pair().expect("a pair of sockets");
    let mut server = Server::bind(&options).expect("a twin");
    let thread = std::thread::spawn(move || server.run(stopped.as_fd()));
    {
        let (mut a, b) = (Host::attach(&at("a")), Host::attach(&at("b")));
        while a.link() != 0x2103 {}
        let mut engine = Engine::attach(&at("dma-a"), &a);
        println!(
            "{:<34}{:>12}{:>12}{:>12}{:>14}",
            format!("{} MiB through a window, GB/s", total >> 20),
            "engine",
            "memcpy",
            "ratio",
            "by CPU time"
        );
        for (name, span) in [("warm", WINDOW), ("cold", total)] {
            for chunk in [64 << 10, 256 << 10, 512 << 10, 1 << 20] {
                measure(name, &mut engine, (&a, &b), span, total, chunk, rounds);
            }
        }
    }
    drop(stop);
    thread.join().expect("the twin").expect("the twin");
}

fn measure(
    name: &str,
    engine: &mut Engine,
    (a, b): (&Host, &Host),
    span: u64,
    total: u64,
    chunk: u64,
    rounds: usize,
) {
    let gigabytes = |took: Duration| total as f64 / took.as_secs_f64() / 1e9;
    let (mut rates, mut bars, mut ratios, mut spent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let count = engine.prepare(a, span, total, chunk);
    for _ in 0..=rounds {
        let began = processor_time();
        let one = gigabytes(engine.run(count));
        let between = processor_time();
        let other = gigabytes(memcpy(a, b, span, total, chunk));
        rates.push(one);
        bars.push(other);
        ratios.push(one / other);
        spent.push((processor_time() - between) / (between - began));
    }
    println!(
        "{:<34}{:>12.1}{:>12.1}{:>12.2}{:>14.2}",
        format!("{name}, descriptors of {} KiB", chunk >> 10),
        median(&mut rates),
        median(&mut bars),
        median(&mut ratios),
        median(&mut spent)
    );
}

/// What this process has used, all threads, in seconds.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("a time").as_secs_f64()
}

fn median(values: &mut Vec<f64>) -> f64 {
    // The first round touches memory for the first time.
    values.remove(0);
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The same bytes, from the one memory into the other, by whatever this platform's copy is between mappings.
fn memcpy(a: &Host, b: &Host, span: u64, total: u64, chunk: u64) -> Duration {
    let size = |bytes: u64| usize::try_from(bytes).expect("a size");
    let began = Instant::now();
    for at in (0..total).step_by(size(chunk)) {
        shm::transfer(&a.ram, size(at % span), &b.ram, size(at % WINDOW), size(chunk)).expect("a copy");
    }
    began.elapsed()
}

/// A host with memory, its NTB's BARs placed and its link enabled; the peer's window 0 leads to its memory.
struct Host {
    client: Client,
    file: SharedFile,
    ram: Mapping,
}

impl Host {
    fn attach(socket: &Path) -> Self {
        let mut client = Client::connect(socket).expect("a port");
        let file = SharedFile::create("ram", RAM_BYTES).expect("memory");
        let ram = Mapping::new(&file, 0, RAM_BYTES, Access::ReadWrite).expect("memory");
        client.dma_map(map(), Some(file.as_fd())).expect("a map");
        let spare = eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd");
        let fds: Vec<BorrowedFd<'_>> = (0..MSIX_VECTORS).map(|_| spare.as_fd()).collect();
        client.assign_irqs(IrqIndex::MSIX, 0, &fds).expect("vectors");
        let mut host = Self { client, file, ram };
        host.configure(config::BAR + 8, &BAR2.to_le_bytes());
        host.configure(config::COMMAND, &[0x06, 0]);
        host.write(Reg::ImBar1Xbase, &RAM_AT.to_le_bytes());
        let outer = 0x2000_0000_0000_0000u64;
        host.write(Reg::EmBar1Xlmt, &(outer + WINDOW).to_le_bytes());
        host.write(Reg::Control, &0x154u32.to_le_bytes());
        host
    }

    fn configure(&mut self, at: u32, data: &[u8]) {
        self.client.region_write(RegionIndex::CONFIG, at.into(), data).expect("configuration");
    }

    fn write(&mut self, reg: Reg, data: &[u8]) {
        self.client.region_write(RegionIndex::BAR0, offset_of(reg, 0).into(), data).expect("a register");
    }

    fn link(&mut self) -> u16 {
        let mut status = [0; 2];
        let at = config::LINK_STATUS.into();
        self.client.region_read(RegionIndex::CONFIG, at, &mut status).expect("configuration");
        u16::from_le_bytes(status)
    }
}

/// Channel 0 of the engine beside a host.
struct Engine {
    client: Client,
    vector: OwnedFd,
}

impl Engine {
    fn attach(socket: &Path, host: &Host) -> Self {
        let mut client = Client::connect(socket).expect("an engine");
        client.dma_map(map(), Some(host.file.as_fd())).expect("a map");
        let vector = eventfd(0, EventfdFlags::empty()).expect("an eventfd");
        client.assign_irqs(IrqIndex::MSIX, 0, &[vector.as_fd()]).expect("a vector");
        for (at, value) in [(config::COMMAND, [0x06, 0x04]), (config::MSIX_CONTROL, [0x03, 0x80])] {
            client.region_write(RegionIndex::CONFIG, at.into(), &value).expect("configuration");
        }
        let mut engine = Self { client, vector };
        engine.client.region_write(RegionIndex::BAR0, 3, &[0x09]).expect("INTRCTRL");
        engine.write(Channel::CompletionAddress, &COMPLETION.to_le_bytes());
        engine
    }

    fn write(&mut self, reg: Channel, data: &[u8]) {
        let at = ioat::block(0) + channel_offset(reg);
        self.client.region_write(RegionIndex::BAR0, at.into(), data).expect("a register");
    }

    /// Writes the ring; how many descriptors there are. Each is told of in memory, as Linux wants it, the last by interrupt too.
    fn prepare(&mut self, host: &Host, span: u64, total: u64, chunk: u64) -> u16 {
        let bytes = u64::try_from(DESCRIPTOR_BYTES).expect("a size");
        let count = total / chunk;
        for index in 0..count {
            let control = Control::new().with_completion_write(true).with_interrupt(index + 1 == count);
            let at = index * chunk;
            let descriptor = Descriptor {
                size: u32::try_from(chunk).expect("a size"),
                control,
                source: RAM_AT + at % span,
                destination: BAR2 + at % WINDOW,
                next: RING + (index + 1) * bytes,
            };
            let place = usize::try_from(RING - RAM_AT + index * bytes).expect("an offset");
            host.ram.write(place, &descriptor.to_bytes()).expect("memory");
        }
        u16::try_from(count).expect("a ring of that size")
    }

    /// Orders the whole ring and waits for its interrupt.
    fn run(&mut self, count: u16) -> Duration {
        self.write(Channel::Control, &ioat::CONTROL_RUN.to_le_bytes());
        self.write(Channel::ChainAddress, &RING.to_le_bytes());
        let began = Instant::now();
        self.write(Channel::Count, &count.to_le_bytes());
        // Reading does not wait: the twin sees to that.
        poll(&mut [PollFd::new(&self.vector, PollFlags::IN)], None).expect("poll");
        rustix::io::read(&self.vector, &mut [0; 8]).expect("the interrupt");
        began.elapsed()
    }
}

fn map() -> DmaMap {
    DmaMap { iova: DmaAddr(RAM_AT), size: RAM_BYTES, fd_offset: 0, readable: true, writeable: true }
}
