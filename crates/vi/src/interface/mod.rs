//! The virtual interface: its lanes, and what belongs to all of them.

mod detach;
mod events;
mod receive;
mod transmit;

pub use events::Event;
pub(crate) use receive::ReceiveLane;
pub use receive::{NotPosted, PostRefusal};
pub use transmit::TransmitError;

use crate::bell::Bell;
use crate::domain::{PacketBuffer, ProtectionDomain, unique};
use crate::lane::{Receiver, Sender};
use crate::packet::RequestId;
use crate::statistics::{Counters, Statistics};
use shm::{Mapping, Memory, Window};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::marker::PhantomData;
use transmit::SendLane;

/// Completions that may wait for [`Vi::transmit_unbundle`]; with more, nothing is sent.
const TRANSMITS: usize = 512;
/// Software events that may wait for a poll.
const SOFTWARE_EVENTS: usize = 64;

/// Which lane of an interface, in the order in which they were attached; receiving and sending ones apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u32);

/// A virtual interface: one thread drives it, and it gives nothing away to any other.
///
/// All its methods take `&self`, so that a packet that was received can be held while the next one is sent.
#[derive(Debug)]
pub struct Vi<D, O: Window = Mapping, M: Memory = Mapping> {
    domain: u64,
    receive: Vec<ReceiveLane<O, M>>,
    send: Vec<SendLane<O, M>>,
    /// The receiving lane that the next poll begins with.
    turn: Cell<usize>,
    completed: RefCell<VecDeque<RequestId>>,
    /// Completions that a poll has told of.
    told: Cell<usize>,
    software: RefCell<VecDeque<u16>>,
    overflow: Cell<bool>,
    /// Whether there may be an event that no lane tells of.
    others: Cell<bool>,
    bell: Option<Bell>,
    counters: Counters,
    marker: PhantomData<fn() -> D>,
}

impl<D, O: Window, M: Memory> Vi<D, O, M> {
    /// An interface without lanes.
    #[must_use]
    pub fn new(domain: &ProtectionDomain<D>) -> Self {
        Self {
            domain: domain.number(),
            receive: Vec::new(),
            send: Vec::new(),
            turn: Cell::new(0),
            completed: RefCell::new(VecDeque::with_capacity(TRANSMITS)),
            told: Cell::new(0),
            software: RefCell::new(VecDeque::with_capacity(SOFTWARE_EVENTS)),
            overflow: Cell::new(false),
            others: Cell::new(false),
            bell: None,
            counters: Counters::default(),
            marker: PhantomData,
        }
    }

    /// Receives from one more lane. Its buffers are the application's: nothing that needs one arrives until they are
    /// [posted](Self::receive_init).
    pub fn attach_receiver(&mut self, receiver: Receiver<M, O>) -> (LaneId, Vec<PacketBuffer<D>>) {
        let number = unique();
        let geometry = *receiver.geometry();
        let requests = (0..geometry.buffers).map(|_| Cell::default()).collect();
        self.receive.push(ReceiveLane { receiver, number, requests, told: Cell::new(false) });
        (last(self.receive.len()), PacketBuffer::all(self.domain, number, &geometry))
    }

    /// Sends on one more lane. `bell` wakes its receiver.
    pub fn attach_sender(&mut self, sender: Sender<O, M>, bell: Option<Bell>) -> LaneId {
        let requests = RefCell::new(vec![RequestId(0); sender.geometry().slots as usize]);
        self.send.push(SendLane { sender: RefCell::new(sender), bell, requests, told: Cell::new(false) });
        last(self.send.len())
    }

    /// Puts a fresh lane in the place of one that is over.
    ///
    /// # Errors
    /// The new one, when there is no such place.
    pub fn replace_sender(&mut self, lane: LaneId, sender: Sender<O, M>) -> Result<(), Box<Sender<O, M>>> {
        let Some(place) = self.send.get_mut(lane.0 as usize) else { return Err(Box::new(sender)) };
        place.requests = RefCell::new(vec![RequestId(0); sender.geometry().slots as usize]);
        place.told.set(false);
        place.sender = RefCell::new(sender);
        Ok(())
    }

    /// The bell that this interface's receiving lanes are rung by; [`wait`](Self::wait) sleeps on it.
    pub fn set_bell(&mut self, bell: Bell) {
        self.bell = Some(bell);
    }

    /// What was counted.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.counters.get()
    }

    /// Begins to count anew.
    pub fn reset_statistics(&self) {
        self.counters.reset();
    }
}

/// The number of the last of so many lanes.
fn last(count: usize) -> LaneId {
    lane_id(count.saturating_sub(1))
}

fn lane_id(at: usize) -> LaneId {
    LaneId(u32::try_from(at).unwrap_or(u32::MAX))
}
