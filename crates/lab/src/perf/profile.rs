//! Where the time goes: `perf` on the host samples both QEMUs, and what the emulated processors ran is named after the
//! functions of the guests' kernels.
//!
//! ```text
//!   perf record -p QEMU,QEMU ─▶ samples ─▶ thread (/proc/PID/task/TID/comm)
//!                                     └──▶ symbol of QEMU, or guest-0xADDRESS (QEMU's -perfmap) ─▶ /proc/kallsyms
//! ```

use super::network;
use crate::options::Side;
use crate::pair::Pair;
use crate::process::{CommandLine, Process, quoted, tail};
use crate::steps::Network;
use anyhow::{Context, bail};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Samples a second of each thread.
const FREQUENCY: u32 = 499;
/// The longest lists worth a reader's time.
const SHOWN: usize = 12;
/// What the program is called in a message when it is absent.
const ADVICE: &str = "--profile needs `perf` on this machine (Debian: apt install linux-perf) and \
                      kernel.perf_event_paranoid at 2 or less, or root";

/// Where the time went during one TCP stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Profile {
    /// What was going on.
    pub what: String,
    /// How it was made: a shell line, without the paths of this run.
    pub made_by: String,
    /// How many samples there are.
    pub samples: usize,
    /// The thread that was busiest, and the function that took most of its time.
    pub limit: String,
    /// Threads, busiest first.
    pub threads: Vec<Share>,
    /// Functions of the busiest thread, the longest first.
    pub functions: Vec<Share>,
}

/// A share of some samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// Of a hundred.
    pub percent: f64,
    /// What has it.
    pub name: String,
}

/// Sees that this can be done at all, before a long run.
///
/// # Errors
/// When there is no perf.
pub fn possible() -> anyhow::Result<()> {
    match Command::new("perf").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => bail!(ADVICE),
    }
}

/// Profiles TCP from a to b across the bridge, which has to be up.
pub(super) fn take(pair: &Pair) -> anyhow::Result<Profile> {
    let plan = pair.plan();
    let (data, log) = (plan.directory.join("perf.data"), plan.log("perf"));
    let pids = Side::BOTH.map(|side| pair.guest(side).pid().to_string()).join(",");
    let mut record = Command::new("perf");
    record.args(["record", "-e", "cpu-clock", "-F", &FREQUENCY.to_string(), "-p", &pids, "-o"]).arg(&data);
    let mut perf = Process::start("perf", &CommandLine::new(&record), &log)?;
    let measured = network::measure_iperf(pair, Network::Bridge, "tcp", Side::A);
    let status = perf.stop(Duration::from_secs(30))?;
    let row = measured?;
    let threads = threads(pair);
    let mut script = Command::new("perf");
    script.args(["script", "-F", "tid,pid,ip,sym,dso", "-i"]).arg(&data);
    let output = script.output().context(ADVICE)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let samples: Vec<_> = text.lines().filter_map(Sample::parse).collect();
    if samples.is_empty() {
        bail!("perf has no samples ({status}); {ADVICE}; it said:\n{}", tail(&log, 10));
    }
    let kernels: HashMap<u32, Symbols> = Side::BOTH
        .into_iter()
        .map(|side| Ok((pair.guest(side).pid(), Symbols::of(pair, side)?)))
        .collect::<anyhow::Result<_>>()?;
    for map in maps(pair) {
        let _ = fs::remove_file(map);
    }
    let what = format!("iperf3 TCP from a to b, {:.0} Mbit/s while profiled", row.mbits_per_s);
    let made_by = format!("perf record -e cpu-clock -F {FREQUENCY} -p {}", quoted("QEMU a,QEMU b"));
    let by_thread = |sample: &Sample<'_>| threads.get(&sample.tid).cloned().unwrap_or_default();
    let name = |sample: &Sample<'_>| sample.function(&kernels);
    Ok(Profile { what, made_by, ..sum_up(&samples, by_thread, name) })
}

/// The names of both QEMUs' threads, with their guest's letter.
fn threads(pair: &Pair) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for side in Side::BOTH {
        let tasks = format!("/proc/{}/task", pair.guest(side).pid());
        for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
            let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if let Ok(tid) = task.file_name().to_string_lossy().parse() {
                names.insert(tid, format!("QEMU {side}, {}", comm.trim()));
            }
        }
    }
    names
}

/// Where QEMU's `-perfmap` writes: perf looks nowhere else.
fn maps(pair: &Pair) -> [PathBuf; 2] {
    Side::BOTH.map(|side| PathBuf::from(format!("/tmp/perf-{}.map", pair.guest(side).pid())))
}

/// A line of `perf script`.
#[derive(Debug, PartialEq)]
struct Sample<'a> {
    pid: u32,
    tid: u32,
    symbol: &'a str,
    object: &'a str,
}

impl<'a> Sample<'a> {
    /// `PID/TID ADDRESS SYMBOL (OBJECT)`.
    fn parse(line: &'a str) -> Option<Self> {
        let (ids, rest) = line.trim().split_once(char::is_whitespace)?;
        let (pid, tid) = ids.split_once('/')?;
        let (_, rest) = rest.trim_start().split_once(' ')?;
        let (symbol, object) = rest.rsplit_once(" (")?;
        let object = object.trim_end_matches(')');
        Some(Self { pid: pid.parse().ok()?, tid: tid.parse().ok()?, symbol: symbol.trim(), object })
    }

    /// The function, and whose it is.
    fn function(&self, kernels: &HashMap<u32, Symbols>) -> String {
        let address = self.symbol.strip_prefix("guest-0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        if let Some(address) = address {
            let known = kernels.get(&self.pid).and_then(|symbols| symbols.name(address));
            return known.map_or_else(
                || "a program of the guest".to_owned(),
                |name| format!("{name} (guest's kernel)"),
            );
        }
        let object = self.object.rsplit('/').next().unwrap_or(self.object);
        match (self.symbol, object) {
            (_, map) if map.starts_with("perf-") => "translated code".to_owned(),
            ("[unknown]", object) => format!("{object}, a function without a name"),
            (symbol, "[kernel.kallsyms]") => format!("{symbol} (host's kernel)"),
            (symbol, object) => format!("{symbol} ({object})"),
        }
    }
}

/// A kernel's functions by address.
struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    fn of(pair: &Pair, side: Side) -> anyhow::Result<Self> {
        // Functions alone: the way out of a guest is a serial port.
        let line = "awk '$3 != \"\" && tolower($2) == \"t\" { print $1, $3 }' /proc/kallsyms";
        let text = pair.guest(side).sh_for(line, Duration::from_secs(120))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        Self(
            lines
                .filter_map(|(at, name)| Some((u64::from_str_radix(at, 16).ok()?, name.to_owned())))
                .collect(),
        )
    }

    fn name(&self, address: u64) -> Option<&str> {
        self.0.range(..=address).next_back().map(|(_, name)| name.as_str())
    }
}

fn sum_up(
    samples: &[Sample<'_>],
    thread: impl Fn(&Sample<'_>) -> String,
    function: impl Fn(&Sample<'_>) -> String,
) -> Profile {
    let threads = shares(samples.iter().map(&thread));
    let busiest = threads.first().map(|share| share.name.clone()).unwrap_or_default();
    let functions = shares(samples.iter().filter(|sample| thread(sample) == busiest).map(&function));
    let limit = functions.first().map_or_else(String::new, |function| {
        format!("{}: {:.0} % of the thread {busiest}", function.name, function.percent)
    });
    Profile {
        what: String::new(),
        made_by: String::new(),
        samples: samples.len(),
        limit,
        threads: threads.into_iter().take(SHOWN).collect(),
        functions: functions.into_iter().take(SHOWN).collect(),
    }
}

/// How often each name comes, the most frequent first.
fn shares(names: impl Iterator<Item = String>) -> Vec<Share> {
    let mut counts = BTreeMap::<String, u32>::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let all: u32 = counts.values().sum();
    let mut shares: Vec<_> = counts
        .into_iter()
        .map(|(name, count)| Share { percent: 100.0 * f64::from(count) / f64::from(all), name })
        .collect();
    shares.sort_by(|one, other| other.percent.total_cmp(&one.percent));
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_read_and_named() {
        let line = " 12/14     7f1200001234 guest-0xffffffff81000010 (/tmp/perf-12.map)";
        let sample = Sample::parse(line).unwrap();
        assert_eq!((sample.pid, sample.tid, sample.symbol), (12, 14, "guest-0xffffffff81000010"));
        let kernel = Symbols::parse("ffffffff81000000 memcpy_orig\nffffffff81000100 schedule\n");
        let kernels = HashMap::from([(12, kernel)]);
        assert_eq!(sample.function(&kernels), "memcpy_orig (guest's kernel)");
        let line = "12/14 55 helper_rdtsc (/q/lib/accel-tcg.so)";
        assert_eq!(Sample::parse(line).unwrap().function(&kernels), "helper_rdtsc (accel-tcg.so)");
        let line = "12/14 55 guest-0x401000 (/tmp/perf-12.map)";
        assert_eq!(Sample::parse(line).unwrap().function(&kernels), "a program of the guest");
        assert_eq!(Sample::parse("# comment"), None);
    }

    #[test]
    fn the_busiest_thread_has_the_function_that_limits() {
        let lines = ["1/2 a f (x)", "1/2 a g (x)", "1/2 a g (x)", "1/3 a h (x)"];
        let samples: Vec<_> = lines.iter().filter_map(|line| Sample::parse(line)).collect();
        let profile = sum_up(&samples, |s| format!("thread {}", s.tid), |s| s.symbol.to_owned());
        assert_eq!(profile.limit, "g: 67 % of the thread thread 2");
        assert_eq!(profile.threads[1], Share { percent: 25.0, name: "thread 3".to_owned() });
    }
}
