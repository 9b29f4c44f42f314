//! A packed stream whose other end writes what it likes: `cargo +nightly fuzz run vi_stream`.
//!
//! `cargo test -p vi` replays the corpus through the same function, without a fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    vi::fuzzing::streams::run(input);
});
