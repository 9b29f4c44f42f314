//! `isthmus demo`: two hosts on a twin, everything exercised, in two seconds.

mod acts;

use crate::Outcome;
use crate::opposite::{FarSide, Opposite, PATIENCE};
use acts::Stage;
use anyhow::Context;
use ntb::{Bridge, Gen3, Port, Speed, Width};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use twin_local::{LocalTwin, Setup, Side, WindowMode};

/// Show two hosts on a twin, without QEMU: link, scratchpads, doorbells, messages, every window mode
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  isthmus demo
  isthmus demo --json

First both hosts are in this process and call the twin; then each is a process of its own, and so is the twin. The
drivers are the same, and what they do is what a kernel's driver does: registers, doorbells, windows. Everything that
crosses is checked at the other side.")]
pub(crate) struct Arguments {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    far_side: FarSide,
}

/// One thing that was done.
#[derive(Debug, Serialize)]
struct Step {
    hosts: &'static str,
    what: String,
    ms: f64,
    figure: String,
}

/// What was done so far; each line is printed as it happens.
#[derive(Debug)]
pub(crate) struct Log {
    hosts: &'static str,
    steps: Vec<Step>,
    quiet: bool,
}

impl Log {
    fn part(&mut self, hosts: &'static str, what: &str) {
        self.hosts = hosts;
        if !self.quiet {
            crate::out::say!("{hosts}: {what}");
        }
    }

    /// Does one thing, and says how long it took; the action gives a figure, or an empty string.
    pub(crate) fn step<T>(
        &mut self,
        what: &str,
        action: impl FnOnce() -> anyhow::Result<(T, String)>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        let (result, figure) = action().with_context(|| format!("{what} ({})", self.hosts))?;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        if !self.quiet {
            crate::out::say!("{}", format!("  {what:<44} {ms:>9.3} ms   {figure}").trim_end());
        }
        self.steps.push(Step { hosts: self.hosts, what: what.to_owned(), ms, figure });
        Ok(result)
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    if let Some(served) = arguments.far_side.serve() {
        return served;
    }
    let began = Instant::now();
    let mut log = Log { hosts: "", steps: Vec::new(), quiet: arguments.json };
    one_process(&mut log)?;
    processes(&mut log)?;
    let total_ms = began.elapsed().as_secs_f64() * 1e3;
    if arguments.json {
        crate::out::say!("{}", serde_json::json!({ "demo": log.steps, "total_ms": total_ms }));
    } else {
        crate::out::say!("done in {:.2} s", total_ms / 1e3);
    }
    Ok(Outcome::Done)
}

/// Both ends in this process.
fn one_process(log: &mut Log) -> anyhow::Result<()> {
    log.part("one process", "a twin, and both hosts call it");
    for (nth, mode) in [WindowMode::Trap, WindowMode::Shared, WindowMode::Direct].into_iter().enumerate() {
        let setup = Setup { training: Duration::from_millis(2), messages: true, ..Setup::default() };
        let twin = LocalTwin::new(setup, [mode; 2])?;
        let open = |side| -> anyhow::Result<Arc<dyn Bridge>> {
            Ok(Arc::new(Gen3::open(Arc::new(twin.attach(side)?))?))
        };
        let up = || -> anyhow::Result<_> {
            let (usd, dsd) = (open(Side::A)?, open(Side::B)?);
            for end in [&usd, &dsd] {
                end.doorbells_unmask(end.doorbell_valid_mask())?;
                end.link_enable(Speed::Auto, Width::Auto)?;
            }
            for end in [&usd, &dsd] {
                end.wait_for_link(true, PATIENCE)?;
            }
            let link = usd.link()?.to_string();
            Ok(((usd, dsd), link))
        };
        let (usd, dsd) = match nth {
            0 => log.step("two drivers, the link", up)?,
            _ => up()?.0,
        };
        let stage = Stage { near: Arc::clone(&usd), far: Some(Arc::clone(&dsd)) };
        if nth == 0 {
            stage.registers(log)?;
        }
        stage.window(log, mode)?;
        if nth == 0 {
            log.step("link down, seen at the other end", || {
                dsd.link_disable()?;
                Ok(((), usd.wait_for_link(false, PATIENCE)?.to_string()))
            })?;
        }
    }
    Ok(())
}

/// Each end a process, and the twin a third.
fn processes(log: &mut Log) -> anyhow::Result<()> {
    log.part("two processes", "a twin in a third, vfio-user between");
    let modes =
        [WindowMode::Trap, WindowMode::Shared, WindowMode::Alias, WindowMode::Direct, WindowMode::Dma];
    for (nth, mode) in modes.into_iter().enumerate() {
        let start = || {
            let opposite = Opposite::start("demo", mode, 1 << 20)?;
            let link = opposite.near.link()?.to_string();
            Ok((opposite, link))
        };
        let opposite = match nth {
            0 => log.step("a twin, a far side, two drivers, the link", start)?,
            _ => start()?.0,
        };
        debug_assert_eq!(opposite.near.port(), Port::Usd);
        let stage = Stage { near: Arc::clone(&opposite.near), far: None };
        if nth == 0 {
            stage.registers(log)?;
        }
        match &opposite.engine {
            Some(engine) => stage.engine(log, engine)?,
            None => stage.window(log, mode)?,
        }
    }
    Ok(())
}
