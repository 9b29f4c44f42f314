//! The discipline and the exchange against clocks that are known exactly.

use super::*;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_700_000_000 * SECOND;

/// True time is nanoseconds since `START`; the counter and CLOCK_TAI are functions of it.
struct World {
    /// Ticks in a true second.
    hertz: u64,
    /// Where the counter begins.
    begin: u64,
    /// What CLOCK_TAI gains up to `turn`, in billionths of true time.
    gain_ppb: i64,
    turn: u64,
    /// What it gains from then on.
    later_ppb: i64,
    random: u64,
}

impl World {
    fn ticks(&self, at: u64) -> u64 {
        let ticks = u128::from(at) * u128::from(self.hertz) / u128::from(SECOND);
        self.begin.wrapping_add(u64::try_from(ticks).unwrap())
    }

    fn tai(&self, at: u64) -> u64 {
        let (first, then) = (at.min(self.turn), at.saturating_sub(self.turn));
        let gained =
            i128::from(first) * i128::from(self.gain_ppb) + i128::from(then) * i128::from(self.later_ppb);
        u64::try_from(i128::from(START + at) + gained / 1_000_000_000).unwrap()
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    /// A reading that takes up to 200 ns, now and then 50 us: something came between.
    fn reading(&mut self, at: u64) -> Reading {
        let spike = if self.random(4) == 0 { 50_000 } else { 0 };
        let first = 20 + self.random(100) + self.random(1 + spike);
        let second = 20 + self.random(80) + self.random(1 + spike);
        Reading { before: self.ticks(at), ns: self.tai(at + first), after: self.ticks(at + first + second) }
    }

    fn step(&mut self, discipline: &mut Discipline, at: u64) -> Stepped {
        let readings: Vec<Reading> = (0..8).map(|n| self.reading(at + n * 200_000)).collect();
        discipline.step(&readings, SyncFlags::IN_SYNC)
    }
}

fn steady(hertz: u64) -> World {
    World { hertz, begin: 0, gain_ppb: 0, turn: u64::MAX, later_ppb: 0, random: 1 }
}

fn line(stepped: Stepped) -> Line {
    match stepped {
        Stepped::Line { line, .. } => line,
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// Whatever the counter runs at, wherever it begins (at the very end of its range too), and however CLOCK_TAI drifts
    /// and changes its pace within what NTP allows: every stamp is as good as it says, and times go on without a step.
    #[test]
    fn the_bound_holds_between_steps_and_time_goes_on(
        hertz in 1_000_000_u64..5_000_000_000,
        begin in prop_oneof![Just(0), Just(u64::MAX - 1000), any::<u64>()],
        gain_ppb in -7_000_i64..7_000,
        later_ppb in -7_000_i64..7_000,
        random: u64,
        interval in SECOND / 50..2 * SECOND,
    ) {
        let turn = interval * 20;
        let mut world = World { hertz, begin, gain_ppb, turn, later_ppb, random };
        let mut discipline = Discipline::new();
        prop_assert_eq!(world.step(&mut discipline, 0), Stepped::Waits);
        let mut before: Option<Line> = None;
        for round in 0..40 {
            let now = SECOND / 50 + interval * round;
            let stepped = world.step(&mut discipline, now);
            let line = line(stepped);
            prop_assert!(matches!(stepped, Stepped::Line { surprised: false, .. }), "{stepped:?}");
            if let Some(before) = before {
                // Both say the same at the joint, give or take a rounding.
                prop_assert!(before.ns_at(line.ticks).abs_diff(line.ns) <= 1);
            }
            for part in 0..=10 {
                let at = now + 2_000_000 + interval * part / 10;
                let (said, truth) = (line.stamp(world.ticks(at)), world.tai(at));
                // One tick is all that the counter can tell.
                let tick = SECOND / hertz + 1;
                prop_assert!(said.ns.abs_diff(truth) <= said.bound_ns + tick, "{said:?} {truth}");
                prop_assert!(said.flags.contains(SyncFlags::CLOCK_SET));
                // The first line is fresh for a second: it cannot know when the next step comes.
                let fresh = round > 0 || at < SECOND;
                prop_assert!(said.flags.contains(SyncFlags::IN_SYNC) || !fresh);
            }
            before = Some(line);
        }
    }
}

#[test]
fn a_clock_that_was_set_is_followed_at_once_and_not_called_in_sync() {
    let mut world = steady(2_500_000_000);
    let mut discipline = Discipline::new();
    world.step(&mut discipline, 0);
    let fine = line(world.step(&mut discipline, SECOND));
    assert!(fine.flags.contains(SyncFlags::IN_SYNC));
    let ticks = world.ticks(2 * SECOND);
    let set = Reading { before: ticks, ns: world.tai(3 * SECOND), after: ticks + 100 };
    let stepped = discipline.step(&[set], SyncFlags::IN_SYNC);
    assert!(
        matches!(stepped, Stepped::Line { surprised: true, off_ns: -1_000_005_000..=-999_995_000, .. }),
        "{stepped:?}"
    );
    assert!(!line(stepped).flags.contains(SyncFlags::IN_SYNC));
    assert!(line(stepped).ns.abs_diff(world.tai(3 * SECOND)) <= 50);
    assert_eq!(discipline.surprises(), 1);
    let ticks = world.ticks(3 * SECOND);
    let next = Reading { before: ticks, ns: world.tai(4 * SECOND), after: ticks + 100 };
    assert!(line(discipline.step(&[next], SyncFlags::IN_SYNC)).flags.contains(SyncFlags::IN_SYNC));
}

#[test]
fn readings_that_make_no_sense_change_nothing() {
    let mut world = steady(SECOND);
    let mut discipline = Discipline::new();
    let flags = SyncFlags::default();
    assert_eq!(discipline.step(&[], flags), Stepped::Unusable);
    let backwards = Reading { before: 10, ns: START, after: 9 };
    assert_eq!(discipline.step(&[backwards], flags), Stepped::Unusable);
    world.step(&mut discipline, 0);
    let good = line(world.step(&mut discipline, SECOND));
    let stands = Reading { before: good.ticks + 5, ns: good.ns, after: good.ticks + 5 };
    assert_eq!(discipline.step(&[stands], flags), Stepped::Unusable);
    assert!(matches!(world.step(&mut discipline, 2 * SECOND), Stepped::Line { surprised: false, .. }));
}

proptest! {
    #[test]
    fn no_reading_is_too_strange(readings: Vec<(u64, u64, u64)>) {
        let mut discipline = Discipline::new();
        for (before, ns, after) in readings {
            if let Stepped::Line { line, .. } = discipline.step(&[Reading { before, ns, after }], SyncFlags::default()) {
                let _ = line.stamp(after);
            }
        }
    }

    /// Two clocks that drift apart, a link with delays of its own in each direction: the bound holds at every moment.
    #[test]
    fn the_offset_of_the_peer_is_within_its_bound(
        offset in -5_000_000_000_i64..5_000_000_000,
        gain_ppb in -28_000_i64..28_000,
        there in 100_u64..100_000,
        back in 100_u64..100_000,
        random: u64,
    ) {
        let mut world = World { gain_ppb, random, ..steady(SECOND) };
        let mut peer_clock = PeerClock::new();
        let peer = |world: &World, at: u64| u64::try_from(i128::from(world.tai(at)) + i128::from(offset)).unwrap();
        for round in 0..40 {
            let asked_at = round * SECOND / 2;
            let question = peer_clock.ask(START + asked_at);
            let came_at = asked_at + there + world.random(50_000);
            let answered_at = came_at + world.random(1_000_000);
            let back_at = answered_at + back + world.random(50_000);
            let stamp = |ns| Stamp { ns, bound_ns: 7, flags: SyncFlags::CLOCK_SET };
            let sent = Question::from_bytes(&question.to_bytes()).unwrap();
            let answer = sent.answer(stamp(peer(&world, came_at)), stamp(peer(&world, answered_at)));
            let answer = Answer::from_bytes(&answer.to_bytes()).unwrap();
            peer_clock.take(&answer, START + back_at).unwrap();
            prop_assert_eq!(peer_clock.take(&answer, START + back_at), Err(Nonsense::NotAsked(round)));
            let now = asked_at + SECOND / 3;
            let found = peer_clock.offset(START + now).unwrap();
            let truth = i128::from(peer(&world, now)) - i128::from(START + now);
            let wrong = (i128::from(found.offset_ns) - truth).unsigned_abs();
            prop_assert!(wrong <= u128::from(found.bound_ns), "{found:?} {truth}");
            prop_assert_eq!((found.peer_bound_ns, found.flags), (7, SyncFlags::CLOCK_SET));
            let mine = found.to_mine(peer(&world, now)).unwrap();
            prop_assert!(mine.abs_diff(START + now) <= found.bound_ns);
        }
    }

    #[test]
    fn an_answer_of_nonsense_teaches_nothing(
        t1: u64, t4: u64, number in 0_u64..3, asked_ns: u64, honest: bool, t2: u64, t3: u64, bound_ns: u64, flags: u32) {
        let mut peer_clock = PeerClock::new();
        let question = peer_clock.ask(t1);
        let asked_ns = if honest { question.sent_ns } else { asked_ns };
        let flags = SyncFlags::from_bits(flags);
        let answer = Answer { number, asked_ns, received_ns: t2, sent_ns: t3, bound_ns, flags };
        match peer_clock.take(&answer, t4) {
            Ok(exchanged) => {
                prop_assert!(number == 0 && asked_ns == t1 && t2 <= t3 && t1 <= t4);
                prop_assert!(exchanged.bound_ns >= exchanged.delay_ns / 2);
                let offset = peer_clock.offset(t2).unwrap();
                let _ = (offset.to_mine(t3), offset.to_peer(t4));
            }
            Err(_) => prop_assert_eq!(peer_clock.offset(t4), None),
        }
    }
}

#[test]
fn the_quickest_exchange_wins_until_it_is_old() {
    let mut peer = PeerClock::new();
    let mut exchange = |at: u64, there: u64, back: u64| {
        let question = peer.ask(START + at);
        let there = Stamp { ns: START + at + there, ..Stamp::default() };
        peer.take(&question.answer(there, there), START + at + back + (there.ns - START - at)).unwrap();
        peer.offset(START + at + 2000).unwrap()
    };
    assert_eq!(exchange(0, 200, 200).offset_ns, 0);
    // A slow way there looks like a clock that is ahead: not believed.
    assert_eq!(exchange(SECOND / 100, 9000, 200).offset_ns, 0);
    // After ten seconds the clocks may have parted by 300 us: now it is the best there is.
    assert_eq!(exchange(10 * SECOND, 9000, 200).offset_ns, 4400);
    peer.forget();
    assert_eq!(peer.offset(START), None);
}

#[test]
fn a_peer_whose_clock_was_set_is_followed_with_the_next_exchange() {
    let mut peer = PeerClock::new();
    let mut exchange = |at: u64, ahead: u64| {
        let question = peer.ask(START + at);
        let there = Stamp { ns: START + at + ahead + 300, ..Stamp::default() };
        peer.take(&question.answer(there, there), START + at + 600).unwrap();
        (peer.offset(START + at + 600).unwrap().offset_ns, peer.jumps())
    };
    assert_eq!(exchange(0, 0), (0, 0));
    assert_eq!(exchange(SECOND, 0), (0, 0));
    // Drift of a second allows 30 us and the delays: this is no drift.
    assert_eq!(exchange(2 * SECOND, 40_000), (40_000, 1));
    // Within the bounds it is.
    assert_eq!(exchange(3 * SECOND, 40_100), (40_100, 1));
    // Back by an hour, with answers as quick as before.
    assert_eq!(exchange(3600 * SECOND + 5, 0), (0, 1), "an hour's drift is 108 ms");
    assert_eq!(exchange(3601 * SECOND, 3600 * SECOND), (3_600_000_000_000, 2));
}

#[test]
fn what_is_too_short_is_no_message() {
    assert_eq!(Question::from_bytes(&[0; 15]), None);
    assert_eq!(Answer::from_bytes(&[0; 47]), None);
}
