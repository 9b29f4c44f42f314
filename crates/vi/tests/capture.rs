//! Frames through lanes into a file, out of the file through lanes into another: the same bytes in the same order.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use vi::capture::{FileWriter, Recorder, TimeOf};
use vi::clock::Keeper;
use vi::lane::{Geometry, Meta, SendError, SharedLane};
use vi::pcapng::Reader;
use vi::stream::StreamFile;
use vi::{Event, LaneId, ProtectionDomain, RequestId, TransmitError, Vi};

#[derive(Debug)]
struct Domain;

fn pair() -> (Vi<Domain>, LaneId, Vi<Domain>) {
    let domain = ProtectionDomain::<Domain>::new();
    let (mut from, mut to) = (Vi::new(&domain), Vi::new(&domain));
    let lane = SharedLane::create(Geometry { wakes: false, ..Geometry::default() }).unwrap();
    let out = from.attach_sender(lane.sender().unwrap(), None);
    let (_, buffers) = to.attach_receiver(lane.receiver().unwrap());
    for buffer in buffers {
        to.receive_init(buffer, RequestId(0)).unwrap();
    }
    to.receive_push();
    (from, out, to)
}

/// The frames that are sent: every length from none to a jumbo frame's, and bytes that differ.
fn frame(n: u64, out: &mut Vec<u8>) {
    let len = if n % 97 == 0 { 9000 } else { 1 + usize::try_from(n * 7919 % 1514).unwrap() };
    out.clear();
    let mut word = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    while out.len() < len {
        word = word.rotate_left(23).wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(n);
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.truncate(len);
}

/// Sends what `next` gives, captures it on the other side, and gives back the file's writer.
fn through<W: Write + Send>(file: W, mut next: impl FnMut(&mut Vec<u8>) -> bool + Send) -> (W, u64) {
    let (from, out, to) = pair();
    let keeper = Keeper::new();
    let stream = StreamFile::create(4 << 20).unwrap();
    let (mut writer, mut reader) = (stream.writer().unwrap(), stream.reader().unwrap());
    let (sent_all, polled_all) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut file = FileWriter::new(file, "vi0", "a test", 0, keeper.clock()).unwrap();
    let mut recorder = Recorder::new(keeper.clock(), TimeOf::Receiver, usize::MAX);
    let received = std::thread::scope(|scope| {
        let (sent_all, polled_all) = (&sent_all, &polled_all);
        scope.spawn(move || {
            let mut bytes = Vec::new();
            while next(&mut bytes) {
                while let Err(error) = from.transmit(out, &bytes, Meta::default(), RequestId(0)) {
                    match error {
                        TransmitError::CompletionsWait => {
                            drop(from.transmit_unbundle(&mut [RequestId(0); 512]))
                        }
                        TransmitError::Lane(SendError::Full) => std::thread::yield_now(),
                        error => panic!("{error}"),
                    }
                }
            }
            sent_all.store(true, Ordering::Release);
        });
        let poller = scope.spawn(move || {
            let mut last = false;
            loop {
                // The file's thread is slow: what would be lost waits in the lane. A capture does not do this.
                let mut events: [Event<'_, Domain>; 64] = std::array::from_fn(|_| Event::Nothing);
                let room = writer.waiting_bytes().unwrap() < 2 << 20;
                let count = if room { to.poll(&mut events) } else { 0 };
                for event in &events[..count] {
                    if let Event::Received(packet) = event {
                        recorder.record(packet, &mut writer).unwrap();
                    }
                }
                writer.publish().unwrap();
                if count == 0 {
                    if last && room {
                        break;
                    }
                    last = sent_all.load(Ordering::Acquire);
                    std::thread::yield_now();
                }
            }
            polled_all.store(true, Ordering::Release);
            (recorder.frames(), recorder.broken(), writer.lost())
        });
        loop {
            let last = polled_all.load(Ordering::Acquire);
            if file.write(&mut reader, u64::MAX).unwrap() == 0 {
                if last {
                    break;
                }
                std::thread::yield_now();
            }
        }
        let (frames, broken, lost) = poller.join().unwrap();
        assert_eq!((broken, lost), (0, 0));
        frames
    });
    assert_eq!(file.frames(), received);
    (file.finish(received).unwrap(), received)
}

/// A file from its beginning.
fn opened(file: BufWriter<File>) -> BufReader<File> {
    let mut file = file.into_inner().unwrap();
    file.rewind().unwrap();
    BufReader::new(file)
}

fn same(count: u64, first: impl Read, second: impl Read) {
    let (mut first, mut second) = (Reader::new(first).unwrap(), Reader::new(second).unwrap());
    let mut expected = Vec::new();
    let mut before = 0;
    for n in 0..count {
        frame(n, &mut expected);
        let one = first.next_frame().unwrap().unwrap();
        assert!(one.bytes == expected, "frame {n}");
        assert!(one.utc_ns >= before, "time goes on");
        before = one.utc_ns;
        assert!(second.next_frame().unwrap().unwrap().bytes == expected, "frame {n}, replayed");
    }
    assert_eq!((first.next_frame().unwrap(), second.next_frame().unwrap()), (None, None));
}

/// ISTHMUS_CAPTURE_FRAMES makes it more: 10^6 are 1.6 GB in two files.
#[test]
fn a_capture_replays_to_the_identical_sequence_of_bytes() {
    let frames = std::env::var("ISTHMUS_CAPTURE_FRAMES").map_or(20_000, |text| text.parse().unwrap());
    let file = || BufWriter::new(tempfile::tempfile().unwrap());
    let mut n = 0;
    let (first, received) = through(file(), |bytes| {
        frame(n, bytes);
        n += 1;
        n <= frames
    });
    assert_eq!(received, frames);
    let first = opened(first);
    let again = first.get_ref().try_clone().unwrap();
    let mut reader = Reader::new(first).unwrap();
    let (second, received) = through(file(), |bytes| match reader.next_frame().unwrap() {
        Some(frame) => {
            bytes.clear();
            bytes.extend_from_slice(frame.bytes);
            true
        }
        None => false,
    });
    assert_eq!(received, frames);
    // A clone of a descriptor has the same place in the file.
    same(frames, opened(BufWriter::new(again)), opened(second));
}

#[test]
fn a_frame_is_cut_where_it_was_asked_and_says_how_long_it_was() {
    let (from, out, to) = pair();
    let keeper = Keeper::new();
    let stream = StreamFile::create(65536).unwrap();
    let (mut writer, mut reader) = (stream.writer().unwrap(), stream.reader().unwrap());
    let mut recorder = Recorder::new(keeper.clock(), TimeOf::Sender, 64);
    for len in [10, 64, 1500, 9000] {
        let meta = Meta { stamp: 1_700_000_000_000_000_007, ..Meta::default() };
        from.transmit(out, &vec![7; len], meta, RequestId(0)).unwrap();
    }
    let mut events: [Event<'_, Domain>; 16] = std::array::from_fn(|_| Event::Nothing);
    let count = to.poll(&mut events);
    for event in &events[..count] {
        if let Event::Received(packet) = event {
            recorder.record(packet, &mut writer).unwrap();
        }
    }
    writer.publish().unwrap();
    let mut file = FileWriter::new(Vec::new(), "vi0", "", 64, keeper.clock()).unwrap();
    assert_eq!(file.write(&mut reader, 2).unwrap(), 2);
    assert_eq!(file.write(&mut reader, u64::MAX).unwrap(), 2);
    let bytes = file.finish(recorder.frames()).unwrap();
    let mut reader = Reader::new(bytes.as_slice()).unwrap();
    for len in [10, 64, 1500, 9000] {
        let frame = reader.next_frame().unwrap().unwrap();
        assert_eq!(
            (frame.bytes.len(), frame.original_bytes),
            (usize::min(len, 64), u32::try_from(len).unwrap())
        );
        if len > 64 {
            assert_eq!(frame.utc_ns, keeper.clock().utc_ns(1_700_000_000_000_000_007), "the sender's time");
        }
    }
}

#[test]
fn what_the_stream_had_no_room_for_is_told_by_the_file() {
    let (from, out, to) = pair();
    let keeper = Keeper::new();
    let stream = StreamFile::create(4096).unwrap();
    let (mut writer, mut reader) = (stream.writer().unwrap(), stream.reader().unwrap());
    let mut recorder = Recorder::new(keeper.clock(), TimeOf::Receiver, usize::MAX);
    let mut file = FileWriter::new(Vec::new(), "vi0", "", 0, keeper.clock()).unwrap();
    for _ in 0..2 {
        for _ in 0..5 {
            from.transmit(out, &[7; 1400], Meta::default(), RequestId(0)).unwrap();
        }
        let mut events: [Event<'_, Domain>; 16] = std::array::from_fn(|_| Event::Nothing);
        let count = to.poll(&mut events);
        for event in &events[..count] {
            if let Event::Received(packet) = event {
                recorder.record(packet, &mut writer).unwrap();
            }
        }
        writer.publish().unwrap();
        file.write(&mut reader, u64::MAX).unwrap();
    }
    assert_eq!((recorder.frames(), writer.lost()), (10, 6));
    assert_eq!((file.frames(), file.lost()), (4, 3));
    let bytes = file.finish(recorder.frames()).unwrap();
    let mut reader = pcap_file::pcapng::PcapNgReader::new(bytes.as_slice()).unwrap();
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block() {
        blocks.push(format!("{:?}", block.unwrap()));
    }
    let text = blocks.join("\n");
    assert!(
        text.contains("IsbIfDrop(6)") && text.contains("IsbIfRecv(10)") && text.contains("DropCount(3)"),
        "{text}"
    );
}
