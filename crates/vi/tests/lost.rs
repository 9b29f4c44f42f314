//! What an interface says of frames that may be lost: those that were not let go, in their order, and no other.

use proptest::prelude::*;
use std::collections::VecDeque;
use vi::lane::{Geometry, Meta, SharedLane};
use vi::{Event, Packet, ProtectionDomain, RequestId, TransmitError, Vi};

#[derive(Debug)]
struct Blue;

const LENGTHS: [usize; 8] = [64, 64, 61, 60, 40, 100, 150, 400];

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn frames_that_were_not_let_go_may_be_lost(
        actions in proptest::collection::vec((0_u8..8, any::<u8>()), 0..200), slots in 1_u32..7,
    ) {
        let shape = Geometry {
            slots: 1 << slots, buffers: 4, buffer_bytes: 192, region: 3, wakes: false, stamps: false,
        };
        let domain = ProtectionDomain::<Blue>::new();
        let (mut from, mut to) = (Vi::new(&domain), Vi::new(&domain));
        let lane = SharedLane::create(shape).unwrap();
        let out = from.attach_sender(lane.sender().unwrap(), None);
        let (_, buffers) = to.attach_receiver(lane.receiver().unwrap());
        for buffer in buffers {
            to.receive_init(buffer, RequestId(0)).unwrap();
        }
        to.receive_push();
        let mut number = 0;
        // Numbers of what was sent and not taken, and of what was taken and not let go.
        let mut sent: VecDeque<RequestId> = VecDeque::new();
        let mut held: VecDeque<(RequestId, Packet<'_, Blue>)> = VecDeque::new();
        let mut done = [RequestId(0); 64];
        for (what, much) in actions {
            let frame = vec![much; LENGTHS[usize::from(much) % LENGTHS.len()]];
            let request = RequestId(number + 1);
            let handed = match what {
                0 | 1 => from.transmit_init(out, &frame, Meta::default(), request),
                2 => from.transmit(out, &frame, Meta::default(), request),
                3 => from.transmitv_init(out, &[&frame[..7], &frame[7..]], Meta::default(), request),
                4 => from.transmit_ctpio(out, &frame[..frame.len().min(192)], Meta::default(), request),
                5 => {
                    from.transmit_push(out).unwrap();
                    continue;
                }
                6 => {
                    (0..much % 4).for_each(|_| drop(held.pop_front()));
                    continue;
                }
                _ => {
                    from.transmit_push(out).unwrap();
                    let mut events: [Event<'_, Blue>; 4] = std::array::from_fn(|_| Event::Nothing);
                    while to.poll(&mut events) > 0 {
                        for event in &mut events {
                            let Event::Received(packet) = std::mem::take(event) else { continue };
                            let request = if packet.continues() { sent[0] } else { sent.pop_front().unwrap() };
                            held.push_back((request, packet));
                        }
                    }
                    // The sender is told what was let go.
                    from.transmit_space(out).unwrap();
                    let mut expected: Vec<RequestId> = held.iter().map(|(request, _)| *request).collect();
                    // A buffer is let go by itself: its event was taken with the frame.
                    let short = |packet: &Packet<'_, Blue>| packet.request().is_none();
                    expected.drain(..held.iter().take_while(|(_, packet)| !short(packet)).count());
                    expected.extend(&sent);
                    expected.dedup();
                    let mut lost = Vec::new();
                    from.failed_transmits(out, |request| lost.push(request)).unwrap();
                    prop_assert_eq!(lost, expected);
                    continue;
                }
            };
            match handed {
                Ok(()) => {
                    number += 1;
                    sent.push_back(request);
                }
                Err(TransmitError::Lane(_)) => {}
                Err(error) => panic!("{error}"),
            }
            while from.transmit_unbundle(&mut done) > 0 {}
        }
    }
}
