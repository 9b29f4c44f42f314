//! `isthmus net --linux` opposite the guest: this machine's network and the guest's, joined.
//!
//! ```text
//!   ping, iperf3 ── ntb0 ── isthmus net --linux ══ twin ══ ntb_transport, ntb_netdev ── eth0 ── ping, iperf3
//!   └──── a network namespace of this machine ────┘        └──────────── the guest ────────────┘
//! ```

use super::{GUEST, Lab, PROCESS, Turn};
use crate::channel::{Event, Exec, capture};
use crate::perf::parse;
use crate::process::{CommandLine, Process};
use crate::steps::{self, Network};
use crate::trouble::failed;
use anyhow::{Context, bail};
use serde::Serialize;
use std::process::Command;
use std::time::{Duration, Instant};

/// Echo requests of each end.
const PINGS: u32 = 50;
/// Seconds of each iperf3 run.
const IPERF_SECONDS: u32 = 3;
/// How long iperf3 may take in all.
const IPERF_PATIENCE: Duration = Duration::from_secs(60);
/// How long the process may take to end when it is asked to.
const FAREWELL: Duration = Duration::from_secs(10);

/// What held of the network device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceReport {
    /// Echo requests each way; every one was answered.
    pub pings: u32,
    /// TCP from this machine into the guest, in Mbit/s that arrived.
    pub to_guest_mbits_per_s: f64,
    /// TCP from the guest to this machine.
    pub from_guest_mbits_per_s: f64,
    /// How often the process was killed by SIGKILL and started again.
    pub kills: u32,
    /// How often the guest switched its device off and on.
    pub switches: u32,
    /// How often the guest rebooted.
    pub reboots: u32,
    /// How long all of it took, in milliseconds.
    pub ms: u64,
}

/// Why this machine permits no such test; none if it does.
pub(super) fn obstacle() -> Option<String> {
    let namespace = Command::new("unshare").args(["--net", "true"]).output();
    let why = match namespace {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    };
    why.or_else(|| {
        let absent = |tool: &&str| Command::new(tool).arg("--version").output().is_err();
        ["iperf3", "nsenter"].into_iter().find(absent).map(|tool| format!("there is no '{tool}'"))
    })
    .or_else(|| std::fs::metadata("/dev/net/tun").err().map(|error| format!("/dev/net/tun: {error}")))
}

impl Lab {
    /// Pings and TCP both ways; then the process is killed, and the guest switches its device and reboots.
    pub(super) fn device(&mut self, turns: u32, tell: &mut dyn FnMut(&str)) -> anyhow::Result<DeviceReport> {
        let begun = Instant::now();
        let mut process = self.net()?;
        tell("isthmus net: pings and TCP both ways");
        let rates = steps::wait_carrier(&self.guest, Network::Bridge, true).and_then(|()| {
            self.pings(&process, PINGS)?;
            Ok((self.tcp(&process, false)?, self.tcp(&process, true)?))
        });
        let (to_guest, from_guest) =
            rates.with_context(|| format!("isthmus net said:\n{}", process.log_tail()))?;
        for turn in 1..=turns {
            tell(&format!("isthmus net is killed ({turn} of {turns})"));
            process.kill()?;
            steps::wait_carrier(&self.guest, Network::Bridge, false)?;
            process = self.net()?;
            let back = steps::wait_carrier(&self.guest, Network::Bridge, true)
                .and_then(|()| self.pings(&process, super::PINGS));
            back.with_context(|| {
                format!("killed and started again; isthmus net said:\n{}", process.log_tail())
            })?;
            for what in [Turn::Switch, Turn::Reboot] {
                tell(&format!("the guest opposite isthmus net: {what:?} ({turn} of {turns})"));
                let done = self
                    .guest_turn(what)
                    .and_then(|()| self.pings(&process, super::PINGS))
                    .and_then(|()| self.check_health());
                done.with_context(|| {
                    format!("{what:?} in the guest; isthmus net said:\n{}", process.log_tail())
                })?;
            }
        }
        let status = process.stop(FAREWELL)?;
        if !status.success() {
            return Err(failed(format!("isthmus net ended with {status}; it said:\n{}", process.log_tail())));
        }
        Ok(DeviceReport {
            pings: PINGS,
            to_guest_mbits_per_s: to_guest,
            from_guest_mbits_per_s: from_guest,
            kills: turns,
            switches: turns,
            reboots: turns,
            ms: steps::millis(begun.elapsed()),
        })
    }

    /// Starts `isthmus net` in a network namespace that ends with it.
    fn net(&self) -> anyhow::Result<Process> {
        let mut command = Command::new("unshare");
        command.arg("--net").arg(&self.plan.executable).args(["net", "--linux", "--tap", "ntb0"]);
        command.arg("--port").arg(self.plan.port_socket(PROCESS));
        command.arg("--addr").arg(format!("{}/24", Network::Bridge.address(PROCESS)));
        if self.is_mapped() {
            command.arg("--control").arg(self.plan.control_socket());
        }
        Process::start("isthmus net", &CommandLine::new(&command), &self.plan.log("net"))
    }

    /// Both ends ping, one request at a time as [`Lab::ping`] says.
    fn pings(&self, process: &Process, count: u32) -> anyhow::Result<()> {
        // The first answer waits for address resolution.
        steps::ping(&self.guest, Network::Bridge, 1)?;
        steps::ping(&self.guest, Network::Bridge, count)?;
        let said = self.beside(process, "ping", &["-q", "-i", "0.1", "-W", "5", "-c", &count.to_string()])?;
        match parse::ping(&said) {
            Some(read) if (read.sent, read.received) == (count, count) => Ok(()),
            _ => Err(failed(format!("this machine's pings of the guest: {}", said.trim()))),
        }
    }

    /// One run of iperf3 with its server in the guest: Mbit/s that arrived.
    fn tcp(&self, process: &Process, from_guest: bool) -> anyhow::Result<f64> {
        let deadline = Instant::now() + IPERF_PATIENCE;
        let mut server = self.guest.mux().exec(&Exec::shell("exec iperf3 -s -1 --forceflush"))?;
        let mut said = String::new();
        while !said.contains("listening") {
            match server.next_event_before(deadline) {
                Some(Event::Data(_, bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
                Some(Event::End(_)) => {}
                other => {
                    return Err(failed(format!("iperf3 does not serve in the guest: {other:?} {said}")));
                }
            }
        }
        let seconds = IPERF_SECONDS.to_string();
        let mut arguments = vec!["--json", "--connect-timeout", "10000", "--time", &seconds];
        if from_guest {
            arguments.push("--reverse");
        }
        arguments.push("--client");
        let report = self.beside(process, "iperf3", &arguments)?;
        let read = parse::iperf3(&report)
            .map_err(|error| failed(format!("iperf3 opposite isthmus net: {error}")))?;
        server.writer().signal(15)?;
        capture(server, deadline).context("iperf3's server does not end")?;
        Ok(read.mbits_per_s)
    }

    /// Runs a program beside the process, with the guest's address for its last argument; what it prints.
    fn beside(&self, process: &Process, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("timeout");
        command.arg(IPERF_PATIENCE.as_secs().to_string()).arg("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", process.pid())).arg(program).args(arguments);
        command.arg(Network::Bridge.address(GUEST));
        let output = command.output().with_context(|| format!("cannot run {program}"))?;
        if output.stdout.is_empty() {
            bail!("{program} said nothing: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
