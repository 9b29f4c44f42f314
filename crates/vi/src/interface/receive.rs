//! Receive buffers of an interface: posting them to the lanes they belong to.

use super::{LaneId, Vi};
use crate::domain::PacketBuffer;
use crate::lane::{PostError, Receiver, Taken};
use crate::packet::{Packet, RequestId};
use crate::statistics::add;
use shm::{Memory, Window};
use std::cell::Cell;

/// A lane that an interface receives from.
#[derive(Debug)]
pub(crate) struct ReceiveLane<O, M> {
    pub(super) receiver: Receiver<M, O>,
    pub(super) id: LaneId,
    /// Of the interface.
    pub(super) domain: u64,
    pub(super) number: u64,
    pub(super) requests: Vec<Cell<RequestId>>,
    pub(super) told: Cell<bool>,
}

impl<O: Window, M: Memory> ReceiveLane<O, M> {
    #[inline(always)]
    pub(crate) fn receiver(&self) -> &Receiver<M, O> {
        &self.receiver
    }

    pub(crate) fn id(&self) -> LaneId {
        self.id
    }

    pub(crate) fn domain(&self) -> u64 {
        self.domain
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn request(&self, index: u32) -> RequestId {
        self.requests.get(index as usize).map_or(RequestId(0), Cell::get)
    }
}

/// A buffer that was not posted, and why.
#[derive(Debug)]
pub struct NotPosted<D> {
    /// The buffer, still the application's.
    pub buffer: PacketBuffer<D>,
    /// Why.
    pub reason: PostRefusal,
}

/// Why a buffer was not posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PostRefusal {
    /// It belongs to another protection domain.
    #[error("the buffer belongs to another protection domain")]
    ForeignDomain,
    /// It belongs to a lane that this interface does not receive from.
    #[error("the buffer belongs to no lane of this interface")]
    ForeignLane,
    /// The lane refuses it.
    #[error(transparent)]
    Lane(#[from] PostError),
}

impl<D, O: Window, M: Memory> Vi<D, O, M> {
    /// Queues a buffer for its lane; the sender gets it with [`receive_push`](Self::receive_push). `request` comes back
    /// with the packet that lands in it.
    ///
    /// # Errors
    /// [`NotPosted`], with the buffer.
    pub fn receive_init(&self, buffer: PacketBuffer<D>, request: RequestId) -> Result<(), NotPosted<D>> {
        if buffer.domain() != self.domain {
            return Err(NotPosted { buffer, reason: PostRefusal::ForeignDomain });
        }
        let Some(lane) = self.receive.iter().find(|lane| lane.number == buffer.lane()) else {
            return Err(NotPosted { buffer, reason: PostRefusal::ForeignLane });
        };
        match lane.receiver.post(buffer.index()) {
            Ok(()) => {
                if let Some(place) = lane.requests.get(buffer.index() as usize) {
                    place.set(request);
                }
                Ok(())
            }
            Err(error) => Err(NotPosted { buffer, reason: error.into() }),
        }
    }

    /// Gives the senders all queued buffers. A lane that is over is told by the next poll.
    pub fn receive_push(&self) {
        for lane in &self.receive {
            let _ = lane.receiver.push();
        }
    }

    /// [`receive_init`](Self::receive_init) and [`receive_push`](Self::receive_push).
    ///
    /// # Errors
    /// [`NotPosted`], with the buffer.
    pub fn receive_post(&self, buffer: PacketBuffer<D>, request: RequestId) -> Result<(), NotPosted<D>> {
        self.receive_init(buffer, request)?;
        self.receive_push();
        Ok(())
    }

    /// The length and the first 40 bytes (padded with zeros) of the next frame of a receiving lane: of one that no poll
    /// has told of yet, or of one whose payload is still on its way, if its sender announced it
    /// ([`transmit_ctpio`](Self::transmit_ctpio)). Nothing is taken: the frame comes by a poll, and may differ.
    #[must_use]
    pub fn peek(&self, lane: LaneId) -> Option<(u32, [u8; 40])> {
        // A lane that is over is told by the next poll.
        self.receive.get(lane.0 as usize)?.receiver.peek().ok()?
    }
    /// Merged receive: from now on (or no more) a poll tells of a lane that has packets by one
    /// [`Event::ReceivedMany`](crate::Event::ReceivedMany), and [`receive_unbundle`](Self::receive_unbundle) fetches them.
    pub fn merge_receives(&self, merge: bool) {
        self.merges.set(merge);
    }

    /// Takes packets of a receiving lane, in order, at most `most`, and gives each to `each`; how many. A lane that is
    /// over is told by the next poll.
    #[inline]
    pub fn receive_unbundle<'vi>(
        &'vi self,
        lane: LaneId,
        most: usize,
        mut each: impl FnMut(Packet<'vi, D, O, M>),
    ) -> usize {
        let Some(lane) = self.receive.get(lane.0 as usize) else { return 0 };
        let mut count: usize = 0;
        let mut bytes: u64 = 0;
        while count < most {
            let arrival = match lane.receiver.take_usual() {
                Taken::Usual(arrival) => arrival,
                Taken::Nothing => break,
                Taken::Other => match lane.receiver.take_other() {
                    Ok(Some(arrival)) => arrival,
                    _ => break,
                },
            };
            bytes = bytes.wrapping_add(arrival.body.len() as u64);
            count = count.wrapping_add(1);
            each(Packet::new(lane, arrival));
        }
        add(&self.counters.received_packets, count as u64);
        add(&self.counters.received_bytes, bytes);
        count
    }
}
