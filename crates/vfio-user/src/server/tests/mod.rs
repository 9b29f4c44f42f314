//! Tests of a session, on one thread: dialogues, file descriptors, limits, arbitrary bytes.

use std::os::fd::{AsFd, BorrowedFd};

use crate::fuzzing::{Line, bytes_of, hello};
use crate::wire::{Flags, Header, MessageId, Reply, Request};

/// A line past VERSION.
fn line() -> Line {
    let mut line = Line::default();
    line.talk(&hello(), usize::MAX, &[]).unwrap();
    assert_eq!(line.replies().len(), 1);
    line
}

/// A message with a header of its own: `(command, flags, body)`.
fn raw(command: u16, flags: u32, body: &[u8]) -> Vec<u8> {
    use zerocopy::IntoBytes;
    let size = u32::try_from(16 + body.len()).unwrap();
    let header = Header::new(MessageId(7), crate::wire::Command(command), size, Flags(flags));
    [header.as_bytes(), body].concat()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn say(line: &mut Line, request: Request<'_>, flags: Flags, fds: &[BorrowedFd<'_>]) {
    line.talk(&bytes_of(request, 7, flags), usize::MAX, fds).unwrap();
}

/// What the one reply must be, byte for byte.
fn hear(line: &mut Line, request: &[u8], reply: Reply<'_>) {
    let mut expected = Vec::new();
    reply.emit(Header::peek(request).unwrap(), &mut expected);
    let got = line.replies();
    let [(header, body)] = got.as_slice() else { panic!("one reply, not {got:?}") };
    assert_eq!(Header::peek(&expected), Some(header));
    assert_eq!(&expected[16..], body);
}

fn hear_error(line: &mut Line, errno: rustix::io::Errno) {
    let got = line.replies();
    let [(header, _)] = got.as_slice() else { panic!("one error reply, not {got:?}") };
    assert_eq!(header.flags(), Flags::ERROR_REPLY);
    assert_eq!(header.id(), MessageId(7));
    assert_eq!(i32::try_from(header.error()), Ok(errno.raw_os_error()), "errno");
}

/// `send!(line, request)`, `send!(line, posted request)`, `send!(line, bytes b)`, each with `; fds` after it.
macro_rules! send {
    ($line:ident, posted $request:expr) => { say(&mut $line, $request, Flags::POSTED, &[]) };
    ($line:ident, bytes $bytes:expr $(; $($fd:expr),*)?) => {
        $line.talk(&$bytes, usize::MAX, &[$($($fd.as_fd()),*)?]).unwrap()
    };
    ($line:ident, $request:expr $(; $($fd:expr),*)?) => {
        say(&mut $line, $request, Flags::COMMAND, &[$($($fd.as_fd()),*)?])
    };
}

/// `expect!(line, error ERRNO)`, `expect!(line, nothing)`, `expect!(line, request => reply)`, `expect!(line, log [..])`.
macro_rules! expect {
    ($line:ident, error $errno:ident) => { hear_error(&mut $line, rustix::io::Errno::$errno) };
    ($line:ident, nothing) => { assert_eq!($line.replies(), []) };
    ($line:ident, log [$($entry:expr),* $(,)?]) => {
        assert_eq!(std::mem::take(&mut $line.device.log), Vec::<String>::from([$(String::from($entry)),*]))
    };
    ($line:ident, $command:ident => $reply:expr) => {
        hear(&mut $line, &raw(crate::wire::Command::$command.0, 0, &[]), $reply)
    };
}

// After the macros, which they use.
mod dialogue;
mod fds;
mod limits;
mod properties;
mod realize;

fn as_fds<T: AsFd>(fds: &[T]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}
