//! The corpus: made here, replayed here, grown by the fuzzer.

use super::{Action, actions, play, run};
use crate::corpus;
use ntb_spec::ioat::{COMMAND_RESET, COMMAND_RESUME, COMMAND_SUSPEND};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Rows of a channel's table, as [`Action::Register`] counts them.
const COMMAND: u8 = 2;
const CHAIN: u8 = 5;
const ERROR: u8 = 8;
/// How a job comes back.
const READ_FAULT: u8 = 0;
const WRITE_FAULT: u8 = 1;
const WELL: u8 = 3;

fn encode(actions: &[Action]) -> Vec<u8> {
    let mut out = Vec::new();
    for &action in actions {
        match action {
            Action::Reset => out.push(0),
            Action::ConfigRead(at, bytes) | Action::Read(at, bytes) => {
                out.push(if matches!(action, Action::Read(..)) { 3 } else { 1 });
                out.extend(at.to_le_bytes());
                out.push(bytes);
            }
            Action::ConfigWrite(at, bytes, value) | Action::Write(at, bytes, value) => {
                out.push(if matches!(action, Action::Write(..)) { 4 } else { 2 });
                out.extend(at.to_le_bytes());
                out.push(bytes);
                out.extend(value.to_le_bytes());
            }
            Action::Register(first, second, value) | Action::GiveBack(first, second, value) => {
                out.extend([if matches!(action, Action::Register(..)) { 5 } else { 23 }, first, second]);
                out.extend(value.to_le_bytes());
            }
            Action::Chain(channel, address, count) => {
                out.extend([12, channel, address]);
                out.extend(count.to_le_bytes());
            }
            Action::Take => out.push(16),
        }
    }
    out
}

/// A descriptor that the seed of [`Action::GiveBack`] stands for: which size, which control bits, which next.
fn seed(size: u8, control: u8, next: u8) -> u64 {
    u64::from_le_bytes([size, control, 0, next, 0, 1, 2, 0])
}

/// So many jobs are carried out, each fetch finding the same descriptor.
fn steps(jobs: usize, seed: u64) -> Vec<Action> {
    [Action::Take, Action::GiveBack(0, WELL, seed)].repeat(jobs)
}

/// Each with the name of its file.
fn scenarios() -> Vec<(&'static str, Vec<Action>)> {
    let copy = seed(0, 0x09, 4);
    let null = seed(1, 0x29, 5);
    let long = seed(5, 0x09, 6);
    let begin = Action::Chain(0, 4, 3);
    let order = |command: u8| Action::Register(0, COMMAND, u64::from(command));
    let probe = |channel: u32| {
        let block = 0x80 * (channel + 1);
        [
            Action::Read(block + 0x08, 8),
            Action::Write(block + 0x28, 4, 0),
            Action::ConfigRead(0x180, 4),
            Action::Write(block + 0x04, 1, 0x20),
            Action::Read(block + 0x04, 1),
        ]
    };
    vec![
        ("probe", (0..4).flat_map(probe).collect()),
        ("self_test", [vec![begin], steps(2, null), steps(3, copy)].concat()),
        (
            "four_channels",
            (0..4).map(|n| Action::Chain(n, n, 2)).chain([Action::Take; 4]).chain(steps(30, long)).collect(),
        ),
        (
            "suspend",
            [
                vec![begin],
                steps(2, long),
                vec![Action::Take, order(COMMAND_SUSPEND), Action::GiveBack(0, WELL, 0)],
                vec![order(COMMAND_RESUME)],
                steps(3, long),
            ]
            .concat(),
        ),
        (
            "reset_under_way",
            [
                vec![begin],
                steps(1, null),
                vec![Action::Take, order(COMMAND_RESET), begin, Action::Take, Action::GiveBack(0, WELL, 0)],
                steps(3, null),
            ]
            .concat(),
        ),
        ("faults", {
            let jobs =
                [READ_FAULT, WRITE_FAULT, 2].map(|how| vec![Action::Take, Action::GiveBack(0, how, 0)]);
            let malformed = [6, 7, 0xFF_0000, 0xFF << 40, 0x0100_00FF_0000_2001].map(|seed| steps(1, seed));
            let halves = [READ_FAULT, WRITE_FAULT]
                .map(|how| [steps(2, long), vec![Action::Take, Action::GiveBack(0, how, 0)]].concat());
            let faults = jobs.into_iter().chain(malformed).chain(halves);
            faults.flat_map(|fault| [vec![begin], fault, steps(2, copy)].concat()).collect()
        }),
        ("loop", [vec![Action::Chain(1, 9, u16::MAX)], steps(60, seed(1, 0x20, 9))].concat()),
        (
            "resets",
            [
                vec![begin, Action::Take, Action::Reset, begin, Action::Take],
                vec![Action::ConfigWrite(0x98, 2, 0x8000), begin, Action::Take],
                vec![Action::GiveBack(0, WELL, null), Action::GiveBack(0, WELL, null)],
                vec![Action::GiveBack(0, WELL, null)],
            ]
            .concat(),
        ),
        (
            "misaligned",
            vec![
                Action::Register(3, CHAIN, 7),
                Action::Write(0x206, 2, 1),
                Action::Take,
                Action::Register(3, ERROR, u64::MAX),
                Action::Write(0x190, 4, 0x40),
                Action::Write(0x194, 4, 0),
            ],
        ),
        ("every_row", (0..64).map(|n| Action::Register(n, n, 1 << n)).collect()),
    ]
}

#[test]
fn the_corpus_has_every_scenario() {
    let encoded = scenarios().into_iter().map(|(name, scenario)| {
        let bytes = encode(&scenario);
        assert_eq!(actions(&bytes), scenario, "{name}");
        (name, bytes)
    });
    corpus::holds("ioat", encoded);
}

#[test]
fn the_corpus_replays() {
    corpus::replay("ioat", scenarios().len(), |bytes| {
        run(bytes);
    });
}

#[test]
fn scenarios_do_what_they_are_named_for() {
    let play = |wanted: &str| play(&scenarios().into_iter().find(|(name, _)| *name == wanted).unwrap().1);
    assert_eq!((play("self_test").descriptors, play("self_test").bytes), (2, 2000));
    assert_eq!(play("suspend").bytes, 1 << 20);
    assert_eq!((play("reset_under_way").stale_jobs, play("resets").stale_jobs), (1, 2));
    assert!(play("faults").errors >= 9 && play("loop").descriptors == 60);
    assert_eq!((play("misaligned").errors, play("probe").errors), (1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_host_writes_and_however_jobs_end(input in prop::collection::vec(any::<u8>(), 0..2048)) {
        run(&input);
    }
}

/// Numbers of a linear congruence, long enough for everything to happen.
#[test]
fn inputs_get_somewhere() {
    let mut state = 1_u32;
    let input: Vec<u8> = (0..50_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_le_bytes()[3]
        })
        .collect();
    let counters = play(&actions(&input));
    assert!(counters.descriptors > 100 && counters.bytes > 1 << 20, "{counters:?}");
    assert!(counters.errors > 20 && counters.stale_jobs > 20 && counters.interrupts > 20, "{counters:?}");
    assert!(counters.bad_accesses > 20 && counters.resets > 20, "{counters:?}");
}

#[test]
fn inputs_reach_every_kind_of_action() {
    let input: Vec<u8> = (0..32).flat_map(|what| [what; 16]).collect();
    let kinds: BTreeSet<String> = actions(&input)
        .iter()
        .map(|action| format!("{action:?}").split('(').next().unwrap().to_owned())
        .collect();
    assert_eq!(kinds.len(), 9, "{kinds:?}");
}
