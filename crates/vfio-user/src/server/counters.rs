//! What a session has seen and done, for status pages and tests.

use crate::wire::FaultKind;

/// Counters of one session since it began. They run free and wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Complete messages taken, refused ones too.
    pub messages: u64,
    /// Bytes of those messages.
    pub bytes_in: u64,
    /// Bytes of replies made, whether or not the client has fetched them.
    pub bytes_out: u64,
    /// REGION_READs carried out.
    pub reads: u64,
    /// REGION_WRITEs carried out and answered.
    pub writes: u64,
    /// Posted REGION_WRITEs, and records of REGION_WRITE_MULTI, carried out.
    pub posted_writes: u64,
    /// File descriptors that arrived.
    pub fds: u64,
    /// Requests refused, by kind. Posted ones are counted too; this is the only trace they leave.
    pub refused: Refused,
}

/// Refused requests, by [`FaultKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refused {
    /// Lengths, `argsz` or flags that make no sense.
    pub malformed: u64,
    /// Commands that are not served.
    pub unsupported: u64,
    /// VERSION missing or repeated.
    pub order: u64,
    /// Versions or capabilities that cannot be agreed on.
    pub version: u64,
    /// Beyond what the device has.
    pub range: u64,
    /// File descriptors too many or too few.
    pub fds: u64,
    /// Declined by the device.
    pub device: u64,
}

impl Refused {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { malformed, unsupported, order, version, range, fds, device } = *self;
        [malformed, unsupported, order, version, range, fds, device].into_iter().fold(0, u64::wrapping_add)
    }

    pub(crate) fn count(&mut self, kind: FaultKind) {
        bump(match kind {
            FaultKind::Malformed => &mut self.malformed,
            FaultKind::Unsupported => &mut self.unsupported,
            FaultKind::Order => &mut self.order,
            FaultKind::Version => &mut self.version,
            FaultKind::Range => &mut self.range,
            FaultKind::Fds => &mut self.fds,
            FaultKind::Device => &mut self.device,
        });
    }
}

pub(crate) fn bump(counter: &mut u64) {
    *counter = counter.wrapping_add(1);
}

pub(crate) fn add(counter: &mut u64, amount: usize) {
    *counter = counter.wrapping_add(amount as u64);
}
