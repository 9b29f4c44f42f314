//! A transport opposite a peer that writes what it likes: `cargo +nightly fuzz run linux_transport`.
//!
//! `cargo test -p linux-transport` replays the corpus through the same function, without a fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| linux_transport::fuzzing::run(input));
