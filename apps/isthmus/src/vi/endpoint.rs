//! What the tools have in common: how they come to an interface, and how they tell of time and rates.

use anyhow::Context;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vi::ProtectionDomain;
use vi::clock::{Clock, SyncFlags};
use vi_service::{Client, ClientOptions};

/// Stands for the protection domain of a tool: it has one.
#[derive(Debug)]
pub(crate) struct Tool;

/// How a tool comes to its interfaces: flattened into the arguments of each.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Endpoint {
    /// Socket of the service (`isthmus vi serve`) that holds this host's port
    #[arg(long, value_name = "PATH")]
    pub(crate) service: PathBuf,
}

impl Endpoint {
    /// An interface that belongs to a set, if it is named.
    pub(crate) fn connect(
        &self,
        domain: &ProtectionDomain<Tool>,
        set: Option<&str>,
    ) -> anyhow::Result<Client<Tool>> {
        let name = std::env::args().nth(2).unwrap_or_else(|| "vi".to_owned());
        let options = ClientOptions { name, set: set.map(str::to_owned), clock: None };
        Ok(Client::connect(&self.service, domain, &options)?)
    }
}

/// The interface's clock, for what is told of times.
pub(crate) fn times(client: &Client<Tool>) -> anyhow::Result<Clock> {
    let clock = client.clock().cloned().filter(|_| client.geometry().stamps);
    clock.context("frames carry no times here: start the services of both ports with --stamps")
}

/// A time as people read it: seconds since 1970 (TAI), with nanoseconds.
pub(crate) fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// The flags of a clock: what ef_vi calls CLOCK_SET and IN_SYNC.
pub(crate) fn flags(flags: SyncFlags) -> &'static str {
    match (flags.contains(SyncFlags::CLOCK_SET), flags.contains(SyncFlags::IN_SYNC)) {
        (true, true) => "set, in sync",
        (true, false) => "set",
        (false, _) => "not set",
    }
}

/// Waits for the far side: its kernel, or so many interfaces with filters.
pub(crate) fn reach(client: &mut Client<Tool>, others: usize, limit: Duration) -> anyhow::Result<()> {
    if !client.wait_to_reach(others, limit)? {
        let (reached, kernel) = client.attachment().reaches();
        anyhow::bail!(
            "the far side does not come: {reached} interfaces of {others}, {} after {limit:?}; does a service run at the other port, and a receiver there?",
            if kernel { "a kernel" } else { "no kernel" }
        );
    }
    Ok(())
}

/// A line each second of what was counted since the last one, as efsink and efforward print it.
#[derive(Debug)]
pub(crate) struct Rates {
    last: Instant,
    before: (u64, u64),
    quiet: bool,
}

impl Rates {
    pub(crate) fn new(json: bool) -> Self {
        let quiet = json && !std::io::stderr().is_terminal();
        if !quiet {
            crate::out::note!("#  pkt-rate  bandwidth(Mbps)      total-pkts");
        }
        Self { last: Instant::now(), before: (0, 0), quiet }
    }

    /// Called now and then; counts are of all since the beginning.
    pub(crate) fn tell(&mut self, frames: u64, bytes: u64) {
        let elapsed = self.last.elapsed();
        if elapsed < Duration::from_secs(1) || self.quiet {
            return;
        }
        let seconds = elapsed.as_secs_f64();
        let (frames_before, bytes_before) = self.before;
        let rate = number(frames - frames_before) / seconds;
        let mbps = number(bytes - bytes_before) * 8.0 / seconds / 1e6;
        crate::out::note!("{rate:>11.0} {mbps:>16.1} {frames:>15}");
        self.last = Instant::now();
        self.before = (frames, bytes);
    }
}

/// A count as a number that can be divided.
#[expect(clippy::cast_precision_loss, reason = "counts are told with a few digits")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

/// One JSON object on stdout, or lines for people.
pub(crate) fn tell(json: bool, value: &impl serde::Serialize, text: &str) -> anyhow::Result<()> {
    if json {
        crate::out::say!("{}", serde_json::to_string(value).context("the result cannot be told")?);
    } else {
        crate::out::say!("{text}");
    }
    Ok(())
}
