//! What a peer is to the table.

use anyhow::Result;
use yardstick::Pair;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// So many bytes there and back: nanoseconds.
    Trip(usize),
    /// Messages of so many bytes, one way: millions per second.
    Rate(usize),
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
