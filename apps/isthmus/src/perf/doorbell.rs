//! From a doorbell to a process that is awake.

use super::placed::{Figure, PlacedReport, Sample};
use super::turns::Measuring;
use crate::opposite::{ECHOES, Opposite, await_bell};
use anyhow::Context;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use std::os::fd::OwnedFd;
use std::time::Instant;
use twin_server::WindowMode;

/// Rings of one turn.
const RINGS: u32 = 64;

pub(super) fn measure(measuring: &Measuring) -> anyhow::Result<PlacedReport> {
    let opposite = Opposite::start("perf", WindowMode::Trap, 1 << 20)?;
    let near = &*opposite.near;
    let mut bench = (Bare::new()?, ECHOES.cycle());
    measuring.measure("doorbell", 1, &mut bench, |_, (bare, bells), _| {
        let before = turn(|| bare.there_and_back())?;
        let ours = turn(|| {
            let bell = bells.next().context("a cycle has no end")?;
            near.ring(1 << bell)?;
            await_bell(near, bell)
        })?;
        let reference = f64::midpoint(before, turn(|| bare.there_and_back())?);
        Ok(vec![Sample {
            figure: WAKE_UP,
            value: ours / 1e3,
            reference: reference / 1e3,
            each_ns: Vec::new(),
        }])
    })
}

const WAKE_UP: Figure = Figure { name: "wake-up", bytes: 4, unit: "µs", reference: "eventfd", more: false };

/// Half of there and back, in nanoseconds: the mean of one turn.
fn turn(mut there_and_back: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let began = Instant::now();
    for _ in 0..RINGS {
        there_and_back()?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(2 * RINGS))
}

/// Two threads that wake each other by eventfds, and nothing else: the least that any wake-up costs here.
#[derive(Debug)]
struct Bare {
    there: OwnedFd,
    back: OwnedFd,
    _thread: std::thread::JoinHandle<()>,
}

impl Bare {
    fn new() -> anyhow::Result<Self> {
        let make = || eventfd(0, EventfdFlags::CLOEXEC).context("there are no eventfds");
        let (there, back) = (make()?, make()?);
        let (hears, answers) = (there.try_clone()?, back.try_clone()?);
        // It waits in its last read until this process ends.
        let _thread = std::thread::spawn(move || {
            let mut count = [0; 8];
            while read(&hears, &mut count).is_ok() && write(&answers, &1_u64.to_ne_bytes()).is_ok() {}
        });
        Ok(Self { there, back, _thread })
    }

    fn there_and_back(&self) -> anyhow::Result<()> {
        write(&self.there, &1_u64.to_ne_bytes())?;
        let mut count = [0; 8];
        read(&self.back, &mut count)?;
        Ok(())
    }
}
