//! The copy loop that the lab times: it is here because the lab itself maps no memory.

use ::lab::copy::{Order, Run, Target};
use anyhow::{Context, bail};
use shm::{Access, Mapping, SharedFile};
use std::hint::black_box;
use std::time::Instant;

/// QEMU's emulated processors find a page in a table by the low bits of its number: six of them or more, as the guest
/// runs. Were source and target a multiple of the table's span apart, each load would push the page of the store out
/// of it, and each store the page of the load: measured, a loop eight times slower, in plain memory too. So every
/// target has its source at the same distance: as long as the target and this, by which they never meet in a small table,
/// and do not even overlap in a large one.
const APART_BYTES: u64 = 128 << 10;
/// The distance holds in tables that span as many targets.
const TARGETS: u64 = 16;
/// Larger targets are for the host, which has no such table.
const LARGEST_BYTES: u64 = 4 << 20;

/// Carries an order out.
pub(super) fn run(order: &Order) -> anyhow::Result<Vec<Run>> {
    let Order { span_bytes, chunk_bytes, run_bytes, .. } = *order;
    if chunk_bytes == 0 || chunk_bytes > span_bytes || !span_bytes.is_multiple_of(chunk_bytes) {
        bail!("chunks of {chunk_bytes} bytes do not fill {span_bytes}");
    }
    let chunk = usize::try_from(chunk_bytes)?;
    let targets = order.targets.iter().map(|target| map(target, span_bytes));
    let targets = targets.collect::<anyhow::Result<Vec<_>>>()?;
    let source: Vec<u8> =
        (0..=u8::MAX).cycle().take(usize::try_from(span_bytes + table_bytes(span_bytes))?).collect();
    let mut runs = Vec::new();
    // The first round brings pages and caches in, and does not count.
    for round in 0..=order.rounds {
        for (index, target) in targets.iter().enumerate() {
            let source =
                source.get(apart(&source, target, span_bytes)..).context("the source is too small")?;
            let begun = Instant::now();
            let mut copied = 0;
            while copied < run_bytes {
                for (at, bytes) in source.chunks_exact(chunk).take(target.bytes() / chunk).enumerate() {
                    if copied >= run_bytes {
                        break;
                    }
                    target.write(at * chunk, black_box(bytes))?;
                    copied += chunk_bytes;
                }
            }
            let nanos = u64::try_from(begun.elapsed().as_nanos())?;
            if round > 0 {
                runs.push(Run { target: index, bytes: copied, nanos });
            }
        }
    }
    Ok(runs)
}

/// The span of the largest table that is provided for.
fn table_bytes(span_bytes: u64) -> u64 {
    if span_bytes <= LARGEST_BYTES { span_bytes * TARGETS } else { 0 }
}

/// How far into `source` to begin, so that it is where the target wants it.
fn apart(source: &[u8], target: &Mapping, span_bytes: u64) -> usize {
    let distance = |bytes: u64| usize::try_from(bytes).unwrap_or(0);
    let wanted = target.address().wrapping_add(distance(span_bytes + APART_BYTES));
    let table = distance(table_bytes(span_bytes));
    wanted.wrapping_sub(source.as_ptr().addr()).checked_rem(table).unwrap_or(0)
}

fn map(target: &Target, span_bytes: u64) -> anyhow::Result<Mapping> {
    let file = match target {
        Target::Memory => SharedFile::create("isthmus copy", span_bytes).context("no memory")?,
        Target::Bar(path) => {
            SharedFile::bar(path).with_context(|| format!("cannot open {}", path.display()))?
        }
    };
    Ok(Mapping::new(&file, 0, span_bytes, Access::ReadWrite)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(chunk_bytes: u64) -> Order {
        let targets = vec![Target::Memory, Target::Memory];
        Order { targets, span_bytes: 1 << 16, chunk_bytes, run_bytes: 1 << 17, rounds: 3 }
    }

    #[test]
    fn every_target_gets_every_round() {
        let runs = run(&order(4096)).unwrap();
        assert_eq!(runs.iter().map(|run| run.target).collect::<Vec<_>>(), [0, 1, 0, 1, 0, 1]);
        assert!(runs.iter().all(|run| run.bytes == 1 << 17 && run.nanos > 0));
    }

    #[test]
    fn impossible_orders_are_refused() {
        for chunk_bytes in [0, 3, 1 << 17] {
            assert!(run(&order(chunk_bytes)).is_err(), "{chunk_bytes}");
        }
        let targets = vec![Target::Bar("/dev/null".into())];
        assert!(run(&Order { targets, ..order(4096) }).is_err(), "only sysfs has BARs");
    }

    #[test]
    fn source_and_target_stay_apart() {
        let span = 1 << 20;
        let file = SharedFile::create("test", span).unwrap();
        let target = Mapping::new(&file, 0, span, Access::ReadWrite).unwrap();
        let source = vec![0; usize::try_from(span + table_bytes(span)).unwrap()];
        let begin = source.as_ptr().addr() + apart(&source, &target, span);
        let distance = begin.wrapping_sub(target.address());
        for pages in [64, 128, 256, 512, 1024, 4096] {
            let table = pages * 4096;
            assert!(distance % table >= 1 << 17, "{pages}");
        }
        assert_eq!(apart(&source, &target, LARGEST_BYTES + 1), 0);
    }
}
