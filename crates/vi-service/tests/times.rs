//! Times across the service: on every frame, and the peer's clock, measured over the link.

mod world;

use std::time::Instant;
use vi::clock::{PeerOffset, SyncFlags};
use vi::{Event, RequestId};
use vi_service::{Client, ClientOptions};
use world::{Domain, LONG, World, frame, kept, reach};

/// Not a test: what the processes of this program's tests do.
#[test]
fn part() {
    world::play(|part, _| panic!("{part}"));
}

/// A client whose clock is that many nanoseconds ahead.
fn client(world: &World, side: &str, ahead_ns: i64) -> Client<Domain> {
    let clock = Some(kept().ahead(ahead_ns));
    let options = ClientOptions { name: "times".to_owned(), set: None, clock };
    Client::connect(&world.socket(side), &vi::ProtectionDomain::new(), &options).unwrap()
}

/// The first packet that comes: its length, the sender's time, and what the receiver's clock said before and after.
fn one(client: &mut Client<Domain>) -> (usize, Option<u64>) {
    let start = Instant::now();
    loop {
        client.refresh().unwrap();
        let mut events = [Event::Nothing];
        client.poll(&mut events);
        if let [Event::Received(packet)] = &events {
            return (packet.len(), packet.stamp());
        }
        assert!(start.elapsed() < LONG);
        drop(events);
        std::thread::yield_now();
    }
}

fn measured(client: &Client<Domain>) -> PeerOffset {
    let start = Instant::now();
    loop {
        if let Some(peer) = client.peer_clock() {
            return peer;
        }
        assert!(start.elapsed() < LONG, "the peer's clock is not measured");
        std::thread::yield_now();
    }
}

/// All clocks of this machine follow one CLOCK_TAI, each within its bound; those of side b are ahead.
fn is_ahead(client: &Client<Domain>, ahead_ns: i64) -> PeerOffset {
    let peer = measured(client);
    let mine = client.clock().unwrap().now();
    let slack = peer.bound_ns + peer.peer_bound_ns + 2 * mine.bound_ns;
    assert!(peer.offset_ns.abs_diff(ahead_ns) <= slack, "{peer:?} {mine:?}");
    assert!(peer.flags.contains(SyncFlags::CLOCK_SET), "{peer:?}");
    assert_eq!(peer.flags.contains(SyncFlags::IN_SYNC), mine.flags.contains(SyncFlags::IN_SYNC));
    peer
}

const AHEAD: i64 = 3_600_000_000_005;

#[test]
fn every_frame_has_its_senders_time_and_that_is_a_time_of_the_receivers_by_the_peers_offset() {
    let world = World::stamped(16, AHEAD);
    let (mut near, mut far) = (client(&world, "a", 0), client(&world, "b", AHEAD));
    near.add_filter("udp:10.99.0.1:5000".parse().unwrap()).unwrap();
    far.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    reach(&mut near, 1);
    reach(&mut far, 1);
    let (ahead, behind) = (is_ahead(&near, AHEAD), is_ahead(&far, -AHEAD));
    // Microseconds, on any machine that is not in the way all the time: at least no rubbish.
    assert!(ahead.bound_ns < 1_000_000_000 && behind.bound_ns < 1_000_000_000, "{ahead:?} {behind:?}");
    // In one line, in two, in a buffer.
    for len in [4, 10, 18, 60, 70, 400, 1400] {
        let payload = vec![1; len];
        let before = near.clock().unwrap().now_ns();
        let there = frame("10.99.0.2:5000", &payload);
        let (steered, stamp) = near.transmit_timed(&there, RequestId(0)).unwrap();
        assert_eq!((steered.sent, one(&mut far)), (1, (there.len(), Some(stamp.ns))));
        assert!(stamp.ns >= before && stamp.bound_ns > 0);
        // Back without a word about time, and still with one.
        let back = frame("10.99.0.1:5000", &payload);
        far.transmit(&back, RequestId(0)).unwrap();
        let (_, sent) = one(&mut near);
        let after = near.clock().unwrap().now_ns();
        let peer = near.peer_clock().unwrap();
        let mine = peer.to_mine(sent.unwrap()).unwrap();
        let slack = peer.bound_ns + 2 * peer.peer_bound_ns + 2 * stamp.bound_ns;
        assert!(mine + slack >= before && mine <= after + slack, "{before} {mine} {after} ± {slack}");
        for client in [&near, &far] {
            client.vi().transmit_unbundle(&mut [RequestId(0); 8]);
        }
    }
    let status = near.status().unwrap();
    assert!(status.adapter.clock_exchanges > 0 && status.clock.is_some(), "{status:?}");
    assert_eq!((status.adapter.clock_jumps, status.adapter.clock_refused), (0, 0), "{status:?}");
}

/// An interface of a service with a timer, discards and times of its own; strangers are told apart as a client's poll does it.
#[test]
fn a_timed_interface_over_a_clients() {
    let world = World::stamped(8, 0);
    let (mut near, mut far) = (world.client("a"), world.client("b"));
    far.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
    reach(&mut near, 1);
    assert!(far.wait_for(LONG, |client| client.vi().lanes().0 == 2).unwrap());
    let lane = near.attachment().lane_to(far.number()).unwrap();
    let sender = vi::TimedVi::new(near.vi(), near.clock().unwrap().clone());
    let taker = vi::TimedVi::new(far.vi(), far.clock().unwrap().clone());
    taker.set_discards(vi::checksum::Discards::ALL);
    let (good, foreign) = (frame("10.99.0.2:5000", &[3; 300]), frame("10.99.0.2:5001", &[3; 300]));
    let mut cut = good.clone();
    cut.truncate(200);
    let mut sent = Vec::new();
    for frame in [&good, &foreign, &cut] {
        sent.push(sender.transmit(lane, frame, vi::lane::Meta::default(), RequestId(0)).unwrap());
    }
    let mut events: [vi::TimedEvent<'_, Domain>; 8] = std::array::from_fn(|_| vi::TimedEvent::Nothing);
    assert_eq!(taker.poll(&mut events), 3);
    let [
        vi::TimedEvent::Event(Event::Received(first), here),
        vi::TimedEvent::Event(Event::Received(second), _),
        vi::TimedEvent::Discarded { reason, .. },
        ..,
    ] = &events
    else {
        panic!("{events:?}")
    };
    assert_eq!((far.takes(first), far.takes(second), far.attachment().strangers()), (true, false, 1));
    assert_eq!((first.stamp(), *reason), (Some(sent[0].ns), vi::checksum::DiscardReason::Length));
    assert!(here.ns >= sent[0].ns);
}

#[test]
fn without_a_clock_of_its_own_a_client_stamps_by_the_process_and_without_stamps_nobody_does() {
    for stamps in [true, false] {
        let world = if stamps { World::stamped(8, 0) } else { World::new(8) };
        let (mut near, mut far) = (world.client("a"), world.client("b"));
        far.add_filter("udp:10.99.0.2:5000".parse().unwrap()).unwrap();
        reach(&mut near, 1);
        near.transmit(&frame("10.99.0.2:5000", &[1; 18]), RequestId(0)).unwrap();
        let (_, stamp) = one(&mut far);
        assert_eq!((stamp.is_some(), near.clock().is_some()), (stamps, stamps));
        if stamps {
            is_ahead(&near, 0);
        } else {
            assert_eq!((near.peer_clock(), near.status().unwrap().clock), (None, None));
        }
    }
}

#[test]
fn a_peer_that_is_gone_has_no_clock_and_one_with_another_clock_is_measured_anew() {
    let mut world = World::stamped(8, AHEAD);
    let mut near = client(&world, "a", 0);
    reach(&mut near, 0);
    is_ahead(&near, AHEAD);
    world.services[1].kill();
    assert!(near.wait_for(LONG, |client| client.link().is_none()).unwrap());
    let start = Instant::now();
    while near.peer_clock().is_some() {
        assert!(start.elapsed() < LONG);
    }
    let mut again = world.service_ahead(8, "-77");
    again.expect("ready");
    reach(&mut near, 0);
    is_ahead(&near, -77);
}
