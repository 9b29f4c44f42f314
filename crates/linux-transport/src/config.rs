//! What both sides have to agree on before they meet, and lies for tests of the other side.

use ntb_spec::linux_transport::{SCRATCHPAD_MW0_SIZE_HIGH, TRANSPORT_MTU, VERSION};

/// The most queue pairs: one doorbell bit each, and the link's bit is not one of them.
pub const MAX_QUEUES: usize = 31;
/// The most windows that the scratchpads of a Gen3 port can describe.
pub const MAX_WINDOWS: usize = (ntb_spec::SCRATCHPADS - SCRATCHPAD_MW0_SIZE_HIGH) / 2;

/// The choices that Linux makes when the module is loaded; both sides must make the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Queue pairs, 1 to [`MAX_QUEUES`]. Linux: as many as windows, unless `max_num_clients` says otherwise.
    pub queues: usize,
    /// Memory windows in use, 1 to [`MAX_WINDOWS`].
    pub windows: usize,
    /// Scratchpads of the port; all are zeroed when the link goes down.
    pub scratchpads: usize,
    /// The most bytes of a slot, header included (`transport_mtu`).
    pub transport_mtu: u32,
    /// The largest part of a window that is used (`max_mw_size`).
    pub max_window_bytes: Option<u64>,
    /// What is announced in the place of the truth.
    pub lies: Lies,
}

impl Default for Config {
    /// What stock modules choose on a Gen3 port.
    fn default() -> Self {
        Self {
            queues: ntb_spec::WINDOWS,
            windows: ntb_spec::WINDOWS,
            scratchpads: ntb_spec::SCRATCHPADS,
            transport_mtu: TRANSPORT_MTU,
            max_window_bytes: None,
            lies: Lies::default(),
        }
    }
}

/// False words of the hand-shake, to see what the other side makes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lies {
    /// Version to announce.
    pub version: Option<u32>,
    /// Queue pairs to announce.
    pub queues: Option<u32>,
    /// Windows to announce.
    pub windows: Option<u32>,
    /// Size of every window to announce, in bytes.
    pub window_bytes: Option<u64>,
}

/// A choice that no transport can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadConfig {
    /// Not 1 to 31.
    #[error("{0} queue pairs: there are 1 to {MAX_QUEUES}")]
    Queues(usize),
    /// Not 1 to 6, or more than the scratchpads can describe.
    #[error("{0} memory windows: there are 1 to {MAX_WINDOWS}, and two scratchpads for each besides 4")]
    Windows(usize),
}

impl Config {
    /// Whether there can be such a transport.
    pub(crate) fn check(&self) -> Result<(), BadConfig> {
        if !(1..=MAX_QUEUES).contains(&self.queues) {
            return Err(BadConfig::Queues(self.queues));
        }
        let described = self.scratchpads.saturating_sub(SCRATCHPAD_MW0_SIZE_HIGH) / 2;
        if !(1..=MAX_WINDOWS.min(described)).contains(&self.windows) {
            return Err(BadConfig::Windows(self.windows));
        }
        Ok(())
    }

    /// The part of a window of `bytes` bytes that is used.
    pub(crate) fn used(&self, bytes: u64) -> u64 {
        self.max_window_bytes.map_or(bytes, |most| bytes.min(most))
    }

    /// The version that is announced.
    pub(crate) fn version(&self) -> u32 {
        self.lies.version.unwrap_or(VERSION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_that_cannot_be_are_refused() {
        let config = Config::default();
        assert_eq!(config.check(), Ok(()));
        for queues in [0, 32, usize::MAX] {
            assert_eq!(Config { queues, ..config }.check(), Err(BadConfig::Queues(queues)));
        }
        for windows in [0, 7] {
            assert_eq!(Config { windows, ..config }.check(), Err(BadConfig::Windows(windows)));
        }
        assert_eq!(Config { scratchpads: 6, ..config }.check(), Err(BadConfig::Windows(2)));
        assert_eq!(Config { scratchpads: 6, windows: 1, ..config }.check(), Ok(()));
    }
}
