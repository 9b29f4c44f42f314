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
    /// The bits that were asked, and no others; [`NO_FRAME`] has one that is never asked.
    key: [u64; WORDS],
    generation: u64,
    /// Whom all of the answer is: one recipient, which is the usual case.
    only: Option<(T, FilterId)>,
    to: [Option<(T, FilterId)>; MOST],
    verdict: Verdict,
}

/// The key of an answer that is not kept.
const NO_FRAME: [u64; WORDS] = [0, u64::MAX, 0, 0, 0];

impl<T: Copy> Default for FlowCache<T> {
    fn default() -> Self {
        Self { key: NO_FRAME, generation: 0, only: None, to: [None; MOST], verdict: Verdict::Kernel }
    }
}

/// The words that filters ask of, if the frame is of the plain kind and whole as far as they look.
fn key(frame: &[u8]) -> Option<[u64; WORDS]> {
    let beginning = frame.first_chunk::<40>()?;
    let (bytes, _) = beginning.as_chunks::<8>();
    let mut key = ASKED;
    key.iter_mut().zip(bytes).for_each(|(word, &bytes)| *word &= u64::from_le_bytes(bytes));
    (beginning.get(12..15) == Some(&PLAIN)).then_some(key)
}

/// Whether a frame has this key. Word by word: the frame may have been copied by words just now, and a wider load would
/// wait until all of them have reached the cache. Who has the bits of a plain frame is one: they are among those that are asked.
#[inline(always)]
fn has(frame: &[u8], key: &[u64; WORDS]) -> bool {
    let Some(beginning) = frame.first_chunk::<40>() else { return false };
    let (bytes, _) = beginning.as_chunks::<8>();
    let differ = |((&bytes, &key), asked)| u64::from_le_bytes(bytes) & asked ^ key;
    // One question for all of them: the usual frame has the key.
    bytes.iter().zip(key).zip(ASKED).map(differ).fold(0, |all, word| all | word) == 0
}

impl<T: Copy + PartialEq> FlowCache<T> {
    /// What [`Table::steer`] says of a frame.
    #[inline]
    pub fn steer(&mut self, table: &Table<T>, frame: &[u8], mut each: impl FnMut(T, FilterId)) -> Verdict {
        if let Some((to, filter)) = self.only(table, frame) {
            each(to, filter);
            return self.verdict;
        }
        self.steer_any(table, frame, &mut each)
    }

    /// The one recipient of a frame whose answer is kept; its verdict is [`verdict`](Self::verdict).
    #[inline(always)]
    pub(crate) fn only(&self, table: &Table<T>, frame: &[u8]) -> Option<(T, FilterId)> {
        if has(frame, &self.key) && self.generation == table.generation() { self.only } else { None }
    }

    /// The verdict of the answer that is kept.
    #[inline(always)]
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The same as [`steer`](Self::steer), for frames of every kind.
    #[inline(never)]
    pub(crate) fn steer_any(
        &mut self,
        table: &Table<T>,
        frame: &[u8],
        each: &mut dyn FnMut(T, FilterId),
    ) -> Verdict {
        if has(frame, &self.key) && self.generation == table.generation() {
            for (to, filter) in self.to.iter().map_while(|&to| to) {
                each(to, filter);
            }
            return self.verdict;
        }
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
        self.key = key(frame).filter(|_| count <= MOST).unwrap_or(NO_FRAME);
        self.only = self.to.first().copied().flatten().filter(|_| count == 1);
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
