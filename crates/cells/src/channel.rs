//! A channel that is up: one end that sends, one that receives, and what they have in common.

use crate::carry::{DmaEngine, Placement};
use crate::directory::{STATE, State, marker};
use crate::fault::Fault;
use crate::flow::{Inflow, Outflow};
use crate::layout::Geometry;
use crate::link::{Bells, Place};
use shm::{LoadOrder, Memory, Window};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What both ends of one side hold. Dropped with the last of them: then the peer is told.
#[derive(Debug)]
pub(crate) struct Session<O: Window, I: Memory> {
    place: Place<O, I>,
    /// Where the peer's announcement stands in my memory.
    slot: usize,
    /// What it says as long as nothing has changed.
    state: u64,
    peer: u32,
    bells: Option<Bells>,
    fault: OnceLock<Fault>,
}

impl<O: Window, I: Memory> Session<O, I> {
    pub(crate) fn new(place: Place<O, I>, slot: usize, state: State, bells: Option<Bells>) -> Self {
        Self { place, slot, state: state.word(), peer: state.mine, bells, fault: OnceLock::new() }
    }

    /// Whether the session is what it was: two loads of my own memory, which the peer seldom writes.
    fn check(&self) -> Result<(), Fault> {
        if let Some(&fault) = self.fault.get() {
            return Err(fault);
        }
        let own = &*self.place.link().own;
        // Relaxed: nothing is read that these words announce.
        let first = own.load_u64(self.slot, LoadOrder::Relaxed).map_err(|error| self.fail(error.into()))?;
        let state = own.load_u64(self.slot.wrapping_add(STATE), LoadOrder::Relaxed);
        let state = state.map_err(|error| self.fail(error.into()))?;
        if (first, state) == (marker(), self.state) {
            return Ok(());
        }
        Err(self.fail(self.changed(first, state)))
    }

    #[cold]
    fn changed(&self, first: u64, state: u64) -> Fault {
        if first != marker() {
            return Fault::Stranger { found: first };
        }
        match State::of(state) {
            Some(state) if state.mine != self.peer => Fault::PeerRestarted,
            // The same peer that answers somebody else has given this session up.
            _ => Fault::PeerClosed,
        }
    }

    /// Ends the session, for both ends of this side and for the peer; the first reason stays.
    #[cold]
    fn fail(&self, fault: Fault) -> Fault {
        if self.fault.set(fault).is_ok() {
            self.place.link().count_fault();
            // A window that is closed has nobody to be told.
            let _closed = self.place.withdraw();
            self.ring_all();
        }
        self.fault.get().copied().unwrap_or(fault)
    }

    /// Whoever sleeps looks again, here and over there.
    fn ring_all(&self) {
        if let Some(bells) = &self.bells {
            // A bell that fails has nobody behind it.
            let _failed = bells.my_receiver.rouse();
            let _failed = bells.my_sender.rouse();
            let _failed = bells.peer_receiver.ring();
            let _failed = bells.peer_sender.ring();
        }
    }
}

impl<O: Window, I: Memory> Drop for Session<O, I> {
    fn drop(&mut self) {
        // A window that is closed has nobody to be told.
        let _closed = self.place.withdraw();
        self.ring_all();
    }
}

/// A channel that is up.
#[derive(Debug)]
pub struct Channel<O: Window, I: Memory> {
    sender: Sender<O, I>,
    receiver: Receiver<O, I>,
    /// Whether this side leads the measurement; none if there is none.
    leads: Option<bool>,
    round_trip: Option<Duration>,
}

impl<O: Window, I: Memory> Channel<O, I> {
    pub(crate) fn new(
        session: Session<O, I>,
        outflow: Outflow<O, I>,
        inflow: Inflow<O, I>,
        longest_sent: usize,
        polls: u32,
        leads: Option<bool>,
    ) -> Self {
        let session = Arc::new(session);
        Self {
            sender: Sender {
                session: Arc::clone(&session),
                flow: outflow,
                longest: longest_sent,
                polls,
                counters: SendCounters::default(),
                untaken: VecDeque::new(),
            },
            receiver: Receiver { session, flow: inflow, polls, counters: ReceiveCounters::default() },
            leads,
            round_trip: None,
        }
    }

    /// Measures the round trip of a word, if both sides said that they would, and places the peer by it.
    pub(crate) fn measure(&mut self, limit: Duration) -> Result<(), Fault> {
        if let Some(leads) = self.leads.take() {
            self.round_trip =
                self.sender.flow.round_trip(leads, limit).map_err(|fault| self.sender.session.fail(fault))?;
            if let Some(time) = self.round_trip {
                self.sender.place(Placement::of_round_trip(time));
            }
        }
        Ok(())
    }

    /// The round trip of a word, if it was measured when the channel came up.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Its two ends, for two threads. The channel closes when both are dropped, or one of them fails.
    #[must_use]
    pub fn split(self) -> (Sender<O, I>, Receiver<O, I>) {
        (self.sender, self.receiver)
    }

    /// A handle that ends the channel from another thread.
    #[must_use]
    pub fn closer(&self) -> Closer<O, I> {
        Closer(Arc::clone(&self.sender.session))
    }
}

/// Ends a channel from another thread, or when the link under it goes down.
#[derive(Debug, Clone)]
pub struct Closer<O: Window, I: Memory>(Arc<Session<O, I>>);

impl<O: Window, I: Memory> Closer<O, I> {
    /// This side has had enough.
    pub fn close(&self) {
        self.0.fail(Fault::Closed);
    }

    /// The link went down.
    pub fn link_down(&self) {
        self.0.fail(Fault::LinkDown);
    }

    /// Why the channel failed, if it did.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.0.fault.get().copied()
    }
}

/// What a sender has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SendCounters {
    /// Frames sent.
    pub frames: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Cells that they took.
    pub cells: u64,
    /// Times that a frame found too few free cells.
    pub full: u64,
    /// Frames that were longer than the peer takes.
    pub too_long: u64,
    /// Times that it slept until cells were free.
    pub sleeps: u64,
    /// Times that it rang for a receiver that slept.
    pub rings: u64,
}

/// Why a frame was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Too few free cells: stop the layer above, and wait for [`Sender::wait_free`].
    #[error("the frame needs {needs} cells and {free} are free")]
    Full {
        /// Cells that the frame takes.
        needs: u64,
        /// Cells that are free.
        free: u64,
    },
    /// No such frame will ever be sent.
    #[error("a frame of {bytes} bytes is longer than the {longest} that the peer takes")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest.
        longest: usize,
    },
    /// The channel failed.
    #[error(transparent)]
    Failed(#[from] Fault),
}

/// The end that sends.
#[derive(Debug)]
pub struct Sender<O: Window, I: Memory> {
    session: Arc<Session<O, I>>,
    flow: Outflow<O, I>,
    longest: usize,
    polls: u32,
    counters: SendCounters,
    /// After how many cells each frame ended that the peer is not known to have taken; no more of them than cells.
    untaken: VecDeque<u64>,
}

impl<O: Window, I: Memory> Sender<O, I> {
    /// Longest frame in bytes that the peer takes.
    #[must_use]
    pub fn longest_frame(&self) -> usize {
        self.longest
    }

    /// The ring that this end sends into.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        self.flow.geometry()
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> SendCounters {
        SendCounters { rings: self.flow.rings, cells: self.flow.sent(), ..self.counters }
    }

    /// Where the peer is, as far as copies care: set anew when it was measured anew.
    pub fn place(&mut self, placement: Placement) {
        self.flow.carrier.place(placement);
    }

    /// Frames of `from_bytes` and more are carried by `engine`, shorter ones by the processor.
    pub fn attach_dma(&mut self, engine: Box<dyn DmaEngine>, from_bytes: usize) {
        self.flow.carrier.attach(engine, from_bytes);
    }

    /// Sends a frame if there is room: never waits.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub fn try_send(&mut self, frame: &[u8]) -> Result<(), SendError> {
        self.stage(frame)?;
        Ok(self.publish()?)
    }

    /// Puts a frame into the ring without telling anybody: the peer may see it any time, and sees it for certain, and
    /// is woken, after [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`SendError`]; nothing was put.
    pub fn stage(&mut self, frame: &[u8]) -> Result<(), SendError> {
        self.session.check()?;
        if frame.len() > self.longest {
            self.counters.too_long = self.counters.too_long.wrapping_add(1);
            return Err(SendError::TooLong { bytes: frame.len(), longest: self.longest });
        }
        let needs = self.flow.geometry().cells_for(frame.len());
        let free = self.flow.free(needs).map_err(|fault| self.session.fail(fault))?;
        if free < needs {
            self.counters.full = self.counters.full.wrapping_add(1);
            // What is staged has to go, or nobody frees a cell.
            self.publish()?;
            return Err(SendError::Full { needs, free });
        }
        self.flow.put(frame).map_err(|fault| self.session.fail(fault))?;
        self.forget_taken();
        self.untaken.push_back(self.flow.sent());
        self.counters.frames = self.counters.frames.wrapping_add(1);
        let bytes = u64::try_from(frame.len()).unwrap_or(u64::MAX);
        self.counters.bytes = self.counters.bytes.wrapping_add(bytes);
        Ok(())
    }

    fn forget_taken(&mut self) {
        let taken = self.flow.taken();
        while self.untaken.front().is_some_and(|end| *end <= taken) {
            self.untaken.pop_front();
        }
    }

    /// Frames that were sent or staged and that the peer has not been seen to take: at most so many are lost if the channel
    /// has failed. It may have taken them, and had no time to say so, or nobody to say it to.
    #[must_use]
    pub fn untaken(&mut self) -> u64 {
        // Counted anew if it can be. A window that is closed tells nothing new.
        let _unknown = self.flow.free(u64::MAX);
        self.forget_taken();
        u64::try_from(self.untaken.len()).unwrap_or(u64::MAX)
    }

    /// Makes all that was staged visible, and wakes a receiver that sleeps.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn publish(&mut self) -> Result<(), Fault> {
        self.flow.publish().map_err(|fault| self.session.fail(fault))
    }

    /// Sends a frame, waiting for room: polls for a while, then sleeps, if the channel has bells.
    ///
    /// # Errors
    /// [`SendError`]; [`SendError::Full`] once `limit` is over.
    pub fn send(&mut self, frame: &[u8], limit: Option<Duration>) -> Result<(), SendError> {
        let deadline = Deadline::after(limit);
        loop {
            match self.try_send(frame) {
                Err(SendError::Full { needs, free }) => {
                    if !self.wait_until(needs, deadline)? {
                        return Err(SendError::Full { needs, free });
                    }
                }
                other => return other,
            }
        }
    }

    /// Waits until a frame of so many bytes has room; false if `limit` is over first.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn wait_free(&mut self, frame_bytes: usize, limit: Option<Duration>) -> Result<bool, Fault> {
        let needs = self.flow.geometry().cells_for(frame_bytes.min(self.longest));
        self.wait_until(needs, Deadline::after(limit))
    }

    /// Asks the peer to ring [`Bells::my_sender`] once a frame of so many bytes has room, for callers that wait in a
    /// loop of their own; true if it has room now.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn arm(&mut self, frame_bytes: usize) -> Result<bool, Fault> {
        self.session.check()?;
        let needs = self.flow.geometry().cells_for(frame_bytes.min(self.longest));
        self.flow.arm(needs).map_err(|fault| self.session.fail(fault))
    }

    fn wait_until(&mut self, needs: u64, deadline: Deadline) -> Result<bool, Fault> {
        let mut polls = 0_u32;
        loop {
            self.session.check()?;
            if self.flow.free(needs).map_err(|fault| self.session.fail(fault))? >= needs {
                return Ok(true);
            }
            match deadline.turn(&mut polls, self.polls, self.flow.may_sleep()) {
                Turn::Over => return Ok(false),
                Turn::Poll => {}
                Turn::Sleep(limit) => {
                    if !self.flow.arm(needs).map_err(|fault| self.session.fail(fault))? {
                        self.counters.sleeps = self.counters.sleeps.wrapping_add(1);
                        self.flow.sleep(Some(limit)).map_err(|fault| self.session.fail(fault))?;
                    }
                }
            }
        }
    }
}

/// What a receiver has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceiveCounters {
    /// Frames received.
    pub frames: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Cells that were taken.
    pub cells: u64,
    /// Times that it slept until a frame came.
    pub sleeps: u64,
    /// Times that it rang for a sender that waited.
    pub rings: u64,
}

/// The end that receives.
#[derive(Debug)]
pub struct Receiver<O: Window, I: Memory> {
    session: Arc<Session<O, I>>,
    flow: Inflow<O, I>,
    polls: u32,
    counters: ReceiveCounters,
}

impl<O: Window, I: Memory> Receiver<O, I> {
    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> ReceiveCounters {
        ReceiveCounters { rings: self.flow.rings, cells: self.flow.taken(), ..self.counters }
    }

    /// The next frame if it is there: never waits. It is a private copy, and stays until the next call.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn try_receive(&mut self) -> Result<Option<&[u8]>, Fault> {
        Ok(if self.fetch()? { Some(self.flow.frame()) } else { None })
    }

    /// Waits for the next frame: polls for a while, then sleeps, if the channel has bells; none if `limit` is over
    /// first.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn receive(&mut self, limit: Option<Duration>) -> Result<Option<&[u8]>, Fault> {
        let deadline = Deadline::after(limit);
        let mut polls = 0_u32;
        loop {
            if self.fetch()? {
                return Ok(Some(self.flow.frame()));
            }
            match deadline.turn(&mut polls, self.polls, self.flow.may_sleep()) {
                Turn::Over => return Ok(None),
                Turn::Poll => {}
                Turn::Sleep(limit) => {
                    if !self.flow.arm().map_err(|fault| self.session.fail(fault))? {
                        self.counters.sleeps = self.counters.sleeps.wrapping_add(1);
                        self.flow.sleep(Some(limit)).map_err(|fault| self.session.fail(fault))?;
                    }
                }
            }
        }
    }

    /// Asks the peer to ring [`Bells::my_receiver`] for the next cell, for callers that wait in a loop of their own;
    /// true if there is one now.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn arm(&mut self) -> Result<bool, Fault> {
        self.session.check()?;
        self.flow.arm().map_err(|fault| self.session.fail(fault))
    }

    fn fetch(&mut self) -> Result<bool, Fault> {
        // What has arrived is delivered also when the peer is gone, whichever end has noticed that, as long as it is sound.
        if let Some(&fault) = self.session.fault.get().filter(|fault| !fault.is_absence()) {
            return Err(fault);
        }
        let complete = self.flow.fetch().map_err(|fault| self.session.fail(fault))?;
        if complete {
            self.counters.frames = self.counters.frames.wrapping_add(1);
            let bytes = u64::try_from(self.flow.frame().len()).unwrap_or(u64::MAX);
            self.counters.bytes = self.counters.bytes.wrapping_add(bytes);
        } else {
            self.session.check()?;
        }
        Ok(complete)
    }
}

/// Until when somebody waits.
#[derive(Debug, Clone, Copy)]
struct Deadline(Option<Instant>);

enum Turn {
    Over,
    Poll,
    Sleep(Duration),
}

/// A peer that dies rings no bell: look at the session so often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Polls between two looks at the clock.
const POLLS_PER_LOOK: u32 = 64;

impl Deadline {
    fn after(limit: Option<Duration>) -> Self {
        Self(limit.and_then(|limit| Instant::now().checked_add(limit)))
    }

    /// What to do after a look that found nothing.
    fn turn(self, polls: &mut u32, most_polls: u32, may_sleep: bool) -> Turn {
        *polls = polls.wrapping_add(1);
        let sleep = may_sleep && *polls > most_polls;
        if !sleep && !polls.is_multiple_of(POLLS_PER_LOOK) {
            std::hint::spin_loop();
            return Turn::Poll;
        }
        let left = self.0.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match left {
            Some(Duration::ZERO) => Turn::Over,
            _ if sleep => Turn::Sleep(left.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)),
            _ => {
                if polls.is_multiple_of(POLLS_PER_LOOK.wrapping_mul(16)) {
                    // Without a bell this is all there is for a machine with fewer processors than pollers.
                    std::thread::yield_now();
                }
                Turn::Poll
            }
        }
    }
}
