//! Writing pcapng (draft-ietf-opsawg-pcapng), little-endian, nanoseconds.

use super::{ETHERNET, MOST_FRAME_BYTES};
use crate::bits::{low16, low32};
use std::io::{self, Write};

const SECTION: u32 = 0x0A0D_0D0A;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1A2B_3C4D;

/// Codes of options, by block.
mod code {
    pub(super) const END: u16 = 0;
    pub(super) const SHB_USER_APPLICATION: u16 = 4;
    pub(super) const IF_NAME: u16 = 2;
    pub(super) const IF_DESCRIPTION: u16 = 3;
    pub(super) const IF_TSRESOL: u16 = 9;
    pub(super) const EPB_FLAGS: u16 = 2;
    pub(super) const EPB_DROP_COUNT: u16 = 4;
    pub(super) const ISB_START: u16 = 2;
    pub(super) const ISB_END: u16 = 3;
    pub(super) const ISB_RECEIVED: u16 = 4;
    pub(super) const ISB_DROPPED: u16 = 5;
    pub(super) const ISB_DELIVERED: u16 = 8;
}

/// Which way a frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// The file does not say.
    #[default]
    Unknown,
    /// Received.
    In,
    /// Sent.
    Out,
}

/// What is known of a frame beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameMeta {
    /// Nanoseconds since 1970, UTC.
    pub utc_ns: u64,
    /// Bytes that the frame had; more than are in the file, where it was cut.
    pub original_bytes: u32,
    /// Which way it went.
    pub direction: Direction,
    /// Frames lost between the one before and this one.
    pub lost_before: u64,
}

/// What an interface counted while it was captured from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterfaceCounts {
    /// When the capture began, in nanoseconds since 1970, UTC.
    pub begin_utc_ns: u64,
    /// When it ended, or when this is written.
    pub end_utc_ns: u64,
    /// Frames that came.
    pub received: u64,
    /// Frames of these that were lost for want of room.
    pub dropped: u64,
    /// Frames that are in the file.
    pub delivered: u64,
}

/// Writes one section. Wrap what is slow in a [`BufWriter`](io::BufWriter): each block is one call.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    block: Vec<u8>,
    interfaces: u32,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file; `application` is who says to have written it.
    ///
    /// # Errors
    /// What `out` says.
    pub fn new(out: W, application: &str) -> io::Result<Self> {
        let mut writer = Self { out, block: Vec::with_capacity(4096), interfaces: 0, bytes: 0 };
        writer.begin(SECTION);
        writer.put(&BYTE_ORDER.to_le_bytes());
        // Version 1.0, of a length that is not known beforehand.
        writer.put(&[1, 0, 0, 0]);
        writer.put(&u64::MAX.to_le_bytes());
        writer.option(code::SHB_USER_APPLICATION, application.as_bytes());
        writer.option(code::END, &[]);
        writer.end()?;
        Ok(writer)
    }

    /// Describes one more interface; its number. `snap_bytes` is where frames are cut; 0 is nowhere.
    ///
    /// # Errors
    /// What `out` says.
    pub fn interface(&mut self, name: &str, description: &str, snap_bytes: u32) -> io::Result<u32> {
        self.begin(INTERFACE);
        self.put(&ETHERNET.to_le_bytes());
        self.put(&[0; 2]);
        self.put(&snap_bytes.to_le_bytes());
        self.option(code::IF_NAME, name.as_bytes());
        self.option(code::IF_DESCRIPTION, description.as_bytes());
        self.option(code::IF_TSRESOL, &[9]);
        self.option(code::END, &[]);
        self.end()?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// What `out` says; [`io::ErrorKind::InvalidInput`] for an interface that was not described, and for a frame that
    /// is longer than [`MOST_FRAME_BYTES`] or than it says it was.
    pub fn frame(&mut self, interface: u32, meta: &FrameMeta, frame: &[u8]) -> io::Result<()> {
        self.known(interface)?;
        if frame.len() > MOST_FRAME_BYTES || frame.len() > meta.original_bytes as usize {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame that is longer than it can be"));
        }
        self.begin(PACKET);
        self.put(&interface.to_le_bytes());
        self.time(meta.utc_ns);
        self.put(&low32(frame.len() as u64).to_le_bytes());
        self.put(&meta.original_bytes.to_le_bytes());
        self.put(frame);
        self.pad();
        let direction = match meta.direction {
            Direction::Unknown => 0_u32,
            Direction::In => 1,
            Direction::Out => 2,
        };
        if direction != 0 {
            self.option(code::EPB_FLAGS, &direction.to_le_bytes());
        }
        if meta.lost_before > 0 {
            self.option(code::EPB_DROP_COUNT, &meta.lost_before.to_le_bytes());
        }
        if direction != 0 || meta.lost_before > 0 {
            self.option(code::END, &[]);
        }
        self.end()
    }

    /// Writes what an interface counted. The last one in the file is what Wireshark shows.
    ///
    /// # Errors
    /// What `out` says; [`io::ErrorKind::InvalidInput`] for an interface that was not described.
    pub fn counts(&mut self, interface: u32, counts: &InterfaceCounts) -> io::Result<()> {
        self.known(interface)?;
        self.begin(STATISTICS);
        self.put(&interface.to_le_bytes());
        self.time(counts.end_utc_ns);
        for (code, ns) in [(code::ISB_START, counts.begin_utc_ns), (code::ISB_END, counts.end_utc_ns)] {
            self.option(code, &halves(ns));
        }
        let numbers = [
            (code::ISB_RECEIVED, counts.received),
            (code::ISB_DROPPED, counts.dropped),
            (code::ISB_DELIVERED, counts.delivered),
        ];
        for (code, number) in numbers {
            self.option(code, &number.to_le_bytes());
        }
        self.option(code::END, &[]);
        self.end()
    }

    /// Bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is written to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Gives back what was written to.
    ///
    /// # Errors
    /// What it says when it is flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    fn known(&self, interface: u32) -> io::Result<()> {
        if interface < self.interfaces {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface that was not described"))
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.put(&kind.to_le_bytes());
        // The length comes here.
        self.put(&[0; 4]);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.block.extend_from_slice(bytes);
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    /// Times of blocks are two words, the high one first, whatever the byte order.
    fn time(&mut self, ns: u64) {
        self.put(&halves(ns));
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        // Names and numbers: what is longer than 2^16 bytes is cut.
        let value = value.get(..value.len().min(usize::from(u16::MAX) - 3)).unwrap_or_default();
        self.put(&code.to_le_bytes());
        self.put(&low16(value.len() as u64).to_le_bytes());
        self.put(value);
        self.pad();
    }

    fn end(&mut self) -> io::Result<()> {
        let bytes = low32(self.block.len() as u64 + 4).to_le_bytes();
        self.put(&bytes);
        if let Some(place) = self.block.get_mut(4..8) {
            place.copy_from_slice(&bytes);
        }
        self.out.write_all(&self.block)?;
        self.bytes += self.block.len() as u64;
        Ok(())
    }
}

fn halves(ns: u64) -> [u8; 8] {
    let (high, low) = (low32(ns >> 32).to_le_bytes(), low32(ns).to_le_bytes());
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(high.into_iter().chain(low)) {
        *to = from;
    }
    bytes
}
