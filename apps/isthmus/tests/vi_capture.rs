//! `isthmus vi capture` and `replay` at the services of two hosts: five processes, as a user starts them.

#![forbid(unsafe_code)]

#[expect(dead_code, reason = "the other programs use the rest of it")]
mod vi;

use ::vi::pcapng::Reader;
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use tempfile::TempDir;
use vi::{make, object, services, tool};

/// ISTHMUS_CAPTURE_FRAMES makes it more; ISTHMUS_CAPTURE_KEEP names a directory to leave both files in.
#[test]
fn what_is_replayed_is_captured_byte_for_byte() {
    let frames = std::env::var("ISTHMUS_CAPTURE_FRAMES").map_or(5000, |text| text.parse().unwrap());
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let files = std::env::var("ISTHMUS_CAPTURE_KEEP").map_or_else(|_| at.to_owned(), Into::into);
    let (made, captured) = (files.join("made.pcapng"), files.join("captured.pcapng"));
    make(&made, frames);
    let _services = services(at, &[]);
    let count = frames.to_string();
    let arguments = ["--buffer", "64", "-c", &count, "-w", captured.to_str().unwrap()];
    let mut capture = tool(at, "capture", "b", &arguments);
    let capture = capture.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // With its gaps, and no faster: the disk of a busy machine has to follow.
    let replay = tool(at, "replay", "a", &["--reach", "1", "--speed", "0.02", made.to_str().unwrap()])
        .output()
        .unwrap();
    let replayed = object(&replay);
    assert!(replay.status.success(), "{replayed} {}", String::from_utf8_lossy(&replay.stderr));
    assert_eq!((replayed["sent"].as_u64(), replayed["lost"].as_u64()), (Some(frames), Some(0)), "{replayed}");
    // 50 us between two frames.
    assert!(replayed["seconds"].as_f64().unwrap() >= 50e-6 * (frames - 1) as f64, "{replayed}");
    let output = capture.wait_with_output().unwrap();
    let report = object(&output);
    assert!(output.status.success());
    assert_eq!((report["captured"].as_u64(), report["lost"].as_u64()), (Some(frames), Some(0)), "{report}");
    assert_eq!(report["clock"]["set"], true);
    let open = |path: &Path| Reader::new(BufReader::new(File::open(path).unwrap())).unwrap();
    let (mut made, mut captured) = (open(&made), open(&captured));
    let mut before = 0;
    while let Some(frame) = made.next_frame().unwrap() {
        let again = captured.next_frame().unwrap().unwrap();
        assert!(frame.bytes == again.bytes, "frame {}", frame.utc_ns);
        assert!(again.utc_ns >= before, "time goes on");
        before = again.utc_ns;
    }
    assert_eq!(captured.next_frame().unwrap(), None);
}

#[test]
fn a_bad_file_is_told_with_a_status() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let (good, bad) = (at.join("good.pcapng"), at.join("bad"));
    make(&good, 100);
    let replay = |path: &Path, more: &[&str]| {
        let output = tool(at, "replay", "a", more).arg(path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said, output)
    };
    let (status, said, _) = replay(&good, &[]);
    assert!(status == Some(2) && said.contains("nobody serves"), "{said}");
    fs::write(&bad, "#!/bin/sh\n").unwrap();
    let (status, said, _) = replay(&bad, &[]);
    assert!(status == Some(2) && said.contains("not a capture file"), "{said}");
    let (status, said, _) = replay(&good, &["--speed", "-1"]);
    assert!(status == Some(2), "{status:?} {said}");
    let unwritable = tool(at, "capture", "a", &["-w", "/nowhere/at/all"]).output().unwrap();
    assert_eq!(unwritable.status.code(), Some(2));

    let _services = services(at, &[]);
    let bytes = fs::read(&good).unwrap();
    File::create(&bad).unwrap().write_all(&bytes[..bytes.len() - 1]).unwrap();
    let (status, said, output) = replay(&bad, &["--top-speed"]);
    assert!(status == Some(1) && said.contains("the file is cut off: 99 whole frames"), "{said}");
    assert_eq!(object(&output)["sent"], 99);
    let (status, _, output) = replay(&good, &["--top-speed", "--loops", "3", "-c", "250"]);
    assert_eq!((status, object(&output)["sent"].as_u64()), (Some(0), Some(250)));
}
