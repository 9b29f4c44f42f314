//! What an interface says of frames that may be lost: those that were not let go, in their order, and no other.

use proptest::prelude::*;
use shm::{Heap, LoadOrder, Memory, StoreOrder, Window, WindowError, WindowKind};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vi::lane::{Geometry, Meta, Receiver, Sender, SharedLane};
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

/// Memory, or a way into it, that refuses every access after so many: the link is down then.
struct Ending {
    memory: Arc<Heap>,
    left: AtomicU64,
}

impl Ending {
    fn new(memory: &Arc<Heap>, left: u64) -> Self {
        Self { memory: Arc::clone(memory), left: AtomicU64::new(left) }
    }

    fn access(&self) -> Result<&Heap, WindowError> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(|_| &*self.memory).map_err(|_| WindowError::Closed)
    }
}

impl Window for Ending {
    fn bytes(&self) -> usize {
        self.memory.bytes()
    }
    fn kind(&self) -> WindowKind {
        WindowKind::Mapped
    }
    fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.access()?.write(at, data)
    }
    fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
        self.access()?.store_u32(at, value, order)
    }
    fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
        self.access()?.store_u64(at, value, order)
    }
    fn flush(&self) -> Result<(), WindowError> {
        self.memory.flush()
    }
    fn settle(&self) -> Result<(), WindowError> {
        self.memory.settle()
    }
}

impl Memory for Ending {
    fn read(&self, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        self.access()?.read(at, out)
    }
    fn load_u32(&self, at: usize, order: LoadOrder) -> Result<u32, WindowError> {
        self.access()?.load_u32(at, order)
    }
    fn load_u64(&self, at: usize, order: LoadOrder) -> Result<u64, WindowError> {
        self.access()?.load_u64(at, order)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// A lane that ends at any store of its sender, or at any look: what was taken over and not let go is told as lost, and nothing else; of a frame that was
    /// refused nothing comes.
    #[test]
    fn a_lane_that_ends_tells_of_what_it_has_taken_over(
        actions in proptest::collection::vec((0_u8..9, any::<u8>()), 0..200), slots in 1_u32..7,
        buffers in 0_u32..12, stores in 0_u64..300, loads in 0_u64..300,
    ) {
        let shape =
            Geometry { slots: 1 << slots, buffers, buffer_bytes: 192, region: 3, wakes: true, stamps: false };
        let heap = |bytes: u64| Arc::new(Heap::new(usize::try_from(bytes).unwrap()));
        let (area, back) = (heap(shape.receive_bytes()), heap(shape.return_bytes()));
        let domain = ProtectionDomain::<Blue>::new();
        let mut from = Vi::<Blue, Ending, Ending>::new(&domain);
        let mut to = Vi::<Blue, Ending, Ending>::new(&domain);
        let sender = Sender::new(shape, Ending::new(&area, stores), Ending::new(&back, loads)).unwrap();
        let out = from.attach_sender(sender, None);
        let receiver = Receiver::new(shape, Ending::new(&area, u64::MAX), Ending::new(&back, u64::MAX)).unwrap();
        let (_, posted) = to.attach_receiver(receiver);
        posted.into_iter().for_each(|buffer| to.receive_init(buffer, RequestId(0)).unwrap());
        to.receive_push();
        // Numbers and lengths of what was sent and not taken.
        let mut sent: VecDeque<(RequestId, usize)> = VecDeque::new();
        let (mut came, mut number) = (0, 0);
        let mut done = [RequestId(0); 64];
        let mut receive = |sent: &mut VecDeque<(RequestId, usize)>| {
            let mut events: [_; 4] = std::array::from_fn(|_| Event::Nothing);
            while to.poll(&mut events) > 0 {
                for event in &mut events {
                    let Event::Received(packet) = std::mem::take(event) else { continue };
                    came += packet.len();
                    if !packet.continues() {
                        let (_, len) = sent.pop_front().expect("a frame that was refused");
                        assert_eq!(std::mem::take(&mut came), len);
                    }
                }
            }
            // The sender is told what was let go.
            to.poll(&mut events);
        };
        for (what, much) in actions {
            let most = if matches!(what, 5 | 6) { 192 } else { usize::MAX };
            let frame = vec![much; LENGTHS[usize::from(much) % LENGTHS.len()].min(most)];
            number += 1;
            let request = RequestId(number);
            let handed = match what {
                0 | 1 => from.transmit_init(out, &frame, Meta::default(), request),
                2 | 3 => from.transmit(out, &frame, Meta::default(), request),
                4 => from.transmitv_init(out, &[&frame[..7], &frame[7..]], Meta::default(), request),
                5 => from.transmit_ctpio(out, &frame, Meta::default(), request),
                6 => {
                    let mut pio = from.pio(out, &frame);
                    let sent = pio.send(&from, Meta::default(), request);
                    pio.discard(&from).unwrap();
                    sent
                }
                7 => {
                    let _over = from.transmit_push(out);
                    continue;
                }
                _ => {
                    receive(&mut sent);
                    let _over = from.transmit_space(out);
                    continue;
                }
            };
            match handed {
                Ok(()) => sent.push_back((request, frame.len())),
                Err(TransmitError::Lane(_)) => {}
                Err(error) => panic!("{error}"),
            }
            while from.transmit_unbundle(&mut done) > 0 {}
            if from.transmit_failure(out).is_some() {
                break;
            }
        }
        let _over = (from.transmit_push(out), from.transmit_space(out));
        let over = from.transmit_failure(out).is_some();
        let mut lost = Vec::new();
        from.failed_transmits(out, |request| lost.push(request)).unwrap();
        // What was let go since the sender looked last may be told of, too.
        let expected: Vec<RequestId> = sent.iter().map(|(request, _)| *request).collect();
        prop_assert!(lost.ends_with(&expected), "{lost:?} {expected:?}");
        prop_assert!(lost.is_sorted(), "{lost:?}");
        receive(&mut sent);
        prop_assert!(over || sent.is_empty());
    }
}
