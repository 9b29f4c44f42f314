//! Frames of the channel between the lab and an agent: bytes in, frames out; no I/O.
//!
//! ```text
//! 0     4      5        6        8    12       16      20
//! magic kind   stream   h-check  id   length   b-check body
//! ```
//!
//! A guest may die in the middle of a frame and its successor begin in the middle of another, so nothing is
//! believed before its check sum fits: a header that does not fit is skipped a byte at a time, and whoever
//! opens a channel first sends [`preamble`], which completes any frame that was left half written.

/// First bytes of every frame.
const MAGIC: [u8; 4] = [0xf1, b'i', b's', 0x1e];
/// Bytes before the body.
pub const HEADER_BYTES: usize = 20;
/// The longest body that is sent or believed.
pub const MAX_BODY_BYTES: usize = 32 * 1024;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The agent has started (body: [`super::Hello`] as JSON); every earlier call is lost.
    Hello,
    /// Start a command (body: [`super::Exec`] as JSON).
    Exec,
    /// Bytes of a stream; an empty body ends the stream.
    Data,
    /// The receiver took this many bytes of a stream (body: little-endian u32).
    Credit,
    /// The command ended (body: [`super::ExitStatus`] as JSON).
    Exit,
    /// Send a signal to the command (body: little-endian u32).
    Signal,
    /// The terminal has a new size (body: rows and columns, little-endian u16 each).
    Resize,
    /// Whoever asked for the command has gone.
    Cancel,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Hello,
        Self::Exec,
        Self::Data,
        Self::Credit,
        Self::Exit,
        Self::Signal,
        Self::Resize,
        Self::Cancel,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Exec => 2,
            Self::Data => 3,
            Self::Credit => 4,
            Self::Exit => 5,
            Self::Signal => 6,
            Self::Resize => 7,
            Self::Cancel => 8,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// One of a command's three streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// To the command.
    Stdin,
    /// From the command.
    Stdout,
    /// From the command.
    Stderr,
}

impl Stream {
    /// Position in a table of the three.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Stdin, Self::Stdout, Self::Stderr].into_iter().find(|stream| stream.code() == code)
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: Kind,
    /// Which stream, where the kind has one.
    pub stream: Stream,
    /// Which call.
    pub id: u32,
    /// The body, at most [`MAX_BODY_BYTES`].
    pub body: Vec<u8>,
}

impl Frame {
    /// A frame of a kind that belongs to no stream.
    #[must_use]
    pub fn new(kind: Kind, id: u32, body: Vec<u8>) -> Self {
        Self { kind, stream: Stream::Stdin, id, body }
    }

    /// The frame as bytes.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        debug_assert!(self.body.len() <= MAX_BODY_BYTES);
        let length = u32::try_from(self.body.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[self.kind.code(), self.stream.code(), 0, 0]);
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&checksum(&self.body).to_le_bytes());
        let check = header_checksum(&bytes);
        bytes[6..8].copy_from_slice(&check);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// What opens a channel: enough filler to complete a frame that a predecessor left half written.
#[must_use]
pub fn preamble() -> Vec<u8> {
    vec![0; HEADER_BYTES + MAX_BODY_BYTES]
}

/// Turns a stream of bytes into frames, whatever is between them.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    start: usize,
    skipped: u64,
}

impl Decoder {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that belonged to no frame.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let bytes = &self.bytes[self.start..];
            let Some(found) = bytes.iter().position(|byte| *byte == MAGIC[0]) else {
                let all = bytes.len();
                self.skip(all);
                return None;
            };
            self.skip(found);
            let bytes = &self.bytes[self.start..];
            let header = bytes.get(..HEADER_BYTES)?;
            let Some(expected) = parse_header(header) else {
                self.skip(1);
                continue;
            };
            let body = bytes.get(HEADER_BYTES..HEADER_BYTES + expected.length)?;
            if checksum(body) != expected.body_check {
                self.skip(1);
                continue;
            }
            let body = body.to_vec();
            self.start += HEADER_BYTES + expected.length;
            return Some(Frame { kind: expected.kind, stream: expected.stream, id: expected.id, body });
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.start += bytes;
        self.skipped += u64::try_from(bytes).unwrap_or(u64::MAX);
    }
}

struct Header {
    kind: Kind,
    stream: Stream,
    id: u32,
    length: usize,
    body_check: u32,
}

fn parse_header(bytes: &[u8]) -> Option<Header> {
    if bytes.get(..4)? != MAGIC || bytes.get(6..8)? != header_checksum(bytes) {
        return None;
    }
    let length = usize::try_from(word(bytes, 12)?).ok()?;
    if length > MAX_BODY_BYTES {
        return None;
    }
    Some(Header {
        kind: Kind::from_code(*bytes.get(4)?)?,
        stream: Stream::from_code(*bytes.get(5)?)?,
        id: word(bytes, 8)?,
        length,
        body_check: word(bytes, 16)?,
    })
}

/// The little-endian u32 at `at`, if it is there.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// FNV-1a: it guards against accidents, not against an enemy.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Over the header without its own two check bytes.
fn header_checksum(header: &[u8]) -> [u8; 2] {
    let mut copy = [0; HEADER_BYTES];
    let take = header.len().min(HEADER_BYTES);
    copy[..take].copy_from_slice(&header[..take]);
    copy[6] = 0;
    copy[7] = 0;
    let [low, high, upper, top] = checksum(&copy).to_le_bytes();
    [low ^ upper, high ^ top]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(id: u32, body: &[u8]) -> Frame {
        Frame { kind: Kind::Data, stream: Stream::Stdout, id, body: body.to_vec() }
    }

    fn drain(decoder: &mut Decoder) -> Vec<Frame> {
        std::iter::from_fn(|| decoder.next_frame()).collect()
    }

    #[test]
    fn every_kind_and_stream_survives_the_journey() {
        let mut decoder = Decoder::default();
        for kind in Kind::ALL {
            for stream in [Stream::Stdin, Stream::Stdout, Stream::Stderr] {
                let frame = Frame { kind, stream, id: 0x8000_0001, body: vec![0xf1; 100] };
                decoder.push(&frame.emit());
                assert_eq!(decoder.next_frame(), Some(frame));
            }
        }
        assert_eq!(decoder.skipped(), 0);
    }

    #[test]
    fn frames_cut_anywhere_are_put_together() {
        let frames = [sample(1, b""), sample(2, &[7; MAX_BODY_BYTES]), sample(3, b"xyz")];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::emit).collect();
        for chunk in [1, 2, 19, 20, 21, 4096] {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(chunk) {
                decoder.push(piece);
                got.extend(drain(&mut decoder));
            }
            assert_eq!(got, frames, "in pieces of {chunk}");
        }
    }

    #[test]
    fn garbage_between_frames_is_skipped() {
        let mut decoder = Decoder::default();
        let mut noise: Vec<u8> =
            (0..5000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        noise.extend_from_slice(&MAGIC);
        decoder.push(&noise);
        decoder.push(&sample(9, b"after").emit());
        assert_eq!(drain(&mut decoder), [sample(9, b"after")]);
        assert_eq!(decoder.skipped(), 5004);
    }

    #[test]
    fn a_length_beyond_the_limit_is_not_believed() {
        let mut bytes = sample(1, b"").emit();
        bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let check = header_checksum(&bytes);
        bytes[6..8].copy_from_slice(&check);
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        decoder.push(&sample(2, b"next").emit());
        assert_eq!(drain(&mut decoder), [sample(2, b"next")]);
    }

    #[test]
    fn a_broken_body_costs_that_frame_alone() {
        let mut bytes = sample(1, b"hello").emit();
        *bytes.last_mut().unwrap() ^= 1;
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        decoder.push(&sample(2, b"next").emit());
        assert_eq!(drain(&mut decoder), [sample(2, b"next")]);
    }

    #[test]
    fn the_preamble_completes_a_frame_that_was_left_half_written() {
        let whole = sample(1, &[3; MAX_BODY_BYTES]).emit();
        for cut in [1, HEADER_BYTES, HEADER_BYTES + 1, whole.len() - 1] {
            let mut decoder = Decoder::default();
            decoder.push(&whole[..cut]);
            decoder.push(&preamble());
            decoder.push(&sample(2, b"hello").emit());
            assert_eq!(drain(&mut decoder), [sample(2, b"hello")], "cut at {cut}");
        }
    }
}
