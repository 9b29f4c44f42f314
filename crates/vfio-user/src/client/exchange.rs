//! One question and its answer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags};

use super::{Client, ClientError, socket_error};
use crate::socket;
use crate::wire::{HEADER_BYTES, Header, MAX_MESSAGE_BYTES, MAX_MESSAGE_FDS, Request};

impl Client {
    /// Sends `request` and waits for its reply, whose body, of at most `room` bytes, is then in `self.body`.
    pub(super) fn ask(
        &mut self,
        request: Request<'_>,
        fds: &[BorrowedFd<'_>],
        room: usize,
    ) -> Result<Vec<OwnedFd>, ClientError> {
        let (id, command) = (self.new_id(), request.command());
        self.out.clear();
        request.emit(id, crate::wire::Flags::COMMAND, &mut self.out);
        self.send_out(fds)?;
        let (header, fds) = self.receive(HEADER_BYTES.saturating_add(room).min(MAX_MESSAGE_BYTES))?;
        if !header.flags().is_reply() {
            return Err(self.fail(ClientError::Protocol("a request, which we do not serve")));
        }
        if (header.id(), header.command()) != (id, command) {
            return Err(self.fail(ClientError::Protocol("a reply to another request")));
        }
        if header.flags().is_error() {
            // Anything beyond an errno's range is as good as none.
            let errno = i32::try_from(header.error()).ok().filter(|errno| (1..4096).contains(errno));
            return Err(ClientError::Refused { command, errno: errno.unwrap_or(0) });
        }
        Ok(fds)
    }

    /// Sends `self.out`, with `fds` beside the first byte.
    pub(super) fn send_out(&mut self, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        if self.broken {
            return Err(ClientError::Broken);
        }
        if fds.len() > MAX_MESSAGE_FDS {
            return Err(ClientError::TooMuch);
        }
        let (mut rest, mut fds) = (self.out.as_slice(), fds);
        while !rest.is_empty() {
            match socket::send(self.stream.as_fd(), rest, fds, SendFlags::empty()) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    fds = &[];
                }
                Err(errno) => {
                    self.broken = true;
                    return Err(socket_error(errno));
                }
            }
        }
        Ok(())
    }

    /// Receives one message of at most `limit` bytes, and not a byte more.
    pub(super) fn receive(&mut self, limit: usize) -> Result<(Header, Vec<OwnedFd>), ClientError> {
        if self.broken {
            return Err(ClientError::Broken);
        }
        match self.try_receive(limit) {
            Ok(received) => Ok(received),
            Err(error) => Err(self.fail(error)),
        }
    }

    fn try_receive(&mut self, limit: usize) -> Result<(Header, Vec<OwnedFd>), ClientError> {
        let mut fds = Vec::new();
        let mut head = [0; HEADER_BYTES];
        fill(self.stream.as_fd(), &mut head, &mut fds)?;
        let Some(&header) = Header::peek(&head) else { return Err(ClientError::Closed) };
        let Some(size) = header.checked_size(limit) else {
            return Err(ClientError::Protocol("a message of a size that cannot be"));
        };
        self.body.clear();
        self.body.resize(size.saturating_sub(HEADER_BYTES), 0);
        fill(self.stream.as_fd(), &mut self.body, &mut fds)?;
        Ok((header, fds))
    }
}

/// Receives until `buffer` is full.
fn fill(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<(), ClientError> {
    let mut rest = buffer;
    while !rest.is_empty() {
        let received =
            socket::receive(socket, rest, RecvFlags::empty(), |fd| fds.push(fd)).map_err(socket_error)?;
        if received.cut || fds.len() > MAX_MESSAGE_FDS {
            return Err(ClientError::Protocol("too many file descriptors"));
        }
        if received.bytes == 0 {
            return Err(ClientError::Closed);
        }
        rest = rest.get_mut(received.bytes..).unwrap_or_default();
    }
    Ok(())
}
