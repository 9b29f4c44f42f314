//! Arbitrary bytes, arbitrary cuts, and the fuzzer's corpus.

use proptest::prelude::*;

use super::*;
use crate::fuzzing::{self, Line};
use crate::server::Counters;
use crate::wire::{DmaAddr, DmaMap, RegionIndex};

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![4 => Just(0_u32), 2 => Just(0x10), 1 => any::<u32>()];
    let body = prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..80);
    let wild = (0..20_u16, flags, body).prop_map(|(command, flags, body)| raw(command, flags, &body));
    let sound = (0..6, any::<u8>(), any::<bool>()).prop_map(|(kind, byte, posted)| {
        let offset = u64::from(byte) * 16;
        let region = RegionIndex::BAR0;
        let data = [byte; 8];
        let map = DmaMap { iova: DmaAddr(offset), size: 1, fd_offset: 0, readable: true, writeable: false };
        let request = match kind {
            0 => Request::RegionRead { region, offset, count: u32::from(byte) },
            1 => Request::DmaMap(map),
            2 => Request::GetRegionInfo { argsz: 4096, index: RegionIndex(u32::from(byte % 12)) },
            3 => Request::Reset,
            _ => Request::RegionWrite { region, offset, data: &data },
        };
        bytes_of(request, 9, if posted { Flags::POSTED } else { Flags::COMMAND })
    });
    prop_oneof![wild, sound]
}

/// Replies, the device's log, counters.
type Outcome = (Vec<(Header, Vec<u8>)>, Vec<String>, Counters);

/// Plays `stream`, cut into `pieces`, and tells all there is to tell.
fn play(stream: &[u8], pieces: &[usize]) -> Outcome {
    let mut line = line();
    let (mut rest, mut pieces) = (stream, pieces.iter().cycle());
    while !rest.is_empty() {
        let (piece, next) = rest.split_at((*pieces.next().unwrap()).min(rest.len()));
        line.talk(piece, usize::MAX, &[]).unwrap();
        rest = next;
    }
    (line.replies(), line.device.log, line.session.counters().to_owned())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_do_no_harm(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::wire(&data);
    }

    #[test]
    fn a_good_message_is_answered_after_any_others(
        messages in prop::collection::vec(any_message(), 1..12),
    ) {
        let mut line = Line::default();
        for message in &messages {
            send!(line, bytes message);
        }
        send!(line, bytes hello());
        line.replies();
        for message in &messages {
            send!(line, bytes message);
            let posted = Header::peek(message).unwrap().flags().no_reply();
            prop_assert_eq!(line.replies().len(), usize::from(!posted));
        }
        let region = RegionIndex::CONFIG;
        send!(line, Request::RegionWrite { region, offset: 1, data: &[1, 2] });
        expect!(line, REGION_WRITE => Reply::Written { region, offset: 1, count: 2 });
    }

    #[test]
    fn where_the_stream_is_cut_does_not_matter(
        messages in prop::collection::vec(any_message(), 1..12),
        pieces in prop::collection::vec(1..100_usize, 1..20),
    ) {
        let stream = messages.concat();
        let whole = play(&stream, &[stream.len()]);
        prop_assert_eq!(&whole, &play(&stream, &pieces));
        prop_assert_eq!(whole.2.messages, messages.len() as u64 + 1);
    }
}

/// The corpus of `fuzz/`, for those without the fuzzer's toolchain.
#[test]
fn the_corpus_does_no_harm() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/wire");
    let mut played = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        fuzzing::wire(&std::fs::read(entry.unwrap().path()).unwrap());
        played += 1;
    }
    assert!(played >= 20, "only {played} files in {corpus}");
}
