//! What the same processors do with bare memory: the yardsticks.

use crate::Pair;
use crate::timing::{CHUNK, Chunks, TRIPS_IN_ALL, frames_of, median};
use shm::{Access, Lines, LoadOrder, Mapping, Memory, Routine, SharedFile, StoreOrder, Window, WindowError};
use std::hint::black_box;
use std::io;
use std::time::Instant;

/// Cache lines of the longest bare exchange: a frame of 1532 bytes and a word.
pub const MOST_LINES: usize = 24;
/// Bytes of the longest exchange.
const MOST: usize = MOST_LINES * 64;
/// Places of a bare ring: as many as an interface's lanes have by default.
const PLACES: u64 = 256;
/// Bytes of all of them.
const PLACES_BYTES: usize = 256 * MOST;
/// Bytes of each side: all places, and one line for the credit behind them.
const AREA: u64 = PLACES_BYTES as u64 + 4096;
/// The credit: how many of the other side's frames were taken, in the sender's own memory.
const CREDIT: usize = PLACES_BYTES;

/// Why bare memory could not be had or used.
#[derive(Debug, thiserror::Error)]
pub enum BareError {
    /// The kernel gives none.
    #[error("memory to measure with")]
    Memory(#[from] io::Error),
    /// It cannot be mapped.
    #[error(transparent)]
    Map(#[from] shm::MapError),
    /// An access failed.
    #[error("bare memory")]
    Access(#[from] WindowError),
}

/// The lines that a frame takes when it is written with a tag of four bytes behind it: what the bare exchange of the
/// same size moves.
#[must_use]
pub fn lines_of(frame_bytes: usize) -> usize {
    (frame_bytes + 4).div_ceil(64).min(MOST_LINES)
}

/// Memory of this machine that both processors have mapped, and nothing else.
#[derive(Debug)]
pub struct Bare(SharedFile);

/// One side of an exchange. Lines are written and read in full, in a row of places; the last word of the last line says which
/// turn it is.
trait Side: Send {
    /// Writes the `n`th frame into its place at the other side.
    fn send(&self, n: u64, frame: &[u8; MOST]) -> Result<(), WindowError>;
    /// Waits for the `n`th frame, and reads it.
    fn receive(&self, n: u64, frame: &mut [u8; MOST]) -> Result<(), WindowError>;
    /// This side's memory, and the other one's.
    fn memory(&self) -> (&Mapping, &Mapping);
}

/// Frames of one line, stored and loaded as the lanes do it: nothing is asked that is known.
struct Straight {
    mine: Lines<Mapping>,
    theirs: Lines<Mapping>,
}

impl Side for Straight {
    #[inline(always)]
    fn send(&self, n: u64, frame: &[u8; MOST]) -> Result<(), WindowError> {
        let body = frame.first_chunk().unwrap_or(&[0; 56]);
        self.theirs.store_bytes(n, body, n, StoreOrder::Release)
    }

    #[inline(always)]
    fn receive(&self, n: u64, frame: &mut [u8; MOST]) -> Result<(), WindowError> {
        while self.mine.last(n, LoadOrder::Acquire)? != n {
            std::hint::spin_loop();
        }
        match frame.first_chunk_mut() {
            Some(body) => self.mine.read(n, body),
            None => Ok(()),
        }
    }

    fn memory(&self) -> (&Mapping, &Mapping) {
        (self.mine.window(), self.theirs.window())
    }
}

/// Frames of any number of lines, copied by a routine.
struct Copied {
    mine: Mapping,
    theirs: Mapping,
    /// Bytes of one place, and where its word is.
    bytes: usize,
    places: u64,
    routine: Routine,
}

impl Copied {
    fn place(&self, n: u64) -> (usize, usize) {
        let place = usize::try_from(n & (self.places - 1)).unwrap_or(0);
        (place * self.bytes, self.bytes - 8)
    }
}

impl Side for Copied {
    #[inline]
    fn send(&self, n: u64, frame: &[u8; MOST]) -> Result<(), WindowError> {
        let (at, body) = self.place(n);
        self.theirs.write_by(self.routine, at, &frame[..body])?;
        self.theirs.store_u64(at + body, n, StoreOrder::Release)
    }

    #[inline]
    fn receive(&self, n: u64, frame: &mut [u8; MOST]) -> Result<(), WindowError> {
        let (at, body) = self.place(n);
        while self.mine.load_u64(at + body, LoadOrder::Acquire)? != n {
            std::hint::spin_loop();
        }
        self.mine.read_by(self.routine, at, &mut frame[..body])
    }

    fn memory(&self) -> (&Mapping, &Mapping) {
        (&self.mine, &self.theirs)
    }
}

impl Bare {
    /// Fresh memory.
    ///
    /// # Errors
    /// [`BareError::Memory`].
    pub fn new() -> Result<Self, BareError> {
        Ok(Self(SharedFile::create("yardstick", 2 * AREA)?))
    }

    /// The memory of both sides, each with the other's, of which so many bytes are used. What an earlier measurement left there
    /// would be taken for a frame.
    fn areas(&self, bytes: usize) -> Result<[(Mapping, Mapping); 2], BareError> {
        let map = |at| Mapping::new(&self.0, at, AREA, Access::ReadWrite);
        let areas = [(map(0)?, map(AREA)?), (map(AREA)?, map(0)?)];
        for (mine, _) in &areas {
            for at in (0..bytes).step_by(8) {
                mine.store_u64(at, 0, StoreOrder::Release)?;
            }
            mine.store_u64(CREDIT, 0, StoreOrder::Release)?;
        }
        Ok(areas)
    }

    fn straight(&self) -> Result<[Straight; 2], BareError> {
        let lines = usize::try_from(PLACES).unwrap_or(1);
        let [here, there] = self.areas(lines * 64)?.map(|(mine, theirs)| -> Result<_, WindowError> {
            Ok(Straight { mine: Lines::new(mine, lines)?, theirs: Lines::new(theirs, lines)? })
        });
        Ok([here?, there?])
    }

    fn copied(&self, lines: usize, places: u64, routine: Routine) -> Result<[Copied; 2], BareError> {
        let bytes = lines.clamp(1, MOST_LINES) * 64;
        let all = usize::try_from(places).unwrap_or(1) * bytes;
        Ok(self.areas(all)?.map(|(mine, theirs)| Copied { mine, theirs, bytes, places, routine }))
    }

    /// Nanoseconds for so many lines there and as many back, through one place, all written and all read.
    ///
    /// # Errors
    /// [`BareError`].
    pub fn round_trip(&self, pair: &mut Pair<'_>, lines: usize) -> Result<f64, BareError> {
        self.ring_round_trip(pair, lines, 1)
    }

    /// The same through the places of a ring in turn; `places` is a power of two up to 256.
    ///
    /// # Errors
    /// [`BareError`].
    pub fn ring_round_trip(&self, pair: &mut Pair<'_>, lines: usize, places: u64) -> Result<f64, BareError> {
        let routine = Routine::for_size(lines * 64 - 8);
        trips(pair, self.copied(lines, places.clamp(1, PLACES), routine)?)
    }

    /// Nanoseconds for one line there and back by this thread alone, which finds all lines in its first cache: what the
    /// instructions take.
    ///
    /// # Errors
    /// [`BareError`].
    pub fn alone(&self) -> Result<f64, BareError> {
        let [here, there] = self.copied(1, 1, Routine::Words)?;
        let mut frame = [1; MOST];
        let mut chunks = Chunks::of_trips();
        for chunk in chunks.by_ref() {
            for n in chunk {
                for (from, to) in [(&here, &there), (&there, &here)] {
                    from.send(n, &frame)?;
                    to.receive(n, &mut frame)?;
                    black_box(&frame);
                }
            }
        }
        Ok(chunks.median_ns())
    }

    /// Millions of single lines per second through a ring that says every quarter how far it is, by what windows offer everybody.
    ///
    /// # Errors
    /// [`BareError`].
    pub fn line_rate(&self, pair: &mut Pair<'_>) -> Result<f64, BareError> {
        stream(pair, self.copied(1, PLACES, Routine::Words)?, frames_of(64))
    }

    /// The same by what the lanes use, [`Lines`]: the fastest ring of lines that is known here, which knows of nothing but lines.
    ///
    /// # Errors
    /// [`BareError`].
    pub fn straight_rate(&self, pair: &mut Pair<'_>) -> Result<f64, BareError> {
        stream(pair, self.straight()?, frames_of(64))
    }

    /// Millions of frames of `bytes` bytes per second through the ring that one would write without further thought:
    /// copied in and copied out by the C library's memcpy.
    ///
    /// # Errors
    /// [`BareError`].
    pub fn copy_rate(&self, pair: &mut Pair<'_>, bytes: usize) -> Result<f64, BareError> {
        let lines = lines_of(bytes);
        stream(pair, self.copied(lines, PLACES, Routine::Memcpy)?, frames_of(lines * 64))
    }
}

/// Nanoseconds for a frame there and back.
fn trips<'scope>(pair: &mut Pair<'scope>, [here, there]: [impl Side + 'scope; 2]) -> Result<f64, BareError> {
    let (ours, theirs) = pair.both(
        move || -> Result<f64, WindowError> {
            let mut frame = [1; MOST];
            let mut chunks = Chunks::of_trips();
            for chunk in chunks.by_ref() {
                for n in chunk {
                    here.send(n, &frame)?;
                    here.receive(n, &mut frame)?;
                    black_box(&frame);
                }
            }
            Ok(chunks.median_ns())
        },
        move || -> Result<(), WindowError> {
            let mut frame = [0; MOST];
            for n in 1..=TRIPS_IN_ALL {
                there.receive(n, &mut frame)?;
                black_box(&frame);
                there.send(n, &frame)?;
            }
            Ok(())
        },
    );
    theirs?;
    Ok(ours?)
}

/// Millions of frames per second one way.
fn stream<'scope>(
    pair: &mut Pair<'scope>,
    [here, there]: [impl Side + 'scope; 2],
    frames: u64,
) -> Result<f64, BareError> {
    let (ours, theirs) = pair.both(
        move || -> Result<f64, WindowError> {
            let frame = [1; MOST];
            let mut free = PLACES;
            let mut chunks = Chunks::of_frames(frames);
            for chunk in chunks.by_ref() {
                for n in chunk {
                    while n > free {
                        std::hint::spin_loop();
                        free = here.memory().0.load_u64(CREDIT, LoadOrder::Acquire)? + PLACES;
                    }
                    here.send(n, black_box(&frame))?;
                }
            }
            Ok(chunks.millions_per_s())
        },
        move || -> Result<(), WindowError> {
            let mut frame = [0; MOST];
            for n in 1..=frames {
                there.receive(n, &mut frame)?;
                black_box(&frame);
                if n % (PLACES / 4) == 0 || n == frames {
                    there.memory().1.store_u64(CREDIT, n, StoreOrder::Release)?;
                }
            }
            Ok(())
        },
    );
    theirs?;
    Ok(ours?)
}

/// Private memory that no cache holds, for [`Cold::memcpy`].
#[derive(Debug)]
pub struct Cold {
    from: Vec<u8>,
    to: Vec<u8>,
    /// Where the next measurement begins, so that what it finds is cold again.
    next: usize,
}

impl Default for Cold {
    fn default() -> Self {
        Self { from: vec![1; Self::BYTES], to: vec![0; Self::BYTES], next: 0 }
    }
}

impl Cold {
    /// More than any cache that one processor has for itself.
    const BYTES: usize = 64 << 20;

    /// GB/s of the C library's memcpy, `bytes` bytes at a time, through memory that no cache holds: what one copy costs
    /// when the bytes are somewhere else.
    pub fn memcpy(&mut self, bytes: usize) -> f64 {
        let bytes = bytes.clamp(1, MOST);
        let chunk = bytes * usize::try_from(CHUNK).unwrap_or(1);
        let mut rates = Vec::new();
        for _ in 0..frames_of(MOST) / CHUNK {
            if self.next + chunk > Self::BYTES {
                self.next = 0;
            }
            let range = self.next..self.next + chunk;
            self.next = range.end;
            let (from, to) = (&self.from[range.clone()], &mut self.to[range]);
            let start = Instant::now();
            for (from, to) in from.chunks_exact(bytes).zip(to.chunks_exact_mut(bytes)) {
                black_box(to).copy_from_slice(black_box(from));
            }
            let ns = start.elapsed().as_secs_f64() * 1e9;
            rates.push(f64::from(u32::try_from(chunk).unwrap_or(u32::MAX)) / ns);
        }
        median(&mut rates)
    }
}

/// Nanoseconds of one look at the clock: what a round trip that is timed by itself includes.
#[must_use]
pub fn clock_ns() -> f64 {
    let start = Instant::now();
    for _ in 0..1000 {
        black_box(Instant::now());
    }
    start.elapsed().as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allowed_processors;

    #[test]
    fn a_frame_takes_the_lines_that_it_and_its_tag_fill() {
        let lines = [0, 48, 60, 61, 64, 124, 128, 1500, 1532, 9000].map(lines_of);
        assert_eq!(lines, [1, 1, 1, 2, 2, 2, 3, 24, 24, 24]);
    }

    #[test]
    fn bare_memory_is_measured_again_and_again() {
        if allowed_processors().is_err() {
            return;
        }
        std::thread::scope(|scope| {
            let mut pair = Pair::start(scope).unwrap();
            let bare = Bare::new().unwrap();
            for lines in [1, 2, 24, 1] {
                assert!(bare.round_trip(&mut pair, lines).unwrap() > 0.0);
            }
            assert!(bare.line_rate(&mut pair).unwrap() > 0.0);
            assert!(bare.copy_rate(&mut pair, 1500).unwrap() > 0.0);
            assert!(bare.ring_round_trip(&mut pair, 2, 128).unwrap() > 0.0 && bare.alone().unwrap() > 0.0);
            assert!(bare.line_rate(&mut pair).unwrap() > 0.0);
        });
        assert!(Cold::default().memcpy(1500) > 0.0 && clock_ns() > 0.0);
    }
}
