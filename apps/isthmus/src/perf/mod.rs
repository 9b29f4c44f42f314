//! `isthmus perf`: what crossing costs, measured beside what it would cost without a bridge.

mod doorbell;
mod plot;
mod report;
mod window;

use crate::Outcome;
use crate::opposite::FarSide;
use clap::Subcommand;
use report::Report;
use std::path::PathBuf;
use twin::WindowSize;
use twin_server::WindowMode;

/// Measure a bridge between two processes, beside a reference in the same moments
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Example:
  isthmus perf window                          stores into the peer's window by size, beside memcpy
  isthmus perf window --json --plot w.svg
  isthmus perf doorbell                        doorbell to wake-up, beside a bare eventfd

Each figure and its reference are taken in turns of some milliseconds; of the pairs of turns, the quicker half is kept,
since other programs' work only ever slows a turn down.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    bench: Option<Bench>,
    #[command(flatten)]
    far_side: FarSide,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Bandwidth of stores into the peer's window, by size
    Window {
        /// How the window works
        #[arg(long, value_name = "MODE", default_value = "direct")]
        window: WindowMode,
        /// Its size
        #[arg(long, value_name = "SIZE", default_value = "1M")]
        mw_size: WindowSize,
        #[command(flatten)]
        output: Output,
    },
    /// Time from ringing the peer's doorbell until it is awake
    Doorbell {
        #[command(flatten)]
        output: Output,
    },
}

/// What becomes of the figures.
#[derive(Debug, clap::Args)]
struct Output {
    /// Milliseconds of measuring for each row
    #[arg(long, value_name = "MS", default_value_t = 400)]
    time_ms: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Draw the figures
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    if let Some(served) = arguments.far_side.serve() {
        return served;
    }
    let (report, output) = match &arguments.bench {
        Some(Bench::Window { window, mw_size, output }) => {
            (window::measure(*window, mw_size.bytes(), output.time_ms)?, output)
        }
        Some(Bench::Doorbell { output }) => (doorbell::measure(output.time_ms)?, output),
        None => anyhow::bail!("say what to measure: isthmus perf window, or isthmus perf doorbell"),
    };
    if let Some(path) = &output.plot {
        plot::draw(&report, path)?;
    }
    print(&report, output.json)?;
    Ok(Outcome::Done)
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
