//! The server's side of one connection.
//!
//! [`ServerSession`] owns the socket and nothing else: no thread, no lock, no clock. The caller's event loop says
//! when to work, the caller's [`Device`] says what the answers are, and the session never waits.
//!
//! ```text
//!   socket ──recvmsg──▶ Input ──Message──▶ Desk ──▶ Device
//!      ▲     64 KiB     frames, fds        parse,     │
//!      │                                   judge      ▼
//!      └────sendmsg───── Output ◀──────────reply── Result
//! ```

mod counters;
mod device;
mod handle;
mod input;
mod output;
mod turned_away;

#[cfg(test)]
mod tests;

use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::RecvFlags;

pub use counters::{Counters, Refused};
pub use device::{Device, IrqChange, Mapping, Region, Vectors};
pub use turned_away::TurnedAway;

use crate::socket::receive;
use crate::wire::{Capabilities, Command, Flags, Header, emit_error};
use handle::{Desk, Work};
use input::{BadFrame, Fill, Input};
use output::Output;

/// One client's connection, driven by the caller's event loop.
///
/// Poll the session's descriptor for reading if [`wants_read`](Self::wants_read) and for writing if
/// [`wants_write`](Self::wants_write), and call [`service`](Self::service) when either is ready. It works on
/// blocking and non-blocking sockets alike: every call to the kernel says "do not wait" by itself.
///
/// Dropping it closes the socket and every file descriptor that it still holds. Messages that nobody has taken are
/// thrown away: see [`finish`](Self::finish).
#[derive(Debug)]
pub struct ServerSession {
    socket: UnixStream,
    input: Input,
    output: Output,
    desk: Desk,
    over: bool,
}

/// What [`ServerSession::service`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Messages that are done, refused ones too.
    pub handled: usize,
    /// What that cost, as [`ServerSession::service`] counts it.
    pub cost: usize,
    /// What to do next.
    pub next: Next,
}

/// When to call [`ServerSession::service`] again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// When the socket is readable.
    Readable,
    /// Soon, without polling: the budget ran out and messages may be buffered here, where poll cannot see them.
    Again,
    /// When others were heard: the next message wants an answer. Only [`ServerSession::service_posted`] says this.
    Question,
    /// When the device no longer [holds](Device::hold) the session: the last reply has not been sent.
    Held,
    /// When the socket is writable: the client does not fetch its replies, and gets no further ones until it does.
    Writable,
    /// Never: the client is gone. Drop the session; keep the device.
    Closed,
}

/// Which messages are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    /// Those that want no answer, up to the first one that does.
    Posted,
    /// The next one.
    One,
}

/// Why a session cannot go on. The client's maps and eventfds should be dropped with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A size in a header that cannot be right, so that nobody knows where the next message begins. The client
    /// has been sent an error reply.
    #[error("the client sent a {command} message of {size} bytes: not a possible size")]
    Framing {
        /// The header's command.
        command: Command,
        /// The header's size, in bytes.
        size: u32,
    },
    /// The socket failed.
    #[error("the client's socket failed: {0}")]
    Socket(Errno),
    /// The session ended earlier.
    #[error("the session is over")]
    Over,
}

impl ServerSession {
    /// A session with the client at the other end of `socket`, which must be a stream socket.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, input: Input::new(), output: Output::default(), desk: Desk::default(), over: false }
    }

    /// Sends pending replies, then takes messages, carries them out and answers them, until the socket has no more
    /// or `budget` (at least 1) is spent. Never waits.
    ///
    /// A message costs 1, one that moves many bytes 1 more for each KiB, and a multiple write 1 for each of its records; it
    /// goes on at the next call if they are more than the budget has left. So a call is as short as the
    /// budget says, whatever the client sends.
    ///
    /// Replies are sent before the socket is read again, and before it returns.
    ///
    /// # Errors
    /// The session is over: see [`SessionError`]. A bad request is not an error here, it is answered with one.
    pub fn service<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        budget: usize,
    ) -> Result<Progress, SessionError> {
        self.take(device, budget, Scope::All)
    }

    /// The same, up to the first message that wants an answer: that one stays.
    ///
    /// For whoever has several sessions on one device. Two clients that know of each other expect that a question which is
    /// asked after the other's posted write sees that write. So: before a [`service_question`](Self::service_question), all
    /// others are served by this.
    ///
    /// # Errors
    /// As [`service`](Self::service).
    pub fn service_posted<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        budget: usize,
    ) -> Result<Progress, SessionError> {
        self.take(device, budget, Scope::Posted)
    }

    /// The same for one message, whatever it is: the one that [`service_posted`](Self::service_posted) left.
    ///
    /// # Errors
    /// As [`service`](Self::service).
    pub fn service_question<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        budget: usize,
    ) -> Result<Progress, SessionError> {
        self.take(device, budget, Scope::One)
    }

    fn take<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        budget: usize,
        scope: Scope,
    ) -> Result<Progress, SessionError> {
        if self.over {
            return Err(SessionError::Over);
        }
        let result = self.run(device, budget.max(1), scope);
        self.over = !matches!(&result, Ok(progress) if progress.next != Next::Closed);
        result
    }

    fn run<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        budget: usize,
        scope: Scope,
    ) -> Result<Progress, SessionError> {
        let Self { socket, input, output, desk, over: _ } = self;
        let socket = socket.as_fd();
        let (mut handled, mut spent): (usize, usize) = (0, 0);
        loop {
            loop {
                if output.is_backlogged() {
                    output.flush(socket).map_err(SessionError::Socket)?;
                    if output.is_backlogged() {
                        return Ok(Progress { handled, cost: spent, next: Next::Writable });
                    }
                }
                if spent >= budget {
                    output.flush(socket).map_err(SessionError::Socket)?;
                    return Ok(Progress { handled, cost: spent, next: Next::Again });
                }
                if scope == Scope::Posted && input.asks() {
                    output.flush(socket).map_err(SessionError::Socket)?;
                    return Ok(Progress { handled, cost: spent, next: Next::Question });
                }
                let Work { cost, finished } = match input.next() {
                    Ok(Some(message)) => desk.handle(message, device, output, budget.saturating_sub(spent)),
                    Ok(None) => break,
                    Err(BadFrame(header)) => return Err(reject(&header, output, socket)),
                };
                spent = spent.saturating_add(cost);
                if finished {
                    handled = handled.saturating_add(1);
                } else {
                    input.put_back();
                }
                let held = device.hold();
                if scope == Scope::One && !held {
                    output.flush(socket).map_err(SessionError::Socket)?;
                    return Ok(Progress { handled, cost: spent, next: Next::Again });
                }
                if held {
                    return Ok(Progress { handled, cost: spent, next: Next::Held });
                }
            }
            if output.is_pending() {
                output.flush(socket).map_err(SessionError::Socket)?;
            }
            match input.fill(socket).map_err(SessionError::Socket)? {
                Fill::Bytes { fds } => counters::add(&mut desk.counters.fds, fds),
                Fill::WouldBlock => return Ok(Progress { handled, cost: spent, next: Next::Readable }),
                Fill::Eof => {
                    if input.has_partial() {
                        tracing::debug!("the client left in the middle of a message");
                    }
                    return Ok(Progress { handled, cost: spent, next: Next::Closed });
                }
            }
        }
    }

    /// Ends the session in order: what the client has sent is carried out and answered, what it sends from now on fails
    /// at its end. Never waits.
    ///
    /// A client that waits for an answer at this moment gets it. Otherwise QEMU would report a failure for an access that was
    /// made in time.
    pub fn finish<D: Device + ?Sized>(mut self, device: &mut D) {
        // No more can come in after this, so the work has an end; what is queued can still be read.
        self.stop_receiving();
        loop {
            match self.service(device, usize::MAX) {
                // Whatever the device waits for, there is nobody left to wait for it; a message was taken, so this ends.
                Ok(Progress { next: Next::Held, .. }) => {}
                Ok(Progress { next: Next::Writable, .. }) => {
                    tracing::debug!("the client does not fetch its last replies");
                    return;
                }
                _ => return,
            }
        }
    }

    fn stop_receiving(&self) {
        if let Err(error) = self.socket.shutdown(Shutdown::Read) {
            tracing::debug!(%error, "the client's socket cannot be shut down");
        }
    }

    /// Sends pending replies, without waiting and without taking requests.
    ///
    /// # Errors
    /// [`SessionError::Socket`] if the socket fails.
    pub fn flush(&mut self) -> Result<(), SessionError> {
        self.output.flush(self.socket.as_fd()).map_err(SessionError::Socket)
    }

    /// Whether to poll for reading: not while the client leaves its replies lying.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        !self.output.is_backlogged()
    }

    /// Whether to poll for writing: replies are pending.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.output.is_pending()
    }

    /// What the client said of itself in VERSION; `None` until it has.
    #[must_use]
    pub fn client(&self) -> Option<&Capabilities> {
        self.desk.client()
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.desk.counters
    }
}

impl Drop for ServerSession {
    /// A socket that is closed with unread bytes gives its peer a reset (`unix_release_sock`: `ECONNRESET`) where otherwise
    /// there is an end of file, and QEMU 11.1 does not survive one: it aborts by an assertion in `error_setv`.
    fn drop(&mut self) {
        self.stop_receiving();
        let mut chunk = [0; 4096];
        let mut read = || receive(self.socket.as_fd(), &mut chunk, RecvFlags::DONTWAIT, drop);
        while read().is_ok_and(|received| received.bytes > 0) {}
    }
}

impl AsFd for ServerSession {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Tells the client, if it wants to hear, and gives up: the bytes that follow mean nothing.
fn reject(header: &Header, output: &mut Output, socket: BorrowedFd<'_>) -> SessionError {
    if !Flags::no_reply(header.flags()) {
        emit_error(header, Errno::INVAL, &mut output.bytes);
        // As good as it gets: the session ends either way.
        if let Err(errno) = output.flush(socket) {
            tracing::debug!(%errno, "the error reply could not be sent");
        }
    }
    SessionError::Framing { command: header.command(), size: header.size() }
}
