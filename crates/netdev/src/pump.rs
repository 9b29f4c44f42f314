//! The pump: one thread that carries frames between one queue of a TAP and one link, both ways.
//!
//! It sleeps when nothing has moved for a while, and before that it asks the link to ring: see [`FrameLink::arm`]. The TAP
//! needs no such care, since its readiness is a level.

use crate::counters::Counters;
use crate::link::{Agreement, Armed, FrameLink, LinkState, Sent, Wants};
use crate::tap::TapQueue;
use crate::vnet_header::{self, VNET_HEADER_BYTES};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Frames in one direction before the other has its turn, and before the peer sees them.
const BATCH: usize = 16;
/// After so many turns without a pause, somebody who wants us to stop is looked for.
const BUSY_TURNS: u32 = 64;
/// A peer that sleeps is rung for a frame of so many bytes at once, and for shorter ones when the batch is over.
const RING_BYTES: usize = 16 << 10;
/// Longer than any frame of any agreement.
const BUFFER_BYTES: usize = 66 << 10;

/// Hears of each change of a link.
pub trait Watcher: Send {
    /// The link is up with this agreement, or it is down. Called before the first frame, and after the last.
    fn link(&mut self, agreement: Option<Agreement>);
}

/// Carries frames between a queue and a link.
#[derive(Debug)]
pub struct Pump<L, W> {
    queue: TapQueue,
    link: L,
    watcher: W,
    counters: Arc<Counters>,
    /// How long nothing has to move before it sleeps.
    patience: Duration,
    /// What holds now, and for which generation of the link.
    up: Option<(u64, Agreement)>,
    /// A frame of the TAP that the link had no room for: this long, at the start of `outgoing`.
    held: Option<usize>,
    /// A frame of the link that the TAP had no room for. It hardly ever has not, so this one is copied.
    undelivered: Option<Box<[u8]>>,
    outgoing: Box<[u8]>,
}

/// Whether a direction moved anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Nothing,
    Something,
}

impl<L: FrameLink, W: Watcher> Pump<L, W> {
    /// A pump that polls for `patience` after the last frame, and then sleeps.
    pub fn new(queue: TapQueue, link: L, watcher: W, patience: Duration) -> Self {
        Self {
            queue,
            link,
            watcher,
            counters: Arc::default(),
            patience,
            up: None,
            held: None,
            undelivered: None,
            outgoing: vec![0; BUFFER_BYTES].into(),
        }
    }

    /// What it counts.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Carries frames until `stop` is readable.
    ///
    /// # Errors
    /// When the TAP is gone.
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> io::Result<()> {
        let mut last_moved = Instant::now();
        let mut busy = 0_u32;
        loop {
            let moved = self.turn()?;
            if moved == Moved::Something {
                last_moved = Instant::now();
                busy = busy.wrapping_add(1);
                // A peer that never pauses must not make us deaf.
                if busy.is_multiple_of(BUSY_TURNS) && self.look_up(stop)? == Woken::Stopped {
                    self.link.publish();
                    return Ok(());
                }
                continue;
            }
            if last_moved.elapsed() < self.patience {
                // Not `sched_yield`: on a busy machine it gives a whole time slice away, and a sleeper is back sooner.
                std::hint::spin_loop();
                continue;
            }
            if self.sleep(stop)? == Woken::Stopped {
                self.link.publish();
                return Ok(());
            }
            last_moved = Instant::now();
        }
    }

    /// One look at everything.
    fn turn(&mut self) -> io::Result<Moved> {
        self.follow_link()?;
        let Some((_, agreement)) = self.up else {
            return Ok(Moved::Nothing);
        };
        let received = self.receive(agreement)?;
        let sent = self.send(agreement)?;
        if received == Moved::Something || sent == Moved::Something {
            self.link.publish();
            return Ok(Moved::Something);
        }
        Ok(Moved::Nothing)
    }

    fn follow_link(&mut self) -> io::Result<()> {
        match (self.link.state()?, self.up) {
            (LinkState::Down, None) => {}
            (LinkState::Up { generation, .. }, Some((known, _))) if generation == known => {}
            (LinkState::Down, Some(_)) => self.went_down(),
            (LinkState::Up { generation, agreement }, before) => {
                if before.is_some() {
                    // It was down between two looks.
                    self.went_down();
                }
                self.counters.link_ups.add(1);
                self.up = Some((generation, agreement));
                self.watcher.link(Some(agreement));
            }
        }
        Ok(())
    }

    fn went_down(&mut self) {
        self.up = None;
        self.counters.tx_unconfirmed.add(self.link.unconfirmed());
        self.counters.link_downs.add(1);
        self.watcher.link(None);
    }

    /// From the link into the TAP.
    fn receive(&mut self, agreement: Agreement) -> io::Result<Moved> {
        let Agreement { offload, mtu, .. } = agreement;
        let mut moved = Moved::Nothing;
        for _ in 0..BATCH {
            let again = self.undelivered.take();
            let Some(carried) = again.as_deref().or_else(|| self.link.receive()) else { break };
            match vnet_header::take_apart(carried, offload, mtu) {
                Ok((header, frame)) => match self.queue.write(header, frame) {
                    Ok(()) => {
                        self.counters.rx_frames.add(1);
                        self.counters.rx_bytes.add(count(frame.len()));
                    }
                    Err(Errno::AGAIN | Errno::INTR) => {
                        self.undelivered = Some(carried.into());
                        break;
                    }
                    Err(errno) if is_gone(errno) => return Err(errno.into()),
                    // EIO: the interface is down. EINVAL: the kernel found fault with a frame that was right to us.
                    Err(_) => self.counters.rx_refused.add(1),
                },
                Err(unfit) => self.counters.refuse(unfit),
            }
            moved = Moved::Something;
        }
        Ok(moved)
    }

    /// From the TAP into the link.
    fn send(&mut self, agreement: Agreement) -> io::Result<Moved> {
        let mut moved = Moved::Nothing;
        for _ in 0..BATCH {
            let bytes = match self.held {
                Some(bytes) => bytes,
                None => match self.queue.read(&mut self.outgoing) {
                    Ok(bytes) => bytes,
                    Err(Errno::AGAIN | Errno::INTR) => break,
                    Err(errno) => return Err(errno.into()),
                },
            };
            let frame = self.outgoing.get(..bytes).unwrap_or_default();
            if let Err(unfit) = vnet_header::check_whole(frame, agreement.offload, agreement.mtu) {
                tracing::debug!(?unfit, bytes, "a frame of the TAP does not fit the agreement");
                self.held = None;
                self.counters.tx_unfit.add(1);
                continue;
            }
            let start = if agreement.offload.has_header() { 0 } else { VNET_HEADER_BYTES };
            match self.link.send(frame.get(start..).unwrap_or_default()) {
                Sent::Taken => {
                    if bytes >= RING_BYTES {
                        self.link.publish();
                    }
                    self.held = None;
                    self.counters.tx_frames.add(1);
                    self.counters.tx_bytes.add(count(bytes.saturating_sub(VNET_HEADER_BYTES)));
                    moved = Moved::Something;
                }
                // The TAP is not read on: its queue fills, and the layers above wait or see tx_dropped.
                Sent::Full => {
                    if self.held.replace(bytes).is_none() {
                        self.counters.tx_full.add(1);
                    }
                    break;
                }
                Sent::Down => {
                    self.held = Some(bytes);
                    break;
                }
                Sent::TooLong => {
                    self.held = None;
                    self.counters.tx_unfit.add(1);
                }
            }
        }
        Ok(moved)
    }

    /// In the midst of work: whether to stop, and what else the link wants to look at now and then.
    fn look_up(&mut self, stop: BorrowedFd<'_>) -> io::Result<Woken> {
        let mut waited_for = [PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        match poll(&mut waited_for, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.link.woken();
        let [stop] = &waited_for;
        Ok(if stop.revents().is_empty() { Woken::ToWork } else { Woken::Stopped })
    }

    fn sleep(&mut self, stop: BorrowedFd<'_>) -> io::Result<Woken> {
        let limit = match self.link.arm(Wants { room: self.held.filter(|_| self.up.is_some()) }) {
            // While the TAP takes nothing, what waits in the link is no reason to stay awake, but its state may change.
            Armed::Ready if self.undelivered.is_some() => Some(Duration::from_millis(10)),
            // Not a sleep, but whoever wants us to stop is heard.
            Armed::Ready => return self.look_up(stop),
            Armed::Sleep(limit) => limit,
        };
        self.counters.sleeps.add(1);
        // While a frame is held, or there is no link, the TAP is left alone.
        let mut from_tap = PollFlags::empty();
        if self.up.is_some() {
            from_tap.set(PollFlags::IN, self.held.is_none());
            from_tap.set(PollFlags::OUT, self.undelivered.is_some());
        }
        let limit = limit.map(|limit| Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let stopped = {
            let mut waited_for = [
                PollFd::from_borrowed_fd(stop, PollFlags::IN),
                PollFd::from_borrowed_fd(self.link.wake(), PollFlags::IN),
                PollFd::new(&self.queue, from_tap),
            ];
            match poll(&mut waited_for, limit.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let [stop, _, tap] = &waited_for;
            if tap.revents().contains(PollFlags::ERR) {
                // Nothing would consume it, and the loop would spin.
                return Err(io::Error::new(io::ErrorKind::NotConnected, "the TAP was deleted"));
            }
            !stop.revents().is_empty()
        };
        self.link.woken();
        Ok(if stopped { Woken::Stopped } else { Woken::ToWork })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    ToWork,
    Stopped,
}

/// The interface was deleted under us.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::BADFD | Errno::NODEV | Errno::BADF)
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// What does not fit is counted by its kind.
#[cfg(test)]
mod tests;
