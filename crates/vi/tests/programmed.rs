//! Frames that lie with the receiver before they are sent, and frames that go on.

use vi::lane::{Geometry, Meta, SendError, SharedLane};
use vi::{Event, LaneId, PacketBuffer, ProtectionDomain, RequestId, TransmitError, Vi};

#[derive(Debug)]
struct Domain;

const LANE: LaneId = LaneId(0);
const META: Meta = Meta { filter: vi::lane::FilterId::NONE, stamp: 0, hash: 0 };

fn joined() -> (Vi<Domain>, Vi<Domain>) {
    let domain = ProtectionDomain::new();
    let (mut from, mut to) = (Vi::new(&domain), Vi::new(&domain));
    let lane = SharedLane::create(Geometry { slots: 8, buffers: 4, ..Geometry::default() }).unwrap();
    from.attach_sender(lane.sender().unwrap(), None);
    let (_, buffers): (_, Vec<PacketBuffer<Domain>>) = to.attach_receiver(lane.receiver().unwrap());
    buffers.into_iter().for_each(|buffer| to.receive_init(buffer, RequestId(0)).unwrap());
    to.receive_push();
    (from, to)
}

fn received(vi: &Vi<Domain>) -> Vec<Vec<u8>> {
    let mut events: [Event<'_, Domain>; 8] = std::array::from_fn(|_| Event::Nothing);
    let count = vi.poll(&mut events);
    let frames = events[..count].iter().map(|event| {
        let Event::Received(packet) = event else { panic!("{event:?}") };
        let mut frame = vec![0; packet.len()];
        packet.copy_to(&mut frame).unwrap();
        frame
    });
    frames.collect()
}

#[test]
fn a_staged_frame_is_patched_and_sent_again_and_again() {
    let (from, to) = joined();
    let mut pio = from.pio(LANE, &[1; 200]);
    for n in 0..20 {
        pio.stage(&from).unwrap();
        assert_eq!(from.transmit_space(LANE).unwrap().1, 3);
        pio.patch(&from, 199, &[n]).unwrap();
        assert!(pio.patch(&from, 200, &[n]).is_err());
        assert_eq!(received(&to), Vec::<Vec<u8>>::new());
        from.transmit(LANE, b"in between", META, RequestId(0)).unwrap();
        pio.send(&from, META, RequestId(0)).unwrap();
        let mut expected = vec![1; 200];
        expected[199] = n;
        assert_eq!(received(&to), [b"in between".to_vec(), expected]);
        received(&to);
    }
    pio.stage(&from).unwrap();
    pio.discard(&from).unwrap();
    assert_eq!(from.transmit_space(LANE).unwrap(), (8, 4));
    let mut long = from.pio(LANE, &[1; 2049]);
    assert!(matches!(long.stage(&from), Err(TransmitError::Lane(SendError::TooLong { .. }))));
    assert_eq!(from.transmit_space(LANE).unwrap(), (8, 4), "the buffer came back");
}

#[test]
fn alternatives_stop_go_and_discard() {
    let (from, to) = joined();
    let (mut buy, mut sell) = (from.alternative(LANE, 2), from.alternative(LANE, 2));
    for n in 0..2 {
        buy.stage(&from, &[n; 100], META, RequestId(n.into())).unwrap();
        sell.stage(&from, &[10 + n; 100], META, RequestId(n.into())).unwrap();
    }
    let full = Err(TransmitError::Lane(SendError::Full));
    assert_eq!(buy.stage(&from, b"x", META, RequestId(0)), full);
    assert!(received(&to).is_empty());
    sell.discard(&from).unwrap();
    buy.go(&from).unwrap();
    assert_eq!((buy.frames(), sell.frames()), (0, 0));
    assert_eq!(received(&to), [[0; 100], [1; 100]]);
    assert_eq!(from.transmit_unbundle(&mut [RequestId(0); 8]), 2);
    // No slot is free: what is staged stays, in order.
    buy.stage(&from, &[5; 100], META, RequestId(0)).unwrap();
    buy.stage(&from, &[6; 100], META, RequestId(0)).unwrap();
    received(&to);
    (0..7).for_each(|_| from.transmit(LANE, b"short", META, RequestId(0)).unwrap());
    assert_eq!(buy.go(&from), full);
    assert_eq!(buy.frames(), 1);
    assert_eq!(received(&to).pop(), Some(vec![5; 100]));
    received(&to);
    buy.go(&from).unwrap();
    assert_eq!(received(&to), [[6; 100]]);
}

#[test]
fn a_cut_through_frame_can_be_peeked_at_and_comes_once() {
    let (from, to) = joined();
    for n in 0..20 {
        from.transmit_ctpio(LANE, &[n; 1500], META, RequestId(0)).unwrap();
        assert_eq!(to.peek(LANE), Some((1500, [n; 40])));
        assert_eq!(received(&to), [vec![n; 1500]]);
        assert_eq!(to.peek(LANE), None);
        received(&to);
    }
    assert!(from.transmit_ctpio(LANE, &[0; 2049], META, RequestId(0)).is_err());
    assert_eq!(from.transmit_space(LANE).unwrap(), (8, 4));
    assert_eq!(to.peek(LaneId(7)), None);
}

#[test]
fn a_packet_goes_on_to_another_lane() {
    let ((first, middle), (onward, last)) = (joined(), joined());
    for len in [0, 60, 120, 121, 1000, 2048] {
        let frame: Vec<u8> = (0..len).map(|at: usize| (at * 3).to_le_bytes()[0]).collect();
        first.transmit(LANE, &frame, META, RequestId(0)).unwrap();
        let mut events = [Event::Nothing];
        assert_eq!(middle.poll(&mut events), 1);
        let Event::Received(packet) = &events[0] else { panic!("a packet") };
        onward.transmit_init_packet(LANE, packet, META, RequestId(0)).unwrap();
        onward.transmit_push(LANE).unwrap();
        assert_eq!(received(&last), [frame]);
        drop(events);
        assert!(received(&middle).is_empty() && received(&last).is_empty());
    }
}
