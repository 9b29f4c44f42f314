//! What virtual interfaces cost beside bare memory: `cargo bench -p vi`.
//!
//! Lanes in memory files, without a bridge; `isthmus perf latency|rate` measures the same frames by the same code
//! (crate `yardstick`) through the windows of a twin. Round trips: a frame is steered by a table with a filter, sent, polled,
//! its length and filter asked, copied out and let go; then the same back. Rates: frames one by one, or pushed in
//! batches of 32, each steered and each copied out.
#![expect(clippy::print_stdout, reason = "a bench reports to whoever runs it")]

use std::collections::BTreeMap;
use std::error::Error;
use vi::lane::{Geometry, SharedLane};
use yardstick::bare::{Bare, Cold};
use yardstick::frames::{By, End, Ends};
use yardstick::{Class, Pair, Window, median};

type Interfaces = Ends<shm::Mapping, shm::Mapping>;
const WINDOWS: usize = 40;

/// Two interfaces, a lane each way.
fn interfaces(stream_from: usize) -> Result<Interfaces, Box<dyn Error>> {
    let lane = || SharedLane::create(Geometry { wakes: false, ..Geometry::default() });
    let (out, back) = (lane()?, lane()?);
    let end = |to: &SharedLane, from: &SharedLane| -> Result<_, Box<dyn Error>> {
        let sender = to.sender()?;
        sender.stream_from(stream_from);
        Ok(End::new(sender, from.receiver()?)?)
    };
    Ok(Ends::new(end(&out, &back)?, end(&back, &out)?))
}

/// What is measured, and what it is measured with.
struct Bench {
    bare: Bare,
    cold: Cold,
    plain: Interfaces,
    streaming: Interfaces,
}

type Measured = Result<f64, Box<dyn Error>>;
/// A row: its name, how, what it is compared with.
type Row = (&'static str, for<'scope> fn(&mut Bench, &mut Pair<'scope>) -> Measured, &'static str);

const ROWS: [Row; 11] = [
    ("round trip, 60 bytes, ns", |on, pair| Ok(on.plain.round_trip(pair, 60)?.median_ns), "one line"),
    ("round trip, 64 bytes, ns", |on, pair| Ok(on.plain.round_trip(pair, 64)?.median_ns), "two lines"),
    ("round trip, 128 bytes, ns", |on, pair| Ok(on.plain.round_trip(pair, 128)?.median_ns), "two lines"),
    ("one line, 256 places, ns", |on, pair| Ok(on.bare.ring_round_trip(pair, 1, 256)?), "one line"),
    ("two lines, 128 places, ns", |on, pair| Ok(on.bare.ring_round_trip(pair, 2, 128)?), "two lines"),
    ("rate, 60 bytes, M/s", |on, pair| Ok(on.plain.rate(pair, 60, By::Transmit)?), "one-line ring"),
    ("rate, 64 bytes, M/s", |on, pair| Ok(on.plain.rate(pair, 64, By::Transmit)?), "one-line ring"),
    ("rate, 64 bytes pushed, M/s", |on, pair| Ok(on.plain.rate(pair, 64, By::Push)?), "one-line ring"),
    ("rate, 64 bytes merged, M/s", |on, pair| Ok(on.plain.rate(pair, 64, By::PushMerged)?), "one-line ring"),
    ("1500 bytes, GB/s", |on, pair| Ok(on.plain.rate(pair, 1500, By::Push)? * 1.5), "memcpy"),
    ("1500 bytes streamed, GB/s", |on, pair| Ok(on.streaming.rate(pair, 1500, By::Push)? * 1.5), "memcpy"),
];

/// What rows are compared with.
fn beside(name: &str, on: &mut Bench, pair: &mut Pair<'_>) -> Measured {
    Ok(match name {
        "one line" => on.bare.round_trip(pair, 1)?,
        "two lines" => on.bare.round_trip(pair, 2)?,
        "one-line ring" => on.bare.line_rate(pair)?,
        _ => on.cold.memcpy(1500),
    })
}

/// What one thread takes for a frame there and back, all lines in its first cache: the fastest of many runs, which others
/// on these processors disturb little.
fn instructions(on: &mut Bench) -> Result<(), Box<dyn Error>> {
    let (mut bare, mut frames) = (f64::INFINITY, [f64::INFINITY; 4]);
    for _ in 0..400 {
        bare = bare.min(on.bare.alone()?);
        for (best, bytes) in frames.iter_mut().zip([48, 60, 64, 128]) {
            *best = best.min(on.plain.alone(bytes)?);
        }
    }
    for bytes in [60, 64] {
        for (how, merged) in [("events", false), ("merged receives", true)] {
            let (mut sent, mut taken) = (f64::INFINITY, f64::INFINITY);
            for _ in 0..100 {
                let (send, take) = on.plain.stream_alone(bytes, merged)?;
                (sent, taken) = (sent.min(send), taken.min(take));
            }
            println!("one thread, {bytes} bytes pushed in {sent:.1} ns, taken by {how} in {taken:.1} ns");
        }
    }
    for (best, bytes) in frames.iter().zip([48, 60, 64, 128]) {
        println!("one thread, {bytes} bytes there and back {best:.1} ns, a bare line {bare:.1} ns");
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    type Found = BTreeMap<(Class, &'static str), Vec<(f64, f64, f64)>>;
    // `cargo bench -p vi -- trip` measures the rows with "trip" in their name; cargo itself passes --bench.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let rows: Vec<Row> = ROWS.into_iter().filter(|row| row.0.contains(&wanted)).collect();
    let mut found = Found::new();
    let (plain, streaming) = (interfaces(usize::MAX)?, interfaces(256)?);
    let mut on = Bench { bare: Bare::new()?, cold: Cold::default(), plain, streaming };
    if "one thread".contains(&wanted) {
        instructions(&mut on)?;
    }
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let mut pair = Pair::start(scope)?;
        // A row and its yardstick share a window, which is short that way: few are disturbed. Rows take turns.
        for &(name, measure, reference) in std::iter::repeat_n(&rows, WINDOWS).flatten() {
            let window = pair.try_window(|pair| -> Result<_, Box<dyn Error>> {
                Ok((beside(reference, &mut on, pair)?, measure(&mut on, pair)?))
            })?;
            if let Some(Window { class, line_ns, found: (beside, value) }) = window {
                found.entry((class, name)).or_default().push((value, beside, line_ns));
            }
        }
        Ok(())
    })?;
    println!(
        "{:<6}{:<28}{:>9}  {:<14}{:>9}{:>7}{:>9}{:>9}",
        "class", "what", "value", "beside", "", "ratio", "probe", "windows"
    );
    for class in Class::ALL {
        if !found.keys().any(|&(seen, _)| seen == class) {
            println!("{:<6}not seen", class.name());
        }
        for &(name, _, reference) in &rows {
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
    Ok(())
}
