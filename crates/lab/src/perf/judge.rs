//! What a report says that it must not, and what it says that may have other causes.

use super::report::{Copy, NtbPerf, Report};

/// What delivery must reach of what dropping reaches.
const LEAST_RATIO: f64 = 0.5;
/// What a far simpler server reached, in megabytes a second.
const LEAST_RATE: f64 = 42.0;
/// What a window that is memory should reach of memory, and the engine of its own copy routine.
const LEAST_OF_MEMORY: f64 = 0.8;
/// How far apart the slowest run and the median may be.
const SPREAD: f64 = 4.0;
/// How far ntb_perf may be behind another copy loop.
const BEHIND: f64 = 8.0;

/// What a report says that it must not: a sentence each.
#[must_use]
pub fn shortcomings(report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    for row in &report.ntb_perf {
        let way = way(row);
        if let Some(delivered) = row.delivered_bytes.filter(|delivered| *delivered < row.bytes) {
            found.push(format!("{way}: ntb_perf stored {} bytes, {delivered} arrived", row.bytes));
        }
        if let Some(ceiling) = report.ceiling(row).filter(|ceiling| ceiling.delivered_ratio < LEAST_RATIO) {
            let ratio = ceiling.delivered_ratio;
            found.push(format!("{way}: delivery reaches {ratio:.2} of a twin that drops, not {LEAST_RATIO}"));
        }
    }
    found
}

/// What a report says that may be the machine's fault as well as the twin's: a sentence each.
#[must_use]
pub fn doubts(report: &Report) -> Vec<String> {
    let mut found = Vec::new();
    for row in &report.ntb_perf {
        let rate = row.delivered_mbytes_per_s.unwrap_or(row.mbytes_per_s);
        if rate < LEAST_RATE {
            found.push(format!(
                "{}: {rate:.1} MB/s; a naive server reached {LEAST_RATE} on a quiet machine of two cores",
                way(row)
            ));
        }
        if row.slowest_mbytes_per_s * SPREAD < row.mbytes_per_s {
            let (slow, median) = (row.slowest_mbytes_per_s, row.mbytes_per_s);
            found.push(format!("{}: one run reached {slow:.1} MB/s, the median {median:.1}", way(row)));
        }
    }
    let mapped = report.ntb_perf_discard.is_none();
    for row in report.copy.iter().filter(|_| mapped) {
        if row.ratio < LEAST_OF_MEMORY {
            let Copy { guest, ratio, .. } = row;
            found.push(format!(
                "guest {guest}: the copy loop through the window reaches {ratio:.2} of plain memory, not {LEAST_OF_MEMORY}"
            ));
        }
        let row = report.stores(row.guest, false).filter(|perf| perf.mbytes_per_s * BEHIND < row.bar.median);
        if let Some(perf) = row {
            found.push(format!(
                "{}: ntb_perf reaches {:.1} MB/s where another copy loop is far faster: its source and its window have \
                 met in QEMU's table of pages (see docs/windows.md) in each of {} places",
                way(perf),
                perf.mbytes_per_s,
                perf.placements
            ));
        }
    }
    if let Some(memcpy) = report.memcpy.as_ref().filter(|memcpy| memcpy.dma_ratio < LEAST_OF_MEMORY) {
        let ratio = memcpy.dma_ratio;
        found.push(format!("DMA reaches {ratio:.2} of a memcpy on the host, not {LEAST_OF_MEMORY}"));
    }
    found
}

fn way(row: &NtbPerf) -> String {
    let by = if row.dma { " by DMA" } else { "" };
    format!("{} to {}{by}", row.from, row.to)
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{sample, sample_shared};
    use super::{doubts, shortcomings};

    #[test]
    fn a_report_is_judged() {
        assert_eq!(shortcomings(&sample()), Vec::<String>::new());
        assert_eq!(doubts(&sample()), Vec::<String>::new());
        let mut poor = sample();
        poor.ntb_perf[0].delivered_bytes = Some(1);
        poor.ntb_perf[2].delivered_bytes = Some(1);
        poor.ntb_perf_discard.as_mut().unwrap()[1].delivered_ratio = 0.49;
        let found = shortcomings(&poor);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().any(|line| line.starts_with("a to b by DMA: ntb_perf stored")), "{found:?}");
        poor.ntb_perf[1].delivered_mbytes_per_s = Some(41.0);
        poor.ntb_perf[3].slowest_mbytes_per_s = 116.0;
        poor.memcpy.as_mut().unwrap().dma_ratio = 0.5;
        assert_eq!(doubts(&poor).len(), 3);
    }

    #[test]
    fn a_window_that_is_memory_is_compared_with_memory() {
        let mut shared = sample_shared();
        assert!(shortcomings(&shared).is_empty() && doubts(&shared).is_empty());
        shared.copy[0].ratio = 0.79;
        shared.ntb_perf[1].mbytes_per_s = 116.0;
        shared.ntb_perf[1].slowest_mbytes_per_s = 115.0;
        let found = doubts(&shared);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].contains("table of pages"));
    }
}
