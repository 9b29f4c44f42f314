//! Bytes to the vfio-user parser, and to a session over a pair of sockets: `cargo +nightly fuzz run wire`.
//!
//! `cargo test -p vfio-user` replays the corpus through the same function, without a fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vfio_user::fuzzing::wire(data));
