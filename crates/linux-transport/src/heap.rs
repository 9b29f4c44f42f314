//! A link on the heap: two ports, for tests and fuzzers.

use crate::port::Port;
use ntb_spec::{SCRATCHPADS, WINDOWS};

/// A window that the port does not have, or not as large as that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// One port's registers and the memory behind its windows.
#[derive(Debug, Clone)]
pub(crate) struct Half {
    pub(crate) scratchpads: [u32; SCRATCHPADS],
    pub(crate) inbound: [Option<Vec<u8>>; WINDOWS],
    pub(crate) doorbells: u64,
    window_bytes: u64,
}

/// Two ports and the link between them.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) up: bool,
    pub(crate) halves: [Half; 2],
    /// Accesses so far, to see that each call makes a bounded number of them.
    pub(crate) accesses: u64,
}

/// One of the ports, while it is used.
#[derive(Debug)]
pub(crate) struct Side<'a> {
    pub(crate) link: &'a mut Link,
    pub(crate) me: usize,
}

impl Link {
    pub(crate) fn new(window_bytes: [u64; 2]) -> Self {
        let half = |window_bytes| Half {
            scratchpads: [0; SCRATCHPADS],
            inbound: [const { None }; WINDOWS],
            doorbells: 0,
            window_bytes,
        };
        Self { up: false, halves: window_bytes.map(half), accesses: 0 }
    }

    pub(crate) fn side(&mut self, me: usize) -> Side<'_> {
        Side { link: self, me }
    }
}

impl Side<'_> {
    fn mine(&mut self) -> &mut Half {
        self.link.accesses = self.link.accesses.saturating_add(1);
        let [a, b] = &mut self.link.halves;
        if self.me == 0 { a } else { b }
    }

    /// The peer's half, if the link is up.
    fn theirs(&mut self) -> Option<&mut Half> {
        self.link.accesses = self.link.accesses.saturating_add(1);
        let [a, b] = &mut self.link.halves;
        let peer = if self.me == 0 { b } else { a };
        self.link.up.then_some(peer)
    }
}

/// A range of some memory; none where it leaves it.
pub(crate) fn range(memory: &mut [u8], at: u64, bytes: usize) -> Option<&mut [u8]> {
    let at = usize::try_from(at).ok()?;
    memory.get_mut(at..at.checked_add(bytes)?)
}

impl Port for Side<'_> {
    type Error = Refused;

    fn scratchpad(&mut self, index: usize) -> Result<u32, Refused> {
        self.mine().scratchpads.get(index).copied().ok_or(Refused)
    }

    fn set_scratchpad(&mut self, index: usize, value: u32) -> Result<(), Refused> {
        *self.mine().scratchpads.get_mut(index).ok_or(Refused)? = value;
        Ok(())
    }

    fn set_peer_scratchpad(&mut self, index: usize, value: u32) -> Result<(), Refused> {
        assert!(index < SCRATCHPADS);
        if let Some(word) = self.theirs().and_then(|half| half.scratchpads.get_mut(index)) {
            *word = value;
        }
        Ok(())
    }

    fn peer_scratchpad(&mut self, index: usize) -> Result<u32, Refused> {
        Ok(self.theirs().map_or(u32::MAX, |half| half.scratchpads.get(index).copied().unwrap_or(u32::MAX)))
    }

    fn outbound_bytes(&self, window: usize) -> u64 {
        assert!(window < WINDOWS);
        let [a, b] = &self.link.halves;
        if self.me == 0 { a.window_bytes } else { b.window_bytes }
    }

    fn open_inbound(&mut self, window: usize, bytes: u64) -> Result<(), Refused> {
        let half = self.mine();
        let size = usize::try_from(bytes).ok().filter(|_| bytes <= half.window_bytes).ok_or(Refused)?;
        let slot = half.inbound.get_mut(window).ok_or(Refused)?;
        assert!(slot.is_none(), "window {window} is opened twice");
        // What was in memory before must not matter.
        *slot = Some(vec![0xA5; size]);
        Ok(())
    }

    fn close_inbound(&mut self, window: usize) -> Result<(), Refused> {
        let slot = self.mine().inbound.get_mut(window).ok_or(Refused)?;
        assert!(slot.take().is_some(), "window {window} is closed twice");
        Ok(())
    }

    fn read_inbound(&mut self, window: usize, at: u64, out: &mut [u8]) -> Result<(), Refused> {
        let bytes = out.len();
        let memory = self.mine().inbound.get_mut(window).and_then(Option::as_mut);
        let from = memory.and_then(|memory| range(memory, at, bytes));
        assert!(from.is_some(), "a read at {at:#x}+{bytes:#x} leaves window {window}");
        out.copy_from_slice(from.unwrap_or_default());
        Ok(())
    }

    fn write_inbound(&mut self, window: usize, at: u64, data: &[u8]) -> Result<(), Refused> {
        let memory = self.mine().inbound.get_mut(window).and_then(Option::as_mut);
        let to = memory.and_then(|memory| range(memory, at, data.len()));
        assert!(to.is_some(), "a write at {at:#x}+{:#x} leaves window {window}", data.len());
        to.unwrap_or_default().copy_from_slice(data);
        Ok(())
    }

    fn write_outbound(&mut self, window: usize, at: u64, data: &[u8]) -> Result<(), Refused> {
        let end = at.checked_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        assert!(end.is_some_and(|end| end <= self.outbound_bytes(window)), "a store leaves the window");
        let memory = self.theirs().and_then(|half| half.inbound.get_mut(window)?.as_mut());
        // Closed, or not open so far: dropped.
        if let Some(to) = memory.and_then(|memory| range(memory, at, data.len())) {
            to.copy_from_slice(data);
        }
        Ok(())
    }

    fn ring_peer(&mut self, doorbells: u64) -> Result<(), Refused> {
        if let Some(half) = self.theirs() {
            half.doorbells |= doorbells;
        }
        Ok(())
    }
}
