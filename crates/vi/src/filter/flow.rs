//! The last answer of a table, kept: frames come in trains of one flow.

use super::{HEADER_BYTES, Headers, Table, Verdict};
use crate::lane::FilterId;

/// Words of a frame that hold everything filters ask of an untagged IPv4 packet without options: 40 bytes.
const WORDS: usize = 5;
/// Which of their bits do: not the type of service, lengths, identification, time to live and checksum.
const ASKED: [u64; WORDS] = [
    u64::MAX,
    u64::from_le_bytes([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
    // Fragment flags and offset at 20, protocol at 23.
    u64::from_le_bytes([0, 0, 0, 0, 0xFF, 0xFF, 0, 0xFF]),
    u64::from_le_bytes([0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),
    u64::from_le_bytes([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0]),
];
/// Ethertype and first byte of the IP header of such a packet, at 12 of the frame.
const PLAIN: [u8; 3] = [0x08, 0x00, 0x45];
/// Copies that an answer may have and still be kept.
const MOST: usize = 4;

/// One answer of a table, for the flow it was asked about last. It asks anew when the table has changed; give it one
/// table only.
#[derive(Debug)]
pub struct FlowCache<T> {
    key: Option<[u64; WORDS]>,
    generation: u64,
    to: [Option<(T, FilterId)>; MOST],
    verdict: Verdict,
}

impl<T: Copy> Default for FlowCache<T> {
    fn default() -> Self {
        Self { key: None, generation: 0, to: [None; MOST], verdict: Verdict::Kernel }
    }
}

/// The words that filters ask of, if the frame is of the plain kind and whole as far as they look.
#[inline(always)]
fn key(frame: &[u8]) -> Option<[u64; WORDS]> {
    let beginning = frame.first_chunk::<40>()?;
    (beginning.get(12..15) == Some(&PLAIN)).then(|| words(beginning))
}

#[inline(always)]
fn words(beginning: &[u8; 40]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let (bytes, _) = beginning.as_chunks::<8>();
    words.iter_mut().zip(bytes).for_each(|(word, &bytes)| *word = u64::from_le_bytes(bytes));
    words
}

/// Whether two beginnings are the same where filters look. Word by word: a comparison of memory would wait until the new
/// one has reached it. Who has the bits of a plain frame is one: they are among those that are asked.
#[inline(always)]
fn same(new: &[u64; WORDS], old: &[u64; WORDS]) -> bool {
    new.iter().zip(old).zip(ASKED).fold(0, |difference, ((new, old), asked)| difference | (new ^ old) & asked)
        == 0
}

impl<T: Copy + PartialEq> FlowCache<T> {
    /// What [`Table::steer`] says of a frame.
    #[inline]
    pub fn steer(&mut self, table: &Table<T>, frame: &[u8], mut each: impl FnMut(T, FilterId)) -> Verdict {
        if let (Some(beginning), Some(old)) = (frame.first_chunk::<40>(), &self.key)
            && same(&words(beginning), old)
            && self.generation == table.generation()
        {
            for (to, filter) in self.to.iter().map_while(|&to| to) {
                each(to, filter);
            }
            return self.verdict;
        }
        self.ask(table, frame, each)
    }

    #[inline(never)]
    fn ask(&mut self, table: &Table<T>, frame: &[u8], mut each: impl FnMut(T, FilterId)) -> Verdict {
        let Some(headers) = Headers::parse(frame.get(..HEADER_BYTES).unwrap_or(frame)) else {
            return Verdict::Kernel;
        };
        let mut count = 0;
        self.to = [None; MOST];
        self.verdict = table.steer(&headers, |to, filter| {
            if let Some(place) = self.to.get_mut(count) {
                *place = Some((to, filter));
            }
            count += 1;
            each(to, filter);
        });
        self.key = key(frame).filter(|_| count <= MOST);
        self.generation = table.generation();
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::udp4;
    use super::super::{Filter, Target};
    use super::*;
    use proptest::prelude::*;

    fn answer(cache: &mut FlowCache<u8>, table: &Table<u8>, frame: &[u8]) -> (Vec<(u8, FilterId)>, Verdict) {
        let mut got = Vec::new();
        let verdict = cache.steer(table, frame, |to, filter| got.push((to, filter)));
        (got, verdict)
    }

    proptest! {
        /// Whatever one byte of a frame becomes, and whatever the table: kept answers are those of the table.
        #[test]
        fn what_is_kept_is_what_the_table_says(bytes in proptest::collection::vec((0_usize..46, any::<u8>()), 1..40),
            change in 0_usize..40, sniffers in 0_u8..6, cut in 30_usize..50) {
            let from = "10.0.0.1:7".parse().unwrap();
            let whole = udp4([2; 6], None, from, "10.0.0.2:80".parse().unwrap());
            let mut table = Table::new();
            for text in ["udp:10.0.0.2:80,10.0.0.1:7", "udp:10.0.0.2:0-99", "eth:02:02:02:02:02:02", "ip-protocol:17",
                "ethertype:0x800", "multicast-mis"] {
                table.add(text.parse().unwrap(), Target::Set(vec![1, 2, 3])).unwrap();
            }
            (0..sniffers).for_each(|to| { table.add(Filter::Sniff, Target::One(100 + to)).unwrap(); });
            let mut cache = FlowCache::default();
            for (n, (at, byte)) in bytes.into_iter().enumerate() {
                if n == change {
                    let id = table.add(Filter::UnicastAll, Target::One(77)).unwrap();
                    table.remove(id);
                    table.add("udp:10.0.0.2:80-80".parse().unwrap(), Target::One(78)).unwrap();
                }
                let mut frame = whole.clone();
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
                frame.truncate(if n % 5 == 0 { cut } else { usize::MAX });
                for frame in [&frame, &whole, &frame] {
                    let expected = answer(&mut FlowCache::default(), &table, frame);
                    prop_assert_eq!(answer(&mut cache, &table, frame), expected);
                }
            }
        }
    }
}
