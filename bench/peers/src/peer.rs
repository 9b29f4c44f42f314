//! What a peer is to the table.

use anyhow::Result;
use yardstick::{Chunks, Pair};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// So many bytes there and back: nanoseconds.
    Trip(usize),
    /// Messages of so many bytes, one way: millions per second.
    Rate(usize),
}

impl Task {
    /// What is timed, where a rate is one of so many messages.
    pub fn chunks(self, messages: u64) -> Chunks {
        match self {
            Self::Trip(_) => Chunks::of_trips(),
            Self::Rate(_) => Chunks::of_frames(messages),
        }
    }

    /// What was found: nanoseconds, or millions per second.
    pub fn figure(self, chunks: &Chunks) -> f64 {
        match self {
            Self::Trip(_) => chunks.median_ns(),
            Self::Rate(_) => chunks.millions_per_s(),
        }
    }
}

/// Something else that carries bytes.
pub trait Peer {
    /// As in the table.
    fn name(&self) -> &'static str;

    /// What it can be asked.
    fn tasks(&self) -> Vec<Task>;

    /// Carries out a task between the two processors of `pair`.
    fn measure(&mut self, pair: &mut Pair<'_>, task: Task) -> Result<f64>;
}
