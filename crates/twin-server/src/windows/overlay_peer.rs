//! The twin's end of an overlay's connection: one order under way at a time, with a deadline.

use control::{FileRange, Lines, OverlayAnswer, OverlayCommand, Piece, decode, encode};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use shm::SharedFile;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an overlay may take for an order. QEMU gives a device 5 s, and an order holds up a guest.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// An order and whoever wants to know what became of it.
#[derive(Debug)]
pub(crate) struct Order<T> {
    pub(crate) target: FileRange,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) files: Vec<Arc<SharedFile>>,
    pub(crate) close_on_hangup: bool,
    pub(crate) tag: T,
}

/// A connected overlay.
#[derive(Debug)]
pub(crate) struct OverlayPeer<T> {
    stream: UnixStream,
    lines: Lines,
    queue: VecDeque<Order<T>>,
    under_way: Option<UnderWay<T>>,
    next_id: u64,
}

#[derive(Debug)]
struct UnderWay<T> {
    id: u64,
    tag: T,
    deadline: Instant,
    /// What is not sent yet, and the files that go with its first byte.
    line: Vec<u8>,
    sent: usize,
    files: Vec<Arc<SharedFile>>,
}

/// What became of an order.
#[derive(Debug)]
pub(crate) struct Outcome<T> {
    pub(crate) tag: T,
    pub(crate) result: Result<Duration, String>,
}

/// The overlay cannot be relied on any more: it left, it broke the protocol, or it did not answer in time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("the overlay's connection ended")]
    Gone,
    #[error("the overlay's answer is not one")]
    Protocol,
    #[error("the overlay did not answer within {} s", PATIENCE.as_secs())]
    Silent,
}

impl<T: Copy> OverlayPeer<T> {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, lines: Lines::default(), queue: VecDeque::new(), under_way: None, next_id: 1 })
    }

    pub(crate) fn order(&mut self, order: Order<T>) -> Result<(), Lost> {
        self.queue.push_back(order);
        self.send()
    }

    pub(crate) fn wants_write(&self) -> bool {
        self.under_way.as_ref().is_some_and(|now| now.sent < now.line.len())
    }

    /// When the order under way is late.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.under_way.as_ref().map(|now| now.deadline)
    }

    /// Reads and sends what is possible, and says what became of an order if one is done.
    pub(crate) fn service(&mut self) -> Result<Option<Outcome<T>>, Lost> {
        self.send()?;
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err(Lost::Gone),
            Ok(count) => self.lines.push(chunk.get(..count).unwrap_or_default()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return Err(Lost::Gone),
        }
        let Some(line) = self.lines.next_line().map_err(|_| Lost::Protocol)? else {
            return match self.deadline() {
                Some(deadline) if Instant::now() >= deadline => Err(Lost::Silent),
                _ => Ok(None),
            };
        };
        let answer: OverlayAnswer = decode(&line).map_err(|_| Lost::Protocol)?;
        let now = self.under_way.take().filter(|now| now.id == answer.id).ok_or(Lost::Protocol)?;
        self.send()?;
        let took = Duration::from_nanos(answer.took_ns);
        Ok(Some(Outcome { tag: now.tag, result: answer.error.map_or(Ok(took), Err) }))
    }

    /// Takes up the next order if none is under way, and sends what the socket takes.
    fn send(&mut self) -> Result<(), Lost> {
        if self.under_way.is_none()
            && let Some(order) = self.queue.pop_front()
        {
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            let Order { target, pieces, files, close_on_hangup, tag } = order;
            let command = OverlayCommand { id, target, pieces, close_on_hangup };
            let line = encode(&command).map_err(|_| Lost::Protocol)?;
            let deadline = Instant::now().checked_add(PATIENCE).ok_or(Lost::Silent)?;
            self.under_way = Some(UnderWay { id, tag, deadline, line, sent: 0, files });
        }
        let Some(now) = &mut self.under_way else { return Ok(()) };
        while let Some(rest) = now.line.get(now.sent..).filter(|rest| !rest.is_empty()) {
            let fds: Vec<BorrowedFd<'_>> = now.files.iter().map(|file| file.as_fd()).collect();
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(control::MAX_OVERLAY_FILES))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(Lost::Protocol);
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.stream, &[IoSlice::new(rest)], &mut ancillary, flags) {
                Ok(count) => {
                    now.sent = now.sent.saturating_add(count);
                    // The descriptors went with the first byte.
                    now.files.clear();
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Lost::Gone),
            }
        }
        Ok(())
    }
}

impl<T> AsFd for OverlayPeer<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
