//! `examples/two-namespaces.sh` as a test. Where namespaces, a TAP or its tools are missing it says so and passes, but not in CI.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a test that is left out says so")]

use std::path::Path;
use std::process::Command;

/// The script's exit status for "this machine does not permit it".
const NOT_PERMITTED: i32 = 77;

fn example(arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/two-namespaces.sh");
    let output = Command::new("bash")
        .arg(script)
        .args(["--isthmus", env!("CARGO_BIN_EXE_isthmus"), "--seconds", "1", "--pings", "500"])
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(NOT_PERMITTED) {
        assert!(std::env::var_os("CI").is_none(), "CI must be able to run the example: {said}");
        eprintln!("{said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    assert!(said.contains("passed: every frame that one TAP gave, the other took"), "{said}");
}

#[test]
fn ping_and_iperf3_run_between_two_namespaces() {
    example(&[]);
}

#[test]
fn they_run_with_small_frames_segments_and_several_queues() {
    example(&["--mtu", "1500", "--", "--offload", "segmentation", "--queues", "2"]);
}

#[test]
fn they_run_over_the_published_framework() {
    example(&["--mtu", "9000", "--", "--profile", "paper", "--offload", "none"]);
}

#[test]
fn they_run_over_linux_frames() {
    example(&["--", "--linux"]);
}
