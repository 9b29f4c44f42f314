//! The words of the hand-shake: written into the peer's scratchpads, read from mine.

use crate::config::{Config, MAX_WINDOWS};
use crate::port::Port;
use ntb_spec::linux_transport::{
    SCRATCHPAD_NUM_MWS, SCRATCHPAD_NUM_QPS, SCRATCHPAD_VERSION, VERSION, window_size_scratchpads,
};

/// What one side announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Words {
    /// Its version.
    pub version: u32,
    /// Its queue pairs.
    pub queues: u32,
    /// Its memory windows.
    pub windows: u32,
    /// The sizes of its windows in bytes; those behind the number that is in use are 0.
    pub window_bytes: [u64; MAX_WINDOWS],
}

/// Why the peer's words are not what a transport can be built on. Linux is silent about all of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Nothing has been written yet.
    #[error("the peer has announced nothing yet")]
    Silent,
    /// Another version.
    #[error("the peer speaks version {0}, not {VERSION}")]
    Version(u32),
    /// Another number of queue pairs.
    #[error("the peer has {peer} queue pairs, this side {mine} (module parameter max_num_clients)")]
    Queues {
        /// The peer's.
        peer: u32,
        /// Mine.
        mine: usize,
    },
    /// Another number of windows.
    #[error("the peer has {peer} memory windows, this side {mine}")]
    Windows {
        /// The peer's.
        peer: u32,
        /// Mine.
        mine: usize,
    },
}

impl Words {
    /// What this side has to say.
    pub(crate) fn mine<P: Port>(config: &Config, port: &P) -> Self {
        let lies = config.lies;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut window_bytes = [0; MAX_WINDOWS];
        for (window, bytes) in window_bytes.iter_mut().enumerate().take(config.windows) {
            *bytes = lies.window_bytes.unwrap_or_else(|| config.used(port.outbound_bytes(window)));
        }
        Self {
            version: config.version(),
            queues: lies.queues.unwrap_or_else(|| count(config.queues)),
            windows: lies.windows.unwrap_or_else(|| count(config.windows)),
            window_bytes,
        }
    }

    /// Writes them into the peer's scratchpads, "in the opposite order of the way we read it": the version last.
    pub(crate) fn announce<P: Port>(&self, config: &Config, port: &mut P) -> Result<(), P::Error> {
        for (window, bytes) in self.window_bytes.iter().enumerate().take(config.windows) {
            let (high, low) = window_size_scratchpads(window);
            port.set_peer_scratchpad(high, halves(*bytes).0)?;
            port.set_peer_scratchpad(low, halves(*bytes).1)?;
        }
        port.set_peer_scratchpad(SCRATCHPAD_NUM_MWS, self.windows)?;
        port.set_peer_scratchpad(SCRATCHPAD_NUM_QPS, self.queues)?;
        port.set_peer_scratchpad(SCRATCHPAD_VERSION, self.version)
    }

    /// Reads what the peer wrote into mine, each word once. What stands behind a version that does not fit is not
    /// read: it is not vouched for.
    pub(crate) fn fetch<P: Port>(config: &Config, port: &mut P) -> Result<Self, P::Error> {
        let mut words = Self { version: port.scratchpad(SCRATCHPAD_VERSION)?, ..Self::default() };
        if words.version != VERSION {
            return Ok(words);
        }
        words.queues = port.scratchpad(SCRATCHPAD_NUM_QPS)?;
        words.windows = port.scratchpad(SCRATCHPAD_NUM_MWS)?;
        for (window, bytes) in words.window_bytes.iter_mut().enumerate().take(config.windows) {
            let (high, low) = window_size_scratchpads(window);
            *bytes = u64::from(port.scratchpad(high)?) << 32 | u64::from(port.scratchpad(low)?);
        }
        Ok(words)
    }

    /// Whether a transport of this configuration fits the peer's.
    pub(crate) fn fit(&self, config: &Config) -> Result<(), Mismatch> {
        let is = |theirs: u32, mine: usize| usize::try_from(theirs).is_ok_and(|theirs| theirs == mine);
        match self.version {
            VERSION => {}
            0 => return Err(Mismatch::Silent),
            other => return Err(Mismatch::Version(other)),
        }
        if !is(self.queues, config.queues) {
            return Err(Mismatch::Queues { peer: self.queues, mine: config.queues });
        }
        if !is(self.windows, config.windows) {
            return Err(Mismatch::Windows { peer: self.windows, mine: config.windows });
        }
        Ok(())
    }
}

/// Upper and lower half.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}
