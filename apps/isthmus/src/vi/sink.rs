//! `isthmus vi sink`: receives what filters take, as efsink does.

use super::endpoint::{Endpoint, Rates, Tool, flags, number, seconds, tell, times};
use crate::Outcome;
use serde::Serialize;
use std::io::Read;
use std::time::Duration;
use vi::clock::PeerOffset;
use vi::filter::Filter;
use vi::{Event, ProtectionDomain};
use vi_service::ClockStatus;

/// Receive what filters take, and count it (efsink)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  isthmus vi sink --service /tmp/vi-b.sock udp:239.1.2.3:5000

Filters: {udp|tcp}:[vid=N,]host:port[-port][,rhost:rport], eth:[vid=N,]mac, ethertype:[vid=N,]number, ip-protocol:[vid=N,]number,
unicast-all, multicast-all, unicast-mis, multicast-mis, sniff")]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoint: Endpoint,
    /// What to receive
    #[arg(required = true, value_name = "FILTER")]
    filters: Vec<Filter>,
    /// End after so many frames
    #[arg(short = 'n', long, value_name = "FRAMES")]
    iterations: Option<u64>,
    /// Sleep until something comes, instead of polling
    #[arg(short = 'e', long)]
    eventq_wait: bool,
    /// Show each frame
    #[arg(short = 'd', long)]
    hexdump: bool,
    /// Show when each frame was sent, by this host's clock, and how long ago that was when it was taken
    #[arg(short = 't', long)]
    timestamps: bool,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    frames: u64,
    bytes: u64,
    /// Frames that came although no filter takes them: dropped.
    strangers: u64,
    /// Frames by the number of the filter that took them.
    filters: std::collections::BTreeMap<u16, u64>,
    /// With --timestamps.
    times: Option<Times>,
}

/// How long frames were on their way, as far as the clocks can say.
#[derive(Debug, Default, Serialize)]
struct Times {
    frames: u64,
    /// Between the sender's call and this program's look: less than nothing only within the bound.
    least_ns: i64,
    most_ns: i64,
    mean_ns: f64,
    peer: Option<ClockStatus>,
}

impl Times {
    fn add(&mut self, flight_ns: i64) {
        let first = self.frames == 0;
        self.least_ns = if first { flight_ns } else { self.least_ns.min(flight_ns) };
        self.most_ns = if first { flight_ns } else { self.most_ns.max(flight_ns) };
        let sign = if flight_ns < 0 { -1.0 } else { 1.0 };
        self.mean_ns = (self.mean_ns * number(self.frames) + sign * number(flight_ns.unsigned_abs()))
            / number(self.frames + 1);
        self.frames += 1;
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let mut client = arguments.endpoint.connect(&ProtectionDomain::<Tool>::new(), None)?;
    // Not before: while it waits for a service a signal ends it at once.
    let mut stop = crate::stop::on_signal()?;
    stop.set_nonblocking(true)?;
    for filter in &arguments.filters {
        client.add_filter(*filter)?;
    }
    let clock = arguments.timestamps.then(|| times(&client)).transpose()?;
    let mut report = Report { times: clock.as_ref().map(|_| Times::default()), ..Report::default() };
    let mut rates = Rates::new(arguments.json);
    let most = arguments.iterations.unwrap_or(u64::MAX);
    let mut turns = 0_u32;
    while report.frames < most {
        if client.has_news() {
            client.refresh()?;
        }
        let mut events: [Event<'_, Tool>; 32] = std::array::from_fn(|_| Event::Nothing);
        let count = client.poll(&mut events);
        for event in events.iter().take(count) {
            let Event::Received(packet) = event else { continue };
            if packet.starts() && report.frames >= most {
                break;
            }
            report.frames += u64::from(packet.starts());
            report.bytes += packet.len() as u64;
            *report.filters.entry(packet.filter().number()).or_default() += 1;
            if let (Some(clock), Some(times)) = (&clock, &mut report.times)
                && let (Some(peer), Some(sent)) = (client.peer_clock(), packet.stamp())
                && let Some(sent) = peer.to_mine(sent)
            {
                let here = clock.now();
                let flight_ns = here.ns.cast_signed().wrapping_sub(sent.cast_signed());
                times.add(flight_ns);
                let PeerOffset { bound_ns, peer_bound_ns, .. } = peer;
                let bound_ns = bound_ns + peer_bound_ns + here.bound_ns;
                let (sent, state) = (seconds(sent), flags(peer.flags));
                crate::out::note!(
                    "{} bytes sent {sent} {flight_ns:+} ns ± {bound_ns} ago ({state})",
                    packet.len()
                );
            }
            if arguments.hexdump {
                let mut bytes = vec![0; packet.len()];
                packet.copy_to(&mut bytes)?;
                crate::out::note!("{}", dump(&bytes));
            }
        }
        drop(events);
        turns = turns.wrapping_add(1);
        if count == 0 && arguments.eventq_wait {
            client.wait(Some(Duration::from_millis(200)))?;
        }
        if arguments.eventq_wait || turns & 0xFFF == 0 {
            rates.tell(report.frames, report.bytes);
            if stop.read(&mut [0]).is_ok() {
                break;
            }
            // A service that was killed tells nobody.
            client.refresh()?;
        }
    }
    report.strangers = client.attachment().strangers();
    if let Some(times) = &mut report.times {
        times.peer = client.peer_clock().map(ClockStatus::from);
    }
    let text = format!("{} packets, {} bytes, {} strangers", report.frames, report.bytes, report.strangers);
    tell(arguments.json, &report, &text)?;
    Ok(Outcome::Done)
}

/// Lines of sixteen bytes.
fn dump(bytes: &[u8]) -> String {
    let line = |(at, line): (usize, &[u8])| {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}  {}", at * 16, hex.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_have_a_least_a_most_and_a_mean() {
        let mut times = super::Times::default();
        [300, -100, 700].into_iter().for_each(|ns| times.add(ns));
        assert_eq!((times.frames, times.least_ns, times.most_ns), (3, -100, 700));
        assert!((times.mean_ns - 300.0).abs() < 1e-6, "{times:?}");
    }

    #[test]
    fn a_dump_has_sixteen_bytes_a_line() {
        let text = super::dump(&[0xAB; 17]);
        assert_eq!(text.lines().count(), 2);
        assert_eq!(text.lines().last(), Some("0010  ab"));
    }
}
