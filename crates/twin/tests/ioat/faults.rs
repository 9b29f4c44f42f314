//! What goes wrong: one bit of CHANERR each, a completion that says halted, an interrupt; and then the channel starts
//! again.

use crate::host::*;
use ntb_spec::ioat::{COMMAND_RESET, COMMAND_RESUME, COMMAND_SUSPEND, Control, Descriptor, XFER_CAP};
use twin::ioat::{JobFault, JobKind, Outcome};

const RING: u64 = 0x1_0000;
const CMP: u64 = 0x8000;
const NOWHERE: u64 = 0x4000_0000;
const MEMORY: usize = 256 << 10;

/// A good descriptor and then a bad one; what the channel says of it.
fn halt_on(bad: Descriptor) -> Host {
    let mut host = Host::new(MEMORY);
    host.ring(RING, &[null(TELL), bad, null(TELL)]);
    host.address(0, COMPLETION, CMP);
    host.w16(0, CONTROL, 0x1D);
    host.start(0, RING, 3);
    host.run();
    host
}

/// The same channel takes the next chain.
fn recovers(host: &mut Host) {
    let error = host.r32(0, ERROR);
    host.start(0, RING, 1);
    assert!(!host.engine.has_work(), "not before CHANERR is clear");
    host.w32(0, ERROR, error);
    host.w8(0, COMMAND, COMMAND_RESET);
    host.address(0, COMPLETION, CMP);
    host.w16(0, CONTROL, 0x1D);
    host.heard();
    host.start(0, RING, 1);
    host.run();
    assert_eq!((host.status(0), host.r32(0, ERROR), host.heard()), (RING | DONE, 0, vec![0]));
}

#[test]
fn each_fault_has_its_bit_and_the_channel_lives() {
    let operation = |op| TELL.with_operation(op);
    for (bad, error) in [
        (copy(NOWHERE, 0, 8, TELL), 0x100),
        (copy(u64::MAX, 0, 2, TELL), 0x100),
        (copy(u64::MAX - 3, 0, 8, TELL), 0x100),
        (copy(0, NOWHERE, 8, TELL), 0x200),
        (copy(0, u64::MAX - 3, 8, TELL), 0x200),
        (copy(NOWHERE, NOWHERE, 8, TELL), 0x100),
        (copy(0, 0x2000, 8, operation(0x87)), 0x400),
        (copy(0, 0x2000, 8, operation(0xFF)), 0x400),
        (null(operation(1)), 0x400),
        (copy(0, 0x2000, 0, TELL), 0x800),
        (copy(0, 0x2000, XFER_CAP + 1, TELL), 0x800),
        (copy(0, 0x2000, u32::MAX, TELL), 0x800),
        (Descriptor { size: 0, ..null(TELL) }, 0x800),
    ] {
        let mut host = halt_on(bad);
        assert_eq!(host.r32(0, ERROR), error, "{bad:x?}");
        assert_eq!((host.status(0), host.word(CMP)), (RING | HALTED, RING | HALTED), "{bad:x?}");
        assert_eq!(host.heard(), [0], "{bad:x?}");
        host.w16(0, CONTROL, 0x1D);
        assert_eq!(host.heard(), [0], "the completion's, then the error's");
        assert_eq!((host.engine.counters().errors, host.engine.counters().descriptors), (1, 1));
        host.w8(0, COMMAND, COMMAND_RESUME);
        host.w8(0, COMMAND, COMMAND_SUSPEND);
        host.w16(0, COUNT, 100);
        assert_eq!((host.engine.has_work(), host.status(0)), (false, RING | HALTED));
        recovers(&mut host);
    }
}

#[test]
fn addresses_of_descriptors_are_checked_when_they_are_needed() {
    // CHAINADDR
    for (chain, error) in [(RING + 8, 0x10), (NOWHERE, 0x100), (u64::MAX, 0x10), (u64::MAX << 6, 0x100)] {
        let mut host = halt_on(null(TELL));
        host.start(0, chain, 0);
        assert_eq!((host.status(0), host.r32(0, ERROR)), (DONE, 0), "nothing is posted");
        host.start(0, chain, 1);
        host.run();
        assert_eq!((host.status(0), host.r32(0, ERROR)), (HALTED, error), "{chain:#x}");
        assert_eq!(host.word(CMP), HALTED);
        recovers(&mut host);
    }
    // next
    for (next, error) in [(RING + 1, 0x8), (NOWHERE, 0x100)] {
        let mut host = Host::new(MEMORY);
        host.put(RING, &Descriptor { next, ..null(TELL) }.to_bytes());
        host.address(0, COMPLETION, CMP);
        host.start(0, RING, 1);
        host.run();
        assert_eq!((host.status(0), host.r32(0, ERROR)), (RING | DONE, 0), "the last one's next is nobody's");
        host.w8(0, COMMAND, COMMAND_SUSPEND);
        host.w16(0, COUNT, 2);
        host.run();
        assert_eq!((host.status(0), host.r32(0, ERROR)), (RING | SUSPENDED, 0), "not needed yet");
        host.w8(0, COMMAND, COMMAND_RESUME);
        host.run();
        assert_eq!((host.status(0), host.r32(0, ERROR)), (RING | HALTED, error));
    }
}

#[test]
fn a_completion_that_cannot_be_written() {
    let mut host = Host::new(MEMORY);
    host.ring(RING, &[null(TELL)]);
    host.w16(0, CONTROL, 0x1D);
    host.address(0, COMPLETION, NOWHERE);
    host.start(0, RING, 3);
    host.run();
    assert_eq!((host.status(0), host.r32(0, ERROR), host.heard()), (RING | HALTED, 0x1000, vec![0]));
    assert_eq!(host.jobs.len(), 2, "no second try");
    recovers(&mut host);
    // The error's own completion: the first error stays alone.
    host.ring(RING, &[copy(NOWHERE, 0, 8, TELL)]);
    host.address(0, COMPLETION, NOWHERE);
    host.start(0, RING, 1);
    host.run();
    assert_eq!((host.status(0), host.r32(0, ERROR)), (HALTED, 0x100));
}

#[test]
fn without_bus_master_everything_fails() {
    let mut host = Host::new(MEMORY);
    host.ring(RING, &[null(TELL)]);
    host.w16(0, CONTROL, 0x1D);
    host.address(0, COMPLETION, CMP);
    host.config(0x04, [0x02, 0x04]);
    host.start(0, RING, 1);
    host.run();
    assert_eq!((host.status(0), host.r32(0, ERROR)), (HALTED, 0x100));
    host.config(0x04, [0x06, 0x04]);
    assert_eq!(host.word(CMP), 0);
    recovers(&mut host);
}

#[test]
fn chanctrl_says_whether_an_error_is_told() {
    for (control, completion, interrupt) in [(0, 0, false), (0x04, HALTED, false), (0x10, 0, true)] {
        let mut host = Host::new(MEMORY);
        host.ring(RING, &[copy(NOWHERE, 0, 8, TELL)]);
        host.address(0, COMPLETION, CMP);
        host.w16(0, CONTROL, control);
        host.start(0, RING, 1);
        host.run();
        assert_eq!(
            (host.status(0), host.word(CMP), !host.heard().is_empty()),
            (HALTED, completion, interrupt)
        );
    }
    let mut host = Host::new(MEMORY);
    host.ring(RING, &[copy(NOWHERE, 0, 8, TELL)]);
    host.w16(0, CONTROL, 0x1D);
    host.w32(0, 0x2C, 0x100);
    host.start(0, RING, 1);
    host.run();
    assert_eq!((host.heard(), host.r32(0, ERROR)), (vec![], 0x100), "CHANERR_MASK");
}

/// The driver reads CHANERR when it sees the completion in memory, before the job is back.
#[test]
fn chanerr_is_there_before_the_completion_is() {
    let mut host = Host::new(MEMORY);
    host.ring(RING, &[copy(0, NOWHERE, 8, TELL)]);
    host.w16(0, CONTROL, 0x1D);
    host.address(0, COMPLETION, CMP);
    host.start(0, RING, 1);
    assert!(host.step() && host.step());
    let completion = host.engine.next_job().unwrap();
    assert_eq!(completion.kind, JobKind::WriteBack { address: CMP, value: HALTED });
    assert_eq!((host.r32(0, ERROR), host.status(0), host.heard()), (0x200, ACTIVE, vec![]));
    // ioat_quiesce in ioat_eh: it suspends what looks active, and waits.
    host.w8(0, COMMAND, COMMAND_SUSPEND);
    host.give_back(completion, Ok(Outcome::Done));
    assert_eq!((host.status(0), host.heard()), (HALTED, vec![0]));
}

#[test]
fn a_piece_that_fails_ends_its_descriptor() {
    let mut host = Host::new(4 << 20);
    host.ring(RING, &[copy(0x10_0000, 0x20_0000, XFER_CAP, TELL)]);
    host.address(0, COMPLETION, CMP);
    host.w16(0, CONTROL, 0x1D);
    host.start(0, RING, 1);
    assert!(host.step() && host.step() && host.step());
    let piece = host.engine.next_job().unwrap();
    host.give_back(piece, Err(JobFault::Write)); // a map was withdrawn
    host.run();
    assert_eq!((host.status(0), host.r32(0, ERROR), host.word(CMP)), (HALTED, 0x200, HALTED));
    assert_eq!(host.engine.counters().bytes, 512 << 10);
}

#[test]
fn hints_and_the_fence_change_nothing() {
    let all = Control::from_bits(0x00FF_FFFF).with_null(false);
    let mut host = halt_on(copy(RING, 0x2000, 64, all));
    assert_eq!((host.r32(0, ERROR), host.status(0)), (0, (RING + 128) | DONE));
    assert_eq!(host.bytes(0x2000, 64), host.bytes(RING, 64));
}

#[test]
fn a_range_may_end_where_addresses_end() {
    let copies =
        |host: &Host| host.jobs.iter().filter(|(_, kind)| matches!(kind, JobKind::Copy { .. })).count();
    assert_eq!(copies(&halt_on(copy(u64::MAX - 7, 0, 8, TELL))), 1, "tried");
    assert_eq!(copies(&halt_on(copy(u64::MAX - 6, 0, 8, TELL))), 0);
    assert_eq!(copies(&halt_on(copy(0, u64::MAX - 7, 8, TELL))), 1, "tried");
    assert_eq!(copies(&halt_on(copy(0, u64::MAX - 6, 8, TELL))), 0);
}

/// A fetch that comes back without its bytes is unreadable; it is the caller's mistake, and no reason to panic.
#[test]
fn a_fetch_without_bytes() {
    let mut host = Host::new(MEMORY);
    host.start(0, RING, 1);
    let fetch = host.engine.next_job().unwrap();
    host.give_back(fetch, Ok(Outcome::Done));
    assert_eq!((host.status(0), host.r32(0, ERROR)), (HALTED, 0x100));
}
