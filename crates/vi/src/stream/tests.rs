//! Streams: against a naive queue, between threads, and with memory that somebody else has written.

use super::*;
use crate::clock::Stamp;
use proptest::prelude::*;
use shm::{Heap, StoreOrder, Window};
use std::collections::VecDeque;
use std::sync::Arc;

fn memory(ring: usize) -> Arc<Heap> {
    Arc::new(Heap::new(RING + ring))
}

fn header(n: u64) -> RecordHeader {
    RecordHeader::at(Stamp { ns: 1_700_000_000_000_000_000 + n, ..Stamp::default() })
}

#[test]
fn a_frame_comes_out_as_it_went_in() {
    let stream = StreamFile::create(65536).unwrap();
    let other = StreamFile::accept(stream.as_fd().try_clone_to_owned().unwrap(), 65536).unwrap();
    let (mut writer, mut reader) = (stream.writer().unwrap(), other.reader().unwrap());
    assert!(writer.append(header(5), b"a frame", 3).unwrap());
    assert!(reader.batch().unwrap().next().unwrap().is_none(), "nothing was published");
    writer.publish().unwrap();
    let mut batch = reader.batch().unwrap();
    let record = batch.next().unwrap().unwrap();
    let mut bytes = Vec::new();
    record.copy_to(&mut bytes).unwrap();
    assert_eq!((bytes.as_slice(), record.header().original_bytes), (b"a f".as_slice(), 7));
    assert_eq!((record.header().ns(), record.header().nanoseconds), (1_700_000_000_000_000_005, 5));
    assert_eq!(record.read(2, &mut [0; 2]), Err(WindowError::OutOfBounds));
    assert_eq!(record.read(usize::MAX, &mut [0; 2]), Err(WindowError::OutOfBounds));
    assert!(batch.next().unwrap().is_none());
}

#[test]
fn a_reader_that_does_not_come_loses_frames_and_they_are_counted() {
    let memory = memory(4096);
    let mut writer = StreamWriter::new(memory.clone()).unwrap();
    let mut reader = StreamReader::new(memory).unwrap();
    let appended = (0..100).filter(|&n| writer.append(header(n), &[1; 96], 96).unwrap()).count();
    assert_eq!((appended, writer.lost()), (4096 / 128, 100 - 32));
    writer.publish().unwrap();
    assert_eq!(reader.lost().unwrap(), 68);
    // Only what was walked is room again.
    reader.batch().unwrap().next().unwrap().unwrap();
    assert!(writer.append(header(0), &[2; 96], 96).unwrap());
    assert!(!writer.append(header(0), &[2; 96], 96).unwrap());
    writer.publish().unwrap();
    let mut batch = reader.batch().unwrap();
    let mut last = None;
    while let Some(record) = batch.next().unwrap() {
        last = Some(record.header().lost_before);
    }
    assert_eq!(last, Some(68));
}

#[test]
fn memory_of_an_odd_size_is_no_stream() {
    for bytes in [0, 4095, 5000, u64::MAX] {
        assert!(matches!(StreamFile::create(bytes), Err(StreamFileError::Stream(StreamError::Size(_)))));
    }
    assert!(matches!(StreamWriter::new(memory(4097)), Err(StreamError::Size(_))));
    assert!(matches!(StreamReader::new(memory(0)), Err(StreamError::Size(_))));
    let short = StreamFile::create(4096).unwrap().as_fd().try_clone_to_owned().unwrap();
    assert!(matches!(StreamFile::accept(short, 8192), Err(StreamFileError::Unfit(_))));
}

#[test]
fn a_reader_that_lies_about_what_it_read_ends_the_stream() {
    let memory = memory(4096);
    let mut writer = StreamWriter::new(memory.clone()).unwrap();
    memory.store_u64(READ, 8192, StoreOrder::Release).unwrap();
    let error = (0..).find_map(|n| writer.append(header(n), &[0; 96], 96).err()).unwrap();
    assert!(matches!(error, StreamError::Count { seen: 8192, .. }));
    assert_eq!(writer.append(header(0), &[], 0), Err(error));
}

#[test]
fn two_threads_see_every_frame_once_and_in_order() {
    const FRAMES: u64 = 20_000;
    let stream = StreamFile::create(16384).unwrap();
    let (mut writer, mut reader) = (stream.writer().unwrap(), stream.reader().unwrap());
    let thread = std::thread::spawn(move || {
        let mut n = 0;
        while n < FRAMES {
            let frame = vec![n.to_le_bytes()[0]; usize::try_from(8 + n % 1500).unwrap()];
            if writer.append(header(n), &frame, usize::MAX).unwrap() {
                n += 1;
            } else {
                std::thread::yield_now();
            }
            writer.publish().unwrap();
        }
    });
    let (mut next, mut bytes) = (0, Vec::new());
    while next < FRAMES {
        let mut batch = reader.batch().unwrap();
        while let Some(record) = batch.next().unwrap() {
            record.copy_to(&mut bytes).unwrap();
            assert_eq!(record.header().ns(), header(next).ns());
            assert_eq!(bytes.len() as u64, 8 + next % 1500);
            assert!(bytes.iter().all(|&byte| byte == next.to_le_bytes()[0]));
            next += 1;
        }
        drop(batch);
        std::thread::yield_now();
    }
    thread.join().unwrap();
}

proptest! {
    /// Frames of every length in, some batches out: the same as a queue.
    #[test]
    fn a_stream_is_a_queue(steps in prop::collection::vec((0_usize..1500, 0_usize..1600, any::<bool>(), 0_usize..9), 1..200)) {
        let memory = memory(4096);
        let mut writer = StreamWriter::new(memory.clone()).unwrap();
        let mut reader = StreamReader::new(memory).unwrap();
        let (mut model, mut lost, mut bytes) = (VecDeque::new(), 0, Vec::new());
        for (n, (len, snap, publish, walk)) in steps.into_iter().enumerate() {
            let frame: Vec<u8> = (0..len).map(|at| (at + n).to_le_bytes()[0]).collect();
            if writer.append(header(n as u64), &frame, snap).unwrap() {
                model.push_back((n as u64, frame[..len.min(snap)].to_vec(), len));
            } else {
                lost += 1;
            }
            if publish {
                writer.publish().unwrap();
                let mut batch = reader.batch().unwrap();
                for _ in 0..walk {
                    let Some(record) = batch.next().unwrap() else {
                        prop_assert!(model.is_empty());
                        break;
                    };
                    let (n, frame, original) = model.pop_front().unwrap();
                    record.copy_to(&mut bytes).unwrap();
                    prop_assert_eq!(&bytes, &frame);
                    prop_assert_eq!(record.header().original_bytes as usize, original);
                    prop_assert_eq!(record.header().ns(), header(n).ns());
                }
            }
        }
        prop_assert_eq!(writer.lost(), lost);
    }

    /// A ring full of anything, with counts of anything: an error or records, never anything outside.
    #[test]
    fn a_hostile_writer_gets_an_error(
        ring in prop::collection::vec(any::<u8>(), 4096),
        small in prop::collection::vec((0_usize..512, 0_u64..0x0000_0002_0000_0200), 0..40),
        counts in prop::collection::vec(prop_oneof![0_u64..9000, any::<u64>()], 1..8),
    ) {
        let memory = memory(4096);
        let mut reader = StreamReader::new(memory.clone()).unwrap();
        memory.write(RING, &ring).unwrap();
        for (at, word) in small {
            memory.store_u64(RING + at * 8, word, StoreOrder::Relaxed).unwrap();
        }
        let mut bytes = Vec::new();
        for count in counts {
            memory.store_u64(WRITTEN, count, StoreOrder::Release).unwrap();
            let Ok(mut batch) = reader.batch() else { continue };
            while let Ok(Some(record)) = batch.next() {
                record.copy_to(&mut bytes).unwrap();
                prop_assert!(bytes.len() <= 4096 - HEADER_BYTES);
                prop_assert!(record.header().nanoseconds < 1_000_000_000);
            }
        }
    }
}
