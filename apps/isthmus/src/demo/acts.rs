//! What two hosts do with a bridge.

use super::Log;
use crate::opposite::{ECHOES, PATIENCE, SUM, answer, await_bell, sum};
use anyhow::ensure;
use ntb::{Bridge, Inbound, MessageQueue, Window, WindowKind};
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
        let data: Vec<u8> =
            (0..WINDOW_BYTES).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[1]).collect();
        let outbound = near.outbound(0)?;
        self.opposite(|| {
            log.step(&format!("window {mode}: 1 MiB stored, summed up there"), || {
                let began = Instant::now();
                outbound.write(0, &data)?;
                // A read comes back after the stores before it.
                outbound.settle()?;
                let stored = began.elapsed();
                near.peer_scratchpad_write(0, u32::try_from(data.len())?)?;
                near.ring(1 << SUM)?;
                await_bell(near, SUM)?;
                ensure!(near.scratchpad(1)? == sum(&data), "the far side has other bytes");
                let rate = f64::from(u32::try_from(data.len())?) / micros(stored);
                let kind = match outbound.kind() {
                    WindowKind::Mapped => "mapped",
                    WindowKind::Messaged => "messaged",
                };
                Ok(((), format!("{rate:.0} MB/s, {kind}")))
            })
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

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
