//! Bad input between processes, and what ends in the middle of something: who clashes, lies, takes nothing or is killed harms nobody else.

mod world;

use std::time::{Duration, Instant};
use vi::{Event, RequestId};
use vi_service::Client;
use world::{Domain, LONG, Parent, World, connect, frame, one, reach, receive_and_say, send};

/// Not a test: what the processes of this program's tests do.
#[test]
fn part() {
    world::play(|part, arguments| match part {
        "receive" => receive_and_say(arguments),
        // Has a filter, and does nothing any more.
        "still" => {
            let mut client = connect(arguments[0].as_ref(), None);
            client.add_filter(arguments[1].parse().unwrap()).unwrap();
            Parent.say("ready");
            Parent.hear();
        }
        // Sends one frame as soon as there is somebody to send it to. Whom it was told of first may be gone by then.
        "sends" => {
            let mut client = connect(arguments[0].as_ref(), None);
            Parent.say("ready");
            reach(&mut client, 1);
            while send(&client, &frame(arguments[1], &[5; 18])).sent == 0 {
                client.refresh().unwrap();
                std::thread::yield_now();
            }
            Parent.hear();
        }
        // Sends a few short frames as soon as it can, and is gone.
        "brief" => {
            let mut client = connect(arguments[0].as_ref(), None);
            let first: u64 = arguments[1].parse().unwrap();
            reach(&mut client, 1);
            for n in first..first + 5 {
                client.transmit(&frame("10.99.0.2:5000", &n.to_le_bytes()), RequestId(0)).unwrap();
            }
        }
        // Comes, has filters, sends, goes, and comes again without end: there is no moment at which it may not be killed.
        "churn" => {
            Parent.say("ready");
            loop {
                let mut client = connect(arguments[0].as_ref(), Some("churn"));
                client.add_set_filter("udp:10.99.0.9:1-100".parse().unwrap()).unwrap();
                let mut ids = Vec::new();
                for port in 200..205 {
                    ids.push(client.add_filter(format!("udp:10.99.0.9:{port}").parse().unwrap()).unwrap());
                    client.transmit(&frame("10.99.0.2:5001", &[9; 600]), RequestId(0)).unwrap();
                    client.vi().transmit_unbundle(&mut [RequestId(0); 8]);
                    client.refresh().unwrap();
                }
                client.remove_filter(ids[2]).unwrap();
                client.poll(&mut [Event::Nothing, Event::Nothing]);
            }
        }
        _ => panic!("{part}"),
    });
}

/// Processes that come and go all the time are killed at whatever moment it is; two others' frames are not harmed.
#[test]
fn at_whatever_moment_a_process_is_killed_the_others_are_unharmed() {
    let world = World::new(32);
    let mut near = world.client("a");
    let mut stays = world.process("b", "receive", "udp:10.99.0.2:5000 20000");
    stays.expect("ready");
    reach(&mut near, 1);
    let mut sent = 0_u64;
    for round in 0..40 {
        let mut churn = ["a", "b"].map(|side| world.process(side, "churn", ""));
        churn.iter_mut().for_each(|process| process.expect("ready"));
        // Moments are counted in frames, which are other moments each time.
        for n in 0..500 {
            send(&near, &frame("10.99.0.2:5000", &sent.to_le_bytes()));
            sent += 1;
            if n == 100 + round * 7 {
                churn[usize::from(round % 2 == 0)].kill();
            }
            if near.has_news() {
                near.refresh().unwrap();
            }
        }
        churn[usize::from(round % 2 == 1)].kill();
    }
    stays.expect("done");
    drop(stays);
    reach(&mut near, 0);
    for side in ["a", "b"] {
        let mut watcher = world.client(side);
        let start = Instant::now();
        loop {
            let status = watcher.status().unwrap();
            let others = status.clients.iter().filter(|client| client.name == "test").count();
            assert_eq!(
                (status.adapter.nonsense, status.adapter.lanes_failed, status.sent_away),
                (0, 0, 0),
                "{status:?}"
            );
            if others == if side == "a" { 2 } else { 1 } {
                break;
            }
            assert!(start.elapsed() < LONG, "{status:?}");
        }
        // Their filters went with them: the whole range is free again.
        let mut range = connect(&world.socket(side), Some("churn"));
        range.add_set_filter("udp:10.99.0.9:1-100".parse().unwrap()).unwrap();
        range.add_filter("udp:10.99.0.9:200".parse().unwrap()).unwrap();
    }
}

#[test]
fn when_the_twin_is_gone_everybody_is_told() {
    let mut world = World::new(8);
    let mut clients = ["a", "b"].map(|side| world.client(side));
    clients[1].add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    reach(&mut clients[0], 1);
    world.twin.kill();
    for client in &mut clients {
        let start = Instant::now();
        // The services end, as their device is gone, or go on without a link.
        while client.refresh().is_ok() && client.link().is_some() {
            assert!(start.elapsed() < LONG);
            let _ = client.wait(Some(Duration::from_millis(20)));
        }
        // Whatever it still holds is its own: sending harms nobody, and says so or finds no room.
        for _ in 0..1000 {
            let _ = client.transmit(&frame("10.99.0.2:5000", &[1; 500]), RequestId(0));
            client.vi().transmit_unbundle(&mut [RequestId(0); 8]);
        }
    }
}

#[test]
fn equal_filters_of_two_get_copies_each_and_a_special_one_goes_before_a_set() {
    let world = World::new(24);
    let mut near = world.client("a");
    let mut both = [0, 1].map(|_| world.client("b"));
    for client in &mut both {
        client.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
        let twice = client.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap_err();
        assert!(twice.to_string().contains("already"), "{twice}");
    }
    let mut set = connect(&world.socket("b"), Some("set"));
    set.add_set_filter("udp:10.99.0.2:1-65535".parse().unwrap()).unwrap();
    let twice = set.add_set_filter("udp:10.99.0.2:1-65535".parse().unwrap()).unwrap_err();
    assert!(twice.to_string().contains("already"), "{twice}");
    reach(&mut near, 3);
    let sent = frame("10.99.0.2:5000", b"for two");
    assert_eq!(send(&near, &sent).sent, 2);
    for client in &mut both {
        assert_eq!(one(client), sent);
    }
    let rest = frame("10.99.0.2:5001", b"for the set");
    assert_eq!(send(&near, &rest).sent, 1);
    assert_eq!(one(&mut set), rest);
    assert_eq!(both.map(|client| client.attachment().strangers()), [0, 0]);
}

#[test]
fn frames_that_are_too_short_too_long_or_broken_reach_nobody_who_did_not_ask() {
    let world = World::new(16);
    let mut near = world.client("a");
    let mut far = world.client("b");
    far.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    reach(&mut near, 1);
    let good = frame("10.99.0.2:5000", &[7; 100]);
    let mut broken = vec![
        vec![],
        vec![2],
        good[..13].to_vec(),
        good[..14].to_vec(),
        good[..33].to_vec(),
        good[..37].to_vec(),
    ];
    // Another IP version than the ethertype says, a header of four words, a fragment, two tags.
    for (at, byte) in [(14, 0x65), (14, 0x44), (20, 0x20), (12, 0x88)] {
        let mut frame = good.clone();
        frame[at] = byte;
        broken.push(frame);
    }
    let before = near.status().unwrap();
    for frame in &broken {
        let steered = send(&near, frame);
        assert_eq!((steered.verdict, steered.sent), (vi::filter::Verdict::Kernel, 1), "{frame:02x?}");
    }
    assert!(far.wait_for(LONG, |client| client.vi().lanes().0 == 2).unwrap());
    // Longer than a buffer: several packets, all of them the one's whose filter takes the first; and none that a kernel is given.
    let long = frame("10.99.0.2:5000", &[7; 5000]);
    assert_eq!(send(&near, &long).sent, 1);
    send(&near, &frame("10.99.0.3:1", &[7; 5000]));
    let mut again = Vec::new();
    while again.len() < long.len() {
        let part = one(&mut far);
        assert!(part.len() <= 2048);
        again.extend(part);
    }
    assert_eq!(again, long);
    // Longer than a lane can ever carry.
    let most = vec![7; 64 * 2048 + 1];
    let refused = near.transmit(&[&good[..42], &most].concat(), RequestId(0)).unwrap_err();
    assert!(refused.to_string().contains("is the most"), "{refused}");
    send(&near, &good);
    assert_eq!(one(&mut far), good);
    assert_eq!(far.attachment().strangers(), 0);
    // There is no kernel here: what came for it was refused and counted, the three parts of the long one too.
    let start = Instant::now();
    while far.status().unwrap().kernel.refused < broken.len() as u64 + 3 {
        assert!(start.elapsed() < LONG, "{:?}", far.status());
    }
    assert_eq!(near.status().unwrap().adapter.nonsense, before.adapter.nonsense);
}

#[test]
fn who_keeps_a_lane_that_was_taken_back_reaches_nobody_by_it() {
    let world = World::new(8);
    let mut keeps = world.client("a");
    let mut first = world.client("b");
    first.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    reach(&mut keeps, 1);
    let lane = keeps.attachment().lane_to(first.number()).unwrap();
    // From here on it does not refresh: it goes on with what it has, as a process may that means no good.
    drop(first);
    let mut near = world.client("a");
    reach(&mut near, 0);
    let mut second = world.client("b");
    second.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    reach(&mut near, 1);
    let bad = frame("10.99.0.2:5000", b"by the old lane");
    for _ in 0..1000 {
        let _ = keeps.vi().transmit(lane, &bad, vi::lane::Meta::default(), RequestId(0));
        keeps.vi().transmit_unbundle(&mut [RequestId(0); 8]);
    }
    let good = frame("10.99.0.2:5000", b"by the new one");
    send(&near, &good);
    assert_eq!(one(&mut second), good);
    let mut events: [Event<'_, Domain>; 8] = std::array::from_fn(|_| Event::Nothing);
    assert_eq!(second.poll(&mut events), 0, "{events:?}");
    assert_eq!(second.attachment().strangers(), 0);
}

#[test]
fn a_sender_waits_for_one_who_takes_nothing_as_long_as_it_chose_and_counts_what_it_then_drops() {
    let world = World::new(8);
    let mut near = world.client("a");
    let mut lazy = world.client("b");
    lazy.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    reach(&mut near, 1);
    assert!(lazy.wait_for(LONG, |client| client.vi().lanes().0 == 2).unwrap());
    let (frame, wait) = (frame("10.99.0.2:5000", &[7; 1000]), Duration::from_millis(50));
    let room = (0..).take_while(|_| {
        let sent = near.transmit_when_room(&frame, RequestId(0), wait).unwrap().sent;
        near.vi().transmit_unbundle(&mut [RequestId(0); 8]);
        sent == 1
    });
    // As many as there are buffers.
    assert_eq!(room.count(), 64);
    let start = Instant::now();
    let dropped = near.transmit_when_room(&frame, RequestId(0), wait).unwrap();
    assert!((dropped.sent, dropped.full) == (0, 1) && start.elapsed() >= wait, "{dropped:?}");
    assert_eq!(near.attachment().dropped(), 2);
    // It kept the buffers, and posts none of them again: nothing moves. Then it lets them go.
    {
        let mut events: [Event<'_, Domain>; 64] = std::array::from_fn(|_| Event::Nothing);
        assert_eq!(lazy.poll(&mut events), 64);
        assert_eq!(near.transmit(&frame, RequestId(0)).unwrap().full, 1);
    }
    lazy.poll(&mut [Event::Nothing]);
    assert_eq!(near.transmit_when_room(&frame, RequestId(0), LONG).unwrap().sent, 1);
}

/// A program may end before its lane has reached who receives on it: that one gets what was sent all the same.
#[test]
fn what_a_process_sends_that_ends_at_once_is_delivered() {
    let world = World::new(8);
    let mut far = world.client("b");
    far.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    let service = rustix::process::Pid::from_raw(i32::try_from(world.services[1].id()).unwrap()).unwrap();
    std::thread::scope(|scope| {
        // The receiver's service is as slow as it may be: it hears much at once.
        let slow = scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                for (signal, ms) in [(rustix::process::Signal::STOP, 25), (rustix::process::Signal::CONT, 2)]
                {
                    rustix::process::kill_process(service, signal).unwrap();
                    let start = Instant::now();
                    while start.elapsed().as_millis() < ms {
                        std::thread::yield_now();
                    }
                }
            }
        });
        let received = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..25_u64 {
                let _brief = world.process("a", "brief", &(round * 5).to_string());
                for n in 0..5 {
                    let got = one(&mut far);
                    assert_eq!(
                        got[vi::udp::UDP_HEADER_BYTES..][..8],
                        (round * 5 + n).to_le_bytes(),
                        "round {round}"
                    );
                }
            }
        }));
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        slow.join().unwrap();
        received.unwrap();
    });
    assert_eq!(far.status().unwrap().adapter.lanes_failed, 0);
}

/// Stops a process, as a debugger does, or lets it go on.
fn signal(process: &world::Process, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_raw(process.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(id, signal).unwrap();
}

fn descriptors(process: &world::Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count()
}

#[test]
fn a_client_that_stands_still_misses_nothing_that_came_and_stayed() {
    let world = World::new(16);
    let (mut near, mut far) = (world.client("a"), world.client("b"));
    let mut still = world.process("a", "sends", "10.99.0.2:7000");
    still.expect("ready");
    signal(&still, rustix::process::Signal::STOP);
    let before = descriptors(&world.services[0]);
    for _ in 0..700 {
        let id = far.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
        reach(&mut near, 1);
        assert!(far.remove_filter(id).unwrap());
        reach(&mut near, 0);
    }
    let open = descriptors(&world.services[0]);
    assert!(open < before + 50, "{before} descriptors and now {open}");
    assert_eq!(near.status().unwrap().sent_away, 0);
    far.add_filter("udp:10.99.0.2:7000".parse().unwrap()).unwrap();
    reach(&mut near, 1);
    signal(&still, rustix::process::Signal::CONT);
    assert_eq!(one(&mut far), frame("10.99.0.2:7000", &[5; 18]));
}

#[test]
fn a_client_that_stands_still_does_not_use_up_the_services_descriptors() {
    let world = World::new(16);
    let mut near = world.client("a");
    let mut still = world.process("a", "still", "udp:10.99.0.1:5000");
    still.expect("ready");
    signal(&still, rustix::process::Signal::STOP);
    let service = rustix::process::Pid::from_raw(world.services[0].id().try_into().unwrap());
    let limit = rustix::process::Rlimit { current: Some(1024), maximum: Some(1024) };
    rustix::process::prlimit(service, rustix::process::Resource::Nofile, limit).unwrap();
    let start = Instant::now();
    while near.status().unwrap().sent_away == 0 {
        assert!(start.elapsed() < LONG, "{:?}", near.status());
        // Each has a lane to the one who stands still, for as long as that one is there, and takes it along.
        let mut brief = world.client("b");
        let reached = |client: &Client<Domain>| client.attachment().reaches() == (1, true);
        while !brief.wait_for(Duration::from_millis(50), reached).unwrap()
            && near.status().unwrap().sent_away == 0
        {
            assert!(start.elapsed() < LONG);
        }
    }
    assert_eq!(near.status().unwrap().clients.len(), 1);
    still.kill();
    // Whoever reads is served on.
    let mut far = world.client("b");
    far.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    reach(&mut near, 1);
    let sent = frame("10.99.0.2:5000", &[3; 18]);
    send(&near, &sent);
    assert_eq!(one(&mut far), sent);
}

#[test]
fn nobody_waits_for_room_with_one_who_was_killed() {
    let world = World::new(16);
    let mut near = world.client("a");
    let mut still = world.process("b", "still", "udp:10.99.0.2:5000");
    still.expect("ready");
    reach(&mut near, 1);
    let frame = frame("10.99.0.2:5000", &[1; 600]);
    let transmit = |near: &Client<Domain>, wait| {
        let steered = near.transmit_when_room(&frame, RequestId(0), wait).unwrap();
        near.vi().transmit_unbundle(&mut [RequestId(0); 8]);
        steered
    };
    while transmit(&near, Duration::ZERO).full == 0 {}
    std::thread::scope(|scope| {
        let killer = scope.spawn(move || still.kill());
        let start = Instant::now();
        while transmit(&near, LONG).full == 0 {
            near.refresh().unwrap();
            if near.attachment().reaches().0 == 0 {
                break;
            }
        }
        assert!(start.elapsed() < LONG / 4, "{:?}", start.elapsed());
        killer.join().unwrap();
    });
    reach(&mut near, 0);
}
