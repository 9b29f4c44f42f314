//! Lanes that leave an interface: the service between processes takes them back when the other end goes.

use super::{LaneId, Vi};
use shm::{Memory, Window};

impl<D, O: Window, M: Memory> Vi<D, O, M> {
    /// How many lanes there are to receive from, and to send on.
    #[must_use]
    pub fn lanes(&self) -> (usize, usize) {
        (self.receive.len(), self.send.len())
    }

    /// Takes a lane to receive from out of the interface, if nothing waits in it (whether its sender is gone or not): false
    /// if something does. The last lane takes its number. Buffers of the lane can no longer be posted.
    pub fn detach_receiver(&mut self, lane: LaneId) -> bool {
        let at = lane.0 as usize;
        let Some(it) = self.receive.get(at) else { return false };
        // One that is over has nothing to give.
        if it.receiver.has_event().unwrap_or(false) {
            return false;
        }
        self.receive.swap_remove(at);
        // Events and packets name the lane that took the place by the place.
        if let Some(moved) = self.receive.get_mut(at) {
            moved.id = lane;
        }
        self.turn.set(0);
        true
    }

    /// Takes a lane to send on out of the interface, whatever its receiver has not taken. The last lane takes its number.
    /// False if there is no such lane.
    pub fn detach_sender(&mut self, lane: LaneId) -> bool {
        let at = lane.0 as usize;
        if at < self.send.len() {
            self.send.swap_remove(at);
            return true;
        }
        false
    }
}
