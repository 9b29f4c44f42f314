//! The overlay's end of the control connection.

use crate::{OverlayError, Overlays};
use control::{Lines, MAX_OVERLAY_FILES, OverlayAnswer, OverlayCommand, Reply, Request, decode, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send, sockopt::socket_peercred,
};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

/// Why the overlay serves no twin.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The connection failed or ended.
    #[error("the twin's control socket failed")]
    Io(#[from] io::Error),
    /// Somebody else's process listens there.
    #[error(
        "the twin's control socket belongs to user {0}: only our own user and root may change our memory"
    )]
    Stranger(u32),
    /// What came is not the protocol.
    #[error("the twin's control socket speaks something else")]
    Protocol,
}

/// A connection that has said what it is, and waits for orders.
#[derive(Debug)]
pub(crate) struct Agent {
    stream: UnixStream,
    lines: Lines,
    files: Vec<OwnedFd>,
}

/// Serves a twin from this process until the connection ends, and closes what has to be closed then.
///
/// # Errors
/// [`AgentError`] when it could not begin.
pub fn serve(control: &Path, overlays: &mut Overlays) -> Result<(), AgentError> {
    Agent::connect(control)?.run(overlays);
    Ok(())
}

impl Agent {
    /// Connects and introduces itself; does not wait for the answer.
    pub(crate) fn connect(control: &Path) -> Result<Self, AgentError> {
        let stream = UnixStream::connect(control)?;
        let peer = socket_peercred(&stream).map_err(io::Error::from)?.uid;
        if !peer.is_root() && peer != rustix::process::geteuid() {
            return Err(AgentError::Stranger(peer.as_raw()));
        }
        let hello = encode(&Request::Overlay).map_err(|_| AgentError::Protocol)?;
        let agent = Self::on(stream);
        agent.say(&hello)?;
        Ok(agent)
    }

    /// An agent on a connection whose other end knows what it is.
    pub(crate) fn on(stream: UnixStream) -> Self {
        Self { stream, lines: Lines::default(), files: Vec::new() }
    }

    /// Waits until the twin has taken note of it: every host that attaches from now on has an overlay.
    pub(crate) fn welcome(&mut self) -> Result<(), AgentError> {
        let hello = self.line()?;
        if matches!(decode(&hello), Ok(Reply::Done)) { Ok(()) } else { Err(AgentError::Protocol) }
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(crate) fn run(mut self, overlays: &mut Overlays) {
        // An end of the connection, however it comes, means that the twin is gone.
        drop(self.welcome().and_then(|()| self.serve(|command, files| overlays.apply(command, files))));
        overlays.hang_up();
    }

    /// Carries out orders until the connection ends.
    pub(crate) fn serve(
        &mut self,
        mut obey: impl FnMut(&OverlayCommand, &[BorrowedFd<'_>]) -> Result<(), OverlayError>,
    ) -> Result<(), AgentError> {
        loop {
            let line = self.line()?;
            let command: OverlayCommand = decode(&line).map_err(|_| AgentError::Protocol)?;
            // A process that was stopped finds orders that the twin has given up since: what they say is true no more.
            if self.has_hung_up()? {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let files = std::mem::take(&mut self.files);
            let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            let began = Instant::now();
            let result = obey(&command, &borrowed);
            let took_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let answer =
                OverlayAnswer { id: command.id, error: result.err().map(|error| error.to_string()), took_ns };
            self.say(&encode(&answer).map_err(|_| AgentError::Protocol)?)?;
        }
    }

    /// Sends all of it, without the signal that a closed socket raises: in QEMU's first moments it would end QEMU.
    fn say(&self, line: &[u8]) -> io::Result<()> {
        let mut rest = line;
        while !rest.is_empty() {
            let sent = rustix::io::retry_on_intr(|| send(&self.stream, rest, SendFlags::NOSIGNAL))?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    fn has_hung_up(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec::default())))?;
        Ok(fds.iter().any(|fd| !fd.revents().is_empty()))
    }

    /// The next line. The twin sends one order at a time, so what descriptors come meanwhile are this line's.
    fn line(&mut self) -> Result<Vec<u8>, AgentError> {
        loop {
            if let Some(line) = self.lines.next_line().map_err(|_| AgentError::Protocol)? {
                return Ok(line);
            }
            let mut bytes = [0; 8192];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_OVERLAY_FILES))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::io::retry_on_intr(|| {
                recvmsg(
                    &self.stream,
                    &mut [IoSliceMut::new(&mut bytes)],
                    &mut ancillary,
                    RecvFlags::CMSG_CLOEXEC,
                )
            })
            .map_err(io::Error::from)?;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(files) = message {
                    self.files.extend(files);
                }
            }
            if self.files.len() > MAX_OVERLAY_FILES {
                return Err(AgentError::Protocol);
            }
            match bytes.get(..received.bytes) {
                Some([]) | None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Some(some) => self.lines.push(some),
            }
        }
    }
}
