//! Looks on while a transport uses its port: every word of the hand-shake, once for each change.

use linux_transport::{BridgePort, Port, PortError};
use ntb_spec::linux_transport::scratchpad_name;
use std::collections::BTreeMap;
use std::fmt;

/// Which way a word went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// This side wrote it into the peer's scratchpad.
    ToPeer,
    /// The peer wrote it into this side's.
    FromPeer,
    /// This side wrote it into its own: the transport's marks, and zeros after the link was down.
    Mine,
}

/// One word of the hand-shake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// Which way.
    pub way: Way,
    /// Scratchpad.
    pub index: usize,
    /// Value.
    pub value: u32,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.way {
            Way::ToPeer => "to peer  ",
            Way::FromPeer => "from peer",
            Way::Mine => "own      ",
        };
        let name = scratchpad_name(self.index);
        write!(f, "{way} scratchpad {} {name:<12} {:#010x}", self.index, self.value)
    }
}

/// A port, and what went over it.
#[derive(Debug)]
pub struct Watched {
    port: BridgePort,
    /// The last value of each word; none while nobody wants to know.
    last: Option<BTreeMap<(Way, usize), u32>>,
    words: Vec<Word>,
}

impl Watched {
    /// Looks on, or only passes on.
    #[must_use]
    pub fn new(port: BridgePort, look: bool) -> Self {
        Self { port, last: look.then(BTreeMap::new), words: Vec::new() }
    }

    /// What has changed since the last call, in order.
    pub fn take(&mut self) -> Vec<Word> {
        std::mem::take(&mut self.words)
    }

    fn note(&mut self, way: Way, index: usize, value: u32) {
        let Some(last) = &mut self.last else { return };
        // What was never written reads as zero.
        let before = last.insert((way, index), value).unwrap_or(0);
        if before != value {
            self.words.push(Word { way, index, value });
        }
        if way == Way::Mine {
            // Reading it back is no news from the peer.
            last.insert((Way::FromPeer, index), value);
        } else if way == Way::FromPeer {
            last.insert((Way::Mine, index), value);
        }
    }
}

impl AsMut<BridgePort> for Watched {
    fn as_mut(&mut self) -> &mut BridgePort {
        &mut self.port
    }
}

impl Port for Watched {
    type Error = PortError;

    fn scratchpad(&mut self, index: usize) -> Result<u32, PortError> {
        let value = self.port.scratchpad(index)?;
        self.note(Way::FromPeer, index, value);
        Ok(value)
    }

    fn set_scratchpad(&mut self, index: usize, value: u32) -> Result<(), PortError> {
        self.note(Way::Mine, index, value);
        self.port.set_scratchpad(index, value)
    }

    fn set_peer_scratchpad(&mut self, index: usize, value: u32) -> Result<(), PortError> {
        self.note(Way::ToPeer, index, value);
        self.port.set_peer_scratchpad(index, value)
    }

    fn peer_scratchpad(&mut self, index: usize) -> Result<u32, PortError> {
        self.port.peer_scratchpad(index)
    }

    fn outbound_bytes(&self, window: usize) -> u64 {
        self.port.outbound_bytes(window)
    }

    fn open_inbound(&mut self, window: usize, bytes: u64) -> Result<(), PortError> {
        self.port.open_inbound(window, bytes)
    }

    fn close_inbound(&mut self, window: usize) -> Result<(), PortError> {
        self.port.close_inbound(window)
    }

    fn read_inbound(&mut self, window: usize, at: u64, out: &mut [u8]) -> Result<(), PortError> {
        self.port.read_inbound(window, at, out)
    }

    fn write_inbound(&mut self, window: usize, at: u64, data: &[u8]) -> Result<(), PortError> {
        self.port.write_inbound(window, at, data)
    }

    fn write_outbound(&mut self, window: usize, at: u64, data: &[u8]) -> Result<(), PortError> {
        self.port.write_outbound(window, at, data)
    }

    fn ring_peer(&mut self, doorbells: u64) -> Result<(), PortError> {
        self.port.ring_peer(doorbells)
    }
}
