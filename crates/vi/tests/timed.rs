//! An interface with a clock: times on both sides, the pace, the timer, frames that are not wanted.

use std::time::Duration;
use vi::checksum::{DiscardReason, Discards};
use vi::clock::{Clock, Keeper, SyncFlags};
use vi::lane::{Geometry, Meta, SharedLane};
use vi::{
    Bell, Event, LaneId, Pace, PacedError, ProtectionDomain, RequestId, TimedEvent, TimedVi, TransmitError,
    Vi,
};

#[derive(Debug)]
struct Domain;

type Events<'vi> = [TimedEvent<'vi, Domain>; 8];

fn pair() -> (Vi<Domain>, LaneId, Vi<Domain>, Clock) {
    let domain = ProtectionDomain::<Domain>::new();
    let (mut from, mut to) = (Vi::new(&domain), Vi::new(&domain));
    let lane = SharedLane::create(Geometry { stamps: true, ..Geometry::default() }).unwrap();
    let bell = Bell::new().unwrap();
    let out = from.attach_sender(lane.sender().unwrap(), Some(bell.try_clone().unwrap()));
    let (_, buffers) = to.attach_receiver(lane.receiver().unwrap());
    for buffer in buffers {
        to.receive_init(buffer, RequestId(0)).unwrap();
    }
    to.receive_push();
    to.set_bell(bell);
    (from, out, to, Keeper::new().clock())
}

fn events<'vi>() -> Events<'vi> {
    std::array::from_fn(|_| TimedEvent::Nothing)
}

#[test]
fn every_frame_has_the_time_of_its_sender_and_of_its_receiver() {
    let (from, out, to, clock) = pair();
    let (from, to) = (TimedVi::new(&from, clock.clone()), TimedVi::new(&to, clock.clone()));
    // In one line, in two, in a buffer, in several.
    for len in [1, 52, 60, 100, 1500, 9000] {
        let before = clock.now_ns();
        let sent = from.transmit(out, &vec![7; len], Meta::default(), RequestId(0)).unwrap();
        let mut events = events();
        let count = to.poll(&mut events);
        let after = clock.now_ns();
        assert!(count > 0);
        for event in &events[..count] {
            let TimedEvent::Event(Event::Received(packet), stamp) = event else { panic!("{event:?}") };
            if packet.starts() {
                assert_eq!(packet.stamp(), Some(sent.ns));
            }
            assert!(before <= sent.ns && sent.ns <= stamp.ns && stamp.ns <= after);
            assert!(stamp.flags.contains(SyncFlags::CLOCK_SET) && stamp.bound_ns > 0);
        }
    }
}

#[test]
fn a_pace_tells_how_long_to_wait_and_a_frame_that_did_not_go_costs_nothing() {
    let (from, out, _to, clock) = pair();
    let from = TimedVi::new(&from, clock.clone());
    from.set_pace(Some(Pace::gap(clock.ticks_in(Duration::from_secs(3600)))));
    let nowhere = from.transmit(LaneId(9), b"x", Meta::default(), RequestId(0));
    assert_eq!(nowhere, Err(PacedError::Transmit(TransmitError::NoSuchLane)));
    from.transmit(out, b"x", Meta::default(), RequestId(0)).unwrap();
    let Err(PacedError::Early(wait)) = from.transmitv_init(out, &[b"x", b"y"], Meta::default(), RequestId(0))
    else {
        panic!("an hour has not passed")
    };
    assert!(wait > Duration::from_secs(3000) && wait <= Duration::from_secs(3601), "{wait:?}");
    from.set_pace(None);
    from.transmit(out, b"x", Meta::default(), RequestId(0)).unwrap();
}

#[test]
fn the_timer_runs_out_once_and_wakes_a_sleeper() {
    let (from, out, to, clock) = pair();
    let to = TimedVi::new(&to, clock);
    let timers = |to: &TimedVi<'_, Domain>| {
        let mut events: [TimedEvent<'_, Domain>; 8] = std::array::from_fn(|_| TimedEvent::Nothing);
        let count = to.poll(&mut events);
        events[..count].iter().filter(|event| matches!(event, TimedEvent::Timer(_))).count()
    };
    assert_eq!(timers(&to), 0);
    to.timer_run(Duration::ZERO);
    assert_eq!((timers(&to), timers(&to)), (1, 0));
    // Asleep until the timer: there is no other end to this test.
    to.timer_run(Duration::from_millis(5));
    while !to.wait(None).unwrap() {}
    while timers(&to) == 0 {}
    // Primed: only an event makes it run.
    to.timer_prime(Duration::ZERO);
    assert!(!to.wait(Some(Duration::ZERO)).unwrap());
    assert_eq!(timers(&to), 0);
    from.transmit(out, b"x", Meta::default(), RequestId(0)).unwrap();
    assert_eq!(timers(&to), 1);
    to.timer_run(Duration::from_secs(3600));
    to.timer_clear();
    // The frame had rung.
    assert!(to.wait(Some(Duration::ZERO)).unwrap());
    assert!(!to.wait(Some(Duration::ZERO)).unwrap());
}

#[test]
fn a_frame_with_a_wrong_checksum_is_told_apart_where_that_is_asked() {
    let (from, out, to, clock) = pair();
    let to = TimedVi::new(&to, clock);
    let builder =
        etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(1, 2);
    let mut good = Vec::new();
    builder.write(&mut good, &[7; 500]).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    for (discards, wanted) in [(Discards::default(), 3), (Discards::ALL, 2)] {
        to.set_discards(discards);
        for frame in [&good, &bad, &good] {
            from.transmit(out, frame, Meta::default(), RequestId(0)).unwrap();
        }
        let mut events = events();
        let count = to.poll(&mut events);
        assert_eq!(count, 3);
        let received =
            events.iter().filter(|event| matches!(event, TimedEvent::Event(Event::Received(_), _)));
        assert_eq!(received.count(), wanted);
        let sum = |event: &&TimedEvent<'_, Domain>| matches!(event, TimedEvent::Discarded { reason: DiscardReason::TransportChecksum, packet, .. } if packet.len() == 542);
        assert_eq!(events.iter().filter(sum).count(), 3 - wanted);
    }
}

/// Two lanes whose jumbo frames come in turns: the last packet of each says what is wrong with all of it.
#[test]
fn a_frame_in_several_packets_is_judged_as_a_whole() {
    let domain = ProtectionDomain::<Domain>::new();
    let (mut from, mut to) = (Vi::new(&domain), Vi::new(&domain));
    let lanes = [(); 2].map(|()| {
        let lane = SharedLane::create(Geometry { slots: 64, buffers: 64, ..Geometry::default() }).unwrap();
        let (_, buffers) = to.attach_receiver(lane.receiver().unwrap());
        for buffer in buffers {
            to.receive_init(buffer, RequestId(0)).unwrap();
        }
        to.receive_push();
        from.attach_sender(lane.sender().unwrap(), None)
    });
    let to = TimedVi::new(&to, Keeper::new().clock());
    let frame = |payload: usize, wrong: bool| {
        let builder =
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9);
        let mut frame = Vec::new();
        builder.udp(1, 2).write(&mut frame, &vec![7; payload]).unwrap();
        if wrong {
            *frame.last_mut().unwrap() ^= 1;
        }
        frame
    };
    let wrongs = |to: &TimedVi<'_, Domain>| {
        let mut found = Vec::new();
        loop {
            let mut events = events();
            let count = to.poll(&mut events);
            if count == 0 {
                return found;
            }
            for event in &events[..count] {
                match event {
                    TimedEvent::Event(Event::Received(packet), _) if packet.continues() => {}
                    TimedEvent::Event(Event::Received(packet), _) => found.push((packet.lane(), None)),
                    TimedEvent::Discarded { packet, reason, .. } => {
                        assert!(!packet.starts() && !packet.continues(), "the last one");
                        found.push((packet.lane(), Some(*reason)));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    };
    let sum = Some(DiscardReason::TransportChecksum);
    for (discards, expected) in [(Discards::default(), None), (Discards::ALL, sum)] {
        to.set_discards(discards);
        // Two packets, three, and the longest that there is; and one with a wrong sum of the IP header.
        for bytes in [3000, 5000, 65507] {
            for (wrong, said) in [(false, None), (true, expected)] {
                for lane in lanes {
                    from.transmit(
                        lane,
                        &frame(bytes, wrong && lane == lanes[1]),
                        Meta::default(),
                        RequestId(0),
                    )
                    .unwrap();
                }
                from.transmit_unbundle(&mut [RequestId(0); 8]);
                let mut found = wrongs(&to);
                found.sort_by_key(|(lane, _)| lane.0);
                assert_eq!(found, [(LaneId(0), None), (LaneId(1), said)], "{bytes} {wrong}");
            }
        }
        let mut network = frame(5000, false);
        network[24] ^= 0x40;
        from.transmit(lanes[0], &network, Meta::default(), RequestId(0)).unwrap();
        // Cut short: its headers promise more.
        from.transmit(lanes[0], &frame(5000, false)[..4500], Meta::default(), RequestId(0)).unwrap();
        from.transmit_unbundle(&mut [RequestId(0); 8]);
        let reasons: Vec<_> = wrongs(&to).into_iter().map(|(_, reason)| reason).collect();
        let all = [Some(DiscardReason::NetworkChecksum), Some(DiscardReason::Length)];
        assert_eq!(reasons, if expected.is_some() { all } else { [None; 2] });
    }
}

#[test]
fn what_stands_behind_the_last_event_of_a_timed_poll_holds_nobody_up() {
    let (from, out, to, clock) = pair();
    let to = TimedVi::new(&to, clock);
    let mut events = events();
    let mut send_and_poll = |count: usize| {
        (0..count).for_each(|_| from.transmit(out, &[7; 60], Meta::default(), RequestId(0)).unwrap());
        assert_eq!(from.transmit_unbundle(&mut [RequestId(0); 8]), count);
        assert_eq!(to.poll(&mut events), count);
        assert!(events[count..].iter().all(|event| matches!(event, TimedEvent::Nothing)));
    };
    // A slice that was full once, and never again: its last packets would stay there.
    send_and_poll(8);
    (0..1000).for_each(|n| send_and_poll(n % 4));
}
