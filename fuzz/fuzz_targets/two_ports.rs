//! Accesses and events on two ports: `cargo +nightly fuzz run two_ports`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| twin::fuzzing::run(input));
