//! Reading capture files: blocks are cut out of the file here, and parsed by `pcap-parser`.

use super::{ETHERNET, MOST_FRAME_BYTES};
use pcap_parser::pcapng::{Block, parse_block_be, parse_block_le};
use pcap_parser::traits::PcapNGPacketBlock as _;
use pcap_parser::{PcapHeader, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_header};
use std::io::{self, Read};

/// The longest block that is read: a frame is 256 KiB at most, and so are keys and names.
const MOST_BLOCK_BYTES: usize = 16 << 20;
/// Kind and length of a pcapng block.
const BLOCK_HEADER_BYTES: usize = 8;
const PCAP_HEADER_BYTES: usize = 24;
const PCAP_RECORD_BYTES: usize = 16;
const SECTION: [u8; 4] = [0x0A, 0x0D, 0x0D, 0x0A];
/// Kinds of blocks: these are parsed.
const SECTION_KIND: usize = 0x0A0D_0D0A;
const INTERFACE: usize = 1;
const SIMPLE: usize = 3;
const ENHANCED: usize = 6;
/// The one that came before the enhanced one.
const OBSOLETE: usize = 2;
const BILLION: u128 = 1_000_000_000;

/// Why a file is not read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It has no bytes.
    #[error("the file is empty")]
    Empty,
    /// It is something else.
    #[error("not a capture file: it begins with {begins:02x?}{hint}; pcapng and pcap are read")]
    NotACapture {
        /// Its first bytes.
        begins: Vec<u8>,
        /// What it may be.
        hint: &'static str,
    },
    /// It ends inside a block.
    #[error("the file is cut off: {frames} whole frames, up to byte {at_bytes}, lie before the end")]
    Cut {
        /// Frames before.
        frames: u64,
        /// Where the block begins that is not whole.
        at_bytes: u64,
    },
    /// A block that makes no sense.
    #[error("the block at byte {at_bytes}, behind {frames} frames, {what}")]
    Malformed {
        /// Frames before.
        frames: u64,
        /// Where it begins.
        at_bytes: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Frames that are not Ethernet.
    #[error("frames of link type {0} are not Ethernet (1), and cannot be sent here")]
    LinkType(i32),
    /// The file cannot be read.
    #[error("reading behind {frames} frames")]
    Read {
        /// Frames before.
        frames: u64,
        /// Why.
        source: io::Error,
    },
}

/// A frame of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFrame<'reader> {
    /// Nanoseconds since 1970, UTC; that of the frame before, where the block has none.
    pub utc_ns: u64,
    /// Bytes that the frame had.
    pub original_bytes: u32,
    /// Bytes that are in the file.
    pub bytes: &'reader [u8],
}

#[derive(Debug, Clone, Copy)]
struct Interface {
    link_type: i32,
    resolution: u8,
    offset_s: i64,
}

#[derive(Debug)]
enum Format {
    Pcapng { big: bool, interfaces: Vec<Interface> },
    Pcap { big: bool, nanoseconds: bool },
}

/// Reads the frames of a pcapng or pcap file, in order. Wrap what is slow in a [`BufReader`](io::BufReader).
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    format: Format,
    /// One block, or one record.
    block: Vec<u8>,
    at_bytes: u64,
    frames: u64,
    last_ns: u64,
}

impl<R: Read> Reader<R> {
    /// Looks at the file's beginning.
    ///
    /// # Errors
    /// [`ReadError`]: what is no capture file is refused here.
    pub fn new(mut input: R) -> Result<Self, ReadError> {
        let mut block = Vec::new();
        let got = fill(&mut input, &mut block, 4).map_err(|source| ReadError::Read { frames: 0, source })?;
        if got == 0 {
            return Err(ReadError::Empty);
        }
        let format = if block == SECTION {
            Format::Pcapng { big: false, interfaces: Vec::new() }
        } else {
            // It is asked before more is read, so that a file of ten bytes of text is text and not cut.
            let other = || ReadError::NotACapture { begins: block.clone(), hint: hint(&block) };
            let magic = block.as_slice().try_into().map(u32::from_le_bytes).map_err(|_| other())?;
            if ![magic, magic.swap_bytes()].iter().any(|magic| [0xA1B2_C3D4, 0xA1B2_3C4D].contains(magic)) {
                return Err(other());
            }
            Format::Pcap { big: false, nanoseconds: false }
        };
        let mut reader = Self { input, format, block, at_bytes: 0, frames: 0, last_ns: 0 };
        if let Format::Pcap { .. } = reader.format {
            reader.fill(PCAP_HEADER_BYTES)?;
            let header = parse_pcap_header(&reader.block).map(|(_, header)| header);
            let header = header.map_err(|_| reader.malformed("has no header of pcap"))?;
            reader.begin_pcap(&header)?;
        }
        Ok(reader)
    }

    fn begin_pcap(&mut self, header: &PcapHeader) -> Result<(), ReadError> {
        if header.network.0 != i32::from(ETHERNET) {
            return Err(ReadError::LinkType(header.network.0));
        }
        self.format =
            Format::Pcap { big: header.is_bigendian(), nanoseconds: header.is_nanosecond_precision() };
        self.taken();
        Ok(())
    }

    /// Frames read so far.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// The next frame; none at the file's end.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn next_frame(&mut self) -> Result<Option<FileFrame<'_>>, ReadError> {
        let found = match self.format {
            Format::Pcapng { .. } => self.next_pcapng()?,
            Format::Pcap { big, nanoseconds } => self.next_pcap(big, nanoseconds)?,
        };
        let Some(Found { utc_ns, original_bytes, begin, bytes }) = found else { return Ok(None) };
        let utc_ns = utc_ns.unwrap_or(self.last_ns);
        if bytes > MOST_FRAME_BYTES {
            return Err(self.malformed("has a frame of more than 256 KiB"));
        }
        self.at_bytes += self.block.len() as u64;
        self.frames += 1;
        self.last_ns = utc_ns;
        let bytes = self.block.get(begin..begin + bytes).unwrap_or_default();
        Ok(Some(FileFrame { utc_ns, original_bytes, bytes }))
    }

    fn next_pcap(&mut self, big: bool, nanoseconds: bool) -> Result<Option<Found>, ReadError> {
        self.block.clear();
        if !self.fill_or_end(PCAP_RECORD_BYTES)? {
            return Ok(None);
        }
        let length = self.word(8, big);
        if length > MOST_FRAME_BYTES {
            return Err(self.malformed("has a frame of more than 256 KiB"));
        }
        self.fill(PCAP_RECORD_BYTES + length)?;
        let parsed = if big { parse_pcap_frame_be(&self.block) } else { parse_pcap_frame(&self.block) };
        let Ok((_, record)) = parsed else { return Err(self.malformed("is no record of pcap")) };
        let ns = u64::from(record.ts_usec).saturating_mul(if nanoseconds { 1 } else { 1000 });
        Ok(Some(Found {
            utc_ns: Some(u64::from(record.ts_sec) * 1_000_000_000 + ns),
            original_bytes: record.origlen,
            begin: PCAP_RECORD_BYTES,
            bytes: length,
        }))
    }

    /// Reads blocks until one has a frame.
    fn next_pcapng(&mut self) -> Result<Option<Found>, ReadError> {
        loop {
            if !self.next_block()? {
                return Ok(None);
            }
            match self.kind() {
                SECTION_KIND | INTERFACE | SIMPLE | ENHANCED => {}
                OBSOLETE => return Err(self.malformed("is of the obsolete kind 2: editcap rewrites it")),
                // It has no frame, and nothing that frames need.
                _ => {
                    self.taken();
                    continue;
                }
            }
            let Format::Pcapng { big, interfaces } = &mut self.format else { return Ok(None) };
            let parsed = if *big { parse_block_be(&self.block) } else { parse_block_le(&self.block) };
            let (what, found) = match parsed {
                Err(_) => ("cannot be parsed", None),
                Ok((_, Block::SectionHeader(_))) => {
                    interfaces.clear();
                    ("", None)
                }
                Ok((_, Block::InterfaceDescription(block))) => {
                    interfaces.push(Interface {
                        link_type: block.linktype.0,
                        resolution: block.if_tsresol,
                        offset_s: block.if_tsoffset,
                    });
                    ("", None)
                }
                Ok((_, Block::EnhancedPacket(block))) => match interfaces.get(block.if_id as usize) {
                    None => ("has a frame of an interface that was not described", None),
                    Some(interface) => {
                        ethernet(interface)?;
                        let ticks = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
                        match interface.ns(ticks) {
                            None => ("has a time that is no time since 1970", None),
                            Some(ns) => {
                                ("", found(&self.block, block.packet_data(), Some(ns), block.origlen))
                            }
                        }
                    }
                },
                Ok((_, Block::SimplePacket(block))) => match interfaces.first() {
                    None => ("has a frame of an interface that was not described", None),
                    Some(interface) => {
                        ethernet(interface)?;
                        let data = block.packet_data();
                        let data = data.get(..data.len().min(block.origlen as usize)).unwrap_or_default();
                        ("", found(&self.block, data, None, block.origlen))
                    }
                },
                Ok(_) => ("", None),
            };
            if !what.is_empty() {
                return Err(self.malformed(what));
            }
            if found.is_some() {
                return Ok(found);
            }
            self.taken();
        }
    }

    /// Reads one block; false at the end of the file.
    fn next_block(&mut self) -> Result<bool, ReadError> {
        // The first four bytes of the file were read already.
        if self.at_bytes > 0 {
            self.block.clear();
            if !self.fill_or_end(BLOCK_HEADER_BYTES)? {
                return Ok(false);
            }
        }
        self.fill(BLOCK_HEADER_BYTES)?;
        if self.block.starts_with(&SECTION) {
            // Only its third word says which way round its second is.
            self.fill(BLOCK_HEADER_BYTES + 4)?;
            let big = match self.word(8, false) {
                0x1A2B_3C4D => false,
                0x4D3C_2B1A => true,
                _ => return Err(self.malformed("is a section without a byte order")),
            };
            if let Format::Pcapng { big: place, .. } = &mut self.format {
                *place = big;
            }
        }
        let big = matches!(self.format, Format::Pcapng { big: true, .. });
        let length = self.word(4, big);
        if length < BLOCK_HEADER_BYTES + 4 || length % 4 != 0 {
            return Err(self.malformed("has a length that no block has"));
        }
        if length > MOST_BLOCK_BYTES {
            return Err(self.malformed("is longer than 16 MiB"));
        }
        self.fill(length)?;
        Ok(true)
    }

    /// What block it is.
    fn kind(&self) -> usize {
        self.word(0, matches!(self.format, Format::Pcapng { big: true, .. }))
    }

    /// A word of the block; `usize` holds it on every machine that this runs on.
    fn word(&self, at: usize, big: bool) -> usize {
        let bytes = self.block.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
        (if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }) as usize
    }

    /// Reads until the block has so many bytes.
    fn fill(&mut self, bytes: usize) -> Result<(), ReadError> {
        let frames = self.frames;
        let got = fill(&mut self.input, &mut self.block, bytes)
            .map_err(|source| ReadError::Read { frames, source })?;
        if got < bytes {
            return Err(ReadError::Cut { frames, at_bytes: self.at_bytes });
        }
        Ok(())
    }

    /// The same; false where the file ends before the first byte.
    fn fill_or_end(&mut self, bytes: usize) -> Result<bool, ReadError> {
        match self.fill(bytes) {
            Err(ReadError::Cut { .. }) if self.block.is_empty() => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    fn taken(&mut self) {
        self.at_bytes += self.block.len() as u64;
    }

    fn malformed(&self, what: &'static str) -> ReadError {
        ReadError::Malformed { frames: self.frames, at_bytes: self.at_bytes, what }
    }
}

/// A frame in a block.
struct Found {
    utc_ns: Option<u64>,
    original_bytes: u32,
    begin: usize,
    bytes: usize,
}

/// Where a frame lies in its block: the parser gives a part of it.
fn found(block: &[u8], data: &[u8], utc_ns: Option<u64>, original_bytes: u32) -> Option<Found> {
    let begin = data.as_ptr().addr().checked_sub(block.as_ptr().addr())?;
    Some(Found { utc_ns, original_bytes, begin, bytes: data.len() })
}

fn ethernet(interface: &Interface) -> Result<(), ReadError> {
    if interface.link_type == i32::from(ETHERNET) {
        return Ok(());
    }
    Err(ReadError::LinkType(interface.link_type))
}

impl Interface {
    /// A time of this interface in nanoseconds since 1970.
    fn ns(&self, ticks: u64) -> Option<u64> {
        let ticks = u128::from(ticks);
        let power = u32::from(self.resolution & 0x7F);
        let ns = if self.resolution & 0x80 != 0 {
            // Of 2^64 ticks and 2^30 nanoseconds in a second nothing is lost.
            ticks.checked_mul(BILLION)?.checked_shr(power).unwrap_or(0)
        } else {
            ticks.checked_mul(BILLION)? / 10_u128.checked_pow(power)?
        };
        let offset = i128::from(self.offset_s) * 1_000_000_000;
        u64::try_from(i128::try_from(ns).ok()? + offset).ok()
    }
}

/// Reads until `block` has `bytes` bytes, or the input ends; how many there are.
fn fill(input: &mut impl Read, block: &mut Vec<u8>, bytes: usize) -> io::Result<usize> {
    let missing = bytes.saturating_sub(block.len());
    // `take` and not `resize`: what a length promises is allocated when it comes.
    input.take(missing as u64).read_to_end(block)?;
    Ok(block.len())
}

/// What a file may be that is no capture.
fn hint(begins: &[u8]) -> &'static str {
    match begins {
        [0x1F, 0x8B, ..] => " (gzip: unpack it first)",
        [0x28, 0xB5, 0x2F, 0xFD, ..] => " (zstd: unpack it first)",
        [b's', b'n', b'o', b'o', ..] => " (snoop: editcap makes pcapng of it)",
        [0x34, 0xCD, 0xB2, 0xA1] | [0xA1, 0xB2, 0xCD, 0x34] => {
            " (Kuznetzov's pcap: editcap makes pcapng of it)"
        }
        _ => "",
    }
}

#[cfg(all(test, not(loom)))]
pub(super) fn tests_ns(resolution: u8, offset_s: i64, ticks: u64) -> Option<u64> {
    Interface { link_type: 1, resolution, offset_s }.ns(ticks)
}
