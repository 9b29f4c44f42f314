//! Two ends of a channel and a hostile writer in both memories: `cargo +nightly fuzz run cells`.
//!
//! `cargo test -p cells` replays the corpus through the same function, without a fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cells::fuzzing::run(input));
