//! `isthmus vi latency`: round trips between two interfaces, as eflatency measures them.

use super::endpoint::{Endpoint, Tool, number, tell};
use crate::Outcome;
use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vi::filter::{Filter, Transport};
use vi::lane::{FilterId, Meta};
use vi::udp::UdpFlow;
use vi::{Event, LaneId, Pio, ProtectionDomain, RequestId};
use vi_service::Client;

/// The two ends' addresses: of documentation networks (RFC 5737), so that nobody else has them.
const PING: &str = "192.0.2.1:8080";
const PONG: &str = "192.0.2.2:8080";
/// A frame that does not come back for so long is lost: a link that loses frames has no latency.
const LOST: Duration = Duration::from_secs(10);

/// Round trips between two interfaces (eflatency)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  isthmus vi latency --service /tmp/vi-b.sock pong &
  isthmus vi latency --service /tmp/vi-a.sock ping -s 18

Both ends poll: on a machine whose processors do other work the higher percentiles say so. `isthmus perf latency` measures in windows
that a probe vouches for.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Who begins
    role: Role,
    /// Round trips that are measured
    #[arg(short = 'n', long, value_name = "ITERATIONS", default_value_t = 100_000)]
    iterations: u32,
    /// Round trips before that
    #[arg(short = 'w', long, value_name = "ITERATIONS", default_value_t = 10_000)]
    warmups: u32,
    /// Bytes of UDP payload: one length, or several with commas
    #[arg(short = 's', long, value_name = "BYTES", default_value = "0", value_delimiter = ',')]
    payload: Vec<usize>,
    /// How it is sent
    #[arg(short = 'm', long, default_value = "d")]
    mode: Mode,
    /// File for each half round trip, in nanoseconds
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Ping,
    Pong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// `transmit`
    D,
    /// Programmed I/O: the frame lies with the receiver before it is sent
    P,
    /// Cut-through
    C,
    /// Alternatives: staged, then GO
    A,
}

#[derive(Debug, Serialize)]
struct Row {
    payload: usize,
    mean_ns: f64,
    min_ns: f64,
    p50_ns: f64,
    p95_ns: f64,
    p99_ns: f64,
    max_ns: f64,
}

/// One end of the exchange.
struct End<'c> {
    client: &'c Client<Tool>,
    lane: LaneId,
    filter: FilterId,
    frame: Vec<u8>,
    mode: Mode,
    pio: Pio,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    // A file that cannot be written is told before anything is measured.
    let create = |path: &PathBuf| File::create(path).with_context(|| path.display().to_string());
    let output = arguments.output.as_ref().map(create).transpose()?.map(BufWriter::new);
    let mut client = arguments.endpoint.connect(&ProtectionDomain::<Tool>::new(), None)?;
    let (here, there) = match arguments.role {
        Role::Ping => (PING, PONG),
        Role::Pong => (PONG, PING),
    };
    let (here, there): (SocketAddrV4, SocketAddrV4) = (here.parse()?, there.parse()?);
    let address = (*here.ip()).into();
    let (first, last) = (here.port(), here.port());
    client.add_filter(Filter::Local { transport: Transport::Udp, address, first, last, vlan: None })?;
    let most = usize::try_from(client.mtu())?.saturating_sub(28);
    anyhow::ensure!(
        arguments.payload.iter().all(|&bytes| bytes <= most),
        "a payload has at most {most} bytes with the link's MTU"
    );
    let flow = |client: &Client<Tool>| -> anyhow::Result<UdpFlow> {
        let link = client.link().context("the link is down")?;
        let (source_mac, destination_mac) = (client.mac().bytes(), link.peer_mac.bytes());
        Ok(UdpFlow { source_mac, destination_mac, vlan: None, source: here, destination: there })
    };
    let mut frame = Vec::new();
    // Until the other end is there, however long.
    let found = client.wait_for(Duration::MAX, |client| {
        flow(client).is_ok_and(|flow| {
            flow.write(&[], &mut frame);
            let to = client.attachment().lane_for(&frame).filter(|(_, filter)| *filter != FilterId::NONE);
            let peer = to.and_then(|(lane, _)| client.attachment().peer_of(lane));
            // Both ways.
            peer.is_some_and(|peer| client.attachment().hears(peer))
        })
    })?;
    anyhow::ensure!(found, "the other end does not come");
    let flow = flow(&client)?;
    let mut rows = Vec::new();
    let mut raw = Vec::new();
    for &bytes in &arguments.payload {
        flow.write(&vec![0; bytes], &mut frame);
        let (lane, filter) = client.attachment().lane_for(&frame).context("the other end is gone")?;
        let pio = client.vi().pio(lane, &frame);
        let mut end = End { client: &client, lane, filter, frame: frame.clone(), mode: arguments.mode, pio };
        end.wait_for_room()?;
        let times = match arguments.role {
            Role::Ping => end.ping(arguments.warmups, arguments.iterations)?,
            Role::Pong => end.pong(u64::from(arguments.warmups) + u64::from(arguments.iterations))?,
        };
        end.pio.discard(client.vi())?;
        raw.extend(times.iter().map(|ns| (bytes, *ns)));
        rows.extend(row(bytes, times));
    }
    if let (Some(path), Some(mut file)) = (&arguments.output, output) {
        let lines = raw.iter().try_for_each(|(payload, ns)| writeln!(file, "{payload}\t{ns:.0}"));
        lines.and_then(|()| file.flush()).with_context(|| path.display().to_string())?;
    }
    let text: Vec<String> = rows.iter().map(show).collect();
    let head = "paylen\tmean\tmin\t50%\t95%\t99%\tmax  (half a round trip, ns)";
    let lines = std::iter::once(head.to_owned()).chain(text).collect::<Vec<_>>().join("\n");
    tell(
        arguments.json,
        &serde_json::json!({"mode": format!("{:?}", arguments.mode).to_lowercase(), "half_round_trip": rows}),
        &lines,
    )?;
    Ok(Outcome::Done)
}

impl End<'_> {
    /// Once the other end has this lane it has posted its buffers.
    fn wait_for_room(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.client.vi().transmit_space(self.lane)?.1 == 0 {
            anyhow::ensure!(start.elapsed() < LOST, "the other end takes nothing");
            std::thread::yield_now();
        }
        Ok(())
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let (vi, meta) = (self.client.vi(), Meta { filter: self.filter, ..Meta::default() });
        match self.mode {
            Mode::D => vi.transmit(self.lane, &self.frame, meta, RequestId(0))?,
            Mode::P => self.pio.send(vi, meta, RequestId(0))?,
            Mode::C => vi.transmit_ctpio(self.lane, &self.frame, meta, RequestId(0))?,
            Mode::A => {
                let mut alternative = vi.alternative(self.lane, 1);
                alternative.stage(vi, &self.frame, meta, RequestId(0))?;
                alternative.go(vi)?;
            }
        }
        Ok(())
    }

    /// What is done while the frame is away: the next one is laid ready.
    fn prepare(&mut self) -> anyhow::Result<()> {
        self.client.vi().transmit_unbundle(&mut [RequestId(0); 4]);
        if self.mode == Mode::P {
            self.pio.stage(self.client.vi())?;
        }
        Ok(())
    }

    /// Polls until the frame comes, and reads all of it.
    fn receive(&self, into: &mut [u8]) -> anyhow::Result<()> {
        let mut turns = 0_u32;
        let mut since = None;
        loop {
            let mut events = [Event::Nothing];
            self.client.poll(&mut events);
            if let [Event::Received(packet)] = &events {
                let len = packet.len().min(into.len());
                packet.read(0, into.get_mut(..len).unwrap_or_default())?;
                return Ok(());
            }
            turns = turns.wrapping_add(1);
            if turns & 0xFFFF == 0 {
                let since = since.get_or_insert_with(Instant::now);
                anyhow::ensure!(since.elapsed() < LOST, "a frame was lost, or the other end is gone");
                std::thread::yield_now();
            }
        }
    }

    fn ping(&mut self, warmups: u32, iterations: u32) -> anyhow::Result<Vec<f64>> {
        let mut into = vec![0; self.frame.len()];
        let mut times = Vec::with_capacity(iterations as usize);
        for turn in 0..u64::from(warmups) + u64::from(iterations) {
            self.prepare()?;
            let start = Instant::now();
            self.send()?;
            self.receive(&mut into)?;
            let half = start.elapsed().as_secs_f64() * 1e9 / 2.0;
            if turn >= u64::from(warmups) {
                times.push(half);
            }
        }
        Ok(times)
    }

    fn pong(&mut self, turns: u64) -> anyhow::Result<Vec<f64>> {
        let mut into = vec![0; self.frame.len()];
        for _ in 0..turns {
            self.prepare()?;
            self.receive(&mut into)?;
            self.send()?;
        }
        Ok(Vec::new())
    }
}

fn row(payload: usize, mut times: Vec<f64>) -> Option<Row> {
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times.get((times.len().saturating_sub(1)) * percent / 100).copied();
    Some(Row {
        payload,
        mean_ns: times.iter().sum::<f64>() / number(times.len() as u64),
        min_ns: at(0)?,
        p50_ns: at(50)?,
        p95_ns: at(95)?,
        p99_ns: at(99)?,
        max_ns: at(100)?,
    })
}

fn show(row: &Row) -> String {
    let Row { payload, mean_ns, min_ns, p50_ns, p95_ns, p99_ns, max_ns } = row;
    format!("{payload}\t{mean_ns:.0}\t{min_ns:.0}\t{p50_ns:.0}\t{p95_ns:.0}\t{p99_ns:.0}\t{max_ns:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let row = row(4, (0..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!((row.min_ns, row.p50_ns, row.p95_ns, row.max_ns), (0.0, 50.0, 95.0, 100.0));
        assert!(super::row(4, Vec::new()).is_none());
    }
}
