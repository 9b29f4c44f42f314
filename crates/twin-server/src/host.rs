//! What belongs to the host at a port: its memory, its interrupts, what it did with its windows.

use crate::guest_memory::GuestMemory;
use crate::interrupts::Interrupts;
use crate::quota::Quota;
use crate::signaller::Signaller;
use ntb_spec::{MSIX_VECTORS, WINDOWS};
use twin::Side;

/// The host at one port.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) memory: GuestMemory,
    pub(crate) interrupts: Interrupts,
    /// Of the windows through which this host stores into its peer.
    pub(crate) windows: [WindowCounters; WINDOWS],
    pub(crate) pid: Option<u32>,
    /// Messages handled and refused in sessions that are over.
    pub(crate) messages: u64,
    pub(crate) refused_messages: u64,
    /// Log lines that this host brings about.
    pub(crate) lines: Quota,
}

/// Both hosts.
#[derive(Debug)]
pub(crate) struct Hosts {
    a: Host,
    b: Host,
}

impl Hosts {
    pub(crate) fn new(signaller: &Signaller) -> Self {
        Self { a: Host::new(signaller.clone()), b: Host::new(signaller.clone()) }
    }

    pub(crate) fn get(&self, side: Side) -> &Host {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    pub(crate) fn get_mut(&mut self, side: Side) -> &mut Host {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }
}

/// What went through a window. Counters wrap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WindowCounters {
    pub(crate) stores: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) dropped: u64,
    pub(crate) discarded: u64,
    pub(crate) discarded_bytes: u64,
    pub(crate) loads: u64,
    pub(crate) refused_loads: u64,
}

impl WindowCounters {
    pub(crate) fn count_store(&mut self, landed: bool, discarded: bool, bytes: u64) {
        let (times, sum) = match (landed, discarded) {
            (false, _) => {
                self.dropped = self.dropped.wrapping_add(1);
                return;
            }
            (true, true) => (&mut self.discarded, &mut self.discarded_bytes),
            (true, false) => (&mut self.stores, &mut self.stored_bytes),
        };
        *times = times.wrapping_add(1);
        *sum = sum.wrapping_add(bytes);
    }

    pub(crate) fn count_load(&mut self, landed: bool) {
        let times = if landed { &mut self.loads } else { &mut self.refused_loads };
        *times = times.wrapping_add(1);
    }
}

impl Host {
    fn new(signaller: Signaller) -> Self {
        Self {
            memory: GuestMemory::default(),
            interrupts: Interrupts::new(MSIX_VECTORS, signaller),
            windows: [WindowCounters::default(); WINDOWS],
            pid: None,
            messages: 0,
            refused_messages: 0,
            lines: Quota::default(),
        }
    }
}
