//! `isthmus lab perf`.

use super::arguments::{Common, PerfArguments};
use super::copy;
use super::progress::Progress;
use super::start::{boot, start};
use crate::Outcome;
use ::lab::perf::comparison::Comparison;
use ::lab::perf::report::Report;
use ::lab::perf::{self, Settings, html, profile};
use ::lab::trouble;
use anyhow::Context;
use std::fs;

/// Every mode that was asked for, then a table or a report.
pub(super) fn run(arguments: &PerfArguments) -> anyhow::Result<Outcome> {
    let common = &arguments.common;
    let windows = common.window.each();
    let compared = windows.len() > 1;
    if arguments.profile {
        profile::possible()?;
    }
    let (mut reports, mut end) = (Vec::new(), Ok(()));
    for window in windows {
        let name = window.one()?.to_string();
        // Of several modes only the fastest one for a network is worth the time of a profile.
        let settings = Settings {
            chunks: arguments.chunks(),
            copy_loop: copy::run,
            profile: arguments.profile && (!compared || name == "direct"),
        };
        let one = Common { window, dma: common.dma || compared, ..common.clone() };
        match measure(&one, &settings) {
            Ok(report) => reports.extend(report),
            // What was measured before is shown all the same.
            Err(error) if compared => {
                end = Err(error.context(format!("windows {name}")));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    if common.dry_run {
        return end.map(|()| Outcome::Done);
    }
    if let Some(file) = &arguments.report {
        let command = std::env::args().skip(1).fold("isthmus".to_owned(), |line, word| line + " " + &word);
        fs::write(file, html::page(&reports, &command)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    match reports.as_slice() {
        [report] if !compared && common.json => crate::out::say!("{}", serde_json::to_string(report)?),
        [report] if !compared => crate::out::write(format_args!("{report}")),
        _ if common.json => crate::out::say!("{}", serde_json::to_string(&reports)?),
        _ => crate::out::write(format_args!("{}", Comparison(&reports))),
    }
    judge(&reports, compared, end)
}

/// Tells what is doubtful, and fails for what must not be.
fn judge(reports: &[Report], compared: bool, end: anyhow::Result<()>) -> anyhow::Result<Outcome> {
    let named = |report: &Report, what: String| {
        if compared { format!("windows {}: {what}", report.window) } else { what }
    };
    let mut wrong = Vec::new();
    for report in reports {
        for doubt in perf::doubts(report) {
            tracing::warn!("{}", named(report, doubt));
        }
        wrong.extend(perf::shortcomings(report).into_iter().map(|what| named(report, what)));
    }
    end?;
    if !wrong.is_empty() {
        return Err(trouble::UnderTest(wrong.join("; ")).into());
    }
    Ok(Outcome::Done)
}

/// The report of one mode; `None` for a dry run.
fn measure(common: &Common, settings: &Settings) -> anyhow::Result<Option<Report>> {
    let mut options = common.options()?;
    options.virtio_net = true;
    options.perfmap = settings.profile;
    let Some((plan, directory)) = start(common, options)? else { return Ok(None) };
    let progress = Progress::new("perf");
    progress.tell(&format!("booting two guests, windows {}", plan.options.windows));
    let mut pair = boot(plan, directory)?;
    let report = pair.attend(|pair| perf::measure(pair, settings, &mut |what| progress.tell(what)))?;
    pair.finish()?;
    progress.finish();
    Ok(Some(report))
}
