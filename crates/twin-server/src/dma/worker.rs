//! The thread that copies, one piece at a time.
//!
//! It knows mappings and nothing else: the event loop has resolved every address just before, and looks again before the
//! next piece. A mapping stays alive while a piece holds it, whatever its host withdraws meanwhile.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use shm::{Mapping, OutOfBounds};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Where the bytes of a run come from.
#[derive(Debug)]
pub(crate) enum From {
    /// A mapping, at an offset.
    Memory(Arc<Mapping>, usize),
    /// Nowhere: what a bus reads that nobody answers on.
    Ones,
}

/// Some bytes of a piece that lie in one mapping at either end.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) from: From,
    pub(crate) to: Arc<Mapping>,
    pub(crate) to_at: usize,
    pub(crate) bytes: usize,
}

impl Run {
    /// Copies it.
    pub(crate) fn carry_out(&self) -> Result<(), OutOfBounds> {
        match &self.from {
            From::Memory(from, at) => shm::transfer(from, *at, &self.to, self.to_at, self.bytes),
            From::Ones => shm::fill(&self.to, self.to_at, self.bytes, 0xFF),
        }
    }
}

/// What became of a piece.
#[derive(Debug)]
pub(crate) struct Done {
    /// The list, empty, to be used again.
    pub(crate) runs: Vec<Run>,
    pub(crate) result: Result<(), OutOfBounds>,
}

/// The worker, as the event loop has it. Dropping it waits for the piece that is under way.
#[derive(Debug)]
pub(crate) struct Worker {
    orders: Option<Sender<Vec<Run>>>,
    results: Receiver<Done>,
    /// Readable when a result waits.
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start() -> io::Result<Self> {
        let (orders, to_do) = channel();
        let (done, results) = channel();
        let bell = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let rings = Arc::clone(&bell);
        let work = move || work(&to_do, &done, &rings);
        let thread = std::thread::Builder::new().name("isthmus-dma".to_owned()).spawn(work)?;
        Ok(Self { orders: Some(orders), results, bell, thread: Some(thread) })
    }

    /// Hands over a piece. The list comes back if the worker is gone.
    pub(crate) fn order(&self, runs: Vec<Run>) -> Result<(), Vec<Run>> {
        match &self.orders {
            Some(orders) => orders.send(runs).map_err(|refused| refused.0),
            None => Err(runs),
        }
    }

    /// The piece that was handed over, if it is done.
    pub(crate) fn collect(&self) -> Option<Done> {
        // Nothing to read if the result was taken before the bell was heard.
        let (Ok(_) | Err(_)) = read(&*self.bell, &mut [0; 8]);
        self.results.try_recv().ok()
    }

    /// Waits for the piece that was handed over; `None` if the worker is gone.
    pub(crate) fn wait(&self) -> Option<Done> {
        self.results.recv().ok()
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the DMA worker has failed");
        }
    }
}

fn work(to_do: &Receiver<Vec<Run>>, done: &Sender<Done>, bell: &OwnedFd) {
    while let Ok(mut runs) = to_do.recv() {
        let result = runs.iter().try_for_each(Run::carry_out);
        runs.clear();
        if done.send(Done { runs, result }).is_err() {
            return;
        }
        // Its counter cannot be full: each ring but one was heard.
        let (Ok(_) | Err(_)) = write(bell, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm::{Access, SharedFile};

    fn memory(bytes: u64) -> Arc<Mapping> {
        let file = SharedFile::create("test", bytes).unwrap();
        Arc::new(Mapping::new(&file, 0, bytes, Access::ReadWrite).unwrap())
    }

    #[test]
    fn a_piece_is_copied_run_by_run_and_its_mappings_are_let_go() {
        let worker = Worker::start().unwrap();
        let (source, target) = (memory(4096), memory(4096));
        source.write(0, &[1, 2, 3, 4]).unwrap();
        let run = |from, to_at| Run { from, to: Arc::clone(&target), to_at, bytes: 2 };
        let runs = vec![run(From::Memory(Arc::clone(&source), 1), 0), run(From::Ones, 2)];
        worker.order(runs).unwrap();
        let done = worker.wait().unwrap();
        assert_eq!(done.result, Ok(()));
        assert!(done.runs.is_empty() && done.runs.capacity() >= 2);
        let mut seen = [0; 5];
        target.read(0, &mut seen).unwrap();
        assert_eq!(seen, [2, 3, 0xFF, 0xFF, 0]);
        assert_eq!((Arc::strong_count(&source), Arc::strong_count(&target)), (1, 1));
    }

    #[test]
    fn a_run_outside_its_mapping_is_told() {
        let worker = Worker::start().unwrap();
        let target = memory(4096);
        let run = Run { from: From::Ones, to: target, to_at: 4090, bytes: 7 };
        worker.order(vec![run]).unwrap();
        assert_eq!(worker.wait().unwrap().result, Err(OutOfBounds));
        assert!(worker.collect().is_none());
    }
}
