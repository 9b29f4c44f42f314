//! A short soak, with a flap of the link and a kill in it. `.ci/run` runs the one of a minute.

#![forbid(unsafe_code)]

use netdev::namespace::Namespace;
use std::process::Command;

#[test]
fn nothing_is_lost_corrupt_or_out_of_order_in_a_few_seconds_with_a_flap_and_a_kill() {
    if let Err(error) = Namespace::new() {
        assert!(std::env::var_os("CI").is_none(), "CI must be able to run a soak: {error}");
        return eprintln!("skipped: {error}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .args(["soak", "--minutes", "0.1", "--flaps", "1", "--kills", "1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 link flaps, 1 kills") && said.contains("passed"), "{said}");
}
