//! `isthmus vi replay`: the frames of a capture file, sent again.

use super::endpoint::{Endpoint, Tool, number, reach, tell};
use super::tool;
use crate::Outcome;
use anyhow::Context as _;
use serde::Serialize;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vi::pcapng::{ReadError, Reader};
use vi::replay::{Schedule, Speed};
use vi::{ProtectionDomain, RequestId};
use vi_service::Client;

/// What is left to wait is slept, up to this much before it is over; the rest is spun.
const SPIN: Duration = Duration::from_micros(200);
/// The longest sleep before signals are looked at.
const NAP: Duration = Duration::from_millis(50);
/// Frames between two looks at the service, which are system calls.
const ASK_EVERY: u64 = 256;
/// Completions that are fetched at once.
const COMPLETIONS: usize = 256;

/// Send the frames of a pcapng (or pcap) file, with their gaps or as fast as they go
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  isthmus vi replay --service /tmp/vi-a.sock all.pcapng               with the gaps that it was captured with
  isthmus vi replay --service /tmp/vi-a.sock all.pcapng --speed 10    ten times as fast
  isthmus vi replay --service /tmp/vi-a.sock all.pcapng --top-speed --loops 100")]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoint: Endpoint,
    /// File to send; - is stdin
    file: PathBuf,
    /// Factor on the file's speed, 0.001 at least; 0 is as fast as there is room
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    speed: f64,
    /// As fast as there is room: --speed 0
    #[arg(long, conflicts_with = "speed")]
    top_speed: bool,
    /// How often the file is sent; 0 is for ever
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    loops: u64,
    /// End after so many frames
    #[arg(short, long, value_name = "FRAMES")]
    count: Option<u64>,
    /// Interfaces of the far side to wait for before the first frame
    #[arg(long, value_name = "N", default_value_t = 0)]
    reach: usize,
    /// Milliseconds that a frame waits for room before it is lost
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    patience: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a replay was.
#[derive(Debug, Default, Serialize)]
struct Report {
    file: String,
    seconds: f64,
    loops: u64,
    sent: u64,
    sent_bytes: u64,
    /// Copies that went to nobody: no room, or nobody there.
    lost: u64,
    /// Frames of which the file has only the beginning.
    cut: u64,
    /// How much later than due a frame went, on average and at most; nothing at top speed.
    late_mean_ns: u64,
    late_most_ns: u64,
    /// Why the file was not read to its end.
    broken: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let factor = if arguments.top_speed { 0.0 } else { arguments.speed };
    let speed = Speed::from_factor(factor)
        .with_context(|| format!("--speed {factor}: 0, or a factor from 0.001 to 4000000"))?;
    let to_stdin = arguments.file.as_os_str() == "-";
    anyhow::ensure!(!to_stdin || arguments.loops == 1, "stdin can be sent once: --loops 1");
    // A file that is none is told before anybody is asked for anything.
    let first = open(arguments)?;
    let mut client = arguments.endpoint.connect(&ProtectionDomain::<Tool>::new(), None)?;
    reach(&mut client, arguments.reach, Duration::from_secs(10))?;
    let report = replay(arguments, speed, &mut client, first)?;
    let rate = number(report.sent) / report.seconds.max(1e-9);
    let text = format!(
        "{} frames ({} bytes) in {:.3} s, {rate:.0}/s; {} lost, {} cut, late {} ns on average, {} at most",
        report.sent,
        report.sent_bytes,
        report.seconds,
        report.lost,
        report.cut,
        report.late_mean_ns,
        report.late_most_ns
    );
    tell(arguments.json, &report, &text)?;
    if let Some(broken) = &report.broken {
        crate::out::note!("{}: {broken}", report.file);
        return Ok(Outcome::Exit(std::process::ExitCode::FAILURE));
    }
    Ok(if report.lost == 0 { Outcome::Done } else { Outcome::Exit(std::process::ExitCode::FAILURE) })
}

fn open(arguments: &Arguments) -> anyhow::Result<Reader<Box<dyn Read>>> {
    let input: Box<dyn Read> = if arguments.file.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::with_capacity(
            1 << 18,
            File::open(&arguments.file).with_context(|| name(arguments))?,
        ))
    };
    Reader::new(input).with_context(|| name(arguments))
}

fn name(arguments: &Arguments) -> String {
    arguments.file.display().to_string()
}

fn replay(
    arguments: &Arguments,
    speed: Speed,
    client: &mut Client<Tool>,
    first: Reader<Box<dyn Read>>,
) -> anyhow::Result<Report> {
    let stop = tool::Stop::new()?;
    let progress = tool::Progress::new("replay");
    let begun = Instant::now();
    let mut report = Report { file: name(arguments), ..Report::default() };
    let (mut schedule, mut late_ns) = (Schedule::new(speed), 0_u128);
    let mut reader = first;
    let most = arguments.count.unwrap_or(u64::MAX);
    'loops: loop {
        loop {
            if report.sent >= most || stop.asked() {
                break 'loops;
            }
            let frame = match reader.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error @ ReadError::Read { .. }) => return Err(error).context(name(arguments)),
                Err(error) => {
                    report.broken = Some(error.to_string());
                    break 'loops;
                }
            };
            let due = Duration::from_nanos(schedule.due_ns(frame.utc_ns));
            if speed != Speed::Top {
                if !wait_until(begun, due, client, &stop)? {
                    break 'loops;
                }
                let late = begun.elapsed().saturating_sub(due).as_nanos();
                late_ns += late;
                report.late_most_ns = report.late_most_ns.max(u64::try_from(late).unwrap_or(u64::MAX));
            }
            // A service that was killed tells nobody: it is asked now and then.
            if client.has_news() || report.sent.is_multiple_of(ASK_EVERY) {
                client.refresh()?;
            }
            send(arguments, client, frame.bytes, &mut report)?;
            report.cut += u64::from((frame.original_bytes as usize) > frame.bytes.len());
            progress.tell(|| format!("{} sent, {} lost", report.sent, report.lost));
        }
        report.loops += 1;
        if report.loops == arguments.loops || reader.frames() == 0 {
            break;
        }
        reader = open(arguments)?;
        schedule.again();
    }
    client.attachment().push()?;
    report.seconds = begun.elapsed().as_secs_f64();
    report.late_mean_ns = u64::try_from(late_ns / u128::from(report.sent.max(1))).unwrap_or(u64::MAX);
    Ok(report)
}

fn send(
    arguments: &Arguments,
    client: &Client<Tool>,
    frame: &[u8],
    report: &mut Report,
) -> anyhow::Result<()> {
    let patience = Duration::from_millis(arguments.patience);
    let steered = client.transmit_when_room(frame, RequestId(0), patience)?;
    report.sent += 1;
    report.sent_bytes += frame.len() as u64;
    report.lost += u64::from(steered.full) + u64::from(steered.sent == 0 && steered.full == 0);
    if report.sent.is_multiple_of(COMPLETIONS as u64 / 4) {
        client.vi().transmit_unbundle(&mut [RequestId(0); COMPLETIONS]);
    }
    Ok(())
}

/// Sleeps, then spins, until a time after the beginning; false if a signal came first.
fn wait_until(
    begun: Instant,
    due: Duration,
    client: &mut Client<Tool>,
    stop: &tool::Stop,
) -> anyhow::Result<bool> {
    loop {
        let Some(left) = due.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else {
            return Ok(true);
        };
        if left <= SPIN {
            std::hint::spin_loop();
            continue;
        }
        client.refresh()?;
        if stop.wait((left - SPIN).min(NAP))? {
            return Ok(false);
        }
    }
}
