//! `isthmus vi rss`: spreads what filters take over a set of interfaces, a thread for each, as efrss does.

use super::endpoint::{Endpoint, Rates, Tool, tell};
use crate::Outcome;
use anyhow::anyhow;
use serde::Serialize;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use vi::filter::Filter;
use vi::{Event, ProtectionDomain};
use vi_service::Client;

/// Spread what filters take over a set of interfaces, a thread for each (efrss)
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  isthmus vi rss --service /tmp/vi-b.sock -n 4 ip-protocol:17")]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoint: Endpoint,
    /// What to receive
    #[arg(required = true, value_name = "FILTER")]
    filters: Vec<Filter>,
    /// Interfaces, and threads
    #[arg(short = 'n', long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=32))]
    threads: u8,
    /// End after so many frames
    #[arg(long, value_name = "FRAMES")]
    iterations: Option<u64>,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    frames: u64,
    bytes: u64,
    threads: Vec<u64>,
}

#[derive(Debug, Default)]
struct Counts {
    frames: AtomicU64,
    bytes: AtomicU64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let name = format!("rss {}", std::process::id());
    let mut clients = Vec::new();
    for _ in 0..arguments.threads {
        clients.push(arguments.endpoint.connect(&ProtectionDomain::<Tool>::new(), Some(&name))?);
    }
    // Not before: while it waits for a service a signal ends it at once.
    let mut stop = crate::stop::on_signal()?;
    stop.set_nonblocking(true)?;
    if let Some(first) = clients.first_mut() {
        for filter in &arguments.filters {
            first.add_set_filter(*filter)?;
        }
    }
    let counts: Vec<Counts> = clients.iter().map(|_| Counts::default()).collect();
    let over = AtomicBool::new(false);
    let sum = |of: fn(&Counts) -> &AtomicU64| -> u64 {
        counts.iter().map(|counts| of(counts).load(Ordering::Relaxed)).sum()
    };
    let mut rates = Rates::new(arguments.json);
    let most = arguments.iterations.unwrap_or(u64::MAX);
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .zip(&counts)
            .map(|(client, counts)| {
                let over = &over;
                scope.spawn(move || {
                    let ended = receive(client, counts, over);
                    over.store(true, Ordering::Relaxed);
                    ended
                })
            })
            .collect();
        while !over.load(Ordering::Relaxed) && sum(|counts| &counts.frames) < most {
            #[expect(
                clippy::disallowed_methods,
                reason = "it looks at counts now and then; nobody waits for it"
            )]
            std::thread::sleep(Duration::from_millis(20));
            rates.tell(sum(|counts| &counts.frames), sum(|counts| &counts.bytes));
            if stop.read(&mut [0]).is_ok() {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let threads = counts.iter().map(|counts| counts.frames.load(Ordering::Relaxed)).collect();
    let report = Report { frames: sum(|counts| &counts.frames), bytes: sum(|counts| &counts.bytes), threads };
    let each: Vec<String> = report.threads.iter().map(u64::to_string).collect();
    tell(arguments.json, &report, &format!("{} packets, by thread: {}", report.frames, each.join(" ")))?;
    Ok(Outcome::Done)
}

fn receive(client: &mut Client<Tool>, counts: &Counts, over: &AtomicBool) -> anyhow::Result<()> {
    while !over.load(Ordering::Relaxed) {
        if client.has_news() {
            client.refresh()?;
        }
        let mut events: [Event<'_, Tool>; 32] = std::array::from_fn(|_| Event::Nothing);
        let count = client.poll(&mut events);
        for event in events.iter().take(count) {
            if let Event::Received(packet) = event {
                counts.frames.fetch_add(1, Ordering::Relaxed);
                counts.bytes.fetch_add(packet.len() as u64, Ordering::Relaxed);
            }
        }
        drop(events);
        if count == 0 {
            client.wait(Some(Duration::from_millis(50)))?;
        }
    }
    Ok(())
}
