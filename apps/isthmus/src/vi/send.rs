//! `isthmus vi send`: UDP frames, as efsend sends them.

use super::endpoint::{Endpoint, Tool, flags, number, reach, seconds, tell, times};
use crate::Outcome;
use anyhow::Context;
use netdev::MacAddress;
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};
use vi::udp::{UdpFlow, group_mac};
use vi::{ProtectionDomain, RequestId};

/// Frames between two looks at the service, which are system calls.
const ASK_EVERY: u64 = 1024;

/// Send UDP frames (efsend)
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  isthmus vi send --service /tmp/vi-a.sock -n 1000000 -m 18 239.1.2.3 5000"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Where to: a host or a group
    host: Ipv4Addr,
    /// The port there
    port: u16,
    /// How many frames
    #[arg(short = 'n', long, value_name = "FRAMES", default_value_t = 10)]
    iterations: u64,
    /// Bytes of UDP payload; the first eight are the frame's number
    #[arg(short = 'm', long, value_name = "BYTES", default_value_t = 28)]
    payload: usize,
    /// Pause between frames, in microseconds
    #[arg(short = 's', long, value_name = "US", default_value_t = 0)]
    sleep: u64,
    /// The port to send from
    #[arg(short = 'l', long, value_name = "PORT", default_value_t = 8080)]
    local_port: u16,
    /// The address to send from
    #[arg(long, value_name = "HOST", default_value = "192.0.2.1")]
    local: Ipv4Addr,
    /// VLAN tag
    #[arg(short = 'v', long, value_name = "VLAN", value_parser = clap::value_parser!(u16).range(0..4096))]
    vlan: Option<u16>,
    /// Ethernet address to send to; without it that of the group, or the peer's
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddress>,
    /// Drop frames for whom there is no room, instead of waiting
    #[arg(long)]
    drop: bool,
    /// Show when each frame was handed over (efsend_timestamping)
    #[arg(short = 't', long)]
    timestamps: bool,
    /// Interfaces of the far side to wait for before the first frame
    #[arg(long, value_name = "N", default_value_t = 0)]
    reach: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    frames: u64,
    /// Copies that found their way: to one interface or several, or to the kernel.
    sent: u64,
    dropped: u64,
    seconds: f64,
    frames_per_s: f64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let mut client = arguments.endpoint.connect(&ProtectionDomain::<Tool>::new(), None)?;
    reach(&mut client, arguments.reach, Duration::from_secs(10))?;
    let link = client.link().context("the link is down")?;
    let destination_mac = arguments
        .mac
        .map(MacAddress::bytes)
        .or_else(|| group_mac(arguments.host))
        .unwrap_or_else(|| link.peer_mac.bytes());
    let flow = UdpFlow {
        source_mac: client.mac().bytes(),
        destination_mac,
        vlan: arguments.vlan,
        source: SocketAddrV4::new(arguments.local, arguments.local_port),
        destination: SocketAddrV4::new(arguments.host, arguments.port),
    };
    let most = usize::try_from(client.mtu())?.saturating_sub(28);
    anyhow::ensure!(arguments.payload <= most, "a payload has at most {most} bytes with the link's MTU");
    let mut payload = vec![0; arguments.payload];
    let mut frame = Vec::new();
    let mut report = Report::default();
    let patience = if arguments.drop { Duration::ZERO } else { Duration::from_secs(10) };
    let clock = arguments.timestamps.then(|| times(&client)).transpose()?;
    let start = Instant::now();
    for n in 0..arguments.iterations {
        payload.iter_mut().zip(n.to_le_bytes()).for_each(|(to, from)| *to = from);
        flow.write(&payload, &mut frame);
        let steered = match &clock {
            None => client.transmit_when_room(&frame, RequestId(0), patience)?,
            Some(_) => {
                let (steered, stamp) = client.transmit_timed_when_room(&frame, RequestId(0), patience)?;
                let bound_ns = stamp.bound_ns;
                crate::out::note!("{n} sent {} ± {bound_ns} ns ({})", seconds(stamp.ns), flags(stamp.flags));
                steered
            }
        };
        client.vi().transmit_unbundle(&mut [RequestId(0); 32]);
        report.frames += 1;
        report.sent += u64::from(steered.sent);
        report.dropped += u64::from(steered.full);
        // A service that was killed tells nobody: it is asked now and then.
        if client.has_news() || arguments.sleep > 0 || n.is_multiple_of(ASK_EVERY) {
            client.refresh()?;
        }
        if arguments.sleep > 0 {
            #[expect(clippy::disallowed_methods, reason = "a pause that was asked for")]
            std::thread::sleep(Duration::from_micros(arguments.sleep));
        }
    }
    report.seconds = start.elapsed().as_secs_f64();
    report.frames_per_s = number(report.frames) / report.seconds;
    flush(&mut client);
    let text = format!(
        "Sent {} packets ({} copies, {} dropped): {:.0} packets/s",
        report.frames, report.sent, report.dropped, report.frames_per_s
    );
    tell(arguments.json, &report, &text)?;
    Ok(Outcome::Done)
}

/// What was sent is delivered also when this process has ended; but a receiver that sleeps is woken by whom it knows.
fn flush(client: &mut vi_service::Client<Tool>) {
    let _ = client.attachment().push();
}
