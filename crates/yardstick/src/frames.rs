//! Frames between two virtual interfaces, on two processors: steered by a filter, sent, polled, length and filter
//! asked, copied out, let go.

use crate::Pair;
use crate::timing::{Chunks, EACH, Failure, Patience, TRIPS_IN_ALL, Trips, frames_of, median};
use shm::{Memory, Window};
use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vi::filter::{Filter, FlowCache, Table, Target};
use vi::lane::{Receiver, Sender};
use vi::{Event, LaneId, ProtectionDomain, RequestId, Steered, TransmitError, Vi};

/// The shortest frame: Ethernet, IPv4 and UDP headers.
pub const SHORTEST: usize = 42;
/// The longest: what a network with an MTU of 1500 carries.
pub const LONGEST: usize = 1514;

/// Marks the host whose memory it is.
#[derive(Debug)]
pub struct Host;

/// One of two interfaces, with a lane each way, and the table of the other one's filters.
#[derive(Debug)]
pub struct End<O: Window, M: Memory> {
    vi: Vi<Host, O, M>,
    table: Table<LaneId>,
    cache: FlowCache<LaneId>,
}

impl<O: Window, M: Memory> End<O, M> {
    /// An interface with these lanes. All buffers are posted; datagrams to one range of ports are the other one's.
    ///
    /// # Errors
    /// [`Failure::Post`].
    pub fn new(sender: Sender<O, M>, receiver: Receiver<M, O>) -> Result<Self, Failure> {
        let mut vi = Vi::new(&ProtectionDomain::new());
        let to = vi.attach_sender(sender, None);
        let (_, buffers) = vi.attach_receiver(receiver);
        for buffer in buffers {
            vi.receive_init(buffer, RequestId(0)).map_err(|refused| refused.reason)?;
        }
        vi.receive_push();
        let mut table = Table::new();
        let filter: Filter = "udp:10.0.0.2:5000-5100".parse().map_err(|_| Failure::NotSteered)?;
        table.add(filter, Target::One(to)).map_err(|_| Failure::NotSteered)?;
        Ok(Self { vi, table, cache: FlowCache::default() })
    }

    #[inline(always)]
    fn send(&mut self, frame: &[u8]) -> Result<(), Failure> {
        let steered = self.vi.transmit_steered(&self.table, &mut self.cache, frame, 0, RequestId(1))?;
        self.vi.transmit_unbundle(&mut [RequestId(0)]);
        if steered.sent == 1 { Ok(()) } else { Err(Failure::NotSteered) }
    }

    #[inline(always)]
    fn receive(&self, frame: &mut [u8]) -> Result<(), Failure> {
        let mut patience = Patience::default();
        let mut events = [Event::Nothing];
        loop {
            if self.vi.poll(&mut events) == 1 {
                match &events[0] {
                    Event::Received(packet) => {
                        // Here every frame is answered.
                        self.vi.transmit_soon(LaneId(0), packet.len());
                        black_box(packet.filter());
                        let got = packet.copy_to(frame)?;
                        return if got == frame.len() {
                            Ok(())
                        } else {
                            Err(Failure::Length { sent: frame.len(), got })
                        };
                    }
                    Event::ReceiveFailed { reason, .. } => return Err(Failure::Lane(*reason)),
                    _ => {}
                }
            }
            patience.spin()?;
        }
    }
}

impl<O: Window, M: Memory> End<O, M> {
    /// Sends a frame and waits for the answer, again and again.
    fn trips(&mut self, mut chunks: Chunks, frame: &mut [u8]) -> Result<Chunks, Failure> {
        for chunk in chunks.by_ref() {
            for _ in chunk {
                self.send(frame)?;
                self.receive(frame)?;
                black_box(&mut *frame);
            }
        }
        Ok(chunks)
    }
}

/// Frames that are pushed together, and events that are polled together.
const BATCH: u64 = 32;

/// How frames are handed over for a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Each by itself.
    Transmit,
    /// 32 are staged, then pushed.
    Push,
    /// The same, and received by merged receives.
    PushMerged,
}

impl<O: Window, M: Memory> End<O, M> {
    /// Sends or stages one, and waits for room.
    #[inline(always)]
    fn hand_over(&mut self, by: By, frame: &[u8], done: &mut [RequestId]) -> Result<(), Failure> {
        let (table, cache) = (&self.table, &mut self.cache);
        let handed = match by {
            By::Transmit => self.vi.transmit_steered(table, cache, frame, 0, RequestId(1)),
            By::Push | By::PushMerged => self.vi.transmit_init_steered(table, cache, frame, 0, RequestId(1)),
        };
        match handed {
            Ok(Steered { sent: 1, .. }) => Ok(()),
            Ok(Steered { full: 1, .. }) | Err(TransmitError::CompletionsWait) => self.insist(by, frame, done),
            Ok(_) => Err(Failure::NotSteered),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands over so many frames, and has their completions with every 32nd; millions per second. A loop for each way, as a
    /// program has one.
    #[inline(always)]
    fn send_all(&mut self, by: By, frames: u64, frame: &[u8]) -> Result<f64, Failure> {
        let mut done = [RequestId(0); 64];
        let mut chunks = Chunks::of_frames(frames);
        for chunk in chunks.by_ref() {
            for n in chunk {
                self.hand_over(by, black_box(frame), &mut done)?;
                if n % BATCH == 0 {
                    self.push(&mut done)?;
                }
            }
        }
        Ok(chunks.millions_per_s())
    }

    /// Until there is room.
    #[inline(never)]
    fn insist(&mut self, by: By, frame: &[u8], done: &mut [RequestId]) -> Result<(), Failure> {
        let mut patience = Patience::default();
        loop {
            self.push(done)?;
            patience.spin()?;
            let (table, cache) = (&self.table, &mut self.cache);
            let handed = match by {
                By::Transmit => self.vi.transmit_steered(table, cache, frame, 0, RequestId(1)),
                By::Push | By::PushMerged => {
                    self.vi.transmit_init_steered(table, cache, frame, 0, RequestId(1))
                }
            };
            match handed {
                Ok(Steered { sent: 1, .. }) => return Ok(()),
                Ok(Steered { full: 1, .. }) | Err(TransmitError::CompletionsWait) => {}
                Ok(_) => return Err(Failure::NotSteered),
                Err(error) => return Err(error.into()),
            }
        }
    }

    #[inline]
    fn push(&self, done: &mut [RequestId]) -> Result<(), Failure> {
        self.vi.transmit_push(LaneId(0))?;
        self.vi.transmit_unbundle(done);
        Ok(())
    }

    /// Takes so many frames by merged receives, in batches of 32, each copied out.
    fn unbundle_all(&self, frames: u64, frame: &mut [u8]) -> Result<(), Failure> {
        self.vi.merge_receives(true);
        let taken = self.unbundle(frames, frame);
        self.vi.merge_receives(false);
        taken
    }

    fn unbundle(&self, frames: u64, frame: &mut [u8]) -> Result<(), Failure> {
        let mut patience = Patience::default();
        let mut left = frames;
        let mut failed = None;
        let mut events = [Event::Nothing];
        while left > 0 {
            if self.vi.poll(&mut events) == 0 {
                patience.spin()?;
                continue;
            }
            match &events[0] {
                &Event::ReceivedMany { lane } => {
                    let count = self.vi.receive_unbundle(lane, 32, |packet| {
                        black_box(packet.filter());
                        match packet.copy_to(black_box(&mut *frame)) {
                            Ok(got) if got == frame.len() => {}
                            Ok(got) => failed = Some(Failure::Length { sent: frame.len(), got }),
                            Err(error) => failed = Some(error.into()),
                        }
                    });
                    left = left.saturating_sub(count as u64);
                    patience = Patience::default();
                }
                Event::ReceiveFailed { reason, .. } => return Err(Failure::Lane(*reason)),
                _ => {}
            }
            if let Some(failure) = failed {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Takes so many frames, in batches of 32, each copied out.
    fn take_all(&self, frames: u64, frame: &mut [u8]) -> Result<(), Failure> {
        let mut patience = Patience::default();
        let mut left = frames;
        let mut events: [Event<'_, Host, O, M>; 32] = std::array::from_fn(|_| Event::Nothing);
        while left > 0 {
            let count = self.vi.poll(&mut events);
            // The next poll lets them go.
            for event in events.iter().take(count) {
                match event {
                    Event::Received(packet) => {
                        let got = packet.copy_to(black_box(frame))?;
                        if got != frame.len() {
                            return Err(Failure::Length { sent: frame.len(), got });
                        }
                        left -= 1;
                    }
                    Event::ReceiveFailed { reason, .. } => return Err(Failure::Lane(*reason)),
                    _ => {}
                }
            }
            if count > 0 {
                patience = Patience::default();
            } else {
                patience.spin()?;
            }
        }
        Ok(())
    }
}

/// Two ends, measured again and again. `there` is the one that the other thread drives.
#[derive(Debug)]
pub struct Ends<O: Window, M: Memory> {
    here: End<O, M>,
    there: Arc<Mutex<End<O, M>>>,
}

impl<'scope, O: Window + 'scope, M: Memory + 'scope> Ends<O, M> {
    /// These two; each sends to the other.
    pub fn new(here: End<O, M>, there: End<O, M>) -> Self {
        Self { here, there: Arc::new(Mutex::new(there)) }
    }

    /// Frames of `bytes` bytes there and back.
    ///
    /// # Errors
    /// [`Failure`]; after one, these ends measure nothing any more.
    pub fn round_trip(&mut self, pair: &mut Pair<'scope>, bytes: usize) -> Result<Trips, Failure> {
        let mut frame = datagram(bytes);
        let mut back = frame.clone();
        let (here, other) = (&mut self.here, Arc::clone(&self.there));
        let (ours, theirs) = pair.both(
            || {
                let median_ns = here.trips(Chunks::of_trips(), &mut frame)?.median_ns();
                Ok(Trips { median_ns, each_ns: here.trips(Chunks::of_single_trips(), &mut frame)?.each_ns() })
            },
            move || -> Result<(), Failure> {
                let there = &mut *other.lock().unwrap_or_else(PoisonError::into_inner);
                for _ in 0..TRIPS_IN_ALL + EACH {
                    there.receive(&mut back)?;
                    black_box(&back);
                    there.send(&back)?;
                }
                Ok(())
            },
        );
        // Who fails first says why; the other one only hears no more.
        match (ours, theirs) {
            (Err(Failure::Silent), Err(reason)) | (Ok(_), Err(reason)) => Err(reason),
            (ours, _) => ours,
        }
    }

    /// Nanoseconds for a frame there and back by this thread alone, which drives both ends and finds all lines in its
    /// first cache: what the instructions take.
    ///
    /// # Errors
    /// [`Failure`]; after one, these ends measure nothing any more.
    pub fn alone(&mut self, bytes: usize) -> Result<f64, Failure> {
        let mut frame = datagram(bytes);
        let there = &mut *self.there.lock().unwrap_or_else(PoisonError::into_inner);
        let here = &mut self.here;
        let mut chunks = Chunks::of_trips();
        for _ in chunks.by_ref().flatten() {
            here.send(&frame)?;
            there.receive(&mut frame)?;
            black_box(&frame);
            there.send(&frame)?;
            here.receive(&mut frame)?;
            black_box(&frame);
        }
        Ok(chunks.median_ns())
    }

    /// Nanoseconds that this thread alone takes to send a frame, and to receive one, where 32 are pushed and 32 are taken:
    /// what the instructions of a stream take.
    ///
    /// # Errors
    /// [`Failure`]; after one, these ends measure nothing any more.
    pub fn stream_alone(&mut self, bytes: usize, merged: bool) -> Result<(f64, f64), Failure> {
        let frame = datagram(bytes);
        let mut out = frame.clone();
        let there = &*self.there.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = [RequestId(0); 64];
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..1000 {
            let start = Instant::now();
            for _ in 0..BATCH {
                let frame: &Vec<u8> = black_box(&frame);
                self.here.hand_over(By::Push, frame, &mut done)?;
            }
            self.here.push(&mut done)?;
            let sent = Instant::now();
            if merged {
                there.unbundle_all(BATCH, &mut out)?;
            } else {
                there.take_all(BATCH, &mut out)?;
            }
            let ns = |time: Duration| time.as_secs_f64() * 1e9 / 32.0;
            times[0].push(ns(sent - start));
            times[1].push(ns(sent.elapsed()));
        }
        let [sent, taken] = &mut times;
        Ok((median(sent), median(taken)))
    }

    /// Millions of frames of `bytes` bytes per second.
    ///
    /// # Errors
    /// [`Failure`]; after one, these ends measure nothing any more.
    pub fn rate(&mut self, pair: &mut Pair<'scope>, bytes: usize, by: By) -> Result<f64, Failure> {
        let frame = datagram(bytes);
        let mut out = frame.clone();
        let frames = frames_of(bytes);
        let (here, other) = (&mut self.here, Arc::clone(&self.there));
        let (ours, theirs) = pair.both(
            || match by {
                By::Transmit => here.send_all(By::Transmit, frames, &frame),
                By::Push | By::PushMerged => here.send_all(By::Push, frames, &frame),
            },
            move || {
                let other = other.lock().unwrap_or_else(PoisonError::into_inner);
                if by == By::PushMerged {
                    other.unbundle_all(frames, &mut out)
                } else {
                    other.take_all(frames, &mut out)
                }
            },
        );
        match (ours, theirs) {
            (Err(Failure::Silent), Err(reason)) | (Ok(_), Err(reason)) => Err(reason),
            (ours, _) => ours,
        }
    }
}

/// A datagram that the ends' filter takes, with true lengths.
fn datagram(bytes: usize) -> Vec<u8> {
    let bytes = bytes.max(SHORTEST);
    let length = |from: usize| u16::try_from(bytes - from).unwrap_or(u16::MAX).to_be_bytes();
    let ([ip_high, ip_low], [udp_high, udp_low]) = (length(14), length(34));
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, ip_high, ip_low];
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0, 9, 0x13, 0x88, udp_high, udp_low, 0, 0]);
    frame.resize(bytes, 7);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allowed_processors;
    use vi::lane::{Geometry, SharedLane};

    #[test]
    fn frames_of_every_length_go_there_and_back_and_in_a_stream() {
        if allowed_processors().is_err() {
            return;
        }
        let lane = || SharedLane::create(Geometry { wakes: false, ..Geometry::default() }).unwrap();
        let (out, back) = (lane(), lane());
        let here = End::new(out.sender().unwrap(), back.receiver().unwrap()).unwrap();
        let there = End::new(back.sender().unwrap(), out.receiver().unwrap()).unwrap();
        std::thread::scope(|scope| {
            let mut pair = Pair::start(scope).unwrap();
            let mut ends = Ends::new(here, there);
            for bytes in [SHORTEST, 60, 61, 128, LONGEST] {
                let trips = ends.round_trip(&mut pair, bytes).unwrap();
                assert!(trips.median_ns > 0.0 && trips.each_ns.len() as u64 == EACH);
            }
            assert!(ends.alone(60).unwrap() > 0.0);
            for by in [By::Transmit, By::Push] {
                assert!(ends.rate(&mut pair, 60, by).unwrap() > 0.0);
                assert!(ends.rate(&mut pair, LONGEST, by).unwrap() > 0.0);
            }
            // A frame that all buffers together do not hold is refused, and the other end does not wait for ever.
            assert!(matches!(ends.round_trip(&mut pair, 600_000), Err(Failure::Transmit(_))));
        });
    }
}
