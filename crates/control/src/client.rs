//! A dialogue over anything that reads and writes.

use crate::{Event, LineTooLong, Lines, Reply, Request, decode, encode};
use std::collections::VecDeque;
use std::io::{self, Read, Write};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The stream failed, or ended where a reply was due.
    #[error("the twin's control connection failed")]
    Io(#[from] io::Error),
    /// What came is not the protocol.
    #[error("the twin's answer is not one of the control protocol's: is this an isthmus control socket?")]
    Protocol(#[from] serde_json::Error),
    /// A line that never ends.
    #[error(transparent)]
    TooLong(#[from] LineTooLong),
    /// The twin refused.
    #[error("the twin refused: {0}")]
    Refused(String),
}

/// The asking side of a control connection.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    lines: Lines,
    events: VecDeque<Event>,
}

impl<S: Read + Write> Client<S> {
    /// Over a connected stream. Time-outs are the stream's own.
    pub fn new(stream: S) -> Self {
        Self { stream, lines: Lines::default(), events: VecDeque::new() }
    }

    /// The stream, for instance to set its time-outs.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Sends a request and waits for its reply; events that come in between are kept for
    /// [`next_event`](Self::next_event).
    ///
    /// # Errors
    /// [`CallError::Refused`] when the twin says no; otherwise the connection is of no more use.
    pub fn call(&mut self, request: &Request) -> Result<Reply, CallError> {
        self.stream.write_all(&encode(request)?)?;
        loop {
            match self.read_reply()? {
                Reply::Event(event) => self.events.push_back(event),
                Reply::Error { error } => return Err(CallError::Refused(error)),
                reply => return Ok(reply),
            }
        }
    }

    /// The next event after [`Request::Watch`]; waits as long as the stream does.
    ///
    /// # Errors
    /// When the stream ends, times out or carries something else. A time-out loses nothing: call again.
    pub fn next_event(&mut self) -> Result<Event, CallError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        match self.read_reply()? {
            Reply::Event(event) => Ok(event),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a reply where an event was due").into()),
        }
    }

    fn read_reply(&mut self) -> Result<Reply, CallError> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(line) = self.lines.next_line()? {
                return Ok(decode(&line)?);
            }
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.lines.push(chunk.get(..count).unwrap_or_default());
        }
    }
}
