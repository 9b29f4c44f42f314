//! Placeholder for the posted-write bench.
fn main() {}
