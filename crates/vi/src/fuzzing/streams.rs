//! A packed stream whose other end writes what it likes.
//!
//! An input is records: a byte that says what is done, then its arguments. Until somebody tampers with the memory the stream has to be a
//! queue; from then on each end says records or an error, for ever the same one.

use super::Bytes;
use crate::clock::{Stamp, SyncFlags};
use crate::stream::{RecordHeader, StreamError, StreamReader, StreamWriter};
use shm::{Heap, StoreOrder, Window};
use std::collections::VecDeque;
use std::sync::Arc;

const RING: usize = 4096;
/// Where the ring begins in the memory.
const BEGIN: usize = 4096;

/// What happened, for tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Records that were read.
    pub records: u64,
    /// Why the reader's end is over.
    pub read: Option<StreamError>,
    /// Why the writer's is.
    pub written: Option<StreamError>,
}

struct Player {
    memory: Arc<Heap>,
    writer: StreamWriter<Arc<Heap>>,
    reader: StreamReader<Arc<Heap>>,
    /// What was appended, and has not been read.
    model: VecDeque<(Stamp, Vec<u8>, usize)>,
    /// How much of it was published.
    published: usize,
    tampered: bool,
    outcome: Outcome,
}

impl Player {
    fn append(&mut self, len: usize, snap: usize, ns: u64) {
        let frame: Vec<u8> = (0..len).map(|at| crate::bits::low8(at as u64 ^ ns)).collect();
        let stamp = Stamp { ns, bound_ns: 0, flags: SyncFlags::from_bits(crate::bits::low32(ns)) };
        let waiting = self.model.iter().map(|(_, bytes, _)| bytes.len() + 40).sum::<usize>();
        match self.writer.append(RecordHeader::at(stamp), &frame, snap) {
            Ok(true) => self.model.push_back((stamp, frame[..len.min(snap)].to_vec(), len)),
            // Less than the longest record is padding.
            Ok(false) => assert!(self.tampered || waiting + len.min(snap) + 40 + 2048 + 40 > RING),
            Err(error) => Self::over(&mut self.outcome.written, error, self.tampered),
        }
    }

    fn over(place: &mut Option<StreamError>, error: StreamError, tampered: bool) {
        assert!(tampered, "{error}");
        assert_eq!(*place.get_or_insert(error), error, "it stays what it is");
    }

    fn walk(&mut self, most: u8) {
        let mut batch = match self.reader.batch() {
            Ok(batch) => batch,
            Err(error) => return Self::over(&mut self.outcome.read, error, self.tampered),
        };
        for _ in 0..most {
            match batch.next() {
                Ok(Some(record)) => {
                    self.outcome.records += 1;
                    let header = *record.header();
                    assert!(header.nanoseconds < 1_000_000_000);
                    let mut bytes = Vec::new();
                    record.copy_to(&mut bytes).expect("inside the ring");
                    assert!(bytes.len() <= RING - 32);
                    assert!(record.read(bytes.len(), &mut [0]).is_err(), "the record ends there");
                    if !self.tampered {
                        let (stamp, frame, original) = self.model.pop_front().expect("it was appended");
                        self.published -= 1;
                        assert_eq!((header.ns(), header.sync, bytes), (stamp.ns, stamp.flags, frame));
                        assert_eq!(header.original_bytes as usize, original);
                    }
                }
                Ok(None) => {
                    assert!(self.tampered || self.published == 0, "what was published is there");
                    return;
                }
                Err(error) => return Self::over(&mut self.outcome.read, error, self.tampered),
            }
        }
    }

    fn tamper(&mut self, at: usize, value: u64) {
        self.tampered = true;
        self.memory.store_u64(at, value, StoreOrder::Release).expect("inside");
    }
}

/// Does what an input says.
///
/// # Panics
/// Where a promise is broken.
pub fn run(input: &[u8]) -> Outcome {
    let memory = Arc::new(Heap::new(BEGIN + RING));
    let writer = StreamWriter::new(Arc::clone(&memory)).expect("a ring");
    let reader = StreamReader::new(Arc::clone(&memory)).expect("a ring");
    let (model, outcome) = (VecDeque::new(), Outcome::default());
    let mut player = Player { memory, writer, reader, model, published: 0, tampered: false, outcome };
    let mut bytes = Bytes::new(input);
    while bytes.more() {
        match bytes.byte() % 8 {
            0 | 1 => {
                let (len, snap) = (usize::from(bytes.u16() % 2048), usize::from(bytes.u16()));
                player.append(len, snap, u64::from(bytes.u32()));
            }
            2 => match player.writer.publish() {
                Ok(()) => player.published = player.model.len(),
                Err(error) => panic!("{error}"),
            },
            3 => player.walk(bytes.byte()),
            // How much was written, how much was read.
            4 => player.tamper(0, bytes.u64()),
            5 => player.tamper(128, bytes.u64()),
            // A word of the ring; and one of a length, which is the likelier one.
            6 => {
                let at = usize::from(bytes.u16()) % (RING / 8);
                player.tamper(BEGIN + at * 8, bytes.u64());
            }
            _ => {
                let at = usize::from(bytes.u16()) % (RING / 8);
                player.tamper(BEGIN + at * 8, u64::from(bytes.u16()) | u64::from(bytes.u16()) << 32);
            }
        }
    }
    player.walk(u8::MAX);
    player.outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::replay;

    fn seed(name: &str) -> Outcome {
        let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/vi_stream");
        run(&std::fs::read(folder.join(name)).unwrap())
    }

    #[test]
    fn the_corpus_replays_and_so_does_what_is_near_it() {
        assert!(
            replay("vi_stream", 50_000, |input| {
                run(input);
            }) >= 12
        );
    }

    #[test]
    fn seeds_are_what_their_names_say() {
        assert_eq!(seed("queue"), Outcome { records: 3, read: None, written: None });
        assert!(seed("round-the-end").records >= 12 && seed("round-the-end").read.is_none());
        assert_eq!(seed("full").read, None);
        let read = |name: &str| seed(name).read.unwrap_or_else(|| panic!("{name}"));
        assert!(matches!(read("written-back"), StreamError::Count { seen: 8, .. }));
        assert!(matches!(read("written-far"), StreamError::Count { seen: u64::MAX, .. }));
        assert!(matches!(read("record-of-nothing"), StreamError::Record { bytes: 0, .. }));
        assert!(matches!(read("record-of-33"), StreamError::Record { bytes: 33, .. }));
        assert!(matches!(read("record-past-what-is-written"), StreamError::Record { bytes: 4096, .. }));
        assert!(matches!(read("captured-past-its-record"), StreamError::Captured { captured: 60_000, .. }));
        assert!(matches!(seed("read-ahead").written, Some(StreamError::Count { seen: 99_999, .. })));
    }
}
