//! Replies on their way out: buffered, bounded, sent without waiting.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::socket::send;

/// Above this many unsent bytes no further request is taken.
const HIGH_WATER_BYTES: usize = 64 * 1024;
/// Nor above this many unsent file descriptors.
const HIGH_WATER_FDS: usize = 8;

#[derive(Debug)]
struct Attached {
    /// Indices of the first byte of its message, and of the byte after it.
    from: usize,
    to: usize,
    fd: OwnedFd,
}

/// Bytes of replies that the socket has not taken yet, and the file descriptors among them.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Unsent from `sent` on.
    pub(super) bytes: Vec<u8>,
    sent: usize,
    fds: VecDeque<Attached>,
    /// Nobody will read: replies go nowhere, requests that are already queued are still carried out.
    deaf: bool,
}

impl Output {
    /// Whether any byte is unsent.
    pub(super) fn is_pending(&self) -> bool {
        self.sent < self.bytes.len()
    }

    /// Whether so much is unsent that no further request should be taken.
    pub(super) fn is_backlogged(&self) -> bool {
        self.bytes.len().saturating_sub(self.sent) > HIGH_WATER_BYTES || self.fds.len() >= HIGH_WATER_FDS
    }

    #[cfg(test)]
    pub(super) fn held_fds(&self) -> usize {
        self.fds.len()
    }

    /// Sends `fd` beside the message that begins at index `from` of `bytes` and is the last one there.
    pub(super) fn attach(&mut self, from: usize, fd: OwnedFd) {
        self.fds.push_back(Attached { from, to: self.bytes.len(), fd });
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        while self.is_pending() && !self.deaf {
            match self.send_some(socket) {
                Ok(sent) => self.sent = self.sent.saturating_add(sent),
                Err(Errno::AGAIN) => {
                    self.forget_sent();
                    return Ok(());
                }
                Err(Errno::PIPE | Errno::CONNRESET) => self.deaf = true,
                Err(errno) => return Err(errno),
            }
        }
        self.bytes.clear();
        self.fds.clear();
        self.sent = 0;
        Ok(())
    }

    /// One send: a message with its file descriptor, or everything up to the next such message.
    fn send_some(&mut self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        if let Some(front) = self.fds.front()
            && front.from == self.sent
        {
            let bytes = self.bytes.get(self.sent..front.to).unwrap_or_default();
            let sent = send(socket, bytes, &[front.fd.as_fd()], SendFlags::DONTWAIT)?;
            // It went with the first byte, even if not all bytes did.
            self.fds.pop_front();
            return Ok(sent);
        }
        let to = self.fds.front().map_or(self.bytes.len(), |front| front.from);
        let bytes = self.bytes.get(self.sent..to).unwrap_or_default();
        send(socket, bytes, &[], SendFlags::DONTWAIT)
    }

    /// Keeps `bytes` from growing for ever under a client that reads slowly but never quite stops.
    fn forget_sent(&mut self) {
        let gone = self.sent;
        if gone > HIGH_WATER_BYTES {
            self.bytes.drain(..gone);
            self.sent = 0;
            for attached in &mut self.fds {
                attached.from = attached.from.saturating_sub(gone);
                attached.to = attached.to.saturating_sub(gone);
            }
        }
    }
}
