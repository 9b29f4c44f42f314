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
        let mut sender = to.sender()?;
        sender.stream_from(stream_from);
        Ok(End::new(sender, from.receiver()?)?)
    };
    Ok(Ends::new(end(&out, &back)?, end(&back, &out)?))
}

/// Name, value, the reference's name and value.
type Row = (&'static str, f64, &'static str, f64);

/// What is measured in one window.
fn window(
    pair: &mut Pair<'_>,
    bare: &Bare,
    cold: &mut Cold,
    (plain, streaming): (&mut Interfaces, &mut Interfaces),
) -> Result<Vec<Row>, Box<dyn Error>> {
    let (one, two) = (bare.round_trip(pair, 1)?, bare.round_trip(pair, 2)?);
    let vi60 = plain.round_trip(pair, 60)?.median_ns;
    let vi64 = plain.round_trip(pair, 64)?.median_ns;
    let lines = bare.line_rate(pair)?;
    let memcpy = cold.memcpy(1500);
    let (rate60, rate64) = (plain.rate(pair, 60, By::Transmit)?, plain.rate(pair, 64, By::Transmit)?);
    let pushed = plain.rate(pair, 60, By::Push)?;
    let through = plain.rate(pair, 1500, By::Push)? * 1.5;
    let streamed = streaming.rate(pair, 1500, By::Push)? * 1.5;
    Ok(vec![
        ("round trip, 60 bytes, ns", vi60, "one line", one),
        ("round trip, 64 bytes, ns", vi64, "two lines", two),
        ("rate, 60 bytes, M/s", rate60, "one-line ring", lines),
        ("rate, 64 bytes, M/s", rate64, "one-line ring", lines),
        ("rate, 60 bytes pushed, M/s", pushed, "one-line ring", lines),
        ("1500 bytes, GB/s", through, "memcpy", memcpy),
        ("1500 bytes streamed, GB/s", streamed, "memcpy", memcpy),
    ])
}

fn main() -> Result<(), Box<dyn Error>> {
    type Found = BTreeMap<(Class, &'static str), Vec<(f64, f64, f64)>>;
    let mut found = Found::new();
    let mut names = Vec::new();
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let mut pair = Pair::start(scope)?;
        let (bare, mut cold) = (Bare::new()?, Cold::default());
        let (mut plain, mut streaming) = (interfaces(usize::MAX)?, interfaces(256)?);
        for _ in 0..WINDOWS {
            let measure = |pair: &mut Pair<'_>| window(pair, &bare, &mut cold, (&mut plain, &mut streaming));
            let Some(Window { class, line_ns, found: rows }) = pair.try_window(measure)? else { continue };
            names = rows.iter().map(|&(name, _, reference, _)| (name, reference)).collect();
            for (name, value, _, reference) in rows {
                found.entry((class, name)).or_default().push((value, reference, line_ns));
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
    Ok(())
}
