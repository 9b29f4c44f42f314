//! A line that one thread replaces now and then, and others read without waiting for it.
//!
//! A sequence lock: odd while the words are being replaced. A reader that finds the number changed reads again.

use super::line::{Line, SyncFlags};
use crate::bits::low32;

#[cfg(loom)]
use loom::sync::atomic::{AtomicI64, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering, fence};

/// Words of a line.
const WORDS: usize = 6;

#[derive(Debug)]
pub(crate) struct Published {
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
    /// Not part of a line: it changes with a leap second.
    tai_offset_s: AtomicI64,
}

impl Published {
    pub(crate) fn new() -> Self {
        Self {
            sequence: AtomicU64::new(0),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            tai_offset_s: AtomicI64::new(0),
        }
    }

    /// Replaces the line. One thread does: its owner cannot be shared.
    pub(crate) fn publish(&self, line: &Line) {
        let words = [
            line.ticks,
            line.ns,
            line.rate,
            line.error_ns,
            u64::from(line.drift_ppb) | u64::from(line.flags.bits()) << 32,
            line.fresh_ticks,
        ];
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        // Who sees one of the words below sees the odd number too.
        fence(Ordering::Release);
        for (to, word) in self.words.iter().zip(words) {
            to.store(word, Ordering::Relaxed);
        }
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    #[inline(always)]
    pub(crate) fn line(&self) -> Line {
        loop {
            let sequence = self.sequence.load(Ordering::Acquire);
            if sequence & 1 == 0 {
                let [ticks, ns, rate, error_ns, drift, fresh_ticks] = std::array::from_fn(|at| {
                    self.words.get(at).map_or(0, |word| word.load(Ordering::Relaxed))
                });
                // The words above are read before the number below.
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == sequence {
                    let (drift_ppb, flags) = (low32(drift), SyncFlags::from_bits(low32(drift >> 32)));
                    return Line { ticks, ns, rate, error_ns, drift_ppb, fresh_ticks, flags };
                }
            }
            #[cfg(not(loom))]
            std::hint::spin_loop();
            #[cfg(loom)]
            loom::thread::yield_now();
        }
    }

    pub(crate) fn set_tai_offset(&self, seconds: i32) {
        self.tai_offset_s.store(i64::from(seconds), Ordering::Relaxed);
    }

    pub(crate) fn tai_offset(&self) -> i64 {
        self.tai_offset_s.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    fn line(n: u64) -> Line {
        Line { ticks: n, ns: n, rate: n, error_ns: n, fresh_ticks: n, ..Line::default() }
    }

    #[test]
    fn nobody_sees_half_a_line() {
        loom::model(|| {
            let published = Arc::new(Published::new());
            published.publish(&line(1));
            let writer = Arc::clone(&published);
            let thread = loom::thread::spawn(move || writer.publish(&line(2)));
            let seen = published.line();
            assert!(seen == line(1) || seen == line(2), "{seen:?}");
            thread.join().unwrap();
            assert_eq!(published.line(), line(2));
        });
    }
}
