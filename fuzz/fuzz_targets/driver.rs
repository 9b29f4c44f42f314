//! The driver on a device that answers anything: `cargo +nightly fuzz run driver`.
//!
//! `cargo test -p ntb` replays the corpus through the same function, without a fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ntb::fuzzing::run(input));
