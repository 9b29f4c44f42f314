//! Texts that may be filters, and frames that they are asked about: `cargo +nightly fuzz run vi_filters`.
//!
//! `cargo test -p vi` replays the corpus through the same function, without a fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    vi::fuzzing::texts::run(input);
});
