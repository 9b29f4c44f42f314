//! Whose file descriptors are whose, however the stream is read.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::fuzzing::file_of;
use crate::wire::{DmaAddr, DmaMap, IrqAction, IrqData, IrqIndex, RegionIndex, SetIrqs};

fn map(iova: u64) -> Vec<u8> {
    let map = DmaMap { iova: DmaAddr(iova), size: 0x1000, fd_offset: 0, readable: true, writeable: true };
    bytes_of(Request::DmaMap(map), 1, Flags::COMMAND)
}

fn assign(start: u32, count: u32) -> Vec<u8> {
    let (action, data) = (IrqAction::Trigger, IrqData::Eventfd);
    let set = SetIrqs { index: IrqIndex::MSIX, start, count, action, data };
    bytes_of(Request::SetIrqs(set), 2, Flags::COMMAND)
}

/// A file, and a way to tell whether anybody still has it open: a pipe's end of file.
fn watched() -> (OwnedFd, impl FnOnce(OwnedFd)) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let all_closed = move |ours: OwnedFd| {
        drop(ours);
        let mut fds = [PollFd::new(&reader, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut fds, Some(&now)), Ok(1), "a file descriptor was kept");
        assert!(fds[0].revents().contains(PollFlags::HUP));
    };
    (writer, all_closed)
}

/// Everything is queued before the session reads at all.
#[test]
fn a_map_without_a_file_does_not_take_the_next_messages() {
    let mut line = line();
    let (a, b) = (file_of(11), file_of(22));
    line.push(&map(0x1000), &[]);
    line.push(&assign(0, 1), &[a.as_fd()]);
    line.push(&map(0x2000), &[]);
    line.push(&map(0x3000), &[b.as_fd()]);
    line.push(&map(0x4000), &[]);
    line.serve().unwrap();
    expect!(line, log [
        "map 0x1000+0x1000 at 0x0 fd []",
        "MSI-X assign 0 [11]",
        "map 0x2000+0x1000 at 0x0 fd []",
        "map 0x3000+0x1000 at 0x0 fd [22]",
        "map 0x4000+0x1000 at 0x0 fd []",
    ]);
    assert_eq!(line.session.counters().fds, 2);
}

/// The end of one message and the beginning of the next, with a file, are glued into one read.
#[test]
fn a_file_goes_to_the_message_it_was_sent_with_when_the_one_before_is_incomplete() {
    for cut in 1..48 {
        let mut line = line();
        let (a, b) = (file_of(11), file_of(22));
        let first = map(0x1000);
        line.push(&first[..cut], &[a.as_fd()]);
        line.serve().unwrap();
        expect!(line, log []);
        line.push(&first[cut..], &[]);
        line.push(&assign(0, 1), &[b.as_fd()]);
        line.serve().unwrap();
        expect!(line, log ["map 0x1000+0x1000 at 0x0 fd [11]", "MSI-X assign 0 [22]"]);
    }
}

#[test]
fn byte_by_byte() {
    let mut line = line();
    let (a, b) = (file_of(11), file_of(22));
    line.talk(&assign(5, 2), 1, &[a.as_fd(), b.as_fd()]).unwrap();
    line.talk(&map(0x1000), 1, &[]).unwrap();
    line.talk(&map(0x2000), 1, &[a.as_fd()]).unwrap();
    expect!(line, log [
        "MSI-X assign 5 [11, 22]",
        "map 0x1000+0x1000 at 0x0 fd []",
        "map 0x2000+0x1000 at 0x0 fd [11]",
    ]);
    assert_eq!(line.replies().len(), 3);
}

/// A message beyond 32 KiB spans several socket buffers, and the read ends after the first.
#[test]
fn a_long_message_keeps_its_files_to_itself() {
    let mut line = line();
    let ((a, all_closed), b) = (watched(), file_of(22));
    let long = bytes_of(
        Request::RegionWrite { region: RegionIndex::BAR0, offset: 0, data: &vec![7; 150_000] },
        1,
        Flags::COMMAND,
    );
    let sent = line.push(&long, &[a.as_fd()]);
    line.serve().unwrap();
    line.talk(&long[sent..], usize::MAX, &[]).unwrap();
    line.push(&map(0x1000), &[]);
    line.push(&assign(0, 1), &[b.as_fd()]);
    line.serve().unwrap();
    // A write has no use for a file: refused, and the file is closed.
    assert_eq!(line.session.counters().refused.fds, 1);
    expect!(line, log ["map 0x1000+0x1000 at 0x0 fd []", "MSI-X assign 0 [22]"]);
    all_closed(a);
}

#[test]
fn surplus_files_are_closed_and_the_message_refused() {
    let mut line = line();
    let (file, all_closed) = watched();
    send!(line, bytes raw(4, 0, &words(&[16, 0, 0, 0])); file);
    expect!(line, error INVAL);
    send!(line, bytes raw(99, 0, &[]); file, file);
    expect!(line, error INVAL);
    send!(line, bytes raw(13, 0, &[]); file);
    expect!(line, error INVAL);
    expect!(line, log []);
    all_closed(file);
    assert_eq!(line.session.counters().refused.fds, 3);
    assert_eq!(line.session.counters().fds, 4);
}

/// Sixteen per send, many sends, one message: no more than sixteen are ever held.
#[test]
fn a_message_cannot_hoard_files() {
    let mut line = line();
    let (file, all_closed) = watched();
    let message = assign(0, 16);
    for byte in &message {
        line.push(&[*byte], &[file.as_fd(); 16]);
        line.serve().unwrap();
        assert!(line.session.input.held_fds() <= 32);
    }
    let got = line.replies();
    assert_eq!((got.len(), got[0].0.flags()), (1, Flags::ERROR_REPLY));
    expect!(line, log []);
    all_closed(file);
    // And the next message with sixteen is fine.
    let files: Vec<OwnedFd> = (0..16).map(file_of).collect();
    line.talk(&assign(0, 16), usize::MAX, &as_fds(&files)).unwrap();
    assert_eq!(line.device.log.len(), 1);
}

/// More than the control buffer holds: the kernel drops the rest and says so.
#[test]
fn files_that_the_kernel_cuts_make_the_message_refused() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut line = line();
    let (file, all_closed) = watched();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(33))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed = [file.as_fd(); 33];
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    let message = assign(0, 33);
    sendmsg(&line.peer, &[std::io::IoSlice::new(&message)], &mut control, SendFlags::empty()).unwrap();
    line.serve().unwrap();
    let got = line.replies();
    assert_eq!((got.len(), got[0].0.flags()), (1, Flags::ERROR_REPLY));
    expect!(line, log []);
    assert_eq!(line.session.counters().refused.fds, 1);
    all_closed(file);
}

#[test]
fn received_files_are_close_on_exec() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = file_of(1);
    crate::socket::send(theirs.as_fd(), &[1], &[file.as_fd()], rustix::net::SendFlags::empty()).unwrap();
    let mut got = None;
    crate::socket::receive(ours.as_fd(), &mut [0; 8], rustix::net::RecvFlags::empty(), |fd| {
        got = rustix::io::fcntl_getfd(&fd).ok();
    })
    .unwrap();
    assert_eq!(got, Some(rustix::io::FdFlags::CLOEXEC));
}
