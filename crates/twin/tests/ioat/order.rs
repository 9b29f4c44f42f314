//! Chains, pieces, turns, and the orders that a channel obeys.

use crate::host::*;
use ntb_spec::ioat::{COMMAND_RESET, COMMAND_RESUME, COMMAND_SUSPEND, Control};
use twin::ioat::{Effect, JobFault, JobKind, Outcome, PIECE_BYTES};

const RING: u64 = 0x1_0000;
const CMP: u64 = 0x8000;
const KIB: usize = 1024;

#[test]
fn one_copy_is_fetch_copy_write_back_interrupt() {
    let mut host = Host::new(256 * KIB);
    host.put(0x2000, &[7; 100]);
    host.ring(RING, &[copy(0x2000, 0x3000, 100, TELL), null(TELL)]);
    host.address(0, COMPLETION, CMP);
    assert_eq!(host.status(0), HALTED);
    host.start(0, RING, 1);
    assert_eq!(host.status(0), ACTIVE);
    host.run();
    assert_eq!(
        host.jobs,
        [
            (0, JobKind::Fetch { address: RING }),
            (0, JobKind::Copy { source: 0x2000, destination: 0x3000, bytes: 100 }),
            (0, JobKind::WriteBack { address: CMP, value: RING | DONE }),
        ]
    );
    assert_eq!((host.status(0), host.word(CMP), host.heard()), (RING | DONE, RING | DONE, vec![0]));
    assert_eq!(host.bytes(0x3000, 101), [[7; 100].as_slice(), &[0]].concat());
    // Appended: the next one is where `next` pointed.
    host.w16(0, COUNT, 2);
    host.run();
    assert_eq!(host.status(0), (RING + 64) | DONE);
    assert_eq!((host.engine.counters().descriptors, host.engine.counters().bytes), (2, 100));
}

#[test]
fn a_descriptor_is_silent_unless_it_says_otherwise() {
    let mut host = Host::new(256 * KIB);
    host.ring(RING, &[null(Control::new()), null(Control::new().with_interrupt(true)), null(Control::new())]);
    host.address(0, COMPLETION, CMP);
    host.start(0, RING, 1);
    host.run();
    assert_eq!((host.word(CMP), host.heard(), host.status(0)), (0, vec![], RING | DONE));
    host.w16(0, COUNT, 2);
    host.run();
    assert_eq!((host.word(CMP), host.heard()), (0, vec![0]), "an interrupt without a completion");
}

#[test]
fn a_large_copy_comes_in_pieces() {
    let mut host = Host::new(4096 * KIB);
    let source: Vec<u8> = (0..1024 * KIB).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[2]).collect();
    host.put(0x10_0000, &source);
    host.ring(RING, &[copy(0x10_0000, 0x20_0000, 1 << 20, TELL), copy(0, 0x30_0000, PIECE_BYTES + 1, TELL)]);
    host.address(0, COMPLETION, CMP);
    host.start(0, RING, 2);
    host.run();
    let pieces: Vec<u32> = host
        .jobs
        .iter()
        .filter_map(|&(_, kind)| match kind {
            JobKind::Copy { bytes, .. } => Some(bytes),
            _ => None,
        })
        .collect();
    assert_eq!(pieces, [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, 1]);
    assert!(host.bytes(0x20_0000, source.len()) == source);
    let values: Vec<u64> = host
        .jobs
        .iter()
        .filter_map(|&(_, kind)| match kind {
            JobKind::WriteBack { value, .. } => Some(value),
            _ => None,
        })
        .collect();
    assert_eq!(values, [RING | ACTIVE, (RING + 64) | DONE]);
}

#[test]
fn a_chain_that_loops_is_bounded_by_dmacount() {
    let mut host = Host::new(256 * KIB);
    host.ring(RING, &[null(Control::new())]);
    host.start(1, RING, u16::MAX);
    host.run();
    assert_eq!((host.status(1), host.engine.counters().descriptors), (RING | DONE, 65535));
    // The count wraps: one more is 0, and the same again is nothing.
    host.w16(1, COUNT, 0);
    host.run();
    assert_eq!(host.engine.counters().descriptors, 65536);
    host.w16(1, COUNT, 0);
    assert!(!host.engine.has_work());
    // Behind is ahead, by nearly all of them.
    host.w16(1, COUNT, u16::MAX);
    host.run();
    assert_eq!(host.engine.counters().descriptors, 65536 + 65535);
}

#[test]
fn a_descriptor_is_fetched_once() {
    let mut host = Host::new(1024 * KIB);
    host.ring(RING, &[copy(0x2_0000, 0x4_0000, PIECE_BYTES + 1, TELL), null(TELL)]);
    host.address(0, COMPLETION, CMP);
    host.start(0, RING, 2);
    assert!(host.step() && host.step(), "fetched, and its first piece copied");
    host.put(RING, &[0xFF; 64]);
    host.run();
    let copies: Vec<_> = host.jobs.iter().filter(|(_, kind)| matches!(kind, JobKind::Copy { .. })).collect();
    assert_eq!(copies.len(), 2, "the rest of what was fetched, not of what is there now");
    assert_eq!((host.status(0), host.r32(0, ERROR)), ((RING + 64) | DONE, 0));
}

#[test]
fn channels_take_turns() {
    let mut host = Host::new(1024 * KIB);
    for channel in 0..4_u8 {
        let at = RING + 0x1000 * u64::from(channel);
        host.ring(at, &[copy(0, 0x8_0000, PIECE_BYTES, Control::new())]);
        host.start(channel, at, 3);
    }
    host.run();
    let turns: Vec<u8> = host.jobs.iter().map(|&(channel, _)| channel).collect();
    assert_eq!(turns, [0, 1, 2, 3].repeat(6));
    // Several workers: one job of each channel may be out.
    for channel in 0..4 {
        host.w16(channel, COUNT, 4);
    }
    let jobs: Vec<_> = std::iter::from_fn(|| host.engine.next_job()).collect();
    assert!(jobs.iter().map(|job| job.channel).eq([0, 1, 2, 3]));
    for job in jobs.into_iter().rev() {
        let result = host.carry_out(job.kind);
        host.give_back(job, result);
    }
    host.run();
    assert_eq!(host.engine.counters().descriptors, 16);
}

#[test]
fn suspend_takes_one_piece_and_resume_goes_on() {
    let mut host = Host::new(4096 * KIB);
    host.put(0x10_0000, &[5; 1024 * KIB]);
    host.ring(RING, &[copy(0x10_0000, 0x20_0000, 1 << 20, TELL)]);
    host.address(0, COMPLETION, CMP);
    host.start(0, RING, 1);
    assert!(host.step() && host.step());
    let piece = host.engine.next_job().unwrap();
    host.w8(0, COMMAND, COMMAND_SUSPEND);
    assert_eq!(host.status(0), ACTIVE, "a piece is under way");
    let result = host.carry_out(piece.kind);
    host.give_back(piece, result);
    assert_eq!(host.status(0), SUSPENDED);
    host.w16(0, COUNT, 2);
    assert!(!host.engine.has_work(), "a count does not resume");
    host.w16(0, COUNT, 1);
    host.w8(0, COMMAND, COMMAND_RESUME);
    host.run();
    assert_eq!((host.status(0), host.engine.counters().bytes), (RING | DONE, 1 << 20));
    assert!(host.bytes(0x20_0000, 1024 * KIB).iter().all(|&byte| byte == 5));
    // With nothing under way it takes no time.
    host.w8(0, COMMAND, COMMAND_SUSPEND);
    assert_eq!(host.status(0), RING | SUSPENDED);
}

#[test]
fn suspend_lets_a_finished_descriptor_complete() {
    let mut host = Host::new(256 * KIB);
    host.ring(RING, &[null(TELL), null(TELL)]);
    host.address(0, COMPLETION, CMP);
    host.start(0, RING, 2);
    assert!(host.step());
    host.w8(0, COMMAND, COMMAND_SUSPEND);
    assert_eq!(host.status(0), RING | ACTIVE);
    host.run();
    assert_eq!((host.status(0), host.word(CMP), host.heard()), (RING | SUSPENDED, RING, vec![0]));
}

#[test]
fn a_new_chain_gives_up_the_old_one() {
    let mut host = Host::new(256 * KIB);
    host.ring(RING, &[null(TELL)]);
    host.ring(RING + 0x1000, &[null(TELL)]);
    host.address(0, COMPLETION, CMP);
    host.start(0, RING, 5);
    let old = host.engine.next_job().unwrap();
    host.start(0, RING + 0x1000, 1);
    assert!(!host.engine.has_work(), "one job at a time");
    host.give_back(old, Err(JobFault::Read));
    host.run();
    assert_eq!((host.status(0), host.engine.counters().stale_jobs), ((RING + 0x1000) | DONE, 1));
    assert_eq!(host.engine.counters().descriptors, 1);
}

#[test]
fn reset_is_over_when_memory_is_quiet() {
    let mut host = Host::new(256 * KIB);
    host.ring(RING, &[null(TELL)]);
    host.address(0, COMPLETION, CMP);
    host.w16(0, CONTROL, 0x1D);
    host.start(0, RING, 5);
    assert!(host.step());
    let completion = host.engine.next_job().unwrap();
    assert!(matches!(completion.kind, JobKind::WriteBack { .. }));
    host.w8(0, COMMAND, COMMAND_RESET);
    assert_eq!((host.r8(0, COMMAND), host.status(0)), (COMMAND_RESET, ACTIVE));
    host.give_back(completion, Ok(Outcome::Done));
    assert_eq!((host.r8(0, COMMAND), host.status(0)), (0, HALTED));
    assert_eq!(host.heard(), [0_u8; 0], "what was given up does not interrupt");
    assert!(!host.engine.has_work());
    assert_eq!(host.r16(0, CONTROL), 0x1C, "CHANCTRL stays");
    for (at, gone) in [(COMPLETION, 0), (CHAIN, 0), (ERROR, 0)] {
        assert_eq!(host.r32(0, at), gone);
    }
    // And with nothing under way at once.
    host.w8(0, COMMAND, COMMAND_RESET);
    assert_eq!(host.r8(0, COMMAND), 0);
}

#[test]
fn a_reset_of_the_engine_forgets_its_jobs() {
    let mut host = Host::new(256 * KIB);
    for flr in [false, true] {
        host.config(0x04, [0x06, 0x04]);
        host.ring(RING, &[null(TELL)]);
        host.start(3, RING, 5);
        let old = host.engine.next_job().unwrap();
        let mut effects = Vec::new();
        if flr {
            host.engine.config_write(0x98, &[0x10, 0xA8], &mut effects);
            assert_eq!(effects, [Effect::Reset]);
        } else {
            host.engine.reset();
        }
        assert!(!host.engine.bus_master() && !host.engine.memory_enabled() && !host.engine.msix_enabled());
        host.config(0x04, [0x06, 0x04]);
        assert_eq!((host.status(3), host.r8(3, COMMAND)), (HALTED, 0));
        host.start(3, RING, 1);
        let new = host.engine.next_job().unwrap();
        host.give_back(old, Err(JobFault::Read));
        assert_eq!((host.status(3), host.r32(3, ERROR)), (ACTIVE, 0));
        let result = host.carry_out(new.kind);
        host.give_back(new, result);
        host.engine.reset();
    }
    assert_eq!((host.engine.counters().stale_jobs, host.engine.counters().resets), (2, 4));
}

// --- interrupts -------------------------------------------------------------------------------------------------

/// A channel whose descriptors all interrupt.
fn interrupting() -> Host {
    let mut host = Host::new(256 * KIB);
    host.ring(RING, &[null(TELL)]);
    host.address(2, COMPLETION, CMP);
    host.start(2, RING, 0);
    host
}

fn complete_one(host: &mut Host) {
    let count = host.r16(2, COUNT);
    host.w16(2, COUNT, count.wrapping_add(1));
    host.run();
}

fn attention(host: &mut Host) -> (u8, u32) {
    (u8::from_le_bytes(host.read(0x03)), u32::from_le_bytes(host.read(0x04)))
}

#[test]
fn an_interrupt_comes_once_until_it_is_re_armed() {
    let mut host = interrupting();
    assert_eq!(attention(&mut host), (0x09, 0));
    complete_one(&mut host);
    assert_eq!((host.heard(), attention(&mut host)), (vec![2], (0x0F, 0b100)));
    assert_eq!(host.r16(2, CONTROL), 1, "raised, not re-armed");
    // The race: it completes between the driver's look and its re-arming.
    complete_one(&mut host);
    complete_one(&mut host);
    assert_eq!(host.heard(), [0_u8; 0]);
    host.w16(2, CONTROL, 0x1C);
    assert_eq!(host.heard(), [0_u8; 0], "without bit 0 it is no re-arming");
    host.w16(2, CONTROL, 0x1D);
    assert_eq!(host.heard(), [2], "both at once");
    host.w16(2, CONTROL, 0x1D);
    assert_eq!((host.heard(), host.r16(2, CONTROL)), (vec![], 0x1C));
    complete_one(&mut host);
    assert_eq!(host.heard(), [2]);
    assert_eq!(host.engine.counters().interrupts, 3);
}

#[test]
fn an_interrupt_waits_for_intrctrl_and_msix() {
    let mut host = interrupting();
    host.write(0x03, [0x08]);
    complete_one(&mut host);
    assert_eq!((host.heard(), attention(&mut host)), (vec![], (0x0A, 0b100)));
    host.write(0x03, [0x09]);
    assert_eq!(host.heard(), [2]);
    host.w16(2, CONTROL, 0x1D);
    host.config(0x82, [0x03, 0x00]);
    complete_one(&mut host);
    assert_eq!(host.heard(), [0_u8; 0]);
    host.config(0x83, [0x80]);
    assert_eq!(host.heard(), [2]);
}

#[test]
fn a_reset_re_arms_and_forgets() {
    let mut host = interrupting();
    complete_one(&mut host);
    complete_one(&mut host);
    assert_eq!(host.heard(), [2]);
    host.w8(2, COMMAND, COMMAND_RESET);
    assert_eq!((host.heard(), attention(&mut host)), (vec![], (0x09, 0)));
    host.address(2, COMPLETION, CMP);
    host.start(2, RING, 1);
    host.run();
    assert_eq!(host.heard(), [2], "ioat_reboot_chan does not re-arm");
}
