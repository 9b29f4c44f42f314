//! `isthmus perf sweep`: two processes, both profiles, every size, and a picture. What it measures is not judged here.

use std::process::Command;

/// Both rings over a twin, by every carrier; without a picture.
#[test]
fn a_sweep_over_a_twin_has_the_processor_and_both_engines() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.args(["perf", "sweep", "--json", "--time-ms", "1", "--no-sockets", "--dma"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    for profile in ["fast", "paper"] {
        for carrier in ["", ", twin", ", twin, CPU engine", ", twin, I/OAT"] {
            let name = format!("{profile}{carrier}");
            assert_eq!(rows.iter().filter(|row| row["name"] == name.as_str()).count(), 9, "{name}");
        }
    }
}

/// What socket programs get, where this machine permits it; elsewhere the reason is said, and the rest measured.
#[test]
fn a_sweep_has_what_socket_programs_get_or_says_why_not() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.args(["perf", "sweep", "--json", "--time-ms", "1"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let of = |name: &str| rows.iter().filter(|row| row["name"] == name).count();
    let ways = ["isthmus net", "TAP to TAP", "veth", "loopback"].map(of);
    if said.contains("is left out") {
        assert_eq!(ways, [0; 4], "{said}");
    } else {
        // iperf3 has buffers of up to 1 MiB.
        assert_eq!(ways, [8; 4], "{said}");
    }
    assert_eq!((of("fast"), of("paper")), (9, 9));
}

#[test]
fn a_sweep_has_every_size_of_both_profiles_and_draws_them() {
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("sweep.svg");
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.args(["perf", "sweep", "--json", "--time-ms", "1", "--no-sockets", "--plot"]).arg(&plot);
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
