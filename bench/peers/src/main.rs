//! Isthmus beside its peers, in the same windows: what `bench/peers.sh` runs.
//!
//! ```text
//!   probe ── Isthmus ── the peer ── Isthmus ── probe        one window: one task of one peer
//! ```
//!
//! Isthmus is two virtual interfaces across a twin, full API: filter, event, length, payload written and read. A peer that runs in
//! threads is on the same two; one that is a program is pinned to their processors. A window counts if its probes agree;
//! a class has the medians of its windows. A peer that is not installed or fails is a row that says so.

mod inside;
mod outside;
mod peer;
#[path = "../../../apps/isthmus/src/perf/placed.rs"]
#[expect(dead_code, reason = "what a progress bar asks")]
mod placed;
#[path = "../../../apps/isthmus/src/perf/report.rs"]
#[expect(dead_code, reason = "what the other measurements of `isthmus perf` use")]
mod report;
#[path = "../../../apps/isthmus/src/perf/twin_ends.rs"]
mod twin_ends;

use anyhow::{Context, Result, bail};
use inside::{Iceoryx2, Rtrb, UnixSockets};
use outside::{Libfabric, Memif, Ucx, Veth, installed};
use peer::{Peer, Task};
use placed::{Figure, PlacedReport, Sample, Series};
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use twin_ends::TwinEnds;
use yardstick::frames::By;
use yardstick::{Pair, Window, allowed_processors};

/// A peer that fails so often in a row is not asked again.
const FAILURES: usize = 3;

const HELP: &str = "\
Isthmus beside its peers in the same windows.

Usage: peers [--seconds S] [--json] [--only NAME]

  --seconds S    of measuring, in all (default 60); each task of each peer is measured at least once
  --json         print one JSON object instead of a table
  --only NAME    only peers whose name contains this

Example: bench/peers.sh --seconds 120";

#[derive(Debug)]
struct Arguments {
    seconds: u64,
    json: bool,
    only: String,
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>> {
    let mut arguments = Arguments { seconds: 60, json: false, only: String::new() };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--json" => arguments.json = true,
            "--only" => arguments.only = words.next().context("--only takes a name")?,
            "--seconds" => {
                let seconds = words.next().and_then(|word| word.parse().ok());
                arguments.seconds = seconds
                    .filter(|seconds| (1..=86400).contains(seconds))
                    .context("--seconds takes a number from 1 to 86400")?;
            }
            other => bail!("what is {other}? See --help"),
        }
    }
    Ok(Some(arguments))
}

#[derive(Serialize)]
struct Everything {
    #[serde(flatten)]
    report: PlacedReport,
    /// Peers without figures, and why.
    absent: BTreeMap<&'static str, String>,
}

/// A peer, and what became of it.
struct Candidate {
    peer: Box<dyn Peer>,
    failures: usize,
}

/// Ours, in the ways that the tasks have.
struct Ours {
    plain: TwinEnds,
}

impl Ours {
    fn measure(&mut self, pair: &mut Pair<'_>, task: Task) -> Result<f64> {
        Ok(match task {
            Task::Trip(bytes) => self.plain.ends.round_trip(pair, bytes)?.median_ns,
            Task::Rate(bytes) => self.plain.ends.rate(pair, bytes, By::Push)?,
        })
    }
}

/// Those that are installed; the others' reasons.
fn candidates(
    only: &str,
    processors: (usize, usize),
    absent: &mut BTreeMap<&'static str, String>,
) -> Vec<Candidate> {
    type Make = Box<dyn FnOnce() -> Result<Box<dyn Peer>>>;
    let all: [(&'static str, Option<(&str, &str)>, Make); 9] = [
        ("rtrb", None, Box::new(|| Ok(Box::new(Rtrb::<64>::new())))),
        ("rtrb", None, Box::new(|| Ok(Box::new(Rtrb::<1500>::new())))),
        ("iceoryx2", None, Box::new(|| Ok(Box::new(Iceoryx2::of_64()?)))),
        ("iceoryx2", None, Box::new(|| Ok(Box::new(Iceoryx2::of_1500()?)))),
        ("Unix sockets", None, Box::new(|| Ok(Box::new(UnixSockets::new()?)))),
        (
            "UCX shm",
            Some(("ucx_perftest", "ucx-utils")),
            Box::new(move || Ok(Box::new(Ucx { processors, next_port: 20_000 }))),
        ),
        (
            "libfabric shm",
            Some(("fi_pingpong", "libfabric-bin")),
            Box::new(move || Ok(Box::new(Libfabric { processors, next_port: 22_000 }))),
        ),
        (
            "DPDK memif",
            Some(("dpdk-testpmd", "dpdk-dev librte-net-memif23")),
            Box::new(move || Ok(Box::new(Memif { processors }))),
        ),
        (
            "veth, sockperf",
            Some(("sockperf", "sockperf")),
            Box::new(move || Ok(Box::new(Veth::new(processors)?))),
        ),
    ];
    let mut found = Vec::new();
    for (name, program, make) in all {
        if !name.to_lowercase().contains(&only.to_lowercase()) {
            continue;
        }
        if let Some((program, package)) = program
            && installed(program).is_none()
        {
            absent.insert(name, format!("not installed: apt-get install {package}"));
            continue;
        }
        match make() {
            Ok(peer) => found.push(Candidate { peer, failures: 0 }),
            Err(error) => {
                absent.insert(name, format!("failed: {error:#}"));
            }
        }
    }
    found
}

fn figure(name: &'static str, task: Task) -> Figure {
    let (bytes, unit, more) = match task {
        Task::Trip(bytes) => (bytes, "ns", false),
        Task::Rate(bytes) => (bytes, "M/s", true),
    };
    Figure { name, bytes, unit, reference: "isthmus", more }
}

/// One task of one peer between two of ours. A peer's failure is its own; ours ends the run.
fn window(
    pair: &mut Pair<'_>,
    ours: &mut Ours,
    peer: &mut dyn Peer,
    task: Task,
) -> Result<(Option<Window<Vec<Sample>>>, Option<String>)> {
    let name = peer.name();
    let mut failure = None;
    let found = pair.try_window(|pair| -> Result<Vec<Sample>> {
        let before = ours.measure(pair, task)?;
        match peer.measure(pair, task) {
            Ok(value) => {
                let reference = f64::midpoint(before, ours.measure(pair, task)?);
                Ok(vec![Sample { figure: figure(name, task), value, reference, each_ns: Vec::new() }])
            }
            Err(error) => {
                failure = Some(format!("{error:#}"));
                Ok(Vec::new())
            }
        }
    })?;
    Ok((if failure.is_some() { None } else { found }, failure))
}

fn measure(arguments: &Arguments) -> Result<Everything> {
    let allowed = allowed_processors()?;
    let &[here, there, ..] = allowed.as_slice() else { bail!("two processors are needed") };
    let mut absent = BTreeMap::new();
    let mut ours = Ours { plain: TwinEnds::new(usize::MAX)? };
    let mut candidates = candidates(&arguments.only, (here, there), &mut absent);
    let mut series = Series::default();
    std::thread::scope(|scope| -> Result<()> {
        let mut pair = Pair::between(scope, here, there)?;
        let begun = Instant::now();
        let time = Duration::from_secs(arguments.seconds);
        let mut first = true;
        while first || begun.elapsed() < time {
            for candidate in &mut candidates {
                for task in candidate.peer.tasks() {
                    if candidate.failures >= FAILURES || (!first && begun.elapsed() > time) {
                        continue;
                    }
                    let name = candidate.peer.name();
                    if first {
                        eprintln!("[{:>4} s] {name}: {task:?}", begun.elapsed().as_secs());
                    }
                    let (found, failure) = window(&mut pair, &mut ours, &mut *candidate.peer, task)?;
                    if let Some(reason) = failure {
                        eprintln!("[{:>4} s] {name}: {reason}", begun.elapsed().as_secs());
                        candidate.failures += 1;
                        absent.insert(name, format!("failed: {reason}"));
                    } else {
                        candidate.failures = 0;
                        series.note(found)?;
                    }
                }
            }
            if candidates.iter().all(|candidate| candidate.failures >= FAILURES) {
                break;
            }
            first = false;
        }
        Ok(())
    })?;
    let mut report = series.report("peers");
    report.command = format!("bench/peers.sh {}", std::env::args().skip(1).collect::<Vec<_>>().join(" "));
    // Whoever failed once and not always has its figures.
    absent.retain(|name, _| !report.rows.iter().any(|row| row.row.name == *name));
    for candidate in &candidates {
        let name = candidate.peer.name();
        if !report.rows.iter().any(|row| row.row.name == name) {
            absent.entry(name).or_insert_with(|| "no window counted: give it more --seconds".to_owned());
        }
    }
    Ok(Everything { report, absent })
}

fn run() -> Result<()> {
    let Some(arguments) = arguments(std::env::args().skip(1))? else {
        println!("{HELP}");
        return Ok(());
    };
    let everything = measure(&arguments)?;
    if arguments.json {
        println!("{}", serde_json::to_string(&everything)?);
    } else {
        print!("{}", everything.report);
        println!(
            "ns: a round trip, more is worse; M/s: messages, more is better; ratio: the peer over Isthmus in the same windows."
        );
        for (name, reason) in &everything.absent {
            println!("{name:<14} {reason}");
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked() {
        let parse = |text: &str| arguments(text.split_whitespace().map(str::to_owned));
        for wrong in ["--seconds", "--seconds 0", "--seconds many", "--only", "--fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("--help").unwrap().is_none());
        assert_eq!(parse("--seconds 3 --json").unwrap().map(|it| (it.seconds, it.json)), Some((3, true)));
    }

    #[test]
    fn what_is_not_installed_is_a_reason() {
        assert!(installed("no-such-program-anywhere").is_none());
        assert!(installed("sh").is_some());
    }
}
