//! What the framework costs between two processors, beside what the machine itself takes in the same moment:
//! `cargo bench -p cells`.
//!
//! Two threads on two processors, two memory files that both have mapped. Every window of a few milliseconds stands
//! between two probes of the round trip of a bare cache line, and counts when they agree (crate `yardstick`).
//!
//! - *round trip*: a frame there and one back, payload written and read on both sides, over the bare line's;
//! - *bulk*: buffers of a size from one private memory into another, over one memcpy of the same buffers.
//!
//! `cargo bench -p cells -- 1MiB` runs the rows whose name contains that.
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a bench reports to whoever runs it")]

use cells::{Channel, Geometry, Link, Receiver, Sender, Setup};
use shm::{Access, Mapping, SharedFile};
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use yardstick::{Class, Pair, Window, median};

type End = (Sender<Mapping, Mapping>, Receiver<Mapping, Mapping>);
const WINDOWS: usize = 31;
const TRIPS: usize = 2000;
/// Bytes that one bulk measurement moves.
const VOLUME: usize = 12 << 20;

/// Two ends of a channel; each side has mapped both files by itself.
fn ends(setup: &Setup) -> (End, End) {
    let bytes = (setup.geometry.region_bytes() + 8192) as u64;
    let file = || SharedFile::create("cells", bytes).expect("memory");
    let (a, b) = (file(), file());
    let map = |file| Arc::new(Mapping::new(file, 0, bytes, Access::ReadWrite).expect("memory"));
    let here = Link::new(map(&b), map(&a)).expect("room");
    let there = Link::new(map(&a), map(&b)).expect("room");
    let mut here = here.open("bench", setup.clone()).expect("room");
    let mut there = there.open("bench", setup.clone()).expect("room");
    // Each has to see the other, and one of them twice.
    let _not_yet = here.poll().expect("no stranger");
    let _up = there.poll().expect("no stranger");
    let _up = here.poll().expect("no stranger");
    let up = |opening: cells::Opening<Mapping, Mapping>| -> Channel<Mapping, Mapping> {
        opening.wait(Duration::from_secs(1)).expect("both are there")
    };
    (up(here).split(), up(there).split())
}

const FOREVER: Option<Duration> = None;

/// Nanoseconds of a round trip.
fn round_trip(pair: &mut Pair<'_>, here: &mut End, there: &Arc<Mutex<End>>, bytes: usize) -> f64 {
    let there = Arc::clone(there);
    pair.run(
        || {
            let mut frame = vec![0_u8; bytes];
            let mut times = Vec::new();
            for _ in 0..20 {
                let start = Instant::now();
                for trip in 0..TRIPS / 20 {
                    frame[0] = trip.to_le_bytes()[0];
                    here.0.send(&frame, FOREVER).expect("up");
                    let back = here.1.receive(FOREVER).expect("up").expect("no limit");
                    assert_eq!(back[0], frame[0].wrapping_add(1));
                }
                times.push(start.elapsed().as_nanos() as f64 / (TRIPS / 20) as f64);
            }
            median(&mut times)
        },
        move || {
            let mut there = there.lock().expect("nobody failed");
            let (send, receive) = &mut *there;
            let mut answer = vec![0_u8; bytes];
            for _ in 0..TRIPS {
                let frame = receive.receive(FOREVER).expect("up").expect("no limit");
                answer.copy_from_slice(frame);
                answer[0] = answer[0].wrapping_add(1);
                send.send(&answer, FOREVER).expect("up");
            }
        },
    )
}

/// MB/s of buffers of a size, one way.
fn bulk(pair: &mut Pair<'_>, here: &mut End, there: &Arc<Mutex<End>>, data: &[u8]) -> f64 {
    let there = Arc::clone(there);
    let rounds = (VOLUME / data.len()).min(1024);
    let bytes = data.len();
    pair.run(
        || {
            let start = Instant::now();
            for _ in 0..rounds {
                here.0.send(black_box(data), FOREVER).expect("up");
            }
            // The other side says when it has the last one.
            let done = here.1.receive(FOREVER).expect("up").expect("no limit").len();
            assert_eq!(done, 1);
            (rounds * bytes) as f64 / start.elapsed().as_nanos() as f64 * 1e3
        },
        move || {
            let mut there = there.lock().expect("nobody failed");
            let (send, receive) = &mut *there;
            for _ in 0..rounds {
                let frame = black_box(receive.receive(FOREVER).expect("up").expect("no limit"));
                assert_eq!((frame.len(), frame[bytes - 1]), (bytes, 0x5A));
            }
            send.send(&[1], FOREVER).expect("up");
        },
    )
}

/// MB/s of one memcpy of the same buffers, private to private.
fn memcpy(data: &[u8], to: &mut [u8]) -> f64 {
    let rounds = (VOLUME / data.len()).min(1024);
    let start = Instant::now();
    for _ in 0..rounds {
        black_box(&mut *to).copy_from_slice(black_box(data));
    }
    (rounds * data.len()) as f64 / start.elapsed().as_nanos() as f64 * 1e3
}

#[derive(Default)]
struct Row {
    value: Vec<f64>,
    reference: Vec<f64>,
    ratio: Vec<f64>,
}

/// Found so far, in the order in which it was asked for.
type Found = Vec<(Class, String, Row)>;

fn note(found: &mut Found, class: Class, name: &str, value: f64, reference: f64) {
    let known = found.iter().position(|(of, what, _)| *of == class && what == name);
    let at = known.unwrap_or_else(|| {
        found.push((class, name.to_owned(), Row::default()));
        found.len() - 1
    });
    let row = &mut found[at].2;
    row.value.push(value);
    row.reference.push(reference);
    row.ratio.push(value / reference);
}

fn measure(
    pair: &mut Pair<'_>,
    found: &mut Found,
    profile: &str,
    setup: &Setup,
    wanted: &dyn Fn(&str) -> bool,
) {
    let (mut here, there) = ends(setup);
    let there = Arc::new(Mutex::new(there));
    for bytes in [8, 56, 64, 256, 1514] {
        let name = format!("{profile} round trip {bytes} B, ns");
        windows(wanted(&name), || {
            let Window { class, line_ns: line, found: value } =
                pair.window(|pair| round_trip(pair, &mut here, &there, bytes))?;
            note(found, class, &name, value, line);
            Some(())
        });
    }
    for bits in 13..=21 {
        let data = vec![0x5A_u8; 1 << bits];
        let size =
            if bits < 20 { format!("{}KiB", 1 << (bits - 10)) } else { format!("{}MiB", 1 << (bits - 20)) };
        let name = format!("{profile} bulk {size}, MB/s");
        let mut to = data.clone();
        windows(wanted(&name), || {
            let Window { class, found: (value, reference), .. } = pair.window(|pair| {
                let before = memcpy(&data, &mut to);
                let value = bulk(pair, &mut here, &there, &data);
                (value, f64::midpoint(before, memcpy(&data, &mut to)))
            })?;
            note(found, class, &name, value, reference);
            Some(())
        });
    }
}

/// Runs windows until enough of them counted, or most of many did not.
fn windows(wanted: bool, mut one: impl FnMut() -> Option<()>) {
    let mut tries = (0..if wanted { 20 * WINDOWS } else { 0 }).map(|_| one());
    let mut kept = 0;
    while kept < WINDOWS
        && let Some(counted) = tries.next()
    {
        kept += usize::from(counted.is_some());
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.iter().all(|word| name.contains(word.as_str()));
    let mut found = Found::new();
    std::thread::scope(|scope| {
        let mut pair = Pair::start(scope).expect("two processors");
        let fast = Setup::new(Geometry::fast(FAST_CELLS, FAST_CELL_BYTES).expect("a ring"));
        let paper = Setup::new(Geometry::paper(PAPER_CELLS).expect("a ring"));
        measure(&mut pair, &mut found, "fast", &fast, &wanted);
        measure(&mut pair, &mut found, "paper", &paper, &wanted);
    });
    println!(
        "{:<6}{:<34}{:>10}{:>14}{:>8}{:>9}",
        "class", "what", "value", "line, memcpy", "ratio", "windows"
    );
    found.sort_by_key(|&(class, ..)| class);
    for (class, name, row) in &mut found {
        let [value, reference, ratio] =
            [&mut row.value, &mut row.reference, &mut row.ratio].map(|of| median(of));
        let windows = row.value.len();
        println!("{:<6}{name:<34}{value:>10.0}{reference:>14.0}{ratio:>8.2}{windows:>9}", class.name());
    }
}

/// The rings that are measured: 4 MiB and 3 MB.
const FAST_CELLS: u32 = 64;
const PAPER_CELLS: u32 = 4096;
const FAST_CELL_BYTES: u32 = 65536;
