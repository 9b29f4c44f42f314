//! `isthmus vi forward`: carries frames from one link to another, as efforward does.

use super::endpoint::{Endpoint, Rates, Tool, reach, tell};
use crate::Outcome;
use serde::Serialize;
use shm::Copied;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;
use vi::filter::Filter;
use vi::{Event, ProtectionDomain, RequestId};
use vi_service::Client;

/// Carry frames from one link to another (efforward)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, where this host has a port of two links:
  isthmus vi forward --service /tmp/vi-left.sock --service2 /tmp/vi-right.sock

Without filters it takes all unicast and all multicast frames. A payload is copied once: from the buffer that it was received in
into the buffer of who gets it.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Socket of the service that holds this host's port of the other link
    #[arg(long, value_name = "PATH")]
    service2: PathBuf,
    /// What to carry
    #[arg(value_name = "FILTER")]
    filters: Vec<Filter>,
    /// One way only: from the first to the second
    #[arg(short = 'u', long)]
    unidirectional: bool,
    /// Interfaces of a far side to wait for before frames are taken that go there
    #[arg(long, value_name = "N", default_value_t = 0)]
    reach: usize,
    /// Wait for room at the other side, instead of dropping: then the senders wait, too, once their lanes are full
    #[arg(long)]
    wait: bool,
    /// End after so many frames
    #[arg(short = 'n', long, value_name = "FRAMES")]
    iterations: Option<u64>,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    frames: u64,
    bytes: u64,
    /// Copies that found no room at the other side.
    dropped: u64,
    /// What the copy routines have moved; a build with debug assertions counts it.
    copied: Option<Moved>,
}

#[derive(Debug, Serialize)]
struct Moved {
    /// From the buffers of one link into those of the other.
    payload_bytes: u64,
    /// Read and written beside that: events, and the headers that filters look at.
    read_bytes: u64,
    written_bytes: u64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    // One domain: a packet of one link is sent on the other.
    let domain = ProtectionDomain::<Tool>::new();
    let second = Endpoint { service: arguments.service2.clone() };
    let (mut left, mut right) = (arguments.endpoint.connect(&domain, None)?, second.connect(&domain, None)?);
    reach(&mut right, arguments.reach, Duration::from_secs(10))?;
    let back = if arguments.unidirectional { 0 } else { arguments.reach };
    reach(&mut left, back, Duration::from_secs(10))?;
    // Not before: while it waits for a service, or for the far side, a signal ends it at once.
    let mut stop = crate::stop::on_signal()?;
    stop.set_nonblocking(true)?;
    let filters = match arguments.filters.as_slice() {
        [] => &[Filter::UnicastAll, Filter::MulticastAll],
        filters => filters,
    };
    let ways = if arguments.unidirectional { vec![&mut left] } else { vec![&mut left, &mut right] };
    for client in ways {
        for filter in filters {
            client.add_filter(*filter)?;
        }
    }
    let mut report = Report::default();
    let mut rates = Rates::new(arguments.json);
    let most = arguments.iterations.unwrap_or(u64::MAX);
    let mut turns = 0_u32;
    while report.frames < most {
        for client in [&mut left, &mut right] {
            if client.has_news() {
                client.refresh()?;
            }
        }
        carry(&left, &right, arguments.wait, &mut report)?;
        carry(&right, &left, arguments.wait, &mut report)?;
        turns = turns.wrapping_add(1);
        if turns & 0xFFF == 0 {
            rates.tell(report.frames, report.bytes);
            if stop.read(&mut [0]).is_ok() {
                break;
            }
            // A service that was killed tells nobody.
            left.refresh()?;
            right.refresh()?;
        }
    }
    report.copied = Copied::by_this_thread().map(|copied| Moved {
        payload_bytes: copied.transferred,
        read_bytes: copied.loaded,
        written_bytes: copied.stored,
    });
    let text = format!("{} packets, {} bytes, {} dropped", report.frames, report.bytes, report.dropped);
    tell(arguments.json, &report, &text)?;
    Ok(Outcome::Done)
}

/// Who takes nothing for so long has no more claim to be waited for.
const PATIENCE: Duration = Duration::from_secs(1);

fn carry(from: &Client<Tool>, to: &Client<Tool>, wait: bool, report: &mut Report) -> anyhow::Result<()> {
    let mut events: [Event<'_, Tool>; 32] = std::array::from_fn(|_| Event::Nothing);
    let count = from.poll(&mut events);
    for event in events.iter().take(count) {
        if let Event::Received(packet) = event {
            let steered = if wait {
                to.forward_when_room(packet, RequestId(0), PATIENCE)?
            } else {
                to.attachment().forward(packet, RequestId(0))?
            };
            report.frames += 1;
            report.bytes += packet.len() as u64;
            report.dropped += u64::from(steered.full);
        }
    }
    if count > 0 {
        to.attachment().push()?;
        to.vi().transmit_unbundle(&mut [RequestId(0); 256]);
    }
    Ok(())
}
