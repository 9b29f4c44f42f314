//! In steady state nothing is allocated.

use vi::lane::{Geometry, Meta, SharedLane};
use vi::{Event, ProtectionDomain, RequestId, Vi};

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
