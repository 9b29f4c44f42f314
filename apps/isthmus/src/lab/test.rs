//! `isthmus lab test`.

use super::arguments::{Common, Kernel, TestArguments};
use super::progress::Progress;
use super::start::{boot, start};
use crate::Outcome;
use ::lab::selftest::{self, Extent, Report};
use anyhow::Context;
use serde_json::json;

/// Every mode that was asked for, each with every kernel.
pub(super) fn run(arguments: &TestArguments) -> anyhow::Result<Outcome> {
    let mut extent = if arguments.full { Extent::FULL } else { Extent::QUICK };
    extent.repeats = arguments.repeat.unwrap_or(extent.repeats);
    let common = &arguments.common;
    let kernels = if arguments.full { vec![Kernel::V6_12, Kernel::V6_1] } else { vec![common.kernel] };
    let mut reports = Vec::new();
    for window in common.window.each() {
        for &kernel in &kernels {
            let mw_size = common.mw_size.or(Some(extent.window_bytes()));
            let one = Common { window, kernel, mw_size, ..common.clone() };
            let report = test(&one, extent).with_context(|| match window.one() {
                Ok(windows) => format!("windows {windows}"),
                Err(_) => "windows".to_owned(),
            })?;
            let Some(report) = report else { continue };
            if !common.json {
                print!("{report}");
            }
            reports.push(report);
        }
    }
    if common.json && !common.dry_run {
        println!("{}", json!({"full": arguments.full, "runs": reports}));
    }
    Ok(Outcome::Done)
}

/// One mode with one kernel; `None` for a dry run.
fn test(common: &Common, extent: Extent) -> anyhow::Result<Option<Report>> {
    let Some((plan, directory)) = start(common, common.options()?)? else { return Ok(None) };
    let progress = Progress::new("test");
    progress.tell(&format!("booting two guests, windows {}", plan.options.windows));
    let mut pair = boot(plan, directory)?;
    let report = pair.attend(|pair| selftest::run(pair, extent, &mut |what| progress.tell(what)))?;
    pair.finish()?;
    progress.finish();
    Ok(Some(report))
}
