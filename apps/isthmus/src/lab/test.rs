//! `isthmus lab test`.

use super::arguments::{Common, Kernel, TestArguments};
use super::progress::Progress;
use super::start::{boot, start};
use crate::Outcome;
use ::lab::opposite;
use ::lab::options::{Options, Vfio};
use ::lab::selftest::{self, Extent, Report};
use ::lab::vfio;
use anyhow::{Context, bail};
use serde_json::json;

/// Every mode that was asked for, each with every kernel.
pub(super) fn run(arguments: &TestArguments) -> anyhow::Result<Outcome> {
    if arguments.peer {
        return run_opposite(arguments);
    }
    if arguments.vfio {
        return run_vfio(arguments);
    }
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
                crate::out::write(format_args!("{report}"));
            }
            reports.push(report);
        }
    }
    if common.json && !common.dry_run {
        crate::out::say!("{}", json!({"full": arguments.full, "runs": reports}));
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

/// One guest and a process: every mode that was asked for and that stock drivers can receive by, each with every kernel.
fn run_opposite(arguments: &TestArguments) -> anyhow::Result<Outcome> {
    let extent = if arguments.full { opposite::Extent::FULL } else { opposite::Extent::QUICK };
    let common = &arguments.common;
    let kernels = if arguments.full { vec![Kernel::V6_12, Kernel::V6_1] } else { vec![common.kernel] };
    let mut reports = Vec::new();
    let windows = common.window.each();
    let several = windows.len() > 1;
    for window in windows {
        for &kernel in &kernels {
            let one = Common { window, kernel, ..common.clone() };
            let options = one.options()?;
            if !options.windows.reach_ram() && several {
                continue;
            }
            if !options.windows.reach_ram() {
                bail!(
                    "windows {}: stock drivers do not look there; choose trap, alias or direct",
                    options.windows
                );
            }
            let Some((plan, directory)) = start(&one, options)? else { continue };
            let progress = Progress::new("test --peer");
            progress.tell(&format!("booting a guest, windows {}", plan.options.windows));
            let report = opposite::run(plan, &directory, extent, &mut |what| progress.tell(what))?;
            progress.finish();
            if !common.json {
                crate::out::write(format_args!("{report}"));
            }
            reports.push(report);
        }
    }
    if common.json && !common.dry_run {
        crate::out::say!("{}", json!({"full": arguments.full, "runs": reports}));
    }
    Ok(Outcome::Done)
}

/// A process in a guest: first opposite itself, then opposite a stock guest, with each kernel.
fn run_vfio(arguments: &TestArguments) -> anyhow::Result<Outcome> {
    let extent = if arguments.full { vfio::Extent::FULL } else { vfio::Extent::QUICK };
    let common = &arguments.common;
    let kernels = if arguments.full { vec![Kernel::V6_12, Kernel::V6_1] } else { vec![common.kernel] };
    let mut reports = Vec::new();
    for &kernel in &kernels {
        let one = Common { kernel, ..common.clone() };
        let options = one.options()?;
        if options.windows.any_mapped() {
            bail!(
                "windows {}: behind an IOMMU stores are messages here; choose trap or dma",
                options.windows
            );
        }
        let progress = Progress::new("test --vfio");
        let both = start(&one, Options { vfio: Vfio::BothPorts, dma: false, ..options.clone() })?;
        let suite = match both {
            None => Vec::new(),
            Some((plan, directory)) => {
                progress.tell("the suite, in a guest with both ports");
                vfio::suite(&plan, &directory)?
            }
        };
        let Some((plan, directory)) = start(&one, Options { vfio: Vfio::Port, ..options })? else { continue };
        progress.tell("booting two guests");
        let mut pair = boot(plan, directory)?;
        let report =
            pair.attend(|pair| vfio::opposite(pair, suite, extent, &mut |what| progress.tell(what)))?;
        pair.finish()?;
        progress.finish();
        if !common.json {
            crate::out::write(format_args!("{report}"));
        }
        reports.push(report);
    }
    if common.json && !common.dry_run {
        crate::out::say!("{}", json!({"full": arguments.full, "runs": reports}));
    }
    Ok(Outcome::Done)
}
