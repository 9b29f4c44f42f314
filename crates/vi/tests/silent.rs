//! In steady state no system call is made: a thread under which the kernel allows none but read, write and exit (seccomp
//! in its strict mode) exchanges frames, and lives.
//!
//! The exchange runs in this very program, started anew: the kernel's answer to any other call is SIGKILL.

use rustix::thread::{SecureComputingMode, set_secure_computing_mode};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use vi::clock::{Keeper, SyncFlags};
use vi::filter::{Filter, FlowCache, Table, Target};
use vi::lane::{Geometry, SharedLane};
use vi::{Event, LaneId, ProtectionDomain, RequestId, Vi};

#[derive(Debug)]
struct Domain;

/// Tells the program which part it plays.
const PART: &str = "VI_TEST_SILENT";
const FRAMES: u32 = 20_000;

/// Two interfaces with a lane each way, and buffers posted.
fn pair(stamps: bool) -> (Vi<Domain>, Vi<Domain>) {
    let domain = ProtectionDomain::new();
    let (mut one, mut other) = (Vi::new(&domain), Vi::new(&domain));
    for turn in 0..2 {
        let lane = SharedLane::create(Geometry { stamps, ..Geometry::default() }).unwrap();
        let (from, to) = if turn == 0 { (&mut one, &mut other) } else { (&mut other, &mut one) };
        from.attach_sender(lane.sender().unwrap(), None);
        let (_, buffers) = to.attach_receiver(lane.receiver().unwrap());
        buffers.into_iter().for_each(|buffer| to.receive_init(buffer, RequestId(0)).unwrap());
        to.receive_push();
    }
    (one, other)
}

/// A datagram to port 80 of 10.0.0.2.
fn datagram(bytes: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 9, 0, 80, 0, 9, 0, 0]);
    frame.resize(bytes, 7);
    frame
}

fn takes(vi: &Vi<Domain>, out: &mut [u8]) -> usize {
    let mut events: [Event<'_, Domain>; 4] = std::array::from_fn(|_| Event::Nothing);
    let count = vi.poll(&mut events);
    let mut bytes = 0;
    for event in &events[..count] {
        if let Event::Received(packet) = event {
            bytes += packet.copy_to(out).unwrap();
        }
    }
    vi.transmit_unbundle(&mut [RequestId(0); 8]);
    bytes
}

/// Not a test of its own: what the started process does.
#[test]
fn the_silent_process() {
    let Ok(part) = std::env::var(PART) else { return };
    // The kernel ends the thread that makes the call; who waits for it then ends the process.
    let _gone = std::thread::spawn(move || exchange(&part)).join();
}

fn exchange(part: &str) {
    let stamps = part != "silent" && part != "loud";
    let (one, other) = pair(stamps);
    let clock = Keeper::new().clock();
    let mut table = Table::new();
    table.add("udp:10.0.0.2:80".parse::<Filter>().unwrap(), Target::One(LaneId(0))).unwrap();
    let mut cache = FlowCache::default();
    let frames: Vec<Vec<u8>> = [60, 64, 100, 1500, 2048].into_iter().map(datagram).collect();
    let mut seen = vec![0; 2048];
    let mut round = |n: u32| {
        let frame = &frames[n as usize % frames.len()];
        let mut bytes = 0;
        for (from, to) in [(&one, &other), (&other, &one)] {
            let stamp = if stamps { clock.now_ns() } else { 0 };
            from.transmit_steered(&table, &mut cache, frame, stamp, RequestId(n)).unwrap();
            bytes += takes(to, &mut seen);
        }
        assert_eq!(bytes, 2 * frame.len());
    };
    // Once for what is made on first use: pages, the names of functions, what the processor can do.
    (0..10).for_each(&mut round);
    let mut out = std::io::stdout();
    out.write_all(b"begin\n").unwrap();
    out.flush().unwrap();
    if stamps {
        be_silent();
    } else {
        set_secure_computing_mode(SecureComputingMode::Strict).unwrap();
    }
    (0..FRAMES).for_each(&mut round);
    if part == "loud" || part == "stamped and loud" {
        std::thread::yield_now();
    }
    // A write is allowed.
    let _ = rustix::io::write(rustix::stdio::stdout(), b"done\n");
    loop {
        std::hint::spin_loop();
    }
}

/// From here on the kernel ends this process if this thread makes another call than read, write and exit. Not by the strict mode of seccomp: that one
/// forbids the processor's counter, too.
fn be_silent() {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let numbers = if cfg!(target_arch = "aarch64") { [63, 64, 93] } else { [0, 1, 60] };
    let rules = numbers.into_iter().map(|number| (number, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// What the process says until it is over, or has said all.
fn said(part: &str) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["the_silent_process", "--exact", "--nocapture"])
        .env(PART, part)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut said = Vec::new();
    let mut byte = [0];
    while !said.ends_with(b"done\n") {
        if output.read(&mut byte).unwrap() == 0 {
            break;
        }
        said.push(byte[0]);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    String::from_utf8(said).unwrap()
}

#[test]
fn an_exchange_of_frames_makes_no_system_call() {
    let said = said("silent");
    assert!(said.contains("begin\n") && said.ends_with("done\n"), "{said}");
}

/// Where the processor has no counter to ask, the kernel is asked, and that is said.
#[test]
fn times_make_no_system_call() {
    if Keeper::new().clock().now().flags.contains(SyncFlags::COUNTER) {
        let silent = said("stamped");
        assert!(silent.contains("begin\n") && silent.ends_with("done\n"), "{silent}");
        let loud = said("stamped and loud");
        assert!(loud.contains("begin\n") && !loud.ends_with("done\n"), "{loud}");
    }
}

#[test]
fn one_system_call_would_be_found() {
    let said = said("loud");
    assert!(said.contains("begin\n") && !said.ends_with("done\n"), "{said}");
}
