//! Completions: the numbers of frames that were sent, until the application fetches them.

use crate::bits::place;
use crate::packet::RequestId;
use std::cell::Cell;

/// How many may wait; with more, nothing is sent. A power of two.
const MOST: usize = 512;

/// A ring of numbers.
#[derive(Debug)]
pub(super) struct Completions {
    ring: Box<[Cell<RequestId>; MOST]>,
    /// Numbers put in, ever.
    put: Cell<u64>,
    /// Numbers fetched, ever.
    fetched: Cell<u64>,
    /// Of those put in, how many a poll has told of.
    told: Cell<u64>,
}

impl Completions {
    pub(super) fn new() -> Self {
        Self {
            ring: Box::new([const { Cell::new(RequestId(0)) }; MOST]),
            put: Cell::new(0),
            fetched: Cell::new(0),
            told: Cell::new(0),
        }
    }

    fn place(&self, n: u64) -> Option<&Cell<RequestId>> {
        self.ring.get(place(n) & (MOST - 1))
    }

    /// Numbers put in, ever.
    pub(super) fn ever(&self) -> u64 {
        self.put.get()
    }

    /// How many wait.
    #[inline]
    pub(super) fn len(&self) -> usize {
        place(self.put.get().wrapping_sub(self.fetched.get()))
    }

    /// Whether there is no room for one more.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.len() >= MOST
    }

    /// Puts one in; the caller has asked whether there is room.
    #[inline]
    pub(super) fn put(&self, request: RequestId) {
        let n = self.put.get();
        if let Some(place) = self.place(n) {
            place.set(request);
        }
        self.put.set(n.wrapping_add(1));
    }

    /// Fetches the oldest, as many as `requests` has room for.
    #[inline]
    pub(super) fn fetch(&self, requests: &mut [RequestId]) -> usize {
        let count = requests.len().min(self.len());
        let begin = place(self.fetched.get()) & (MOST - 1);
        // To the ring's end, and on from its beginning: two runs, each of them copied in one go.
        let (later, first) = self.ring.split_at(begin);
        let (to, _) = requests.split_at_mut(count);
        let (to_first, to_later) = to.split_at_mut(count.min(first.len()));
        to_first.iter_mut().zip(first).for_each(|(to, from)| *to = from.get());
        to_later.iter_mut().zip(later).for_each(|(to, from)| *to = from.get());
        let n = self.fetched.get().wrapping_add(count as u64);
        self.fetched.set(n);
        self.told.set(self.told.get().max(n));
        count
    }

    /// How many wait, if there are some that no poll has told of; from now on they count as told.
    pub(super) fn tell(&self) -> Option<usize> {
        (!self.all_told()).then(|| {
            self.told.set(self.put.get());
            self.len()
        })
    }

    /// Whether a poll has told of all.
    pub(super) fn all_told(&self) -> bool {
        self.told.get() == self.put.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_out_in_order_and_are_told_of_once() {
        let completions = Completions::new();
        let mut out = [RequestId(0); 300];
        for round in 0..4 {
            assert_eq!(completions.tell(), None);
            for n in (0..).take(MOST) {
                assert!(!completions.is_full());
                completions.put(RequestId(round * 1000 + n));
            }
            assert!(completions.is_full());
            assert_eq!((completions.tell(), completions.tell()), (Some(MOST), None));
            assert_eq!(completions.fetch(&mut out), 300);
            assert_eq!((out[0], out[299]), (RequestId(round * 1000), RequestId(round * 1000 + 299)));
            assert_eq!(completions.fetch(&mut out), MOST - 300);
            assert_eq!(out[0], RequestId(round * 1000 + 300));
            assert_eq!(completions.fetch(&mut out), 0);
        }
        completions.put(RequestId(1));
        assert_eq!(completions.fetch(&mut out), 1);
        assert_eq!(completions.tell(), None, "what was fetched needs not be told of");
    }

    #[test]
    fn runs_of_every_length_come_out_in_order_wherever_the_ring_ends() {
        let completions = Completions::new();
        let (mut put, mut fetched) = (0, 0);
        for n in 0..5000 {
            for _ in 0..n * 7 % 120 {
                if !completions.is_full() {
                    completions.put(RequestId(put));
                    put += 1;
                }
            }
            let mut out = vec![RequestId(u32::MAX); n * 31 % 131];
            let count = completions.fetch(&mut out);
            assert_eq!(count, out.len().min((put - fetched) as usize));
            assert!(out[..count].iter().copied().eq((fetched..).map(RequestId).take(count)));
            assert!(out[count..].iter().all(|left| *left == RequestId(u32::MAX)));
            fetched += u32::try_from(count).unwrap();
        }
        assert!(put > 100_000);
    }
}
