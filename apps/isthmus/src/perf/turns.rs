//! The turns of a measurement between two processors: where, how long, how it is told.

use super::placed::{PlacedReport, Sample, Series};
use ::lab::trouble::UnderTest;
use anyhow::{bail, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use yardstick::{Class, Pair, allowed_processors};

/// How long, where, and what becomes of the figures.
#[derive(Debug, clap::Args)]
pub(super) struct Measuring {
    /// Seconds of measuring
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86400))]
    seconds: u64,
    /// The two processors; without it: this process's first one, and one for each placement there is to it
    #[arg(long, value_name = "A,B", value_delimiter = ',', num_args = 1)]
    processors: Option<Vec<usize>>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
    /// Draw the figures
    #[arg(long, value_name = "FILE.svg")]
    pub(super) plot: Option<PathBuf>,
}

impl Measuring {
    /// The processor of this thread, and those that the other one may have.
    fn processors(&self) -> anyhow::Result<(usize, Vec<usize>)> {
        let allowed = allowed_processors()?;
        match self.processors.as_deref() {
            Some(&[here, there]) => {
                ensure!(here != there, "processors {here},{there}: two different ones are needed");
                for processor in [here, there] {
                    ensure!(
                        allowed.contains(&processor),
                        "processor {processor} is not for this process to use; it may use {allowed:?}"
                    );
                }
                Ok((here, vec![there]))
            }
            Some(list) => bail!("--processors takes two of them, not {}: --processors 0,1", list.len()),
            None => match allowed.as_slice() {
                [here, others @ ..] => Ok((*here, others.to_vec())),
                [] => bail!("there is no processor to run on"),
            },
        }
    }

    /// Measures until the time is over, all kinds of windows by turns: `window` measures kind 0, 1 .. of `kinds`. What other
    /// processes and threads `state` needs are there already, for they would inherit this thread's one processor.
    pub(super) fn measure<S>(
        &self,
        bench: &'static str,
        kinds: usize,
        state: &mut S,
        window: impl for<'scope> Fn(&mut Pair<'scope>, &mut S, usize) -> anyhow::Result<Vec<Sample>>,
    ) -> anyhow::Result<PlacedReport> {
        let (here, others) = self.processors()?;
        let mut series = Series::default();
        let progress = progress(self.seconds);
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let first = others.first().copied().unwrap_or(here);
            let mut pair = Pair::between(scope, here, first)?;
            let places = survey(&mut pair, &others)?;
            let begun = Instant::now();
            let mut turn: usize = 0;
            while turn == 0 || begun.elapsed() < Duration::from_secs(self.seconds) {
                if places.len() > 1
                    && turn.is_multiple_of(kinds)
                    && let Some(&place) = places.get(turn / kinds % places.len())
                {
                    pair.move_there(place)?;
                }
                let found = pair.try_window(|pair| window(pair, state, turn % kinds));
                series.note(found.map_err(|error| UnderTest(format!("{error:#}")))?)?;
                turn += 1;
                if let Some(bar) = &progress {
                    bar.set_position(begun.elapsed().as_secs().min(self.seconds));
                    let (counted, measured) = series.counted();
                    bar.set_message(format!("{counted} of {measured} windows count"));
                }
            }
            Ok(())
        })?;
        if let Some(bar) = progress {
            bar.finish_and_clear();
        }
        if series.is_empty() {
            let (_, measured) = series.counted();
            bail!(
                "none of {measured} windows was undisturbed: other programs take these processors away; stop \
                 them, give it more --seconds, or run it under chrt -f 10"
            );
        }
        Ok(series.report(bench))
    }
}

/// One processor for each placement that there is among these, opposite this thread's. A virtual machine's stand
/// elsewhere a second later, so where only one class shows this is merely where to begin.
fn survey(pair: &mut Pair<'_>, others: &[usize]) -> anyhow::Result<Vec<usize>> {
    let mut places: Vec<(Option<Class>, usize)> = Vec::new();
    for &processor in others {
        pair.move_there(processor)?;
        let class = Class::of(pair.probe());
        if !places.iter().any(|&(known, _)| known == class) {
            places.push((class, processor));
        }
    }
    let classified: Vec<usize> =
        places.iter().filter(|place| place.0.is_some()).map(|place| place.1).collect();
    let places = if classified.is_empty() { others.iter().take(1).copied().collect() } else { classified };
    if let Some(&first) = places.first() {
        pair.move_there(first)?;
    }
    Ok(places)
}

/// On a terminal. It draws between windows, by the thread that measures: nothing ticks while a window is open.
fn progress(seconds: u64) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::with_draw_target(Some(seconds), ProgressDrawTarget::stderr_with_hz(4));
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} s  {msg}") {
        bar.set_style(style);
    }
    Some(bar)
}
