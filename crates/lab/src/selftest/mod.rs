//! `lab test`: the kernel's own NTB test, then faults.

mod client;
mod faults;
mod script;

use crate::health;
use crate::options::{MAX_STOCK_WINDOW_BYTES, MIN_NETWORK_WINDOW_BYTES, Side, show_size};
use crate::pair::Pair;
use crate::steps;
use anyhow::Context;
use client::Client;
use faults::Fault;
use serde::Serialize;
use std::fmt;
use std::time::Instant;

/// How much of it to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// `-p` of the script: 2 to this power bytes a run of ntb_perf.
    pub order: u32,
    /// How often each fault.
    pub repeats: u32,
}

impl Extent {
    /// Enough to see that it works.
    pub const QUICK: Self = Self { order: 24, repeats: 1 };
    /// Before a release.
    pub const FULL: Self = Self { order: 28, repeats: 10 };

    /// The size of the windows, where the user has no wish: the smallest that ntb_netdev can use, or the
    /// largest.
    #[must_use]
    pub fn window_bytes(self) -> u64 {
        if self.order == Self::FULL.order { MAX_STOCK_WINDOW_BYTES } else { MIN_NETWORK_WINDOW_BYTES }
    }
}

/// One thing that was tried and held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// What.
    pub name: String,
    /// How often.
    pub times: u32,
    /// How long it took, all of it.
    pub ms: u64,
}

/// All that held, of one kernel.
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
    /// Their size.
    pub window_bytes: u64,
    /// What ran across the bridge during the faults.
    pub client: &'static str,
    /// In order.
    pub passed: Vec<Passed>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { qemu, kernel, accel, window, client, .. } = self;
        let size = show_size(self.window_bytes);
        writeln!(
            f,
            "Isthmus lab test: QEMU {qemu}, Linux {kernel}, {accel}, windows {window} of {size}, {client}"
        )?;
        for row in &self.passed {
            let seconds = row.ms / 1000;
            writeln!(f, "  passed {:>3} x  {:<44}{seconds:>6} s", row.times, row.name)?;
        }
        Ok(())
    }
}

/// Runs all of it; `tell` hears what is being done.
///
/// # Errors
/// Blames the thing under test at the first thing that does not hold.
pub fn run(pair: &mut Pair, extent: Extent, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Report> {
    let mut passed = Vec::new();
    let begun = Instant::now();
    let options = pair.plan().options.clone();
    let client = Client::of(&options);
    tell("ntb_test.sh");
    script::run(pair, extent.order)?;
    health::check(pair).context("after ntb_test.sh")?;
    let name = script::name(options.windows).to_owned();
    passed.push(Passed { name, times: 1, ms: steps::millis(begun.elapsed()) });
    client.bring_up(pair, Side::A)?;
    client.check(pair.guest(Side::A))?;
    for fault in Fault::all(client) {
        let begun = Instant::now();
        for turn in 1..=extent.repeats {
            tell(&format!("{fault} ({turn} of {})", extent.repeats));
            let told = || format!("{fault}, turn {turn}");
            fault.inflict(pair, client).with_context(told)?;
            for side in Side::BOTH {
                client.check(pair.guest(side)).with_context(told)?;
            }
            health::check(pair).with_context(told)?;
        }
        let ms = steps::millis(begun.elapsed());
        passed.push(Passed { name: fault.to_string(), times: extent.repeats, ms });
    }
    let (major, minor, micro) = pair.plan().qemu.version;
    Ok(Report {
        qemu: format!("{major}.{minor}.{micro}"),
        kernel: pair.guest(Side::A).hello().release.clone(),
        accel: pair.accel().to_string(),
        window: options.windows.to_string(),
        window_bytes: options.window_bytes,
        client: client.name(),
        passed,
    })
}
