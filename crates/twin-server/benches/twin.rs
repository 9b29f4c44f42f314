//! What a host sees of a twin: register reads and writes, doorbells, windows. `cargo bench -p twin-server --bench twin`
//!
//! A whole twin runs on a thread of its own, and hosts are clients on its sockets, as QEMU is. Figures that are compared
//! are measured in turns within one run, round by round, and the ratio is the median of the rounds' ratios: this machine
//! may have other things to do. Stores are posted, one message a call, as QEMU sends them while no region is mapped.
#![expect(clippy::print_stdout, reason = "a bench reports to whoever runs it")]

use ntb_spec::bar0::{Reg, offset_of};
use ntb_spec::config;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use twin::Setup;
use twin_server::{Endpoint, Options, Server};
use vfio_user::client::Client;
use vfio_user::wire::{DmaAddr, DmaMap, Flags, IrqIndex, MessageId, RegionIndex, Request};

const ROUNDS: usize = 11;
const RAM_AT: u64 = 0x10_0000;
const RAM_BYTES: u64 = 1 << 20;

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    let rounds = if quick { 1 } else { ROUNDS };
    let scale = if quick { 1000 } else { 1 };
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let options = Options {
        ports: [Endpoint::Path(at("a")), Endpoint::Path(at("b"))],
        control: Some(Endpoint::Path(at("control"))),
        setup: Setup { training: Duration::from_millis(1), ..Setup::default() },
        modes: twin_server::Modes::default(),
        ram_mapped: [false; 2],
        engines: [None, None],
        trace: None,
    };
    let (stop, stopped) = UnixStream::pair().expect("a pair of sockets");
    let mut server = Server::bind(&options).expect("a twin");
    let thread = std::thread::spawn(move || server.run(stopped.as_fd()));
    {
        let (mut a, mut b) = (Host::attach(&at("a")), Host::attach(&at("b")));
        while a.link() != 0x2103 {}
        let control = UnixStream::connect(at("control")).expect("the control socket");
        let mut control = control::Client::new(control);
        println!("{:<44}{:>14}{:>14}{:>14}", "", "median", "best", "");
        one_way(&mut a, rounds, 20_000 / scale);
        doorbells(&mut a, &mut b, rounds, 5_000 / scale);
        posted_against_a_drain(&mut a, rounds, 300_000 / scale);
        windows(&mut a, &mut control, rounds, scale);
    }
    drop(stop);
    thread.join().expect("the twin").expect("the twin");
}

/// A host with memory, vectors and an enabled link; the peer's window 0 leads to its memory.
struct Host {
    client: Client,
    vector: OwnedFd,
}

impl Host {
    fn attach(socket: &std::path::Path) -> Self {
        let mut client = Client::connect(socket).expect("a port");
        let ram = memfd_create("ram", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).expect("memory");
        ftruncate(&ram, RAM_BYTES).expect("memory");
        let map =
            DmaMap { iova: DmaAddr(RAM_AT), size: RAM_BYTES, fd_offset: 0, readable: true, writeable: true };
        client.dma_map(map, Some(ram.as_fd())).expect("a map");
        let vector = eventfd(0, EventfdFlags::empty()).expect("an eventfd");
        let spare = eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd");
        let fds: Vec<BorrowedFd<'_>> =
            (0..33).map(|nth| if nth == 1 { vector.as_fd() } else { spare.as_fd() }).collect();
        client.assign_irqs(IrqIndex::MSIX, 0, &fds).expect("vectors");
        let mut host = Self { client, vector };
        for (at, value) in [(config::COMMAND, [0x06, 0]), (config::MSIX + 2, [0x20, 0x80])] {
            host.client.region_write(RegionIndex::CONFIG, at.into(), &value).expect("configuration");
        }
        host.write(Reg::IntDisable, &0u64.to_le_bytes());
        host.write(Reg::ImBar1Xbase, &RAM_AT.to_le_bytes());
        let outer = 0x2000_0000_0000_0000u64;
        host.write(Reg::EmBar1Xlmt, &(outer + RAM_BYTES).to_le_bytes());
        host.write(Reg::Control, &0x154u32.to_le_bytes());
        host
    }

    fn write(&mut self, reg: Reg, data: &[u8]) {
        self.client.region_write(RegionIndex::BAR0, offset_of(reg, 0).into(), data).expect("a register");
    }

    fn read(&mut self) -> u32 {
        let mut value = [0; 4];
        let at = offset_of(Reg::Spad, 0).into();
        self.client.region_read(RegionIndex::BAR0, at, &mut value).expect("a register");
        u32::from_le_bytes(value)
    }

    /// Sleeps until the vector is signalled. It does not block by itself: the twin sees to that.
    fn wait(&self) {
        poll(&mut [PollFd::new(&self.vector, PollFlags::IN)], None).expect("poll");
        rustix::io::read(&self.vector, &mut [0; 8]).expect("an eventfd");
    }

    fn link(&mut self) -> u16 {
        let mut value = [0; 2];
        let at = config::LINK_STATUS.into();
        self.client.region_read(RegionIndex::CONFIG, at, &mut value).expect("configuration");
        u16::from_le_bytes(value)
    }
}

/// Register reads and writes with an answer, one at a time.
fn one_way(a: &mut Host, rounds: usize, times: u32) {
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let began = Instant::now();
        for _ in 0..times.max(1) {
            std::hint::black_box(a.read());
        }
        reads.push(micros(began.elapsed(), times));
        let began = Instant::now();
        for _ in 0..times.max(1) {
            a.write(Reg::Spad, &[1, 2, 3, 4]);
        }
        writes.push(micros(began.elapsed(), times));
    }
    line("register read, round trip", &mut reads, "µs");
    line("register write, waited for", &mut writes, "µs");
}

/// From the call that rings to the peer's thread that was asleep on its eventfd, and back the same way: half of it.
fn doorbells(a: &mut Host, b: &mut Host, rounds: usize, times: u32) {
    let (bell, status) = (offset_of(Reg::Doorbell, 0).into(), offset_of(Reg::IntStatus, 0).into());
    let mut halves = Vec::new();
    for _ in 0..rounds {
        let round = |host: &mut Host, first: bool| {
            let began = Instant::now();
            for nth in 0..times.max(1) {
                if nth > 0 || !first {
                    host.wait();
                }
                let client = &mut host.client;
                client.region_write_posted(RegionIndex::BAR0, status, &1u64.to_le_bytes()).expect("a write");
                client.region_write_posted(RegionIndex::BAR0, bell, &1u32.to_le_bytes()).expect("a write");
            }
            began.elapsed()
        };
        let took = std::thread::scope(|scope| {
            scope.spawn(|| round(b, false));
            round(a, true)
        });
        // The last bell that b rang is still there.
        a.wait();
        a.client.region_write(RegionIndex::BAR0, status, &1u64.to_le_bytes()).expect("a write");
        halves.push(micros(took, times) / 2.0);
    }
    line("doorbell to the peer's eventfd, both asleep", &mut halves, "µs");
}

/// Posted writes of 4 bytes to a register, against a reader that drains its socket in 64 KiB reads.
fn posted_against_a_drain(a: &mut Host, rounds: usize, times: u32) {
    let times = times.max(1);
    let (mut drained, mut served, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut message = Vec::new();
    let at = offset_of(Reg::Spad, 0).into();
    Request::RegionWrite { region: RegionIndex::BAR0, offset: at, data: &[0; 4] }.emit(
        MessageId(1),
        Flags::POSTED,
        &mut message,
    );
    for _ in 0..rounds {
        let began = Instant::now();
        for _ in 0..times {
            a.client.send_raw(&message, &[]).expect("a write");
        }
        std::hint::black_box(a.read());
        let serve = f64::from(times) / began.elapsed().as_secs_f64();

        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let mut client = Client::from_stream(ours).expect("a socket");
        let bytes = message.len() * times as usize;
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut buffer, mut left) = (vec![0; 64 * 1024], bytes);
                while left > 0 {
                    left -= theirs.read(&mut buffer).expect("a read");
                }
            });
            for _ in 0..times {
                client.send_raw(&message, &[]).expect("a write");
            }
        });
        let drain = f64::from(times) / began.elapsed().as_secs_f64();
        served.push(serve / 1e3);
        drained.push(drain / 1e3);
        ratios.push(serve / drain);
    }
    line("posted register writes", &mut served, "k/s");
    line("the same, drained in 64 KiB reads", &mut drained, "k/s");
    line("  ratio (the bar is 0.5)", &mut ratios, "");
}

/// Stores through window 0, delivered and thrown away in turns.
fn windows(a: &mut Host, control: &mut control::Client<UnixStream>, rounds: usize, scale: u32) {
    for (bytes, times) in [(8usize, 300_000u32), (64, 200_000), (4096, 50_000)] {
        let times = (times / scale).max(1);
        let data = vec![0x5A; bytes];
        let (mut delivered, mut discarded, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let mut rate = |stores| {
                control.call(&control::Request::SetStores { stores }).expect("the control socket");
                let began = Instant::now();
                let mut at = 0;
                for _ in 0..times {
                    a.client.region_write_posted(RegionIndex::BAR2, at, &data).expect("a store");
                    at = (at + bytes as u64) % RAM_BYTES;
                }
                std::hint::black_box(a.read());
                f64::from(times) * bytes as f64 / 1e6 / began.elapsed().as_secs_f64()
            };
            let (deliver, discard) = (rate(control::StoreMode::Deliver), rate(control::StoreMode::Discard));
            delivered.push(deliver);
            discarded.push(discard);
            ratios.push(deliver / discard);
        }
        line(&format!("window, posted stores of {bytes} bytes"), &mut delivered, "MB/s");
        line("  the same, thrown away", &mut discarded, "MB/s");
        line("  ratio", &mut ratios, "");
    }
    control
        .call(&control::Request::SetStores { stores: control::StoreMode::Deliver })
        .expect("the control socket");
}

fn micros(took: Duration, times: u32) -> f64 {
    took.as_secs_f64() * 1e6 / f64::from(times.max(1))
}

/// The median, and the best of the rounds: the shortest time, the highest rate.
fn line(name: &str, values: &mut [f64], unit: &str) {
    values.sort_by(f64::total_cmp);
    let median = values[values.len() / 2];
    let best = if unit == "µs" { values[0] } else { values[values.len() - 1] };
    println!("{name:<44}{median:>14.2}{best:>14.2} {unit:<8}");
}
