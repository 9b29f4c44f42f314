//! Capture: what an interface receives, in a packed stream; and what is in the stream, in a file.
//!
//! ```text
//!   Vi (a sniff filter) ─poll▶ Recorder ─▶ stream ══ another thread, or process ══ FileWriter ─▶ pcapng
//! ```
//!
//! The thread that polls never waits for the disk: where the stream is full, the frame is lost and counted, and the file
//! says so, before the next frame and at its end.

use crate::clock::{Clock, PeerOffset, Stamp, SyncFlags};
use crate::packet::Packet;
use crate::pcapng::{Direction, FrameMeta, InterfaceCounts, MOST_FRAME_BYTES, Writer};
use crate::stream::{RecordFlags, RecordHeader, StreamError, StreamReader, StreamWriter};
use shm::{Memory, Window};
use std::io::{self, Write};

/// Whose time a captured frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeOf {
    /// When it was taken from its lane, by this host's clock.
    #[default]
    Receiver,
    /// When it was sent: by the receiver's clock, once [it is known](Recorder::set_peer) how the sender's stands to it, and until then by
    /// the sender's. When it was taken, where the lane carries no times.
    Sender,
}

/// Puts packets into a stream, one record for each frame.
#[derive(Debug)]
pub struct Recorder {
    clock: Clock,
    time_of: TimeOf,
    peer: Option<PeerOffset>,
    snap_bytes: usize,
    /// A frame of several packets, as far as it has come; cut at `snap_bytes`.
    parts: Vec<u8>,
    parts_bytes: usize,
    parts_header: RecordHeader,
    frames: u64,
    broken: u64,
}

impl Recorder {
    /// Frames are cut at `snap_bytes`, and at [`MOST_FRAME_BYTES`].
    #[must_use]
    pub fn new(clock: Clock, time_of: TimeOf, snap_bytes: usize) -> Self {
        Self {
            clock,
            time_of,
            peer: None,
            snap_bytes: snap_bytes.min(MOST_FRAME_BYTES),
            parts: Vec::new(),
            parts_bytes: 0,
            parts_header: RecordHeader::default(),
            frames: 0,
            broken: 0,
        }
    }

    /// How the sender's clock stands to this one, from now on.
    pub fn set_peer(&mut self, peer: Option<PeerOffset>) {
        self.peer = peer;
    }

    /// Frames that came, those that found no room in the stream too.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Frames of several packets of which one was missing. They are not in the stream.
    #[must_use]
    pub fn broken(&self) -> u64 {
        self.broken
    }

    /// Appends a packet. A frame that came in several is appended with its last one. Publish the stream after a poll's worth.
    ///
    /// # Errors
    /// [`StreamError`]: the stream is over.
    pub fn record<D, O: Window, M: Memory, S: Memory>(
        &mut self,
        packet: &Packet<'_, D, O, M>,
        stream: &mut StreamWriter<S>,
    ) -> Result<(), StreamError> {
        if packet.starts() && !packet.continues() {
            self.frames += 1;
            self.give_up();
            return stream.append_packet(self.header(packet), packet, self.snap_bytes).map(drop);
        }
        self.part(packet, stream)
    }

    #[cold]
    fn part<D, O: Window, M: Memory, S: Memory>(
        &mut self,
        packet: &Packet<'_, D, O, M>,
        stream: &mut StreamWriter<S>,
    ) -> Result<(), StreamError> {
        if packet.starts() {
            self.give_up();
            self.parts_header = self.header(packet);
        } else if self.parts_bytes == 0 {
            // Its beginning is missing: another part of it told so, or this is the first.
            self.broken += u64::from(!packet.continues());
            return Ok(());
        }
        let begin = self.parts.len();
        let some = packet.len().min(self.snap_bytes.saturating_sub(begin));
        self.parts.resize(begin + some, 0);
        packet.read(0, self.parts.get_mut(begin..).unwrap_or_default())?;
        self.parts_bytes = self.parts_bytes.saturating_add(packet.len());
        if packet.continues() {
            return Ok(());
        }
        self.frames += 1;
        let appended = stream.append_cut(self.parts_header, &self.parts, self.parts_bytes);
        self.parts.clear();
        self.parts_bytes = 0;
        appended.map(drop)
    }

    /// A frame whose end never came.
    fn give_up(&mut self) {
        if self.parts_bytes > 0 {
            self.broken += 1;
            self.parts.clear();
            self.parts_bytes = 0;
        }
    }

    fn header<D, O: Window, M: Memory>(&self, packet: &Packet<'_, D, O, M>) -> RecordHeader {
        let stamp = match (self.time_of, packet.stamp()) {
            (TimeOf::Sender, Some(ns)) => match self.peer {
                Some(peer) => Stamp {
                    ns: peer.to_mine(ns).unwrap_or(ns),
                    bound_ns: peer.bound_ns.saturating_add(peer.peer_bound_ns),
                    flags: peer.flags,
                },
                // How good the sender's clock is, is the sender's to know.
                None => Stamp { ns, bound_ns: 0, flags: SyncFlags::default() },
            },
            _ => self.clock.now(),
        };
        RecordHeader { filter: packet.filter().number(), ..RecordHeader::at(stamp) }
    }
}

/// Writes what is in a stream to a pcapng file.
#[derive(Debug)]
pub struct FileWriter<W> {
    file: Writer<W>,
    interface: u32,
    clock: Clock,
    frame: Vec<u8>,
    frames: u64,
    frame_bytes: u64,
    lost: u64,
    begin_utc_ns: u64,
}

/// Why a stream is not written on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The stream is over.
    #[error("the stream of captured frames")]
    Stream(#[from] StreamError),
    /// The file cannot be written.
    #[error("writing the file, behind {frames} frames")]
    Write {
        /// Frames that are in the file.
        frames: u64,
        /// Why.
        source: io::Error,
    },
}

impl<W: Write> FileWriter<W> {
    /// Begins a file with one interface of this name; `clock` makes times of files from those of the stream.
    ///
    /// # Errors
    /// [`CaptureError::Write`].
    pub fn new(
        out: W,
        name: &str,
        description: &str,
        snap_bytes: u32,
        clock: Clock,
    ) -> Result<Self, CaptureError> {
        let begin = || -> io::Result<_> {
            let mut file = Writer::new(out, concat!("isthmus ", env!("CARGO_PKG_VERSION")))?;
            let interface = file.interface(name, description, snap_bytes)?;
            Ok((file, interface))
        };
        let (file, interface) = begin().map_err(|source| CaptureError::Write { frames: 0, source })?;
        let begin_utc_ns = clock.utc_ns(clock.now_ns());
        Ok(Self {
            file,
            interface,
            clock,
            frame: Vec::new(),
            frames: 0,
            frame_bytes: 0,
            lost: 0,
            begin_utc_ns,
        })
    }

    /// Frames written.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Their bytes.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        self.frame_bytes
    }

    /// Frames that were lost between those that were written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Writes what the stream has, `most` frames at most; how many those were.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn write<M: Memory>(&mut self, stream: &mut StreamReader<M>, most: u64) -> Result<u64, CaptureError> {
        let before = self.frames;
        let mut batch = stream.batch()?;
        while self.frames - before < most
            && let Some(record) = batch.next()?
        {
            let header = record.header();
            record.copy_to(&mut self.frame).map_err(StreamError::from)?;
            let lost_before = u64::from(header.lost_before);
            let meta = FrameMeta {
                utc_ns: self.clock.utc_ns(header.ns()),
                original_bytes: header.original_bytes.max(header.captured_bytes),
                direction: if header.flags.contains(RecordFlags::SENT) {
                    Direction::Out
                } else {
                    Direction::In
                },
                lost_before,
            };
            let written = self.file.frame(self.interface, &meta, &self.frame);
            written.map_err(|source| CaptureError::Write { frames: self.frames, source })?;
            self.lost += lost_before;
            self.frames += 1;
            self.frame_bytes += self.frame.len() as u64;
        }
        Ok(self.frames - before)
    }

    /// Writes what was counted, and ends the file. `received` is how many frames came; those that are not in the
    /// file were lost.
    ///
    /// # Errors
    /// [`CaptureError::Write`].
    pub fn finish(mut self, received: u64) -> Result<W, CaptureError> {
        let frames = self.frames;
        let counts = InterfaceCounts {
            begin_utc_ns: self.begin_utc_ns,
            end_utc_ns: self.clock.utc_ns(self.clock.now_ns()),
            received,
            dropped: received.saturating_sub(frames),
            delivered: frames,
        };
        let ended = self.file.counts(self.interface, &counts).and_then(|()| self.file.finish());
        ended.map_err(|source| CaptureError::Write { frames, source })
    }

    /// Hands what was written so far to the system.
    ///
    /// # Errors
    /// [`CaptureError::Write`].
    pub fn flush(&mut self) -> Result<(), CaptureError> {
        let frames = self.frames;
        self.file.get_mut().flush().map_err(|source| CaptureError::Write { frames, source })
    }
}
