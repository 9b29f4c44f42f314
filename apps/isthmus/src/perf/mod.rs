//! `isthmus perf`: what crossing costs, measured beside what it would cost without a bridge.

mod doorbell;
mod net;
mod plot;
mod report;
mod sweep;
mod sweep_plot;
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
  isthmus perf sweep --plot sweep.svg          the framework's rings, 8 KiB to 2 MiB, beside memcpy
  isthmus perf net                             TCP through `isthmus net`, beside veth

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
    /// Bandwidth through the framework's rings by buffer size, both profiles: two processes, memory of this machine
    Sweep {
        #[command(flatten)]
        output: Output,
    },
    /// TCP between two hosts with an interface of `isthmus net` each, beside veth; pings and a flood on request
    #[command(after_help = "\
Example:
  isthmus perf net                             five turns across the bridge and over veth, one after the other
  isthmus perf net --offloads                  every offload with MTUs of 1500, 9000 and 65521
  isthmus perf net --pings 100000 --flood

It makes two network namespaces, which takes root, ip, nsenter, ping and iperf3. Exit status 1: a ping was lost, or a frame between
the two TAPs; what the kernel drops at either end of a flood is counted and told.")]
    Net(net::Arguments),
    /// The process opposite a sweep
    #[command(hide = true)]
    SweepFar {
        /// The file that it receives in
        own: i32,
        /// The file that the other one receives in
        theirs: i32,
        /// The published profile
        #[arg(long)]
        paper: bool,
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
        Some(Bench::Net(arguments)) => return net::run(arguments),
        Some(Bench::Window { window, mw_size, output }) => {
            (window::measure(*window, mw_size.bytes(), output.time_ms)?, output)
        }
        Some(Bench::Doorbell { output }) => (doorbell::measure(output.time_ms)?, output),
        Some(Bench::Sweep { output }) => (sweep::measure(output.time_ms)?, output),
        Some(Bench::SweepFar { own, theirs, paper }) => {
            return sweep::serve(*own, *theirs, *paper).map(|()| Outcome::Done);
        }
        None => {
            anyhow::bail!("say what to measure: isthmus perf window, doorbell, sweep or net")
        }
    };
    if let Some(path) = &output.plot {
        if report.bench == "sweep" { sweep_plot::draw(&report, path) } else { plot::draw(&report, path) }?;
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
