//! The peer's clock, measured over the link as NTP does it: pure, carried by whoever has a lane.
//!
//! ```text
//!   here    t1 ─ Question ─▶                    ─▶ t4        offset = ((t2 − t1) + (t3 − t4)) / 2
//!   there                   ▶ t2 … Answer … t3 ─▶            delay  = (t4 − t1) − (t3 − t2)
//! ```
//!
//! However the delay is divided between the two ways, the offset is wrong by half of it at most. So the exchange with
//! the least delay says most, until it is so old that the clocks may have parted further: that sum is what is compared
//! (the clock filter of RFC 5905, section 10, with a bound in place of an estimate).

use super::discipline::{DRIFT_PPB, difference};
use super::line::{Stamp, SyncFlags};

/// Exchanges that are remembered.
const REMEMBERED: usize = 16;
/// Questions that may be on their way.
const ASKED: usize = 4;
/// Bytes of a question.
pub const QUESTION_BYTES: usize = 16;
/// Bytes of an answer.
pub const ANSWER_BYTES: usize = 48;

/// What goes to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Comes back with the answer.
    pub number: u64,
    /// t1: when it was sent, by the clock of who asks.
    pub sent_ns: u64,
}

impl Question {
    /// As it travels: little-endian words.
    #[must_use]
    pub fn to_bytes(self) -> [u8; QUESTION_BYTES] {
        let mut bytes = [0; QUESTION_BYTES];
        put(&mut bytes, &[self.number, self.sent_ns]);
        bytes
    }

    /// From what came; none if it is too short. What it says is the peer's word.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [number, sent_ns] = words(bytes)?;
        Some(Self { number, sent_ns })
    }

    /// The answer to it: `received` is when the question came and `sent` is now, both by the clock of who answers.
    #[must_use]
    pub fn answer(&self, received: Stamp, sent: Stamp) -> Answer {
        Answer {
            number: self.number,
            asked_ns: self.sent_ns,
            received_ns: received.ns,
            sent_ns: sent.ns,
            bound_ns: received.bound_ns.max(sent.bound_ns),
            flags: sent.flags,
        }
    }
}

/// What comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The question's.
    pub number: u64,
    /// t1, as the question had it.
    pub asked_ns: u64,
    /// t2: when the question came, by the clock of who answers.
    pub received_ns: u64,
    /// t3: when the answer was sent, by the same clock.
    pub sent_ns: u64,
    /// How far that clock may be from its CLOCK_TAI.
    pub bound_ns: u64,
    /// How good that clock is.
    pub flags: SyncFlags,
}

impl Answer {
    /// As it travels: little-endian words.
    #[must_use]
    pub fn to_bytes(self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        let flags = u64::from(self.flags.bits());
        put(&mut bytes, &[self.number, self.asked_ns, self.received_ns, self.sent_ns, self.bound_ns, flags]);
        bytes
    }

    /// From what came; none if it is too short. What it says is the peer's word: [`PeerClock::take`] judges it.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [number, asked_ns, received_ns, sent_ns, bound_ns, flags] = words(bytes)?;
        let flags = SyncFlags::from_bits(crate::bits::low32(flags));
        Some(Self { number, asked_ns, received_ns, sent_ns, bound_ns, flags })
    }
}

fn put(bytes: &mut [u8], words: &[u64]) {
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
}

fn words<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let mut words = [0; N];
    let mut chunks = bytes.chunks_exact(8);
    for word in &mut words {
        *word = u64::from_le_bytes(chunks.next()?.try_into().ok()?);
    }
    Some(words)
}

/// Why an answer is not used. The measure stays as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// Nobody asked, or the answer came before.
    #[error("an answer to question {0}, which is not open")]
    NotAsked(u64),
    /// It says that the question was sent at another time than it was.
    #[error("the answer says that the question was sent at {said}, and it was sent at {sent}")]
    NotMine {
        /// What it says.
        said: u64,
        /// What is so.
        sent: u64,
    },
    /// The peer sent it before it had the question.
    #[error("the peer answered {0} ns before it was asked")]
    BeforeAsked(u64),
    /// It came before the question was sent: this clock was set back meanwhile.
    #[error("the answer came {0} ns before the question was sent")]
    BeforeSent(u64),
    /// The peer says that it kept the question for longer than the whole exchange took.
    #[error("the peer kept a question for {kept} ns that was answered within {whole} ns")]
    KeptTooLong {
        /// What the peer says.
        kept: u64,
        /// How long it took here.
        whole: u64,
    },
}

/// What one exchange says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchanged {
    /// The peer's clock minus this one, in nanoseconds.
    pub offset_ns: i64,
    /// How wrong that may be.
    pub bound_ns: u64,
    /// How long question and answer were on their way, together.
    pub delay_ns: u64,
    at_ns: u64,
    peer_bound_ns: u64,
    flags: SyncFlags,
}

/// How the peer's clock stands to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerOffset {
    /// The peer's clock minus this one, in nanoseconds.
    pub offset_ns: i64,
    /// How wrong that may be, in nanoseconds either way, at the moment that was asked for.
    pub bound_ns: u64,
    /// How far the peer's clock may be from its own CLOCK_TAI, as it says.
    pub peer_bound_ns: u64,
    /// How good the peer's clock is, as it says.
    pub flags: SyncFlags,
}

impl PeerOffset {
    /// A time of the peer's, by this clock; none if there is no such time.
    #[must_use]
    pub fn to_mine(self, peer_ns: u64) -> Option<u64> {
        u64::try_from(i128::from(peer_ns) - i128::from(self.offset_ns)).ok()
    }

    /// A time of this clock, by the peer's.
    #[must_use]
    pub fn to_peer(self, my_ns: u64) -> Option<u64> {
        u64::try_from(i128::from(my_ns) + i128::from(self.offset_ns)).ok()
    }
}

/// The measure of one peer's clock.
#[derive(Debug, Default)]
pub struct PeerClock {
    next: u64,
    asked: [Option<Question>; ASKED],
    exchanges: [Option<Exchanged>; REMEMBERED],
    /// Exchanges ever: says which one is the oldest.
    taken: u64,
    jumps: u64,
}

impl PeerClock {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A question, sent now. An older one that is still open may be given up for it.
    pub fn ask(&mut self, now_ns: u64) -> Question {
        let question = Question { number: self.next, sent_ns: now_ns };
        let place = crate::bits::place(self.next % ASKED as u64);
        if let Some(place) = self.asked.get_mut(place) {
            *place = Some(question);
        }
        self.next = self.next.wrapping_add(1);
        question
    }

    /// Takes an answer that came at `now_ns` (t4).
    ///
    /// # Errors
    /// [`Nonsense`]; nothing was learned.
    pub fn take(&mut self, answer: &Answer, now_ns: u64) -> Result<Exchanged, Nonsense> {
        let open = self.asked.iter_mut().find(|open| open.is_some_and(|open| open.number == answer.number));
        let question = open.and_then(Option::take).ok_or(Nonsense::NotAsked(answer.number))?;
        let exchanged = exchange(&question, answer, now_ns)?;
        // Both are right within their bounds, or one of the clocks was set in between: then what was measured before is no more.
        if let Some(known) = self.offset(now_ns)
            && known.offset_ns.abs_diff(exchanged.offset_ns)
                > known.bound_ns.saturating_add(exchanged.bound_ns)
        {
            self.exchanges = [None; REMEMBERED];
            self.jumps = self.jumps.wrapping_add(1);
        }
        let place = crate::bits::place(self.taken % REMEMBERED as u64);
        if let Some(place) = self.exchanges.get_mut(place) {
            *place = Some(exchanged);
        }
        self.taken = self.taken.wrapping_add(1);
        Ok(exchanged)
    }

    /// How the peer's clock stands at `now_ns`: by the exchange that says most. None before the first.
    #[must_use]
    pub fn offset(&self, now_ns: u64) -> Option<PeerOffset> {
        let aged = |exchanged: &Exchanged| {
            // Both clocks may drift, in opposite directions.
            let age = u128::from(now_ns.abs_diff(exchanged.at_ns));
            let parted = (age * 2 * u128::from(DRIFT_PPB)).div_ceil(1_000_000_000);
            exchanged.bound_ns.saturating_add(u64::try_from(parted).unwrap_or(u64::MAX))
        };
        let best = self.exchanges.iter().flatten().min_by_key(|exchanged| aged(exchanged))?;
        let newest = self
            .exchanges
            .get(crate::bits::place(self.taken.wrapping_sub(1) % REMEMBERED as u64))
            .and_then(Option::as_ref)
            .unwrap_or(best);
        Some(PeerOffset {
            offset_ns: best.offset_ns,
            bound_ns: aged(best),
            peer_bound_ns: newest.peer_bound_ns,
            flags: newest.flags,
        })
    }

    /// Exchanges ever.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// How often the offset was another than it could be: one of the clocks was set, and all before was forgotten.
    #[must_use]
    pub fn jumps(&self) -> u64 {
        self.jumps
    }

    /// Forgets all exchanges: the link went down.
    pub fn forget(&mut self) {
        self.asked = [None; ASKED];
        self.exchanges = [None; REMEMBERED];
    }
}

/// What four stamps say.
fn exchange(question: &Question, answer: &Answer, now_ns: u64) -> Result<Exchanged, Nonsense> {
    let (t1, t2, t3, t4) = (question.sent_ns, answer.received_ns, answer.sent_ns, now_ns);
    if answer.asked_ns != t1 {
        return Err(Nonsense::NotMine { said: answer.asked_ns, sent: t1 });
    }
    let kept = t3.checked_sub(t2).ok_or(Nonsense::BeforeAsked(t2.abs_diff(t3)))?;
    let whole = t4.checked_sub(t1).ok_or(Nonsense::BeforeSent(t1.abs_diff(t4)))?;
    // The peer's second may be longer than mine.
    let allowance =
        u64::try_from(u128::from(whole) * 2 * u128::from(DRIFT_PPB) / 1_000_000_000 + 1).unwrap_or(u64::MAX);
    if kept > whole.saturating_add(allowance) {
        return Err(Nonsense::KeptTooLong { kept, whole });
    }
    let delay = whole.saturating_sub(kept);
    let sum = i128::from(difference(t2, t1)) + i128::from(difference(t3, t4));
    Ok(Exchanged {
        offset_ns: i64::try_from(sum / 2).unwrap_or(0),
        bound_ns: delay.div_ceil(2).saturating_add(allowance),
        delay_ns: delay,
        at_ns: now_ns,
        peer_bound_ns: answer.bound_ns,
        flags: answer.flags,
    })
}
