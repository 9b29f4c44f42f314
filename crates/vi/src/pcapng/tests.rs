//! What is written is read by two others and by us; what makes no sense is refused.

use super::*;
use pcap_file::DataLink;
use pcap_file::pcapng::{Block, PcapNgReader};
use proptest::prelude::*;

const NOW: u64 = 1_764_000_000_123_456_789;

fn meta(n: u64, frame: &[u8]) -> FrameMeta {
    FrameMeta {
        utc_ns: NOW + n,
        original_bytes: u32::try_from(frame.len()).unwrap(),
        direction: Direction::In,
        lost_before: n % 3,
    }
}

fn file(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), "a test").unwrap();
    let interface = writer.interface("vi0", "sniff", 0).unwrap();
    for (n, frame) in frames.iter().enumerate() {
        writer.frame(interface, &meta(n as u64, frame), frame).unwrap();
    }
    let counts =
        InterfaceCounts { begin_utc_ns: NOW, end_utc_ns: NOW + 9, received: 7, dropped: 2, delivered: 5 };
    writer.counts(interface, &counts).unwrap();
    assert_eq!(writer.bytes(), writer.get_mut().len() as u64);
    writer.finish().unwrap()
}

fn read_all(bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, ReadError> {
    let mut reader = Reader::new(bytes)?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        frames.push((frame.utc_ns, frame.bytes.to_vec()));
    }
    assert_eq!(reader.frames(), frames.len() as u64);
    Ok(frames)
}

#[test]
fn another_reader_reads_what_is_written() {
    let frames: Vec<Vec<u8>> = (0..70).map(|n| vec![7; n]).collect();
    let bytes = file(&frames);
    let mut reader = PcapNgReader::new(bytes.as_slice()).unwrap();
    let (mut seen, mut counted) = (Vec::new(), false);
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(block) => {
                assert_eq!(block.linktype, DataLink::ETHERNET);
                assert!(format!("{:?}", block.options).contains("IfTsResol(9)"), "{:?}", block.options);
            }
            Block::EnhancedPacket(block) => {
                assert_eq!(block.timestamp.as_nanos(), u128::from(NOW) + seen.len() as u128);
                assert!(format!("{:?}", block.options).contains("Flags(1)"), "{:?}", block.options);
                seen.push(block.data.to_vec());
            }
            Block::InterfaceStatistics(block) => {
                let options = format!("{:?}", block.options);
                assert!(options.contains("IsbIfRecv(7)") && options.contains("IsbIfDrop(2)"), "{options}");
                counted = true;
            }
            _ => {}
        }
    }
    assert_eq!(seen, frames);
    assert!(counted);
}

#[test]
fn what_cannot_be_written_is_refused() {
    let mut writer = Writer::new(Vec::new(), "a test").unwrap();
    assert!(writer.frame(0, &meta(0, b"x"), b"x").is_err(), "no interface");
    let interface = writer.interface("vi0", "", 0).unwrap();
    assert!(writer.frame(interface, &meta(0, b"x"), b"xy").is_err(), "longer than it was");
    let long = vec![0; MOST_FRAME_BYTES + 1];
    assert!(writer.frame(interface, &meta(0, &long), &long).is_err());
    assert!(writer.counts(1, &InterfaceCounts::default()).is_err());
}

#[test]
fn a_file_that_is_no_capture_says_what_it_may_be() {
    for (bytes, message) in [
        (&b""[..], "the file is empty"),
        (b"#!/bin/sh", "not a capture file: it begins with [23, 21, 2f, 62]; pcapng and pcap are read"),
        (b"ab", "not a capture file: it begins with [61, 62]; pcapng and pcap are read"),
        (
            &[0x1F, 0x8B, 8, 0, 0],
            "not a capture file: it begins with [1f, 8b, 08, 00] (gzip: unpack it first); pcapng and pcap are read",
        ),
    ] {
        assert_eq!(Reader::new(bytes).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_file_cut_anywhere_tells_how_far_it_got() {
    let bytes = file(&[vec![1; 60], vec![2; 61], vec![3; 62]]);
    for cut in 1..bytes.len() {
        let mut reader = match Reader::new(&bytes[..cut]) {
            Ok(reader) => reader,
            Err(ReadError::NotACapture { .. }) if cut < 4 => continue,
            Err(error) => panic!("{cut}: {error}"),
        };
        let mut frames = 0;
        let end = loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames += u64::from(frame.bytes.len() >= 60),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        match end {
            Some(ReadError::Cut { frames: told, at_bytes }) => {
                assert_eq!(told, frames);
                assert!(at_bytes < cut as u64);
            }
            // Cut between two blocks: nothing is missing.
            None => assert_eq!(cut % 4, 0),
            Some(error) => panic!("{cut}: {error}"),
        }
    }
}

/// A pcap file: `magic` says byte order and precision.
fn pcap(magic: u32, big: bool, link: u32) -> Vec<u8> {
    let word = |word: u32| if big { word.to_be_bytes() } else { word.to_le_bytes() };
    let version = if big { [0, 2, 0, 4] } else { [2, 0, 4, 0] };
    let mut bytes = [word(magic), version, word(0), word(0), word(65535), word(link)].concat();
    for (fraction, frame) in [(7, b"abc"), (8, b"def")] {
        bytes.extend([word(1_700_000_000), word(fraction), word(3), word(60)].concat());
        bytes.extend(frame);
    }
    bytes
}

#[test]
fn the_older_format_is_read_in_both_orders_and_precisions() {
    for (magic, unit) in [(0xA1B2_C3D4, 1000), (0xA1B2_3C4D, 1)] {
        for big in [false, true] {
            let frames = read_all(&pcap(magic, big, 1)).unwrap();
            let at = |n: u64| 1_700_000_000_000_000_000 + n * unit;
            assert_eq!(frames, [(at(7), b"abc".to_vec()), (at(8), b"def".to_vec())]);
        }
    }
    assert!(matches!(read_all(&pcap(0xA1B2_C3D4, false, 113)), Err(ReadError::LinkType(113))));
    let whole = pcap(0xA1B2_C3D4, false, 1);
    assert!(matches!(read_all(&whole[..whole.len() - 1]), Err(ReadError::Cut { frames: 1, at_bytes: 43 })));
}

#[test]
fn times_of_every_resolution_are_nanoseconds() {
    let ns = |resolution, offset_s, ticks| reader::tests_ns(resolution, offset_s, ticks);
    assert_eq!(ns(6, 0, 1_500_000), Some(1_500_000_000));
    assert_eq!(ns(9, 0, 5), Some(5));
    assert_eq!(ns(0, 0, 5), Some(5_000_000_000));
    assert_eq!(ns(12, 0, 5999), Some(5));
    assert_eq!(ns(0x80 | 10, 0, 1024), Some(1_000_000_000));
    assert_eq!(ns(0xFF, 0, u64::MAX), Some(0));
    assert_eq!(ns(9, 3, 5), Some(3_000_000_005));
    assert_eq!(ns(9, -1, 5), None);
    assert_eq!(ns(0, 0, u64::MAX), None);
    assert_eq!(ns(127, 0, 1), None);
}

/// What is no frame is passed over; nonsense is an error with a place.
#[test]
fn blocks_that_make_no_sense_are_errors() {
    let good = file(&[vec![1; 60]]);
    let whole = read_all(&good).unwrap();
    // A block of a kind that nobody knows, behind the others.
    let unknown = [good.clone(), [[0x0D, 0xF0, 0xAD, 0x0B], [12, 0, 0, 0], [12, 0, 0, 0]].concat()].concat();
    assert_eq!(read_all(&unknown).unwrap(), whole);
    // A name block that is broken has no frame either.
    let names = [good.clone(), [[4, 0, 0, 0], [16, 0, 0, 0], [0xFF; 4], [16, 0, 0, 0]].concat()].concat();
    assert_eq!(read_all(&names).unwrap(), whole);
    let obsolete = [good.clone(), [[2, 0, 0, 0], [12, 0, 0, 0], [12, 0, 0, 0]].concat()].concat();
    assert!(read_all(&obsolete).unwrap_err().to_string().contains("obsolete"));
    for (length, what) in
        [(13_u32, "has a length"), (8, "has a length"), (0, "has a length"), (0x7FFF_FFFC, "16 MiB")]
    {
        let bad = [good.clone(), [[0x0D, 0xF0, 0xAD, 0x0B], length.to_le_bytes(), [0; 4]].concat()].concat();
        let error = read_all(&bad).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("behind 1 frames"), "{error}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..30)) {
        let read = read_all(&file(&frames)).unwrap();
        prop_assert_eq!(read.len(), frames.len());
        for (n, ((ns, bytes), frame)) in read.iter().zip(&frames).enumerate() {
            prop_assert_eq!(*ns, NOW + n as u64);
            prop_assert_eq!(bytes, frame);
        }
    }

    /// Good files with some bytes changed, in any place: frames or an error.
    #[test]
    fn a_file_with_any_bytes_changed_is_read_or_refused(
        changes in prop::collection::vec((0_usize..600, any::<u8>()), 1..8),
        cut in 0_usize..700,
        older: bool,
    ) {
        let mut bytes = if older { pcap(0xA1B2_C3D4, false, 1) } else { file(&[vec![1; 60], vec![2; 99]]) };
        for (at, value) in changes {
            let len = bytes.len();
            bytes[at % len] = value;
        }
        bytes.truncate(cut);
        let _ = read_all(&bytes);
    }

    #[test]
    fn anything_behind_a_good_beginning_is_read_or_refused(tail in prop::collection::vec(any::<u8>(), 0..300), order in 0_usize..4) {
        let begin: &[u8] = match order {
            0 => &[0x0A, 0x0D, 0x0D, 0x0A],
            1 => &[0x0A, 0x0D, 0x0D, 0x0A, 28, 0, 0, 0, 0x4D, 0x3C, 0x2B, 0x1A, 1, 0, 0, 0],
            2 => &[0x0A, 0x0D, 0x0D, 0x0A, 0, 0, 0, 28, 0x1A, 0x2B, 0x3C, 0x4D, 0, 1, 0, 0],
            _ => &[0xD4, 0xC3, 0xB2, 0xA1],
        };
        let _ = read_all(&[begin, &tail].concat());
    }
}
