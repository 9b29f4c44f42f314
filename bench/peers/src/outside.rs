//! Peers that are programs of their own, pinned to the same two processors: UCX, libfabric, DPDK memif, sockperf over veth.
//!
//! Each runs for a fraction of a second (memif: some seconds) between two probes. Nothing waits without an end.

use crate::peer::{Peer, Task};
use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use yardstick::Pair;

/// Longest life of one program.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a program is, if it is installed.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let more = ["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// A program that ends with this value.
struct Running {
    child: Child,
    output: fs::File,
    what: String,
}

impl Running {
    /// `words` on one processor. What it prints goes to a file, so that it never waits for a reader.
    fn start(processor: usize, words: &[&str]) -> Result<Self> {
        let output = tempfile::tempfile()?;
        let mut command = Command::new("taskset");
        command.args(["-c", &processor.to_string()]).args(words);
        command.env("UCX_TLS", "posix,self").env("UCX_WARN_UNUSED_ENV_VARS", "n").env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        let what = words.iter().find(|word| !word.contains('=')).copied().unwrap_or_default().to_owned();
        let child = command.spawn().with_context(|| format!("{what} does not start"))?;
        Ok(Self { child, output, what })
    }

    fn text(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        self.output.rewind()?;
        self.output.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its last words, for an error.
    fn complaint(&mut self) -> String {
        let text = self.text().unwrap_or_default();
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        format!("{}: {}", self.what, last.trim())
    }

    /// Waits until `ready`; an end before that is an error.
    fn await_ready(&mut self, ready: impl Fn(u32) -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !ready(self.child.id()) {
            if self.child.try_wait()?.is_some() {
                bail!("it ended early: {}", self.complaint());
            }
            ensure!(Instant::now() < until, "it does not get ready: {}", self.complaint());
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Waits for its end, and has what it printed.
    fn finish(mut self) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return self.text(),
                Some(status) => bail!("it ended with {status}: {}", self.complaint()),
                None => ensure!(Instant::now() < until, "it does not end: {}", self.complaint()),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks it to end, and has what it printed.
    fn stop(mut self) -> Result<String> {
        self.signal(Signal::INT);
        let until = Instant::now() + Duration::from_secs(3);
        while self.child.try_wait()?.is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.text()
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _it_may_have_ended = kill_process(pid, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Whether somebody listens on a port, in the network that a process sees.
fn listens(process: u32, protocol: &str, port: u16) -> bool {
    let state = if protocol.starts_with("tcp") { "0A" } else { "07" };
    [protocol.to_owned(), format!("{protocol}6")].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let local = words.next().unwrap_or_default();
            local.ends_with(&format!(":{port:04X}")) && words.nth(1) == Some(state)
        })
    })
}

/// A port of this run alone, so that one run's leftovers are not the next one's.
fn port(next: &mut u16) -> u16 {
    *next = if *next < 30_000 { *next + 1 } else { 20_000 };
    *next
}

/// UCX over POSIX shared memory, tags matched, by its own benchmark.
pub struct Ucx {
    pub processors: (usize, usize),
    pub next_port: u16,
}

impl Peer for Ucx {
    fn name(&self) -> &'static str {
        "UCX shm"
    }

    fn tasks(&self) -> Vec<Task> {
        vec![Task::Trip(64), Task::Rate(64), Task::Trip(1500), Task::Rate(1500)]
    }

    fn measure(&mut self, _: &mut Pair<'_>, task: Task) -> Result<f64> {
        let (Task::Trip(bytes) | Task::Rate(bytes)) = task;
        let (test, column, scale) = match task {
            // Half a round trip in µs, the median; messages per second over all.
            Task::Trip(_) => ("tag_lat", 1, 2e3),
            Task::Rate(_) => ("tag_bw", 7, 1e-6),
        };
        let port = port(&mut self.next_port);
        let (bytes, number) = (bytes.to_string(), port.to_string());
        let words = ["ucx_perftest", "-t", test, "-s", &bytes, "-n", "200000", "-w", "20000", "-p", &number];
        let mut server = Running::start(self.processors.1, &words)?;
        server.await_ready(|process| listens(process, "tcp", port))?;
        let client = [&words[..], &["127.0.0.1"]].concat();
        let text = Running::start(self.processors.0, &client)?.finish()?;
        server.finish()?;
        ucx_final(&text, column).map(|value| value * scale)
    }
}

/// A column of the last line: iterations, median, average and overall time, two bandwidths, two rates.
fn ucx_final(text: &str, column: usize) -> Result<f64> {
    let line = text.lines().rev().find_map(|line| line.trim().strip_prefix("Final:"));
    let line = line.ok_or_else(|| anyhow!("ucx_perftest prints no result"))?;
    let value = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
    value.ok_or_else(|| anyhow!("ucx_perftest prints {line:?}"))
}

/// libfabric's shared memory provider by its own ping-pong.
pub struct Libfabric {
    pub processors: (usize, usize),
    pub next_port: u16,
}

impl Peer for Libfabric {
    fn name(&self) -> &'static str {
        "libfabric shm"
    }

    fn tasks(&self) -> Vec<Task> {
        vec![Task::Trip(64), Task::Trip(1500)]
    }

    fn measure(&mut self, _: &mut Pair<'_>, task: Task) -> Result<f64> {
        let (Task::Trip(bytes) | Task::Rate(bytes)) = task;
        let port = port(&mut self.next_port);
        let (bytes, number) = (bytes.to_string(), port.to_string());
        let common = ["fi_pingpong", "-p", "shm", "-e", "rdm", "-I", "50000", "-S", &bytes];
        let mut server = Running::start(self.processors.1, &[&common[..], &["-B", &number]].concat())?;
        server.await_ready(|process| listens(process, "tcp", port))?;
        let client = [&common[..], &["-P", &number, "127.0.0.1"]].concat();
        let text = Running::start(self.processors.0, &client)?.finish()?;
        // Half a round trip in µs.
        libfabric_us(&text).map(|us| us * 2e3)
    }
}

/// The column `usec/xfer` of the one line that there is for one size. It begins with the size as people write it: `1.4k`.
fn libfabric_us(text: &str) -> Result<f64> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut lines = text.lines().map(words);
    let names = lines.by_ref().find(|words| words.first().is_some_and(|word| word == "bytes"));
    let names = names.ok_or_else(|| anyhow!("fi_pingpong prints no table"))?;
    let column = names.iter().position(|name| name == "usec/xfer").context("fi_pingpong has no times")?;
    let line = lines.find(|words| !words.is_empty());
    // The header says `#ack` and `total` where a line may leave one out; times are counted from the end.
    let line = line.context("fi_pingpong prints no line below its table's head")?;
    let from_end = names.len() - column;
    let at = line.len().checked_sub(from_end).context("a line that is too short")?;
    line.get(at).and_then(|word| word.parse().ok()).ok_or_else(|| anyhow!("fi_pingpong prints {line:?}"))
}

/// DPDK's memif by testpmd: one sends all it can, the other one throws away. Frames are not looked at.
pub struct Memif {
    pub processors: (usize, usize),
}

impl Peer for Memif {
    fn name(&self) -> &'static str {
        "DPDK memif"
    }

    fn tasks(&self) -> Vec<Task> {
        vec![Task::Rate(64), Task::Rate(1500)]
    }

    fn measure(&mut self, _: &mut Pair<'_>, task: Task) -> Result<f64> {
        let (Task::Trip(bytes) | Task::Rate(bytes)) = task;
        let folder = TempDir::new()?;
        let socket = folder.path().join("memif");
        let shown = socket.display().to_string();
        let packets = format!("--txpkts={bytes}");
        let start = |processor: usize, role: &str, mode: &[&str]| {
            let prefix = format!("--file-prefix=isthmus-{}-{role}", std::process::id());
            let device = format!("--vdev=net_memif0,role={role},socket={shown},socket-abstract=no");
            // Both of its threads on the one processor.
            let cores = format!("--lcores=0@{processor},1@{processor}");
            let eal = ["dpdk-testpmd", "--no-pci", "--no-huge", "-m", "256", &prefix, &cores, &device];
            let rest = ["--", "--stats-period", "1", "--total-num-mbufs=16384", "--no-mlockall"];
            Running::start(processor, &[&eal[..], &rest[..], mode].concat())
        };
        let mut server = start(self.processors.1, "server", &["--forward-mode=rxonly"])?;
        server.await_ready(|_| socket.exists())?;
        let client = start(self.processors.0, "client", &["--forward-mode=txonly", &packets])?;
        // There is no sign of its having warmed up but its own statistics, once a second.
        let until = Instant::now() + PATIENCE;
        loop {
            std::thread::sleep(Duration::from_millis(250));
            let rates = memif_rates(&server.text()?);
            if rates.len() >= 4 || Instant::now() > until {
                client.stop()?;
                let best = rates.into_iter().reduce(f64::max);
                return best.map(|rate| rate * 1e-6).context("no packet arrived");
            }
            if server.child.try_wait()?.is_some() {
                bail!("it died: {}", server.complaint());
            }
        }
    }
}

/// Packets per second in each of its statistics in which any came.
fn memif_rates(text: &str) -> Vec<f64> {
    let rates = text.lines().filter_map(|line| line.trim().strip_prefix("Rx-pps:"));
    let rates = rates.filter_map(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    rates.filter(|&rate| rate > 0.0).collect()
}

/// UDP over a pair of virtual Ethernet devices, by sockperf; both sides spin.
pub struct Veth {
    processors: (usize, usize),
    /// The other end is in a network namespace of this name.
    name: String,
    next_port: u16,
}

impl Veth {
    pub fn new(processors: (usize, usize)) -> Result<Self> {
        let name = format!("ip{}", std::process::id());
        let this = Self { processors, next_port: 24_000, name };
        let (name, peer) = (&this.name, format!("{}b", this.name));
        ip(&["netns", "add", name])?;
        ip(&["link", "add", name, "type", "veth", "peer", "name", &peer, "netns", name])?;
        ip(&["addr", "add", "198.18.77.1/30", "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        ip(&["-n", name, "addr", "add", "198.18.77.2/30", "dev", &peer])?;
        ip(&["-n", name, "link", "set", &peer, "up"])?;
        Ok(this)
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let out = Command::new("ip").args(words).output().context("there is no ip: apt-get install iproute2")?;
    ensure!(out.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

impl Drop for Veth {
    fn drop(&mut self) {
        // The devices go with the namespace; it is missing if it could not be made.
        let _gone = ip(&["netns", "del", &self.name]);
    }
}

impl Peer for Veth {
    fn name(&self) -> &'static str {
        "veth, sockperf"
    }

    fn tasks(&self) -> Vec<Task> {
        vec![Task::Trip(64), Task::Trip(1450)]
    }

    fn measure(&mut self, _: &mut Pair<'_>, task: Task) -> Result<f64> {
        let (Task::Trip(bytes) | Task::Rate(bytes)) = task;
        let port = port(&mut self.next_port);
        let (bytes, number) = (bytes.to_string(), port.to_string());
        let address = ["-i", "198.18.77.2", "-p", &number, "--nonblocked"];
        let server = ["ip", "netns", "exec", &self.name, "sockperf", "server"];
        let mut server = Running::start(self.processors.1, &[&server[..], &address].concat())?;
        server.await_ready(|process| listens(process, "udp", port))?;
        let client = ["sockperf", "ping-pong", "-m", &bytes, "-t", "1", "--full-rtt"];
        let text = Running::start(self.processors.0, &[&client[..], &address].concat())?.finish()?;
        sockperf_us(&text).map(|us| us * 1e3)
    }
}

/// The median that sockperf prints, in µs.
fn sockperf_us(text: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.split_once("percentile 50.000 =")).map(|parts| parts.1);
    let value = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| anyhow!("sockperf prints no median"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_and_rubbish_is_an_error() {
        let ucx = "[thread 0]  100  0.1\nFinal:                200000      0.130      0.134      0.135      454.2      453.9     7442477     7437155\n";
        assert_eq!((ucx_final(ucx, 1).unwrap(), ucx_final(ucx, 7).unwrap()), (0.130, 7_437_155.0));
        assert!(ucx_final("Final: nothing", 1).is_err() && ucx_final("", 1).is_err());
        let libfabric = "bytes   #sent   #ack     total       time     MB/sec    usec/xfer   Mxfers/sec\n64      50k     =50k     6.1m        0.04s    155.12       0.41       2.42\n";
        assert_eq!(libfabric_us(libfabric).unwrap(), 0.41);
        assert_eq!(libfabric_us(&libfabric.replace("\n64 ", "\n1.4k ")).unwrap(), 0.41);
        assert!(libfabric_us("bytes usec/xfer Mxfers/sec\n64\n").is_err() && libfabric_us("").is_err());
        assert_eq!(
            memif_rates("  Rx-pps:            0          Rx-bps: 0\n  Rx-pps:      1600000  Rx-bps: 1"),
            [1.6e6]
        );
        assert_eq!(sockperf_us("sockperf: ---> percentile 50.000 =    7.612\n").unwrap(), 7.612);
        assert!(sockperf_us("sockperf: ERROR").is_err());
    }
}
