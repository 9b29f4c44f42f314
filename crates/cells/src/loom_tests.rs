//! Every interleaving of two threads over the heap window, with the source that users run.
//!
//! `cargo xtask loom` runs this. What loom sees: enqueue, dequeue, wrap, full, empty, fragments, sleep and wake, and an
//! announcement that is replaced under its reader. What it does not see: memory that is mapped twice, streamed copies
//! and the store fence behind them, a bridge between the two memories, a peer that runs other code.

use crate::bell::{Alarm, Bell, BellFailed};
use crate::carry::{Carrier, Placement};
use crate::directory::{read_slot, write_slot};
use crate::flow::{Inflow, Outflow, Wake};
use crate::layout::{Geometry, Profile};
use crate::order::{Site, WEAKEN};
use crate::region::Ends;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use shm::Heap;
use std::sync::Arc;
use std::time::Duration;

type Out = Outflow<Heap, Heap>;
type In = Inflow<Heap, Heap>;

/// A doorbell in the model.
struct ModelBell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl ModelBell {
    fn new() -> Arc<Self> {
        Arc::new(Self { rung: Mutex::new(false), changed: Condvar::new() })
    }
}

impl Bell for ModelBell {
    fn ring(&self) -> Result<(), BellFailed> {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
        Ok(())
    }
}

impl Alarm for ModelBell {
    fn sleep(&self, _limit: Option<Duration>) -> Result<bool, BellFailed> {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
        Ok(true)
    }

    fn rouse(&self) -> Result<(), BellFailed> {
        self.ring()
    }
}

/// One direction, whose ends use these bells.
fn direction(geometry: Geometry, send: Wake, receive: Wake) -> (Out, In) {
    let (a, b) = (Arc::new(Heap::new(64)), Arc::new(Heap::new(geometry.region_bytes())));
    let at_a = Ends { out: Arc::clone(&b), theirs: 0, own: Arc::clone(&a), mine: 0 };
    let at_b = Ends { out: a, theirs: 0, own: b, mine: 0 };
    let out = Outflow::new(at_a, geometry, Carrier::new(Placement::Near), send);
    (out, Inflow::new(at_b, geometry, geometry.longest_frame(), receive))
}

/// A ring of so many tiny cells: 6 or 8 bytes of data in each.
fn ring(profile: Profile, cells: u32) -> Geometry {
    let cell_bytes = match profile {
        Profile::Paper => 8,
        Profile::Fast => 16,
    };
    Geometry::tiny(profile, cells, cell_bytes)
}

fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

/// The frame with this number: some bytes that tell it from others.
fn frame(number: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| number.wrapping_mul(17).wrapping_add(at.to_le_bytes()[0])).collect()
}

/// Sends frames as soon as there is room.
fn send_all(out: &mut Out, lengths: &[usize]) {
    for (number, &len) in (1_u8..).zip(lengths) {
        let frame = frame(number, len);
        let need = out.geometry().cells_for(len);
        while out.free(need).unwrap() < need {
            if out.may_sleep() {
                if !out.arm(need).unwrap() {
                    out.sleep(None).unwrap();
                }
            } else {
                thread::yield_now();
            }
        }
        out.put(&frame).unwrap();
        out.publish().unwrap();
    }
}

fn receive_all(inflow: &mut In, lengths: &[usize]) {
    for (number, &len) in (1_u8..).zip(lengths) {
        while !inflow.fetch().unwrap() {
            if inflow.may_sleep() {
                if !inflow.arm().unwrap() {
                    inflow.sleep(None).unwrap();
                }
            } else {
                thread::yield_now();
            }
        }
        assert_eq!(inflow.frame(), frame(number, len));
    }
}

fn frames_pass(geometry: Geometry, lengths: &'static [usize]) {
    model(move || {
        let (mut out, mut inflow) = direction(geometry, Wake::default(), Wake::default());
        let sender = thread::spawn(move || send_all(&mut out, lengths));
        receive_all(&mut inflow, lengths);
        sender.join().unwrap();
    });
}

#[test]
fn models_fast_frames_wrap_round_a_ring_that_is_full_and_empty() {
    frames_pass(ring(Profile::Fast, 2), &[3, 8, 1]);
}

#[test]
fn models_fast_fragments() {
    frames_pass(ring(Profile::Fast, 2), &[12, 9]);
}

#[test]
fn models_paper_frames_wrap_round_a_ring_that_is_full_and_empty() {
    frames_pass(ring(Profile::Paper, 2), &[3, 6, 1]);
}

#[test]
fn models_paper_fragments() {
    frames_pass(ring(Profile::Paper, 3), &[12, 7]);
}

/// The receiver sleeps whenever it finds nothing; the sender always has room.
fn receiver_sleeps(geometry: Geometry) {
    model(move || {
        let bell = ModelBell::new();
        let send = Wake { bell: Some(Arc::<ModelBell>::clone(&bell)), alarm: None };
        let (mut out, mut inflow) = direction(geometry, send, Wake { bell: None, alarm: Some(bell) });
        let sender = thread::spawn(move || send_all(&mut out, &[3, 4]));
        receive_all(&mut inflow, &[3, 4]);
        sender.join().unwrap();
    });
}

#[test]
fn models_fast_receiver_sleeps_and_wakes() {
    receiver_sleeps(ring(Profile::Fast, 2));
}

#[test]
fn models_paper_receiver_sleeps_and_wakes() {
    receiver_sleeps(ring(Profile::Paper, 3));
}

/// The sender sleeps whenever the ring is full; the receiver polls.
fn sender_sleeps(geometry: Geometry) {
    model(move || {
        let bell = ModelBell::new();
        let receive = Wake { bell: Some(Arc::<ModelBell>::clone(&bell)), alarm: None };
        let (mut out, mut inflow) = direction(geometry, Wake { bell: None, alarm: Some(bell) }, receive);
        let sender = thread::spawn(move || send_all(&mut out, &[3, 4]));
        receive_all(&mut inflow, &[3, 4]);
        sender.join().unwrap();
    });
}

#[test]
fn models_fast_sender_sleeps_and_wakes() {
    sender_sleeps(ring(Profile::Fast, 1));
}

#[test]
fn models_paper_sender_sleeps_and_wakes() {
    sender_sleeps(ring(Profile::Paper, 2));
}

#[test]
fn models_an_announcement_is_read_whole_or_not_at_all() {
    model(|| {
        let memory = Arc::new(Heap::new(24));
        let theirs = Arc::clone(&memory);
        let peer = thread::spawn(move || {
            write_slot(&*theirs, 0, 1, &[11, 12]).unwrap();
            write_slot(&*theirs, 0, 2, &[21, 22]).unwrap();
        });
        if let Some((state, fields)) = read_slot::<2>(&*memory, 0).unwrap() {
            assert_eq!(fields, if state == 1 { [11, 12] } else { [21, 22] });
        }
        peer.join().unwrap();
    });
}

/// Weakens one ordering after the other, each in a process of its own, and wants a model to fail.
#[test]
fn each_ordering_weakened_alone_makes_a_model_fail() {
    if std::env::var_os(WEAKEN).is_some() {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let run = |weaken: &str| {
        let mut command = std::process::Command::new(&program);
        command.args(["loom_tests::models_", "--test-threads=2"]).env(WEAKEN, weaken);
        command.output().unwrap().status.success()
    };
    assert!(run("None"), "with nothing weakened every model passes");
    let unseen: Vec<_> = Site::ALL.iter().filter(|site| run(&format!("{site:?}"))).collect();
    assert!(unseen.is_empty(), "no model fails without {unseen:?}");
}
