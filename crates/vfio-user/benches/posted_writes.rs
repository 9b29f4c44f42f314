//! How many pipelined posted register writes a session takes per second, beside a reader that only drains the
//! socket. `cargo bench -p vfio-user --bench posted_writes`
//!
//! One thread sends REGION_WRITEs of 4 bytes, one message per call, as QEMU does with a guest that stores to a BAR.
//! The other reads: in odd rounds with plain reads of 64 KiB that look at nothing, in even rounds with a
//! `ServerSession` and a device that adds up what is written. The bar is a ratio of 0.5.
#![expect(clippy::print_stdout, reason = "a bench reports to whoever runs it")]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use vfio_user::server::{Device, IrqChange, Next, Region, ServerSession};
use vfio_user::wire::{DmaMap, DmaUnmap, Flags, IrqIndex, IrqInfo, MessageId, RegionIndex, Request};

const MESSAGES: u64 = 500_000;
const ROUNDS: usize = 9;
const HELLO_BYTES: usize = 20;
const BUDGET: usize = 1024;

#[derive(Default)]
struct Adder {
    writes: u64,
    sum: u64,
}

impl Device for Adder {
    fn region(&self, index: RegionIndex) -> Region {
        if index == RegionIndex::BAR0 { Region::read_write(0x1_0000) } else { Region::ABSENT }
    }
    fn irq_info(&self, _: IrqIndex) -> IrqInfo {
        IrqInfo::default()
    }
    fn region_read(&mut self, _: RegionIndex, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Ok(())
    }
    fn region_write(&mut self, _: RegionIndex, offset: u64, data: &[u8], _: bool) -> Result<(), Errno> {
        let value = data.try_into().map_or(0, u32::from_le_bytes);
        self.writes += 1;
        self.sum = self.sum.wrapping_add(offset ^ u64::from(value));
        Ok(())
    }
    fn dma_map(&mut self, _: DmaMap, _: Option<OwnedFd>) -> Result<(), Errno> {
        Ok(())
    }
    fn dma_unmap(&mut self, _: DmaUnmap) -> Result<(), Errno> {
        Ok(())
    }
    fn set_irqs(&mut self, _: IrqIndex, _: IrqChange<'_>) -> Result<(), Errno> {
        Ok(())
    }
    fn reset(&mut self) -> Result<(), Errno> {
        Ok(())
    }
}

/// Runs `read` against a sender and returns messages per second.
fn round(read: impl FnOnce(UnixStream)) -> f64 {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let sender = std::thread::spawn(move || {
        let mut message = Vec::new();
        Request::Version { major: 0, minor: 0, data: &[] }.emit(MessageId(0), Flags::COMMAND, &mut message);
        assert_eq!(message.len(), HELLO_BYTES);
        assert_eq!(rustix::net::send(&theirs, &message, rustix::net::SendFlags::NOSIGNAL), Ok(HELLO_BYTES));
        for nth in 0..MESSAGES {
            message.clear();
            let value = u32::try_from(nth).unwrap_or(0).to_le_bytes();
            let write =
                Request::RegionWrite { region: RegionIndex::BAR0, offset: (nth * 4) & 0xfffc, data: &value };
            write.emit(MessageId(1), Flags::POSTED, &mut message);
            let sent = rustix::net::send(&theirs, &message, rustix::net::SendFlags::NOSIGNAL);
            assert_eq!(sent, Ok(message.len()), "a short send");
        }
        theirs // stays open until the reader is done
    });
    let began = Instant::now();
    read(ours);
    let took = began.elapsed();
    drop(sender.join().expect("the sender"));
    rate(took)
}

fn rate(took: Duration) -> f64 {
    MESSAGES as f64 / took.as_secs_f64()
}

fn drain(mut socket: UnixStream) {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = MESSAGES * 36 + HELLO_BYTES as u64;
    while left > 0 {
        left -= socket.read(&mut buffer).expect("a read") as u64;
    }
}

fn serve(socket: UnixStream) {
    let mut session = ServerSession::new(socket);
    let mut device = Adder::default();
    while device.writes < MESSAGES {
        match session.service(&mut device, BUDGET).expect("a good client").next {
            Next::Again => {}
            // The sender keeps its end open, so nothing will wake us after the last message.
            Next::Question => {}
            Next::Readable if device.writes == MESSAGES => {}
            Next::Readable => {
                let mut fds = [PollFd::new(&session, PollFlags::IN)];
                let timeout = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
                let ready = poll(&mut fds, Some(&timeout)).expect("poll");
                assert!(ready == 1, "nothing for 5 s: {:?}", session.counters());
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    std::hint::black_box(device.sum);
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let (mut drained, mut served) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        drained.push(round(drain));
        served.push(round(serve));
    }
    let (drained, served) = (median(&mut drained), median(&mut served));
    println!("drain in 64 KiB reads  {drained:>12.0} messages/s");
    println!("ServerSession          {served:>12.0} messages/s");
    println!("ratio                  {:>12.2}", served / drained);
}
