//! Capture files of any content. The first byte of an input says how many bytes come at once; the rest is the file.

use crate::pcapng::{FrameMeta, MOST_FRAME_BYTES, ReadError, Reader, Writer};
use std::io::{self, Read};

/// A frame as it was read: its time, its length, its bytes.
type Frame = (u64, u32, Vec<u8>);

/// Gives a few bytes at a time.
struct Slow<'file>(&'file [u8], usize);

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(self.1);
        let (out, _) = out.split_at_mut(most);
        self.0.read(out)
    }
}

/// What a file was.
#[derive(Debug)]
pub struct Outcome {
    /// Its frames, up to what is wrong with it.
    pub frames: Vec<Frame>,
    /// What is wrong with it.
    pub error: Option<ReadError>,
}

fn read(input: impl Read) -> Outcome {
    let mut frames = Vec::new();
    let mut reader = match Reader::new(input) {
        Ok(reader) => reader,
        Err(error) => return Outcome { frames, error: Some(error) },
    };
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                assert!(frame.bytes.len() <= MOST_FRAME_BYTES);
                frames.push((frame.utc_ns, frame.original_bytes, frame.bytes.to_vec()));
                assert_eq!(reader.frames(), frames.len() as u64);
            }
            Ok(None) => return Outcome { frames, error: None },
            Err(error) => return Outcome { frames, error: Some(error) },
        }
    }
}

/// Reads a file twice, at once and in pieces, then writes what it had and reads that.
///
/// # Panics
/// Where a promise is broken.
pub fn run(input: &[u8]) -> Outcome {
    let (&how, file) = input.split_first().unwrap_or((&0, &[]));
    let outcome = read(file);
    let slow = read(Slow(file, usize::from(how) + 1));
    assert_eq!(slow.frames, outcome.frames, "it does not matter how the bytes come");
    assert_eq!(slow.error.as_ref().map(ToString::to_string), outcome.error.as_ref().map(ToString::to_string));
    if let Some(ReadError::Cut { frames, at_bytes } | ReadError::Malformed { frames, at_bytes, .. }) =
        outcome.error
    {
        assert!(frames == outcome.frames.len() as u64 && at_bytes <= file.len() as u64);
    }
    let mut writer = Writer::new(Vec::new(), "a fuzzer").expect("memory");
    let interface = writer.interface("fuzz", "", 0).expect("memory");
    let mut written = Vec::new();
    for (utc_ns, original_bytes, bytes) in &outcome.frames {
        // A file may say that a frame was shorter than what is there of it; ours does not.
        let least = u32::try_from(bytes.len()).expect("a frame's length");
        let meta = FrameMeta { utc_ns: *utc_ns, original_bytes: *original_bytes, ..FrameMeta::default() };
        let refused = writer.frame(interface, &meta, bytes).is_err();
        assert_eq!(refused, *original_bytes < least);
        if !refused {
            written.push((*utc_ns, *original_bytes, bytes.clone()));
        }
    }
    let file = writer.finish().expect("memory");
    let again = read(file.as_slice());
    assert!(again.error.is_none(), "{:?}", again.error);
    assert_eq!(again.frames, written, "what is written is read");
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::replay;

    fn seed(name: &str) -> Outcome {
        let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/vi_files");
        run(&std::fs::read(folder.join(name)).unwrap())
    }

    #[test]
    fn the_corpus_replays_and_so_does_what_is_near_it() {
        assert!(
            replay("vi_files", 20_000, |input| {
                run(input);
            }) >= 20
        );
    }

    /// What each seed is called: one that is not told apart would be a check that is not made.
    #[test]
    fn seeds_are_what_their_names_say() {
        for name in ["good-little", "good-big", "good-pcap", "good-pcap-big-ns", "two-sections"] {
            let outcome = seed(name);
            assert!(outcome.error.is_none() && outcome.frames.len() == 3, "{name}: {outcome:?}");
            assert_eq!(outcome.frames[0].2, b"the first frame of all", "{name}");
            assert_eq!(outcome.frames[0].0, 1_700_000_000_123_456_000, "{name}");
        }
        let error = |name: &str| seed(name).error.unwrap_or_else(|| panic!("{name} is refused"));
        assert!(matches!(error("empty"), ReadError::Empty));
        assert!(matches!(error("text"), ReadError::NotACapture { .. }));
        assert!(matches!(error("gzip"), ReadError::NotACapture { hint, .. } if hint.contains("gzip")));
        assert!(matches!(error("cut"), ReadError::Cut { frames: 2, .. }));
        assert!(matches!(error("cut-pcap"), ReadError::Cut { frames: 2, .. }));
        assert!(matches!(error("wireless"), ReadError::LinkType(105)));
        for name in [
            "no-byte-order",
            "length-of-11",
            "length-of-4-gib",
            "no-interface",
            "packet-past-its-block",
            "obsolete",
            "pcap-frame-of-1-gib",
            "time-before-1970",
        ] {
            assert!(matches!(error(name), ReadError::Malformed { .. }), "{name}: {:?}", error(name));
        }
    }
}
