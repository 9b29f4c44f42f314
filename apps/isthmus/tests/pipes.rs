//! Nobody has to read what a command prints: `isthmus demo | head -1`, `isthmus vi sink -d .. 2>&1 | head`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

#[test]
fn a_reader_that_leaves_ends_nothing() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .arg("demo")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    // The reader is dropped at the end of the statement.
    BufReader::new(demo.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let ended = demo.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(first.contains("one process"), "{first}");
    assert!(ended.status.success() && !said.contains("panicked"), "{:?}: {said}", ended.status);
}

#[test]
fn results_that_find_no_room_are_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_isthmus")).arg("demo").stdout(full).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("stdout cannot be written"), "{said}");
}

/// A twin tells who comes, and whoever was told may have left.
#[test]
fn a_service_whose_lines_nobody_reads_serves_on() {
    let directory = tempfile::TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.args(["twin", "--json", "--port-a"]).arg(at("a")).arg("--port-b").arg(at("b"));
    let mut twin = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(twin.stderr.take());
    BufReader::new(twin.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    for _ in 0..2 {
        let mut peer = Command::new(env!("CARGO_BIN_EXE_isthmus"));
        peer.args(["peer", "linux", "--timeout", "1", "--frames", "1", "--port"]).arg(at("a"));
        let output = peer.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let lives = twin.try_wait().unwrap().is_none();
    let _ = twin.kill();
    assert!(twin.wait().is_ok() && lives);
}
