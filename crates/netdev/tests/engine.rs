//! Cells that a DMA engine carries: the engine of a twin, and the processor in its place.

use cells::{Fault, Geometry, Link, Opening, SendError, Setup};
use netdev::CellsEngine;
use ntb::dma::{CpuCopy, DmaEngine, Ioat};
use ntb::{Bridge, Gen3, Inbound, Outbound, PciFunction, Speed, VfioUser, Width};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use twin_server::{Endpoint, Options, Server, WindowMode};

const PATIENCE: Duration = Duration::from_secs(20);
const WINDOW: u64 = 1 << 20;

/// A twin on a thread, with an engine at port a.
struct Twin {
    directory: tempfile::TempDir,
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Twin {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| Endpoint::Path(directory.path().join(name));
        let mut server = Server::bind(&Options {
            ports: [at("a"), at("b")],
            engines: [Some(at("dma-a")), None],
            control: None,
            setup: twin::Setup { training: Duration::from_millis(2), ..twin::Setup::default() },
            modes: [[WindowMode::Dma, WindowMode::Trap], [WindowMode::Trap; 2]],
            ram_mapped: [false; 2],
            trace: None,
        })
        .unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let thread = Some(std::thread::spawn(move || server.run(stopped.as_fd()).unwrap()));
        Self { directory, stop, thread }
    }

    fn function(&self, name: &str) -> Arc<dyn PciFunction> {
        Arc::new(VfioUser::connect(&self.directory.path().join(name), None).unwrap())
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, b".").unwrap();
        let joined = self.thread.take().unwrap().join();
        assert!(std::thread::panicking() || joined.is_ok());
    }
}

/// One end: its bridge, and what the peer stores into.
struct Host {
    bridge: Gen3,
    inbound: Arc<Inbound>,
}

fn hosts(twin: &Twin) -> [Host; 2] {
    let hosts = ["a", "b"].map(|port| {
        let bridge = Gen3::open(twin.function(port)).unwrap();
        let inbound = Arc::new(bridge.inbound(0, WINDOW).unwrap());
        bridge.link_enable(Speed::Auto, Width::Auto).unwrap();
        Host { bridge, inbound }
    });
    for host in &hosts {
        host.bridge.wait_for_link(true, PATIENCE).unwrap();
    }
    hosts
}

/// Both ends of a channel, and the window that the first one sends through.
fn channels(hosts: &[Host; 2]) -> (Outbound, [cells::Channel<Outbound, Inbound>; 2]) {
    let setup = Setup::new(Geometry::fast(8, 4096).unwrap());
    let to = hosts[0].bridge.outbound(0).unwrap();
    let mut openings: Vec<Opening<Outbound, Inbound>> = hosts
        .iter()
        .map(|host| {
            let out = Arc::new(host.bridge.outbound(0).unwrap());
            Link::new(out, Arc::clone(&host.inbound)).unwrap()
        })
        .collect::<Vec<_>>()
        .iter()
        .map(|link| link.open("x", setup.clone()).unwrap())
        .collect();
    // Stores through a window of messages arrive when the twin has read them.
    // Both are polled each time: each answers the other.
    while openings.iter_mut().filter_map(|opening| opening.poll().unwrap().then_some(())).count() < 2 {
        std::thread::yield_now();
    }
    let there = openings.pop().unwrap().wait(PATIENCE).unwrap();
    let here = openings.pop().unwrap().wait(PATIENCE).unwrap();
    (to, [here, there])
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 % 251).to_le_bytes()[0]).collect()
}

#[test]
fn both_engines_carry_frames_and_the_processor_the_short_ones() {
    let twin = Twin::new();
    let hosts = hosts(&twin);
    for which in 0..2 {
        let engine: Box<dyn DmaEngine> = match which {
            0 => Box::new(Ioat::open(twin.function("dma-a"), 0).unwrap()),
            _ => Box::new(CpuCopy::new(Arc::clone(hosts[0].bridge.function()))),
        };
        let (to, [here, there]) = channels(&hosts);
        let (mut send, _) = here.split();
        let (_, mut receive) = there.split();
        // Less than a cell: longer frames are staged in turns.
        send.attach_dma(Box::new(CellsEngine::new(engine, to, 3000).unwrap()), 1000);
        for bytes in [0, 1, 999, 1000, 4088, 4089, 3 * 4088 + 5, 8 * 4088] {
            let frame = pattern(bytes);
            send.send(&frame, Some(PATIENCE)).unwrap();
            let found = receive.receive(Some(PATIENCE)).unwrap();
            assert!(found == Some(&frame[..]), "{bytes} bytes by engine {which}");
            // Nothing more: then the sender is told of every cell that is free.
            assert_eq!(receive.try_receive(), Ok(None));
        }
    }
}

#[test]
fn an_engine_that_halts_ends_the_channel_and_the_next_channel_has_it_again() {
    let twin = Twin::new();
    let hosts = hosts(&twin);
    let engine = |to| {
        let ioat = Ioat::open(twin.function("dma-a"), 0).unwrap();
        Box::new(CellsEngine::new(Box::new(ioat), to, 1 << 16).unwrap())
    };
    let (to, [here, there]) = channels(&hosts);
    let (mut send, _) = here.split();
    send.attach_dma(engine(to), 1000);
    // BAR 2 moves away under the engine: what it is told leads nowhere now.
    let function = hosts[0].bridge.function();
    function.config_write(0x18, &0x0DEA_0000_0000_u64.to_le_bytes()).unwrap();
    send.send(&pattern(10), Some(PATIENCE)).unwrap();
    assert_eq!(send.send(&pattern(5000), Some(PATIENCE)), Err(SendError::Failed(Fault::Dma)));
    assert_eq!(send.send(&pattern(10), Some(PATIENCE)), Err(SendError::Failed(Fault::Dma)), "it stays so");
    // The peer was told; what had come whole is still there for it.
    let (_, mut receive) = there.split();
    assert_eq!(receive.receive(Some(PATIENCE)), Ok(Some(&pattern(10)[..])));
    assert_eq!(receive.receive(Some(PATIENCE)), Err(Fault::PeerClosed));
    drop((send, receive));
    ntb::addresses::place_bars(&**function).unwrap();
    let (to, [here, there]) = channels(&hosts);
    let (mut send, _) = here.split();
    let (_, mut receive) = there.split();
    send.attach_dma(engine(to), 1000);
    send.send(&pattern(5000), Some(PATIENCE)).unwrap();
    assert!(receive.receive(Some(PATIENCE)).unwrap() == Some(&pattern(5000)[..]));
}
