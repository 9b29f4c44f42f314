//! What virtual interfaces cost beside bare memory: `cargo bench -p vi`.
//!
//! Round trips: a frame is steered by a table with a filter, sent, polled, its length and filter asked, copied out and
//! let go; then the same back. Rates: frames one by one, or pushed in batches of 32, each copied out. Everything is measured in windows of a
//! few milliseconds between two probes of the placement (crate shm, benches/support), and compared within one window.
#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a bench reports to whoever runs it"
)]

mod bare;
#[path = "../../../shm/benches/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;
use support::{Class, Pair, median};
use vi::filter::{Filter, FlowCache, Table, Target};
use vi::lane::{Geometry, Meta, SharedLane};
use vi::{Event, LaneId, ProtectionDomain, RequestId, Vi};

/// Round trips that are timed together, and how often: the median counts, since others use these processors too.
const TRIPS: u64 = 200;
const RUNS: u64 = 20;
const TRIPS_IN_ALL: u64 = TRIPS * RUNS;
/// Frames of one measurement of a rate, and how many are timed together: more than a lane holds, and few enough that
/// most chunks are not interrupted.
const FRAMES: u64 = 32 * CHUNK;
const CHUNK: u64 = 1024;
const WINDOWS: usize = 40;

struct Host;
type Interface = Vi<Host>;

/// Nanoseconds of one round trip: the median of the runs. Round trips are numbered from 1.
fn median_trip(mut trip: impl FnMut(u64)) -> f64 {
    let mut times: Vec<f64> = (0..RUNS)
        .map(|run| {
            let start = Instant::now();
            (1..=TRIPS).for_each(|n| trip(run * TRIPS + n));
            start.elapsed().as_nanos() as f64 / TRIPS as f64
        })
        .collect();
    median(&mut times)
}

/// Millions per second, as the sender sees it behind a ring that is full: the median of the chunks. Frames are
/// numbered from 1.
fn chunk_rate(mut send: impl FnMut(u64)) -> f64 {
    let mut rates: Vec<f64> = (0..FRAMES / CHUNK)
        .map(|chunk| {
            let start = Instant::now();
            (1..=CHUNK).for_each(|n| send(chunk * CHUNK + n));
            CHUNK as f64 * 1e3 / start.elapsed().as_nanos() as f64
        })
        .collect();
    median(&mut rates)
}

/// Two interfaces, a lane each way, and a table with one filter for each.
fn interfaces(stream_from: usize) -> (Interface, Interface, Table<LaneId>) {
    let domain = ProtectionDomain::new();
    let (mut here, mut there) = (Vi::new(&domain), Vi::new(&domain));
    join(&mut here, &mut there, stream_from);
    join(&mut there, &mut here, stream_from);
    let mut table = Table::new();
    let filter: Filter = "udp:10.0.0.2:5000-5100".parse().unwrap();
    table.add(filter, Target::One(LaneId(0))).unwrap();
    (here, there, table)
}

fn join(from: &mut Interface, to: &mut Interface, stream_from: usize) {
    let lane = SharedLane::create(Geometry { wakes: false, ..Geometry::default() }).unwrap();
    let mut sender = lane.sender().unwrap();
    sender.stream_from(stream_from);
    from.attach_sender(sender, None);
    let (_, buffers) = to.attach_receiver(lane.receiver().unwrap());
    for buffer in buffers {
        assert!(to.receive_init(buffer, RequestId(0)).is_ok());
    }
    to.receive_push();
}

/// A datagram for the table's filter.
fn datagram(bytes: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0];
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 9, 0x13, 0x88, 0, 26, 0, 0]);
    frame.resize(bytes, 7);
    frame
}

fn send(vi: &Interface, table: &Table<LaneId>, cache: &mut FlowCache<LaneId>, frame: &[u8]) {
    let steered = vi.transmit_steered(table, cache, frame, 0, RequestId(1)).unwrap();
    assert_eq!(steered.sent, 1);
    vi.transmit_unbundle(&mut [RequestId(0)]);
}

fn receive(vi: &Interface, frame: &mut [u8]) -> usize {
    loop {
        let mut events = [Event::Nothing];
        if vi.poll(&mut events) == 1
            && let Event::Received(packet) = &events[0]
        {
            black_box(packet.filter());
            return packet.copy_to(frame).unwrap();
        }
        std::hint::spin_loop();
    }
}

fn round_trip(pair: &mut Pair<'_>, bytes: usize) -> f64 {
    let (here, there, table) = interfaces(usize::MAX);
    let table_there = table.clone();
    pair.run(
        || {
            let mut frame = datagram(bytes);
            let mut cache = FlowCache::default();
            median_trip(|_| {
                send(&here, &table, &mut cache, &frame);
                receive(&here, &mut frame);
                black_box(&frame);
            })
        },
        move || {
            let mut frame = vec![0; bytes];
            let mut cache = FlowCache::default();
            for _ in 0..TRIPS_IN_ALL {
                let len = receive(&there, &mut frame);
                black_box(&frame);
                send(&there, &table_there, &mut cache, &frame[..len]);
            }
        },
    )
}

/// Nanoseconds of the same by one thread.
fn alone(bytes: usize) -> f64 {
    let (here, there, table) = interfaces(usize::MAX);
    let table_there = table.clone();
    let mut frame = datagram(bytes);
    let (mut cache, mut cache_there) = (FlowCache::default(), FlowCache::default());
    median_trip(|_| {
        send(&here, &table, &mut cache, &frame);
        receive(&there, &mut frame);
        black_box(&frame);
        send(&there, &table_there, &mut cache_there, &frame);
        receive(&here, &mut frame);
        black_box(&frame);
    })
}

/// How frames are handed over.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// Each by itself.
    Transmit,
    /// 32 are staged, then pushed.
    Push,
}

/// Millions of frames per second.
fn rate(pair: &mut Pair<'_>, bytes: usize, by: By, stream_from: usize) -> f64 {
    let (here, there, _) = interfaces(stream_from);
    pair.run(
        || {
            let frame = datagram(bytes);
            let mut done = [RequestId(0); 64];
            chunk_rate(|n| {
                let hand_over = || match by {
                    By::Transmit => {
                        here.transmit(LaneId(0), black_box(&frame), Meta::default(), RequestId(1))
                    }
                    By::Push => {
                        here.transmit_init(LaneId(0), black_box(&frame), Meta::default(), RequestId(1))
                    }
                };
                while hand_over().is_err() {
                    here.transmit_push(LaneId(0)).unwrap();
                    here.transmit_unbundle(&mut done);
                    std::hint::spin_loop();
                }
                if n % 32 == 0 {
                    here.transmit_push(LaneId(0)).unwrap();
                    here.transmit_unbundle(&mut done);
                }
            })
        },
        move || {
            let mut frame = vec![0; 2048];
            let mut left = FRAMES;
            while left > 0 {
                let mut events: [Event<'_, Host>; 32] = std::array::from_fn(|_| Event::Nothing);
                let count = there.poll(&mut events);
                for event in &events[..count] {
                    if let Event::Received(packet) = event {
                        packet.copy_to(black_box(&mut frame)).unwrap();
                        left -= 1;
                    }
                }
            }
        },
    )
}

/// What is measured: its name, how, what it is compared with.
type Row = (&'static str, fn(&mut Pair<'_>) -> f64, &'static str);

const ROWS: [Row; 9] = [
    ("round trip, 60 bytes, ns", |pair| round_trip(pair, 60), "one line"),
    ("round trip, 64 bytes, ns", |pair| round_trip(pair, 64), "two lines"),
    ("one line, 256 places, ns", |pair| bare::round_trip(pair, 1, 256), "one line"),
    ("two lines, 128 places, ns", |pair| bare::round_trip(pair, 2, 128), "two lines"),
    ("rate, 60 bytes, M/s", |pair| rate(pair, 60, By::Transmit, usize::MAX), "one-line ring"),
    ("rate, 64 bytes, M/s", |pair| rate(pair, 64, By::Transmit, usize::MAX), "one-line ring"),
    ("rate, 64 bytes pushed, M/s", |pair| rate(pair, 64, By::Push, usize::MAX), "one-line ring"),
    ("1500 bytes, GB/s", |pair| rate(pair, 1500, By::Push, usize::MAX) * 1.5, "memcpy"),
    ("1500 bytes streamed, GB/s", |pair| rate(pair, 1500, By::Push, 256) * 1.5, "memcpy"),
];

/// What rows are compared with, measured once in each window.
fn yardstick(name: &str, pair: &mut Pair<'_>, from: &[u8], to: &mut [u8]) -> f64 {
    match name {
        "one line" => bare::round_trip(pair, 1, 1),
        "two lines" => bare::round_trip(pair, 2, 1),
        "one-line ring" => bare::rate(pair),
        _ => bare::memcpy(from, to),
    }
}

/// What is measured in one window: name, value, the reference's name and value.
fn window(
    pair: &mut Pair<'_>,
    rows: &[Row],
    from: &[u8],
    to: &mut [u8],
) -> Vec<(&'static str, f64, &'static str, f64)> {
    let mut beside = BTreeMap::new();
    let measured = rows.iter().map(|&(name, measure, reference)| {
        let reference_value =
            *beside.entry(reference).or_insert_with(|| yardstick(reference, pair, from, to));
        (name, measure(pair), reference, reference_value)
    });
    measured.collect()
}

/// What one thread takes for a frame there and back, all lines in its first cache: the fastest of many runs, which others
/// on these processors disturb little.
fn instructions(wanted: &str) {
    let best = |measure: &dyn Fn() -> f64| (0..50).map(|_| measure()).fold(f64::INFINITY, f64::min);
    if "one thread".contains(wanted) {
        let bare = best(&bare::alone);
        for bytes in [60, 64] {
            let there_and_back = best(&|| alone(bytes));
            println!(
                "one thread, {bytes} bytes there and back {there_and_back:.1} ns, a bare line {bare:.1} ns"
            );
        }
    }
}

fn main() {
    type Found = BTreeMap<(Class, &'static str), Vec<(f64, f64, f64)>>;
    // `cargo bench -p vi -- trip` measures the rows with "trip" in their name; cargo itself passes --bench.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    instructions(&wanted);
    let rows: Vec<Row> = ROWS.into_iter().filter(|row| row.0.contains(&wanted)).collect();
    let mut found = Found::new();
    let mut names = Vec::new();
    std::thread::scope(|scope| {
        let mut pair = Pair::start(scope);
        let (from, mut to) = (vec![1; 48 << 20], vec![0; 48 << 20]);
        for _ in 0..WINDOWS {
            let Some((class, floor, rows)) = pair.window(|pair| window(pair, &rows, &from, &mut to)) else {
                continue;
            };
            names = rows.iter().map(|&(name, _, reference, _)| (name, reference)).collect();
            for (name, value, _, reference) in rows {
                found.entry((class, name)).or_default().push((value, reference, floor));
            }
        }
    });
    println!(
        "{:<6}{:<28}{:>9}  {:<14}{:>9}{:>7}{:>9}{:>9}",
        "class", "what", "value", "beside", "", "ratio", "probe", "windows"
    );
    for class in [Class::Smt, Class::Near, Class::Far] {
        if !found.keys().any(|&(seen, _)| seen == class) {
            println!("{:<6}not seen", class.name());
        }
        for &(name, reference) in &names {
            let Some(values) = found.get(&(class, name)) else { continue };
            let of =
                |pick: fn(&(f64, f64, f64)) -> f64| median(&mut values.iter().map(pick).collect::<Vec<_>>());
            println!(
                "{:<6}{name:<28}{:>9.1}  {reference:<14}{:>9.1}{:>7.2}{:>9.1}{:>9}",
                class.name(),
                of(|row| row.0),
                of(|row| row.1),
                of(|row| row.0 / row.1),
                of(|row| row.2),
                values.len()
            );
        }
    }
}
