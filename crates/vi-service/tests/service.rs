//! The service between processes: lanes come and go, and everybody gets what is his.

mod world;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as join, send as say};
use std::time::Instant;
use vi::{Event, RequestId};
use vi_service::{Client, ClientError, ClientOptions};
use world::{Domain, LONG, Parent, World, connect, frame, reach, send};

/// Not a test: what the processes of this program's tests do.
#[test]
fn part() {
    world::play(|part, arguments| match part {
        // Takes what comes for a filter, in order, and says so.
        "receive" => {
            let mut client = connect(arguments[0].as_ref(), None);
            client.add_filter(arguments[1].parse().unwrap()).unwrap();
            Parent.say("ready");
            receive(&mut client, arguments[2].parse().unwrap());
            Parent.say("done");
        }
        // Sends without end.
        "send" => {
            let mut client = connect(arguments[0].as_ref(), None);
            reach(&mut client, arguments[2].parse().unwrap());
            Parent.say("ready");
            for n in 0_u64.. {
                send(&client, &frame(arguments[1], &n.to_le_bytes()));
                if client.has_news() {
                    client.refresh().unwrap();
                }
            }
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

/// Takes so many frames, which are numbered.
fn receive(client: &mut Client<Domain>, frames: u64) {
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

/// Polls until a frame comes.
fn one(client: &mut Client<Domain>) -> Vec<u8> {
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

#[test]
fn a_frame_goes_to_whose_filter_takes_it_and_long_ones_too() {
    let world = World::new(16);
    let mut near = world.client("a");
    let (mut first, mut second) = (world.client("b"), world.client("b"));
    first.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    let id = second.add_filter("udp:10.99.0.2:6000-6009".parse().unwrap()).unwrap();
    reach(&mut near, 2);
    for len in [4, 18, 60, 100, 1400] {
        let payload = vec![0xAB; len];
        for (to, who) in [("10.99.0.2:5000", &mut first), ("10.99.0.2:6007", &mut second)] {
            let sent = frame(to, &payload);
            assert_eq!(send(&near, &sent).sent, 1);
            assert_eq!(one(who), sent, "{len}");
        }
    }
    // A filter that goes takes its lane with it.
    assert!(second.remove_filter(id).unwrap());
    assert!(!second.remove_filter(id).unwrap());
    reach(&mut near, 1);
    // And an interface that goes.
    drop(first);
    reach(&mut near, 0);
    let status = near.status().unwrap();
    assert_eq!((status.adapter.nonsense, status.sent_away, status.clients.len()), (0, 0, 1), "{status:?}");
}

#[test]
fn both_ways_and_a_set() {
    let world = World::new(24);
    let mut near = world.client("a");
    near.add_filter("udp:10.99.0.1:1-65535".parse().unwrap()).unwrap();
    let mut members = [0, 1].map(|_| connect(&world.socket("b"), Some("set")));
    members[0].add_set_filter("ip-protocol:17".parse().unwrap()).unwrap();
    let refused = near.add_set_filter("ip-protocol:17".parse().unwrap()).unwrap_err();
    assert!(matches!(refused, ClientError::Refused(_)), "{refused}");
    reach(&mut near, 2);
    for member in &mut members {
        reach(member, 1);
    }
    // Both get flows, and every flow has one home.
    let mut seen = [0_u32; 2];
    for port in 1..200 {
        let sent = frame(&format!("10.99.0.2:{port}"), &[1]);
        assert_eq!(send(&near, &sent).sent, 1);
        let start = Instant::now();
        while {
            let before = seen;
            for (member, seen) in members.iter_mut().zip(&mut seen) {
                client_turn(member, |_| *seen += 1);
            }
            before == seen
        } {
            assert!(start.elapsed() < LONG);
        }
    }
    assert!(seen.iter().all(|&seen| seen > 50), "{seen:?}");
    let back = frame("10.99.0.1:9", b"back");
    send(&members[1], &back);
    assert_eq!(one(&mut near), back);
}

fn client_turn(client: &mut Client<Domain>, mut each: impl FnMut(usize)) {
    client.refresh().unwrap();
    let mut events: [Event<'_, Domain>; 8] = std::array::from_fn(|_| Event::Nothing);
    client.poll(&mut events);
    for event in &events {
        if let Event::Received(packet) = event {
            each(packet.len());
        }
    }
}

#[test]
fn who_sleeps_is_woken_across_the_bridge() {
    let world = World::new(8);
    let mut near = world.client("a");
    let mut far = world.process("b", "receive", "udp:10.99.0.2:5000 100");
    far.expect("ready");
    reach(&mut near, 1);
    // One after the other: the receiver falls asleep in between as it likes.
    for n in 0_u64..100 {
        send(&near, &frame("10.99.0.2:5000", &n.to_le_bytes()));
        while n % 10 == 0 && !near.vi().transmit_flushed(vi::LaneId(0)).unwrap() {
            std::thread::yield_now();
        }
    }
    far.expect("done");
}

#[test]
fn a_rogue_sender_reaches_nobody_who_did_not_ask() {
    let world = World::new(8);
    let mut near = world.client("a");
    let mut far = world.client("b");
    far.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    reach(&mut near, 1);
    let lane = near.attachment().lane_to(far.number()).unwrap();
    // Past the table, straight into the lane.
    let (foreign, own) = (frame("10.99.0.2:5001", b"not for you"), frame("10.99.0.2:5000", b"for you"));
    for _ in 0..10 {
        near.vi().transmit(lane, &foreign, vi::lane::Meta::default(), RequestId(0)).unwrap();
    }
    near.vi().transmit(lane, &[1, 2, 3], vi::lane::Meta::default(), RequestId(0)).unwrap();
    near.vi().transmit(lane, &own, vi::lane::Meta::default(), RequestId(0)).unwrap();
    assert_eq!(one(&mut far), own);
    assert_eq!(far.attachment().strangers(), 11);
}

#[test]
fn a_killed_process_gives_back_what_it_had_and_harms_nobody() {
    let world = World::new(16);
    let mut near = world.client("a");
    let mut stays = world.process("b", "receive", "udp:10.99.0.2:5000 30000");
    stays.expect("ready");
    for round in 0..6 {
        // A receiver and a sender are killed in the middle of it.
        let mut receiver = world.process("b", "receive", "udp:10.99.0.2:6000 1000000000");
        receiver.expect("ready");
        reach(&mut near, 2);
        let mut sender = world.process("a", "send", "10.99.0.2:6000 2");
        sender.expect("ready");
        for n in round * 5000..(round + 1) * 5000_u64 {
            send(&near, &frame("10.99.0.2:5000", &n.to_le_bytes()));
            match n % 5000 {
                2000 => sender.kill(),
                3000 => receiver.kill(),
                _ => {}
            }
            if near.has_news() {
                near.refresh().unwrap();
            }
        }
        reach(&mut near, 1);
    }
    stays.expect("done");
    drop(stays);
    reach(&mut near, 0);
    // More lanes were used than there are: they came back. What is left leads from kernel to kernel, and from here to one.
    let status = near.status().unwrap();
    assert_eq!((status.adapter.lanes_short, status.adapter.nonsense), (0, 0), "{status:?}");
    let start = Instant::now();
    while near.status().unwrap().adapter.lanes_now != (1, 2) {
        assert!(start.elapsed() < LONG, "{:?}", near.status());
    }
}

#[test]
fn a_receiver_that_never_polls_costs_its_sender_frames_that_are_counted_and_nobody_else() {
    let world = World::new(8);
    let mut near = world.client("a");
    let (mut lazy, mut busy) = (world.client("b"), world.client("b"));
    lazy.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    busy.add_filter("udp:10.99.0.2:5001".parse().unwrap()).unwrap();
    reach(&mut near, 2);
    // From the other side's interface and its kernel: both have their buffers, and one of them never polls.
    for client in [&mut lazy, &mut busy] {
        assert!(client.wait_for(LONG, |client| client.vi().lanes().0 == 2).unwrap());
    }
    let (mut sent, mut full) = (0, 0);
    for _ in 0..1000 {
        let steered = near.transmit(&frame("10.99.0.2:5000", &[7; 1000]), RequestId(0)).unwrap();
        near.vi().transmit_unbundle(&mut [RequestId(0); 8]);
        (sent, full) = (sent + steered.sent, full + steered.full);
    }
    assert_eq!((sent + full, near.attachment().dropped()), (1000, u64::from(full)));
    assert!(full >= 1000 - 256, "{full}");
    let frame = frame("10.99.0.2:5001", &[7; 1000]);
    send(&near, &frame);
    assert_eq!(one(&mut busy), frame);
}

#[test]
fn nonsense_on_the_socket_ends_that_connection_alone() {
    let world = World::new(8);
    let mut good = world.client("a");
    let long = vec![b'['; 40_000];
    let hello = br#"{"Hello":{"version":1,"name":"x","set":null}}"#;
    let old = br#"{"Hello":{"version":99,"name":"x","set":null}}"#;
    let named = format!(r#"{{"Hello":{{"version":1,"name":"{}","set":null}}}}"#, "n".repeat(65));
    for words in [
        vec![&b"\xff\x00"[..]],
        vec![&long[..]],
        vec![br#""Status""#],
        vec![old],
        vec![named.as_bytes()],
        vec![hello, hello],
        vec![hello, br#"{"AddFilter":{"filter":5,"set":false}}"#],
    ] {
        let before = good.status().unwrap().sent_away;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        join(&socket, &SocketAddrUnix::new(world.socket("a")).unwrap()).unwrap();
        for word in &words {
            // It may have hung up by then.
            let _ = say(&socket, word, rustix::net::SendFlags::NOSIGNAL);
        }
        let start = Instant::now();
        while good.status().unwrap().sent_away == before {
            assert!(start.elapsed() < LONG, "{words:?}");
        }
    }
    // What is sense, but cannot be, is answered.
    for filter in ["udp:10.0.0.1:5", "udp:10.0.0.1:5"] {
        let _ = good.add_filter(filter.parse().unwrap());
    }
    let twice = good.add_filter("udp:10.0.0.1:5".parse().unwrap()).unwrap_err();
    assert!(twice.to_string().contains("already"), "{twice}");
    let status = good.status().unwrap();
    assert_eq!(status.clients.len(), 1);
}

#[test]
fn who_may_not_and_who_finds_nobody_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = directory.path().join("nobody");
    let refused = Client::<Domain>::connect(&nobody, &vi::ProtectionDomain::new(), &ClientOptions::default());
    assert!(matches!(refused, Err(ClientError::Absent(_))), "{refused:?}");
    let world = World::new(8);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(world.socket("a")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o660, "only its user and group");
}

#[test]
fn a_service_that_is_killed_ends_its_clients_lanes_and_a_new_one_begins_anew() {
    let mut world = World::new(8);
    let mut near = world.client("a");
    let mut far = world.client("b");
    far.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    reach(&mut near, 1);
    world.services[1].kill();
    assert!(
        near.wait_for(LONG, |client| client.link().is_none() && client.attachment().reaches() == (0, false))
            .unwrap()
    );
    let start = Instant::now();
    while far.refresh().is_ok() {
        assert!(start.elapsed() < LONG);
        let _ = far.wait(None);
    }
    let mut again = world.service_again(8);
    again.expect("ready");
    let mut far = world.client("b");
    far.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    reach(&mut near, 1);
    let sent = frame("10.99.0.2:5000", b"anew");
    send(&near, &sent);
    assert_eq!(one(&mut far), sent);
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
            let _ = client.wait(Some(std::time::Duration::from_millis(20)));
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
    let (frame, wait) = (frame("10.99.0.2:5000", &[7; 1000]), std::time::Duration::from_millis(50));
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
