//! Prints the kernel's log with levels, which not every `dmesg` can.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io::Write;
use std::process::ExitCode;

/// The longest record that the kernel hands out.
const RECORD_BYTES: usize = 8192;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    let log = rustix::fs::open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
    let mut record = [0; RECORD_BYTES];
    let mut out = std::io::stdout().lock();
    loop {
        match rustix::io::read(&log, &mut record) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(count) => out.write_all(&record[..count])?,
            // Overwritten before it was read: the next record follows.
            Err(Errno::PIPE | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
