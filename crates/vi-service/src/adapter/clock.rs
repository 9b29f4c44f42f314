//! The peer's clock, measured over the control channel: frames of their own, not JSON, so that little lies between a time and the
//! store that carries it.
//!
//! ```text
//!   '?' question (16 bytes)  ──▶   the time that it came at is taken before anything else
//!   '!' answer (48 bytes)    ◀──   the time that it goes at is taken last
//! ```
//!
//! Questions come in short bursts: the first wakes the peer, and both look on for a moment, so that those that follow are
//! answered within microseconds. The quickest exchange is the one that counts ([`PeerClock`]).

use cells::{SendError, Sender};
use ntb::{Inbound, Outbound};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use vi::clock::{ANSWER_BYTES, Answer, Clock, PeerClock, PeerOffset, QUESTION_BYTES, Question, Stamp};

/// Between two bursts: by 30 ppm two clocks part by 8 us meanwhile.
const INTERVAL: Duration = Duration::from_millis(250);
/// Questions of a burst.
const BURST: u32 = 6;
/// How long both look on without sleeping after a frame of an exchange.
const AWAKE: Duration = Duration::from_micros(300);
/// Questions of the peer's that wait for an answer: of more the oldest is left.
const UNANSWERED: usize = 4;
const QUESTION: u8 = b'?';
const ANSWER: u8 = b'!';

/// Whether a frame of the channel belongs to an exchange: by its first byte, which no JSON begins with.
pub(super) fn is_ours(frame: &[u8]) -> bool {
    matches!(frame.first(), Some(&(QUESTION | ANSWER)))
}

/// Both ends of the exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    clock: Clock,
    peer: PeerClock,
    asked: VecDeque<(Question, Stamp)>,
    /// What is left of the burst.
    left: u32,
    /// A question is out.
    open: bool,
    next: Instant,
    awake: Option<Instant>,
    refused: u64,
}

impl Exchange {
    pub(super) fn new(clock: Clock) -> Self {
        let (peer, asked) = (PeerClock::new(), VecDeque::new());
        Self { clock, peer, asked, left: 0, open: false, next: Instant::now(), awake: None, refused: 0 }
    }

    /// The link came up, or went down: the peer is another, perhaps.
    pub(super) fn begin(&mut self) {
        self.peer.forget();
        self.asked.clear();
        (self.left, self.open, self.awake, self.next) = (0, false, None, Instant::now());
    }

    /// Takes a frame of the peer's. False: it makes no sense as a message.
    pub(super) fn hear(&mut self, frame: &[u8]) -> bool {
        let now = self.clock.now();
        self.awake = Some(Instant::now());
        match frame.split_first() {
            Some((&QUESTION, rest)) if rest.len() == QUESTION_BYTES => {
                if self.asked.len() >= UNANSWERED {
                    self.asked.pop_front();
                }
                self.asked.extend(Question::from_bytes(rest).map(|question| (question, now)));
                true
            }
            Some((&ANSWER, rest)) if rest.len() == ANSWER_BYTES => {
                self.open = false;
                if let Some(answer) = Answer::from_bytes(rest)
                    && let Err(error) = self.peer.take(&answer, now.ns)
                {
                    tracing::debug!(%error, "an answer about the clock is not used");
                    self.refused = self.refused.wrapping_add(1);
                }
                true
            }
            _ => false,
        }
    }

    /// Sends the answers that are due, and a question if it is time. True: something went.
    pub(super) fn say(&mut self, sender: &mut Sender<Outbound, Inbound>) -> Result<bool, SendError> {
        let mut went = false;
        while let Some((question, came)) = self.asked.front() {
            let mut frame = [ANSWER; 1 + ANSWER_BYTES];
            let answer = question.answer(*came, self.clock.now()).to_bytes();
            frame.iter_mut().skip(1).zip(answer).for_each(|(to, from)| *to = from);
            match sender.try_send(&frame) {
                Ok(()) => went = true,
                Err(SendError::Full { .. }) => return Ok(went),
                Err(error) => return Err(error),
            }
            self.asked.pop_front();
        }
        let now = Instant::now();
        if now >= self.next {
            // What is open from the last burst will not be answered any more.
            (self.left, self.open) = (BURST, false);
            self.next = now.checked_add(INTERVAL).unwrap_or(now);
        }
        if self.left > 0 && !self.open {
            let mut frame = [QUESTION; 1 + QUESTION_BYTES];
            let question = self.peer.ask(self.clock.now_ns()).to_bytes();
            frame.iter_mut().skip(1).zip(question).for_each(|(to, from)| *to = from);
            match sender.try_send(&frame) {
                Ok(()) => {
                    (went, self.open) = (true, true);
                    self.left -= 1;
                }
                Err(SendError::Full { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if went {
            self.awake = Some(now);
        }
        Ok(went)
    }

    /// How long to sleep at most.
    pub(super) fn patience(&self) -> Duration {
        match self.awake {
            Some(since) if since.elapsed() < AWAKE => Duration::ZERO,
            _ => self.next.saturating_duration_since(Instant::now()),
        }
    }

    /// How the peer's clock stands now, and when that is; none before the first exchange.
    pub(super) fn offset(&self) -> Option<(u64, PeerOffset)> {
        let now = self.clock.now_ns();
        Some((now, self.peer.offset(now)?))
    }

    /// Exchanges, jumps of the peer's clock, and answers that made no sense, ever.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (self.peer.taken(), self.peer.jumps(), self.refused)
    }
}
