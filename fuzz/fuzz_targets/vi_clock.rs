//! The peer's clock, by a peer that answers as it likes: `cargo +nightly fuzz run vi_clock`.
//!
//! `cargo test -p vi` replays the corpus through the same function, without a fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    vi::fuzzing::times::run(input);
});
