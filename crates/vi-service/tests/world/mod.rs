//! A twin, a service at each of its ports, and clients: each a process of its own, which is this very test program.
#![expect(dead_code, reason = "each of the programs uses a part of it")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use twin::Setup;
use twin_server::{Endpoint, Options, Server, WindowMode};
use vi::lane::Geometry;
use vi::udp::UdpFlow;
use vi::{Event, ProtectionDomain, RequestId};
use vi_service::{Client, ClientOptions, Service, ServiceOptions};

/// What part a process plays, and its arguments.
const PART: &str = "ISTHMUS_TEST_PART";
/// Nothing takes that long on any machine; what does is broken.
pub(crate) const LONG: Duration = Duration::from_secs(120);

pub(crate) const SHAPE: Geometry =
    Geometry { slots: 256, buffers: 64, buffer_bytes: 2048, region: 0, wakes: true, stamps: false };

#[derive(Debug)]
pub(crate) struct Domain;

/// The line to whoever has started this process.
pub(crate) struct Parent;

impl Parent {
    pub(crate) fn say(&self, line: &str) {
        let line = format!("{line}\n");
        assert_eq!(rustix::io::write(std::io::stdin(), line.as_bytes()), Ok(line.len()));
    }

    /// Waits for a line; its end is an end.
    pub(crate) fn hear(&self) {
        let mut byte = [0];
        while rustix::io::read(std::io::stdin(), &mut byte).unwrap() == 1 && byte != *b"\n" {}
    }
}

/// Plays the part that this process was started for, if there is one: the body of the test `part`.
pub(crate) fn play(part: impl FnOnce(&str, &[&str])) {
    let Ok(text) = std::env::var(PART) else { return };
    let words: Vec<&str> = text.split(' ').collect();
    match words[0] {
        "twin" => twin(Path::new(words[1])),
        "service" => service(Path::new(words[1]), words[2], words[3], words[4], words[5]),
        other => part(other, &words[1..]),
    }
}

fn twin(directory: &Path) {
    let at = |name: &str| Endpoint::Path(directory.join(name));
    let size = "16M".parse().unwrap();
    let setup = Setup { training: Duration::from_millis(2), windows: [size; 2], ..Setup::default() };
    let mut server = Server::bind(&Options {
        ports: [at("a"), at("b")],
        engines: [None, None],
        control: Some(at("control")),
        setup,
        modes: [[WindowMode::Direct; 2]; 2],
        ram_mapped: [false; 2],
        trace: None,
    })
    .unwrap();
    Parent.say("ready");
    server.run(std::io::stdin().as_fd()).unwrap();
}

fn service(directory: &Path, side: &str, lanes: &str, address: &str, ahead: &str) {
    let mac = netdev::MacAddress::random();
    let tap = address.parse().ok().map(|address| {
        let (tap, queues) = netdev::Tap::open(&netdev::TapOptions {
            name: "vi%d".to_owned(),
            mac,
            mtu: 1500,
            address: Some((address, 24)),
            queues: 1,
            queue_frames: 1000,
        })
        .unwrap();
        (tap, queues.into_iter().next().unwrap())
    });
    let port = ntb::VfioUser::connect(&directory.join(side), Some(&directory.join("control"))).unwrap();
    let bridge = Arc::new(ntb::Gen3::open(Arc::new(port)).unwrap());
    let mut service = Service::open(
        bridge,
        ServiceOptions {
            socket: directory.join(format!("vi-{side}")),
            tap,
            mac,
            mtu: 1500,
            geometry: Geometry { stamps: ahead != "-", ..SHAPE },
            lanes: lanes.parse().unwrap(),
            clock: ahead.parse().ok().map(|ns| kept().ahead(ns)),
        },
    )
    .unwrap();
    Parent.say("ready");
    service.run(std::io::stdin().as_fd()).unwrap();
}

/// The clock of this process, for as long as it runs.
pub(crate) fn kept() -> vi::clock::Clock {
    static KEPT: OnceLock<Arc<vi::clock::KeeperThread>> = OnceLock::new();
    KEPT.get_or_init(|| vi::clock::shared().unwrap()).clock()
}

/// A process.
pub(crate) struct Process {
    child: Child,
    line: BufReader<UnixStream>,
}

impl Process {
    fn spawn(mut command: Command, part: &str) -> Self {
        let (line, theirs) = UnixStream::pair().unwrap();
        line.set_read_timeout(Some(5 * LONG)).unwrap();
        let child = command
            .args(["--exact", "part", "--nocapture"])
            .env(PART, part)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, line: BufReader::new(line) }
    }

    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.line.read_line(&mut line).expect("a line in time");
        assert!(!line.is_empty(), "the process ended");
        line.trim_end().to_owned()
    }

    /// Whether the next line is this; false if the process ends before it says one.
    pub(crate) fn ends_with(&mut self, wanted: &str) -> bool {
        let mut line = String::new();
        self.line.read_line(&mut line).is_ok() && line.trim_end() == wanted
    }

    pub(crate) fn expect(&mut self, wanted: &str) {
        assert_eq!(self.hear(), wanted);
    }

    pub(crate) fn tell(&mut self) {
        self.line.get_mut().write_all(b"go\n").unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Twins and services end with their standard input; whoever does not is ended.
        let _ = self.line.get_mut().shutdown(std::net::Shutdown::Both);
        let mut fds = [PollFd::new(self.line.get_ref(), PollFlags::HUP)];
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 10, tv_nsec: 0 }));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All of it. The last field is dropped last.
pub(crate) struct World {
    /// At ports a and b; one that somebody else holds has none.
    pub(crate) services: Vec<Process>,
    pub(crate) twin: Process,
    pub(crate) directory: tempfile::TempDir,
}

impl World {
    /// Without kernels.
    pub(crate) fn new(lanes: u16) -> Self {
        Self::with(lanes, None)
    }

    /// Without kernels, and with times on every frame; the clock of side b is so many nanoseconds ahead.
    pub(crate) fn stamped(lanes: u16, ahead_ns: i64) -> Self {
        Self::start(lanes, None, &["0".to_owned(), ahead_ns.to_string()], &["a", "b"])
    }

    /// With a service at port a alone, and times on every frame.
    pub(crate) fn lonely(lanes: u16) -> Self {
        Self::start(lanes, None, &["0".to_owned(), "0".to_owned()], &["a"])
    }

    pub(crate) fn with(lanes: u16, addresses: Option<[&str; 2]>) -> Self {
        Self::start(lanes, addresses, &["-".to_owned(), "-".to_owned()], &["a", "b"])
    }

    fn start(lanes: u16, addresses: Option<[&str; 2]>, ahead: &[String; 2], sides: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        let this = std::env::current_exe().unwrap();
        let mut twin = Process::spawn(Command::new(&this), &format!("twin {at}"));
        twin.expect("ready");
        let services = sides
            .iter()
            .copied()
            .map(|side| {
                let command = match addresses {
                    None => Command::new(&this),
                    Some(_) => {
                        let mut command = Command::new("unshare");
                        command.arg("--net").arg(&this);
                        command
                    }
                };
                let address = addresses.map_or("-", |[a, b]| if side == "a" { a } else { b });
                let ahead = &ahead[usize::from(side == "b")];
                let mut service =
                    Process::spawn(command, &format!("service {at} {side} {lanes} {address} {ahead}"));
                service.expect("ready");
                service
            })
            .collect();
        Self { services, twin, directory }
    }

    /// Another service at port b.
    pub(crate) fn service_again(&self, lanes: u16) -> Process {
        self.service_ahead(lanes, "-")
    }

    /// The same, with times on frames, by a clock that is so many nanoseconds ahead.
    pub(crate) fn service_ahead(&self, lanes: u16, ahead: &str) -> Process {
        let at = self.directory.path().display();
        let this = Command::new(std::env::current_exe().unwrap());
        Process::spawn(this, &format!("service {at} b {lanes} - {ahead}"))
    }

    pub(crate) fn socket(&self, side: &str) -> PathBuf {
        self.directory.path().join(format!("vi-{side}"))
    }

    pub(crate) fn client(&self, side: &str) -> Client<Domain> {
        connect(&self.socket(side), None)
    }

    /// A process with a part to play that is given this.
    pub(crate) fn process_at(&self, argument: &str, part: &str) -> Process {
        Process::spawn(Command::new(std::env::current_exe().unwrap()), &format!("{part} {argument}"))
    }

    /// A client process with a part to play at one of the services.
    pub(crate) fn process(&self, side: &str, part: &str, arguments: &str) -> Process {
        let socket = self.socket(side);
        let this = Command::new(std::env::current_exe().unwrap());
        Process::spawn(this, &format!("{part} {} {arguments}", socket.display()))
    }
}

pub(crate) fn connect(socket: &Path, set: Option<&str>) -> Client<Domain> {
    let options = ClientOptions { name: "test".to_owned(), set: set.map(str::to_owned), clock: None };
    Client::connect(socket, &ProtectionDomain::new(), &options).unwrap()
}

/// Waits until a client reaches so many interfaces of the peer.
pub(crate) fn reach(client: &mut Client<Domain>, others: usize) {
    let reached = client.wait_for(LONG, |client| client.attachment().reaches() == (others, true)).unwrap();
    assert!(reached, "{:?}", client.attachment().reaches());
}

/// A frame to a port.
pub(crate) fn frame(to: &str, payload: &[u8]) -> Vec<u8> {
    let flow = UdpFlow {
        source_mac: [2; 6],
        destination_mac: [2; 6],
        vlan: None,
        source: "10.99.0.1:7".parse().unwrap(),
        destination: to.parse().unwrap(),
    };
    let mut frame = Vec::new();
    flow.write(payload, &mut frame);
    frame
}

/// Sends a frame once there is room for it.
pub(crate) fn send(client: &Client<Domain>, frame: &[u8]) -> vi::Steered {
    let steered = client.transmit_when_room(frame, RequestId(0), LONG).unwrap();
    client.vi().transmit_unbundle(&mut [RequestId(0); 8]);
    assert_eq!(steered.full, 0);
    steered
}

/// Takes so many frames, which are numbered.
pub(crate) fn receive(client: &mut Client<Domain>, frames: u64) {
    let mut next = 0;
    while next < frames {
        if client.has_news() {
            client.refresh().unwrap();
        }
        let mut events: [Event<'_, Domain>; 32] = std::array::from_fn(|_| Event::Nothing);
        let count = client.poll(&mut events);
        for event in &events[..count] {
            let Event::Received(packet) = event else { panic!("{event:?}") };
            let mut number = [0; 8];
            packet.read(vi::udp::UDP_HEADER_BYTES, &mut number).unwrap();
            assert_eq!(u64::from_le_bytes(number), next);
            next += 1;
        }
        drop(events);
        if count == 0 {
            client.wait(None).unwrap();
        }
    }
}

/// What a process does that takes frames: those for a filter, so many, in order. Its arguments are socket, filter, frames.
pub(crate) fn receive_and_say(arguments: &[&str]) {
    let mut client = connect(arguments[0].as_ref(), None);
    client.add_filter(arguments[1].parse().unwrap()).unwrap();
    Parent.say("ready");
    receive(&mut client, arguments[2].parse().unwrap());
    Parent.say("done");
}

/// Polls until a frame comes.
pub(crate) fn one(client: &mut Client<Domain>) -> Vec<u8> {
    let start = Instant::now();
    loop {
        client.refresh().unwrap();
        let mut events = [Event::Nothing];
        client.poll(&mut events);
        if let [Event::Received(packet)] = &events {
            let mut frame = vec![0; packet.len()];
            packet.copy_to(&mut frame).unwrap();
            return frame;
        }
        assert!(start.elapsed() < LONG);
        drop(events);
        std::thread::yield_now();
    }
}
