//! From arguments to a plan, and from a plan to a lab.

use super::arguments::Common;
use super::progress::SetupProgress;
use ::lab::artifacts::{self, Artifacts, Series, SetupOptions};
use ::lab::options::Options;
use ::lab::pair::Pair;
use ::lab::plan::Plan;
use ::lab::run_dir::{RunDir, rendezvous};
use anyhow::{Context, bail};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Finds or makes what guests need.
pub(super) fn setup(series: Vec<Series>, refresh: bool) -> anyhow::Result<Artifacts> {
    let options = SetupOptions { series, refresh, ..SetupOptions::default() };
    Ok(artifacts::setup(&options, &mut SetupProgress::new())?)
}

/// The plan of a run and the directory for it; for a dry run it is printed, and there is none.
pub(super) fn start(common: &Common, options: Options) -> anyhow::Result<Option<(Plan, RunDir)>> {
    let artifacts = setup(vec![options.series], false)?;
    let image = artifacts.images.into_iter().next().context("setup made no guest image")?;
    let directory = RunDir::create()?;
    let plan = Plan {
        options,
        qemu: artifacts.qemu,
        image,
        executable: std::env::current_exe().context("where is this program?")?,
        directory: directory.path().to_owned(),
    };
    if common.dry_run {
        crate::out::write(format_args!("{plan}"));
        return Ok(None);
    }
    Ok(Some((plan, directory)))
}

pub(super) fn boot(plan: Plan, directory: RunDir) -> anyhow::Result<Pair> {
    Pair::boot(plan, directory)
}

/// Starts this very command line again in a session of its own, and waits until it says that the lab is up.
pub(super) fn in_background() -> anyhow::Result<String> {
    let log = rendezvous()?.join("lab.log");
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["lab", "exec-child", "--session", "--"]).arg(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).arg("--foreground");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(output);
    let mut child = command.spawn()?;
    let pipe = child.stdout.take().context("a child without output")?;
    let mut line = String::new();
    BufReader::new(pipe).read_line(&mut line)?;
    if line.trim().is_empty() {
        let status = child.wait()?;
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        bail!("the lab did not come up ({status}); it said:\n{}", said.trim());
    }
    Ok(line.trim().to_owned())
}
