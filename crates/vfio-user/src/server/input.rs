//! From the socket to whole messages: batched reads, framing, and whose file descriptors are whose.
//!
//! # Whose file descriptors
//! The kernel keeps file descriptors with the *first* socket buffer of the send that carried them, and a
//! `recvmsg` that has taken any bytes of such a buffer goes no further than its end (`unix_stream_read_generic`:
//! `if (scm.fp) break`). So in one batched read
//!
//! ```text
//!   DMA_MAP, no fd │ REGION_WRITE │ SET_IRQS + fd │      the read ends here, even if more is queued
//!   ───────────────┴──────────────┴───────────────┘
//! ```
//!
//! what arrives beside the bytes belongs to the message that holds the **last byte of the read**, provided that
//! whoever sends file descriptors sends one message at a time, as QEMU and libvfio-user do. A message larger
//! than a socket buffer (about 36 KiB) brings them with its first piece; a read that ends within the message
//! leaves them waiting for the rest. Reads of any size give the same result, which a test checks.

use std::mem::take;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::socket::receive;
use crate::wire::{Flags, HEADER_BYTES, Header, MAX_MESSAGE_BYTES, MAX_MESSAGE_FDS};

/// How much one read takes at most, as long as no message is larger.
const READ_BYTES: usize = 64 * 1024;

/// The file descriptors that belong to one message.
#[derive(Debug, Default)]
pub(super) struct MessageFds {
    pub(super) fds: Vec<OwnedFd>,
    /// Some were lost: more than [`MAX_MESSAGE_FDS`], or the kernel cut them (`MSG_CTRUNC`).
    pub(super) cut: bool,
}

impl MessageFds {
    pub(super) fn is_empty(&self) -> bool {
        self.fds.is_empty() && !self.cut
    }

    fn absorb(&mut self, other: Self) {
        self.cut |= other.cut;
        for fd in other.fds {
            self.push(fd);
        }
    }

    fn push(&mut self, fd: OwnedFd) {
        if self.fds.len() < MAX_MESSAGE_FDS {
            self.fds.push(fd);
        } else {
            self.cut = true; // and `fd` is closed
        }
    }
}

/// One whole message.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) header: Header,
    pub(super) payload: &'a [u8],
    pub(super) fds: MessageFds,
}

/// A header whose size cannot be right: where the next message begins is anybody's guess.
#[derive(Debug)]
pub(super) struct BadFrame(pub(super) Header);

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// This many file descriptors, and at least one byte.
    Bytes { fds: usize },
    /// Nothing for now.
    WouldBlock,
    /// The peer is gone.
    Eof,
}

/// Bytes received and not yet used, and the file descriptors among them.
///
/// Never more than two messages own file descriptors: the one that is incomplete when a read begins (`head`),
/// and the one that holds the read's last byte (`tail`). Both are bounded, so a hostile peer cannot fill our
/// descriptor table.
#[derive(Debug)]
pub(super) struct Input {
    buffer: Vec<u8>,
    /// Index of the first unused byte, which is the first byte of a message.
    start: usize,
    /// Index after the last received byte.
    end: usize,
    head: MessageFds,
    tail: MessageFds,
    /// Index of the byte that `tail` arrived with.
    tail_at: usize,
    /// Size of the message that `next` gave out last.
    last_bytes: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            head: MessageFds::default(),
            tail: MessageFds::default(),
            tail_at: 0,
            last_bytes: 0,
        }
    }

    /// Whether the peer has begun a message that is not complete.
    pub(super) fn has_partial(&self) -> bool {
        self.start != self.end
    }

    #[cfg(test)]
    pub(super) fn held_fds(&self) -> usize {
        self.head.fds.len() + self.tail.fds.len()
    }

    /// The next whole message; `None` if [`Input::fill`] must come first.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Message<'_>>, BadFrame> {
        let received = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some(&header) = Header::peek(received) else { return Ok(None) };
        let Some(size) = header.checked_size(MAX_MESSAGE_BYTES) else { return Err(BadFrame(header)) };
        let Some(payload) = received.get(HEADER_BYTES..size) else { return Ok(None) };
        self.start = self.start.saturating_add(size);
        self.last_bytes = size;
        let mut fds = take(&mut self.head);
        if !self.tail.is_empty() && self.tail_at < self.start {
            fds.absorb(take(&mut self.tail));
        }
        Ok(Some(Message { header, payload, fds }))
    }

    /// Whether the next message is one that wants an answer.
    pub(super) fn asks(&self) -> bool {
        let received = self.buffer.get(self.start..self.end).unwrap_or_default();
        Header::peek(received).is_some_and(|header| !Flags::no_reply(header.flags()))
    }

    /// Has [`Input::next`] give out its last message once more, without its file descriptors.
    pub(super) fn put_back(&mut self) {
        self.start = self.start.saturating_sub(take(&mut self.last_bytes));
    }

    /// Reads once, without waiting. Call it only when [`Input::next`] has nothing left.
    pub(super) fn fill(&mut self, socket: BorrowedFd<'_>) -> Result<Fill, Errno> {
        // No whole message is left, so what an earlier read brought belongs to the one that is incomplete.
        if !self.tail.is_empty() {
            let tail = take(&mut self.tail);
            self.head.absorb(tail);
        }
        self.make_room();
        let Self { buffer, end, tail, .. } = self;
        let free = buffer.get_mut(*end..).unwrap_or_default();
        let received = match receive(socket, free, RecvFlags::DONTWAIT, |fd| tail.push(fd)) {
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(Fill::WouldBlock),
            // Comes after all bytes: the peer closed with replies of ours unread.
            Err(Errno::CONNRESET) => return Ok(Fill::Eof),
            Err(errno) => return Err(errno),
        };
        self.tail.cut |= received.cut;
        if received.bytes == 0 {
            return Ok(Fill::Eof);
        }
        self.end = self.end.saturating_add(received.bytes).min(self.buffer.len());
        self.tail_at = self.end.saturating_sub(1);
        Ok(Fill::Bytes { fds: received.fds })
    }

    /// Moves what is left to the front, and sees that the message which it begins fits.
    fn make_room(&mut self) {
        if self.start != 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end = self.end.saturating_sub(self.start);
            self.start = 0;
        }
        // Only now, when the header is in and has been found good: nobody can make us reserve the maximum
        // without at least asking for it, nor more than that.
        let begun = self.buffer.get(..self.end).unwrap_or_default();
        let wanted = Header::peek(begun).and_then(|header| header.checked_size(MAX_MESSAGE_BYTES));
        if let Some(wanted) = wanted.filter(|wanted| *wanted > self.buffer.len()) {
            self.buffer.resize(wanted, 0);
        }
    }
}
