//! The register trace: one line of JSON an access, decoded by name.

use ntb_spec::meaning::{Bar0Meaning, ConfigMeaning};
use ntb_spec::table::Part;
use ntb_spec::{bar0, config, messages};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use twin::{Side, Time};

/// Which block an access went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceSpace {
    /// Configuration space.
    Config,
    /// BAR 0.
    Bar0,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The host read.
    Read,
    /// The host wrote.
    Write,
}

/// One access, as a line of the trace has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// Microseconds since the twin started.
    pub at_us: u64,
    /// `a` or `b`.
    pub port: control::PortName,
    /// Block.
    pub space: TraceSpace,
    /// Read or write.
    pub direction: Direction,
    /// Offset in the block.
    pub offset: u32,
    /// Width in bytes.
    pub bytes: u32,
    /// The value, little-endian; of an access wider than 8 bytes (QEMU reads configuration space in one go) the first 8.
    pub value: u64,
    /// The register's name, with its index if it is one of several; empty where there is none.
    pub register: String,
    /// The value in words, where the table knows them.
    pub meaning: String,
    /// False: nothing there, or another width; the read gave all ones, the write was dropped.
    pub hit: bool,
}

/// Where records go.
#[derive(Debug)]
pub struct Trace {
    file: BufWriter<File>,
    failed: bool,
}

impl Trace {
    /// Starts a trace in a new file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::new(File::create(path)?), failed: false })
    }

    pub(crate) fn record(
        &mut self,
        now: Time,
        side: Side,
        space: TraceSpace,
        direction: Direction,
        offset: u32,
        data: &[u8],
        hit: bool,
    ) {
        let mut value = [0; 8];
        for (to, &from) in value.iter_mut().zip(data) {
            *to = from;
        }
        let value = u64::from_le_bytes(value);
        let written = direction == Direction::Write;
        let (register, meaning) = match space {
            TraceSpace::Bar0 => name_bar0(offset, data.len(), value, written),
            TraceSpace::Config => name_config(offset, data.len(), value),
        };
        let record = TraceRecord {
            at_us: u64::try_from(now.0.as_micros()).unwrap_or(u64::MAX),
            port: crate::status::port_name(side),
            space,
            direction,
            offset,
            bytes: u32::try_from(data.len()).unwrap_or(u32::MAX),
            value,
            register,
            meaning,
            hit,
        };
        let written = serde_json::to_writer(&mut self.file, &record).map_err(io::Error::from);
        self.check(written);
        let ended = self.file.write_all(b"\n");
        self.check(ended);
    }

    /// Writes out what is buffered. Called when the twin has nothing else to do.
    pub(crate) fn flush(&mut self) {
        let flushed = self.file.flush();
        self.check(flushed);
    }

    /// A trace that cannot be written (a full disk) is reported once and costs the hosts nothing.
    fn check(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && !self.failed
        {
            self.failed = true;
            tracing::error!(%error, "the trace cannot be written; it ends here or has gaps");
        }
    }
}

fn name_bar0(offset: u32, bytes: usize, value: u64, written: bool) -> (String, String) {
    let Ok(hit) = bar0::lookup(offset, bytes) else {
        let message = messages::lookup(offset, bytes);
        return message.map_or_else(
            |_| Default::default(),
            |hit| (element(hit.row.name, hit.row.count, hit.index), String::new()),
        );
    };
    let name = element(hit.row.name, hit.row.count, hit.index);
    match hit.part {
        Part::Whole => (name, Bar0Meaning { reg: hit.row.reg, index: hit.index, value, written }.to_string()),
        Part::Low => (name + ".low", String::new()),
        Part::High => (name + ".high", String::new()),
    }
}

fn name_config(offset: u32, bytes: usize, value: u64) -> (String, String) {
    let Some(row) = config::row_at(offset) else { return Default::default() };
    let width = u32::from(row.bytes);
    let inside = offset.saturating_sub(row.at);
    let index = u8::try_from(inside.checked_div(width).unwrap_or(0)).unwrap_or(0);
    let name = element(row.name, row.count, index);
    if bytes == usize::from(row.bytes) && inside.checked_rem(width) == Some(0) {
        (name, ConfigMeaning { reg: row.reg, index, value }.to_string())
    } else if bytes > usize::from(row.bytes) {
        (name + "..", String::new())
    } else {
        (name, String::new())
    }
}

/// `SPAD[3]`, or the bare name where there is one only.
pub(crate) fn element(name: &str, count: u8, index: u8) -> String {
    if count > 1 { format!("{name}[{index}]") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_have_names_and_meanings() {
        assert_eq!(
            name_bar0(0x10C, 4, 1, true),
            ("IM_DOORBELL[3]".into(), "ring the peer's doorbell 3".into())
        );
        assert_eq!(name_bar0(0x44, 4, 1, true), ("IM_INT_STATUS.high".into(), String::new()));
        assert_eq!(name_bar0(0x8024, 4, 1, true), ("MSG_OUT[1]".into(), String::new()));
        assert_eq!(name_bar0(0x60, 4, 1, true), Default::default());
        assert_eq!(name_config(0x1A2, 2, 0x2103), ("LINK_STATUS".into(), "link up, Gen3 x16".into()));
        assert_eq!(name_config(0, 4096, 0x201C_8086).0, "VENDOR_ID..");
        assert_eq!(name_config(0x14, 4, 0xFFFF_FFFF), ("BAR[1]".into(), "sizing".into()));
    }
}
