//! The I/OAT engines, served: one for each host, and a worker for what takes long.
//!
//! ```text
//!   QEMU a ══vfio-user══▶ EngineDevice ──▶ twin::ioat::Engine ──job──▶ drive ──▶ resolve: where does this address lead?
//!                                              ▲                        │         own RAM │ own window │ own BAR 0 │ nowhere
//!                                              └──── what came of it ───┤
//!                                                                       ├─ descriptor, write-back, register: at once
//!                                                                       ├─ a piece of bytes that is in memory: at once
//!                                                                       └─ another piece: the worker ──▶ eventfd ──▶ here
//! ```
//!
//! # Where an address leads
//! | address | read | written |
//! |---|---|---|
//! | memory that this host mapped for the engine | its bytes, through an alias window that lies there | the same |
//! | BAR 2 or 4 of the same host's NTB | what a load through that window gives; all ones where it is closed | what a store through it does; dropped and counted where it is closed |
//! | BAR 0 of the same host's NTB | register reads of 4 bytes | register writes of 4 bytes, with all that follows: a doorbell rings the peer |
//! | anything else | the channel halts with READ_DATA_ERR | WRITE_DATA_ERR |
//!
//! A closed window is no error of the channel, because hardware completes such a transfer too. Descriptors and completions
//! live in memory: a chain in a window or in registers is an error. RAM wins over a BAR at the same address.
//!
//! # Order, and who waits for whom
//! A copy goes in pieces of 256 KiB at most; channels and engines take turns piece by piece, and the hosts' messages get theirs
//! every 100 µs. Every address is resolved on the event loop's thread just before its piece, so that link, limits,
//! bus masters and maps are those of that moment.
//!
//! A piece whose pages are all in memory takes some ten microseconds and is copied by the event loop: handing it to another
//! thread and hearing of its end takes as long, and longer on a machine with other things to do. A piece for which the kernel has to make pages, or to
//! fetch them from a disk, goes to the worker, one at a time, and the event loop goes on.
//!
//! A host whose message changes anything that a piece may depend on gets its reply when the piece that is with the
//! worker is done: memory that was withdrawn is not touched after the answer. What lies under a window by an alias is not
//! exchanged while a piece is under way, and no piece begins while it is. A completion is written when its bytes have
//! arrived, and its interrupt is raised after that.
//!
//! Invariants: the worker gets mappings, never addresses; a piece keeps its mappings alive and nothing else; nothing that a host does
//! makes the event loop wait for the worker.

mod device;
mod drive;
mod residency;
mod resolve;
mod worker;

use crate::guest_memory::GuestMemory;
use crate::interrupts::Interrupts;
use crate::signaller::Signaller;
use ntb_spec::ioat;
use residency::Residency;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use twin::Side;
use twin::ioat::{Effect, Engine, Job};
use worker::{Run, Worker};

/// An engine, and what its host has given it.
#[derive(Debug)]
pub(crate) struct EngineHost {
    pub(crate) engine: Engine,
    pub(crate) memory: GuestMemory,
    pub(crate) interrupts: Interrupts,
    pub(crate) attached: bool,
    pub(crate) pid: Option<u32>,
    pub(crate) attaches: u64,
    /// Messages handled and refused in sessions that are over.
    pub(crate) messages: u64,
    pub(crate) refused_messages: u64,
    pub(crate) traffic: Traffic,
    /// Moves with every reset of the engine: a job of an earlier epoch is given up.
    epoch: u64,
}

/// What has gone through an engine. Counters wrap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Pieces that were copied, on the worker or at once.
    pub(crate) pieces: u64,
    /// Jobs that led nowhere and halted their channel.
    pub(crate) faults: u64,
    /// Writes into a window that is closed, and their bytes.
    pub(crate) drops: u64,
    pub(crate) dropped_bytes: u64,
    /// Reads from a window that is closed: all ones.
    pub(crate) refused_reads: u64,
}

/// A job that is being carried out.
#[derive(Debug)]
struct Hand {
    side: Side,
    job: Job,
    epoch: u64,
    /// Bytes of a copy that are done.
    done: u64,
}

/// A piece that is with the worker.
#[derive(Debug)]
struct Flight {
    hand: Hand,
    bytes: u64,
}

/// Both engines and the worker.
#[derive(Debug, Default)]
pub(crate) struct Dma {
    a: Option<EngineHost>,
    b: Option<EngineHost>,
    worker: Option<Worker>,
    flight: Option<Flight>,
    hand: Option<Hand>,
    /// Which engine has the next turn.
    turn: usize,
    /// Number of the last piece that was handed to the worker.
    pieces: u64,
    /// The budget ran out with work left.
    again: bool,
    /// Lists that are not in use.
    spare: Vec<Run>,
    effects: Vec<Effect>,
    residency: Residency,
}

impl Dma {
    /// Gives a host an engine.
    pub(crate) fn add(&mut self, side: Side, signaller: &Signaller) -> io::Result<()> {
        if self.worker.is_none() {
            self.worker = Some(Worker::start()?);
        }
        match side {
            Side::A => self.a = Some(EngineHost::new(signaller.clone())),
            Side::B => self.b = Some(EngineHost::new(signaller.clone())),
        }
        Ok(())
    }

    pub(crate) fn get(&self, side: Side) -> Option<&EngineHost> {
        match side {
            Side::A => self.a.as_ref(),
            Side::B => self.b.as_ref(),
        }
    }

    pub(crate) fn get_mut(&mut self, side: Side) -> Option<&mut EngineHost> {
        match side {
            Side::A => self.a.as_mut(),
            Side::B => self.b.as_mut(),
        }
    }

    /// The number of the piece that is with the worker.
    pub(crate) fn in_flight(&self) -> Option<u64> {
        self.flight.is_some().then_some(self.pieces)
    }

    /// For the event loop: readable when a piece is done.
    pub(crate) fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.worker.as_ref().map(AsFd::as_fd)
    }

    /// Whether there is work that poll cannot see.
    pub(crate) fn again(&self) -> bool {
        self.again
    }

    /// The next job of either engine: they take turns.
    fn next(&mut self) -> Option<Hand> {
        for ahead in 0..Side::BOTH.len() {
            let turn = self.turn.wrapping_add(ahead) % Side::BOTH.len();
            let side = if turn == 0 { Side::A } else { Side::B };
            let Some(host) = self.get_mut(side) else { continue };
            let epoch = host.epoch;
            if let Some(job) = host.engine.next_job() {
                self.turn = turn.wrapping_add(1) % Side::BOTH.len();
                return Some(Hand { side, job, epoch, done: 0 });
            }
        }
        None
    }
}

impl EngineHost {
    fn new(signaller: Signaller) -> Self {
        Self {
            engine: Engine::new(),
            memory: GuestMemory::default(),
            interrupts: Interrupts::new(ioat::MSIX_VECTORS, signaller),
            attached: false,
            pid: None,
            attaches: 0,
            messages: 0,
            refused_messages: 0,
            traffic: Traffic::default(),
            epoch: 0,
        }
    }

    /// Jobs that are out are none any more.
    fn forget_jobs(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.interrupts.reset();
    }

    /// As after power-on; what the host has mapped and wired stays.
    fn reset(&mut self) {
        self.engine.reset();
        self.forget_jobs();
    }
}
