//! Nobody has to read what a command prints: `isthmus demo | head -1`.

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
