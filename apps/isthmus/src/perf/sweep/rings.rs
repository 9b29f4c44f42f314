//! Both ends of a channel that is measured, whatever its windows are.

use super::{PATIENCE, Rows, SIZES, bytes, rate};
use crate::perf::report::{Pairs, Row};
use anyhow::{bail, ensure};
use cells::{Receiver, Sender};
use shm::{Memory, Window};
use std::time::{Duration, Instant};

/// A frame that asks for an answer, and one that ends the other process; both are shorter than any buffer.
const TURN_IS_OVER: &[u8] = b"turn";
const END: &[u8] = b"end";

pub(super) type End<O, I> = (Sender<O, I>, Receiver<O, I>);

/// How long a measurement is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// What is sent in one turn, at least.
    pub(super) bytes: usize,
    /// For each size.
    pub(super) time: Duration,
}

/// Measures every size, beside memcpy, and ends the other process.
pub(super) fn measure<O: Window, I: Memory>(
    mut end: End<O, I>,
    name: &str,
    class: &'static str,
    turn: Turn,
    rows: &mut Rows,
) -> anyhow::Result<()> {
    for bits in SIZES {
        let data = vec![0x5A_u8; bytes(bits)];
        let (ours, reference, windows) = turns(&mut end, &data, turn)?.quicker_half();
        rows.push(Row {
            name: name.to_owned(),
            bytes: data.len(),
            value: rate(data.len(), ours),
            unit: "MB/s",
            reference: "memcpy",
            reference_value: rate(data.len(), reference),
            ratio: reference / ours,
            class,
            windows,
        });
    }
    Ok(end.0.send(END, Some(PATIENCE))?)
}

/// Sends buffers and copies them by turns; times are for one buffer, in nanoseconds.
fn turns<O: Window, I: Memory>(
    (send, receive): &mut End<O, I>,
    data: &[u8],
    turn: Turn,
) -> anyhow::Result<Pairs> {
    let count = (turn.bytes / data.len()).max(1);
    let each =
        |began: Instant| began.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(count).unwrap_or(1));
    let mut to = data.to_vec();
    let mut pairs = Pairs::default();
    let until = Instant::now() + turn.time;
    // The first pair has the pages faulted in, and is not counted.
    let mut first = true;
    while pairs.is_few() || Instant::now() < until {
        let began = Instant::now();
        for _ in 0..count {
            send.send(data, Some(PATIENCE))?;
        }
        send.send(TURN_IS_OVER, Some(PATIENCE))?;
        ensure!(receive.receive(Some(PATIENCE))? == Some(TURN_IS_OVER), "the other process does not answer");
        let ours = each(began);
        let began = Instant::now();
        for _ in 0..count {
            std::hint::black_box(&mut to).copy_from_slice(std::hint::black_box(data));
        }
        if !first {
            pairs.push(ours, each(began));
        }
        first = false;
    }
    Ok(pairs)
}

/// The other process: takes every buffer, and answers at the end of a turn.
pub(super) fn serve<O: Window, I: Memory>((mut send, mut receive): End<O, I>) -> anyhow::Result<()> {
    loop {
        match receive.receive(Some(PATIENCE))? {
            Some(TURN_IS_OVER) => send.send(TURN_IS_OVER, Some(PATIENCE))?,
            Some(END) => return Ok(()),
            Some(buffer) => ensure!(buffer.last() == Some(&0x5A), "a buffer arrived with other bytes"),
            None => bail!("the measuring process is silent"),
        }
    }
}
