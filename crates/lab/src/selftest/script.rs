//! `tools/testing/selftests/ntb/ntb_test.sh` of the kernel's own source, byte for byte.

use crate::channel::{Event, Exec, ExitStatus};
use crate::options::Side;
use crate::pair::Pair;
use crate::steps;
use crate::trouble::failed;
use std::time::{Duration, Instant};

/// Where the image has it.
const SCRIPT: &str = "/usr/lib/isthmus/ntb_test.sh";
/// Window size for the parts that store and read single words through the windows.
const WINDOW: u32 = 65536;

/// Runs it in guest a with guest b as its remote. Its part about MSI needs a module that the image does not
/// have, since NTB MSI cannot work with ntb_hw_intel: the driver takes every MSI-X vector for itself.
pub(super) fn run(pair: &mut Pair, order: u32) -> anyhow::Result<()> {
    for guest in pair.guests() {
        guest.sh("modprobe ntb_hw_intel")?;
    }
    let (local, remote) = (steps::ntb_device(pair.guest(Side::A))?, steps::ntb_device(pair.guest(Side::B))?);
    let line = format!("bash {SCRIPT} -r b -p {order} -m {WINDOW} {local} {remote} 2>&1");
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
    judge(&text, &status).map_err(|why| failed(format!("ntb_test.sh: {why}; it printed:\n{text}")))
}

/// The script's parts: each begins with a line of its own.
const PARTS: [&str; 4] = [
    "Starting ntb_tool tests",
    "Starting ntb_pingpong tests",
    "Starting ntb_msi_test tests",
    "Starting ntb_perf tests",
];

/// An exit status of 0 is not enough: a part that found nothing to do exits well, too.
fn judge(text: &str, status: &ExitStatus) -> Result<(), String> {
    if !status.success() {
        return Err(status.to_string());
    }
    if let Some(part) = PARTS.iter().find(|part| !text.contains(**part)) {
        return Err(format!("the part {part:?} did not run"));
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
        let good: String = PARTS.iter().map(|part| format!("{part}...\n")).collect();
        let good = good + "Running db tests on: x / y\n  Passed\n";
        assert_eq!(judge(&good, &ExitStatus::Code(0)), Ok(()));
        assert!(judge(&good, &ExitStatus::Code(1)).is_err());
        assert!(judge(&good.replace("  Passed", "  Unsupported"), &ExitStatus::Code(0)).is_err());
        let messages = good.clone() + "Running msg tests on: x / y\n  Unsupported\n";
        assert_eq!(judge(&messages, &ExitStatus::Code(0)), Ok(()));
        assert!(judge(&good.replace("  Passed", ""), &ExitStatus::Code(0)).is_err());
        assert!(judge(&good.replace("pingpong", ""), &ExitStatus::Code(0)).is_err());
    }
}
