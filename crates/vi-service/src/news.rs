//! The page by which a service tells a client what changes often: that there is news, and how the peer's clock stands. The client
//! reads it by loads, without a system call.
//!
//! ```text
//!   0     how many messages the service has sent
//!   64    a sequence number: odd while the words behind it change
//!   72..  when it was so, offset, its bound, the peer's own bound, flags (bit 32: known)
//! ```

use rustix::fd::OwnedFd;
use shm::{Access, LoadOrder, Mapping, Memory, SharedFile, StoreOrder, Window};
use std::io;
use std::os::fd::AsFd;
use vi::clock::{PeerOffset, SyncFlags};

const BYTES: u64 = 4096;
const COUNT: usize = 0;
const SEQUENCE: usize = 64;
const WORDS: usize = 5;
const KNOWN: u64 = 1 << 32;
/// How often a reader looks again: a service that is killed while it writes leaves an odd number for ever.
const LOOKS: u32 = 100;

fn word(at: usize) -> usize {
    SEQUENCE + 8 + 8 * at
}

/// The service's side.
#[derive(Debug)]
pub(crate) struct NewsWriter {
    page: Mapping,
    count: u64,
    sequence: u64,
}

impl NewsWriter {
    /// A fresh page, and its file.
    pub(crate) fn new() -> io::Result<(Self, OwnedFd)> {
        let file = SharedFile::create("isthmus vi news", BYTES)?;
        let page = Mapping::new(&file, 0, BYTES, Access::ReadWrite).map_err(io::Error::other)?;
        Ok((Self { page, count: 0, sequence: 0 }, file.as_fd().try_clone_to_owned()?))
    }

    /// There is one message more.
    pub(crate) fn sent(&mut self) {
        self.count = self.count.wrapping_add(1);
        self.store(COUNT, self.count);
    }

    /// How the peer's clock stood at a time of this host's.
    pub(crate) fn clock(&mut self, known: Option<(u64, PeerOffset)>) {
        let words = known.map_or([0; WORDS], |(at_ns, peer)| {
            let PeerOffset { offset_ns, bound_ns, peer_bound_ns, flags } = peer;
            [at_ns, offset_ns.cast_unsigned(), bound_ns, peer_bound_ns, u64::from(flags.bits()) | KNOWN]
        });
        self.sequence = self.sequence.wrapping_add(1);
        self.store(SEQUENCE, self.sequence);
        for (at, value) in words.into_iter().enumerate() {
            self.store(word(at), value);
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.store(SEQUENCE, self.sequence);
    }

    /// Each with release: who sees a word of the clock sees the odd number before it, and who sees a count its message.
    fn store(&self, at: usize, value: u64) {
        // Inside the page.
        let _ = self.page.store_u64(at, value, StoreOrder::Release);
    }
}

/// The client's side.
#[derive(Debug)]
pub(crate) struct NewsReader(Mapping);

impl NewsReader {
    pub(crate) fn new(file: OwnedFd) -> io::Result<Self> {
        let file = SharedFile::accept(file, BYTES).map_err(io::Error::other)?;
        Mapping::new(&file, 0, BYTES, Access::Read).map(Self).map_err(io::Error::other)
    }

    /// How many messages the service has sent.
    #[inline]
    pub(crate) fn count(&self) -> u64 {
        self.load(COUNT)
    }

    /// How the peer's clock stood, and when.
    pub(crate) fn clock(&self) -> Option<(u64, PeerOffset)> {
        for _ in 0..LOOKS {
            let before = self.load(SEQUENCE);
            let [at_ns, offset_ns, bound_ns, peer_bound_ns, flags] =
                std::array::from_fn(|at| self.load(word(at)));
            if before & 1 == 0 && self.load(SEQUENCE) == before {
                let bits = u32::try_from(flags & (KNOWN - 1)).unwrap_or(0);
                let (offset_ns, flags_now) = (offset_ns.cast_signed(), SyncFlags::from_bits(bits));
                let peer = PeerOffset { offset_ns, bound_ns, peer_bound_ns, flags: flags_now };
                return (flags & KNOWN != 0).then_some((at_ns, peer));
            }
            std::hint::spin_loop();
        }
        None
    }

    fn load(&self, at: usize) -> u64 {
        self.0.load_u64(at, LoadOrder::Acquire).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(n: u64) -> (u64, PeerOffset) {
        let offset_ns = -n.cast_signed();
        (n, PeerOffset { offset_ns, bound_ns: n, peer_bound_ns: n, flags: SyncFlags::IN_SYNC })
    }

    #[test]
    fn nobody_sees_half_a_clock() {
        let (mut writer, file) = NewsWriter::new().unwrap();
        let reader = NewsReader::new(file).unwrap();
        assert_eq!((reader.clock(), reader.count()), (None, 0));
        std::thread::scope(|scope| {
            let writes = scope.spawn(move || {
                for n in 1..=20_000 {
                    writer.clock(Some(offset(n)));
                    writer.sent();
                }
                writer
            });
            let mut last = 0;
            while last < 20_000 {
                let count = reader.count();
                if let Some((n, peer)) = reader.clock() {
                    assert_eq!((n, peer), offset(n));
                    assert!(n >= last && n >= count, "{n} {last} {count}");
                    last = n;
                }
            }
            writes.join().unwrap().clock(None);
        });
        assert_eq!((reader.clock(), reader.count()), (None, 20_000));
    }

    #[test]
    fn a_service_that_was_killed_while_it_wrote_holds_nobody_up() {
        let (mut writer, file) = NewsWriter::new().unwrap();
        let reader = NewsReader::new(file).unwrap();
        writer.clock(Some(offset(5)));
        assert_eq!(reader.clock(), Some(offset(5)));
        writer.store(SEQUENCE, 3);
        assert_eq!(reader.clock(), None);
    }
}
