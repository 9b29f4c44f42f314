//! One direction of a channel: its ring, who carries the data, and how each side wakes the other.
//!
//! ```text
//!   receiver                                    sender
//!   says that it sleeps (ARMED, over there)     publishes a cell
//!   full fence                                  full fence
//!   looks for a cell once more, sleeps          looks whether the receiver sleeps, rings
//! ```
//!
//! Either the receiver sees the cell or the sender sees the sleeper; the fences exclude that neither does. A full
//! sender waits for the receiver in the same way, with WANTED for the flag. The flag of who sleeps lies in the memory
//! of who has to look, so that looking never crosses the bridge; the one who goes to sleep has the time for a fence
//! that does ([`Window::settle`]).

use crate::bell::{Alarm, Bell};
use crate::carry::Carrier;
use crate::fault::Fault;
use crate::layout::{ARMED, Geometry, Profile, WANTED};
use crate::order::{self, Site};
use crate::region::Ends;
use crate::{fast, paper, placement};
use shm::{LoadOrder, Memory, StoreOrder, Window};
use std::sync::Arc;
use std::time::Duration;

/// What a direction sleeps on and rings; none: it polls, and its peer is never rung.
#[derive(Clone, Default)]
pub(crate) struct Wake {
    /// Rings the other end; none if that one only polls.
    pub(crate) bell: Option<Arc<dyn Bell>>,
    /// What this end sleeps on.
    pub(crate) alarm: Option<Arc<dyn Alarm>>,
}

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wake {{ bell: {}, alarm: {} }}", self.bell.is_some(), self.alarm.is_some())
    }
}

#[derive(Debug)]
enum SendRing<O, I> {
    Paper(paper::Sender<O, I>),
    Fast(fast::Sender<O, I>),
}

/// The sending end of one direction.
#[derive(Debug)]
pub(crate) struct Outflow<O, I> {
    ring: SendRing<O, I>,
    pub(crate) carrier: Carrier,
    ends: Ends<O, I>,
    /// The peer's ring.
    geometry: Geometry,
    wake: Wake,
    /// The sleep of the peer's that was answered last.
    rung_for: u64,
    pub(crate) rings: u64,
}

impl<O: Window, I: Memory> Outflow<O, I> {
    pub(crate) fn new(ends: Ends<O, I>, geometry: Geometry, carrier: Carrier, wake: Wake) -> Self {
        let ring = match geometry.profile() {
            Profile::Paper => SendRing::Paper(paper::Sender::new(ends.clone(), geometry)),
            Profile::Fast => SendRing::Fast(fast::Sender::new(ends.clone(), geometry)),
        };
        Self { ring, carrier, ends, geometry, wake, rung_for: 0, rings: 0 }
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Free cells; counted anew if the last count has fewer than `need`.
    pub(crate) fn free(&mut self, need: u64) -> Result<u64, Fault> {
        match &mut self.ring {
            SendRing::Paper(ring) => ring.free(),
            SendRing::Fast(ring) => ring.free(need),
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        match &self.ring {
            SendRing::Paper(ring) => ring.sent(),
            SendRing::Fast(ring) => ring.sent(),
        }
    }

    /// Of these, how many the receiver is known to have taken.
    pub(crate) fn taken(&self) -> u64 {
        match &self.ring {
            SendRing::Paper(ring) => ring.taken(),
            SendRing::Fast(ring) => ring.taken(),
        }
    }

    /// Puts a frame into the ring. The caller has counted.
    pub(crate) fn put(&mut self, frame: &[u8]) -> Result<(), Fault> {
        match &mut self.ring {
            SendRing::Paper(ring) => ring.put(&mut self.carrier, frame),
            SendRing::Fast(ring) => ring.put(&mut self.carrier, frame),
        }
    }

    /// Makes what was put visible, and wakes a receiver that sleeps.
    pub(crate) fn publish(&mut self) -> Result<(), Fault> {
        if let SendRing::Paper(ring) = &mut self.ring {
            ring.publish()?;
        }
        let Some(bell) = &self.wake.bell else { return Ok(()) };
        // Pairs with GoToSleep.
        order::fence(Site::LookForSleeper);
        // Relaxed: nothing is read that the flag announces; the bell carries the order to whoever wakes.
        let armed = self.ends.own.load_u64(self.ends.mine.wrapping_add(ARMED), LoadOrder::Relaxed)?;
        if armed != self.rung_for {
            self.rung_for = armed;
            self.rings = self.rings.wrapping_add(1);
            bell.ring().map_err(|_| Fault::Bell)?;
        }
        Ok(())
    }

    /// Asks the receiver to ring once `need` cells are free; true if they are already, or if nobody can ring.
    pub(crate) fn arm(&mut self, need: u64) -> Result<bool, Fault> {
        if self.wake.alarm.is_none() {
            return Ok(true);
        }
        let capacity = u64::from(self.geometry.capacity());
        let wanted = self.sent().wrapping_add(need).saturating_sub(capacity);
        self.ends.out.store_u64(self.ends.theirs.wrapping_add(WANTED), wanted, StoreOrder::Relaxed)?;
        // Pairs with LookForWaiter.
        order::settle(Site::GoToWait, &*self.ends.out)?;
        Ok(self.free(need)? >= need)
    }

    /// Sleeps until the receiver rings, at most for `limit`.
    pub(crate) fn sleep(&self, limit: Option<Duration>) -> Result<(), Fault> {
        sleep(&self.wake, limit)
    }

    /// See [`round_trip`](placement::round_trip).
    pub(crate) fn round_trip(&self, leads: bool, limit: Duration) -> Result<Option<Duration>, Fault> {
        placement::round_trip(&self.ends, leads, limit)
    }

    pub(crate) fn may_sleep(&self) -> bool {
        self.wake.alarm.is_some()
    }
}

#[derive(Debug)]
enum ReceiveRing<O, I> {
    Paper(paper::Receiver<O, I>),
    Fast(fast::Receiver<O, I>),
}

/// The receiving end of one direction.
#[derive(Debug)]
pub(crate) struct Inflow<O, I> {
    ring: ReceiveRing<O, I>,
    ends: Ends<O, I>,
    wake: Wake,
    /// How often this end has gone to sleep: the number that it writes into the sender's memory.
    armed: u64,
    /// The wait of the sender's that was answered last.
    rung_for: u64,
    pub(crate) rings: u64,
}

impl<O: Window, I: Memory> Inflow<O, I> {
    pub(crate) fn new(ends: Ends<O, I>, geometry: Geometry, longest_frame: usize, wake: Wake) -> Self {
        let ring = match geometry.profile() {
            Profile::Paper => ReceiveRing::Paper(paper::Receiver::new(ends.clone(), geometry, longest_frame)),
            Profile::Fast => ReceiveRing::Fast(fast::Receiver::new(ends.clone(), geometry, longest_frame)),
        };
        Self { ring, ends, wake, armed: 0, rung_for: 0, rings: 0 }
    }

    /// Fetches what is there of a frame; true once it is complete, and [`frame`](Self::frame) has it.
    pub(crate) fn fetch(&mut self) -> Result<bool, Fault> {
        let (complete, gave) = match &mut self.ring {
            ReceiveRing::Paper(ring) => {
                let complete = ring.fetch()?;
                (complete, complete)
            }
            ReceiveRing::Fast(ring) => {
                let told = ring.told();
                let complete = ring.fetch()?;
                if !complete {
                    // There is nothing to do but to tell the sender what it may use again.
                    ring.give_credit()?;
                }
                (complete, ring.told() != told)
            }
        };
        if gave {
            self.wake_sender()?;
        }
        Ok(complete)
    }

    pub(crate) fn frame(&self) -> &[u8] {
        match &self.ring {
            ReceiveRing::Paper(ring) => ring.frame(),
            ReceiveRing::Fast(ring) => ring.frame(),
        }
    }

    pub(crate) fn taken(&self) -> u64 {
        match &self.ring {
            ReceiveRing::Paper(ring) => ring.taken(),
            ReceiveRing::Fast(ring) => ring.taken(),
        }
    }

    /// How many cells the sender knows to have been taken.
    fn told(&self) -> u64 {
        match &self.ring {
            ReceiveRing::Paper(ring) => ring.taken(),
            ReceiveRing::Fast(ring) => ring.told(),
        }
    }

    /// After cells were given back: rings a sender that waits for as many as it can see now. By what was taken and not told it would
    /// be rung for nothing, sleep on, and not be rung again.
    fn wake_sender(&mut self) -> Result<(), Fault> {
        let Some(bell) = &self.wake.bell else { return Ok(()) };
        // Pairs with GoToWait.
        order::fence(Site::LookForWaiter);
        // Relaxed, as in `publish`.
        let wanted = self.ends.own.load_u64(self.ends.mine.wrapping_add(WANTED), LoadOrder::Relaxed)?;
        if wanted != self.rung_for && self.told() >= wanted {
            self.rung_for = wanted;
            self.rings = self.rings.wrapping_add(1);
            bell.ring().map_err(|_| Fault::Bell)?;
        }
        Ok(())
    }

    /// Asks the sender to ring for the next cell; true if there is one already, or if nobody can ring.
    pub(crate) fn arm(&mut self) -> Result<bool, Fault> {
        if self.wake.alarm.is_none() {
            return Ok(true);
        }
        self.armed = self.armed.wrapping_add(1);
        self.ends.out.store_u64(self.ends.theirs.wrapping_add(ARMED), self.armed, StoreOrder::Relaxed)?;
        // Pairs with LookForSleeper.
        order::settle(Site::GoToSleep, &*self.ends.out)?;
        match &mut self.ring {
            ReceiveRing::Paper(ring) => ring.is_ready(),
            ReceiveRing::Fast(ring) => ring.is_ready(),
        }
    }

    /// Sleeps until the sender rings, at most for `limit`.
    pub(crate) fn sleep(&self, limit: Option<Duration>) -> Result<(), Fault> {
        sleep(&self.wake, limit)
    }

    pub(crate) fn may_sleep(&self) -> bool {
        self.wake.alarm.is_some()
    }
}

fn sleep(wake: &Wake, limit: Option<Duration>) -> Result<(), Fault> {
    if let Some(alarm) = &wake.alarm {
        alarm.sleep(limit).map_err(|_| Fault::Bell)?;
    }
    Ok(())
}
