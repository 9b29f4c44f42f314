//! The control socket's connections: one line in, one line out, and events for those who watch.

use control::{Event, Lines, MAX_LINE_BYTES, Reply, Request, decode, encode};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// What a connection may leave unread before it is closed. A register dump of both ports is about 60 KiB.
const MAX_BACKLOG_BYTES: usize = 4 * MAX_LINE_BYTES;

/// One client of the control socket.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    lines: Lines,
    output: Vec<u8>,
    watching: bool,
    closed: bool,
    overlay: bool,
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
            output: Vec::new(),
            watching: false,
            closed: false,
            overlay: false,
        })
    }

    /// Reads what is there, and answers each whole line by `answer`.
    pub(crate) fn service(&mut self, mut answer: impl FnMut(&Request) -> Reply) -> Result<(), Over> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err(Over),
            Ok(count) => self.lines.push(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Over),
        }
        while let Some(line) = self.lines.next_line().map_err(|_| Over)? {
            let reply = match decode(&line) {
                Ok(Request::Watch) => {
                    self.watching = true;
                    Reply::Done
                }
                Ok(Request::Overlay) => {
                    self.overlay = true;
                    Reply::Done
                }
                Ok(request) => answer(&request),
                Err(error) => Reply::Error { error: format!("this is no request: {error}") },
            };
            self.send(&reply)?;
        }
        self.flush()
    }

    /// Tells a watcher.
    pub(crate) fn tell(&mut self, event: Event) -> Result<(), Over> {
        if self.watching { self.send(&Reply::Event(event)) } else { Ok(()) }
    }

    fn send(&mut self, reply: &Reply) -> Result<(), Over> {
        let line = encode(reply).map_err(|_| Over)?;
        if self.output.len().saturating_add(line.len()) > MAX_BACKLOG_BYTES {
            tracing::warn!("a control client does not read its replies; it is disconnected");
            return Err(Over);
        }
        self.output.extend_from_slice(&line);
        Ok(())
    }

    /// Whether an overlay has introduced itself here: the stream is for orders from now on.
    pub(crate) fn is_overlay(&self) -> bool {
        self.overlay && self.output.is_empty()
    }

    /// The stream, for whoever goes on with it.
    pub(crate) fn stream(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// Marks the connection for removal.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Writes as much as the client takes.
    pub(crate) fn flush(&mut self) -> Result<(), Over> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(Over),
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
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
