//! `isthmus vi capture`: what filters take, to a pcapng file.
//!
//! One thread polls and puts frames into a packed stream; another writes the file. A disk that is slow loses frames, which
//! are counted, in the file too, and holds nobody up.

use super::endpoint::{Endpoint, Tool, times};
use super::tool;
use crate::Outcome;
use anyhow::Context as _;
use serde::Serialize;
use shm::Mapping;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use vi::capture::{CaptureError, FileWriter, Recorder, TimeOf};
use vi::clock::{Clock, Stamp, SyncFlags};
use vi::filter::Filter;
use vi::stream::{StreamFile, StreamReader, StreamWriter};
use vi::{Event, ProtectionDomain};
use vi_service::{Client, ClockStatus};

/// Events that one poll fetches.
const BATCH: usize = 64;
/// How long a poll sleeps before it looks at signals and limits again.
const NAP: Duration = Duration::from_millis(50);
/// How long frames are still taken once it is over.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long the file's thread sleeps when the stream is empty.
const IDLE: Duration = Duration::from_millis(1);
/// Written between two looks at progress.
const FRAMES_AT_ONCE: u64 = 10_000;

/// Write the frames that filters take to a pcapng file, with nanosecond times and drop counts
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  isthmus vi capture --service /tmp/vi-b.sock -w all.pcapng                       a copy of everything, until Ctrl-C
  isthmus vi capture --service /tmp/vi-b.sock -w udp.pcapng -c 1000 udp:239.1.2.3:5000
  isthmus vi capture --service /tmp/vi-b.sock -w - --seconds 10 | tshark -r -")]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoint: Endpoint,
    /// File to write; - is stdout
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// What is captured: filters as in `vi sink`; a filter takes frames away from the kernel, sniff copies them
    #[arg(value_name = "FILTER", default_value = "sniff")]
    filters: Vec<Filter>,
    /// End after so many frames
    #[arg(short, long, value_name = "FRAMES")]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Bytes of each frame that are kept; 0 is all
    #[arg(short, long, value_name = "BYTES", default_value_t = 0)]
    snap: u32,
    /// MiB of frames that may wait for the file, a power of two
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    buffer: u64,
    /// Whose times the file has: when a frame was taken here, or when it was sent, by this host's clock as far as the peer's is known
    #[arg(long, value_name = "WHOSE", default_value = "receiver")]
    times: Times,
    /// Poll without sleeping
    #[arg(long)]
    spin: bool,
    /// Print one JSON object (on stderr, if the file goes to stdout)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Times {
    Receiver,
    Sender,
}

/// What a capture was.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    seconds: f64,
    received: u64,
    captured: u64,
    captured_bytes: u64,
    lost: u64,
    incomplete: u64,
    clock: ClockReport,
    /// The sender's, where the times are his.
    peer_clock: Option<ClockStatus>,
}

#[derive(Debug, Serialize)]
struct ClockReport {
    set: bool,
    in_sync: bool,
    counter: bool,
    tai_known: bool,
    bound_ns: u64,
}

impl From<Stamp> for ClockReport {
    fn from(stamp: Stamp) -> Self {
        Self {
            set: stamp.flags.contains(SyncFlags::CLOCK_SET),
            in_sync: stamp.flags.contains(SyncFlags::IN_SYNC),
            counter: stamp.flags.contains(SyncFlags::COUNTER),
            tai_known: stamp.flags.contains(SyncFlags::TAI_KNOWN),
            bound_ns: stamp.bound_ns,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let mut client = arguments.endpoint.connect(&ProtectionDomain::<Tool>::new(), None)?;
    let stream = StreamFile::create(arguments.buffer.saturating_mul(1 << 20)).context("--buffer")?;
    let to_stdout = arguments.write.as_os_str() == "-";
    let out: Box<dyn Write + Send> = if to_stdout {
        Box::new(std::io::stdout())
    } else {
        Box::new(File::create(&arguments.write).with_context(|| format!("{}", arguments.write.display()))?)
    };
    if arguments.times == Times::Sender {
        times(&client)?;
    }
    let kept = vi::clock::shared()?;
    let clock = kept.clock();
    let texts: Vec<String> = arguments.filters.iter().map(Filter::to_string).collect();
    let file = FileWriter::new(BufWriter::new(out), "vi0", &texts.join(" "), arguments.snap, clock.clone())?;
    // Before frames come: from now on the file is finished, whatever ends it.
    let stop = tool::Stop::new()?;
    for filter in &arguments.filters {
        client.add_filter(*filter).with_context(|| format!("filter {filter}"))?;
    }
    let report = capture(arguments, &mut client, &stream, file, &clock, &stop)?;
    if arguments.json {
        let text = serde_json::to_string(&report)?;
        if to_stdout { crate::out::note!("{text}") } else { crate::out::say!("{text}") }
    } else {
        crate::out::note!(
            "{} frames ({} bytes) in {}; {} received, {} lost, times within {} ns",
            report.captured,
            report.captured_bytes,
            report.file,
            report.received,
            report.lost,
            report.clock.bound_ns
        );
    }
    Ok(Outcome::Done)
}

fn capture<W: Write + Send>(
    arguments: &Arguments,
    client: &mut Client<Tool>,
    stream: &StreamFile,
    mut file: FileWriter<W>,
    clock: &Clock,
    stop: &tool::Stop,
) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let (mut writer, mut reader) = (stream.writer()?, stream.reader()?);
    let snap = if arguments.snap == 0 { usize::MAX } else { arguments.snap as usize };
    let time_of = match arguments.times {
        Times::Receiver => TimeOf::Receiver,
        Times::Sender => TimeOf::Sender,
    };
    let mut recorder = Recorder::new(clock.clone(), time_of, snap);
    let (written, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let (polls, ended) = channel::<()>();
    let (file, polled) = std::thread::scope(|scope| {
        let (written, failed) = (&written, &failed);
        let filing = scope.spawn(move || {
            let outcome = drain(&mut file, &mut reader, &ended, written);
            failed.store(outcome.is_err(), Ordering::Relaxed);
            outcome.map(|()| file)
        });
        let polled = poll(arguments, client, &mut recorder, &mut writer, stop, written, failed);
        drop(polls);
        let filed =
            filing.join().map_err(|_| anyhow::anyhow!("the thread that writes the file has ended early"))?;
        // A file that cannot be written is why polling ended.
        anyhow::Ok((filed?, polled))
    })?;
    let (captured, captured_bytes, received) = (file.frames(), file.frame_bytes(), recorder.frames());
    let stamp = clock.now();
    file.finish(received)?;
    // The file has all that came until then.
    polled?;
    Ok(Report {
        file: arguments.write.display().to_string(),
        seconds: begun.elapsed().as_secs_f64(),
        received,
        captured,
        captured_bytes,
        lost: received - captured,
        incomplete: recorder.broken(),
        clock: stamp.into(),
        peer_clock: client.peer_clock().filter(|_| time_of == TimeOf::Sender).map(ClockStatus::from),
    })
}

/// Polls until a limit or a signal.
fn poll(
    arguments: &Arguments,
    client: &mut Client<Tool>,
    recorder: &mut Recorder,
    stream: &mut StreamWriter<Mapping>,
    stop: &tool::Stop,
    written: &AtomicU64,
    failed: &AtomicBool,
) -> anyhow::Result<()> {
    let deadline = arguments.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let most = arguments.count.unwrap_or(u64::MAX);
    let progress = tool::Progress::new("capture");
    let (mut refreshed, mut ended) = (Instant::now(), None);
    loop {
        // A service that was killed tells nobody: it is asked now and then.
        if client.has_news() || refreshed.elapsed() >= NAP {
            refreshed = Instant::now();
            client.refresh()?;
        }
        if arguments.times == Times::Sender {
            recorder.set_peer(client.peer_clock());
        }
        let mut events: [Event<'_, Tool>; BATCH] = std::array::from_fn(|_| Event::Nothing);
        let count = client.poll(&mut events);
        for event in events.iter().take(count) {
            if let Event::Received(packet) = event
                && recorder.frames() < most
            {
                recorder.record(packet, stream)?;
            }
        }
        stream.publish()?;
        drop(events);
        if recorder.frames() >= most {
            return Ok(());
        }
        progress.tell(|| {
            let written = written.load(Ordering::Relaxed);
            format!("{} received, {written} in the file, {} lost", recorder.frames(), stream.lost())
        });
        let over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if over || stop.asked() || failed.load(Ordering::Relaxed) {
            // What waits in the lanes is taken, but senders that never pause hold nobody up.
            if count == 0 || ended.get_or_insert_with(Instant::now).elapsed() >= LAST_WORDS {
                return Ok(());
            }
            continue;
        }
        if count == 0 && !arguments.spin {
            client.wait(Some(NAP))?;
        }
    }
}

/// Writes what the stream has until it has ended and is empty.
fn drain<W: Write>(
    file: &mut FileWriter<W>,
    stream: &mut StreamReader<Mapping>,
    ended: &Receiver<()>,
    written: &AtomicU64,
) -> Result<(), CaptureError> {
    let mut last = false;
    loop {
        let frames = file.write(stream, FRAMES_AT_ONCE)?;
        written.store(file.frames(), Ordering::Relaxed);
        if frames > 0 {
            continue;
        }
        if last {
            return Ok(());
        }
        // Whoever follows the file sees what there is.
        file.flush()?;
        // What was published before the end is looked for once more.
        last = ended.recv_timeout(IDLE) == Err(RecvTimeoutError::Disconnected);
    }
}
