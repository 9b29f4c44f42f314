//! What it costs to move a direct window of 1 MiB: `cargo bench -p overlay --bench repoint`
//!
//! A whole twin runs on a thread of its own. Both hosts are in this process, host a maps its BAR as QEMU does, and an overlay
//! of this process obeys the twin. Three things take turns within one run, each on the same addresses and onto the
//! same memory, 1 MiB further or back each time:
//!
//! - *bare mmap*: the one call that changes what lies under the BAR;
//! - *order to acknowledged*: the twin's order with its descriptor, the overlay that finds the addresses and carries it out,
//!   the answer;
//! - *register write to answer*: host b writes its window's limit; the reply comes when the window has moved.
//!
//! Ratios are medians of the rounds' ratios to the bare call, since this machine may have other things to do. *in use*: the
//! processor has stored to every page before, as a guest's has, and the old pages' entries have to go.
#![expect(clippy::print_stdout, reason = "a bench reports to whoever runs it")]
#![expect(
    unsafe_code,
    reason = "UNSAFETY: the bare call replaces a mapping of this process at a fixed address"
)]

use control::{FileRange, OverlayAnswer, OverlayCommand, Piece, decode, encode};
use isthmus_overlay::Service;
use ntb_spec::bar0::{Reg, offset_of};
use ntb_spec::config;
use rustix::fs::fstat;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use shm::{Access, Mapping, SharedFile};
use std::ffi::c_void;
use std::io::{BufRead, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use twin::Setup;
use twin_server::{Endpoint, Options, Server, WindowMode};
use vfio_user::client::Client;
use vfio_user::wire::{DmaAddr, DmaMap, RegionIndex};

const ROUNDS: usize = 2001;
const WINDOW: u64 = 1 << 20;
const RAM_AT: u64 = 0x10_0000;
const RAM_BYTES: u64 = 8 << 20;
const OUTER: u64 = 0x2000_0000_0000_0000;

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    let rounds = if quick { 3 } else { ROUNDS };
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let options = Options {
        ports: [Endpoint::Path(at("a")), Endpoint::Path(at("b"))],
        engines: [None, None],
        control: Some(Endpoint::Path(at("control"))),
        setup: Setup { training: Duration::from_millis(1), ..Setup::default() },
        modes: [[WindowMode::Direct; 2]; 2],
        ram_mapped: [false; 2],
        trace: None,
    };
    let (stop, stopped) = UnixStream::pair().expect("a pair of sockets");
    let mut server = Server::bind(&options).expect("a twin");
    let thread = std::thread::spawn(move || server.run(stopped.as_fd()));
    {
        let _service = Service::connect(&at("control")).expect("an overlay");
        let mut a = Host::attach(&at("a"));
        let info = a.client.region_info(RegionIndex::BAR2).expect("the window");
        let file = SharedFile::accept(info.fd.expect("a file to map"), WINDOW).expect("the window");
        let bar = Mapping::new(&file, 0, WINDOW, Access::ReadWrite).expect("the window");
        let mut b = Host::attach(&at("b"));
        while a.link() != 0x2103 {}
        let bare = Bare::new(&b.file);
        b.aim(0);
        b.open();
        let (mut ordered, _second) = Ordered::new();
        println!("{:<42}{:>12}{:>12}", "moving 1 MiB, medians", "µs", "ratio");
        for in_use in [true, false] {
            let mut times = [const { Vec::new() }; 3];
            for round in 0..rounds {
                let place = u64::try_from(round % 7).expect("small") * WINDOW;
                let touch = |memory: &Mapping| {
                    if in_use {
                        shm::fill(memory, 0, memory.bytes(), 1).expect("memory");
                    }
                };
                touch(&bare.memory);
                times[0].push(timed(|| bare.point(&b.file, place)));
                touch(&ordered.memory);
                times[1].push(timed(|| ordered.point(&b.file, place)));
                touch(&bar);
                b.aim(place);
                times[2].push(timed(|| b.open()));
            }
            let kind = if in_use { "in use" } else { "never touched" };
            for (name, at) in
                [("bare mmap", 0), ("order to acknowledged", 1), ("register write to answer", 2)]
            {
                let mut ratios: Vec<f64> =
                    times[at].iter().zip(&times[0]).map(|(time, bare)| time / bare).collect();
                let (time, ratio) = (median(&mut times[at].clone()), median(&mut ratios));
                println!("{:<42}{time:>12.1}{ratio:>12.1}", format!("{name}, {kind}"));
            }
        }
    }
    drop(stop);
    thread.join().expect("the twin").expect("the twin");
}

/// In microseconds.
fn timed(action: impl FnOnce()) -> f64 {
    let began = Instant::now();
    action();
    began.elapsed().as_secs_f64() * 1e6
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A range of this process that is moved by the call alone.
struct Bare {
    memory: Mapping,
    address: usize,
}

impl Bare {
    fn new(ram: &SharedFile) -> Self {
        let (memory, address) = map_apart(ram);
        Self { memory, address }
    }

    fn point(&self, ram: &SharedFile, place: u64) {
        let at = std::ptr::without_provenance_mut::<c_void>(self.address);
        let (bytes, prot) = (self.memory.bytes(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: exactly the range of `memory`, which is a mapping of ours for as long as `self` lives.
        let moved = unsafe { mmap(at, bytes, prot, MapFlags::SHARED | MapFlags::FIXED, ram, place) };
        assert_eq!(moved.expect("a mapping").addr(), self.address);
    }
}

/// A range that is moved by an overlay at orders that this bench gives, as the twin does.
struct Ordered {
    memory: Mapping,
    target: FileRange,
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    id: u64,
}

impl Ordered {
    fn new() -> (Self, Service) {
        let file = SharedFile::create("ordered", WINDOW).expect("memory");
        let memory = Mapping::new(&file, 0, WINDOW, Access::ReadWrite).expect("memory");
        let stat = fstat(&file).expect("a file");
        let target = FileRange { device: stat.st_dev, inode: stat.st_ino, offset: 0, bytes: WINDOW };
        let (stream, theirs) = UnixStream::pair().expect("a pair of sockets");
        let service = Service::on(theirs).expect("an overlay");
        let answers = BufReader::new(stream.try_clone().expect("a socket"));
        (Self { memory, target, stream, answers, id: 0 }, service)
    }

    fn point(&mut self, ram: &SharedFile, place: u64) {
        self.id += 1;
        let pieces = vec![Piece { at: 0, bytes: WINDOW, file: 0, offset: place }];
        let command = OverlayCommand { id: self.id, target: self.target, pieces, close_on_hangup: true };
        let line = encode(&command).expect("a line");
        let fds = [ram.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent = sendmsg(&self.stream, &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL);
        assert_eq!(sent.expect("an order"), line.len());
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        let answer: OverlayAnswer = decode(answer.as_bytes()).expect("an answer");
        assert_eq!((answer.id, answer.error), (self.id, None));
    }
}

/// A mapping of that memory, and its address.
fn map_apart(ram: &SharedFile) -> (Mapping, usize) {
    let memory = Mapping::new(ram, 0, WINDOW, Access::ReadWrite).expect("memory");
    // Nobody else has mapped just the beginning of this file yet.
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the list of mappings");
    let inode = fstat(ram).expect("a file").st_ino.to_string();
    let bytes = usize::try_from(WINDOW).expect("a size");
    let address = maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let [start, end] = [start, end].map(|digits| usize::from_str_radix(digits, 16).expect("an address"));
        let offset = fields.nth(1)?;
        let here = fields.nth(1)? == inode && offset == "00000000" && end - start == bytes;
        here.then_some(start)
    });
    (memory, address.expect("the mapping in the list"))
}

/// A host with memory and its link enabled.
struct Host {
    client: Client,
    file: SharedFile,
}

impl Host {
    fn attach(socket: &Path) -> Self {
        let mut client = Client::connect(socket).expect("a port");
        let file = SharedFile::create("ram", RAM_BYTES).expect("memory");
        let map =
            DmaMap { iova: DmaAddr(RAM_AT), size: RAM_BYTES, fd_offset: 0, readable: true, writeable: true };
        client.dma_map(map, Some(file.as_fd())).expect("a map");
        let mut host = Self { client, file };
        let command = config::COMMAND.into();
        host.client.region_write(RegionIndex::CONFIG, command, &[0x06, 0]).expect("configuration");
        host.write(Reg::Control, &0x154u32.to_le_bytes());
        host
    }

    /// Says which place of this host's memory the peer's window 0 is to reach. Nothing moves yet.
    fn aim(&mut self, place: u64) {
        self.write(Reg::ImBar1Xbase, &(RAM_AT + place).to_le_bytes());
    }

    /// Moves it; it has moved when the write's reply is here.
    fn open(&mut self) {
        self.write(Reg::EmBar1Xlmt, &(OUTER + WINDOW).to_le_bytes());
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
