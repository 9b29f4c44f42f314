//! What the same processors do with bare memory: the yardsticks.

use crate::support::{Pair, median, spin_until};
use crate::{CHUNK, FRAMES, TRIPS_IN_ALL, chunk_rate, median_trip};
use shm::{Access, LoadOrder, Mapping, Memory, SharedFile, StoreOrder, Window};
use std::hint::black_box;
use std::time::Instant;

/// Bytes of each side of a bare exchange.
const AREA: u64 = 65536;
/// Places of the bare ring: as many as the interface's lanes have.
const PLACES: u64 = 256;

/// Lines that are written and read in full, in a row of places; the last word of the last line says which turn it is.
struct Bare {
    mine: Mapping,
    theirs: Mapping,
    lines: usize,
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

/// Nanoseconds for so many lines there and as many back, through one place or the places of a ring in turn.
pub(crate) fn round_trip(pair: &mut Pair<'_>, lines: usize, places: u64) -> f64 {
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
            for n in 1..=TRIPS_IN_ALL {
                there.receive(n, &mut frame);
                black_box(&frame);
                there.send(n, &frame);
            }
        },
    )
}

/// Nanoseconds for one line there and back by one thread, which finds all lines in its first cache: what the
/// instructions take.
pub(crate) fn alone() -> f64 {
    let (here, there) = Bare::pair(1, 1);
    let mut frame = [1; 128];
    median_trip(|n| {
        here.send(n, &frame);
        there.receive(n, &mut frame);
        black_box(&frame);
        there.send(n, &frame);
        here.receive(n, &mut frame);
        black_box(&frame);
    })
}

/// Millions of lines per second through a ring that says every quarter how far it is.
pub(crate) fn rate(pair: &mut Pair<'_>) -> f64 {
    let (here, there) = Bare::pair(1, PLACES);
    // The last line of the sender's own area is the credit.
    let credit = AREA as usize - 64;
    pair.run(
        || {
            let frame = [1; 128];
            let mut free = PLACES;
            chunk_rate(|n| {
                while n > free {
                    std::hint::spin_loop();
                    free = here.mine.load_u64(credit, LoadOrder::Acquire).unwrap() + PLACES;
                }
                here.send(n, black_box(&frame));
            })
        },
        move || {
            let mut frame = [0; 128];
            for n in 1..=FRAMES {
                there.receive(n, &mut frame);
                black_box(&frame);
                if n % (PLACES / 4) == 0 || n == FRAMES {
                    there.theirs.store_u64(credit, n, StoreOrder::Release).unwrap();
                }
            }
        },
    )
}

/// GB/s of the C library's memcpy, 1500 bytes at a time, through memory that no cache holds: what one copy costs when
/// the bytes are somewhere else.
pub(crate) fn memcpy(from: &[u8], to: &mut [u8]) -> f64 {
    let mut rates = Vec::new();
    for (from, to) in from.chunks_exact(1500 * CHUNK as usize).zip(to.chunks_exact_mut(1500 * CHUNK as usize))
    {
        let start = Instant::now();
        for (from, to) in from.chunks_exact(1500).zip(to.chunks_exact_mut(1500)) {
            black_box(to).copy_from_slice(black_box(from));
        }
        rates.push(CHUNK as f64 * 1500.0 / start.elapsed().as_nanos() as f64);
    }
    median(&mut rates)
}
