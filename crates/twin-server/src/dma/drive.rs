//! Carrying out what the engines want, step by step.

use super::resolve::{Place, Span, Wish};
use super::worker::{From, Run};
use super::{Flight, Hand};
use crate::machine::{Location, Machine};
use ntb_spec::ioat::DESCRIPTOR_BYTES;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};
use twin::Side;
use twin::ioat::{Effect, JobFault, JobKind, Outcome};

/// What the engines may have done before the hosts get their turn.
const TURN: Duration = Duration::from_micros(100);
/// A copy up to this size is made at once, wherever its memory is, ..
const AT_ONCE_BYTES: u64 = 4096;
/// .. if it has so many runs at most: each may lie in a page that has to be fetched.
const AT_ONCE_RUNS: usize = 2;
/// Places that a piece may consist of. Behind a vIOMMU a page is one.
const MAX_RUNS: usize = 160;
/// How many bytes of registers are accessed in one step.
const REGISTER_BYTES: usize = 64;

/// How a step ended.
enum Step {
    /// So many bytes of the copy are done now.
    Copied(u64),
    /// The job is done.
    Finished(Result<Outcome, JobFault>),
    /// So many bytes are with the worker.
    Flies(u64),
}

impl Machine {
    /// Lets the engines work until they have nothing to do, a piece is with the worker, or their turn is over.
    pub(crate) fn run_engines(&mut self) {
        self.dma.again = false;
        let began = Instant::now();
        while self.dma.flight.is_none() && !self.windows.is_exchanging() {
            if began.elapsed() >= TURN {
                self.dma.again = true;
                return;
            }
            let Some(hand) = self.dma.hand.take().or_else(|| self.dma.next()) else { return };
            self.carry_out_job(hand);
        }
    }

    /// A piece is done, perhaps.
    pub(crate) fn collect_piece(&mut self) {
        if let Some(done) = self.dma.worker.as_ref().and_then(super::Worker::collect) {
            self.land(done);
        }
    }

    /// Waits for the piece that is with the worker, when the twin ends.
    pub(crate) fn await_piece(&mut self) {
        if self.dma.flight.is_some()
            && let Some(done) = self.dma.worker.as_ref().and_then(super::Worker::wait)
        {
            self.land(done);
        }
    }

    fn land(&mut self, done: super::worker::Done) {
        self.dma.spare = done.runs;
        let Some(Flight { hand, bytes }) = self.dma.flight.take() else { return };
        let side = hand.side;
        match done.result {
            Ok(()) => self.progress(hand, bytes),
            // It was resolved for just these bytes, so this cannot be; a store into memory for loads would end here.
            Err(_) => self.finish_job(hand, Err(JobFault::Write)),
        }
        if let Some(host) = self.dma.get_mut(side) {
            host.traffic.pieces = host.traffic.pieces.wrapping_add(1);
        }
        // What had to wait for this piece.
        self.settle();
    }

    /// One step of a job.
    fn carry_out_job(&mut self, hand: Hand) {
        let side = hand.side;
        let Some(host) = self.dma.get(side) else { return };
        if host.epoch != hand.epoch {
            // The engine was reset meanwhile and takes this for what it is.
            self.finish_job(hand, Ok(Outcome::Done));
            return;
        }
        let master = host.engine.bus_master();
        let step = match hand.job.kind {
            JobKind::Fetch { .. } | JobKind::Copy { .. } if !master => Step::Finished(Err(JobFault::Read)),
            JobKind::WriteBack { .. } if !master => Step::Finished(Err(JobFault::Write)),
            JobKind::Fetch { address } => Step::Finished(self.fetch(side, address)),
            JobKind::WriteBack { address, value } => Step::Finished(self.write_back(side, address, value)),
            JobKind::Copy { source, destination, bytes } => {
                self.copy(side, source, destination, hand.done, u64::from(bytes))
            }
        };
        match step {
            Step::Finished(result) => self.finish_job(hand, result),
            Step::Flies(bytes) => self.dma.flight = Some(Flight { hand, bytes }),
            Step::Copied(bytes) => {
                if let Some(host) = self.dma.get_mut(side) {
                    host.traffic.pieces = host.traffic.pieces.wrapping_add(1);
                }
                self.progress(hand, bytes);
            }
        }
    }

    /// Some bytes of a copy are done.
    fn progress(&mut self, mut hand: Hand, bytes: u64) {
        hand.done = hand.done.saturating_add(bytes);
        let total = match hand.job.kind {
            JobKind::Copy { bytes, .. } => u64::from(bytes),
            JobKind::Fetch { .. } | JobKind::WriteBack { .. } => 0,
        };
        if hand.done >= total {
            self.finish_job(hand, Ok(Outcome::Done));
        } else {
            self.dma.hand = Some(hand);
        }
    }

    fn finish_job(&mut self, hand: Hand, result: Result<Outcome, JobFault>) {
        let mut effects = std::mem::take(&mut self.dma.effects);
        if let Some(host) = self.dma.get_mut(hand.side) {
            if result.is_err() {
                host.traffic.faults = host.traffic.faults.wrapping_add(1);
            }
            host.engine.complete(hand.job, result, &mut effects);
        }
        self.dma.effects = effects;
        self.hear_engine(hand.side);
    }

    /// Carries out what an engine wants besides jobs.
    pub(super) fn hear_engine(&mut self, side: Side) {
        let mut effects = std::mem::take(&mut self.dma.effects);
        for effect in effects.drain(..) {
            let Some(host) = self.dma.get_mut(side) else { continue };
            match effect {
                Effect::Interrupt { vector } => host.interrupts.raise(vector),
                // The event loop looks after every turn.
                Effect::Work => {}
                Effect::Reset => {
                    host.forget_jobs();
                    self.after_engine_reset(side);
                }
            }
        }
        self.dma.effects = effects;
    }

    pub(super) fn after_engine_reset(&mut self, side: Side) {
        self.wait_for_piece();
        let port = crate::status::port_name(side);
        self.log(side, |left_out| tracing::info!(%port, left_out, "reset of the engine"));
    }

    // --- steps ------------------------------------------------------------------------------------------------

    fn fetch(&self, side: Side, address: u64) -> Result<Outcome, JobFault> {
        let mut bytes = [0; DESCRIPTOR_BYTES];
        let length = 64;
        match self.resolve_memory(side, address, length, Wish::Load) {
            Some(Span { place: Place::Memory(mapping, at), bytes: there }) if there == length => {
                mapping.read(at, &mut bytes).map_err(|_| JobFault::Read)?;
                Ok(Outcome::Fetched(bytes))
            }
            _ => Err(JobFault::Read),
        }
    }

    fn write_back(&self, side: Side, address: u64, value: u64) -> Result<Outcome, JobFault> {
        let value = value.to_le_bytes();
        match self.resolve_memory(side, address, 8, Wish::Store) {
            Some(Span { place: Place::Memory(mapping, at), bytes: 8 }) => {
                // The bytes that it announces come first.
                fence(Ordering::Release);
                mapping.write(at, &value).map_err(|_| JobFault::Write)?;
                Ok(Outcome::Done)
            }
            _ => Err(JobFault::Write),
        }
    }

    /// Plans as much of a copy as can be done in one piece, and does it or hands it over.
    fn copy(&mut self, side: Side, source: u64, destination: u64, done: u64, total: u64) -> Step {
        let mut runs = std::mem::take(&mut self.dma.spare);
        let (mut at, mut copied, mut rounds) = (done, 0u64, 0usize);
        let fault = loop {
            // What leads nowhere makes no run, and a hostile peer can cut it finely.
            if at >= total || rounds >= MAX_RUNS {
                break None;
            }
            rounds = rounds.saturating_add(1);
            let left = total.saturating_sub(at);
            let Some(from) = self.resolve(side, source.wrapping_add(at), left, Wish::Load) else {
                break Some(JobFault::Read);
            };
            let Some(to) = self.resolve(side, destination.wrapping_add(at), from.bytes, Wish::Store) else {
                break Some(JobFault::Write);
            };
            let bytes = from.bytes.min(to.bytes);
            if matches!(from.place, Place::Registers(_)) || matches!(to.place, Place::Registers(_)) {
                // In their turn: behind what is planned already.
                if at == done {
                    self.dma.spare = runs;
                    return self.access_registers(side, &from.place, &to.place, bytes);
                }
                break None;
            }
            if let Some(run) = self.run(side, from.place, to.place, bytes) {
                copied = copied.saturating_add(bytes);
                runs.push(run);
            }
            at = at.saturating_add(bytes);
        };
        let bytes = at.saturating_sub(done);
        if let Some(fault) = fault.filter(|_| bytes == 0) {
            self.dma.spare = runs;
            return Step::Finished(Err(fault));
        }
        let now = Instant::now();
        let residency = &mut self.dma.residency;
        let few = copied <= AT_ONCE_BYTES && runs.len() <= AT_ONCE_RUNS;
        let at_hand = few || runs.iter().all(|run| residency.is_at_hand(run, now));
        if !at_hand && let Some(worker) = &self.dma.worker {
            match worker.order(runs) {
                Ok(()) => {
                    self.dma.pieces = self.dma.pieces.wrapping_add(1);
                    return Step::Flies(bytes);
                }
                Err(refused) => runs = refused,
            }
        }
        let result = runs.iter().try_for_each(Run::carry_out);
        runs.clear();
        self.dma.spare = runs;
        match result {
            Ok(()) => Step::Copied(bytes),
            Err(_) => Step::Finished(Err(JobFault::Write)),
        }
    }

    /// What is to be copied between two places, if anything arrives.
    fn run(&mut self, side: Side, from: Place, to: Place, bytes: u64) -> Option<Run> {
        let traffic = &mut self.dma.get_mut(side)?.traffic;
        if matches!(from, Place::Nowhere) {
            traffic.refused_reads = traffic.refused_reads.wrapping_add(1);
        }
        let Place::Memory(to, to_at) = to else {
            traffic.drops = traffic.drops.wrapping_add(1);
            traffic.dropped_bytes = traffic.dropped_bytes.wrapping_add(bytes);
            return None;
        };
        let from = match from {
            Place::Memory(from, at) => From::Memory(from, at),
            Place::Nowhere | Place::Registers(_) => From::Ones,
        };
        Some(Run { from, to, to_at, bytes: usize::try_from(bytes).ok()? })
    }

    /// Some bytes from or to registers of the host's NTB, in accesses of 4 bytes where they are aligned.
    fn access_registers(&mut self, side: Side, from: &Place, to: &Place, bytes: u64) -> Step {
        let mut buffer = [0xFF; REGISTER_BYTES];
        let length = usize::try_from(bytes).unwrap_or(REGISTER_BYTES).min(REGISTER_BYTES);
        let Some(data) = buffer.get_mut(..length) else { return Step::Finished(Err(JobFault::Read)) };
        match from {
            Place::Registers(offset) => {
                for (at, word) in words(*offset, data) {
                    self.load(side, &Location::Bar0, u64::from(at), word);
                }
            }
            Place::Memory(mapping, at) => {
                if mapping.read(*at, data).is_err() {
                    return Step::Finished(Err(JobFault::Read));
                }
            }
            Place::Nowhere => {}
        }
        match to {
            Place::Registers(offset) => {
                for (at, word) in words(*offset, data) {
                    self.store(side, &Location::Bar0, u64::from(at), word);
                }
            }
            Place::Memory(mapping, at) => {
                if mapping.write(*at, data).is_err() {
                    return Step::Finished(Err(JobFault::Write));
                }
            }
            Place::Nowhere => {
                if let Some(host) = self.dma.get_mut(side) {
                    host.traffic.drops = host.traffic.drops.wrapping_add(1);
                }
            }
        }
        Step::Copied(u64::try_from(length).unwrap_or(bytes))
    }
}

/// The accesses that a range of registers is made of: 4 aligned bytes, or one.
fn words(offset: u32, data: &mut [u8]) -> impl Iterator<Item = (u32, &mut [u8])> {
    let mut next = offset;
    let mut rest = data;
    std::iter::from_fn(move || {
        let width = if next.is_multiple_of(4) && rest.len() >= 4 { 4 } else { 1 };
        let (word, after) = std::mem::take(&mut rest).split_at_mut_checked(width)?;
        rest = after;
        let at = next;
        next = next.wrapping_add(if width == 4 { 4 } else { 1 });
        Some((at, word))
    })
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn registers_are_accessed_by_aligned_words_and_bytes_at_the_edges() {
        let mut data = [0; 11];
        let widths: Vec<(u32, usize)> = words(0x103, &mut data).map(|(at, word)| (at, word.len())).collect();
        assert_eq!(widths, [(0x103, 1), (0x104, 4), (0x108, 4), (0x10C, 1), (0x10D, 1)]);
    }
}
