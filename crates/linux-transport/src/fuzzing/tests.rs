//! The corpus: made here, replayed here, grown by the fuzzer.

use super::{Action, actions, run};
use ntb_spec::linux_transport::PayloadHeader;
use proptest::prelude::*;
use std::fs;
use std::path::PathBuf;

fn encode(queues: u8, actions: &[Action]) -> Vec<u8> {
    let mut out = vec![queues - 1];
    for action in actions {
        match *action {
            Action::Link(up) => out.push(up.into()),
            Action::Poll(milliseconds) => out.extend([2, milliseconds]),
            Action::Enable(queue) => out.extend([3, queue]),
            Action::Disable(queue) => out.extend([4, queue]),
            Action::Send(queue, bytes) => {
                out.extend([5, queue]);
                out.extend(bytes.to_le_bytes());
            }
            Action::Receive(queue, bytes) => {
                out.extend([6, queue]);
                out.extend(bytes.to_le_bytes());
            }
            Action::Word(index, value) => {
                out.extend([7, index]);
                out.extend(value.to_le_bytes());
            }
            Action::Greet(bytes) => {
                out.push(8);
                out.extend(bytes.to_le_bytes());
            }
            Action::Store(window, at, value) => {
                out.extend([9, window]);
                out.extend(at.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Action::Header(window, slot, header) => {
                out.extend([10, window, slot]);
                out.extend(header.to_bytes());
            }
        }
    }
    out
}

/// Queue pair 0 up, opposite windows of 1 MiB.
fn up() -> Vec<Action> {
    vec![
        Action::Enable(0),
        Action::Link(true),
        Action::Greet(1 << 20),
        Action::Poll(0),
        Action::Word(1, 1),
        Action::Poll(10),
    ]
}

fn frame(slot: u8, version: u32, payload_bytes: u32, flags: u32) -> Action {
    Action::Header(0, slot, PayloadHeader { version, payload_bytes, flags })
}

fn scenarios() -> Vec<(&'static str, Vec<u8>)> {
    let after_up = |rest: &[Action]| encode(2, &[up().as_slice(), rest].concat());
    let receive = Action::Receive(0, u16::MAX);
    let mut traffic = Vec::new();
    for round in 0..40_u8 {
        traffic.extend([Action::Send(0, 100), frame(round % 15, round.into(), 64, 1), receive]);
        traffic.push(Action::Store(0, -4, (round % 15).into()));
    }
    let mut flaps = up();
    for _ in 0..3 {
        flaps.extend([Action::Link(false), Action::Poll(50)]);
        flaps.extend(up());
        flaps.push(Action::Send(0, 9));
    }
    let sizes = [0, 1, 4, 16, 29, 30, 64, 4096, 65536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, u32::MAX];
    let greetings = |queues| {
        let one = |bytes| [Action::Link(true), Action::Greet(bytes), Action::Poll(10), Action::Link(false)];
        encode(queues, &[vec![Action::Enable(0)], sizes.into_iter().flat_map(one).collect()].concat())
    };
    vec![
        ("traffic", after_up(&traffic)),
        ("too_long", after_up(&[frame(0, 0, u32::MAX, 1), receive, frame(1, 1, 65525, 1), receive])),
        ("bad_version", after_up(&[frame(0, 9, 1, 1), receive, receive, frame(0, 0, 1, 1), receive])),
        ("count_anew", after_up(&[frame(0, 0, 1, 1), receive, frame(0, 0, 1, 1), receive, Action::Poll(10)])),
        ("link_down", after_up(&[Action::Word(1, 0), frame(0, 0, 0, 3), receive, Action::Poll(10)])),
        ("bad_rx_info", after_up(&[Action::Send(0, 1), Action::Store(0, -4, u32::MAX), Action::Send(0, 1)])),
        ("bit_lost", after_up(&[Action::Word(1, 0), Action::Poll(100), Action::Poll(100), Action::Poll(10)])),
        (
            "greets_again",
            after_up(&[Action::Greet(65536), Action::Poll(100), Action::Greet(65536), Action::Poll(100)]),
        ),
        (
            "close_and_open",
            after_up(&[Action::Disable(0), Action::Enable(0), Action::Word(1, 1), Action::Poll(99)]),
        ),
        ("flaps", encode(2, &flaps)),
        ("sizes", greetings(2)),
        ("sizes_of_many", greetings(31)),
        (
            "other_words",
            encode(2, &[Action::Link(true), Action::Word(0, 5), Action::Poll(10), Action::Word(0, 4)]),
        ),
    ]
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/linux_transport")
}

#[test]
fn the_corpus_holds_every_scenario() {
    for (name, bytes) in scenarios() {
        let file = folder().join(name);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs::create_dir_all(folder()).unwrap();
            fs::write(&file, &bytes).unwrap();
        }
        assert_eq!(fs::read(&file).unwrap(), bytes, "{name}: run this test with UPDATE_CORPUS=1");
    }
}

#[test]
fn the_corpus_replays() {
    let files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= scenarios().len());
    for file in files {
        run(&fs::read(file).unwrap());
    }
}

#[test]
fn what_is_encoded_is_what_is_run() {
    let bytes = encode(2, &up());
    assert_eq!(actions(&bytes[1..]), up());
}

proptest! {
    #[test]
    fn any_input_is_survived(input in prop::collection::vec(any::<u8>(), 0..400)) {
        run(&input);
    }

    #[test]
    fn any_input_is_survived_by_a_pair_that_is_up(input in prop::collection::vec(any::<u8>(), 0..400)) {
        run(&[encode(2, &up()), input].concat());
    }
}
