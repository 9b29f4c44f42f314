//! The corpus: made here, replayed here, grown by the fuzzer. And more of the same, as property tests.

use super::{Held, Hostile, run, tried};
use crate::dma::{DmaCopy, DmaEngine, DmaTarget, Ioat};
use crate::{Bridge, Gen3, PciFunction};
use proptest::prelude::*;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A tape of which every byte is another one, and that seldom says that something failed.
fn tape(seed: u8) -> Vec<u8> {
    (0..97_u8).map(|at| at.wrapping_mul(seed).wrapping_add(seed) | 0x10).collect()
}

fn encode(honesty: u8, tape: &[u8], script: &[(u8, u64)]) -> Vec<u8> {
    let mut out = vec![honesty, u8::try_from(tape.len()).unwrap()];
    out.extend(tape);
    for (what, number) in script {
        out.push(*what);
        out.extend(number.to_le_bytes());
    }
    out
}

fn scenarios() -> Vec<(String, Vec<u8>)> {
    let everything: Vec<_> = (0..40_u8).map(|what| (what, u64::from(what) * 0x0101_0101_0101)).collect();
    let windows: Vec<_> = (0..12).flat_map(|at| [(6, at), (7, at << 12), (18, at * 7), (19, at)]).collect();
    let link: Vec<_> = (0..15).flat_map(|at| [(1, at), (3, at), (15, 0), (16, at), (2, 0)]).collect();
    let queue: Vec<_> = (0..20).flat_map(|at| [(17, at), (14, at)]).collect();
    let mut out = Vec::new();
    for (name, script) in [("everything", everything), ("windows", windows), ("link", link), ("queue", queue)]
    {
        for seed in [1, 3, 7, 58] {
            out.push((format!("{name}_{seed}"), encode(1 + seed % 3, &tape(seed), &script)));
        }
    }
    out.push(("liar".to_owned(), encode(0, &tape(5), &[(0, 0)])));
    out.push(("no_tape".to_owned(), encode(1, &[], &[(0, 0)])));
    out
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/driver")
}

#[test]
fn the_corpus_holds_every_scenario() {
    for (name, bytes) in scenarios() {
        let file = folder().join(&name);
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
fn it_is_opened_often_enough_to_test_anything() {
    let opened =
        (1_u8..=200).filter(|seed| Gen3::open(Arc::new(Hostile::new(tape(*seed), 1, false))).is_ok());
    let opened = opened.count();
    assert!(opened >= 50, "{opened} of 200");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_device_answers_makes_the_driver_panic_or_hang(
        tape in prop::collection::vec(any::<u8>(), 16..400),
        honesty in 1_u8..4,
        script in prop::collection::vec((any::<u8>(), any::<u64>()), 0..60),
    ) {
        let began = Instant::now();
        let device = Arc::new(Hostile::new(tape, honesty, false));
        for _ in 0..8 {
            let function: Arc<dyn PciFunction> = Arc::clone(&device) as Arc<dyn PciFunction>;
            let Ok(bridge) = Gen3::open(function) else { continue };
            let bridge: Arc<dyn Bridge> = Arc::new(bridge);
            let mut held = Held::default();
            for (what, number) in &script {
                held.act(&bridge, *what, *number);
            }
        }
        prop_assert!(began.elapsed() < Duration::from_secs(50), "it took {:?}", began.elapsed());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn nor_does_an_engine(
        tape in prop::collection::vec(any::<u8>(), 16..400),
        honesty in 1_u8..3,
        numbers in prop::collection::vec(any::<u64>(), 0..20),
    ) {
        let device: Arc<dyn PciFunction> = Arc::new(Hostile::new(tape, honesty, true));
        for _ in 0..8 {
            let Ok(mut engine) = Ioat::open(Arc::clone(&device), 1) else { continue };
            for number in &numbers {
                let Ok(memory) = engine.allocate(4096) else { continue };
                let bytes = usize::try_from(number % 5000).unwrap();
                let copy =
                    DmaCopy { from: memory.clone(), from_at: 0, to: DmaTarget::Memory(memory), to_at: 0, bytes };
                tried(engine.copy(copy, Some(Box::new(tried))));
                if number % 3 == 0 {
                    engine.fence();
                }
                tried((engine.poll(), engine.finish(Duration::from_micros(number % 500))));
            }
        }
    }
}
