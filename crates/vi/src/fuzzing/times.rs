//! The peer's clock, by a peer that answers as it likes; and a clock that is told what it likes.
//!
//! An input is records: a byte that says what is done, then its arguments. As long as the peer is honest, however slow and unequal the ways
//! are, the offset is within its bound; lies may bend it, and nothing else.

use super::Bytes;
use crate::clock::{
    ANSWER_BYTES, Answer, Discipline, PeerClock, QUESTION_BYTES, Question, Reading, Stamp, Stepped, SyncFlags,
};

/// What happened, for tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Answers that were used, and that were not.
    pub taken: u64,
    /// Answers that were refused.
    pub refused: u64,
    /// How often the offset jumped.
    pub jumps: u64,
}

struct Player {
    peer: PeerClock,
    open: Vec<Question>,
    now: u64,
    /// The peer's clock minus this one, as long as nobody lies.
    truth: i64,
    honest: bool,
    outcome: Outcome,
}

impl Player {
    fn took(&mut self, answer: &Answer) {
        let sent = answer.to_bytes();
        assert_eq!(Answer::from_bytes(&sent).as_ref(), Some(answer), "it travels as it is");
        assert_eq!(Answer::from_bytes(&sent[..ANSWER_BYTES - 1]), None);
        match self.peer.take(answer, self.now) {
            Ok(exchanged) => {
                self.outcome.taken += 1;
                assert!(exchanged.bound_ns >= exchanged.delay_ns / 2);
            }
            Err(_) => self.outcome.refused += 1,
        }
        assert_eq!(self.peer.taken(), self.outcome.taken);
        self.outcome.jumps = self.peer.jumps();
        if self.peer.take(answer, self.now).is_ok() {
            panic!("an answer is taken once");
        }
    }

    fn honest(&mut self, which: u8, there: u64, kept: u64) {
        if self.open.is_empty() {
            return;
        }
        let question = self.open.swap_remove(usize::from(which) % self.open.len());
        let theirs = |mine: u64| mine.saturating_add_signed(self.truth);
        // It came after it was asked, and the answer comes now.
        let whole = self.now - question.sent_ns;
        let there = there.min(whole);
        let kept = kept.min(whole - there);
        let stamp = |ns| Stamp { ns: theirs(ns), bound_ns: 9, flags: SyncFlags::CLOCK_SET };
        let came = question.sent_ns + there;
        let answer = question.answer(stamp(came), stamp(came + kept));
        self.took(&answer);
        if self.honest
            && let Some(offset) = self.peer.offset(self.now)
        {
            let wrong = (i128::from(offset.offset_ns) - i128::from(self.truth)).unsigned_abs();
            assert!(wrong <= u128::from(offset.bound_ns), "{offset:?} {}", self.truth);
            assert_eq!(self.outcome.jumps, 0, "nobody has set a clock");
        }
    }

    fn ask(&mut self) {
        let question = self.peer.ask(self.now);
        assert_eq!(Question::from_bytes(&question.to_bytes()), Some(question));
        assert_eq!(Question::from_bytes(&question.to_bytes()[..QUESTION_BYTES - 1]), None);
        self.open.push(question);
        if self.open.len() > 4 {
            self.open.remove(0);
        }
    }
}

/// Does what an input says.
///
/// # Panics
/// Where a promise is broken.
pub fn run(input: &[u8]) -> Outcome {
    let mut bytes = Bytes::new(input);
    // Far enough from both ends that honest times are times.
    let truth = i64::from(bytes.u32().cast_signed()) << 20;
    let now = 1 << 60;
    let (peer, outcome) = (PeerClock::new(), Outcome::default());
    let mut player = Player { peer, open: Vec::new(), now, truth, honest: true, outcome };
    let mut discipline = Discipline::new();
    while bytes.more() {
        match bytes.byte() % 8 {
            0 | 1 => player.ask(),
            2 | 3 => {
                let (which, there, kept) = (bytes.byte(), bytes.u32(), bytes.u32());
                player.honest(which, there.into(), kept.into());
            }
            4 => player.now += u64::from(bytes.u32()),
            // An answer of anything, as it comes over the link.
            5 => {
                let sent: [u8; ANSWER_BYTES] = std::array::from_fn(|_| bytes.byte());
                player.honest = false;
                let answer = Answer::from_bytes(&sent).expect("it is long enough");
                player.took(&answer);
                player.open.retain(|open| open.number != answer.number);
            }
            // One to a question that is open, with times of anything.
            6 => {
                let open = player.open.pop();
                let (received_ns, sent_ns, bound_ns) = (bytes.u64(), bytes.u64(), bytes.u64());
                player.honest = false;
                if let Some(Question { number, sent_ns: asked_ns }) = open {
                    let flags = SyncFlags::from_bits(bytes.byte().into());
                    player.took(&Answer { number, asked_ns, received_ns, sent_ns, bound_ns, flags });
                }
            }
            _ => {
                let reading = Reading { before: bytes.u64(), ns: bytes.u64(), after: bytes.u64() };
                let flags = SyncFlags::from_bits(bytes.byte().into());
                if let Stepped::Line { line, .. } = discipline.step(&[reading], flags) {
                    let stamp = line.stamp(reading.after);
                    assert!(stamp.bound_ns >= line.error_ns);
                    let _any = (line.ticks_in(bytes.u64()), line.span_ns(reading.ns));
                }
            }
        }
        if let Some(offset) = player.peer.offset(player.now) {
            let _any = (offset.to_mine(player.now), offset.to_peer(player.now));
        }
    }
    player.outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::replay;

    fn seed(name: &str) -> Outcome {
        let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/vi_clock");
        run(&std::fs::read(folder.join(name)).unwrap())
    }

    #[test]
    fn the_corpus_replays_and_so_does_what_is_near_it() {
        assert!(
            replay("vi_clock", 100_000, |input| {
                run(input);
            }) >= 8
        );
    }

    #[test]
    fn seeds_are_what_their_names_say() {
        let outcome = |taken, refused, jumps| Outcome { taken, refused, jumps };
        assert_eq!(seed("honest"), outcome(4, 0, 0));
        assert_eq!(seed("honest-behind"), outcome(4, 0, 0));
        assert_eq!(seed("out-of-order"), outcome(3, 0, 0));
        assert_eq!(seed("not-asked"), outcome(0, 1, 0));
        assert_eq!(seed("before-asked"), outcome(0, 1, 0));
        assert_eq!(seed("kept-too-long"), outcome(0, 1, 0));
        assert_eq!(seed("jump"), outcome(2, 0, 1));
    }
}
