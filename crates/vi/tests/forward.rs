//! Forwarding between two links copies each payload once: from the buffer where it arrived into the buffer where it goes.

use shm::Copied;
use vi::lane::{Geometry, Meta, SharedLane};
use vi::{Event, LaneId, ProtectionDomain, RequestId, Vi};

#[derive(Debug)]
struct Left;
#[derive(Debug)]
struct Right;

/// A lane between two interfaces, whose buffers are posted.
fn join<A, B>(from: &mut Vi<A>, to: &mut Vi<B>) -> LaneId {
    let lane = SharedLane::create(Geometry::default()).unwrap();
    let (_, buffers) = to.attach_receiver(lane.receiver().unwrap());
    for buffer in buffers {
        assert!(to.receive_init(buffer, RequestId(0)).is_ok());
    }
    to.receive_push();
    from.attach_sender(lane.sender().unwrap(), None)
}

/// Sends everything on that came, and lets it go; how many packets.
fn forward(from: &Vi<Left>, to: &Vi<Right>, out: LaneId) -> usize {
    let mut events: [Event<'_, Left>; 32] = std::array::from_fn(|_| Event::Nothing);
    let count = from.poll(&mut events);
    for event in &events[..count] {
        let Event::Received(packet) = event else { panic!("{event:?}") };
        to.transmit_init_packet(out, packet, Meta::default(), RequestId(0)).unwrap();
    }
    to.transmit_push(out).unwrap();
    to.transmit_unbundle(&mut [RequestId(0); 32]);
    count
}

#[test]
fn a_forwarded_payload_is_copied_once() {
    let (left, right) = (ProtectionDomain::<Left>::new(), ProtectionDomain::<Right>::new());
    let mut source = Vi::<Left>::new(&left);
    let (mut inside, mut outside) = (Vi::<Left>::new(&left), Vi::<Right>::new(&right));
    let mut sink = Vi::<Right>::new(&right);
    let first = join(&mut source, &mut inside);
    let second = join(&mut outside, &mut sink);
    let lengths = [121, 128, 500, 1500, 2047, 2048];
    let mut seen = vec![0; 2048];
    for round in 0..100_u8 {
        let frame = |len: usize| (0..len).map(|at| at.to_le_bytes()[0] ^ round).collect::<Vec<u8>>();
        for len in lengths {
            source.transmit(first, &frame(len), Meta::default(), RequestId(0)).unwrap();
        }
        source.transmit_unbundle(&mut [RequestId(0); 8]);
        let before = Copied::by_this_thread();
        assert_eq!(forward(&inside, &outside, second), lengths.len());
        let after = Copied::by_this_thread();
        if let (Some(before), Some(after)) = (before, after) {
            // Once across, and of each frame the 56 bytes of its event beside the tag: read there, written here.
            let frames = lengths.len() as u64;
            assert_eq!(after.transferred - before.transferred, lengths.iter().sum::<usize>() as u64);
            assert_eq!(
                (after.loaded - before.loaded, after.stored - before.stored),
                (56 * frames, 56 * frames)
            );
        }
        let mut events: [Event<'_, Right>; 8] = std::array::from_fn(|_| Event::Nothing);
        assert_eq!(sink.poll(&mut events), lengths.len());
        for (event, len) in events.iter().zip(lengths) {
            let Event::Received(packet) = event else { panic!("{event:?}") };
            assert_eq!(packet.copy_to(&mut seen), Ok(len));
            assert_eq!(seen[..len], frame(len));
        }
    }
}

#[test]
fn short_and_jumbo_frames_are_forwarded_too() {
    let (left, right) = (ProtectionDomain::<Left>::new(), ProtectionDomain::<Right>::new());
    let (mut source, mut inside) = (Vi::<Left>::new(&left), Vi::<Left>::new(&left));
    let (mut outside, mut sink) = (Vi::<Right>::new(&right), Vi::<Right>::new(&right));
    let first = join(&mut source, &mut inside);
    let second = join(&mut outside, &mut sink);
    let mut seen = vec![0; 2048];
    for len in [0_u8, 1, 60, 61, 64, 120] {
        let frame = vec![len ^ 0x55; len.into()];
        let len = frame.len();
        source.transmit(first, &frame, Meta::default(), RequestId(0)).unwrap();
        assert_eq!(forward(&inside, &outside, second), 1);
        let mut events = [Event::Nothing];
        assert_eq!(sink.poll(&mut events), 1);
        let Event::Received(packet) = &events[0] else { panic!("{events:?}") };
        assert_eq!(packet.copy_to(&mut seen), Ok(len));
        assert_eq!(seen[..len], frame);
    }
    // A frame over two buffers arrives as two packets; each is forwarded as what it is, a frame of its own.
    source.transmit(first, &[9; 4000], Meta::default(), RequestId(0)).unwrap();
    assert_eq!(forward(&inside, &outside, second), 2);
}
