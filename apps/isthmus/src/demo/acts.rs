//! What two hosts do with a bridge.

use super::Log;
use crate::opposite::{ECHOES, PATIENCE, SUM, answer, await_bell, sum};
use anyhow::ensure;
use ntb::dma::{DmaCopy, DmaEngine, DmaTarget, Ioat};
use ntb::{Bridge, Inbound, MessageQueue, VfioUser, Window, WindowKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use twin_local::WindowMode;

const WINDOW_BYTES: usize = 1 << 20;
const DOORBELLS: u32 = 500;
const MESSAGES: u32 = 200;

/// The near end, and the far one if it is in this process; otherwise another process answers there.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) near: Arc<dyn Bridge>,
    pub(super) far: Option<Arc<dyn Bridge>>,
}

impl Stage {
    /// Scratchpads, doorbells, messages.
    pub(super) fn registers(&self, log: &mut Log) -> anyhow::Result<()> {
        let near = &*self.near;
        log.step("16 scratchpads, written and read across", || {
            for index in 0..near.scratchpad_count() {
                let value = 0xC0DE_0000 | u32::from(index);
                near.peer_scratchpad_write(index, value)?;
                ensure!(near.peer_scratchpad(index)? == value, "scratchpad {index} is another one");
            }
            Ok(((), String::new()))
        })?;
        self.opposite(|| {
            log.step(&format!("{DOORBELLS} doorbells there and back"), || {
                let began = Instant::now();
                for bell in ECHOES.cycle().take(usize::try_from(DOORBELLS)?) {
                    near.ring(1 << bell)?;
                    await_bell(near, bell)?;
                }
                Ok(((), format!("{:.1} µs there and back", micros(began.elapsed()) / f64::from(DOORBELLS))))
            })
        })?;
        // In this process one thread can be both ends: a message lies where it is until somebody looks.
        let mut queue = MessageQueue::new(Arc::clone(&self.near), 8)?;
        let mut far = self.far.as_ref().map(|far| MessageQueue::new(Arc::clone(far), 8)).transpose()?;
        log.step(&format!("{MESSAGES} messages, each answered"), || {
            for message in 0..MESSAGES {
                ensure!(queue.send(message)?.is_ok(), "the queue is full");
                if let Some(far) = &mut far {
                    let got = far.receive()?;
                    ensure!(got == Some(message), "the far end got {got:?}");
                    ensure!(far.send(message.wrapping_add(1))?.is_ok(), "the far queue is full");
                }
                let answer = loop {
                    match queue.receive()? {
                        Some(answer) => break answer,
                        None => ensure!(near.wait(PATIENCE)?.messages, "no answer to message {message}"),
                    }
                };
                ensure!(answer == message.wrapping_add(1), "message {message} came back as {answer}");
            }
            Ok(((), String::new()))
        })
    }

    /// Stores through window 0, checked at the other side.
    pub(super) fn window(&self, log: &mut Log, mode: WindowMode) -> anyhow::Result<()> {
        let near = &*self.near;
        let data = data();
        let outbound = near.outbound(0)?;
        self.opposite(|| {
            log.step(&format!("window {mode}: 1 MiB stored, summed up there"), || {
                let began = Instant::now();
                outbound.write(0, &data)?;
                // A read comes back after the stores before it.
                outbound.settle()?;
                let stored = began.elapsed();
                compare(near, &data)?;
                let kind = match outbound.kind() {
                    WindowKind::Mapped => "mapped",
                    WindowKind::Messaged => "messaged",
                };
                Ok(((), format!("{}, {kind}", rate(&data, stored)?)))
            })
        })
    }

    /// The same by this host's DMA engine.
    pub(super) fn engine(&self, log: &mut Log, socket: &Path) -> anyhow::Result<()> {
        let near = &*self.near;
        let data = data();
        let to = DmaTarget::Window(near.outbound(0)?);
        let mut engine = Ioat::open(Arc::new(VfioUser::connect(socket, None)?), 0)?;
        let from = engine.allocate(u64::try_from(data.len())?)?;
        from.write(0, &data)?;
        log.step("window dma: 1 MiB by I/OAT, summed up there", || {
            let began = Instant::now();
            engine.copy(DmaCopy { from, from_at: 0, to, to_at: 0, bytes: data.len() }, None)?;
            ensure!(engine.finish(PATIENCE)? == 1, "the engine does not finish");
            let copied = began.elapsed();
            compare(near, &data)?;
            Ok(((), format!("{}, by the engine", rate(&data, copied)?)))
        })
    }

    /// Does something while the other end answers.
    fn opposite(&self, action: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let Some(far) = &self.far else { return action() };
        let inbound: Inbound = far.inbound(0, u64::try_from(WINDOW_BYTES)?)?;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let answering = scope.spawn(|| -> anyhow::Result<()> {
                while !over.load(Ordering::Relaxed) {
                    answer(&**far, &inbound, &far.wait(Duration::from_millis(20))?)?;
                }
                Ok(())
            });
            let done = action();
            over.store(true, Ordering::Relaxed);
            answering.join().map_err(|_| anyhow::anyhow!("the far end failed"))??;
            done
        })
    }
}

/// Bytes that tell when they are out of place.
fn data() -> Vec<u8> {
    (0..WINDOW_BYTES).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[1]).collect()
}

/// Has the other side sum up what has arrived.
fn compare(near: &dyn Bridge, data: &[u8]) -> anyhow::Result<()> {
    near.peer_scratchpad_write(0, u32::try_from(data.len())?)?;
    near.ring(1 << SUM)?;
    await_bell(near, SUM)?;
    ensure!(near.scratchpad(1)? == sum(data), "the far side has other bytes");
    Ok(())
}

fn rate(data: &[u8], time: Duration) -> anyhow::Result<String> {
    Ok(format!("{:.0} MB/s", f64::from(u32::try_from(data.len())?) / micros(time)))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
