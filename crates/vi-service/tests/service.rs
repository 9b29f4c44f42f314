//! The service between processes: lanes come and go, and everybody gets what is his.

mod world;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as join, send as say};
use std::time::Instant;
use vi::{Event, ProtectionDomain, RequestId};
use vi_service::{Client, ClientError, ClientOptions};
use world::{Domain, LONG, Parent, World, connect, frame, one, reach, receive_and_say, send};

/// Not a test: what the processes of this program's tests do.
#[test]
fn part() {
    world::play(|part, arguments| match part {
        "receive" => receive_and_say(arguments),
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
        _ => panic!("{part}"),
    });
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
    let refused = Client::<Domain>::connect(&nobody, &ProtectionDomain::new(), &ClientOptions::default());
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

#[test]
fn who_waits_for_frames_learns_that_the_service_was_killed() {
    let mut world = World::new(8);
    let mut client = world.client("a");
    client.refresh().unwrap();
    world.services[0].kill();
    let start = Instant::now();
    // As programs wait: they refresh when there is news.
    let gone = loop {
        assert!(start.elapsed() < LONG);
        if client.has_news()
            && let Err(gone) = client.refresh()
        {
            break gone;
        }
        client.wait(Some(LONG)).unwrap();
    };
    assert!(matches!(gone, ClientError::Gone), "{gone}");
}

#[test]
fn one_member_too_many_is_refused_and_the_set_goes_on() {
    let world = World::new(80);
    let mut near = world.client("a");
    let mut members: Vec<_> =
        (0..vi::filter::MOST_MEMBERS).map(|_| connect(&world.socket("b"), Some("set"))).collect();
    members[0].add_set_filter("ip-protocol:17".parse().unwrap()).unwrap();
    reach(&mut near, members.len());
    let options = ClientOptions { set: Some("set".to_owned()), ..ClientOptions::default() };
    let more = Client::connect(&world.socket("b"), &ProtectionDomain::<Domain>::new(), &options);
    let refused = more.unwrap_err().to_string();
    assert!(refused.contains("32 interfaces already"), "{refused}");
    assert_eq!(send(&near, &frame("10.99.0.2:5000", &[1])).verdict, vi::filter::Verdict::Taken);
    // A place that is free again is given out again.
    members.pop();
    let start = Instant::now();
    while Client::connect(&world.socket("b"), &ProtectionDomain::<Domain>::new(), &options).is_err() {
        assert!(start.elapsed() < LONG);
    }
}

#[test]
fn who_finds_no_place_is_told_so() {
    let world = World::new(8);
    let silent: Vec<_> = (0..64)
        .map(|_| {
            let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
            join(&socket, &SocketAddrUnix::new(world.socket("a")).unwrap()).unwrap();
            socket
        })
        .collect();
    for _ in 0..20 {
        let options = ClientOptions::default();
        let refused = Client::connect(&world.socket("a"), &ProtectionDomain::<Domain>::new(), &options);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("64 clients already"), "{refused}");
    }
    drop(silent);
}
