//! Random traffic against a queue of frames that knows nothing of cells.

use crate::carry::{Carrier, Placement};
use crate::flow::{Inflow, Outflow, Wake};
use crate::layout::{Geometry, Profile, RING};
use crate::region::Ends;
use proptest::prelude::*;
use shm::Heap;
use std::collections::VecDeque;
use std::sync::Arc;

/// What the two ends do.
#[derive(Debug, Clone)]
enum Step {
    /// Send a frame of so many bytes if it fits.
    Send(usize),
    /// Put one without publishing it.
    Stage(usize),
    /// Take a frame if there is one.
    Receive,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_usize..90).prop_map(Step::Send),
        1 => (0_usize..40).prop_map(Step::Stage),
        4 => Just(Step::Receive),
    ];
    prop::collection::vec(step, 1..200)
}

fn geometry() -> impl Strategy<Value = Geometry> {
    prop_oneof![
        (2_u32..9, 3_u32..20).prop_map(|(cells, bytes)| Geometry::tiny(Profile::Paper, cells, bytes)),
        (0_u32..4, 2_u32..5).prop_map(|(bits, words)| Geometry::tiny(Profile::Fast, 1 << bits, words * 8)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_ring_is_a_queue_of_frames(
        geometry in geometry(),
        steps in steps(),
        placement in prop_oneof![Just(Placement::Near), Just(Placement::Bridge)],
    ) {
        let (a, b) = (Arc::new(Heap::new(RING)), Arc::new(Heap::new(geometry.region_bytes())));
        let at_a = Ends { out: Arc::clone(&b), theirs: 0, own: Arc::clone(&a), mine: 0 };
        let at_b = Ends { out: a, theirs: 0, own: b, mine: 0 };
        let mut out = Outflow::new(at_a, geometry, Carrier::new(placement), Wake::default());
        let mut inflow = Inflow::new(at_b, geometry, geometry.longest_frame(), Wake::default());
        let mut queue = VecDeque::new();
        let mut staged = 0;
        let mut full = 0;
        let mut untold = 0;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send(len) | Step::Stage(len) => {
                    let need = geometry.cells_for(len);
                    let free = out.free(need).unwrap();
                    let capacity = u64::from(geometry.capacity());
                    prop_assert!(free <= capacity - full);
                    // An answer that is enough may be old; one that is not was counted anew.
                    prop_assert!(free >= need || free + untold >= capacity - full);
                    if free >= need {
                        let frame: Vec<u8> = (0..len).map(|at| (number * 7 + at).to_le_bytes()[0]).collect();
                        out.put(&frame).unwrap();
                        full += need;
                        queue.push_back(frame);
                        staged += 1;
                    }
                    if let Step::Send(_) = step {
                        out.publish().unwrap();
                        staged = 0;
                    }
                }
                Step::Receive => {
                    // `paper` shows nothing before it is published; `fast` may.
                    let visible = match geometry.profile() {
                        Profile::Paper => queue.len() - staged,
                        Profile::Fast => queue.len(),
                    };
                    if inflow.fetch().unwrap() {
                        prop_assert!(visible > 0);
                        let frame: Vec<u8> = queue.pop_front().unwrap();
                        prop_assert_eq!(inflow.frame(), &frame[..]);
                        full -= geometry.cells_for(frame.len());
                        staged = staged.min(queue.len());
                        untold += geometry.cells_for(frame.len());
                    } else {
                        prop_assert_eq!(visible, 0);
                        untold = 0;
                    }
                }
            }
        }
        prop_assert_eq!(out.sent(), inflow.taken() + full);
    }
}
