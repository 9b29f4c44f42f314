//! `isthmus perf`: what crossing costs, measured beside what it would cost without a bridge.

mod doorbell;
mod iperf;
mod latency;
mod net;
mod placed;
mod placed_plot;
mod rate;
mod report;
mod sweep;
mod turns;
mod twin_ends;
mod window;

use crate::Outcome;
use crate::opposite::FarSide;
use clap::Subcommand;
use std::path::PathBuf;
use std::time::Duration;
use turns::Measuring;
use twin::WindowSize;
use twin_server::WindowMode;

/// Measure a bridge between two hosts, beside a reference in the same moments
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Example:
  isthmus perf window                          stores into the peer's window by size, beside memcpy
  isthmus perf window --json --plot w.svg
  isthmus perf doorbell                        doorbell to wake-up, beside a bare eventfd
  isthmus perf sweep --plot sweep.svg          the framework's rings, 8 KiB to 2 MiB, beside memcpy
  isthmus perf latency --plot latency.svg      frames between virtual interfaces there and back, beside bare cache lines
  isthmus perf rate                            frames a second, beside a bare ring and memcpy
  isthmus perf net                             TCP through `isthmus net`, beside veth

Everything but the sweep is measured in windows of some milliseconds between two probes of a cache line's round trip. A window
counts if its probes agree on where the processors stand (smt, near, far) and nobody took one away meanwhile; what is printed
is the median of a class's windows. The sweep takes each figure and its reference in turns, and keeps the quicker half.")]
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
        measuring: Measuring,
    },
    /// Time from ringing the peer's doorbell until it is awake
    Doorbell {
        #[command(flatten)]
        measuring: Measuring,
    },
    /// Bandwidth by buffer size: the framework's rings in both profiles, and what socket programs get
    #[command(after_help = "\
Example:
  isthmus perf sweep --dma --plot sweep.svg

Rows of rings stand beside one memcpy of the same buffers, those of sockets beside veth in the same seconds: iperf3 between
two network namespaces over `isthmus net`, over two TAPs joined by a plain loop, over veth, and over loopback. The latter take
root, ip, nsenter and iperf3, and are left out with a line that says why where one is missing; iperf3 has buffers of up to 1 MiB.
It pins nothing: it wants a machine with two idle processors.")]
    Sweep {
        /// Also over a twin with an engine: cells by the processor, by the processor in an engine's place, by the I/OAT engine
        #[arg(long)]
        dma: bool,
        /// Leave out what socket programs get
        #[arg(long)]
        no_sockets: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Round trips between two virtual interfaces through windows of a twin, by frame length and placement
    Latency {
        /// Lengths of the frames
        #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = latency::SIZES)]
        bytes: Vec<usize>,
        #[command(flatten)]
        measuring: Measuring,
    },
    /// Frames a second between two virtual interfaces through windows of a twin, by placement
    Rate {
        #[command(flatten)]
        measuring: Measuring,
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
    /// The process opposite a sweep over a twin
    #[command(hide = true)]
    SweepTwinFar {
        #[command(flatten)]
        far_side: FarSide,
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
        Some(Bench::Window { window, mw_size, measuring }) => {
            return told(&window::measure(measuring, *window, mw_size.bytes())?, measuring);
        }
        Some(Bench::Doorbell { measuring }) => return told(&doorbell::measure(measuring)?, measuring),
        Some(Bench::Sweep { dma, no_sockets, output }) => {
            let time = Duration::from_millis(output.time_ms);
            (sweep::measure(sweep::Plan { time, dma: *dma, sockets: !no_sockets })?, output)
        }
        Some(Bench::SweepFar { own, theirs, paper }) => {
            return sweep::serve_memory(*own, *theirs, *paper).map(|()| Outcome::Done);
        }
        Some(Bench::SweepTwinFar { far_side, paper }) => {
            return sweep::serve_twin(far_side, *paper).map(|()| Outcome::Done);
        }
        Some(Bench::Latency { bytes, measuring }) => {
            return told(&latency::measure(measuring, bytes)?, measuring);
        }
        Some(Bench::Rate { measuring }) => return told(&rate::measure(measuring)?, measuring),
        None => {
            anyhow::bail!("say what to measure: isthmus perf window, doorbell, sweep, latency, rate or net")
        }
    };
    if let Some(path) = &output.plot {
        sweep::plot::draw(&report, path)?;
    }
    print(&report, output.json)?;
    Ok(Outcome::Done)
}

fn told(report: &placed::PlacedReport, measuring: &Measuring) -> anyhow::Result<Outcome> {
    if let Some(path) = &measuring.plot {
        placed_plot::draw(report, path)?;
    }
    print(report, measuring.json)?;
    Ok(Outcome::Done)
}

fn print(report: &(impl serde::Serialize + std::fmt::Display), json: bool) -> anyhow::Result<()> {
    if json {
        crate::out::say!("{}", serde_json::to_string(report)?);
    } else {
        crate::out::write(format_args!("{report}"));
    }
    Ok(())
}
