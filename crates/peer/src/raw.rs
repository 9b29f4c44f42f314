//! The raw test: numbered frames into a guest, every one answered by the guest's own kernel, every byte compared.
//!
//! Each frame is an ICMP echo request. The kernel there sees to it that what came in is whole (it drops what is not), and
//! sends as many frames the other way, which are compared here. So N frames cross each way with nothing but an
//! address on the guest's network device.

use crate::ethernet::{ECHO_HEADER_BYTES, Mac, Said, arp, echo, read};
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Requests under way at once: more than a ring of 15 slots, less than a guest's backlog of 1000.
const UNDER_WAY: usize = 32;
/// How long after the last answer the rest counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the guest is asked for its hardware address.
const ASK: Duration = Duration::from_millis(200);
/// Marks our requests, in the ICMP identifier.
const IDENTIFIER: [u8; 2] = *b"is";

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many frames each way.
    pub frames: u32,
    /// The shortest and the longest frame in bytes, Ethernet header included.
    pub bytes: (usize, usize),
    /// Who sends.
    pub from: (Mac, Ipv4Addr),
    /// Who answers.
    pub to: Ipv4Addr,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Score {
    /// Frames sent.
    pub sent: u32,
    /// Answers that were whole.
    pub answered: u32,
    /// Requests without an answer.
    pub lost: u32,
    /// Answers with a byte that is another one.
    pub corrupted: u32,
    /// Answers to nothing, or a second time.
    pub unexpected: u32,
    /// Bytes sent, headers included; as many came back.
    pub bytes: u64,
    /// From the first request to the last answer, in milliseconds.
    pub ms: u64,
}

impl Score {
    /// Nothing was lost and nothing was broken.
    #[must_use]
    pub fn is_perfect(&self, frames: u32) -> bool {
        self.answered == frames && self.lost == 0 && self.corrupted == 0 && self.unexpected == 0
    }
}

/// The test, on its way.
#[derive(Debug)]
pub struct RawTest {
    plan: Plan,
    guest: Option<Mac>,
    asked: Option<Duration>,
    began: Option<Duration>,
    progress: Duration,
    next: u32,
    under_way: BTreeSet<u32>,
    score: Score,
}

impl RawTest {
    /// A test that has not begun.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            guest: None,
            asked: None,
            began: None,
            progress: Duration::ZERO,
            next: 0,
            under_way: BTreeSet::new(),
            score: Score::default(),
        }
    }

    /// The next frame to send, if there should be one now.
    pub fn next(&mut self, now: Duration) -> Option<Vec<u8>> {
        let Some(guest) = self.guest else {
            if self.asked.is_some_and(|asked| now.saturating_sub(asked) < ASK) {
                return None;
            }
            self.asked = Some(now);
            return Some(arp(true, self.plan.from, (Mac([0; 6]), self.plan.to)));
        };
        if self.began.is_some() && now.saturating_sub(self.progress) > PATIENCE {
            self.progress = now;
            self.score.lost = self.score.lost.saturating_add(count(self.under_way.len()));
            self.under_way.clear();
        }
        if self.next >= self.plan.frames || self.under_way.len() >= UNDER_WAY {
            return None;
        }
        if self.began.is_none() {
            (self.began, self.progress) = (Some(now), now);
        }
        let number = self.next;
        self.next = number.saturating_add(1);
        self.under_way.insert(number);
        let frame = echo(true, self.plan.from, (guest, self.plan.to), id(number), &data(number, &self.plan));
        self.score.sent = self.score.sent.saturating_add(1);
        self.score.bytes = self.score.bytes.saturating_add(u64::try_from(frame.len()).unwrap_or(u64::MAX));
        Some(frame)
    }

    /// A frame has come.
    pub fn frame(&mut self, now: Duration, frame: &[u8]) {
        match read(frame) {
            Said::ArpReply { mac, sender } if sender == self.plan.to => self.guest = Some(mac),
            Said::BadChecksum => self.score.corrupted = self.score.corrupted.saturating_add(1),
            Said::Echo(reply) if !reply.request && reply.id.first_chunk() == Some(&IDENTIFIER) => {
                let number = reply.data.first_chunk().map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes));
                self.answer(now, number, &reply.id, reply.data);
            }
            Said::ArpRequest { .. } | Said::ArpReply { .. } | Said::Echo(_) | Said::Other => {}
        }
    }

    fn answer(&mut self, now: Duration, number: u32, id_found: &[u8; 4], data_found: &[u8]) {
        if !self.under_way.remove(&number) {
            self.score.unexpected = self.score.unexpected.saturating_add(1);
            return;
        }
        self.progress = now;
        if *id_found == id(number) && data_found == data(number, &self.plan) {
            self.score.answered = self.score.answered.saturating_add(1);
        } else {
            self.score.corrupted = self.score.corrupted.saturating_add(1);
        }
        let ms = now.saturating_sub(self.began.unwrap_or(now)).as_millis();
        self.score.ms = u64::try_from(ms).unwrap_or(u64::MAX);
    }

    /// Whether all is sent and nothing is under way.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.next >= self.plan.frames && self.under_way.is_empty()
    }

    /// Whether the guest has told its hardware address.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.guest.is_some()
    }

    /// How far it is.
    #[must_use]
    pub fn score(&self) -> Score {
        self.score
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Identifier and sequence number.
fn id(number: u32) -> [u8; 4] {
    let [low, high, ..] = number.to_le_bytes();
    let [a, b] = IDENTIFIER;
    [a, b, high, low]
}

/// What a request carries: its number, and bytes that follow from it; of a length that follows from it, too.
fn data(number: u32, plan: &Plan) -> Vec<u8> {
    let (shortest, longest) = plan.bytes;
    let span = u32::try_from(longest.saturating_sub(shortest)).unwrap_or(0).saturating_add(1);
    let mut state = number.wrapping_mul(0x9E37_79B9) ^ 0x5DEE_CE66;
    let extra = (state >> 8).checked_rem(span).unwrap_or(0);
    let extra = usize::try_from(extra).unwrap_or(0);
    let bytes = shortest.saturating_add(extra).saturating_sub(ECHO_HEADER_BYTES).max(4);
    let pattern = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x0019_660D).wrapping_add(0x3C6E_F35F);
        let [_, _, _, byte] = state.to_le_bytes();
        byte
    });
    number.to_le_bytes().into_iter().chain(pattern).take(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::responder::Responder;

    const GUEST: Responder =
        Responder { mac: Mac([2, 0, 0, 0, 0, 1]), address: Ipv4Addr::new(10, 0, 77, 1), echo: false };

    fn plan(frames: u32) -> Plan {
        let from = (Mac::OURS, Ipv4Addr::new(10, 0, 77, 2));
        Plan { frames, bytes: (60, 1514), from, to: GUEST.address }
    }

    /// Plays a guest that treats frame number n as `treat` says.
    fn play(frames: u32, treat: impl Fn(u32, Vec<u8>) -> Option<Vec<u8>>) -> Score {
        let mut test = RawTest::new(plan(frames));
        let (mut now, mut number) = (Duration::ZERO, 0);
        while !test.is_over() {
            now += Duration::from_millis(100);
            while let Some(frame) = test.next(now) {
                assert!(test.under_way.len() <= UNDER_WAY);
                let Some(answer) = GUEST.answer(&frame) else { panic!("no answer") };
                if test.has_begun() {
                    number += 1;
                    if let Some(answer) = treat(number, answer) {
                        test.frame(now, &answer);
                    }
                } else {
                    test.frame(now, &answer);
                }
            }
        }
        test.score()
    }

    #[test]
    fn a_faithful_guest_scores_everything() {
        let score = play(500, |_, answer| Some(answer));
        assert!(score.is_perfect(500), "{score:?}");
        assert!((500 * 60..=500 * 1514).contains(&score.bytes));
    }

    #[test]
    fn what_is_lost_or_broken_is_counted() {
        let score = play(300, |number, answer| (number % 100 != 7).then_some(answer));
        assert_eq!((score.answered, score.lost, score.corrupted), (297, 3, 0));
        // A byte that changes and a checksum that is right again.
        let score = play(300, |number, mut answer| {
            if number == 50 {
                let at = answer.len() - 2;
                answer.swap(at, at + 1);
                if let Said::Echo(old) = read(&answer) {
                    return Some(echo(false, (old.mac, old.from), (Mac::OURS, old.to), old.id, &[0; 100]));
                }
                answer[40] ^= 1;
            }
            Some(answer)
        });
        assert!(!score.is_perfect(300), "{score:?}");
        let twice = RawTest::new(plan(1));
        assert!(!twice.is_over() && !twice.has_begun());
    }

    #[test]
    fn an_answer_that_came_already_is_unexpected() {
        let mut test = RawTest::new(plan(2));
        let question = test.next(Duration::ZERO).unwrap();
        assert!(test.next(Duration::ZERO).is_none(), "not asked again at once");
        test.frame(Duration::ZERO, &GUEST.answer(&question).unwrap());
        let answer = GUEST.answer(&test.next(Duration::ZERO).unwrap()).unwrap();
        test.frame(Duration::ZERO, &answer);
        test.frame(Duration::ZERO, &answer);
        assert_eq!((test.score().answered, test.score().unexpected), (1, 1));
    }

    #[test]
    fn lengths_keep_within_their_limits() {
        for number in 0..5000 {
            let bytes = data(number, &plan(1)).len() + ECHO_HEADER_BYTES;
            assert!((60..=1514).contains(&bytes), "{bytes}");
        }
    }
}
