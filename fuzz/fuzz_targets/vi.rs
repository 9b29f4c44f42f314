//! Virtual interfaces and a hostile writer in both memories of their lane, and filters: `cargo +nightly fuzz run vi`.
//!
//! `cargo test -p vi` replays the corpus through the same function, without a fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    vi::fuzzing::lanes::run(input);
});
