//! `isthmus perf latency` and `rate`: their shape, their picture, and what nonsense does. What they measure is not judged here.
//!
//! On a machine that others use too it may happen that no window counts; then the command says so and ends with 2. What
//! it prints in either case is judged.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::process::{Command, Output};

fn perf(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_isthmus")).arg("perf").args(words).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The report, or none where no window was undisturbed.
fn report(words: &[&str]) -> Option<serde_json::Value> {
    let output = perf(words);
    if output.status.code() == Some(2) {
        assert!(errors(&output).contains("windows was undisturbed"), "{}", errors(&output));
        return None;
    }
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let not_seen = report["not_seen"].as_array().unwrap();
    for class in ["smt", "near", "far"] {
        let seen = rows.iter().any(|row| row["class"] == class);
        assert_ne!(seen, not_seen.iter().any(|it| it == class), "{class} is seen, or is said not to be");
    }
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(
            number("value") > 0.0 && number("reference_value") > 0.0 && number("windows") >= 1.0,
            "{row}"
        );
        assert!(number("ratio") > 0.0 && row["reference"].as_str().unwrap().len() > 3, "{row}");
    }
    Some(report)
}

fn two_processors() -> bool {
    std::thread::available_parallelism().is_ok_and(|count| count.get() >= 2)
}

#[test]
fn round_trips_have_a_floor_percentiles_and_a_picture() {
    if !two_processors() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("latency.svg");
    let words =
        ["latency", "--seconds", "3", "--bytes", "60,64,1500", "--json", "--plot", plot.to_str().unwrap()];
    let Some(report) = report(&words) else { return };
    assert_eq!(report["bench"], "latency");
    for row in report["rows"].as_array().unwrap() {
        assert!([60, 64, 1500].iter().any(|bytes| row["bytes"] == *bytes) && row["unit"] == "ns", "{row}");
        let each = |key: &str| row["each"][key].as_u64().unwrap();
        assert!(
            each("trips") >= 1000 && each("min_ns") <= each("p50_ns") && each("p50_ns") <= each("p999_ns"),
            "{row}"
        );
    }
    let picture = std::fs::read_to_string(plot).unwrap();
    assert!(picture.contains("<svg") && picture.contains("ns there and back"), "{picture}");
}

#[test]
fn rates_stand_beside_a_ring_and_memcpy() {
    if !two_processors() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("rate.svg");
    let words = ["rate", "--seconds", "3", "--json", "--plot", plot.to_str().unwrap()];
    let Some(report) = report(&words) else { return };
    for row in report["rows"].as_array().unwrap() {
        let known = ["one-line ring", "memcpy", "memcpy ring"].iter().any(|name| row["reference"] == *name);
        assert!(known && (row["unit"] == "M/s") == (row["bytes"] != 1500), "{row}");
    }
    assert!(std::fs::read_to_string(plot).unwrap().contains("push"));
}

#[test]
fn stores_and_doorbells_are_measured_in_such_windows_too() {
    if !two_processors() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for bench in ["window", "doorbell"] {
        let plot = directory.path().join(bench);
        let Some(report) = report(&[bench, "--seconds", "2", "--json", "--plot", plot.to_str().unwrap()])
        else {
            continue;
        };
        assert_eq!(report["bench"], bench);
        assert!(std::fs::read_to_string(plot).unwrap().contains("<svg"));
    }
}

#[test]
fn nonsense_is_refused_before_anything_is_measured() {
    for (words, complaint) in [
        (&["latency", "--seconds", "0"][..], "0 is not in 1..=86400"),
        (&["latency", "--seconds", "soon"], "invalid digit"),
        (&["rate", "--seconds", "0"], "0 is not in 1..=86400"),
        (&["latency", "--bytes", "60,1515"], "a frame of 1515 bytes: 42"),
        (&["latency", "--bytes", "9000"], "1514 (an MTU of 1500"),
        (&["latency", "--bytes", "41"], "a frame of 41 bytes"),
        (&["latency", "--bytes", "-1"], "unexpected argument"),
        (&["latency", "--processors", "0,0"], "two different ones"),
        (&["latency", "--processors", "0"], "takes two of them, not 1"),
        (&["rate", "--processors", "0,4711"], "processor 4711 is not for this process to use"),
        (&[], "say what to measure"),
    ] {
        let output = perf(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", errors(&output));
        assert!(errors(&output).contains(complaint), "{words:?}: {}", errors(&output));
        assert!(output.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn a_mask_of_one_processor_cannot_measure_and_says_so() {
    // A thread of its own: the mask is the thread's, and its children's.
    let output = std::thread::spawn(|| {
        let allowed = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|&processor| allowed.is_set(processor)).unwrap();
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).unwrap();
        ["latency", "rate"].map(|bench| perf(&[bench, "--seconds", "1"]))
    });
    for output in output.join().unwrap() {
        assert_eq!(output.status.code(), Some(2));
        let said = errors(&output);
        assert!(said.contains("takes two processors, and this process may run on 1"), "{said}");
    }
}
