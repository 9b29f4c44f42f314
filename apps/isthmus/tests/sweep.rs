//! `isthmus perf sweep`: two processes, both profiles, every size, and a picture. What it measures is not judged here.

use std::process::Command;

#[test]
fn a_sweep_has_every_size_of_both_profiles_and_draws_them() {
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("sweep.svg");
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.args(["perf", "sweep", "--json", "--time-ms", "1", "--plot"]).arg(&plot);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["bench"], "sweep");
    let rows = report["rows"].as_array().unwrap();
    let sizes = |profile: &str| -> Vec<u64> {
        rows.iter().filter(|row| row["name"] == profile).map(|row| row["bytes"].as_u64().unwrap()).collect()
    };
    let all: Vec<u64> = (13..=21).map(|bits| 1 << bits).collect();
    assert_eq!((sizes("paper"), sizes("fast")), (all.clone(), all));
    for row in rows {
        assert!(row["value"].as_f64().unwrap() > 0.0 && row["windows"].as_u64().unwrap() >= 2, "{row}");
    }
    let picture = std::fs::read_to_string(plot).unwrap();
    for mark in ["1400 at 1 MiB", "1200 at 32 KiB", "512 KiB"] {
        assert!(picture.contains(mark), "{mark}");
    }
}
