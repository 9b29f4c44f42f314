//! In steady state a client makes no system call, across two services and with times: a thread that the kernel allows none but
//! read, write and exit exchanges frames, and its process lives.

mod world;

use std::time::Instant;
use vi::clock::SyncFlags;
use vi::{Event, RequestId};
use vi_service::Client;
use world::{Domain, LONG, Parent, World, connect, frame, reach};

const ROUNDS: u32 = 20_000;

/// Not a test: what the processes of this program's tests do.
#[test]
fn part() {
    world::play(|part, arguments| {
        let clients =
            ["vi-a", "vi-b"].map(|name| connect(&std::path::Path::new(arguments[0]).join(name), None));
        let loud = part == "loud";
        let _gone = std::thread::spawn(move || exchange(clients, loud)).join();
    });
}

fn exchange(clients: [Client<Domain>; 2], loud: bool) {
    let [mut near, mut far] = clients;
    near.add_filter("udp:10.99.0.1:5000".parse().unwrap()).unwrap();
    far.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    reach(&mut near, 1);
    reach(&mut far, 1);
    for client in [&mut near, &mut far] {
        // From the other interface and from its kernel.
        assert!(client.wait_for(LONG, |client| client.vi().lanes().0 == 2).unwrap());
    }
    let start = Instant::now();
    while near.peer_clock().is_none() || far.peer_clock().is_none() {
        assert!(start.elapsed() < LONG);
        std::thread::yield_now();
    }
    let frames: Vec<[Vec<u8>; 2]> = [4, 18, 60, 400, 1400]
        .into_iter()
        .map(|bytes| ["10.99.0.2:5000", "10.99.0.1:5000"].map(|to| frame(to, &vec![7; bytes])))
        .collect();
    let mut seen = vec![0; 2048];
    let mut round = |n: u32| {
        let [there, back] = &frames[n as usize % frames.len()];
        for (from, to, frame) in [(&near, &far, there), (&far, &near, back)] {
            from.transmit_timed(frame, RequestId(n)).unwrap();
            let mut events: [Event<'_, Domain>; 2] = std::array::from_fn(|_| Event::Nothing);
            let count = to.poll(&mut events);
            let [Event::Received(packet), ..] = &events else { panic!("{count} {events:?}") };
            assert_eq!(packet.copy_to(&mut seen).unwrap(), frame.len());
            let here = to.peer_clock().and_then(|peer| peer.to_mine(packet.stamp()?));
            assert!(here.is_some());
            drop(events);
            from.vi().transmit_unbundle(&mut [RequestId(0); 4]);
        }
    };
    // Once for what is made on first use.
    (0..10).for_each(&mut round);
    if !near.clock().unwrap().now().flags.contains(SyncFlags::COUNTER) {
        // The kernel is asked for the time: that is no steady state without it.
        Parent.say("no counter");
    }
    Parent.say("begin");
    be_silent();
    (0..ROUNDS).for_each(&mut round);
    if loud {
        std::thread::yield_now();
    }
    // A write is allowed.
    Parent.say("done");
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

/// Whether the process says that it has done all.
fn lives(part: &str) -> bool {
    let world = World::stamped(8, 0);
    let mut process = world.process_at(&world.directory.path().display().to_string(), part);
    if process.hear() == "no counter" {
        return part == "silent";
    }
    process.ends_with("done")
}

#[test]
fn frames_between_two_clients_make_no_system_call_and_one_would_be_found() {
    assert!(lives("silent"));
    assert!(!lives("loud"));
}
