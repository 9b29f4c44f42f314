//! Accesses to an I/OAT engine and ends of its jobs: `cargo +nightly fuzz run ioat`.
//!
//! `cargo test -p twin` replays the corpus through the same function, without a fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| twin::ioat::fuzzing::run(input));
