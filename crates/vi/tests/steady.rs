//! In steady state nothing is allocated.

use vi::checksum::Discards;
use vi::clock::Keeper;
use vi::lane::{Geometry, Meta, SharedLane};
use vi::{Event, ProtectionDomain, RequestId, TimedEvent, TimedVi, Vi};

#[derive(Debug)]
struct Domain;

#[test]
fn sending_and_receiving_allocate_nothing() {
    let domain = ProtectionDomain::<Domain>::new();
    let (mut from, mut to) = (Vi::<Domain>::new(&domain), Vi::<Domain>::new(&domain));
    let lane = SharedLane::create(Geometry::default()).unwrap();
    let out = from.attach_sender(lane.sender().unwrap(), None);
    let (_, buffers) = to.attach_receiver(lane.receiver().unwrap());
    for buffer in buffers {
        to.receive_init(buffer, RequestId(0)).unwrap();
    }
    to.receive_push();
    let frame = [7; 4000];
    let mut seen = vec![0; 4000];
    let mut received = 0;
    let mut round = |len: usize| {
        let mut events: [Event<'_, Domain>; 16] = std::array::from_fn(|_| Event::Nothing);
        for n in 0..8 {
            from.transmitv_init(
                out,
                &[&frame[..len / 2], &frame[len / 2..len]],
                Meta::default(),
                RequestId(n),
            )
            .unwrap();
        }
        from.transmit_push(out).unwrap();
        let count = to.poll(&mut events);
        for event in &events[..count] {
            if let Event::Received(packet) = event {
                packet.copy_to(&mut seen).unwrap();
                received += 1;
            }
        }
        from.transmit_unbundle(&mut [RequestId(0); 16]);
        to.put(1);
        to.poll(&mut events)
    };
    // Once for what is made on first use, then for the count.
    round(100);
    let counted = allocation_counter::measure(|| {
        for len in [0, 60, 64, 120, 121, 1500, 4000] {
            for _ in 0..200 {
                round(len);
            }
        }
    });
    assert_eq!((counted.count_total, counted.bytes_total), (0, 0));
    // A frame of 4000 bytes is two packets.
    assert_eq!(received, 8 + 200 * 8 * 8);
}

#[test]
fn times_and_discards_allocate_nothing_once_the_longest_frame_was_seen() {
    let domain = ProtectionDomain::<Domain>::new();
    let (mut from, mut to) = (Vi::<Domain>::new(&domain), Vi::<Domain>::new(&domain));
    let lane = SharedLane::create(Geometry { stamps: true, ..Geometry::default() }).unwrap();
    let out = from.attach_sender(lane.sender().unwrap(), None);
    let (_, buffers) = to.attach_receiver(lane.receiver().unwrap());
    for buffer in buffers {
        to.receive_init(buffer, RequestId(0)).unwrap();
    }
    to.receive_push();
    let clock = Keeper::new().clock();
    let (timed, taker) = (TimedVi::new(&from, clock.clone()), TimedVi::new(&to, clock));
    taker.set_discards(Discards::ALL);
    let (mut bad, mut good) = (vec![2; 9000], vec![2; 9000]);
    // IPv4 that promises more than there is, and what is not IP.
    bad[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0xFF, 0xFF, 0, 0, 0, 0, 64, 17]);
    good[12] = 0x12;
    let mut discarded = 0;
    let mut round = |len: usize| {
        let mut events: [TimedEvent<'_, Domain>; 16] = std::array::from_fn(|_| TimedEvent::Nothing);
        for frame in [&bad, &good] {
            timed.transmit(out, &frame[..len], Meta::default(), RequestId(0)).unwrap();
        }
        let count = taker.poll(&mut events);
        let wrong = |event: &&TimedEvent<'_, Domain>| matches!(event, TimedEvent::Discarded { .. });
        discarded += events[..count].iter().filter(wrong).count();
        from.transmit_unbundle(&mut [RequestId(0); 16]);
    };
    // Once in one packet and once in several.
    round(1500);
    round(9000);
    let counted = allocation_counter::measure(|| {
        for len in [60, 100, 1500, 4000, 9000] {
            (0..200).for_each(|_| round(len));
        }
    });
    assert_eq!((counted.count_total, counted.bytes_total), (0, 0));
    assert_eq!(discarded, 2 + 5 * 200);
}
