//! Time: the processor's counter, disciplined to CLOCK_TAI, and the peer's clock, measured over the link.
//!
//! ```text
//!   CLOCK_TAI ──a reading between two of the counter──▶ Discipline ─▶ Line ──published──▶ Clock ──now──▶ Stamp
//!                      (now and then: Keeper)         (pure)     ns = base + rate × ticks   (hot path)
//!
//!   Question(t1) ──link──▶ the peer, t2, t3 ──link──▶ Answer, t4 ─▶ PeerClock ─▶ offset, bound
//! ```
//!
//! A [`Stamp`] is a time and how wrong it may be. Asking for one takes an instruction and a multiplication: no system
//! call, no lock. Where the processor has no invariant counter, the kernel is asked for each stamp (its vDSO, where
//! there is one), and the stamp's [flags](SyncFlags) say so.

mod discipline;
mod exchange;
mod line;
mod published;
#[cfg(all(test, not(loom)))]
mod simulated;
mod source;

pub use discipline::{DRIFT_PPB, Discipline, Reading, Stepped};
pub use exchange::{
    ANSWER_BYTES, Answer, Exchanged, Nonsense, PeerClock, PeerOffset, QUESTION_BYTES, Question,
};
pub use line::{Line, Stamp, SyncFlags};
pub use source::{Clock, Keeper, KeeperThread, shared};
