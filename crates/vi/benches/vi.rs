//! What a lane costs beside the bare exchange of cache lines: `cargo bench -p vi`.
#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a bench reports to whoever runs it"
)]

#[path = "../../shm/benches/support/mod.rs"]
mod support;

use shm::{Access, LoadOrder, Mapping, Memory, SharedFile, StoreOrder, Window};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;
use support::{Class, Pair, median, spin_until};
use vi::lane::{Geometry, MappedReceiver, MappedSender, Meta, SharedLane};

/// Round trips that are timed together, and how often: the median counts, since others use these processors too.
const TRIPS: u64 = 200;
const RUNS: u64 = 20;
/// Bytes of each side of a bare exchange.
const AREA: u64 = 8192;

/// One line each way, and no more: what two processors need to exchange one, or two, cache lines that are written and
/// read in full.
struct Bare {
    mine: Mapping,
    theirs: Mapping,
    lines: usize,
    /// How many places are used in turn; one is a mailbox, more are a ring.
    places: u64,
}

impl Bare {
    fn pair(lines: usize, places: u64) -> (Self, Self) {
        let file = SharedFile::create("bare", 2 * AREA).unwrap();
        let map = |at| Mapping::new(&file, at, AREA, Access::ReadWrite).unwrap();
        (
            Self { mine: map(0), theirs: map(AREA), lines, places },
            Self { mine: map(AREA), theirs: map(0), lines, places },
        )
    }

    fn place(&self, n: u64) -> (usize, usize) {
        let bytes = self.lines * 64;
        ((n & (self.places - 1)) as usize * bytes, bytes - 8)
    }

    fn send(&self, n: u64, frame: &[u8; 128]) {
        // The last word of the last line goes last.
        let (at, body) = self.place(n);
        Window::write(&self.theirs, at, &frame[..body]).unwrap();
        self.theirs.store_u64(at + body, n, StoreOrder::Release).unwrap();
    }

    fn receive(&self, n: u64, frame: &mut [u8; 128]) {
        let (at, body) = self.place(n);
        spin_until(|| self.mine.load_u64(at + body, LoadOrder::Acquire).unwrap() == n);
        Memory::read(&self.mine, at, &mut frame[..body]).unwrap();
    }
}

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

fn bare_round_trip(pair: &mut Pair<'_>, lines: usize, places: u64) -> f64 {
    let (here, there) = Bare::pair(lines, places);
    pair.run(
        || {
            let mut frame = [1; 128];
            median_trip(|n| {
                here.send(n, &frame);
                here.receive(n, &mut frame);
                black_box(&frame);
            })
        },
        move || {
            let mut frame = [0; 128];
            for n in 1..=TRIPS * RUNS {
                there.receive(n, &mut frame);
                black_box(&frame);
                there.send(n, &frame);
            }
        },
    )
}

fn lane(wakes: bool) -> (MappedSender, MappedReceiver) {
    let lane = SharedLane::create(Geometry { slots: 64, buffers: 64, wakes, ..Geometry::default() }).unwrap();
    let (sender, receiver) = (lane.sender().unwrap(), lane.receiver().unwrap());
    (0..64).for_each(|index| receiver.post(index).unwrap());
    receiver.push().unwrap();
    (sender, receiver)
}

fn receive(receiver: &MappedReceiver, frame: &mut [u8]) -> usize {
    loop {
        if let Some(arrival) = receiver.take().unwrap() {
            let len = arrival.body.len();
            receiver.read(&arrival.body, 0, &mut frame[..len]).unwrap();
            receiver.let_go(&arrival.body).unwrap();
            return len;
        }
        std::hint::spin_loop();
    }
}

fn lane_round_trip(pair: &mut Pair<'_>, bytes: usize, wakes: bool) -> f64 {
    let ((mut out, far_in), (mut far_out, back)) = (lane(wakes), lane(wakes));
    pair.run(
        || {
            let mut frame = [1; 2048];
            median_trip(|_| {
                out.send(&frame[..bytes], Meta::default()).unwrap();
                receive(&back, &mut frame);
                black_box(&frame);
            })
        },
        move || {
            let mut frame = [0; 2048];
            for _ in 0..TRIPS * RUNS {
                let len = receive(&far_in, &mut frame);
                black_box(&frame);
                far_out.send(&frame[..len], Meta::default()).unwrap();
            }
        },
    )
}

fn main() {
    let mut found: BTreeMap<(Class, String), Vec<f64>> = BTreeMap::new();
    std::thread::scope(|scope| {
        let mut pair = Pair::start(scope);
        for _ in 0..60 {
            let measured = pair.window(|pair| {
                let one = bare_round_trip(pair, 1, 1);
                let two = bare_round_trip(pair, 2, 1);
                let ring = bare_round_trip(pair, 1, 64);
                let ring2 = bare_round_trip(pair, 2, 64);
                [
                    ("one line", one, one),
                    ("two lines", two, two),
                    ("one line of a ring", ring, one),
                    ("two lines of a ring", ring2, two),
                ]
                .into_iter()
                .chain([60, 64].into_iter().flat_map(|bytes| {
                    let bar = if bytes == 60 { one } else { two };
                    [
                        (
                            if bytes == 60 { "lane 60" } else { "lane 64" },
                            lane_round_trip(pair, bytes, false),
                            bar,
                        ),
                        (
                            if bytes == 60 { "lane 60 wakes" } else { "lane 64 wakes" },
                            lane_round_trip(pair, bytes, true),
                            bar,
                        ),
                    ]
                }))
                .collect::<Vec<_>>()
            });
            if let Some((class, floor, rows)) = measured {
                found.entry((class, " floor".to_owned())).or_default().push(floor);
                for (name, value, bar) in rows {
                    found.entry((class, name.to_owned())).or_default().push(value);
                    found.entry((class, format!("{name} ratio"))).or_default().push(value / bar);
                }
            }
        }
    });
    for ((class, name), values) in &mut found {
        println!("{:<6}{name:<24}{:>9.2}{:>6}", class.name(), median(values), values.len());
    }
}
