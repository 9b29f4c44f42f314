//! A process in a guest, which the guest's kernel gives the NTB by VFIO: `lab test --vfio`.
//!
//! ```text
//!   suite:     guest a [isthmus lab agent conformance ── vfio-pci ── port a of the twin]
//!                      [                             ── vfio-pci ── port b            ]
//!   opposite:  guest a [isthmus peer linux --vfio ── vfio-pci ── port a]   the twin   [port b ── stock drivers] guest b
//! ```
//!
//! Guest a has an IOMMU (QEMU's intel-iommu): what the process gives to its device, the twin gets page by page.

use crate::agent::SELF;
use crate::channel::{Call, Captured, Exec, capture};
use crate::guest::{Guest, Switchboard};
use crate::health;
use crate::initrd;
use crate::interrupt;
use crate::options::{Side, Vfio};
use crate::pair::Pair;
use crate::plan::Plan;
use crate::process::tail;
use crate::run_dir::RunDir;
use crate::steps::{self, Network};
use crate::trouble::failed;
use crate::twin::Twin;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The guest with the process.
const PROCESS: Side = Side::A;
/// The one with stock drivers, opposite it.
const STOCK: Side = Side::B;
/// How long the whole suite may take in an emulated guest on a busy machine.
const SUITE: Duration = Duration::from_secs(300);
/// How long the raw test may take a thousand frames.
const THOUSAND_FRAMES: Duration = Duration::from_secs(30);
/// How long a process may take to end, once it was told to.
const END: Duration = Duration::from_secs(20);
/// Echo requests after each start of the process.
const PINGS: u32 = 3;

/// Gives all NTBs of a guest to vfio-pci, and prints where they are. No interrupt is remapped here, which VFIO wants to be told.
const BIND: &str = r"
set -e
modprobe vfio-pci
modprobe vfio_iommu_type1
echo Y > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts
cd /sys/bus/pci/devices
for device in *; do
    [ $(cat $device/device) = 0x201c ] || continue
    echo vfio-pci > $device/driver_override
    echo $device > /sys/bus/pci/drivers_probe
    echo $device
done";

/// A case of the suite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// Runs the suite on devices that are bound to vfio-pci, given by their addresses: the two ends of a link.
pub type Conformance = fn(&[String]) -> anyhow::Result<Vec<Case>>;

/// How much of it to do opposite stock drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Frames of the raw test, each way.
    pub frames: u32,
    /// How often the process comes and goes.
    pub restarts: u32,
}

impl Extent {
    /// Enough to see that it works.
    pub const QUICK: Self = Self { frames: 500, restarts: 2 };
    /// Before a release.
    pub const FULL: Self = Self { frames: 20_000, restarts: 20 };
}

/// What held, of one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of QEMU.
    pub qemu: String,
    /// `uname -r`.
    pub kernel: String,
    /// How the processors ran.
    pub accel: String,
    /// How windows worked.
    pub window: String,
    /// The cases of the suite, all of which passed.
    pub suite: Vec<Case>,
    /// Frames into the stock guest, and as many answers; every one arrived, every byte was right.
    pub frames: u32,
    /// How long they took, in milliseconds.
    pub frames_ms: u64,
    /// How often the process came back and was pinged: killed and ended in turn.
    pub restarts: u32,
    /// How long that took, in milliseconds.
    pub restarts_ms: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { qemu, kernel, accel, window, .. } = self;
        writeln!(
            f,
            "Isthmus lab test --vfio: QEMU {qemu}, Linux {kernel}, {accel}, intel-iommu, windows {window}"
        )?;
        let suite_ms: u64 = self.suite.iter().map(|case| case.ms).sum();
        let cases = u32::try_from(self.suite.len()).unwrap_or(u32::MAX);
        for (times, what, ms) in [
            (cases, "cases of the suite, both ports by VFIO", suite_ms),
            (self.frames, "frames each way to a stock guest, 0 lost", self.frames_ms),
            (self.restarts, "the process goes, by kill -9 and by SIGTERM", self.restarts_ms),
        ] {
            writeln!(f, "  passed {times:>6} x {what:<46}{:>6} s", ms / 1000)?;
        }
        Ok(())
    }
}

/// Runs the suite of `ntb` in one guest, which has both ports of the twin. The plan is of such a guest.
///
/// # Errors
/// Blames the thing under test when a case fails; the logs are kept then.
pub fn suite(plan: &Plan, directory: &RunDir) -> anyhow::Result<Vec<Case>> {
    if plan.options.vfio != Vfio::BothPorts || plan.options.windows.any_mapped() {
        bail!("the suite wants both ports in one guest, and windows whose stores are messages");
    }
    let result = boot(plan).and_then(|(mut twin, mut guest)| {
        let result = run_suite(&guest);
        let result = result.inspect_err(|_| {
            tracing::error!("console of the guest, its end\n{}", tail(&plan.console(PROCESS), 40));
        });
        guest.kill().context("the QEMU could not be ended")?;
        let ended = twin.stop();
        result.and_then(|cases| ended.map(|()| cases))
    });
    if interrupt::interrupted() {
        bail!("interrupted");
    }
    result.map_err(|error| {
        directory.keep();
        error.context(format!("console and logs stay in {}", directory.path().display()))
    })
}

fn boot(plan: &Plan) -> anyhow::Result<(Twin, Guest)> {
    initrd::write(&plan.image.rootfs, &plan.executable, &plan.initrd())?;
    let twin = Twin::start(plan)?;
    let accelerators = plan.accelerators();
    for accel in &accelerators {
        let switchboard = Arc::new(Switchboard::default());
        let booted = Guest::start(plan, PROCESS, *accel).and_then(|guest| guest.finish(plan, &switchboard));
        match booted {
            Ok(guest) => return Ok((twin, guest)),
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

fn run_suite(guest: &Guest) -> anyhow::Result<Vec<Case>> {
    let devices = bind(guest, 2)?;
    let line = format!("{SELF} lab agent conformance {}", devices.join(" "));
    let text = guest.sh_for(&line, SUITE)?;
    let cases: Vec<Case> = serde_json::from_str(&text)
        .map_err(|error| failed(format!("the suite printed {text:?}: {error}")))?;
    let wrong: Vec<_> =
        cases.iter().filter_map(|case| Some(format!("{}: {}", case.name, case.failure.as_ref()?))).collect();
    if cases.is_empty() || !wrong.is_empty() {
        let count = cases.len();
        return Err(failed(format!("of {count} cases {} failed:\n{}", wrong.len(), wrong.join("\n"))));
    }
    check_health(guest)?;
    Ok(cases)
}

/// Gives the NTBs of a guest to vfio-pci: where they are.
fn bind(guest: &Guest, count: usize) -> anyhow::Result<Vec<String>> {
    let devices: Vec<String> = guest.sh(BIND)?.split_whitespace().map(ToOwned::to_owned).collect();
    if devices.len() != count {
        return Err(failed(format!("guest {} has NTBs {devices:?}, not {count} of them", guest.side())));
    }
    Ok(devices)
}

fn check_health(guest: &Guest) -> anyhow::Result<()> {
    let wrong = health::complaints(&guest.kernel_log()?);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(failed(format!("the kernel of guest {} complains:\n{}", guest.side(), wrong.join("\n"))))
}

/// Has a process in guest a bring up the network of guest b; `suite` is what [`suite`] found before.
///
/// # Errors
/// Blames the thing under test at the first thing that does not hold.
pub fn opposite(
    pair: &mut Pair,
    suite: Vec<Case>,
    extent: Extent,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<Report> {
    let (process, stock) = (pair.guest(PROCESS), pair.guest(STOCK));
    let devices = bind(process, 1)?;
    let device = devices.first().context("no device")?;
    steps::load(stock, false)?;
    steps::configure(stock, Network::Bridge)?;
    tell(&format!("{} frames each way", extent.frames));
    let frames_ms = raw_test(process, device, extent.frames).context("the raw test")?;
    let begun = Instant::now();
    for turn in 1..=extent.restarts {
        tell(&format!("the process comes and goes ({turn} of {})", extent.restarts));
        restart(process, stock, device, turn % 2 == 0).with_context(|| format!("restart {turn}"))?;
    }
    let restarts_ms = steps::millis(begun.elapsed());
    health::check(pair)?;
    let (major, minor, micro) = pair.plan().qemu.version;
    Ok(Report {
        qemu: format!("{major}.{minor}.{micro}"),
        kernel: pair.guest(PROCESS).hello().release.clone(),
        accel: pair.accel().to_string(),
        window: pair.plan().options.windows.to_string(),
        suite,
        frames: extent.frames,
        frames_ms,
        restarts: extent.restarts,
        restarts_ms,
    })
}

/// The process's command line.
fn peer(device: &str, arguments: &str) -> String {
    let address = Network::Bridge.address(PROCESS);
    format!("exec {SELF} peer linux --json --vfio {device} --addr {address}/24 {arguments}")
}

/// Frames to the stock guest and back; how long they took.
fn raw_test(process: &Guest, device: &str, frames: u32) -> anyhow::Result<u64> {
    let to = Network::Bridge.address(STOCK);
    let line = peer(device, &format!("--frames {frames} --to {to} --timeout 60"));
    let patience = THOUSAND_FRAMES.saturating_mul(frames / 1000 + 6);
    let Captured { status, stdout, stderr } = process.run_for(&line, patience)?;
    let said = String::from_utf8_lossy(&stderr);
    if !status.success() {
        return Err(failed(format!("the process ended with {status}; it said:\n{said}")));
    }
    let report: Value = serde_json::from_slice(&stdout).context("the process made no report")?;
    let raw = &report["report"]["raw"];
    let is = |field: &str, value: u32| raw[field].as_u64() == Some(value.into());
    let perfect = is("sent", frames) && is("answered", frames);
    if !perfect || !is("lost", 0) || !is("corrupted", 0) || !is("unexpected", 0) {
        return Err(failed(format!("of {frames} frames: {raw}; the process said:\n{said}")));
    }
    raw["ms"].as_u64().context("the process's report has no time")
}

/// The process comes, the stock guest pings it, the process goes, the stock guest notices.
fn restart(process: &Guest, stock: &Guest, device: &str, kill: bool) -> anyhow::Result<()> {
    let call = process.mux().exec(&Exec::shell(peer(device, "")))?;
    let writer = call.writer();
    let met = steps::wait_carrier(stock, Network::Bridge, true)
        .and_then(|()| (0..PINGS).try_for_each(|_| steps::ping(stock, Network::Bridge, 1).map(drop)));
    let signal = if kill { rustix::process::Signal::KILL } else { rustix::process::Signal::TERM };
    writer.signal(signal.as_raw())?;
    let Captured { status, stderr, .. } = end_of(call)?;
    let said = String::from_utf8_lossy(&stderr);
    met.with_context(|| format!("the process said:\n{said}"))?;
    if !kill && !status.success() {
        return Err(failed(format!("the process ended with {status}; it said:\n{said}")));
    }
    steps::wait_carrier(stock, Network::Bridge, false)
}

fn end_of(call: Call) -> anyhow::Result<Captured> {
    capture(call, Instant::now() + END).context("the process does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_held_and_how_often() {
        let case = |ms| Case { name: "link::up".to_owned(), ms, failure: None };
        let report = Report {
            qemu: "11.1.3".to_owned(),
            kernel: "6.12.1".to_owned(),
            accel: "tcg".to_owned(),
            window: "trap".to_owned(),
            suite: vec![case(1500), case(1600)],
            frames: 500,
            frames_ms: 3100,
            restarts: 2,
            restarts_ms: 4000,
        };
        let text = report.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "Isthmus lab test --vfio: QEMU 11.1.3, Linux 6.12.1, tcg, intel-iommu, windows trap"
        );
        assert!(lines[1].starts_with("  passed      2 x cases of the suite") && lines[1].ends_with("  3 s"));
        assert!(lines[2].contains("500 x frames each way to a stock guest") && lines[3].ends_with("  4 s"));
    }

    #[test]
    fn a_case_is_the_json_that_it_was() {
        let case = Case { name: "a".to_owned(), ms: 1, failure: Some("why".to_owned()) };
        let json = serde_json::to_string(&case).unwrap();
        assert_eq!(json, r#"{"name":"a","ms":1,"failure":"why"}"#);
        assert_eq!(serde_json::from_str::<Case>(&json).unwrap(), case);
    }
}
