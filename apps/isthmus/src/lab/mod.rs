//! `isthmus lab`: two stock guests on a twin.

mod arguments;
mod conformance;
mod copy;
mod perf;
pub(crate) mod progress;
mod start;
mod test;

pub(crate) use arguments::Arguments;

use crate::Outcome;
use ::lab::access::Access;
use ::lab::artifacts::Series;
use ::lab::channel::ExitStatus;
use ::lab::options::Side;
use ::lab::{agent, process, run as runs, terminal, trouble, up};
use anyhow::{Context, bail};
use arguments::{Command, Common, RunArguments, ShellArguments, UpArguments};
use progress::Progress;
use serde_json::json;
use start::{boot, setup, start};

/// What the agent in a guest runs and the lab does not know.
const HANDS: agent::Hands = agent::Hands { copy_loop: copy::run, conformance: conformance::run };

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Outcome> {
    match arguments.command {
        Command::Agent { words } => Ok(Outcome::Exit(agent::main(words, HANDS)?)),
        Command::ExecChild { words } => process::trampoline::main(words).map(|()| Outcome::Done),
        command => {
            ::lab::interrupt::install().context("SIGINT and SIGTERM cannot be watched")?;
            match command {
                Command::Setup { kernel, refresh, json } => setup_command(&kernel, refresh, json),
                Command::Perf(arguments) => perf::run(&arguments),
                Command::Test(arguments) => test::run(&arguments),
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
        crate::out::say!("{}", json!({"qemu": qemu, "images": images.collect::<Vec<_>>()}));
        return Ok(Outcome::Done);
    }
    crate::out::say!("QEMU {version}: {}", artifacts.qemu.program.display());
    for image in &artifacts.images {
        crate::out::say!("Linux {}: {}, {}", image.release, image.kernel.display(), image.rootfs.display());
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
        crate::out::say!("{}", json!({"guests": outcomes}));
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
    let Some((plan, directory)) = start(common, common.options()?)? else { return Ok(None) };
    let progress = Progress::new("lab");
    progress.tell("booting two guests");
    let mut pair = boot(plan, directory)?;
    progress.finish();
    if pair.plan().options.gdb.is_some() {
        crate::out::note!("{}", ::lab::debug::instructions(&pair)?);
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
            crate::out::say!("{about}");
        } else {
            crate::out::say!(
                "up: {about}\nnow `isthmus lab shell a`, `isthmus lab run --guest both -- CMD`, `isthmus lab down`"
            );
        }
        return Ok(Outcome::Done);
    }
    let Some((plan, directory)) = start(common, common.options()?)? else { return Ok(Outcome::Done) };
    let mut pair = boot(plan, directory)?;
    if pair.plan().options.gdb.is_some() {
        crate::out::note!("{}", ::lab::debug::instructions(&pair)?);
    }
    pair.attend(|pair| up::serve(pair, |about| crate::out::say!("{about}")))?;
    pair.finish()?;
    Ok(Outcome::Done)
}

fn down_command(as_json: bool) -> anyhow::Result<Outcome> {
    let was_up = up::down()?;
    if as_json {
        crate::out::say!("{}", json!({"was_up": was_up}));
    } else {
        crate::out::say!("{}", if was_up { "down" } else { "no lab was up" });
    }
    Ok(Outcome::Done)
}
