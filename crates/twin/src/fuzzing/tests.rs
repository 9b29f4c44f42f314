//! The corpus: made here, replayed here, grown by the fuzzer.

use super::{Action, actions, run};
use crate::Side::{A, B};
use crate::corpus;

fn encode(actions: &[Action]) -> Vec<u8> {
    let mut out = Vec::new();
    let side = |side| if side == A { 0 } else { 0x80 };
    for action in actions {
        match *action {
            Action::Attach(who) => out.push(side(who)),
            Action::Detach(who) => out.push(side(who) | 1),
            Action::Reset(who) => out.push(side(who) | 2),
            Action::Wait(milliseconds) => {
                out.push(3);
                out.extend(milliseconds.to_le_bytes());
            }
            Action::ConfigRead(who, at, bytes) | Action::Read(who, at, bytes) => {
                out.push(side(who) | if matches!(action, Action::Read(..)) { 6 } else { 4 });
                out.extend(at.to_le_bytes());
                out.push(bytes);
            }
            Action::ConfigWrite(who, at, bytes, value) | Action::Write(who, at, bytes, value) => {
                out.push(side(who) | if matches!(action, Action::Write(..)) { 7 } else { 5 });
                out.extend(at.to_le_bytes());
                out.push(bytes);
                out.extend(value.to_le_bytes());
            }
            Action::Window(who, window, offset, bytes) => {
                out.extend([side(who) | 8, window]);
                out.extend(offset.to_le_bytes());
                out.push(bytes);
            }
            Action::Register(who, row, index, value) => {
                out.extend([side(who) | 9, row, index]);
                out.extend(value.to_le_bytes());
            }
        }
    }
    out
}

/// Both drivers probe and enable the link, and it trains.
fn up() -> Vec<Action> {
    let mut actions = Vec::new();
    for side in [A, B] {
        actions.extend([
            Action::Attach(side),
            Action::ConfigWrite(side, 0x04, 2, 0x0406),
            Action::Write(side, 0x48, 8, 0x7FFF_FFFF),
        ]);
        actions
            .extend((0..33).map(|source| Action::Write(side, 0xD0 + source, 1, u64::from(source.min(31)))));
        actions.extend([
            Action::ConfigWrite(side, 0x82, 2, 0x8020),
            Action::Write(side, 0x40, 8, 0x1_8000_0000),
            Action::ConfigRead(side, 0x1A2, 2),
            Action::Write(side, 0x00, 4, 0x154),
        ]);
    }
    actions.push(Action::Wait(100));
    actions
}

fn after_up(more: &[Action]) -> Vec<Action> {
    [&up(), more].concat()
}

/// Each with the name of its file.
fn scenarios() -> Vec<(&'static str, Vec<Action>)> {
    vec![
        ("link_up", up()),
        (
            "link_flap",
            after_up(&[
                Action::Write(A, 0, 4, 3),
                Action::Write(A, 0, 4, 0x154),
                Action::Wait(99),
                Action::Write(B, 0, 4, 3),
                Action::Write(B, 0, 4, 0x154),
                Action::Wait(100),
            ]),
        ),
        (
            "windows",
            after_up(&[
                Action::Write(B, 0x10, 8, 0x10_0000),
                Action::Write(B, 0x4018, 8, 0x2000_0000_0010_0000),
                Action::Window(A, 0, 0xF_FFFC, 4),
                Action::Window(A, 0, 0xF_FFFC, 8),
                Action::Window(A, 1, 0, 4),
                Action::Read(B, 0x70, 2),
                Action::Write(B, 0x10, 8, u64::MAX),
                Action::Write(B, 0x4018, 8, u64::MAX),
                Action::Window(A, 0, 0xFFF, 8),
                Action::ConfigWrite(B, 0x04, 2, 0x0002),
                Action::Window(A, 0, 0, 1),
                Action::Window(B, 2, u64::MAX, 255),
            ]),
        ),
        (
            "pingpong",
            after_up(&[
                Action::Write(A, 0x180, 4, 1),
                Action::Write(A, 0x104, 4, 1),
                Action::Write(B, 0x48, 8, 0x7FFF_FFFD),
                Action::Read(B, 0x80, 4),
                Action::Write(B, 0x48, 8, 0x7FFF_FFFF),
                Action::Write(B, 0x40, 8, 2),
                Action::Write(A, 0x104, 4, 1),
                Action::Write(A, 0x104, 4, 1),
                Action::Write(B, 0x48, 4, 0),
            ]),
        ),
        (
            "losses",
            after_up(&[
                Action::Write(A, 0x17C, 4, 1),
                Action::Detach(B),
                Action::Attach(B),
                Action::Reset(A),
                Action::ConfigWrite(B, 0x98, 2, 0x8000),
                Action::Write(B, 0x180, 4, 7),
                Action::Read(A, 0x180, 4),
            ]),
        ),
        ("edges", {
            let widths = [0, 1, 2, 3, 4, 5, 8, 15, 16];
            let offsets = [0, 1, 0x44, 0x47, 0xF1, 0x1BE, 0x4525, 0xFFFF, 0x1_0000, u32::MAX];
            let each = offsets.into_iter().flat_map(|at| widths.map(|bytes| (at, bytes)));
            let both = each.flat_map(|(at, bytes)| {
                [
                    Action::Read(A, at, bytes),
                    Action::Write(A, at, bytes, u64::MAX),
                    Action::ConfigRead(B, at, bytes),
                    Action::ConfigWrite(B, at, bytes, u64::MAX),
                ]
            });
            after_up(&both.collect::<Vec<_>>())
        }),
        ("every_row", after_up(&(0..64).map(|n| Action::Register(A, n, n, 1 << n)).collect::<Vec<_>>())),
    ]
}

#[test]
fn the_corpus_has_every_scenario() {
    let encoded = scenarios().into_iter().map(|(name, scenario)| {
        let bytes = encode(&scenario);
        assert_eq!(actions(&bytes), scenario, "{name}");
        (name, bytes)
    });
    corpus::holds("two_ports", encoded);
}

#[test]
fn the_corpus_replays() {
    corpus::replay("two_ports", scenarios().len(), |bytes| {
        run(bytes);
    });
}

/// A fuzzer for those who have none: the scenarios, damaged by a fixed sequence of random numbers.
#[test]
fn damaged_scenarios_keep_the_promises() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
    };
    let scenarios: Vec<_> = scenarios().into_iter().map(|(_, scenario)| encode(&scenario)).collect();
    for _ in 0..60 {
        let mut bytes = scenarios[random(scenarios.len())].clone();
        for _ in 0..random(20) {
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                1 => bytes.truncate(at + 1),
                _ => bytes.extend_from_within(at..),
            }
            bytes.truncate(4096);
        }
        run(&bytes);
    }
}
