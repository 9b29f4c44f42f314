//! A lane in loom's model: the same source, every order in which two threads can meet.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p vi --release --lib loom`
//!
//! The last test weakens each place of [`Site`] by itself and demands that a model fails.

use super::order::Site;
use super::order::strength::weaken;
use super::{Geometry, Meta, Receiver, SendError, Sender};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use shm::Heap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc as Shared;
use std::sync::Mutex;

type Ends = (Sender<Shared<Heap>, Shared<Heap>>, Receiver<Shared<Heap>, Shared<Heap>>);

/// One model at a time: which place is weak is global.
static ONE: Mutex<()> = Mutex::new(());

fn lane(slots: u32, buffers: u32, wakes: bool) -> Ends {
    let geometry = Geometry { slots, buffers, buffer_bytes: 128, region: 0, wakes, stamps: false };
    let area = Shared::new(Heap::new(geometry.receive_bytes() as usize));
    let back = Shared::new(Heap::new(geometry.return_bytes() as usize));
    let sender = Sender::new(geometry, Shared::clone(&area), Shared::clone(&back)).unwrap();
    (sender, Receiver::new(geometry, area, back).unwrap())
}

fn send(sender: &mut Sender<Shared<Heap>, Shared<Heap>>, frame: &[u8]) {
    while let Err(error) = sender.send(frame, Meta::default()) {
        assert_eq!(error, SendError::Full);
        thread::yield_now();
    }
}

/// Takes a frame, checks that it is `len` times `n`, lets it go.
fn receive(receiver: &Receiver<Shared<Heap>, Shared<Heap>>, n: u8, len: usize) {
    loop {
        if let Some(arrival) = receiver.take().unwrap() {
            let mut seen = vec![0; len];
            receiver.read(&arrival.body, 0, &mut seen).unwrap();
            assert_eq!(seen, vec![n; len]);
            let past = receiver.read(&arrival.body, len, &mut [0]);
            assert!(past.is_err(), "the frame ends there");
            return receiver.let_go(&arrival.body).unwrap();
        }
        thread::yield_now();
    }
}

/// Two slots, three short frames: the third one waits for credit.
fn short_frames() {
    loom::model(|| {
        let (mut sender, receiver) = lane(2, 0, false);
        let thread = thread::spawn(move || {
            for n in 1..=3_u8 {
                send(&mut sender, &[n; 60]);
            }
        });
        for n in 1..=3_u8 {
            receive(&receiver, n, 60);
        }
        thread.join().unwrap();
    });
}

/// Two slots, two frames that need both.
fn frames_in_two_lines() {
    loom::model(|| {
        let (mut sender, receiver) = lane(2, 0, false);
        let thread = thread::spawn(move || {
            for n in 1..=2_u8 {
                send(&mut sender, &[n; 66]);
            }
        });
        for n in 1..=2_u8 {
            receive(&receiver, n, 66);
        }
        thread.join().unwrap();
    });
}

/// The same, where the second line has no more than its last word.
fn frames_a_little_longer() {
    loom::model(|| {
        let (mut sender, receiver) = lane(2, 0, false);
        let thread = thread::spawn(move || {
            for n in 1..=2_u8 {
                send(&mut sender, &[n; 64]);
            }
        });
        for n in 1..=2_u8 {
            receive(&receiver, n, 64);
        }
        thread.join().unwrap();
    });
}

/// Two frames whose rests share a line; a third one needs that line's slot.
fn frames_that_share_a_line() {
    loom::model(|| {
        let (mut sender, receiver) = lane(4, 0, false);
        let thread = thread::spawn(move || {
            for n in 1..=2_u8 {
                sender.stage_one(&[n; 64], Meta::default()).unwrap();
            }
            sender.push().unwrap();
            send(&mut sender, &[3; 66]);
        });
        for (n, len) in [(1, 64), (2, 64), (3, 66)] {
            receive(&receiver, n, len);
        }
        thread.join().unwrap();
    });
}

/// A frame whose rest is in a line that is not the first of those that are pushed.
fn rests_in_the_middle() {
    loom::model(|| {
        let (sender, receiver) = lane(4, 0, false);
        let thread = thread::spawn(move || {
            for (n, len) in [(1, 60), (2, 64)] {
                sender.stage_one(&vec![n; len], Meta::default()).unwrap();
            }
            sender.push().unwrap();
        });
        for (n, len) in [(1, 60), (2, 64)] {
            receive(&receiver, n, len);
        }
        thread.join().unwrap();
    });
}

/// One buffer, two frames that need one: the second waits until the first is let go.
fn frames_in_buffers() {
    loom::model(|| {
        let (mut sender, receiver) = lane(4, 1, false);
        receiver.post(0).unwrap();
        let thread = thread::spawn(move || {
            for n in 1..=2_u8 {
                send(&mut sender, &[n; 128]);
            }
        });
        for n in 1..=2_u8 {
            receive(&receiver, n, 128);
        }
        thread.join().unwrap();
    });
}

/// A receiver that arms and sleeps is woken, or has seen the frame before it slept.
fn sleep_and_wake() {
    loom::model(|| {
        let (mut sender, receiver) = lane(2, 0, true);
        let rung = Arc::new(AtomicBool::new(false));
        let ring = Arc::clone(&rung);
        let thread = thread::spawn(move || {
            if sender.send(&[7; 8], Meta::default()).unwrap() {
                ring.store(true, Ordering::SeqCst);
            }
        });
        let asleep = receiver.arm().unwrap();
        thread.join().unwrap();
        assert!(!asleep || rung.load(Ordering::SeqCst), "it sleeps and nobody wakes it");
    });
}

#[test]
fn loom_short_frames() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    short_frames();
}

#[test]
fn loom_frames_in_two_lines() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    frames_in_two_lines();
}

#[test]
fn loom_frames_a_little_longer() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    frames_a_little_longer();
}

#[test]
fn loom_frames_that_share_a_line() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    frames_that_share_a_line();
}

#[test]
fn loom_rests_in_the_middle() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    rests_in_the_middle();
}

#[test]
fn loom_frames_in_buffers() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    frames_in_buffers();
}

#[test]
fn loom_sleep_and_wake() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    sleep_and_wake();
}

#[test]
fn loom_finds_each_order_that_is_weakened_alone() {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let places: [(Site, fn()); 22] = [
        (Site::PublishEvent, short_frames),
        (Site::SeeEvent, short_frames),
        (Site::ReturnCredit, short_frames),
        (Site::SeeCredit, short_frames),
        (Site::PublishEvent, frames_in_two_lines),
        (Site::SeeEvent, frames_in_two_lines),
        (Site::ReturnCredit, frames_in_two_lines),
        (Site::SeeCredit, frames_in_two_lines),
        (Site::PublishEvent, frames_a_little_longer),
        (Site::SeeEvent, frames_a_little_longer),
        (Site::ReturnCredit, frames_a_little_longer),
        (Site::SeeCredit, frames_a_little_longer),
        (Site::PublishEvent, frames_that_share_a_line),
        (Site::SeeEvent, frames_that_share_a_line),
        (Site::ReturnCredit, frames_that_share_a_line),
        (Site::SeeCredit, frames_that_share_a_line),
        (Site::PublishEvent, rests_in_the_middle),
        (Site::SeeEvent, rests_in_the_middle),
        (Site::PostBuffer, frames_in_buffers),
        (Site::SeeBuffer, frames_in_buffers),
        (Site::Arm, sleep_and_wake),
        (Site::LookArmed, sleep_and_wake),
    ];
    for (site, model) in places {
        weaken(Some(site));
        let outcome = catch_unwind(AssertUnwindSafe(model));
        weaken(None);
        assert!(outcome.is_err(), "{site:?} weakened, and no model failed");
    }
}
