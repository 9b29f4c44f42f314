//! A queue of messages over the few registers that carry them.

use crate::{Bridge, BridgeError};
use std::collections::VecDeque;
use std::sync::Arc;

/// Messages of 32 bits in order, over a bridge's message registers; bounded at the sender.
///
/// The nth message goes by register n modulo their number, and is taken from there, so the order holds although the
/// registers are independent. A message that finds its register taken waits in the queue; the peer's taking raises
/// [`Events::messages`](crate::Events::messages), and [`pump`](Self::pump) sends on. Both ends begin anew with
/// [`restart`](Self::restart) when the link was down: it takes along what was on its way.
#[derive(Debug)]
pub struct MessageQueue {
    bridge: Arc<dyn Bridge>,
    waiting: VecDeque<u32>,
    capacity: usize,
    next_out: u8,
    next_in: u8,
}

/// The queue is as long as it may be. The message comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{capacity} messages wait already: pump, and try again when the peer has taken some")]
pub struct QueueFull {
    /// What was not taken.
    pub message: u32,
    /// How many may wait.
    pub capacity: usize,
}

impl MessageQueue {
    /// A queue that holds at most `capacity` messages besides those in registers. From now on message events are raised.
    ///
    /// # Errors
    /// [`BridgeError::NoMessages`] where the device has none.
    pub fn new(bridge: Arc<dyn Bridge>, capacity: usize) -> Result<Self, BridgeError> {
        if bridge.message_count() == 0 {
            return Err(BridgeError::NoMessages);
        }
        bridge.messages_mask(0)?;
        Ok(Self { bridge, waiting: VecDeque::new(), capacity, next_out: 0, next_in: 0 })
    }

    /// Queues a message, and sends what can be sent.
    ///
    /// # Errors
    /// [`QueueFull`] as the inner error, or that of the device.
    pub fn send(&mut self, message: u32) -> Result<Result<(), QueueFull>, BridgeError> {
        self.pump()?;
        if self.waiting.len() >= self.capacity {
            return Ok(Err(QueueFull { message, capacity: self.capacity }));
        }
        self.waiting.push_back(message);
        self.pump()?;
        Ok(Ok(()))
    }

    /// Sends what waits, as far as there is room. To be called after [`Events::messages`](crate::Events::messages). Returns how
    /// many wait still.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn pump(&mut self) -> Result<usize, BridgeError> {
        if self.waiting.is_empty() {
            return Ok(0);
        }
        // Acknowledges what was taken so far: whatever is refused below raises its event anew.
        self.bridge.messages()?;
        while let Some(&message) = self.waiting.front() {
            if !self.bridge.message_send(self.next_out, message)? {
                break;
            }
            self.waiting.pop_front();
            self.next_out = self.after(self.next_out);
        }
        Ok(self.waiting.len())
    }

    /// The next message, if it is there; never waits.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn receive(&mut self) -> Result<Option<u32>, BridgeError> {
        // The event is acknowledged before the register is looked at.
        self.bridge.messages()?;
        let message = self.bridge.message_take(self.next_in)?;
        if message.is_some() {
            self.next_in = self.after(self.next_in);
        }
        Ok(message)
    }

    /// Begins anew, after the link was down: what waits is dropped.
    pub fn restart(&mut self) {
        self.waiting.clear();
        (self.next_out, self.next_in) = (0, 0);
    }

    fn after(&self, register: u8) -> u8 {
        register.wrapping_add(1).checked_rem(self.bridge.message_count()).unwrap_or(0)
    }
}
