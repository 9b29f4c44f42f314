//! The control socket's connections: one line in, one line out, and events for those who watch.

use control::{Lines, MAX_LINE_BYTES, Reply, Request, decode, encode};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// How many bytes of events a connection may leave unread before it is closed. Requests need no such limit: the next
/// one is answered when the client has taken the answer to the last.
const MAX_BACKLOG_BYTES: usize = 4 * MAX_LINE_BYTES;

/// One client of the control socket.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    lines: Lines,
    /// A whole line waits in `lines`, where poll cannot see it.
    has_line: bool,
    output: Vec<u8>,
    watching: bool,
    closed: bool,
}

/// The connection is over.
#[derive(Debug)]
pub(crate) struct Over;

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            lines: Lines::default(),
            has_line: false,
            output: Vec::new(),
            watching: false,
            closed: false,
        })
    }

    /// Answers one request by `answer`, if there is one and the client has taken all that it was sent. One at a time,
    /// since the hosts wait meanwhile.
    pub(crate) fn service(&mut self, answer: impl FnOnce(&Request) -> Reply) -> Result<(), Over> {
        self.flush()?;
        if self.wants_write() {
            return Ok(());
        }
        if !self.has_line {
            self.read()?;
        }
        if let Some(line) = self.lines.next_line().map_err(|_| Over)? {
            let reply = match decode(&line) {
                Ok(Request::Watch) => {
                    self.watching = true;
                    Reply::Done
                }
                Ok(request) => answer(&request),
                Err(error) => Reply::Error { error: format!("this is no request: {error}") },
            };
            self.send(&encode(&reply).map_err(|_| Over)?)?;
        }
        self.has_line = self.lines.has_line();
        self.flush()
    }

    fn read(&mut self) -> Result<(), Over> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(Over),
            Ok(count) => {
                self.lines.push(chunk.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(())
            }
            Err(_) => Err(Over),
        }
    }

    /// Tells a client why it is not served; then drop the connection.
    pub(crate) fn refuse(mut self, why: String) {
        let told = encode(&Reply::Error { error: why }).map_err(|_| Over).and_then(|line| self.send(&line));
        if told.and_then(|()| self.flush()).is_err() {
            tracing::debug!("a control client that was turned away could not be told");
        }
    }

    pub(crate) fn is_watching(&self) -> bool {
        self.watching
    }

    /// Sends a line, when the client takes it.
    pub(crate) fn send(&mut self, line: &[u8]) -> Result<(), Over> {
        if self.output.len().saturating_add(line.len()) > MAX_BACKLOG_BYTES {
            tracing::warn!("a control client does not read its events; it is disconnected");
            return Err(Over);
        }
        self.output.extend_from_slice(line);
        Ok(())
    }

    /// Marks the connection for removal.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether to poll for reading: not while the client leaves its replies lying.
    pub(crate) fn wants_read(&self) -> bool {
        !self.has_line && self.output.is_empty()
    }

    pub(crate) fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether there is work that poll cannot see.
    pub(crate) fn again(&self) -> bool {
        self.has_line && self.output.is_empty()
    }

    /// Writes as much as the client takes.
    pub(crate) fn flush(&mut self) -> Result<(), Over> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(Over),
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Over),
            }
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
