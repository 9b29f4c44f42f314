//! Capture files of any content: `cargo +nightly fuzz run vi_files`.
//!
//! `cargo test -p vi` replays the corpus through the same function, without a fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    vi::fuzzing::files::run(input);
});
