//! `tools/testing/selftests/ntb/ntb_test.sh` of the kernel's own source, byte for byte.

use crate::channel::{Event, Exec, ExitStatus};
use crate::options::Side;
use crate::pair::Pair;
use crate::steps;
use crate::trouble::failed;
use crate::windows::Windows;
use std::time::{Duration, Instant};

/// Where the image has it.
const SCRIPT: &str = "/usr/lib/isthmus/ntb_test.sh";
/// Window size for the parts that store and read single words through the windows.
const WINDOW: u32 = 65536;

/// The script's functions, called as it calls them: for windows that do not reach RAM. `mw_test` compares what arrived
/// in the receiver's memory, so that function does nothing here. The file itself is what it is.
const BY_FUNCTIONS: &str = r#"script=$1; shift
sed '/^ntb_tool_tests$/,$d' "$script" > /tmp/ntb_test_functions.sh
source /tmp/ntb_test_functions.sh "$@"
function mw_test() { echo "Leaving out the mw tests"; }
ntb_tool_tests; ntb_pingpong_tests; ntb_msi_tests; ntb_perf_tests
"#;
/// Where that is put.
const FUNCTIONS: &str = "/tmp/ntb_test_by_functions.sh";

/// What was run, in words.
pub(super) fn name(windows: Windows) -> &'static str {
    if windows.reach_ram() { "ntb_test.sh" } else { "ntb_test.sh, all but mw_test" }
}

/// Runs it in guest a with guest b as its remote. Its part about MSI needs a module that the image does not
/// have, since NTB MSI cannot work with ntb_hw_intel: the driver takes every MSI-X vector for itself.
pub(super) fn run(pair: &mut Pair, order: u32) -> anyhow::Result<()> {
    for guest in pair.guests() {
        guest.sh("modprobe ntb_hw_intel")?;
    }
    let (local, remote) = (steps::ntb_device(pair.guest(Side::A))?, steps::ntb_device(pair.guest(Side::B))?);
    let (windows, dma) = (pair.plan().options.windows, pair.plan().options.dma);
    let script = if windows.reach_ram() {
        SCRIPT.to_owned()
    } else {
        pair.guest(Side::A).put(BY_FUNCTIONS.as_bytes(), FUNCTIONS, 0o644)?;
        format!("{FUNCTIONS} {SCRIPT}")
    };
    let by_dma = if dma { " -d" } else { "" };
    let line = format!("bash {script} -r b -p {order} -m {WINDOW}{by_dma} {local} {remote} 2>&1");
    tracing::debug!(line, "guest a");
    let deadline = Instant::now() + Duration::from_secs(600);
    let mut call = pair.guest(Side::A).mux().exec(&Exec::shell(&line))?;
    let mut text = String::new();
    let status = loop {
        match call.next_event_before(deadline) {
            Some(Event::Data(_, bytes)) => text.push_str(&String::from_utf8_lossy(&bytes)),
            Some(Event::Exit(status)) => break status,
            Some(_) => {}
            None => return Err(failed(format!("ntb_test.sh does not end; so far it printed:\n{text}"))),
        }
    };
    tracing::debug!("{text}");
    judge(&text, &status, windows.reach_ram(), dma)
        .map_err(|why| failed(format!("ntb_test.sh: {why}; it printed:\n{text}")))
}

/// The script's parts: each begins with a line of its own.
const PARTS: [&str; 4] = [
    "Starting ntb_tool tests",
    "Starting ntb_pingpong tests",
    "Starting ntb_msi_test tests",
    "Starting ntb_perf tests",
];

/// An exit status of 0 is not enough: a part that found nothing to do exits well, too.
fn judge(text: &str, status: &ExitStatus, mw: bool, dma: bool) -> Result<(), String> {
    if !status.success() {
        return Err(status.to_string());
    }
    if let Some(part) = PARTS.iter().find(|part| !text.contains(**part)) {
        return Err(format!("the part {part:?} did not run"));
    }
    for (wanted, line) in [(mw, "Running mw"), (dma, "perf test with DMA")] {
        if text.contains(line) != wanted {
            let ran = if wanted { "did not run" } else { "ran" };
            return Err(format!("{line:?} {ran}"));
        }
    }
    let (mut running, mut passed) = (None, 0);
    for line in text.lines() {
        match (running, line.trim()) {
            (None, _) if line.starts_with("Running ") => running = Some(line),
            (Some(test), _) if line.starts_with("Running ") => return Err(format!("{test:?} has no result")),
            (Some(_), "Passed") => {
                running = None;
                passed += 1;
            }
            // This hardware has no message registers.
            (Some(test), "Unsupported") if test.starts_with("Running msg tests") => running = None,
            (Some(test), "Unsupported") => return Err(format!("{test:?} is unsupported")),
            _ => {}
        }
    }
    match (running, passed) {
        (Some(test), _) => Err(format!("{test:?} has no result")),
        (None, 0) => Err("no test ran".to_owned()),
        (None, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_must_have_run_and_passed() {
        let judge = |text: &str, code| judge(text, &ExitStatus::Code(code), true, false);
        let good: String = PARTS.iter().map(|part| format!("{part}...\n")).collect();
        let good = good + "Running db tests on: x / y\n  Passed\nRunning mw0 tests on: x / y\n  Passed\n";
        assert_eq!(judge(&good, 0), Ok(()));
        assert!(judge(&good, 1).is_err());
        assert!(judge(&good.replacen("  Passed", "  Unsupported", 1), 0).is_err());
        let messages = good.clone() + "Running msg tests on: x / y\n  Unsupported\n";
        assert_eq!(judge(&messages, 0), Ok(()));
        assert!(judge(&good.replace("  Passed", ""), 0).is_err());
        assert!(judge(&good.replace("pingpong", ""), 0).is_err());
    }

    #[test]
    fn parts_run_where_they_should_and_nowhere_else() {
        let code = ExitStatus::Code(0);
        let parts: String = PARTS.iter().map(|part| format!("{part}...\n")).collect();
        let mw = parts.clone() + "Running mw0 tests on: x / y\n  Passed\n";
        let dma = mw.clone() + "Running local perf test with DMA\n  Passed\n";
        assert!(judge(&mw, &code, false, false).is_err());
        assert!(judge(&mw, &code, true, true).is_err());
        assert_eq!(judge(&dma, &code, true, true), Ok(()));
        let without = parts + "Running db tests on: x / y\n  Passed\n";
        assert_eq!(judge(&without, &code, false, false), Ok(()));
        assert!(judge(&without, &code, true, false).is_err());
    }
}
