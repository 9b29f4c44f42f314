//! Virtual interfaces over lanes in memory files: what an application sees.

use shm::{LoadOrder, Mapping, Memory, SharedFile, StoreOrder, Window};
use std::os::fd::AsFd;
use std::time::Duration;
use vi::lane::{Geometry, LaneError, Meta, Nonsense, Receiver, SendError, SharedLane};
use vi::{Bell, Event, LaneId, PacketBuffer, PostRefusal, ProtectionDomain, RequestId, TransmitError, Vi};

#[derive(Debug)]
struct Blue;

type Interface = Vi<Blue>;

const SHAPE: Geometry =
    Geometry { slots: 16, buffers: 8, buffer_bytes: 2048, region: 3, wakes: true, stamps: false };

/// Two interfaces and a lane from the first to the second, whose buffers are posted with their index as number.
fn joined() -> (Interface, Interface, LaneId, SharedLane) {
    let domain = ProtectionDomain::new();
    let (mut from, mut to) = (Vi::new(&domain), Vi::new(&domain));
    let lane = SharedLane::create(SHAPE).unwrap();
    let bell = Bell::new().unwrap();
    let out = from.attach_sender(lane.sender().unwrap(), Some(bell.try_clone().unwrap()));
    let (_, buffers) = to.attach_receiver(lane.receiver().unwrap());
    to.set_bell(bell);
    post(&to, buffers);
    (from, to, out, lane)
}

fn post(vi: &Interface, buffers: Vec<PacketBuffer<Blue>>) {
    for buffer in buffers {
        let request = RequestId(100 + buffer.index());
        vi.receive_init(buffer, request).unwrap();
    }
    vi.receive_push();
}

fn events<'vi>() -> [Event<'vi, Blue>; 8] {
    std::array::from_fn(|_| Event::Nothing)
}

fn frames(vi: &Interface) -> Vec<Vec<u8>> {
    let mut events = events();
    let count = vi.poll(&mut events);
    let packets = events[..count].iter().filter_map(|event| match event {
        Event::Received(packet) => {
            let mut frame = vec![0; packet.len()];
            packet.copy_to(&mut frame).unwrap();
            Some(frame)
        }
        _ => None,
    });
    packets.collect()
}

#[test]
fn frames_arrive_with_what_belongs_to_them() {
    let (from, to, out, _lane) = joined();
    let meta = Meta { filter: vi::lane::FilterId::new(7).unwrap(), stamp: 0, hash: 0 };
    for len in [0, 60, 61, 120, 121, 1500, 2048] {
        let frame: Vec<u8> = (0..len).map(|at: usize| at.to_le_bytes()[0]).collect();
        from.transmit(out, &frame, meta, RequestId(5)).unwrap();
        let mut events = events();
        assert_eq!(to.poll(&mut events), 1);
        let Event::Received(packet) = &events[0] else { panic!("{len}: {:?}", events[0]) };
        assert_eq!((packet.len(), packet.filter().number()), (len, 7));
        assert_eq!(packet.request().is_some(), len > 120);
        assert!(packet.starts() && !packet.continues() && packet.stamp().is_none());
        let mut seen = vec![0; 2048];
        assert_eq!(packet.copy_to(&mut seen), Ok(len));
        assert_eq!(seen[..len], frame);
        let header: [u8; 64] = packet.header();
        assert_eq!(header[..len.min(64)], frame[..len.min(64)]);
        assert_eq!(packet.load_u16(len), None);
        assert_eq!(packet.load_u32(4), (len >= 8).then_some(0x0405_0607));
    }
    assert_eq!(to.statistics().received_packets, 7);
    assert_eq!((from.statistics().sent_frames, from.statistics().sent_bytes), (7, 3910));
}

#[test]
fn a_packet_in_one_piece_says_where_it_lies() {
    let (from, to, lane, _memory) = joined();
    for len in [1_u8, 48, 60, 61, 120, 121, 200] {
        let frame: Vec<u8> = (0..len).collect();
        from.transmit(lane, &frame, Meta::default(), RequestId(0)).unwrap();
        let mut events = events();
        assert!(to.poll(&mut events) > 0);
        let Event::Received(packet) = &events[0] else { panic!("{events:?}") };
        let Some((mapping, at)) = packet.in_one_piece() else {
            assert!((61..=120).contains(&len), "{len}");
            continue;
        };
        let mut seen = vec![0; frame.len()];
        mapping.read(at, &mut seen).unwrap();
        assert_eq!((seen, len <= 60 || len > 120), (frame, true));
    }
}

#[test]
fn completions_are_told_once_and_unbundled_in_order() {
    let (from, to, out, _lane) = joined();
    for n in 0..3 {
        from.transmitv_init(out, &[b"a", b"b"], Meta::default(), RequestId(n)).unwrap();
    }
    assert_eq!(frames(&to).len(), 0, "staged is not sent");
    from.transmit_push(out).unwrap();
    assert_eq!(frames(&to), vec![b"ab".to_vec(); 3]);
    let mut events = events();
    assert!(from.has_event());
    assert_eq!(from.poll(&mut events), 1);
    assert!(matches!(events[0], Event::Transmitted { count: 3 }));
    assert!(!from.has_event());
    assert_eq!(from.poll(&mut events), 0);
    let mut requests = [RequestId(9); 2];
    assert_eq!(from.transmit_unbundle(&mut requests), 2);
    assert_eq!(requests, [RequestId(0), RequestId(1)]);
    assert_eq!((from.transmit_unbundle(&mut requests), requests[0]), (1, RequestId(2)));
    assert_eq!(from.transmit_unbundle(&mut requests), 0);
}

#[test]
fn a_sender_whose_completions_are_never_fetched_is_stopped() {
    let (from, to, out, _lane) = joined();
    for _ in 0..512 {
        from.transmit(out, b"x", Meta::default(), RequestId(0)).unwrap();
        frames(&to);
    }
    let refused = from.transmit(out, b"x", Meta::default(), RequestId(0));
    assert_eq!(refused, Err(TransmitError::CompletionsWait));
    from.transmit_unbundle(&mut [RequestId(0)]);
    from.transmit(out, b"x", Meta::default(), RequestId(0)).unwrap();
}

#[test]
fn a_receiver_that_lets_nothing_go_fills_the_lane_and_it_is_counted() {
    let (from, to, out, _lane) = joined();
    let mut held = events();
    for _ in 0..8 {
        from.transmit(out, &[1; 1500], Meta::default(), RequestId(1)).unwrap();
    }
    assert_eq!(to.poll(&mut held), 8);
    let full = Err(TransmitError::Lane(SendError::Full));
    assert_eq!(from.transmit(out, &[1; 1500], Meta::default(), RequestId(2)), full);
    assert_eq!(from.transmit_space(out), Ok((16, 0)));
    assert_eq!(from.transmit_flushed(out), Ok(true));
    assert_eq!(from.statistics().full, 1);
    let Event::Received(packet) = std::mem::take(&mut held[0]) else { panic!("a packet") };
    let buffer = packet.keep().unwrap();
    to.receive_post(buffer, RequestId(1)).unwrap();
    from.transmit(out, &[2; 1500], Meta::default(), RequestId(3)).unwrap();
    assert_eq!(frames(&to), vec![vec![2; 1500]]);
}

#[test]
fn what_stands_behind_the_last_event_of_a_poll_holds_nobody_up() {
    let (from, to, out, _lane) = joined();
    let mut events = events();
    let mut send_and_poll = |count: usize| {
        (0..count).for_each(|_| from.transmit(out, &[7; 60], Meta::default(), RequestId(0)).unwrap());
        assert_eq!(from.transmit_unbundle(&mut [RequestId(0); 8]), count);
        assert_eq!(to.poll(&mut events), count);
        assert!(events[count..].iter().all(|event| matches!(event, Event::Nothing)));
    };
    // A slice that was full once, and never again: its last packets would stay there.
    send_and_poll(8);
    (0..1000).for_each(|n| send_and_poll(n % 4));
    assert_eq!(to.statistics().received_packets, 8 + 1500);
}

#[test]
fn a_jumbo_frame_is_several_packets() {
    let (from, to, out, _lane) = joined();
    let frame: Vec<u8> = (0..5000_usize).map(|at| (at / 7).to_le_bytes()[0]).collect();
    from.transmit(out, &frame, Meta::default(), RequestId(0)).unwrap();
    let mut events = events();
    assert_eq!(to.poll(&mut events), 3);
    let mut whole = Vec::new();
    for (at, event) in events[..3].iter().enumerate() {
        let Event::Received(packet) = event else { panic!("a packet") };
        assert_eq!((packet.starts(), packet.continues()), (at == 0, at < 2));
        let mut part = vec![0; packet.len()];
        packet.copy_to(&mut part).unwrap();
        whole.extend(part);
    }
    assert_eq!(whole, frame);
}

#[test]
fn buffers_of_another_domain_or_lane_cannot_be_posted() {
    let (_from, to, _, _lane) = joined();
    let lane = SharedLane::create(SHAPE).unwrap();
    let other_domain = ProtectionDomain::<Blue>::new();
    let mut other = Vi::new(&other_domain);
    let (_, mut buffers) = other.attach_receiver(lane.receiver().unwrap());
    let refused = to.receive_init(buffers.pop().unwrap(), RequestId(0)).unwrap_err();
    assert_eq!(refused.reason, PostRefusal::ForeignDomain);
    other.receive_init(refused.buffer, RequestId(0)).unwrap();
    let mut neighbour = Vi::new(&other_domain);
    let lane = SharedLane::create(SHAPE).unwrap();
    neighbour.attach_receiver(lane.receiver().unwrap());
    let refused = neighbour.receive_init(buffers.pop().unwrap(), RequestId(0)).unwrap_err();
    assert_eq!(refused.reason, PostRefusal::ForeignLane);
}

#[test]
fn software_events_come_in_order_and_overflow_is_told_once() {
    let (vi, ..) = joined();
    (0..66).for_each(|number| vi.put(number));
    let mut seen = Vec::new();
    let mut overflows = 0;
    let mut events = events();
    loop {
        let count = vi.poll(&mut events);
        for event in &events[..count] {
            match event {
                Event::Software(number) => seen.push(*number),
                Event::Overflow => overflows += 1,
                other => panic!("{other:?}"),
            }
        }
        if count == 0 {
            break;
        }
    }
    assert_eq!(seen, (0..64).collect::<Vec<u16>>());
    assert_eq!((overflows, vi.statistics().overflows), (1, 2));
}

#[test]
fn a_lane_that_is_broken_is_told_once_and_the_others_go_on() {
    let domain = ProtectionDomain::new();
    let (mut from, mut to) = (Interface::new(&domain), Interface::new(&domain));
    let (good, bad) = (SharedLane::create(SHAPE).unwrap(), SharedLane::create(SHAPE).unwrap());
    to.attach_receiver(bad.receiver().unwrap());
    to.attach_receiver(good.receiver().unwrap());
    let broken = from.attach_sender(bad.sender().unwrap(), None);
    let whole = from.attach_sender(good.sender().unwrap(), None);
    let file = SharedFile::accept(bad.as_fd().try_clone_to_owned().unwrap(), 4096).unwrap();
    let area = Mapping::new(&file, 0, file.bytes(), shm::Access::ReadWrite).unwrap();
    from.transmit(broken, b"lost", Meta::default(), RequestId(41)).unwrap();
    area.store_u64(56, u64::MAX, StoreOrder::Release).unwrap();
    // The credit of the other direction: more than was ever sent.
    let credit = usize::try_from(SHAPE.receive_bytes()).unwrap();
    area.store_u64(credit, 99, StoreOrder::Release).unwrap();
    assert_eq!(area.load_u64(credit, LoadOrder::Relaxed), Ok(99));
    from.transmit(whole, b"fine", Meta::default(), RequestId(42)).unwrap();
    let mut seen = events();
    assert_eq!(to.poll(&mut seen), 2);
    assert!(matches!(
        seen[0],
        Event::ReceiveFailed { lane: LaneId(0), reason: LaneError::Nonsense(Nonsense::Lap { .. }) }
    ));
    assert!(matches!(seen[1], Event::Received(_)));
    seen = events();
    assert_eq!(to.poll(&mut seen), 0);
    assert_eq!(to.statistics().lanes_over, 1);

    assert!(from.transmit_flushed(broken).is_err());
    assert_eq!(from.poll_senders(&mut seen), 1);
    assert!(matches!(
        seen[0],
        Event::TransmitFailed { lane, reason: LaneError::Nonsense(Nonsense::Credit { .. }) } if lane == broken
    ));
    let mut lost = Vec::new();
    from.failed_transmits(broken, |request| lost.push(request)).unwrap();
    assert_eq!(lost, [RequestId(41)]);
    drop(seen);
    let fresh = SharedLane::create(SHAPE).unwrap();
    from.replace_sender(broken, fresh.sender().unwrap()).unwrap();
    from.transmit(broken, b"again", Meta::default(), RequestId(43)).unwrap();
    assert_eq!(fresh.receiver().unwrap().take().unwrap().unwrap().body.len(), 5);
}

#[test]
fn who_waits_is_woken_by_a_frame_and_by_nothing_else() {
    let (from, to, out, _lane) = joined();
    assert!(!to.wait(Some(Duration::ZERO)).unwrap(), "nothing came");
    from.transmit(out, b"1", Meta::default(), RequestId(0)).unwrap();
    assert!(to.wait(None).unwrap());
    assert_eq!(frames(&to).len(), 1);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let mut count = 0;
            while count < 2000 {
                assert!(to.wait(None).unwrap());
                count += frames(&to).len();
            }
            to.statistics().received_packets
        });
        for n in 0..2000_u32 {
            while from.transmit(out, &n.to_le_bytes(), Meta::default(), RequestId(n)).is_err() {
                from.transmit_unbundle(&mut [RequestId(0); 64]);
                std::thread::yield_now();
            }
        }
        assert_eq!(thread.join().unwrap(), 2001);
    });
}

#[test]
fn an_interface_without_a_bell_cannot_wait() {
    let vi = Interface::new(&ProtectionDomain::new());
    assert!(vi.wait(None).is_err());
    assert_eq!(vi.transmit(LaneId(0), b"", Meta::default(), RequestId(0)), Err(TransmitError::NoSuchLane));
}

#[test]
fn an_interface_runs_over_any_window() {
    use std::sync::Arc;
    let area = Arc::new(shm::Heap::new(usize::try_from(SHAPE.receive_bytes()).unwrap()));
    let back = Arc::new(shm::Heap::new(usize::try_from(SHAPE.return_bytes()).unwrap()));
    let receiver = Receiver::new(SHAPE, Arc::clone(&area), Arc::clone(&back)).unwrap();
    let sender = vi::lane::Sender::new(SHAPE, area, back).unwrap();
    let domain = ProtectionDomain::<Blue>::new();
    let mut vi = Vi::<_, Arc<shm::Heap>, Arc<shm::Heap>>::new(&domain);
    vi.attach_receiver(receiver);
    let out = vi.attach_sender(sender, None);
    vi.transmit(out, b"to myself", Meta::default(), RequestId(0)).unwrap();
    let mut events = [Event::Nothing, Event::Nothing];
    assert_eq!(vi.poll(&mut events), 2);
    let Event::Received(packet) = &events[0] else { panic!("a packet") };
    let mut bytes = [0; 9];
    packet.read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"to myself");
    assert!(
        Window::bytes(&shm::Heap::new(8)) == 8
            && Memory::load_u64(&shm::Heap::new(8), 0, LoadOrder::Relaxed) == Ok(0)
    );
}

#[test]
fn the_next_frame_can_be_peeked_at_and_is_not_taken() {
    let (from, to, out, _lane) = joined();
    assert_eq!(to.peek(LaneId(0)), None);
    for len in [0, 30, 60, 100, 121, 2048] {
        let frame: Vec<u8> = (0..len).map(|at: usize| at.to_le_bytes()[0].wrapping_add(1)).collect();
        from.transmit(out, &frame, Meta::default(), RequestId(0)).unwrap();
        let mut beginning = [0; 40];
        beginning[..len.min(40)].copy_from_slice(&frame[..len.min(40)]);
        for _ in 0..2 {
            assert_eq!(to.peek(LaneId(0)), Some((u32::try_from(len).unwrap(), beginning)));
        }
        assert_eq!(frames(&to), [frame]);
        assert_eq!(to.peek(LaneId(0)), None);
    }
    assert_eq!(to.peek(LaneId(1)), None, "there is no such lane");
}

#[test]
fn merged_receives_tell_of_the_lane_and_unbundle_its_packets() {
    let (from, to, out, lane) = joined();
    to.merge_receives(true);
    let fetch = |most| {
        let mut lengths = Vec::new();
        let count = to.receive_unbundle(LaneId(0), most, |packet| lengths.push(packet.len()));
        assert_eq!(count, lengths.len());
        lengths
    };
    for len in [60, 100, 1500] {
        from.transmit(out, &vec![1; len], Meta::default(), RequestId(0)).unwrap();
    }
    // Told again until they are fetched.
    for _ in 0..2 {
        let mut events = events();
        assert_eq!(to.poll(&mut events), 1);
        assert!(matches!(events[0], Event::ReceivedMany { lane: LaneId(0) }), "{:?}", events[0]);
    }
    assert_eq!((fetch(2), fetch(8), fetch(8)), (vec![60, 100], vec![1500], vec![]));
    assert_eq!(to.statistics().received_packets, 3);
    assert_eq!(to.poll(&mut events()), 0);
    assert_eq!(to.receive_unbundle(LaneId(7), 8, drop), 0, "there is no such lane");
    // What was let go is the sender's again, as if it had been polled.
    for _ in 0..10 {
        for _ in 0..8 {
            from.transmit(out, &[2; 1000], Meta::default(), RequestId(0)).unwrap();
        }
        assert_eq!(fetch(9).len(), 8);
        assert_eq!(to.poll(&mut events()), 0);
    }
    // A lane that is over is told by a poll, once.
    let file = SharedFile::accept(lane.as_fd().try_clone_to_owned().unwrap(), 4096).unwrap();
    let area = Mapping::new(&file, 0, 4096, shm::Access::ReadWrite).unwrap();
    (0..512).for_each(|word| area.store_u64(word * 8, u64::MAX, StoreOrder::Release).unwrap());
    for told in [1, 0] {
        assert_eq!(fetch(9), []);
        assert_eq!(to.poll(&mut events()), told);
    }
}

#[test]
fn a_lane_that_takes_the_number_of_one_that_went_is_told_of_by_that_number() {
    let (from, mut to, out, _first) = joined();
    let second = SharedLane::create(SHAPE).unwrap();
    let mut other = Interface::new(&ProtectionDomain::new());
    let last = other.attach_sender(second.sender().unwrap(), None);
    to.attach_receiver(second.receiver().unwrap());
    from.transmit(out, &[1; 60], Meta::default(), RequestId(0)).unwrap();
    assert!(!to.detach_receiver(LaneId(0)), "something waits in it");
    assert_eq!(frames(&to).len(), 1);
    assert!(to.detach_receiver(LaneId(0)));
    other.transmit(last, &[2; 60], Meta::default(), RequestId(0)).unwrap();
    let mut events = events();
    to.merge_receives(true);
    assert_eq!(to.poll(&mut events), 1);
    let [Event::ReceivedMany { lane }, ..] = events else { panic!("{events:?}") };
    let mut lanes = Vec::new();
    assert_eq!(to.receive_unbundle(lane, 8, |packet| lanes.push(packet.lane())), 1);
    assert_eq!(lanes, [LaneId(0)]);
}
