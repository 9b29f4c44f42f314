//! Polls of every length, and merged ones, beside a model: each event is told once, frames in the order of their lane, and what stands in the
//! slice holds nobody up.

use proptest::prelude::*;
use std::collections::VecDeque;
use vi::lane::{Geometry, Meta, SendError, SharedLane};
use vi::{Event, LaneId, ProtectionDomain, RequestId, TransmitError, Vi};

#[derive(Debug)]
struct Blue;

const LENGTHS: [usize; 8] = [60, 64, 40, 61, 100, 64, 200, 600];

/// An interface that sends on so many lanes to another one, which sends on one to nobody: for its completions.
fn pair(lanes: usize, shape: Geometry) -> (Vi<Blue>, Vi<Blue>, LaneId) {
    let domain = ProtectionDomain::new();
    let (mut from, mut to) = (Vi::new(&domain), Vi::new(&domain));
    for _ in 0..lanes {
        let lane = SharedLane::create(shape).unwrap();
        from.attach_sender(lane.sender().unwrap(), None);
        let (_, buffers) = to.attach_receiver(lane.receiver().unwrap());
        buffers.into_iter().for_each(|buffer| to.receive_init(buffer, RequestId(0)).unwrap());
    }
    to.receive_push();
    let nowhere = SharedLane::create(Geometry { slots: 1024, ..shape }).unwrap();
    let nowhere = to.attach_sender(nowhere.sender().unwrap(), None);
    (from, to, nowhere)
}

/// What was sent and not told of.
#[derive(Default)]
struct Owed {
    frames: Vec<VecDeque<Vec<u8>>>,
    numbers: VecDeque<u16>,
    /// Completions that no event has told of, and those that were not fetched.
    untold: usize,
    unfetched: VecDeque<RequestId>,
    /// How much of a frame in several packets has come.
    came: Vec<usize>,
}

impl Owed {
    fn told(&mut self, event: &Event<'_, Blue>) {
        match event {
            Event::Received(packet) => {
                let lane = packet.lane().0 as usize;
                let mut bytes = vec![0; packet.len()];
                packet.copy_to(&mut bytes).unwrap();
                let came = self.came[lane];
                let frame = self.frames[lane].front().expect("a frame that nobody sent");
                assert_eq!(
                    (packet.starts(), bytes.as_slice()),
                    (came == 0, &frame[came..came + bytes.len()])
                );
                self.came[lane] = if packet.continues() { came + bytes.len() } else { 0 };
                if !packet.continues() {
                    assert_eq!(came + bytes.len(), frame.len());
                    self.frames[lane].pop_front();
                }
            }
            Event::Transmitted { count } => {
                assert!(self.untold > 0, "told twice");
                assert_eq!(*count, self.unfetched.len());
                self.untold = 0;
            }
            Event::Software(number) => assert_eq!(Some(*number), self.numbers.pop_front()),
            event => panic!("{event:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn each_event_is_told_once(
        actions in proptest::collection::vec((0_u8..9, any::<u8>()), 0..300),
        slots in 1_u32..6, lanes in 1_usize..4, stamps: bool, longest in 1_usize..5,
    ) {
        let shape =
            Geometry { slots: 1 << slots, buffers: 9, buffer_bytes: 256, region: 3, wakes: false, stamps };
        let (from, to, nowhere) = pair(lanes, shape);
        let mut owed = Owed { frames: vec![VecDeque::new(); lanes], came: vec![0; lanes], ..Owed::default() };
        let mut slice: Vec<Event<'_, Blue>> = std::iter::repeat_with(|| Event::Nothing).take(longest).collect();
        let mut number = 0_u32;
        let mut poll = |owed: &mut Owed, most: usize| {
            let count = to.poll(&mut slice[..most]);
            for event in &slice[..count] {
                let &Event::ReceivedMany { lane } = event else {
                    owed.told(event);
                    continue;
                };
                let mut given = 0;
                let unbundled = to.receive_unbundle(lane, 1 + count, |packet| {
                    owed.told(&Event::Received(packet));
                    given += 1;
                });
                assert!(unbundled == given && given > 0, "a lane that has packets gave none");
            }
            assert!(slice[count..most].iter().all(|event| matches!(event, Event::Nothing)));
            count
        };
        for (what, much) in actions {
            number += 1;
            let lane = usize::from(much) % lanes;
            let out = LaneId(u32::try_from(lane).unwrap());
            match what {
                0..3 => {
                    let frame = vec![number.to_le_bytes()[0]; LENGTHS[usize::from(much) % LENGTHS.len()]];
                    let handed = if what == 0 {
                        from.transmit_init(out, &frame, Meta::default(), RequestId(number))
                    } else {
                        from.transmit(out, &frame, Meta::default(), RequestId(number))
                    };
                    match handed {
                        Ok(()) => owed.frames[lane].push_back(frame),
                        Err(TransmitError::Lane(SendError::Full | SendError::TooLong { .. })) => {}
                        Err(error) => panic!("{error}"),
                    }
                    while from.transmit_unbundle(&mut [RequestId(0); 8]) > 0 {}
                }
                3 => {
                    let number = u16::from(much);
                    if owed.numbers.len() < 60 {
                        to.put(number);
                        owed.numbers.push_back(number);
                    }
                }
                4 => {
                    if to.transmit(nowhere, &[0; 60], Meta::default(), RequestId(number)).is_ok() {
                        owed.untold += 1;
                        owed.unfetched.push_back(RequestId(number));
                    }
                }
                5 => {
                    let mut done = [RequestId(0); 300];
                    let count = to.transmit_unbundle(&mut done[..usize::from(much)]);
                    assert_eq!(count, owed.unfetched.len().min(usize::from(much)));
                    assert!(owed.unfetched.drain(..count).eq(done[..count].iter().copied()));
                    // What was fetched needs not be told of.
                    owed.untold = owed.untold.min(owed.unfetched.len());
                }
                6 => to.merge_receives(much % 2 == 0),
                _ => {
                    poll(&mut owed, usize::from(much) % (longest + 1));
                }
            }
        }
        (0..lanes).for_each(|lane| from.transmit_push(LaneId(u32::try_from(lane).unwrap())).unwrap());
        while poll(&mut owed, longest) > 0 {}
        prop_assert!(owed.frames.iter().all(VecDeque::is_empty) && owed.numbers.is_empty() && owed.untold == 0);
        // What stood in the slice is let go, and the next poll says so: there is room for all that ever fits.
        poll(&mut owed, longest);
        for lane in 0..lanes {
            let lane = LaneId(u32::try_from(lane).unwrap());
            prop_assert_eq!(from.transmit_space(lane), Ok((shape.slots, shape.buffers)));
        }
    }
}

/// Who polls for one event at a time hears each lane as often as any other.
#[test]
fn polls_for_one_event_go_from_lane_to_lane() {
    let shape = Geometry { slots: 64, buffers: 0, ..Geometry::default() };
    let (from, to, _) = pair(3, shape);
    for lane in [0, 1, 2] {
        (0..30).for_each(|_| from.transmit(LaneId(lane), &[7; 60], Meta::default(), RequestId(0)).unwrap());
    }
    let mut events = [Event::Nothing];
    for n in 0..90 {
        assert_eq!(to.poll(&mut events), 1);
        let [Event::Received(packet)] = &events else { panic!("{events:?}") };
        assert_eq!(packet.lane(), LaneId(n % 3));
    }
    assert_eq!(to.poll(&mut events), 0);
}
