//! Bandwidth against buffer size through the framework, in the way in which its publication shows it.
//!
//! Two processes, two memory files that both map: the windows of a link without a twin between them. What this
//! measures is the framework, not a bridge.

use super::report::{Pairs, Report, Row, command};
use anyhow::{Context, bail, ensure};
use cells::{Channel, Geometry, Link, Profile, Receiver, Sender, Setup};
use shm::{Access, Mapping, SharedFile};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Buffers of 8 KiB to 2 MiB.
const SIZES: std::ops::RangeInclusive<u32> = 13..=21;
/// What is sent in one turn, at least.
const TURN_BYTES: usize = 8 << 20;
/// A window: the longer of the two rings, and a directory.
const WINDOW_BYTES: u64 = 5 << 20;
/// Long enough for a process to start on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(20);

type End = (Sender<Mapping, Mapping>, Receiver<Mapping, Mapping>);

/// The rings: 64 cells of 64 KiB, and as many published cells as take 3 MB.
fn setup(profile: Profile) -> anyhow::Result<Setup> {
    let geometry = match profile {
        Profile::Fast => Geometry::fast(64, 65536)?,
        Profile::Paper => Geometry::paper(4096)?,
    };
    Ok(Setup { measure: true, ..Setup::new(geometry) })
}

/// Opens this side's end over the file that it receives in and the one that the other side does.
fn open(
    own: &SharedFile,
    theirs: &SharedFile,
    profile: Profile,
) -> anyhow::Result<Channel<Mapping, Mapping>> {
    let map = |file| Mapping::new(file, 0, WINDOW_BYTES, Access::ReadWrite).map(Arc::new);
    let link = Link::new(map(theirs)?, map(own)?)?;
    Ok(link.open("sweep", setup(profile)?)?.wait(PATIENCE)?)
}

pub(super) fn measure(time_ms: u64) -> anyhow::Result<Report> {
    let mut rows = Vec::new();
    for profile in [Profile::Paper, Profile::Fast] {
        let own = SharedFile::create("isthmus-sweep", WINDOW_BYTES)?;
        let theirs = SharedFile::create("isthmus-sweep", WINDOW_BYTES)?;
        let mut far = Far::start(&own, &theirs, profile)?;
        let channel = open(&own, &theirs, profile)?;
        let class = channel.round_trip().map_or("unknown", class);
        let mut end = channel.split();
        for bits in SIZES {
            let data = vec![0x5A_u8; 1 << bits];
            let pairs = turns(&mut end, &data, Duration::from_millis(time_ms))?;
            let (ours, reference, windows) = pairs.quicker_half();
            let rate = |ns: f64| f64::from(1_u32 << bits) * 1e3 / ns;
            rows.push(Row {
                name: profile.to_string(),
                bytes: data.len(),
                value: rate(ours),
                unit: "MB/s",
                reference: "memcpy",
                reference_value: rate(reference),
                ratio: reference / ours,
                class,
                windows,
            });
        }
        end.0.send(END, Some(PATIENCE))?;
        far.wait()?;
    }
    Ok(Report { bench: "sweep", command: command(), machine: lab::perf::Machine::here(), rows })
}

/// A frame that asks for an answer, and one that ends the other process; both are shorter than any buffer.
const TURN_IS_OVER: &[u8] = b"turn";
const END: &[u8] = b"end";

/// Where the other process runs, by the round trip of a word.
fn class(round_trip: Duration) -> &'static str {
    match round_trip.as_nanos() {
        0..80 => "smt",
        80..250 => "near",
        _ => "far",
    }
}

/// Sends buffers and copies them by turns; times are for one buffer, in nanoseconds.
fn turns((send, receive): &mut End, data: &[u8], time: Duration) -> anyhow::Result<Pairs> {
    let count = (TURN_BYTES / data.len()).max(1);
    let each =
        |began: Instant| began.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(count).unwrap_or(1));
    let mut to = data.to_vec();
    let mut pairs = Pairs::default();
    let until = Instant::now() + time;
    // The first pair has the pages faulted in, and is not counted.
    let mut first = true;
    while pairs.is_few() || Instant::now() < until {
        let began = Instant::now();
        for _ in 0..count {
            send.send(data, Some(PATIENCE))?;
        }
        send.send(TURN_IS_OVER, Some(PATIENCE))?;
        ensure!(receive.receive(Some(PATIENCE))? == Some(TURN_IS_OVER), "the other process does not answer");
        let ours = each(began);
        let began = Instant::now();
        for _ in 0..count {
            std::hint::black_box(&mut to).copy_from_slice(std::hint::black_box(data));
        }
        if !first {
            pairs.push(ours, each(began));
        }
        first = false;
    }
    Ok(pairs)
}

/// The other process: takes every buffer, and answers at the end of a turn.
pub(super) fn serve(own: RawFd, theirs: RawFd, paper: bool) -> anyhow::Result<()> {
    let accept = |number| -> anyhow::Result<SharedFile> {
        Ok(SharedFile::accept(shm::take_inherited(number)?, WINDOW_BYTES)?)
    };
    let profile = if paper { Profile::Paper } else { Profile::Fast };
    let (mut send, mut receive) = open(&accept(own)?, &accept(theirs)?, profile)?.split();
    loop {
        match receive.receive(Some(PATIENCE))? {
            Some(TURN_IS_OVER) => send.send(TURN_IS_OVER, Some(PATIENCE))?,
            Some(END) => return Ok(()),
            Some(buffer) => ensure!(buffer.last() == Some(&0x5A), "a buffer arrived with other bytes"),
            None => bail!("the measuring process is silent"),
        }
    }
}

/// The process opposite; killed if it is left behind.
#[derive(Debug)]
struct Far(Child);

impl Far {
    fn start(own: &SharedFile, theirs: &SharedFile, profile: Profile) -> anyhow::Result<Self> {
        // A duplicate stays open across exec, which the files themselves do not.
        let pass = |file: &SharedFile| -> anyhow::Result<OwnedFd> { Ok(rustix::io::dup(file.as_fd())?) };
        let (own, theirs) = (pass(own)?, pass(theirs)?);
        let program = std::env::current_exe().context("this program is not to be found")?;
        let mut command = Command::new(program);
        command.args(["perf", "sweep-far"]);
        // What is mine here is the other's there.
        command.args([theirs.as_raw_fd().to_string(), own.as_raw_fd().to_string()]);
        if profile == Profile::Paper {
            command.arg("--paper");
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Ok(Self(child.context("the other process does not start")?))
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let status = self.0.wait()?;
        ensure!(status.success(), "the other process ended with {status}");
        Ok(())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // It has ended already, or the measurement failed.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}
