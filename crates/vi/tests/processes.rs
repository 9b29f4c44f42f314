//! A lane between two processes: the other one is this very test program, started anew, with the lane as its standard
//! input.

use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use vi::lane::{Geometry, Meta, SendError, SharedLane};
use vi::{Event, LaneId, ProtectionDomain, RequestId, TransmitError, Vi};

#[derive(Debug)]
struct Domain;

/// Tells the program which part it plays.
const FRAMES: &str = "VI_TEST_FRAMES";
const SHAPE: Geometry =
    Geometry { slots: 64, buffers: 16, buffer_bytes: 2048, region: 1, wakes: false, stamps: false };

/// The `n`th frame: its number, and bytes that follow from it.
fn frame(n: u32) -> Vec<u8> {
    let len = 4 + (n.wrapping_mul(7919) % 1900) as usize;
    let mut frame = n.to_le_bytes().to_vec();
    frame.resize(len, n.to_le_bytes()[0] ^ 0x5A);
    frame
}

/// Not a test of its own: what the started process does.
#[test]
fn the_other_process_sends() {
    let Ok(frames) = std::env::var(FRAMES) else { return };
    let descriptor = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let lane = SharedLane::accept(descriptor, SHAPE).unwrap();
    let mut vi = Vi::<Domain>::new(&ProtectionDomain::new());
    let out = vi.attach_sender(lane.sender().unwrap(), None);
    for n in 0..frames.parse().unwrap() {
        loop {
            match vi.transmit(out, &frame(n), Meta::default(), RequestId(n)) {
                Ok(()) => break,
                Err(TransmitError::Lane(SendError::Full)) => std::thread::yield_now(),
                Err(TransmitError::CompletionsWait) => {
                    vi.transmit_unbundle(&mut [RequestId(0); 64]);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A lane, its receiver here, and a process that sends on it.
fn with_process(frames: u32) -> (Vi<Domain>, Child) {
    let lane = SharedLane::create(SHAPE).unwrap();
    let mut vi = Vi::new(&ProtectionDomain::new());
    let (_, buffers) = vi.attach_receiver(lane.receiver().unwrap());
    buffers.into_iter().for_each(|buffer| vi.receive_init(buffer, RequestId(0)).unwrap());
    vi.receive_push();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["the_other_process_sends", "--exact"])
        .env(FRAMES, frames.to_string())
        .stdin(Stdio::from(lane.as_fd().try_clone_to_owned().unwrap()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (vi, child)
}

/// Checks what one poll brings; the number of the next frame.
fn checked(vi: &Vi<Domain>, mut next: u32) -> u32 {
    let mut events: [Event<'_, Domain>; 16] = std::array::from_fn(|_| Event::Nothing);
    let count = vi.poll(&mut events);
    for event in &events[..count] {
        let Event::Received(packet) = event else { panic!("{event:?}") };
        let mut seen = vec![0; packet.len()];
        packet.copy_to(&mut seen).unwrap();
        assert_eq!(seen, frame(next));
        next += 1;
    }
    if count == 0 {
        std::thread::yield_now();
    }
    next
}

#[test]
fn every_frame_of_another_process_arrives_once_and_in_order() {
    const COUNT: u32 = 20_000;
    let (vi, mut child) = with_process(COUNT);
    let mut next = 0;
    while next < COUNT {
        next = checked(&vi, next);
        let ended = child.try_wait().unwrap().is_some_and(|status| !status.success());
        assert!(!ended, "the sender failed after {next} frames");
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(checked(&vi, next), next);
}

#[test]
fn a_process_that_is_killed_harms_no_lane_but_its_own() {
    let domain = ProtectionDomain::new();
    for after in [1, 500, 3000] {
        let (mut vi, mut child) = with_process(u32::MAX);
        let mut next = 0;
        while next < after {
            next = checked(&vi, next);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had published is whole; after that nothing comes, and nothing fails.
        loop {
            let before = next;
            next = checked(&vi, next);
            if next == before {
                break;
            }
        }
        assert_eq!(vi.statistics().lanes_over, 0);
        let mut local = Vi::<Domain>::new(&domain);
        let fresh = SharedLane::create(SHAPE).unwrap();
        local.attach_sender(fresh.sender().unwrap(), None);
        vi.attach_receiver(fresh.receiver().unwrap());
        local.transmit(LaneId(0), &frame(next)[..4], Meta::default(), RequestId(0)).unwrap();
        let mut events = [Event::Nothing];
        assert_eq!(vi.poll(&mut events), 1);
    }
}
