//! Sizes that cannot be, clients that do not read, budgets, goodbyes.

use super::*;
use crate::server::{Next, SessionError};
use crate::wire::{Command, HEADER_BYTES, MAX_MESSAGE_BYTES, RegionIndex};

fn header_of_size(size: u32, flags: u32) -> Vec<u8> {
    let mut bytes = raw(9, flags, &[]);
    bytes[4..8].copy_from_slice(&size.to_le_bytes());
    bytes
}

#[test]
fn an_impossible_size_is_answered_and_ends_the_session() {
    let too_long = u32::try_from(MAX_MESSAGE_BYTES + 1).unwrap();
    for size in [0, 1, 15, too_long, u32::MAX] {
        let mut line = line();
        let expected = SessionError::Framing { command: Command::REGION_READ, size };
        assert_eq!(line.talk(&header_of_size(size, 0), usize::MAX, &[]), Err(expected));
        expect!(line, error INVAL);
        assert_eq!(line.step(1), Err(SessionError::Over));

        let mut line = self::line();
        assert_eq!(line.talk(&header_of_size(size, 0x10), usize::MAX, &[]), Err(expected));
        expect!(line, nothing);
    }
}

#[test]
fn what_came_before_an_impossible_size_is_carried_out() {
    let mut line = line();
    let write =
        bytes_of(Request::RegionWrite { region: RegionIndex::BAR0, offset: 0, data: &[1] }, 1, Flags::POSTED);
    let both = [write, header_of_size(3, 0)].concat();
    assert!(line.talk(&both, usize::MAX, &[]).is_err());
    expect!(line, log["post BAR0 0x0 [1]"]);
}

#[test]
fn the_longest_message_is_taken() {
    let mut line = line();
    send!(line, bytes raw(99, 0, &vec![0; MAX_MESSAGE_BYTES - HEADER_BYTES]));
    expect!(line, error NOSYS);
}

#[test]
fn a_client_that_does_not_read_is_not_read() {
    let mut line = line();
    let ask = bytes_of(
        Request::RegionRead { region: RegionIndex::BAR0, offset: 0, count: 4096 },
        7,
        Flags::COMMAND,
    );
    let (mut asked, mut blocked) = (0, false);
    for _ in 0..100_000 {
        asked += usize::from(line.push(&ask, &[]) == ask.len());
        if line.step(64).unwrap().next == Next::Writable {
            assert!(line.session.wants_write() && !line.session.wants_read());
            blocked = line.push(&ask, &[]) == 0;
            if blocked {
                break;
            }
            asked += 1;
        }
    }
    assert!(blocked, "the queue never filled");
    // It reads at last, and gets every answer.
    line.serve().unwrap();
    assert_eq!(line.replies().len(), asked);
    assert!(!line.session.wants_write() && line.session.wants_read());
    send!(line, Request::Reset);
    expect!(line, RESET => Reply::Done);
}

/// Replies with a file descriptor each are few bytes, but descriptors are dear.
#[test]
fn a_client_that_hoards_region_files_is_stopped() {
    let mut line = line();
    let ask = bytes_of(Request::GetRegionInfo { argsz: 32, index: RegionIndex::BAR4 }, 7, Flags::COMMAND);
    let mut asked = 0;
    for _ in 0..5000 {
        asked += usize::from(line.push(&ask, &[]) == ask.len());
        line.step(64).unwrap();
        // Those in the socket are the kernel's to bound; ours are eight at most.
        assert!(line.session.output.held_fds() <= 8);
    }
    line.serve().unwrap();
    assert_eq!(line.replies().len(), asked);
}

#[test]
fn the_budget_is_kept_and_nothing_is_lost() {
    let mut line = line();
    let write = |nth: u8| {
        let data = [nth];
        bytes_of(Request::RegionWrite { region: RegionIndex::BAR0, offset: 0, data: &data }, 1, Flags::POSTED)
    };
    let all: Vec<u8> = (0..10).flat_map(write).collect();
    line.push(&all, &[]);
    for _ in 0..3 {
        let progress = line.step(3).unwrap();
        assert_eq!((progress.handled, progress.next), (3, Next::Again));
    }
    let progress = line.step(3).unwrap();
    assert_eq!((progress.handled, progress.next), (1, Next::Readable));
    assert_eq!(line.device.log.len(), 10);
    assert_eq!(line.step(0).unwrap().handled, 0);
}

/// QEMU is killed with posted writes under way and replies unread: the writes count.
#[test]
fn posted_writes_of_a_client_that_is_gone_are_carried_out() {
    let mut line = line();
    let write =
        bytes_of(Request::RegionWrite { region: RegionIndex::BAR0, offset: 0, data: &[1] }, 1, Flags::POSTED);
    let ask = bytes_of(Request::GetInfo { argsz: 16 }, 2, Flags::COMMAND);
    line.push(&ask, &[]);
    line.step(9).unwrap();
    line.push(&[&ask[..], &write, &ask, &write, &write[..5]].concat(), &[]);
    let (gone, _) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut line.peer, gone));
    let progress = line.step(99).unwrap();
    assert_eq!(progress.next, Next::Closed);
    assert_eq!(line.device.log.len(), 2);
}
