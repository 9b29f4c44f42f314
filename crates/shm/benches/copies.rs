//! What each copy routine costs by size: `cargo bench -p shm`.
//!
//! *here*: one processor copies private memory into a mapping, again and again. *across*: a second processor copies
//! every buffer out before the first one may fill it again, four buffers deep, as a ring does: what counts between hosts.
//! GB/s, the median of the windows of a class; memcpy is the C library's, private to private.
#![expect(clippy::print_stdout, clippy::cast_precision_loss, reason = "a bench reports to whoever runs it")]

use shm::{Access, LoadOrder, Mapping, Memory, Routine, SharedFile, StoreOrder, Window};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use yardstick::{Class, Pair, median, spin_until};

const SIZES: [usize; 8] = [64, 128, 256, 1024, 4096, 16384, 65536, 1 << 20];
/// Bytes that one measurement moves.
const VOLUME: usize = 4 << 20;
const WINDOWS: usize = 9;
const SLOTS: usize = 4;
/// Where buffers begin in the mapping; the words before are the two counters, each on its own lines.
const BUFFERS: usize = 4096;
const FULL: usize = 0;
const FREE: usize = 256;

fn mapping() -> Mapping {
    let bytes = (BUFFERS + SLOTS * (1 << 20)) as u64;
    let file = SharedFile::create("copies", bytes).expect("memory");
    Mapping::new(&file, 0, bytes, Access::ReadWrite).expect("memory")
}

fn gb_per_s(bytes: usize, start: Instant) -> f64 {
    bytes as f64 / start.elapsed().as_nanos() as f64
}

fn here(window: &Mapping, routine: Routine, data: &[u8]) -> f64 {
    let rounds = VOLUME / data.len();
    let start = Instant::now();
    for round in 0..rounds {
        let at = BUFFERS + round % SLOTS * data.len();
        window.write_by(routine, at, black_box(data)).expect("inside");
    }
    window.flush().expect("open");
    gb_per_s(rounds * data.len(), start)
}

fn across(pair: &mut Pair<'_>, window: &Arc<Mapping>, routine: Routine, data: &[u8]) -> f64 {
    let rounds = (VOLUME / data.len()).min(8192);
    let bytes = data.len();
    window.store_u64(FULL, 0, StoreOrder::Release).expect("inside");
    window.store_u64(FREE, 0, StoreOrder::Release).expect("inside");
    let reader = Arc::clone(window);
    pair.run(
        || {
            let load = |at| window.load_u64(at, LoadOrder::Acquire).expect("inside");
            let start = Instant::now();
            for round in 0..rounds {
                spin_until(|| load(FREE) + SLOTS as u64 > round as u64);
                window.write_by(routine, BUFFERS + round % SLOTS * bytes, data).expect("inside");
                if routine == Routine::Stream {
                    window.flush().expect("open");
                }
                window.store_u64(FULL, round as u64 + 1, StoreOrder::Release).expect("inside");
            }
            spin_until(|| load(FREE) == rounds as u64);
            gb_per_s(rounds * bytes, start)
        },
        move || {
            let mut out = vec![0; bytes];
            for round in 0..rounds {
                spin_until(|| reader.load_u64(FULL, LoadOrder::Acquire).expect("inside") > round as u64);
                let from = BUFFERS + round % SLOTS * bytes;
                reader.read_by(routine, from, black_box(&mut out)).expect("inside");
                reader.store_u64(FREE, round as u64 + 1, StoreOrder::Release).expect("inside");
            }
        },
    )
}

fn memcpy(data: &[u8], to: &mut [u8]) -> f64 {
    let rounds = VOLUME / data.len();
    let start = Instant::now();
    for round in 0..rounds {
        let at = round % SLOTS * data.len();
        black_box(&mut *to)[at..at + data.len()].copy_from_slice(black_box(data));
    }
    gb_per_s(rounds * data.len(), start)
}

fn main() {
    let mut found: BTreeMap<(Class, usize, String), Vec<f64>> = BTreeMap::new();
    std::thread::scope(|scope| {
        let mut pair = Pair::start(scope).expect("two processors");
        let window = Arc::new(mapping());
        let mut to = vec![1; SLOTS << 20];
        for bytes in SIZES {
            let data = vec![0x5A_u8; bytes];
            for _ in 0..WINDOWS {
                for routine in Routine::ALL {
                    let measured = pair.window(|pair| {
                        (
                            memcpy(&data, &mut to),
                            here(&window, routine, &data),
                            across(pair, &window, routine, &data),
                        )
                    });
                    if let Some(yardstick::Window { class, found: (reference, one, two), .. }) = measured {
                        let mut note =
                            |name: String, value| found.entry((class, bytes, name)).or_default().push(value);
                        note("memcpy".to_owned(), reference);
                        note(format!("{routine:?} here"), one);
                        note(format!("{routine:?} across"), two);
                    }
                }
            }
        }
    });
    println!("{:<6}{:>9}  {:<16}{:>8}{:>9}", "class", "bytes", "what", "GB/s", "windows");
    for ((class, bytes, name), values) in &mut found {
        println!("{:<6}{bytes:>9}  {name:<16}{:>8.2}{:>9}", class.name(), median(values), values.len());
    }
}
