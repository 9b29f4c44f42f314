//! The threads that send and check.

use super::faults::Faults;
use super::report::Stream;
use super::world::{Side, World};
use super::{bulk, ping};
use anyhow::{Context, anyhow};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Bytes that every record and datagram is cut from, so that checking one is a comparison.
const PATTERN_BYTES: usize = 1 << 20;

/// Traffic that is under way.
#[derive(Debug)]
pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    /// Nobody waits for an echo any more.
    answered: Arc<AtomicBool>,
    streams: Vec<JoinHandle<anyhow::Result<Stream>>>,
    marks: Vec<(String, Arc<Mark>)>,
    echoes: Vec<JoinHandle<()>>,
}

/// What a thread is given.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) pattern: Arc<Vec<u8>>,
    pub(super) faults: Faults,
    pub(super) mark: Arc<Mark>,
    /// Bytes a second of a bulk stream; none: as fast as it goes.
    pub(super) rate: Option<f64>,
    stop: Arc<AtomicBool>,
}

/// How far a stream has come, for whoever made a fault and wants to see that it is over it.
#[derive(Debug, Default)]
pub(super) struct Mark {
    /// The number that is sent next.
    next: AtomicU64,
    /// All numbers below it were sent before something that has come; 0: nothing has.
    passed: AtomicU64,
}

impl Mark {
    pub(super) fn sends(&self, number: u64) {
        self.next.store(number, Ordering::Relaxed);
    }

    pub(super) fn has_come(&self, number: u64) {
        self.passed.fetch_max(number.saturating_add(1), Ordering::Relaxed);
    }

    fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    fn has_passed(&self, number: u64) -> bool {
        self.passed.load(Ordering::Relaxed) > number
    }
}

/// All streams' marks at one moment.
#[derive(Debug)]
pub(super) struct Milestone<'a>(Vec<(&'a str, &'a Mark, u64)>);

impl Milestone<'_> {
    /// The streams on which nothing that was sent since has come.
    pub(super) fn standing(&self) -> Vec<&str> {
        let Self(marks) = self;
        marks.iter().filter(|(_, mark, next)| !mark.has_passed(*next)).map(|(name, ..)| *name).collect()
    }
}

impl Task {
    /// Whether to send no more.
    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What a record with this number carries.
    pub(super) fn content(&self, number: u64, bytes: usize) -> &[u8] {
        let most = self.pattern.len().saturating_sub(bytes).max(1);
        let start = usize::try_from(scramble(number)).unwrap_or_default() % most;
        self.pattern.get(start..start.saturating_add(bytes)).unwrap_or_default()
    }
}

/// One number from another, as if by chance (splitmix64).
pub(super) fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn pattern() -> Vec<u8> {
    (0..).map(scramble).flat_map(u64::to_le_bytes).take(PATTERN_BYTES).collect()
}

impl Traffic {
    /// Bulk and pings, each in both directions.
    pub(super) fn start(world: &World, faults: &Faults, rate: Option<f64>) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let task = Task {
            pattern: Arc::new(pattern()),
            faults: faults.clone(),
            mark: Arc::default(),
            rate,
            stop: Arc::clone(&stop),
        };
        let answered = Arc::new(AtomicBool::new(false));
        let mut traffic = Self { stop, answered, streams: Vec::new(), marks: Vec::new(), echoes: Vec::new() };
        for side in Side::BOTH {
            let (here, there) =
                (world.namespace(side).to_path_buf(), world.namespace(side.other()).to_path_buf());
            // The sockets of the far end are there before anybody calls them.
            let listener = inside(&there, || bulk::listen(side.other()))?;
            let echo = inside(&there, || ping::bind(side.other()))?;
            let socket = inside(&here, || ping::bind_any(side))?;
            let mut own = |what| {
                let name = format!("{what} {} to {}", side.name(), side.other().name());
                let mark = Arc::<Mark>::default();
                traffic.marks.push((name, Arc::clone(&mark)));
                Task { mark, ..task.clone() }
            };
            let (bulk, pings) = (own("bulk"), own("ping"));
            let connection = inside(&here, || bulk::connect(side.other()))?;
            traffic.streams.push(std::thread::spawn(move || bulk::run(side, connection, &listener, &bulk)));
            traffic.streams.push(std::thread::spawn(move || ping::run(side, &socket, &pings)));
            let answered = Arc::clone(&traffic.answered);
            traffic.echoes.push(std::thread::spawn(move || ping::echo(&echo, &answered)));
        }
        Ok(traffic)
    }

    /// What is sent from now on, on every stream.
    pub(super) fn milestone(&self) -> Milestone<'_> {
        Milestone(self.marks.iter().map(|(name, mark)| (name.as_str(), &**mark, mark.next())).collect())
    }

    /// Sends no more, waits for what is on its way, and returns the counts.
    pub(super) fn finish(self) -> anyhow::Result<Vec<Stream>> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = || anyhow!("a thread panicked");
        let mut streams = Vec::new();
        for thread in self.streams {
            streams.push(thread.join().map_err(|_| panicked())??);
        }
        self.answered.store(true, Ordering::Relaxed);
        for thread in self.echoes {
            thread.join().map_err(|_| panicked())?;
        }
        streams.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(streams)
    }
}

/// Makes a socket in a namespace: it stays there, whoever uses it.
fn inside<T: Send>(namespace: &Path, make: impl FnOnce() -> io::Result<T> + Send) -> anyhow::Result<T> {
    let path: PathBuf = namespace.to_path_buf();
    let made = std::thread::scope(|scope| {
        scope.spawn(|| netdev::namespace::enter(&path).and_then(|()| make())).join()
    });
    made.map_err(|_| anyhow!("a thread panicked"))?.context("a socket in a namespace")
}
