//! A copy loop, timed: into a BAR of a guest and into plain memory beside it, by the same machine code.
//!
//! What runs it is not in this crate, which maps no memory: the command hands it in as a [`CopyLoop`], and the lab
//! starts the command in a guest (`lab agent copy ORDER`) or calls it on the host.

use crate::perf::parse::ratio;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where a loop stores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Shared anonymous memory of the machine that runs the loop.
    Memory,
    /// A BAR, by its file in sysfs.
    Bar(PathBuf),
}

/// What a loop has to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Each of them once a round, in this order.
    pub targets: Vec<Target>,
    /// How much of a target is stored to before it begins anew, in bytes; as much memory is the source.
    pub span_bytes: u64,
    /// How much is copied at once, in bytes.
    pub chunk_bytes: u64,
    /// How much a run copies, in bytes.
    pub run_bytes: u64,
    /// How often.
    pub rounds: u32,
    /// Whether source and target lie where they meet in an emulated processor's table of pages, to see what that costs:
    /// they are apart otherwise.
    #[serde(default)]
    pub meet: bool,
}

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Position of its target in the order.
    pub target: usize,
    /// What it copied.
    pub bytes: u64,
    /// How long that took, in nanoseconds.
    pub nanos: u64,
}

impl Run {
    /// Megabytes a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        ratio(self.bytes, self.nanos) * 1e3
    }
}

/// Carries an order out, and returns its runs.
pub type CopyLoop = fn(&Order) -> anyhow::Result<Vec<Run>>;
