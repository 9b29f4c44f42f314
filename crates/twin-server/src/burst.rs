//! How the twin reads a host that stores as fast as it can.

use std::time::Duration;
use twin::Time;
use vfio_user::server::Counters;

/// Whether a host is in a burst of small stores, and how long its socket is left alone.
///
/// A QEMU whose socket takes every message sends each store by a system call of its own, and a reader that waits in poll
/// is woken by each. So once small posted stores come thickly, the twin leaves the socket alone for a moment. The socket
/// fills, QEMU queues, and a queue of more than 1024 stores travels as messages of 200 (hw/vfio-user/proxy.c,
/// `VFIO_USER_OUT_HIGH`). Those are taken as they come: a socketful of them a millisecond would be the limit of the
/// window. A host that is answered anything ends the burst.
#[derive(Debug, Default)]
pub(crate) struct Burst {
    began: Time,
    stores: u64,
    rest_until: Option<Time>,
}

impl Burst {
    /// So many posted stores ..
    const STORES: u64 = 64;
    /// .. in so much time are a burst, ..
    const WITHIN: Duration = Duration::from_millis(1);
    /// .. if their messages have at most so many bytes: a socket holds enough of larger ones.
    const SMALL_BYTES: u64 = 64;
    /// How long the socket is left alone. A store waits at most this long.
    const REST: Duration = Duration::from_millis(1);

    /// Takes note of one turn of a session: its counters before and after. `more`: it left messages that poll cannot
    /// see, so there is nothing to wait for.
    pub(crate) fn saw(&mut self, before: &Counters, after: &Counters, now: Time, more: bool) {
        let stores = after.posted_writes.wrapping_sub(before.posted_writes);
        let bytes = after.bytes_in.wrapping_sub(before.bytes_in);
        let messages = after.messages.wrapping_sub(before.messages);
        let small_and_single = after.bytes_out == before.bytes_out
            && bytes <= stores.saturating_mul(Self::SMALL_BYTES)
            && stores <= messages.saturating_mul(2);
        if !small_and_single || now.0.saturating_sub(self.began.0) > Self::WITHIN {
            *self = Self { began: now, ..Self::default() };
        }
        if small_and_single {
            self.stores = self.stores.saturating_add(stores);
        }
        self.rest_until = None;
        if self.stores >= Self::STORES && !more {
            self.began = now;
            self.rest_until = Some(now.after(Self::REST));
        }
    }

    /// Until when the socket is left alone, if it is now.
    pub(crate) fn rests_until(&self, now: Time) -> Option<Time> {
        self.rest_until.filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Time {
        Time(Duration::from_micros(micros))
    }

    /// Whether the socket is left alone after one turn with so many messages, stores, bytes in and bytes out.
    fn rests(messages: u64, posted_writes: u64, bytes_in: u64, bytes_out: u64) -> bool {
        let mut burst = Burst::default();
        let after = Counters { messages, posted_writes, bytes_in, bytes_out, ..Counters::default() };
        burst.saw(&Counters::default(), &after, at(100), false);
        burst.rests_until(at(101)).is_some()
    }

    #[test]
    fn small_single_stores_that_come_thickly_are_left_to_gather() {
        assert!(rests(64, 64, 64 * 40, 0));
        assert!(!rests(63, 63, 63 * 40, 0), "a few are no burst");
        assert!(!rests(64, 64, 64 * 40, 16), "somebody waits for answers");
        assert!(!rests(64, 64, 64 * 4096, 0), "large ones fill a socket as they are");
        assert!(!rests(2, 400, 9632, 0), "they come in hundreds already");
    }

    #[test]
    fn a_rest_ends_by_itself_and_slow_stores_never_begin_one() {
        let (mut burst, mut counters) = (Burst::default(), Counters::default());
        let mut turn = |burst: &mut Burst, stores, now, more| {
            let before = counters;
            counters.messages += stores;
            counters.posted_writes += stores;
            counters.bytes_in += stores * 40;
            burst.saw(&before, &counters, at(now), more);
        };
        turn(&mut burst, 40, 0, false);
        turn(&mut burst, 40, 500, true);
        assert!(burst.rests_until(at(500)).is_none(), "there is more to take");
        turn(&mut burst, 1, 600, false);
        assert_eq!(burst.rests_until(at(601)), Some(at(1600)));
        assert!(burst.rests_until(at(1600)).is_none());
        for now in (10_000..20_000).step_by(1001) {
            turn(&mut burst, 40, now, false);
            assert!(burst.rests_until(at(now)).is_none(), "{now}");
        }
    }
}
