//! `isthmus lab`: two stock guests on a twin.

mod arguments;
mod progress;
mod start;

pub(crate) use arguments::Arguments;

use crate::Outcome;
use ::lab::access::Access;
use ::lab::artifacts::Series;
use ::lab::channel::ExitStatus;
use ::lab::options::Side;
use ::lab::perf::comparison::Comparison;
use ::lab::perf::report::Report;
use ::lab::selftest::Extent;
use ::lab::{agent, perf, process, run as runs, selftest, terminal, trouble, up};
use anyhow::{Context, bail};
use arguments::{Command, Common, PerfArguments, RunArguments, ShellArguments, TestArguments, UpArguments};
use progress::Progress;
use serde_json::json;
use start::{boot, setup, start};

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Outcome> {
    match arguments.command {
        Command::Agent { words } => Ok(Outcome::Exit(agent::main(words)?)),
        Command::ExecChild { words } => process::trampoline::main(words).map(|()| Outcome::Done),
        command => {
            ::lab::interrupt::install().context("SIGINT and SIGTERM cannot be watched")?;
            match command {
                Command::Setup { kernel, refresh, json } => setup_command(&kernel, refresh, json),
                Command::Perf(arguments) => perf_command(&arguments),
                Command::Test(arguments) => test_command(&arguments),
                Command::Run(arguments) => run_command(&arguments),
                Command::Shell(arguments) => shell_command(&arguments),
                Command::Up(arguments) => up_command(&arguments),
                Command::Down { json } => down_command(json),
                Command::Agent { .. } | Command::ExecChild { .. } => Ok(Outcome::Done),
            }
        }
    }
}

fn setup_command(kernels: &[arguments::Kernel], refresh: bool, as_json: bool) -> anyhow::Result<Outcome> {
    let series = kernels.iter().map(|kernel| Series::from(*kernel)).collect();
    let artifacts = setup(series, refresh)?;
    let (major, minor, micro) = artifacts.qemu.version;
    let version = format!("{major}.{minor}.{micro}");
    if as_json {
        let images = artifacts.images.iter().map(|image| {
            json!({"kernel": image.release, "vmlinuz": image.kernel, "rootfs": image.rootfs,
                   "debug_modules": image.debug_modules})
        });
        let qemu = json!({"version": version, "program": artifacts.qemu.program});
        println!("{}", json!({"qemu": qemu, "images": images.collect::<Vec<_>>()}));
        return Ok(Outcome::Done);
    }
    println!("QEMU {version}: {}", artifacts.qemu.program.display());
    for image in &artifacts.images {
        println!("Linux {}: {}, {}", image.release, image.kernel.display(), image.rootfs.display());
    }
    Ok(Outcome::Done)
}

fn perf_command(arguments: &PerfArguments) -> anyhow::Result<Outcome> {
    let windows = arguments.common.window.each();
    let compared = windows.len() > 1;
    let (mut reports, mut end) = (Vec::new(), Ok(()));
    for window in windows {
        let common = Common { window, ..arguments.common.clone() };
        match measure(&common) {
            Ok(report) => reports.extend(report),
            // What was measured before is shown all the same.
            Err(error) if compared => {
                end = Err(error.context(format!("windows {}", window.one()?)));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    if arguments.common.dry_run {
        return end.map(|()| Outcome::Done);
    }
    match reports.as_slice() {
        [report] if !compared && arguments.common.json => println!("{}", serde_json::to_string(report)?),
        [report] if !compared => print!("{report}"),
        _ if arguments.common.json => println!("{}", serde_json::to_string(&reports)?),
        _ => print!("{}", Comparison(&reports)),
    }
    let named = |report: &Report, what: String| {
        if compared { format!("windows {}: {what}", report.window) } else { what }
    };
    let mut wrong = Vec::new();
    for report in &reports {
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
fn measure(common: &Common) -> anyhow::Result<Option<Report>> {
    let Some((plan, directory)) = start(common)? else { return Ok(None) };
    let progress = Progress::new("perf");
    progress.tell(&format!("booting two guests, windows {}", plan.options.window));
    let mut pair = boot(plan, directory)?;
    let report = pair.attend(|pair| perf::measure(pair, &mut |what| progress.tell(what)))?;
    pair.finish()?;
    progress.finish();
    Ok(Some(report))
}

fn test_command(arguments: &TestArguments) -> anyhow::Result<Outcome> {
    let extent = if arguments.full { Extent::FULL } else { Extent::QUICK };
    let mut common = arguments.common.clone();
    if !common.window.one()?.reaches_ram() {
        bail!("lab test has nothing for shared windows: {}", perf::report::SKIPPED);
    }
    common.mw_size = common.mw_size.or(Some(extent.window_bytes()));
    let kernels = if arguments.full {
        vec![arguments::Kernel::V6_12, arguments::Kernel::V6_1]
    } else {
        vec![common.kernel]
    };
    let mut reports = Vec::new();
    for kernel in kernels {
        common.kernel = kernel;
        let Some((plan, directory)) = start(&common)? else { continue };
        let progress = Progress::new("test");
        progress.tell("booting two guests");
        let mut pair = boot(plan, directory)?;
        let report = pair.attend(|pair| selftest::run(pair, extent, &mut |what| progress.tell(what)))?;
        pair.finish()?;
        progress.finish();
        if !common.json {
            print!("{report}");
        }
        reports.push(report);
    }
    if common.json && !common.dry_run {
        println!("{}", json!({"full": arguments.full, "runs": reports}));
    }
    Ok(Outcome::Done)
}

fn run_command(arguments: &RunArguments) -> anyhow::Result<Outcome> {
    let request = runs::Request {
        guests: arguments.guest.sides(),
        modules: arguments.module.clone(),
        words: arguments.command.clone(),
    };
    for module in &request.modules {
        std::fs::metadata(module).with_context(|| format!("cannot read {}", module.display()))?;
    }
    let json = arguments.common.json;
    let outcomes = with_access(&arguments.common, |access| runs::run(access, &request, json))?;
    let Some(outcomes) = outcomes else { return Ok(Outcome::Done) };
    if json {
        println!("{}", json!({"guests": outcomes}));
    }
    let failed = outcomes.iter().filter(|outcome| outcome.status != 0);
    let failed: Vec<_> = failed.map(|outcome| format!("guest {}: {}", outcome.guest, outcome.end)).collect();
    if failed.is_empty() { Ok(Outcome::Done) } else { Err(trouble::UnderTest(failed.join("; ")).into()) }
}

fn shell_command(arguments: &ShellArguments) -> anyhow::Result<Outcome> {
    let side = Side::from(arguments.guest);
    let status = with_access(&arguments.common, |access| terminal::shell(access, side))?;
    if let Some(ExitStatus::Lost(why)) = status {
        bail!("{why}");
    }
    Ok(Outcome::Done)
}

/// Works with the lab that is up, or boots one for the purpose. `None` for a dry run.
fn with_access<T>(
    common: &Common,
    work: impl FnOnce(&Access<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    if !common.dry_run
        && let Some(access) = Access::attach()?
    {
        tracing::debug!("a lab is up: using it");
        return work(&access).map(Some);
    }
    let Some((plan, directory)) = start(common)? else { return Ok(None) };
    let progress = Progress::new("lab");
    progress.tell("booting two guests");
    let mut pair = boot(plan, directory)?;
    progress.finish();
    if pair.plan().options.gdb.is_some() {
        eprintln!("{}", ::lab::debug::instructions(&pair)?);
    }
    let result = pair.attend(|pair| work(&Access::Own(pair)))?;
    pair.finish()?;
    Ok(Some(result))
}

fn up_command(arguments: &UpArguments) -> anyhow::Result<Outcome> {
    let common = &arguments.common;
    if !arguments.foreground && !common.dry_run {
        let about = start::in_background()?;
        if common.json {
            println!("{about}");
        } else {
            println!(
                "up: {about}\nnow `isthmus lab shell a`, `isthmus lab run --guest both -- CMD`, `isthmus lab down`"
            );
        }
        return Ok(Outcome::Done);
    }
    let Some((plan, directory)) = start(common)? else { return Ok(Outcome::Done) };
    let mut pair = boot(plan, directory)?;
    if pair.plan().options.gdb.is_some() {
        eprintln!("{}", ::lab::debug::instructions(&pair)?);
    }
    pair.attend(|pair| up::serve(pair, |about| println!("{about}")))?;
    pair.finish()?;
    Ok(Outcome::Done)
}

fn down_command(as_json: bool) -> anyhow::Result<Outcome> {
    let was_up = up::down()?;
    if as_json {
        println!("{}", json!({"was_up": was_up}));
    } else {
        println!("{}", if was_up { "down" } else { "no lab was up" });
    }
    Ok(Outcome::Done)
}
