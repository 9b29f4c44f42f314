//! The last answer of a table, kept: frames come in trains of one flow.

use super::{HEADER_BYTES, Headers, Table, Verdict};
use crate::lane::FilterId;

/// What filters ask of an untagged IPv4 packet without options, in words: all of its first 40 bytes but type of service, lengths,
/// identification, time to live and checksum.
const WORDS: usize = 5;

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

/// The words that filters ask of. Each is loaded as the frame may have been stored just now, by words: a wider load, or one
/// that lies across two of them, would wait until they have reached the cache.
#[inline(always)]
fn words(beginning: &[u8; 40]) -> [u64; WORDS] {
    let (bytes, _) = beginning.as_chunks::<4>();
    let half = |n: usize| bytes.get(n).map_or(0, |&half| u32::from_le_bytes(half));
    let (bytes, _) = beginning.as_chunks::<8>();
    let word = |n: usize| bytes.get(n).map_or(0, |&word| u64::from_le_bytes(word));
    // Addresses and the type of the frame but the type of service at 15; fragment flags and offset at 20 and the protocol at
    // 23; the addresses at 26; the ports at 34.
    [word(0), word(1) << 8, (half(5) & 0xFF00_FFFF).into(), word(3) >> 16, word(4) << 16]
}

/// The key of a frame, if it is of the plain kind and whole as far as filters look.
fn key(frame: &[u8]) -> Option<[u64; WORDS]> {
    let beginning = frame.first_chunk()?;
    (beginning.get(12..15) == Some(&PLAIN)).then(|| words(beginning))
}

/// Whether a frame has this key. Who has the bits of a plain frame is one: they are among those that are asked.
#[inline(always)]
fn has(frame: &[u8], key: &[u64; WORDS]) -> bool {
    let Some(beginning) = frame.first_chunk() else { return false };
    // One question for all of them: the usual frame has the key.
    words(beginning).iter().zip(key).fold(0, |all, (word, key)| all | (word ^ key)) == 0
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

    /// Two frames of one key are one to filters: no bit of the key's 40 bytes that tells two frames apart is left out, and none
    /// that tells nothing is asked.
    #[test]
    fn a_key_has_the_bits_that_filters_ask_and_no_others() {
        let from = "10.0.0.1:7".parse().unwrap();
        let whole = udp4([2; 6], None, from, "10.0.0.2:80".parse().unwrap());
        let kept = key(&whole).unwrap();
        for bit in 0..8 * 40 {
            let mut frame = whole.clone();
            frame[bit / 8] ^= 1 << (bit % 8);
            // Of flags and offset of a fragment all bits are asked, though one of them, not to fragment, tells nothing.
            let asked = Headers::parse(&frame) != Headers::parse(&whole) || matches!(bit / 8, 20 | 21);
            assert_eq!((has(&frame, &kept), key(&frame) == Some(kept)), (!asked, !asked), "bit {bit}");
            assert!(!has(&frame, &NO_FRAME));
        }
        assert!(!has(&[0; 40], &NO_FRAME) && !has(&whole[..39], &kept) && key(&whole[..39]).is_none());
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
