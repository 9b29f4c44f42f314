//! The I/OAT driver against the engine of a twin, and the processor's copies beside it.

use ntb::dma::{CpuCopy, DmaCopy, DmaEngine, DmaError, DmaTarget, Ioat};
use ntb::{Bridge, DeviceAddress, Gen3, Memory, PciFunction, Speed, VfioUser, Width, Window};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use twin::Setup;
use twin_server::{Endpoint, Options, Server, WindowMode};

const PATIENCE: Duration = Duration::from_secs(20);
const WINDOW: usize = 1 << 20;

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
        let setup = Setup { training: Duration::from_millis(2), ..Setup::default() };
        let mut server = Server::bind(&Options {
            ports: [at("a"), at("b")],
            engines: [Some(at("dma-a")), Some(at("dma-b"))],
            control: None,
            setup,
            modes: [[WindowMode::Dma; 2]; 2],
            ram_mapped: [false; 2],
            trace: None,
        })
        .unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let thread = Some(std::thread::spawn(move || server.run(stopped.as_fd()).unwrap()));
        Self { directory, stop, thread }
    }

    fn function(&self, name: &str) -> Arc<dyn PciFunction> {
        let path: PathBuf = self.directory.path().join(name);
        Arc::new(VfioUser::connect(&path, None).unwrap())
    }

    /// Both NTBs with the link up.
    fn bridges(&self) -> (Gen3, Gen3) {
        let (a, b) = (Gen3::open(self.function("a")).unwrap(), Gen3::open(self.function("b")).unwrap());
        for end in [&a, &b] {
            end.link_enable(Speed::Auto, Width::Auto).unwrap();
        }
        for end in [&a, &b] {
            end.wait_for_link(true, PATIENCE).unwrap();
        }
        (a, b)
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, b".").unwrap();
        let joined = self.thread.take().unwrap().join();
        assert!(std::thread::panicking() || joined.is_ok());
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 % 251).to_le_bytes()[0]).collect()
}

type Told = mpsc::Receiver<Result<(), DmaError>>;

fn copy(engine: &mut dyn DmaEngine, copy: DmaCopy) -> Told {
    let (tell, told) = channel();
    engine.copy(copy, Some(Box::new(move |result| drop(tell.send(result))))).unwrap();
    told
}

#[test]
fn both_engines_carry_bytes_to_the_peer_and_keep_order_at_a_fence() {
    let twin = Twin::new();
    let (a, b) = twin.bridges();
    let inbound = b.inbound(0, WINDOW as u64).unwrap();
    let ioat = Ioat::open(twin.function("dma-a"), 1).unwrap();
    let cpu = CpuCopy::new(Arc::clone(a.function()));
    let engines: [Box<dyn DmaEngine>; 2] = [Box::new(ioat), Box::new(cpu)];
    for mut engine in engines {
        let from = engine.allocate(3 << 20).unwrap();
        let data = pattern(WINDOW);
        from.write(0, &data).unwrap();
        let outbound = a.outbound(0).unwrap();
        let to = DmaTarget::Window(outbound.clone());
        // The lower half by two copies, the upper half by one that waits for them.
        let part = |from_at: usize, to_at: usize, bytes: usize| DmaCopy {
            from: from.clone(),
            from_at,
            to: to.clone(),
            to_at,
            bytes,
        };
        let told =
            [part(0, 0, 1000), part(1000, 1000, WINDOW / 2 - 1000)].map(|part| copy(&mut *engine, part));
        engine.fence();
        let last = copy(&mut *engine, part(WINDOW / 2, WINDOW / 2, WINDOW / 2));
        assert_eq!(engine.pending(), 3);
        assert_eq!(engine.finish(PATIENCE).unwrap(), 3);
        for told in told.iter().chain([&last]) {
            assert_eq!(told.recv().unwrap(), Ok(()));
        }
        outbound.settle().unwrap();
        let mut seen = vec![0; WINDOW];
        inbound.read(0, &mut seen).unwrap();
        assert!(seen == data, "{engine:?}");
        inbound.write(0, &vec![0; WINDOW]).unwrap();
        // Memory to memory, more than one descriptor may carry.
        let target = engine.allocate(3 << 20).unwrap();
        let whole = DmaCopy {
            from: from.clone(),
            from_at: 0,
            to: DmaTarget::Memory(target.clone()),
            to_at: 0,
            bytes: 3 << 20,
        };
        copy(&mut *engine, whole);
        assert_eq!(engine.finish(PATIENCE).unwrap(), 1);
        target.read(0, &mut seen).unwrap();
        assert!(seen == data, "{engine:?}");
        let outside = part(3 << 20, 0, 1);
        assert!(matches!(engine.copy(outside, None), Err(DmaError::Range { .. })));
        assert!(matches!(engine.copy(part(0, WINDOW, 1), None), Err(DmaError::Range { .. })));
    }
}

#[test]
fn an_engine_rings_the_peers_doorbell() {
    let twin = Twin::new();
    let (a, b) = twin.bridges();
    let mut engine = Ioat::open(twin.function("dma-a"), 0).unwrap();
    b.doorbells_unmask(1 << 6).unwrap();
    let target = a.doorbell_target(6).unwrap();
    let from = engine.allocate(4096).unwrap();
    from.write(0, &target.value.to_le_bytes()).unwrap();
    let ring = DmaCopy { from, from_at: 0, to: DmaTarget::Address(target.address), to_at: 0, bytes: 4 };
    engine.copy(ring, None).unwrap();
    engine.finish(PATIENCE).unwrap();
    assert_eq!(b.wait(PATIENCE).unwrap().doorbells, 1 << 6);
}

#[test]
fn hundreds_of_copies_go_around_the_ring_and_an_engine_that_is_full_says_so() {
    let twin = Twin::new();
    let mut engine = Ioat::open(twin.function("dma-a"), 2).unwrap();
    let (from, to) = (engine.allocate(4096).unwrap(), engine.allocate(4096).unwrap());
    let mut full = 0;
    for round in 0..3000_u32 {
        from.write(0, &round.to_le_bytes()).unwrap();
        let word =
            DmaCopy { from: from.clone(), from_at: 0, to: DmaTarget::Memory(to.clone()), to_at: 0, bytes: 4 };
        if engine.copy(word.clone(), None) == Err(DmaError::Full) {
            full += 1;
            engine.finish(PATIENCE).unwrap();
            engine.copy(word, None).unwrap();
        }
    }
    engine.finish(PATIENCE).unwrap();
    let mut last = [0; 4];
    to.read(0, &mut last).unwrap();
    assert_eq!((u32::from_le_bytes(last), engine.pending()), (2999, 0));
    // What has completed is noticed by polling alone, and one descriptor of 1024 stays free.
    assert_eq!(full, 2);
}

#[test]
fn a_copy_to_nowhere_is_told_and_the_engine_goes_on() {
    let twin = Twin::new();
    let mut engine = Ioat::open(twin.function("dma-a"), 3).unwrap();
    let from = engine.allocate(4096).unwrap();
    let nowhere = DmaCopy {
        from: from.clone(),
        from_at: 0,
        to: DmaTarget::Address(DeviceAddress(64)),
        to_at: 0,
        bytes: 8,
    };
    let told = copy(&mut engine, nowhere.clone());
    let failed = engine.finish(PATIENCE);
    assert_eq!(failed, Err(DmaError::Halted { channel_error: 0x200 }));
    assert_eq!(told.recv().unwrap(), Err(DmaError::Halted { channel_error: 0x200 }));
    let to = engine.allocate(4096).unwrap();
    let good = copy(&mut engine, DmaCopy { to: DmaTarget::Memory(to), ..nowhere });
    engine.finish(PATIENCE).unwrap();
    assert_eq!(good.recv().unwrap(), Ok(()));
}

#[test]
fn what_is_no_engine_is_refused() {
    let twin = Twin::new();
    let refused = Ioat::open(twin.function("a"), 0).err();
    assert_eq!(refused, Some(DmaError::NotAnEngine { vendor: 0x8086, device: 0x201C }));
    let refused = Ioat::open(twin.function("dma-a"), 4).err();
    assert!(matches!(refused, Some(DmaError::Registers { register: "CHANCNT", .. })));
    // An engine is no bridge either.
    let refused = Gen3::open(twin.function("dma-a")).err().unwrap();
    assert_eq!(refused.to_string(), "8086:2021 is no NTB that this driver knows: it drives 8086:201c alone");
}
