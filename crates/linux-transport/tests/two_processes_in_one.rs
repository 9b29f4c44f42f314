//! Two endpoints opposite each other on a twin in this process: the same registers and windows that a guest would drive.

use linux_transport::{Config, Down, Endpoint, Event, Lies, Mismatch, Notice, Received};
use ntb::Gen3;
use std::sync::Arc;
use std::time::{Duration, Instant};
use twin_local::{LocalTwin, Setup, Side, WindowMode};

/// Much more than any of this takes.
const PATIENCE: Duration = Duration::from_secs(20);
const MODES: [WindowMode; 2] = [WindowMode::Trap, WindowMode::Direct];

fn twin(mode: WindowMode) -> LocalTwin {
    let setup = Setup { training: Duration::from_millis(5), ..Setup::default() };
    LocalTwin::new(setup, [mode; 2]).unwrap()
}

fn endpoint(twin: &LocalTwin, side: Side, config: Config) -> Endpoint {
    let bridge = Gen3::open(Arc::new(twin.attach(side).unwrap())).unwrap();
    Endpoint::open(Arc::new(bridge), config).unwrap()
}

fn pair(mode: WindowMode) -> (LocalTwin, [Endpoint; 2]) {
    let twin = twin(mode);
    let ends = [Side::A, Side::B].map(|side| endpoint(&twin, side, Config::default()));
    (twin, ends)
}

/// Turns both until something is so; what happened meanwhile at either.
fn until(ends: &mut [Endpoint; 2], is_so: impl Fn(&[Endpoint; 2]) -> bool) -> [Vec<Notice>; 2] {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = [Vec::new(), Vec::new()];
    while !is_so(ends) {
        assert!(Instant::now() < deadline, "{seen:?}");
        for (end, seen) in ends.iter_mut().zip(&mut seen) {
            seen.extend(end.turn(Duration::from_millis(1)).unwrap());
        }
    }
    seen
}

fn up(ends: &mut [Endpoint; 2]) {
    for end in ends.iter_mut() {
        end.enable(0);
    }
    until(ends, |ends| ends.iter().all(|end| end.transport().is_up(0)));
}

fn payload(number: u32) -> Vec<u8> {
    let bytes = 1 + number % 3000;
    (0..bytes).map(|at| (number.wrapping_mul(31).wrapping_add(at)).to_le_bytes()[0]).collect()
}

/// So many frames each way at once; every one arrives, whole and in order.
fn exchange(ends: &mut [Endpoint; 2], frames: u32) {
    let deadline = Instant::now() + PATIENCE;
    let (mut sent, mut received) = ([0_u32; 2], [0_u32; 2]);
    let mut buffer = vec![0; 1 << 16];
    while received != [frames; 2] {
        assert!(Instant::now() < deadline, "{sent:?} {received:?}");
        for who in [0, 1] {
            while sent[who] < frames && ends[who].send(0, &payload(sent[who])).is_ok() {
                sent[who] += 1;
            }
            ends[who].ring().unwrap();
            assert!(ends[who].advance().unwrap().is_empty());
            while let Some(arrival) = ends[who].receive(0, &mut buffer).unwrap() {
                let Received::Frame { bytes, .. } = arrival else { panic!("{arrival:?}") };
                assert_eq!(&buffer[..bytes], payload(received[who]), "frame {}", received[who]);
                received[who] += 1;
            }
        }
    }
}

#[test]
fn frames_cross_both_ways_in_every_mode() {
    for mode in MODES {
        let (_twin, mut ends) = pair(mode);
        up(&mut ends);
        exchange(&mut ends, 2000);
        for end in &ends {
            let statistics = end.statistics(0);
            assert_eq!((statistics.tx_frames, statistics.rx_frames), (2000, 2000), "{mode}");
        }
    }
}

#[test]
fn a_client_that_closes_is_missed_and_comes_back() {
    let (_twin, mut ends) = pair(WindowMode::Direct);
    up(&mut ends);
    exchange(&mut ends, 20);
    ends[0].disable(0).unwrap();
    let mut buffer = [0; 64];
    // The frame that says so is found by whoever receives.
    while ends[1].transport().is_up(0) {
        assert_eq!(ends[1].receive(0, &mut buffer).unwrap(), None);
    }
    let notices = ends[1].advance().unwrap();
    assert_eq!(notices[0], Notice::Transport(Event::QueueDown { queue: 0, why: Down::Message }));
    up(&mut ends);
    exchange(&mut ends, 20);
}

#[test]
fn a_process_that_is_killed_is_missed_and_another_takes_its_place() {
    for mode in MODES {
        let (twin, mut ends) = pair(mode);
        for _ in 0..5 {
            up(&mut ends);
            exchange(&mut ends, 20);
            let [first, mut second] = ends;
            drop(first);
            let deadline = Instant::now() + PATIENCE;
            while second.transport().is_up(0) {
                assert!(Instant::now() < deadline);
                second.turn(Duration::from_millis(10)).unwrap();
            }
            ends = [endpoint(&twin, Side::A, Config::default()), second];
        }
    }
}

#[test]
fn what_does_not_fit_is_told() {
    let twin = twin(WindowMode::Trap);
    let lies = Lies { version: Some(3), ..Lies::default() };
    let mut ends = [
        endpoint(&twin, Side::A, Config::default()),
        endpoint(&twin, Side::B, Config { lies, ..Config::default() }),
    ];
    let told = |notices: &[Notice]| {
        let unfit = |notice: &Notice| {
            matches!(notice, Notice::Transport(Event::Unfit { why: Mismatch::Version(3), .. }))
        };
        notices.iter().any(unfit)
    };
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while !told(&seen) {
        assert!(Instant::now() < deadline, "{seen:?}");
        seen.extend(ends[0].turn(Duration::from_millis(1)).unwrap());
        ends[1].turn(Duration::from_millis(1)).unwrap();
    }
    assert!(!ends[0].transport().is_up(0));
}

#[test]
fn a_farewell_leaves_the_link_down() {
    let (_twin, mut ends) = pair(WindowMode::Trap);
    up(&mut ends);
    let [first, mut second] = ends;
    first.close().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while second.link().up {
        assert!(Instant::now() < deadline);
        second.turn(Duration::from_millis(10)).unwrap();
    }
    assert!(!second.transport().is_up(0));
}
