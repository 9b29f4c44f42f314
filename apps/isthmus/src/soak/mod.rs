//! `isthmus soak`: checked traffic between two network namespaces over a twin, for as long as one likes, with faults on request.
//!
//! ```text
//!   this process:  bulk, pings ──▶ namespace a ── isthmus net ══ isthmus twin ══ isthmus net ── namespace b ──▶ checks
//!                  faults ─────────────SIGUSR1 (link flap), SIGKILL ──┘
//! ```

mod bulk;
mod faults;
mod ping;
mod report;
mod traffic;
pub(crate) mod world;

use crate::Outcome;
use anyhow::{Context, ensure};
use clap::ValueEnum;
use faults::{Faults, Plan};
use report::SoakReport;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use traffic::Traffic;
use world::World;

/// Checked traffic over a twin for a long time, with link flaps and kills on request
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  isthmus soak --minutes 60 --flaps 100 --kills 20

It makes two network namespaces with an interface of `isthmus net` each and a twin between them, sends numbered and checked records over
TCP and echoed datagrams over UDP both ways, and ends with counts. TCP sends again what a fault has lost, so of the records none may be
missing. A datagram may be missing, and is counted apart, if it was on its way at some time between the making of a fault and the
moment when all four streams had moved again; nobody sends it again, and a process that is killed takes with it what it has read.
After each fault all streams have to move again within a minute. It takes root. Exit status 1: something was lost, corrupt, or out of order.")]
pub(crate) struct Arguments {
    /// How long, in minutes; fractions too
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    minutes: f64,
    /// How often the link is taken down and up again, spread over that time
    #[arg(long, value_name = "N", default_value_t = 0)]
    flaps: u32,
    /// How often one of the two `isthmus net` is killed by SIGKILL and started again, a and b in turn
    #[arg(long, value_name = "N", default_value_t = 0)]
    kills: u32,
    /// Greatest rate of each of the two bulk streams, in 10^6 bytes a second; as fast as it goes if there is none
    #[arg(long, value_name = "MB/S")]
    rate: Option<f64>,
    /// Greatest IP packet in bytes
    #[arg(long, value_name = "BYTES", default_value_t = netdev::MTU_MAX)]
    mtu: u32,
    /// How data crosses the memory windows
    #[arg(long, value_name = "MODE", default_value = "direct")]
    window: String,
    /// The framework under the interfaces
    #[arg(long, default_value = "fast")]
    profile: Profile,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Profile {
    /// 4 KiB cells, nothing is read across the bridge
    Fast,
    /// 750-byte cells, as published
    Paper,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Paper => "paper",
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let stop = crate::stop::on_signal().context("SIGTERM and SIGINT cannot be watched")?;
    ensure!(
        arguments.minutes.is_finite() && arguments.minutes > 0.0 && arguments.minutes <= 60.0 * 24.0 * 30.0,
        "--minutes {} is no time between nothing and a month",
        arguments.minutes
    );
    ensure!(
        arguments.rate.is_none_or(|rate| rate.is_finite() && rate >= 0.1),
        "--rate {} is less than 0.1, or no number",
        arguments.rate.unwrap_or_default()
    );
    let time = Duration::from_secs_f64(arguments.minutes * 60.0);
    let mut world = World::build(&world::Options {
        mtu: arguments.mtu,
        window: arguments.window.clone(),
        profile: arguments.profile.name().to_owned(),
        processor: None,
    })?;
    let faults = Faults::default();
    let began = Instant::now();
    let (traffic, plan) = {
        let traffic = Traffic::start(&world, &faults, arguments.rate.map(|rate| rate * 1e6))?;
        let plan = Plan::new(arguments.flaps, arguments.kills, time);
        let result = faults::carry_out(plan, time, &mut world, &traffic, &faults, &stop);
        (traffic.finish(), result)
    };
    let done = plan?;
    let report = SoakReport {
        seconds: began.elapsed().as_secs_f64(),
        flaps: done.flaps,
        kills: done.kills,
        streams: traffic?,
        interfaces: world.interfaces(),
    };
    if arguments.json {
        crate::out::say!("{}", serde_json::to_string(&report)?);
    } else {
        crate::out::write(format_args!("{}", report::show(&report)));
    }
    Ok(if report.is_sound() { Outcome::Done } else { Outcome::Exit(ExitCode::from(1)) })
}
