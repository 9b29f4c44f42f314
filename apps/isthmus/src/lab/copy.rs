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
/// What tables span at most in guests as small as the lab's: a distance of this is none in each of them.
const MEET_BYTES: u64 = 64 << 20;
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
        (0..=u8::MAX).cycle().take(usize::try_from(span_bytes + table_bytes(order))?).collect();
    let mut runs = Vec::new();
    // The first round brings pages and caches in, and does not count.
    for round in 0..=order.rounds {
        for (index, target) in targets.iter().enumerate() {
            let source = source.get(apart(&source, target, order)..).context("the source is too small")?;
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
fn table_bytes(order: &Order) -> u64 {
    match order {
        Order { meet: true, .. } => MEET_BYTES,
        Order { span_bytes, .. } if *span_bytes <= LARGEST_BYTES => span_bytes * TARGETS,
        Order { .. } => 0,
    }
}

/// How far into `source` to begin, so that it is where the target wants it.
fn apart(source: &[u8], target: &Mapping, order: &Order) -> usize {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(0);
    let distance = if order.meet { 0 } else { size(order.span_bytes + APART_BYTES) };
    let wanted = target.address().wrapping_add(distance);
    wanted.wrapping_sub(source.as_ptr().addr()).checked_rem(size(table_bytes(order))).unwrap_or(0)
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
        Order { targets, span_bytes: 1 << 16, chunk_bytes, run_bytes: 1 << 17, rounds: 3, meet: false }
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
    fn source_and_target_stay_apart_unless_they_are_to_meet() {
        let order = Order { span_bytes: 1 << 20, ..order(4096) };
        let file = SharedFile::create("test", order.span_bytes).unwrap();
        let target = Mapping::new(&file, 0, order.span_bytes, Access::ReadWrite).unwrap();
        let distance = |order: &Order, table: usize| {
            let source = vec![0; usize::try_from(order.span_bytes + table_bytes(order)).unwrap()];
            let begin = source.as_ptr().addr() + apart(&source, &target, order);
            begin.wrapping_sub(target.address()) % table
        };
        let meeting = Order { meet: true, ..order.clone() };
        for table in [64, 128, 256, 512, 1024, 4096].map(|pages| pages * 4096) {
            assert!(distance(&order, table) >= 1 << 17, "{table}");
            assert_eq!(distance(&meeting, table), 0, "{table}");
        }
        let large = Order { span_bytes: LARGEST_BYTES + 1, ..order };
        assert_eq!(table_bytes(&large), 0);
    }
}
