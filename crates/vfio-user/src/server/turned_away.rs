//! A client for whom there is no place: it is told, and sent away.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::socket::{receive, send};
use crate::wire::{HEADER_BYTES, Header, emit_error};

/// A connection whose first message is answered by `EBUSY`, and nothing else.
///
/// Poll its descriptor for reading, call [`service`](Self::service) when it is ready, and drop it when that says so or when
/// you have waited long enough. QEMU reports "version reply: Device or resource busy" and hangs up, instead of an
/// end of file that could mean anything; it also reports that one if the connection is closed before it hangs up.
#[derive(Debug)]
pub struct TurnedAway {
    socket: UnixStream,
    /// The front of the first message, which is VERSION if the client is one.
    head: Vec<u8>,
    told: bool,
}

const READ_BYTES: usize = 4096;

impl TurnedAway {
    /// The client at the other end of `socket`.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, head: Vec::new(), told: false }
    }

    /// Reads once without waiting and answers if it can. Returns whether the client is gone; then drop it.
    pub fn service(&mut self) -> bool {
        let mut buffer = [0; READ_BYTES];
        // Descriptors that come with it are closed on the spot.
        let received = match receive(self.socket.as_fd(), &mut buffer, RecvFlags::DONTWAIT, drop) {
            Ok(received) if received.bytes == 0 => return true,
            Ok(received) => received.bytes,
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        };
        let missing = HEADER_BYTES.saturating_sub(self.head.len());
        self.head.extend_from_slice(buffer.get(..received.min(missing)).unwrap_or_default());
        let Some(header) = Header::peek(&self.head).filter(|_| !self.told) else { return false };
        self.told = true;
        if header.flags().is_request() && !header.flags().no_reply() {
            let mut reply = Vec::new();
            emit_error(header, Errno::BUSY, &mut reply);
            // Nothing was sent before, so there is room; a client that is gone wants no answer.
            if let Err(errno) = send(self.socket.as_fd(), &reply, &[], SendFlags::DONTWAIT) {
                tracing::debug!(%errno, "a client that was turned away could not be told");
            }
        }
        false
    }
}

impl AsFd for TurnedAway {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Client, ClientError};
    use crate::wire::{Capabilities, Command};
    use std::io::{Read, Write};

    #[test]
    fn a_client_hears_that_the_place_is_taken() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut turned = TurnedAway::new(ours);
        assert!(!turned.service(), "nothing has been said yet");
        let client =
            std::thread::spawn(move || Client::from_stream(theirs).unwrap().negotiate(&Capabilities::CLIENT));
        let mut rounds = 0;
        while {
            let mut fds = [rustix::event::PollFd::new(&turned, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, None).unwrap();
            !turned.service()
        } {
            rounds += 1;
        }
        assert_eq!(rounds, 1, "one message, then the client hangs up");
        let busy = Errno::BUSY.raw_os_error();
        let said = client.join().unwrap();
        assert!(
            matches!(said, Err(ClientError::Refused { command: Command::VERSION, errno }) if errno == busy),
            "{said:?}"
        );
    }

    #[test]
    fn one_that_stutters_gets_one_answer_and_one_that_leaves_none() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut turned = TurnedAway::new(ours);
        let hello = [7, 0, 1, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for &byte in hello.iter().chain(&hello) {
            theirs.write_all(&[byte]).unwrap();
            assert!(!turned.service());
        }
        drop(turned);
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, [7, 0, 1, 0, 16, 0, 0, 0, 0x21, 0, 0, 0, 16, 0, 0, 0]);

        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut turned = TurnedAway::new(ours);
        drop(theirs);
        assert!(turned.service());
    }

    #[test]
    fn nothing_is_answered_to_who_wants_no_answer() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut turned = TurnedAway::new(ours);
        theirs.write_all(&[7, 0, 10, 0, 16, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert!(!turned.service());
        drop(turned);
        assert_eq!(theirs.read(&mut [0; 32]).unwrap(), 0);
    }
}
