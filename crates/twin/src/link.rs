//! The link: down, training, up.

use crate::Time;
use std::time::Duration;

/// State of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// At least one port is absent or disabled.
    Down,
    /// Both are present and enabled; up at this time, unless something changes before.
    Training {
        /// When.
        until: Time,
    },
    /// Everything passes.
    Up,
}

/// The link and its history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) state: LinkState,
    training: Duration,
    pub(crate) ups: u64,
    pub(crate) downs: u64,
}

impl Link {
    pub(crate) fn new(training: Duration) -> Self {
        Self { state: LinkState::Down, training, ups: 0, downs: 0 }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == LinkState::Up
    }

    /// What the state becomes at `now` when the ports are ready or not; `None` if it stays.
    pub(crate) fn update(&mut self, now: Time, ready: bool) -> Option<LinkState> {
        let next = match (self.state, ready) {
            (LinkState::Down, true) => LinkState::Training { until: now.after(self.training) },
            (LinkState::Training { until }, true) if now >= until => LinkState::Up,
            (LinkState::Training { .. } | LinkState::Up, false) => LinkState::Down,
            _ => return None,
        };
        match (self.state, next) {
            (_, LinkState::Up) => self.ups = self.ups.saturating_add(1),
            (LinkState::Up, _) => self.downs = self.downs.saturating_add(1),
            _ => {}
        }
        self.state = next;
        Some(next)
    }
}
