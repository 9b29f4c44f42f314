//! What a lane carries, and what it does when the other end writes nonsense.
#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use super::event::Line;
use super::{Address, BadGeometry, Body, Geometry, Holding, LaneError, LaneOver, Meta, Nonsense, PostError};
use super::{Receiver, SendError, Sender};
use proptest::prelude::*;
use shm::{Heap, Memory, StoreOrder, Window, WindowError};
use std::sync::Arc;

type Area = Arc<Heap>;

struct Lane {
    sender: Sender<Area, Area>,
    receiver: Receiver<Area, Area>,
    receive_area: Area,
    return_area: Area,
}

const SHAPE: Geometry =
    Geometry { slots: 4, buffers: 3, buffer_bytes: 128, region: 9, wakes: true, stamps: false };

fn lane(geometry: Geometry) -> Lane {
    let receive_area = Arc::new(Heap::new(geometry.receive_bytes() as usize));
    let return_area = Arc::new(Heap::new(geometry.return_bytes() as usize));
    Lane {
        sender: Sender::new(geometry, Arc::clone(&receive_area), Arc::clone(&return_area)).unwrap(),
        receiver: Receiver::new(geometry, Arc::clone(&receive_area), Arc::clone(&return_area)).unwrap(),
        receive_area,
        return_area,
    }
}

fn with_buffers(geometry: Geometry) -> Lane {
    let lane = lane(geometry);
    (0..geometry.buffers).for_each(|index| lane.receiver.post(index).unwrap());
    lane.receiver.push().unwrap();
    lane
}

/// Takes a whole frame, over as many events as it has, and lets it go.
fn frame(receiver: &Receiver<Area, Area>) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let body = receiver.take().unwrap()?.body;
        let len = body.len();
        assert_eq!(body.starts(), whole.is_empty());
        let mut part = vec![0; len];
        receiver.read(&body, 0, &mut part).unwrap();
        assert_eq!(receiver.read(&body, len, &mut [0]), Err(WindowError::OutOfBounds));
        receiver.let_go(&body).unwrap();
        whole.extend(part);
        if !body.continues() {
            return Some(whole);
        }
    }
}

#[test]
fn frames_of_every_length_arrive_in_order_through_many_laps() {
    for stamps in [false, true] {
        let lane = with_buffers(Geometry { stamps, ..SHAPE });
        for len in (0..=384).chain((0..=384).rev()) {
            let data: Vec<u8> = (0..len).map(|at: usize| (at + len).to_le_bytes()[0]).collect();
            let meta = Meta { stamp: 5, ..Meta::default() };
            lane.sender.stage(&[&data[..len / 3], &[], &data[len / 3..]], meta).unwrap();
            assert_eq!(frame(&lane.receiver), None, "staged is not sent");
            lane.sender.push().unwrap();
            assert_eq!(frame(&lane.receiver), Some(data), "{len}");
            assert_eq!(frame(&lane.receiver), None);
        }
    }
}

/// 255 laps of slots and of posts, and more: by the usual ways and the others, in the smallest lanes.
#[test]
fn laps_begin_anew_in_the_smallest_lanes() {
    for (slots, buffers, stamps) in [
        (2, 0, false),
        (2, 1, false),
        (2, 1, true),
        (4, 2, false),
        (4, 3, true),
        (8, 8, false),
        (16, 9, false),
    ] {
        let lane = with_buffers(Geometry { slots, buffers, stamps, ..SHAPE });
        for n in 0..10_000_usize {
            let len = [60, 64, 128, 40, 61, 100][n % if buffers == 0 { 2 } else { 6 }];
            let data = vec![n.to_le_bytes()[0]; len];
            let meta = Meta { stamp: 5, ..Meta::default() };
            if n % 3 == 0 {
                lane.sender.stage_one(&data, meta).unwrap();
                lane.sender.push().unwrap();
            } else {
                lane.sender.send(&data, meta).unwrap();
            }
            assert_eq!(frame(&lane.receiver), Some(data), "{n}");
            if n % 5 != 0 {
                assert_eq!(frame(&lane.receiver), None);
            }
        }
        assert_eq!((lane.sender.failure(), lane.receiver.failure()), (None, None));
    }
}

#[test]
fn a_full_lane_refuses_and_goes_on_when_there_is_room() {
    let lane = with_buffers(SHAPE);
    for n in 0..4 {
        assert_eq!(lane.sender.space(), Ok(4 - n));
        lane.sender.send(&[1; 60], Meta::default()).unwrap();
    }
    assert_eq!(lane.sender.send(&[1; 60], Meta::default()), Err(SendError::Full));
    assert_eq!(lane.sender.fill_level(), Ok(4));
    assert!(frame(&lane.receiver).is_some());
    lane.sender.send(&[2; 60], Meta::default()).unwrap();
    while frame(&lane.receiver).is_some() {}
    // Three buffers: the fourth frame that needs one waits.
    for _ in 0..3 {
        lane.sender.send(&[3; 121], Meta::default()).unwrap();
    }
    assert_eq!(lane.sender.send(&[3; 121], Meta::default()), Err(SendError::Full));
    assert_eq!(lane.sender.space(), Ok(1));
    assert_eq!(
        lane.sender.send(&[0; 385], Meta::default()),
        Err(SendError::TooLong { bytes: 385, most: 384 })
    );
}

#[test]
fn buffers_have_one_holder() {
    let lane = lane(SHAPE);
    assert_eq!(lane.receiver.post(3), Err(PostError::NoSuchBuffer(3)));
    assert_eq!(lane.receiver.repost(0), Err(PostError::InUse(0)));
    lane.receiver.post(0).unwrap();
    assert_eq!(lane.receiver.post(0), Err(PostError::InUse(0)));
    lane.receiver.push().unwrap();
    lane.sender.send(&[1; 125], Meta::default()).unwrap();
    let body = lane.receiver.take().unwrap().unwrap().body;
    assert_eq!((body.buffer(), body.len()), (Some(0), 125));
    assert_eq!(lane.receiver.holding(0), Some(Holding::Frame));
    lane.receiver.keep(0).unwrap();
    assert_eq!(lane.receiver.holding(0), Some(Holding::Application));
    lane.receiver.let_go(&body).unwrap();
    assert_eq!(lane.receiver.holding(0), Some(Holding::Application), "the application kept it");
    assert_eq!(lane.sender.send(&[1; 125], Meta::default()), Err(SendError::Full));
}

#[test]
fn slots_are_the_senders_again_when_none_before_them_is_held() {
    let lane = lane(SHAPE);
    for n in 0..4 {
        lane.sender.send(&[n; 60], Meta::default()).unwrap();
    }
    let bodies: Vec<Body> = (0..4).map(|_| lane.receiver.take().unwrap().unwrap().body).collect();
    for later in [3, 1, 2] {
        lane.receiver.let_go(&bodies[later]).unwrap();
        lane.receiver.let_go(&bodies[later]).unwrap();
        assert_eq!(lane.sender.space(), Ok(0));
    }
    let mut seen = [9; 60];
    lane.receiver.read(&bodies[0], 0, &mut seen).unwrap();
    assert_eq!(seen, [0; 60]);
    lane.receiver.let_go(&bodies[0]).unwrap();
    assert_eq!(lane.sender.space(), Ok(4));
}

#[test]
fn a_sender_that_writes_without_credit_is_found_out() {
    let lane = lane(SHAPE);
    let (word, _) = super::event::short_words(8, [0, 0], super::FilterId::NONE, false);
    for n in 0..5 {
        let lap = u64::from(Geometry::lap(n, 4)) << 56;
        lane.receive_area.store_u64(SHAPE.slot_at(n) + 56, word | lap, StoreOrder::Release).unwrap();
        if n < 4 {
            lane.receiver.take().unwrap().unwrap();
        }
    }
    fails_for_ever(&lane, Nonsense::NoCredit(0));
}

#[test]
fn claims_are_filled_patched_announced_and_published_out_of_order() {
    let lane = with_buffers(SHAPE);
    let first = lane.sender.claim().unwrap();
    let second = lane.sender.claim().unwrap();
    lane.sender.fill(&first, 0, &[1; 100]).unwrap();
    lane.sender.fill(&second, 0, &[2; 100]).unwrap();
    lane.sender.fill(&first, 99, &[9]).unwrap();
    assert!(matches!(lane.sender.fill(&first, 100, &[0; 29]), Err(SendError::TooLong { .. })));
    assert_eq!(lane.receiver.peek(), Ok(None));
    lane.sender.announce(&second, 100, &[2; 64], Meta::default()).unwrap();
    assert_eq!(lane.receiver.peek(), Ok(Some((100, [2; 40]))));
    assert_eq!(frame(&lane.receiver), None, "what is announced has not come");
    lane.sender.publish(second, 100, Meta::default()).unwrap();
    lane.sender.publish(first, 100, Meta::default()).unwrap();
    lane.sender.push().unwrap();
    assert_eq!(frame(&lane.receiver), Some(vec![2; 100]));
    assert_eq!(frame(&lane.receiver).unwrap()[98..], [1, 9]);
    let third = lane.sender.claim().unwrap();
    let other = with_buffers(SHAPE);
    let (third, error) = other.sender.give_back(third).unwrap_err();
    assert_eq!(error, SendError::ForeignClaim);
    let (third, _) = other.sender.publish(third, 1, Meta::default()).unwrap_err();
    let (third, error) = lane.sender.publish(third, 129, Meta::default()).unwrap_err();
    assert!(matches!(error, SendError::TooLong { bytes: 129, most: 128 }));
    lane.sender.give_back(third).unwrap();
}

#[test]
fn warming_writes_nothing_that_a_receiver_sees() {
    let lane = with_buffers(SHAPE);
    for n in 0..10 {
        lane.sender.warm(&[0xFF; 60]).unwrap();
        assert_eq!(frame(&lane.receiver), None);
        lane.sender.send(&[n], Meta::default()).unwrap();
        assert_eq!(frame(&lane.receiver), Some(vec![n]));
    }
}

#[test]
fn who_sleeps_is_woken_once() {
    let lane = with_buffers(SHAPE);
    assert_eq!(lane.sender.send(&[1], Meta::default()), Ok(false));
    assert_eq!(lane.receiver.arm(), Ok(false), "a frame is there: no sleep");
    assert!(frame(&lane.receiver).is_some());
    // The arming above was not withdrawn: one needless wake-up is the price of never losing one.
    assert_eq!(lane.sender.send(&[2], Meta::default()), Ok(true));
    assert!(frame(&lane.receiver).is_some());
    assert_eq!(lane.receiver.arm(), Ok(true));
    assert_eq!(lane.sender.send(&[3], Meta::default()), Ok(true));
    assert_eq!(lane.sender.send(&[4], Meta::default()), Ok(false));
}

#[test]
fn a_frame_in_shared_memory_is_sent_from_there() {
    let lane = with_buffers(SHAPE);
    let source = Heap::new(4096);
    let data: Vec<u8> = (0..=255).collect();
    source.write(100, &data).unwrap();
    for len in [0, 1, 60, 61, 121, 129, 256] {
        lane.sender.stage_from(&source, 100, len, Meta::default()).unwrap();
        lane.sender.push().unwrap();
        assert_eq!(frame(&lane.receiver).unwrap(), data[..len]);
        assert_eq!(frame(&lane.receiver), None, "and the buffers go back");
    }
    assert!(lane.sender.stage_from(&source, 4090, 50, Meta::default()).is_err());
}

#[test]
fn streamed_payload_arrives_whole() {
    let lane = with_buffers(SHAPE);
    lane.sender.stream_from(64);
    for len in [61, 64, 121, 128, 300] {
        lane.sender.send(&vec![len as u8; len], Meta::default()).unwrap();
        assert_eq!(frame(&lane.receiver), Some(vec![len as u8; len]));
        assert_eq!(frame(&lane.receiver), None, "and the buffers go back");
    }
}

#[test]
fn a_streamed_frame_ends_with_its_last_line() {
    let lane = with_buffers(SHAPE);
    lane.sender.stream_from(64);
    let pool = SHAPE.buffer_at(0);
    lane.receive_area.write(pool, &[0xEE; 3 * 128]).unwrap();
    lane.sender.stage(&[&[1; 70], &[2; 8], &[3; 50]], Meta::default()).unwrap();
    lane.sender.stage(&[&[4; 60], &[5; 64]], Meta::default()).unwrap();
    lane.sender.stage(&[&[6; 125]], Meta::default()).unwrap();
    lane.sender.push().unwrap();
    let expected = [
        [vec![1; 70], vec![2; 8], vec![3; 50]].concat(),
        [[4; 60].as_slice(), &[5; 64]].concat(),
        vec![6; 125],
    ];
    for frame_sent in expected {
        assert_eq!(frame(&lane.receiver), Some(frame_sent));
    }
    let mut buffers = [0; 3 * 128];
    lane.receive_area.read(pool, &mut buffers).unwrap();
    assert_eq!(buffers[128 + 124..256], [0; 4], "the end of the line");
    assert_eq!(buffers[256 + 125..], [0; 3]);
}

#[test]
fn areas_that_are_too_short_are_refused() {
    let short = || Arc::new(Heap::new(4096));
    let long = || Arc::new(Heap::new(1 << 20));
    assert!(matches!(Sender::new(SHAPE, short(), long()), Err(BadGeometry::Area { .. })));
    let back = || Arc::new(Heap::new(4000));
    assert!(matches!(Sender::new(SHAPE, long(), back()), Err(BadGeometry::Area { .. })));
    assert!(matches!(Receiver::new(SHAPE, short(), long()), Err(BadGeometry::Area { .. })));
    assert!(matches!(Receiver::new(SHAPE, long(), back()), Err(BadGeometry::Area { .. })));
}

/// Writes a line as a lying sender would.
fn write(lane: &Lane, slot: usize, line: &Line, lap: u8) {
    let last = line.word(u64::from(lap) << 56);
    lane.receive_area.write(slot * 64, line.body.map(u64::to_le_bytes).as_flattened()).unwrap();
    lane.receive_area.store_u64(slot * 64 + 56, last, StoreOrder::Release).unwrap();
}

/// The same, to slot 0.
fn forge(lane: &Lane, line: &Line, lap: u8) {
    write(lane, 0, line, lap);
}

fn fails_for_ever(lane: &Lane, reason: Nonsense) {
    assert_eq!(lane.receiver.take(), Err(LaneOver));
    assert_eq!(lane.receiver.take(), Err(LaneOver));
    assert_eq!(lane.receiver.failure(), Some(LaneError::Nonsense(reason)));
    assert_eq!(lane.receiver.post(0), Err(PostError::Failed(LaneOver)));
    assert_eq!(lane.receiver.arm(), Err(LaneOver));
}

#[test]
fn a_sender_that_lies_is_found_out() {
    let address = |offset| Address::new(9, offset).unwrap();
    let buffer = |at: Address, len| Line::buffer(at, len, true, false, Meta::default());
    let lies = [
        (buffer(address(0), 64), 2, Nonsense::Lap { slot: 0, seen: 2, expected: 1 }),
        (Line { body: [0; 7], last: 0 }, 1, Nonsense::Kind(0)),
        (Line { body: [0; 7], last: 7 << 53 }, 1, Nonsense::Kind(7)),
        (Line { body: [0; 7], last: 1 << 53 | 61 << 47 }, 1, Nonsense::Length { bytes: 61, most: 60 }),
        (Line { body: [0; 7], last: 4 << 53 | 61 << 47 }, 1, Nonsense::Length { bytes: 61, most: 60 }),
        (Line { body: [0; 7], last: 4 << 53 | 9 << 47 }, 1, Nonsense::Lap { slot: 1, seen: 0, expected: 1 }),
        (Line { body: [0; 7], last: 5 << 53 | 5 << 47 }, 1, Nonsense::Length { bytes: 5, most: 4 }),
        (Line { body: [0; 7], last: 5 << 53 | 4 << 47 }, 1, Nonsense::Rests),
        (buffer(address(0), 129), 1, Nonsense::Length { bytes: 129, most: 128 }),
        (buffer(address(384), 64), 1, Nonsense::Address(address(384))),
        (buffer(address(64), 64), 1, Nonsense::Address(address(64))),
        (buffer(Address::new(8, 0).unwrap(), 64), 1, Nonsense::Address(Address::new(8, 0).unwrap())),
        (buffer(address(128), 64), 1, Nonsense::NotPosted(1)),
        (Line::early(address(128), 64, &[], Meta::default()), 1, Nonsense::NotPosted(1)),
    ];
    for (line, lap, reason) in lies {
        let lane = lane(SHAPE);
        lane.receiver.post(0).unwrap();
        lane.receiver.push().unwrap();
        forge(&lane, &line, lap);
        fails_for_ever(&lane, reason);
    }
}

#[test]
fn a_buffer_that_is_filled_twice_is_found_out() {
    let lane = with_buffers(SHAPE);
    lane.sender.send(&[1; 128], Meta::default()).unwrap();
    let index = lane.receiver.take().unwrap().unwrap().body.buffer().unwrap();
    let line = Line::buffer(SHAPE.address(index).unwrap(), 64, true, false, Meta::default());
    write(&lane, 1, &line, 1);
    fails_for_ever(&lane, Nonsense::NotPosted(index));
}

#[test]
fn rests_that_belong_to_no_frame_are_found_out() {
    let lane = lane(SHAPE);
    let rests = Line { body: [7; 7], last: 6 << 53 };
    let frame = Line { body: [0; 7], last: 5 << 53 | 4 << 47 };
    write(&lane, 0, &rests, 1);
    assert_eq!(lane.receiver.take(), Ok(None), "a line of rests is no frame");
    write(&lane, 1, &frame, 1);
    let body = lane.receiver.take().unwrap().unwrap().body;
    assert_eq!(body.len(), 64);
    // Two lines of them, one behind the other.
    write(&lane, 2, &rests, 1);
    assert_eq!(lane.receiver.take(), Ok(None));
    write(&lane, 3, &rests, 1);
    fails_for_ever(&lane, Nonsense::Rests);
}

#[test]
fn two_lines_of_rests_are_found_out_by_a_peek_too() {
    let lane = lane(SHAPE);
    let rests = Line { body: [7; 7], last: 6 << 53 };
    write(&lane, 0, &rests, 1);
    write(&lane, 1, &rests, 1);
    assert_eq!(lane.receiver.peek(), Err(LaneOver));
    fails_for_ever(&lane, Nonsense::Rests);
}

#[test]
fn a_frame_of_another_lane_lets_no_slot_go_that_was_not_taken() {
    let (one, other) = (lane(SHAPE), lane(SHAPE));
    other.sender.send(&[1; 100], Meta::default()).unwrap();
    let two_slots = other.receiver.take().unwrap().unwrap().body;
    one.sender.send(&[2; 60], Meta::default()).unwrap();
    let body = one.receiver.take().unwrap().unwrap().body;
    one.receiver.let_go(&two_slots).unwrap();
    one.receiver.let_go(&body).unwrap();
    for n in 0..9 {
        one.sender.send(&[n; 60], Meta::default()).unwrap();
        assert_eq!(frame(&one.receiver), Some(vec![n; 60]));
    }
    assert_eq!((frame(&one.receiver), one.sender.space()), (None, Ok(4)));
}

#[test]
fn frames_that_share_a_line_for_their_rests() {
    let lane = with_buffers(Geometry { slots: 64, ..SHAPE });
    // Whatever is staged together: what is a little longer than a line, shorter, longer; few or more than one line of rests.
    for round in 0..200_usize {
        let lens = (0..round % 23 + 1).map(|n| match (n * 7 + round * 13) % 11 {
            0 if round % 2 == 0 => 60,
            1 if round % 5 == 0 => 80,
            2 if round % 7 == 0 && n < 3 => 125,
            odd => 61 + odd % 4,
        });
        let frames: Vec<Vec<u8>> =
            lens.map(|len| (0..len).map(|at| (at * 3 + len + round) as u8).collect()).collect();
        for frame in &frames {
            lane.sender.stage_one(frame, Meta::default()).unwrap();
        }
        lane.sender.push().unwrap();
        for sent in &frames {
            assert_eq!(lane.receiver.peek().unwrap().map(|(len, _)| len as usize), Some(sent.len()));
            assert_eq!(frame(&lane.receiver).as_ref(), Some(sent));
        }
        assert_eq!(frame(&lane.receiver), None);
    }
    // Fifteen frames and their rests are sixteen lines.
    let before = lane.sender.next_slot_number();
    let slots: u32 = (0..15).map(|_| lane.sender.stage_one(&[5; 64], Meta::default()).unwrap()).sum();
    assert_eq!((slots, lane.sender.next_slot_number() - before), (16, 16));
}

#[test]
fn a_sender_that_announces_without_end_holds_nobody() {
    let lane = with_buffers(SHAPE);
    let line = Line::early(SHAPE.address(0).unwrap(), 64, &[], Meta::default());
    // As if every slot were written again and again, whatever the credit.
    for round in 0..3 {
        for slot in 0..4 {
            write(&lane, slot, &line, round + 1);
        }
        assert_eq!(lane.receiver.take(), Ok(None));
    }
}

#[test]
fn a_receiver_that_lies_is_found_out() {
    let fails = |lane: &mut Lane, len: usize, reason| {
        let error = LaneError::Nonsense(reason);
        let frame = vec![0; len];
        for _ in 0..2 {
            assert_eq!(lane.sender.send(&frame, Meta::default()), Err(SendError::Failed(LaneOver)));
        }
        assert_eq!(lane.sender.failure(), Some(error));
        assert_eq!(lane.sender.push(), Err(LaneOver));
    };
    for (credit, before) in [(5, 0), (u64::MAX, 0), (1, 2)] {
        let mut lane = lane(SHAPE);
        for _ in 0..4 {
            lane.sender.send(&[1], Meta::default()).unwrap();
        }
        lane.return_area.store_u64(Geometry::CREDIT, before, StoreOrder::Release).unwrap();
        assert_eq!(lane.sender.space(), Ok(before as u32));
        lane.return_area.store_u64(Geometry::CREDIT, credit, StoreOrder::Release).unwrap();
        assert_eq!(lane.sender.space(), Err(LaneOver));
        fails(&mut lane, 8, Nonsense::Credit { seen: credit, before, sent: 4 });
    }
    let post = |lane: &Lane, n: u64, word: u64| {
        lane.return_area.store_u64(SHAPE.posted_at(n), word, StoreOrder::Release).unwrap();
    };
    let at = |offset| Address::new(9, offset).unwrap();
    let mut one = lane(SHAPE);
    post(&one, 0, at(0).with_lap(2));
    fails(&mut one, 125, Nonsense::PostedLap { seen: 2, expected: 1 });
    for bad in [at(384), at(64), Address::new(10, 0).unwrap()] {
        let mut one = lane(SHAPE);
        post(&one, 0, bad.with_lap(1));
        fails(&mut one, 125, Nonsense::Address(bad));
    }
    let mut one = lane(SHAPE);
    (0..4).for_each(|n| post(&one, n, at(0).with_lap(1)));
    fails(&mut one, 125, Nonsense::TooManyBuffers);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever stands in the receive area: no panic, and nothing but a frame that fits or a reason comes out.
    #[test]
    fn any_receive_area_is_survived(words in proptest::collection::vec(any::<u64>(), 32), laps: bool) {
        let lane = with_buffers(SHAPE);
        for (at, word) in words.into_iter().enumerate() {
            let word = if laps && at % 8 == 7 { word & !(0xFF << 56) | 1 << 56 } else { word };
            lane.receive_area.store_u64(at * 8, word, StoreOrder::Release).unwrap();
        }
        for _ in 0..8 {
            match lane.receiver.take() {
                Ok(Some(arrival)) => {
                    if let Some(index) = arrival.body.buffer() {
                        prop_assert!(index < 3 && arrival.body.len() <= 128);
                    }
                    lane.receiver.let_go(&arrival.body).unwrap();
                }
                Ok(None) => {}
                Err(LaneOver) => prop_assert!(lane.receiver.failure().is_some()),
            }
        }
    }

    /// Whatever stands in the return area: a sender stores inside its lane or fails.
    #[test]
    fn any_return_area_is_survived(words in proptest::collection::vec(any::<u64>(), 64), good: bool) {
        let lane = lane(SHAPE);
        for (at, word) in words.into_iter().enumerate() {
            let word = if good { word & 0x8003_FFFF | 9 << 40 | 1 << 56 } else { word };
            lane.return_area.store_u64(at * 8, word, StoreOrder::Release).unwrap();
        }
        for len in [0, 121, 200, 60, 128] {
            let _ = lane.sender.send(&vec![1; len], Meta::default());
        }
        let mut bytes = vec![0; lane.receive_area.bytes()];
        lane.receive_area.read(0, &mut bytes).unwrap();
        // Behind the last slot and behind the last buffer nothing was written.
        prop_assert!(bytes[256..4096].iter().chain(&bytes[4096 + 384..]).all(|&byte| byte == 0));
    }
}
