//! A twin on a thread of its own, and hosts that attach to it: over real sockets, with real memory and eventfds.

use ntb_spec::bar0::{Reg, offset_of};
use ntb_spec::{LINK_SOURCE, MSIX_VECTORS, config};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use twin::{Setup, Side};
use twin_server::{Endpoint, Modes, Options, RunError, Server, WindowMode};
use vfio_user::client::{Client, ClientError};
use vfio_user::wire::{Capabilities, DmaAddr, DmaMap, IrqIndex, RegionIndex};

/// Long enough for anything that happens at all, on a machine with other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of each host's memory.
pub(crate) const RAM_BYTES: u64 = 4 << 20;
/// Where a host's memory begins, as its devices see it.
pub(crate) const RAM_AT: u64 = 0x10_0000;
/// The vector that Linux gives to link changes: 32 does not work on the hardware.
pub(crate) const LINK_VECTOR: usize = 31;
/// LINK_STATUS of a link that is up.
const LINK_UP: u16 = 0x2103;

/// A twin that runs.
pub(crate) struct House {
    directory: tempfile::TempDir,
    stop: UnixStream,
    thread: Option<JoinHandle<Result<(), RunError>>>,
    task: u32,
    /// A twin in a process of its own.
    child: Option<Child>,
}

impl House {
    /// A twin whose link trains for 20 ms.
    pub(crate) fn new() -> Self {
        Self::with(Setup { training: Duration::from_millis(20), ..Setup::default() })
    }

    pub(crate) fn with(setup: Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| Endpoint::Path(directory.path().join(name));
        let options = Options {
            ports: [at("a"), at("b")],
            control: Some(at("control")),
            setup,
            modes: Modes::default(),
            ram_mapped: [false; 2],
            engines: [Some(at("dma-a")), Some(at("dma-b"))],
            trace: None,
        };
        let (stop, stopped) = UnixStream::pair().unwrap();
        let mut server = Server::bind(&options).unwrap();
        let (tell, task) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let id = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
            tell.send(id).unwrap();
            server.run(stopped.as_fd())
        });
        let task = task.recv().unwrap();
        Self { directory, stop, thread: Some(thread), task, child: None }
    }

    /// A twin in a process of its own, with that mode for every window: what an overlay of this process replaces, it replaces
    /// for the whole process, and a twin's mappings are not a host's.
    pub(crate) fn apart(mode: WindowMode) -> Self {
        Self::apart_with(mode, false)
    }

    /// The same; somebody else may map host b's memory.
    pub(crate) fn apart_with(mode: WindowMode, ram_mapped: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        if ram_mapped {
            command.env(APART_RAM_MAPPED, "b");
        }
        let child = command
            .args(["--exact", "house::a_twin_apart"])
            .env(APART, directory.path())
            .env(APART_MODE, mode.to_string())
            .stdin(OwnedFd::from(stopped))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let house = Self { directory, stop, thread: None, task: 0, child: Some(child) };
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(house.control_path()).is_err() {
            assert!(Instant::now() < until, "the twin does not start");
            pause(Duration::from_millis(2));
        }
        house
    }

    /// Its process, if it has one of its own.
    pub(crate) fn child(&mut self) -> &mut Child {
        self.child.as_mut().unwrap()
    }

    pub(crate) fn control_path(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    pub(crate) fn socket(&self, side: Side) -> PathBuf {
        self.directory.path().join(match side {
            Side::A => "a",
            Side::B => "b",
        })
    }

    pub(crate) fn engine_socket(&self, side: Side) -> PathBuf {
        self.directory.path().join(match side {
            Side::A => "dma-a",
            Side::B => "dma-b",
        })
    }

    /// A host without memory or interrupts.
    pub(crate) fn client(&self, side: Side) -> Client {
        let client = Client::connect(self.socket(side)).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// A connection before VERSION.
    pub(crate) fn stranger(&self, side: Side) -> Client {
        let client = Client::from_stream(UnixStream::connect(self.socket(side)).unwrap()).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// A host whose driver is not loaded.
    pub(crate) fn host(&self, side: Side) -> Host {
        Host::new(self.client(side))
    }

    /// Two hosts with their drivers loaded, the link up and window 0 of each open onto the other's memory.
    pub(crate) fn pair(&self) -> (Host, Host) {
        let (mut a, mut b) = (self.host(Side::A), self.host(Side::B));
        a.load_driver();
        b.load_driver();
        for host in [&mut a, &mut b] {
            host.wait_for_link(true);
            host.open_window(0, RAM_AT, 1 << 20);
        }
        (a, b)
    }

    pub(crate) fn control_stream(&self) -> UnixStream {
        let stream = UnixStream::connect(self.control_path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(crate) fn control(&self) -> control::Client<UnixStream> {
        control::Client::new(self.control_stream())
    }

    pub(crate) fn status(&self) -> control::Status {
        match self.control().call(&control::Request::Status).unwrap() {
            control::Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn port(&self, side: Side) -> control::PortStatus {
        let [a, b] = <[_; 2]>::try_from(self.status().ports).unwrap();
        match side {
            Side::A => a,
            Side::B => b,
        }
    }

    /// Waits until the twin has seen what it must have seen.
    pub(crate) fn wait_until(&self, fact: impl Fn(&control::Status) -> bool) -> control::Status {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if fact(&status) {
                return status;
            }
            assert!(Instant::now() < until, "{status:#?}");
        }
    }

    /// Waits until nobody is at a port.
    pub(crate) fn wait_gone(&self, side: Side) {
        self.wait_until(|status| !status.ports[side as usize].attached);
    }

    /// Processor time that the twin has used, in units of 10 ms.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.task)).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // User and system time: fields 14 and 15, counted from the state, which is field 3.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Nothing is to be done, so nothing may be done.
    pub(crate) fn assert_idle(&self) {
        let (before, quiet) = (self.ticks(), Duration::from_millis(300));
        wait_readable(self.stop.as_fd(), quiet);
        let used = self.ticks() - before;
        assert!(used <= 6, "the twin used {used}0 ms of {quiet:?} for nothing");
    }

    /// The twin is alive and does what it is told: it ends, without having panicked.
    pub(crate) fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(std::io::Write::write_all(&mut self.stop, b"."));
            let status = child.wait().unwrap();
            assert!(status.success() || status.signal() == Some(9), "the twin failed: {status}");
        }
        let Some(thread) = self.thread.take() else { return };
        // If the twin is gone already, joining it says why.
        drop(std::io::Write::write_all(&mut self.stop, b"."));
        thread.join().expect("the twin panicked").expect("the twin failed");
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.finish();
        } else if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The environment of a twin apart: its directory and its mode.
const APART: &str = "ISTHMUS_TEST_TWIN";
const APART_MODE: &str = "ISTHMUS_TEST_MODE";
/// Set: somebody maps host b's memory.
const APART_RAM_MAPPED: &str = "ISTHMUS_TEST_RAM_MAPPED";

/// Not a test but the body of a twin's process; among the tests it does nothing.
#[test]
fn a_twin_apart() {
    let Some(directory) = std::env::var_os(APART).map(PathBuf::from) else { return };
    let mode: WindowMode = std::env::var(APART_MODE).unwrap().parse().unwrap();
    let at = |name: &str| Endpoint::Path(directory.join(name));
    let setup = Setup { training: Duration::from_millis(20), ..Setup::default() };
    let (ports, control, modes) = ([at("a"), at("b")], Some(at("control")), [[mode; 2]; 2]);
    let engines = [Some(at("dma-a")), Some(at("dma-b"))];
    let ram_mapped = [false, std::env::var_os(APART_RAM_MAPPED).is_some()];
    let options = Options { ports, engines, control, setup, modes, ram_mapped, trace: None };
    let mut server = Server::bind(&options).unwrap();
    server.run(std::io::stdin().as_fd()).unwrap();
}

/// Memory that a host shares.
pub(crate) struct Ram(pub(crate) File);

impl Ram {
    pub(crate) fn new(name: &str, bytes: u64) -> Self {
        Self::with(name, bytes, MemfdFlags::ALLOW_SEALING)
    }

    pub(crate) fn with(name: &str, bytes: u64, flags: MemfdFlags) -> Self {
        let fd = memfd_create(name, flags | MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, bytes).unwrap();
        Self(fd.into())
    }

    pub(crate) fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut out = [0; N];
        self.0.read_exact_at(&mut out, at).unwrap();
        out
    }

    pub(crate) fn bytes(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.0.read_exact_at(&mut out, at).unwrap();
        out
    }

    pub(crate) fn put(&self, at: u64, data: &[u8]) {
        self.0.write_all_at(data, at).unwrap();
    }
}

/// A host: a client of one port, with memory and a vector table.
pub(crate) struct Host {
    pub(crate) client: Client,
    pub(crate) ram: Ram,
    pub(crate) vectors: Vec<OwnedFd>,
}

impl Host {
    pub(crate) fn new(client: Client) -> Self {
        let vectors = (0..MSIX_VECTORS).map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap()).collect();
        let mut host = Self { client, ram: Ram::new("ram", RAM_BYTES), vectors };
        host.map(RAM_AT, RAM_BYTES, 0).unwrap();
        host
    }

    /// What Linux does: decode, master, vectors, masks, link.
    pub(crate) fn load_driver(&mut self) {
        self.configure(config::COMMAND, &[0x06, 0x00]);
        let fds: Vec<BorrowedFd<'_>> = self.vectors.iter().map(AsFd::as_fd).collect();
        self.client.assign_irqs(IrqIndex::MSIX, 0, &fds).unwrap();
        self.configure(config::MSIX + 2, &[0x20, 0x80]);
        for vector in 0..32 {
            self.write(Reg::IntVec, vector, &[vector]);
        }
        self.write(Reg::IntVec, LINK_SOURCE, &[u8::try_from(LINK_VECTOR).unwrap()]);
        self.write(Reg::IntDisable, 0, &0u64.to_le_bytes());
        let control = u32::from_le_bytes(self.read(Reg::Control, 0));
        self.write(Reg::Control, 0, &((control & !3) | 0x154).to_le_bytes());
    }

    /// Lets the peer's window reach `bytes` bytes at `address` of this host's memory.
    pub(crate) fn open_window(&mut self, window: u8, address: u64, bytes: u64) {
        let [base, limit, outer_base, outer_limit] = if window == 0 {
            [Reg::ImBar1Xbase, Reg::ImBar1Xlmt, Reg::EmBar1, Reg::EmBar1Xlmt]
        } else {
            [Reg::ImBar2Xbase, Reg::ImBar2Xlmt, Reg::EmBar2, Reg::EmBar2Xlmt]
        };
        self.write(base, 0, &address.to_le_bytes());
        self.write(limit, 0, &bytes.to_le_bytes());
        let outer = u64::from_le_bytes(self.read(outer_base, 0)) & !0xF;
        self.write(outer_limit, 0, &(outer + bytes).to_le_bytes());
    }

    pub(crate) fn read<const N: usize>(&mut self, reg: Reg, index: u8) -> [u8; N] {
        let mut out = [0; N];
        self.client.region_read(RegionIndex::BAR0, offset_of(reg, index).into(), &mut out).unwrap();
        out
    }

    pub(crate) fn write(&mut self, reg: Reg, index: u8, data: &[u8]) {
        self.client.region_write(RegionIndex::BAR0, offset_of(reg, index).into(), data).unwrap();
    }

    pub(crate) fn config<const N: usize>(&mut self, at: u32) -> [u8; N] {
        let mut out = [0; N];
        self.client.region_read(RegionIndex::CONFIG, at.into(), &mut out).unwrap();
        out
    }

    pub(crate) fn configure(&mut self, at: u32, data: &[u8]) {
        self.client.region_write(RegionIndex::CONFIG, at.into(), data).unwrap();
    }

    pub(crate) fn ring(&mut self, doorbell: u8) {
        let at = offset_of(Reg::Doorbell, doorbell).into();
        self.client.region_write_posted(RegionIndex::BAR0, at, &1u32.to_le_bytes()).unwrap();
    }

    /// A store through window 0.
    pub(crate) fn store(&mut self, at: u64, data: &[u8]) {
        self.client.region_write(RegionIndex::BAR2, at, data).unwrap();
    }

    /// A load through window 0.
    pub(crate) fn load<const N: usize>(&mut self, at: u64) -> [u8; N] {
        let mut out = [0; N];
        self.client.region_read(RegionIndex::BAR2, at, &mut out).unwrap();
        out
    }

    pub(crate) fn map(&mut self, iova: u64, size: u64, fd_offset: u64) -> Result<(), ClientError> {
        self.client.dma_map(ram_map(iova, size, fd_offset), Some(self.ram.0.as_fd()))
    }

    pub(crate) fn link(&mut self) -> u16 {
        u16::from_le_bytes(self.config(config::LINK_STATUS))
    }

    /// Waits, as a driver does, for the link's interrupt and then looks.
    pub(crate) fn wait_for_link(&mut self, up: bool) {
        let until = Instant::now() + PATIENCE;
        while (self.link() == LINK_UP) != up {
            assert!(Instant::now() < until, "the link is not as it should be: {:#x}", self.link());
            wait_readable(self.vectors[LINK_VECTOR].as_fd(), Duration::from_millis(50));
            self.taken(LINK_VECTOR);
        }
        // The register changes before the interrupt, both in one step.
        self.taken(LINK_VECTOR);
        self.write(Reg::IntStatus, 0, &(1u64 << LINK_SOURCE).to_le_bytes());
    }

    /// Waits for a vector and takes it; how often it was signalled.
    pub(crate) fn wait_for_vector(&self, vector: usize) -> u64 {
        assert!(wait_readable(self.vectors[vector].as_fd(), PATIENCE), "vector {vector} was not signalled");
        self.taken(vector).unwrap()
    }

    /// Takes a vector if it was signalled.
    pub(crate) fn taken(&self, vector: usize) -> Option<u64> {
        take(&self.vectors[vector])
    }

    /// The same for a port that may have been reset: its configuration answers.
    pub(crate) fn goes_on_without_decode(&mut self) {
        assert_eq!(self.config(0), [0x86, 0x80, 0x1C, 0x20]);
    }

    /// This port goes on as if nothing had happened elsewhere: registers answer. Returns the slowest answer.
    pub(crate) fn goes_on(&mut self) -> Duration {
        let mut slowest = Duration::ZERO;
        for value in [0x1234_5678, 0u32, u32::MAX, 7] {
            let began = Instant::now();
            self.write(Reg::EmSpad, 3, &value.to_le_bytes());
            assert_eq!(u32::from_le_bytes(self.read(Reg::EmSpad, 3)), value);
            slowest = slowest.max(began.elapsed());
        }
        slowest
    }
}

/// Memory for reading and writing.
pub(crate) fn ram_map(iova: u64, size: u64, fd_offset: u64) -> DmaMap {
    DmaMap { iova: DmaAddr(iova), size, fd_offset, readable: true, writeable: true }
}

/// Waits until a descriptor is readable, or for that long.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, how_long: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let timeout = Timespec::try_from(how_long).unwrap();
    poll(&mut fds, Some(&timeout)).unwrap() == 1
}

/// Between two looks at memory, or before an answer that is to be late: there is no descriptor to wait for.
pub(crate) fn pause(how_long: Duration) {
    poll(&mut [], Some(&Timespec::try_from(how_long).unwrap())).unwrap();
}

/// What an eventfd has counted since it was last asked.
pub(crate) fn take(fd: &OwnedFd) -> Option<u64> {
    let mut count = [0; 8];
    rustix::io::read(fd, &mut count).ok().map(|_| u64::from_ne_bytes(count))
}

/// The errno with which a call was refused; anything else is a failure of the test.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> i32 {
    match result {
        Err(ClientError::Refused { errno, .. }) => errno,
        other => panic!("not refused: {other:?}"),
    }
}

/// How often an eventfd is open in this process, whoever has it.
pub(crate) fn times_open(fd: &OwnedFd) -> usize {
    use std::os::fd::AsRawFd;
    let id = |number: &str| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        info.lines().find(|line| line.starts_with("eventfd-id")).map(str::to_owned)
    };
    let wanted = id(&fd.as_raw_fd().to_string()).unwrap();
    let names = std::fs::read_dir("/proc/self/fd").unwrap();
    names
        .filter(|name| id(&name.as_ref().unwrap().file_name().to_string_lossy()) == Some(wanted.clone()))
        .count()
}

/// How often a memfd of that name is mapped in this process, whoever has mapped it.
pub(crate) fn times_mapped(name: &str) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(&format!("/memfd:{name} "))).count()
}

/// Says hello like any client.
pub(crate) fn hello(client: &mut Client) -> Result<(), ClientError> {
    client.negotiate(&Capabilities::CLIENT)
}
