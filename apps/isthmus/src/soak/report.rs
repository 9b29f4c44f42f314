//! What a soak has counted.

use serde::Serialize;

/// One kind of traffic in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Stream {
    pub(super) name: String,
    /// Records or datagrams that were sent.
    pub(super) sent: u64,
    /// Those that arrived and were what they should be.
    pub(super) received: u64,
    pub(super) bytes: u64,
    /// Those that never came, though there was no fault.
    pub(super) lost: u64,
    /// Those that never came, and were on their way when a fault was made.
    pub(super) lost_in_faults: u64,
    /// Those that were not what was sent.
    pub(super) corrupt: u64,
    /// Those that came before one that was sent earlier.
    pub(super) reordered: u64,
    /// The same, sent around a fault: a kernel that asks anew where its neighbour is sends what waited for the answer later.
    pub(super) reordered_in_faults: u64,
    /// Why it ended early, if it did.
    pub(super) failure: Option<String>,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct SoakReport {
    pub(super) seconds: f64,
    pub(super) flaps: u32,
    pub(super) kills: u32,
    pub(super) streams: Vec<Stream>,
    /// What both interfaces told at the end; one that was killed has begun to count anew.
    pub(super) interfaces: Vec<crate::net::Report>,
}

impl Stream {
    fn is_sound(&self) -> bool {
        self.sent > 0
            && self.received > 0
            && self.failure.is_none()
            && (self.lost, self.corrupt, self.reordered) == (0, 0, 0)
    }
}

impl SoakReport {
    /// Whether nothing was lost, corrupt or out of order.
    pub(super) fn is_sound(&self) -> bool {
        !self.streams.is_empty() && self.streams.iter().all(Stream::is_sound)
    }
}

pub(super) fn show(report: &SoakReport) -> String {
    let SoakReport { seconds, flaps, kills, streams, interfaces } = report;
    let mut text = format!("soak of {seconds:.1} s: {flaps} link flaps, {kills} kills\n");
    text += &format!(
        "{:<14} {:>12} {:>12} {:>8} {:>10} {:>8} {:>10} {:>10} {:>9}\n",
        "", "sent", "received", "lost", "in faults", "corrupt", "reordered", "in faults", "GB"
    );
    for stream in streams {
        let tenths = stream.bytes / 100_000_000;
        text += &format!(
            "{:<14} {:>12} {:>12} {:>8} {:>10} {:>8} {:>10} {:>10} {:>7}.{}\n",
            stream.name,
            stream.sent,
            stream.received,
            stream.lost,
            stream.lost_in_faults,
            stream.corrupt,
            stream.reordered,
            stream.reordered_in_faults,
            tenths / 10,
            tenths % 10
        );
        if let Some(failure) = &stream.failure {
            text += &format!("  {} ended early: {failure}\n", stream.name);
        }
    }
    for interface in interfaces {
        text += &crate::net::show(interface);
    }
    text +=
        if report.is_sound() { "passed: nothing was lost, corrupt or out of order\n" } else { "FAILED\n" };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(change: impl FnOnce(&mut Stream)) -> SoakReport {
        let mut stream = Stream { name: "bulk a to b".to_owned(), sent: 7, received: 7, ..Stream::default() };
        change(&mut stream);
        SoakReport { seconds: 1.0, flaps: 0, kills: 0, streams: vec![stream], interfaces: Vec::new() }
    }

    #[test]
    fn one_fault_of_any_kind_is_a_failure() {
        assert!(report(|_| {}).is_sound());
        assert!(report(|stream| stream.lost_in_faults = 1).is_sound());
        for change in [
            (|stream| stream.lost = 1) as fn(&mut Stream),
            |stream| stream.corrupt = 1,
            |stream| stream.reordered = 1,
            |stream| stream.failure = Some("reset".to_owned()),
            |stream| stream.received = 0,
            |stream| stream.sent = 0,
        ] {
            let report = report(change);
            assert!(!report.is_sound() && show(&report).ends_with("FAILED\n"), "{report:?}");
        }
        let nothing = SoakReport { streams: Vec::new(), ..report(|_| {}) };
        assert!(!nothing.is_sound(), "a run that measured nothing");
    }
}
