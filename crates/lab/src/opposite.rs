//! One guest, and at the twin's other port a process: `lab test --peer`.
//!
//! The process is `isthmus peer linux`, as a user starts it, and then `isthmus net --linux` ([`device`]). The guest runs stock
//! ntb_transport and ntb_netdev.

mod device;

pub use device::DeviceReport;

use crate::guest::{Guest, Switchboard};
use crate::health;
use crate::initrd;
use crate::interrupt;
use crate::options::{Accel, Side};
use crate::plan::Plan;
use crate::process::{CommandLine, Process, tail, wait_readable};
use crate::run_dir::RunDir;
use crate::steps::{self, Network};
use crate::trouble::failed;
use crate::twin::Twin;
use anyhow::{Context, bail};
use control::{PortName, WindowStatus};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The guest's port; the process has the other one.
const GUEST: Side = Side::A;
/// The process's port.
const PROCESS: Side = Side::B;
/// Echo requests of the guest after each start of the process.
const PINGS: u32 = 3;
/// How long the raw test may take a thousand frames: emulated guests on a busy machine.
const THOUSAND_FRAMES: Duration = Duration::from_secs(10);

/// How much of it to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Frames of the raw test, each way.
    pub frames: u32,
    /// How often the process comes and goes.
    pub restarts: u32,
    /// How often the guest does, in each way, opposite one process that stays.
    pub guest_turns: u32,
    /// Whether rebooting is one of these ways; that takes the longest.
    pub reboots: bool,
    /// How often each end goes in the test of the network device.
    pub device_turns: u32,
}

impl Extent {
    /// Enough to see that it works.
    pub const QUICK: Self =
        Self { frames: 2000, restarts: 2, guest_turns: 1, reboots: false, device_turns: 1 };
    /// Before a release.
    pub const FULL: Self =
        Self { frames: 100_000, restarts: 20, guest_turns: 5, reboots: true, device_turns: 3 };
}

/// How a guest comes and goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Its network device is switched off and on.
    Switch,
    /// Its drivers are unloaded and loaded.
    Reload,
    /// It reboots at once, without unloading anything.
    Reboot,
}

impl Turn {
    const ALL: [Self; 3] = [Self::Switch, Self::Reload, Self::Reboot];
}

/// What held, of one kernel and one window mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of QEMU.
    pub qemu: String,
    /// `uname -r`.
    pub kernel: String,
    /// How the processors ran.
    pub accel: String,
    /// How windows worked.
    pub window: String,
    /// Frames into the guest, and as many answers; every one arrived, every byte was right.
    pub frames: u32,
    /// How long they took, in milliseconds.
    pub frames_ms: u64,
    /// How often the process came back and the guest pinged it: killed and ended in turn.
    pub restarts: u32,
    /// How long that took, in milliseconds.
    pub restarts_ms: u64,
    /// How often the guest switched its device and reloaded its drivers, and pinged the same process after each.
    pub guest_turns: u32,
    /// Whether it rebooted as often.
    pub reboots: bool,
    /// How long that took, in milliseconds.
    pub guest_turns_ms: u64,
    /// The same guest opposite `isthmus net --linux`; none where this machine does not permit it.
    pub device: Option<DeviceReport>,
}

impl Report {
    fn guest_ways(&self) -> &'static str {
        if self.reboots {
            "the guest goes: device, drivers, reboot"
        } else {
            "the guest goes: device, drivers"
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { qemu, kernel, accel, window, .. } = self;
        writeln!(f, "Isthmus lab test --peer: QEMU {qemu}, Linux {kernel}, {accel}, windows {window}")?;
        for (times, what, ms) in [
            (self.frames, "frames each way, 0 lost, 0 corrupted", self.frames_ms),
            (self.restarts, "the process goes, by kill -9 and by SIGTERM", self.restarts_ms),
            (self.guest_turns, self.guest_ways(), self.guest_turns_ms),
        ] {
            writeln!(f, "  passed {times:>6} x {what:<46}{:>6} s", ms / 1000)?;
        }
        let Some(device) = &self.device else {
            return writeln!(f, "  left out: isthmus net --linux, which this machine does not permit");
        };
        let DeviceReport { pings, to_guest_mbits_per_s, from_guest_mbits_per_s, kills, ms, .. } = device;
        for (times, what) in [
            (*pings, "isthmus net --linux: pings each way, 0 lost".to_owned()),
            (*kills, "it is killed, the guest switches, and reboots".to_owned()),
        ] {
            writeln!(f, "  passed {times:>6} x {what:<46}{:>6} s", ms / 1000)?;
        }
        writeln!(
            f,
            "  TCP opposite isthmus net: {to_guest_mbits_per_s:.0} Mbit/s into the guest, {from_guest_mbits_per_s:.0} out of it"
        )
    }
}

/// A guest, a twin, and nobody at the other port yet.
struct Lab {
    guest: Guest,
    twin: Twin,
    accel: Accel,
    plan: Plan,
}

/// Boots the guest, runs the raw test and the restarts; `tell` hears what is being done.
///
/// # Errors
/// Blames the thing under test at the first thing that does not hold; the logs are kept then.
pub fn run(
    plan: Plan,
    directory: &RunDir,
    extent: Extent,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<Report> {
    if plan.options.keep {
        directory.keep();
    }
    let result = boot(plan).and_then(|mut lab| {
        let result = lab.test(extent, tell);
        let result = result.inspect_err(|_| {
            tracing::error!("console of the guest, its end\n{}", tail(&lab.plan.console(GUEST), 40));
        });
        lab.guest.kill().context("a QEMU could not be ended")?;
        let ended = lab.twin.stop();
        result.and_then(|report| ended.map(|()| report))
    });
    if interrupt::interrupted() {
        bail!("interrupted");
    }
    result.map_err(|error| {
        directory.keep();
        error.context(format!("consoles and logs stay in {}", directory.path().display()))
    })
}

fn boot(plan: Plan) -> anyhow::Result<Lab> {
    initrd::write(&plan.image.rootfs, &plan.executable, &plan.initrd())?;
    let twin = Twin::start(&plan)?;
    let switchboard = Arc::new(Switchboard::default());
    let accelerators = plan.accelerators();
    for accel in &accelerators {
        let booted = Guest::start(&plan, GUEST, *accel).and_then(|guest| guest.finish(&plan, &switchboard));
        match booted {
            Ok(guest) => return Ok(Lab { guest, twin, accel: *accel, plan }),
            Err(error) if accelerators.last() == Some(accel) || interrupt::interrupted() => {
                return Err(error);
            }
            Err(error) => {
                tracing::info!("no guest comes up with {accel}, so the next way is tried: {error:#}");
            }
        }
    }
    bail!("no accelerator to try")
}

impl Lab {
    fn test(&mut self, extent: Extent, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Report> {
        self.check_windows()?;
        steps::load(&self.guest, false)?;
        steps::configure(&self.guest, Network::Bridge)?;
        tell(&format!("{} frames each way", extent.frames));
        let frames_ms = self.raw_test(extent.frames).context("the raw test")?;
        self.check_health().context("after the raw test")?;
        let begun = Instant::now();
        for turn in 1..=extent.restarts {
            tell(&format!("the process comes and goes ({turn} of {})", extent.restarts));
            self.restart(turn % 2 == 0).with_context(|| format!("restart {turn}"))?;
        }
        self.check_health().context("after the restarts")?;
        let restarts_ms = steps::millis(begun.elapsed());
        let begun = Instant::now();
        self.guest_turns(extent, tell)?;
        let guest_turns_ms = steps::millis(begun.elapsed());
        let device = match device::obstacle() {
            None => Some(self.device(extent.device_turns, tell).context("opposite isthmus net --linux")?),
            Some(why) if std::env::var_os("CI").is_some() => bail!("CI must permit isthmus net: {why}"),
            Some(why) => {
                tracing::warn!("isthmus net --linux is left out: {why}");
                None
            }
        };
        let (major, minor, micro) = self.plan.qemu.version;
        Ok(Report {
            qemu: format!("{major}.{minor}.{micro}"),
            kernel: self.guest.hello().release.clone(),
            accel: self.accel.to_string(),
            window: self.plan.options.windows.to_string(),
            frames: extent.frames,
            frames_ms,
            restarts: extent.restarts,
            restarts_ms,
            guest_turns: extent.guest_turns,
            reboots: extent.reboots,
            guest_turns_ms,
            device,
        })
    }

    /// Starts the process.
    fn peer(&self, arguments: &[&str]) -> anyhow::Result<Process> {
        let mut command = Command::new(&self.plan.executable);
        command.args(["peer", "linux", "--json"]).arg("--port").arg(self.plan.port_socket(PROCESS));
        command.arg("--addr").arg(format!("{}/24", Network::Bridge.address(PROCESS)));
        if self.is_mapped() {
            command.arg("--control").arg(self.plan.control_socket());
        }
        command.args(arguments);
        Process::start("the peer", &CommandLine::new(&command), &self.plan.log("peer"))
    }

    fn is_mapped(&self) -> bool {
        self.plan.options.windows.of(PROCESS).is_mapped()
    }

    /// The raw test; how long it took.
    fn raw_test(&self, frames: u32) -> anyhow::Result<u64> {
        let to = Network::Bridge.address(GUEST);
        let mut process = self.peer(&["--frames", &frames.to_string(), "--to", &to])?;
        let patience = THOUSAND_FRAMES.saturating_mul(frames / 1000 + 6);
        if !wait_readable(&[process.exited()], Instant::now() + patience)? {
            return Err(failed(format!(
                "no end within {patience:?}; the peer said:\n{}",
                process.log_tail()
            )));
        }
        let status = process.kill()?;
        if !status.success() {
            return Err(failed(format!("the peer ended with {status}; it said:\n{}", process.log_tail())));
        }
        let log = fs::read_to_string(self.plan.log("peer"))?;
        let line = log.lines().rev().find(|line| line.starts_with('{')).context("the peer made no report")?;
        let report: Value = serde_json::from_str(line)?;
        judge(&report["report"], frames, self.is_mapped())
    }

    /// The process comes, the guest pings it, the process goes, the guest notices.
    fn restart(&self, kill: bool) -> anyhow::Result<()> {
        let mut process = self.peer(&[])?;
        let came = steps::wait_carrier(&self.guest, Network::Bridge, true).and_then(|()| self.ping());
        came.with_context(|| format!("the peer said:\n{}", process.log_tail()))?;
        if kill {
            process.kill()?;
        } else {
            let status = process.stop(Duration::from_secs(10))?;
            if !status.success() {
                return Err(failed(format!(
                    "the peer ended with {status}; it said:\n{}",
                    process.log_tail()
                )));
            }
        }
        steps::wait_carrier(&self.guest, Network::Bridge, false)
    }

    /// The guest comes and goes opposite one process, and pings it each time.
    fn guest_turns(&mut self, extent: Extent, tell: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        let turns = extent.guest_turns;
        let ways = Turn::ALL.into_iter().filter(|turn| extent.reboots || *turn != Turn::Reboot);
        let mut process = self.peer(&[])?;
        steps::wait_carrier(&self.guest, Network::Bridge, true)?;
        for turn in 1..=turns {
            for what in ways.clone() {
                tell(&format!("the guest: {what:?} ({turn} of {turns})"));
                let done = self.guest_turn(what).and_then(|()| self.check_health());
                done.with_context(|| {
                    format!("{what:?} in the guest, turn {turn}; the peer said:\n{}", process.log_tail())
                })?;
            }
        }
        let status = process.stop(Duration::from_secs(10))?;
        if !status.success() {
            return Err(failed(format!("the peer ended with {status}; it said:\n{}", process.log_tail())));
        }
        Ok(())
    }

    fn guest_turn(&mut self, what: Turn) -> anyhow::Result<()> {
        match what {
            Turn::Switch => {
                let device = steps::network_device(&self.guest, Network::Bridge)?;
                self.guest.sh(&format!("ip link set {device} down && ip link set {device} up"))?;
            }
            Turn::Reload => {
                steps::unload(&self.guest, true)?;
                steps::load(&self.guest, false)?;
                steps::configure(&self.guest, Network::Bridge)?;
            }
            Turn::Reboot => {
                self.guest.reboot()?;
                steps::load(&self.guest, false)?;
                steps::configure(&self.guest, Network::Bridge)?;
            }
        }
        steps::wait_carrier(&self.guest, Network::Bridge, true)?;
        self.ping()
    }

    /// The guest pings the process, one request at a time: a frame that ntb_netdev hands up takes 128 KiB of the 128 KiB
    /// that ping's socket has, so that of two answers that come at once its kernel drops the second.
    fn ping(&self) -> anyhow::Result<()> {
        (0..PINGS).try_for_each(|_| steps::ping(&self.guest, Network::Bridge, 1).map(drop))
    }

    /// Sees that the guest's windows work as they were asked to.
    fn check_windows(&mut self) -> anyhow::Result<()> {
        let asked = self.plan.options.windows.of(GUEST);
        let status = self.twin.status()?;
        let guest = status.ports.iter().find(|port| port.port == PortName::A);
        let windows = guest.map(|port| port.windows.as_slice()).unwrap_or_default();
        let as_asked = |window: &WindowStatus| (window.mode, window.class) == (asked.mode(), asked.class());
        if windows.is_empty() || !windows.iter().all(as_asked) {
            return Err(failed(format!("not every window of the guest is {asked}: {windows:?}")));
        }
        Ok(())
    }

    fn check_health(&self) -> anyhow::Result<()> {
        let wrong = health::complaints(&self.guest.kernel_log()?);
        if wrong.is_empty() {
            return Ok(());
        }
        Err(failed(format!("the kernel of the guest complains:\n{}", wrong.join("\n"))))
    }
}

/// What a perfect raw test says of itself; how long it took.
fn judge(report: &Value, frames: u32, mapped: bool) -> anyhow::Result<u64> {
    let raw = &report["raw"];
    let is = |field: &str, value: u32| raw[field].as_u64() == Some(value.into());
    let perfect = is("sent", frames) && is("answered", frames);
    if !perfect || !is("lost", 0) || !is("corrupted", 0) || !is("unexpected", 0) {
        return Err(failed(format!("of {frames} frames: {raw}")));
    }
    let (windows, wanted) = (report["windows"].as_str(), if mapped { "mapped" } else { "messaged" });
    if windows != Some(wanted) {
        return Err(failed(format!("the process's windows are {windows:?}, not {wanted}")));
    }
    raw["ms"].as_u64().context("the peer's report has no time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_perfect_score_passes() {
        let raw = json!({"sent": 9, "answered": 9, "lost": 0, "corrupted": 0, "unexpected": 0, "ms": 7});
        let report = |raw: &Value| json!({"windows": "mapped", "raw": raw});
        assert_eq!(judge(&report(&raw), 9, true).unwrap(), 7);
        assert!(judge(&report(&raw), 10, true).is_err());
        assert!(judge(&report(&raw), 9, false).is_err());
        for field in ["lost", "corrupted", "unexpected"] {
            let mut bad = raw.clone();
            bad[field] = json!(1);
            assert!(judge(&report(&bad), 9, true).is_err(), "{field}");
        }
        assert!(judge(&json!({}), 9, true).is_err());
    }

    #[test]
    fn a_report_says_what_held_and_how_often() {
        let report = Report {
            qemu: "11.1.3".to_owned(),
            kernel: "6.12.1".to_owned(),
            accel: "tcg".to_owned(),
            window: "direct".to_owned(),
            frames: 2000,
            frames_ms: 3100,
            restarts: 2,
            restarts_ms: 4000,
            guest_turns: 1,
            reboots: false,
            guest_turns_ms: 9999,
            device: Some(DeviceReport {
                pings: 50,
                to_guest_mbits_per_s: 210.4,
                from_guest_mbits_per_s: 99.6,
                kills: 1,
                switches: 1,
                reboots: 1,
                ms: 61_000,
            }),
        };
        let text = report.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "Isthmus lab test --peer: QEMU 11.1.3, Linux 6.12.1, tcg, windows direct");
        assert!(
            lines[1].starts_with("  passed   2000 x frames each way, 0 lost") && lines[1].ends_with("  3 s")
        );
        assert!(lines[3].contains("1 x the guest goes: device, drivers  ") && lines[3].ends_with("  9 s"));
        assert!(lines[4].contains("50 x isthmus net --linux: pings each way, 0 lost"), "{text}");
        assert_eq!(lines[6], "  TCP opposite isthmus net: 210 Mbit/s into the guest, 100 out of it");
        let without = Report { device: None, ..report }.to_string();
        assert!(without.contains("left out: isthmus net --linux"));
    }
}
