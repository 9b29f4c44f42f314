//! The register trace: one line of JSON an access, decoded by name.

use ntb_spec::ioat::{self, Place};
use ntb_spec::meaning::{Bar0Meaning, ConfigMeaning};
use ntb_spec::table::{Part, Row};
use ntb_spec::{bar0, config, messages};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use twin::{Side, Time};

/// Which block an access went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceSpace {
    /// Configuration space.
    Config,
    /// BAR 0.
    Bar0,
    /// Configuration space of the host's DMA engine.
    DmaConfig,
    /// BAR 0 of the host's DMA engine.
    DmaBar0,
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
            TraceSpace::Config => name_config(config::row_at(offset), offset, data.len(), value),
            TraceSpace::DmaBar0 => name_dma_bar0(offset, data.len(), value, written),
            TraceSpace::DmaConfig => name_config(ioat::config::row_at(offset), offset, data.len(), value),
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

/// The name of what an access to BAR 0 hit, and what its value means.
pub(crate) fn name_bar0(offset: u32, bytes: usize, value: u64, written: bool) -> (String, String) {
    let Ok(hit) = bar0::lookup(offset, bytes) else {
        let message = messages::lookup(offset, bytes);
        return message.map_or_else(
            |_| Default::default(),
            |hit| (element(hit.row.name, hit.row.count, hit.index), String::new()),
        );
    };
    let meaning = Bar0Meaning { reg: hit.row.reg, index: hit.index, value, written };
    halved(element(hit.row.name, hit.row.count, hit.index), hit.part, meaning)
}

/// The same in BAR 0 of an engine; a channel's registers have its number.
pub(crate) fn name_dma_bar0(offset: u32, bytes: usize, value: u64, written: bool) -> (String, String) {
    match ioat::lookup(offset, bytes) {
        Ok(Place::Global(hit)) => halved(hit.row.name.to_owned(), hit.part, ""),
        Ok(Place::Channel(channel, hit)) => {
            let meaning = ioat::Meaning { reg: hit.row.reg, value, written };
            halved(element(hit.row.name, 2, channel), hit.part, meaning)
        }
        Err(_) => Default::default(),
    }
}

/// Half a register has a name and no meaning.
fn halved(name: String, part: Part, meaning: impl fmt::Display) -> (String, String) {
    match part {
        Part::Whole => (name, meaning.to_string()),
        Part::Low => (name + ".low", String::new()),
        Part::High => (name + ".high", String::new()),
    }
}

fn name_config(
    row: Option<&'static Row<config::Reg>>,
    offset: u32,
    bytes: usize,
    value: u64,
) -> (String, String) {
    let Some(row) = row else { return Default::default() };
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
        let name = |offset, bytes, value| name_config(config::row_at(offset), offset, bytes, value);
        assert_eq!(name(0x1A2, 2, 0x2103), ("LINK_STATUS".into(), "link up, Gen3 x16".into()));
        assert_eq!(name(0, 4096, 0x201C_8086).0, "VENDOR_ID..");
        assert_eq!(name(0x14, 4, 0xFFFF_FFFF), ("BAR[1]".into(), "sizing".into()));
    }

    #[test]
    fn so_have_those_to_an_engine() {
        assert_eq!(name_dma_bar0(0x86, 2, 3, true), ("DMACOUNT[0]".into(), "3 posted".into()));
        assert_eq!(
            name_dma_bar0(0x208, 8, 0x1_2341, false),
            ("CHANSTS[3]".into(), "done, completed 0x12340".into())
        );
        assert_eq!(name_dma_bar0(0x114, 4, 1, true), ("CHAINADDR[1].high".into(), String::new()));
        assert_eq!(name_dma_bar0(0, 1, 4, false), ("CHANCNT".into(), String::new()));
        assert_eq!(name_dma_bar0(0x40, 4, 0, false), Default::default());
        let row = ioat::config::row_at(0x180);
        assert_eq!(name_config(row, 0x180, 4, 0).0, "CHANERR_INT");
    }
}
