//! The virtual interface: its lanes, and what belongs to all of them.

mod completions;
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
use completions::Completions;
use shm::{Mapping, Memory, Window};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::marker::PhantomData;
use transmit::SendLane;

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
    /// Whether a poll tells of lanes that have packets, not of packets.
    merges: Cell<bool>,
    completed: Completions,
    software: RefCell<VecDeque<u16>>,
    overflow: Cell<bool>,
    /// Whether there may be an event that no lane tells of.
    others: Cell<bool>,
    bell: Option<Bell>,
    /// Those of `sent_frames` are the ones sent before the counting began.
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
            merges: Cell::new(false),
            completed: Completions::new(),
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
        let requests = requests(geometry.buffers);
        let id = lane_id(self.receive.len());
        self.receive.push(ReceiveLane {
            receiver,
            id,
            domain: self.domain,
            number,
            requests,
            told: Cell::new(false),
        });
        (id, PacketBuffer::all(self.domain, number, &geometry))
    }

    /// Sends on one more lane. `bell` wakes its receiver.
    pub fn attach_sender(&mut self, sender: Sender<O, M>, bell: Option<Bell>) -> LaneId {
        let id = lane_id(self.send.len());
        self.send.push(SendLane::new(sender, bell));
        id
    }

    /// Puts a fresh lane in the place of one that is over.
    ///
    /// # Errors
    /// The new one, when there is no such place.
    pub fn replace_sender(&mut self, lane: LaneId, sender: Sender<O, M>) -> Result<(), Box<Sender<O, M>>> {
        let Some(place) = self.send.get_mut(lane.0 as usize) else { return Err(Box::new(sender)) };
        *place = SendLane::new(sender, place.bell.take());
        Ok(())
    }

    /// The bell that this interface's receiving lanes are rung by; [`wait`](Self::wait) sleeps on it.
    pub fn set_bell(&mut self, bell: Bell) {
        self.bell = Some(bell);
    }

    /// What was counted.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        // A frame that is sent is a completion: there is no need to count it twice.
        let counted = self.counters.get();
        Statistics { sent_frames: self.completed.ever().wrapping_sub(counted.sent_frames), ..counted }
    }

    /// Begins to count anew.
    pub fn reset_statistics(&self) {
        self.counters.reset();
        self.counters.sent_frames.set(self.completed.ever());
    }
}

/// A place for the number of each slot, or of each buffer.
fn requests(places: u32) -> Vec<Cell<RequestId>> {
    (0..places).map(|_| Cell::default()).collect()
}

fn lane_id(at: usize) -> LaneId {
    LaneId(u32::try_from(at).unwrap_or(u32::MAX))
}
