//! How far away the peer is: the round trip of one word, measured when a channel comes up.
//!
//! A number goes to and fro between one word of each region, outside the rings, so that whatever a peer writes there
//! is a wrong measurement at worst.

use crate::carry::Placement;
use crate::fault::Fault;
use crate::layout::PROBE;
use crate::region::Ends;
use shm::{LoadOrder, Memory, StoreOrder, Window};
use std::time::{Duration, Instant};

/// Round trips of one batch, and batches: the shortest batch counts, since whatever disturbs makes them longer.
const TRIPS: u64 = 20;
const BATCHES: u64 = 20;
/// Polls between two looks at the clock.
const POLLS: u32 = 256;

impl Placement {
    /// What a round trip says: cores of one cache take up to 200 ns, dies and sockets 300 and more.
    #[must_use]
    pub fn of_round_trip(round_trip: Duration) -> Self {
        if round_trip < Duration::from_nanos(250) { Self::Near } else { Self::Far }
    }
}

/// Measures with a peer that does the same at the same time; one of them leads. None if it does not answer in time.
pub(crate) fn round_trip<O: Window, I: Memory>(
    ends: &Ends<O, I>,
    leads: bool,
    limit: Duration,
) -> Result<Option<Duration>, Fault> {
    let start = Instant::now();
    let (mine, theirs) = (ends.mine.wrapping_add(PROBE), ends.theirs.wrapping_add(PROBE));
    // Relaxed: the word stands for nothing but itself.
    let tell = |trip| ends.out.store_u64(theirs, trip, StoreOrder::Relaxed);
    let mut best = Duration::MAX;
    let mut trip: u64 = 0;
    for _ in 0..BATCHES {
        let mut batch = Instant::now();
        for nth in 0..TRIPS {
            trip = trip.wrapping_add(1);
            if leads {
                tell(trip)?;
            }
            let mut polls = 0_u32;
            while ends.own.load_u64(mine, LoadOrder::Relaxed)? < trip {
                polls = polls.wrapping_add(1);
                if polls.is_multiple_of(POLLS) {
                    if start.elapsed() >= limit {
                        return Ok(None);
                    }
                    std::thread::yield_now();
                }
                std::hint::spin_loop();
            }
            if !leads {
                tell(trip)?;
                if nth == 0 {
                    // What came before was waiting for the leader.
                    batch = Instant::now();
                }
            }
        }
        best = best.min(batch.elapsed());
    }
    let trips = u32::try_from(if leads { TRIPS } else { TRIPS.wrapping_sub(1) }).unwrap_or(1);
    Ok(best.checked_div(trips))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::layout::RING;
    use shm::Heap;
    use std::sync::Arc;

    fn ends() -> (Ends<Heap, Heap>, Ends<Heap, Heap>) {
        let (a, b) = (Arc::new(Heap::new(RING)), Arc::new(Heap::new(RING)));
        let here = Ends { out: Arc::clone(&b), theirs: 0, own: Arc::clone(&a), mine: 0 };
        (here, Ends { out: a, theirs: 0, own: b, mine: 0 })
    }

    #[test]
    fn both_sides_measure_one_round_trip() {
        let (here, there) = ends();
        let long = Duration::from_secs(60);
        let peer = std::thread::spawn(move || round_trip(&there, false, long).unwrap());
        assert!(round_trip(&here, true, long).unwrap().is_some_and(|time| !time.is_zero()));
        assert!(peer.join().unwrap().is_some());
    }

    #[test]
    fn a_peer_that_does_not_answer_costs_the_limit_and_no_more() {
        for leads in [true, false] {
            assert_eq!(round_trip(&ends().0, leads, Duration::from_millis(3)), Ok(None));
        }
    }

    #[test]
    fn a_round_trip_says_where_the_peer_is() {
        assert_eq!(Placement::of_round_trip(Duration::from_nanos(120)), Placement::Near);
        assert_eq!(Placement::of_round_trip(Duration::from_nanos(500)), Placement::Far);
    }
}
