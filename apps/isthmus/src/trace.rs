//! `isthmus trace`: print and filter a register trace.

use crate::Outcome;
use anyhow::Context;
use clap::ValueEnum;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::PathBuf;
use twin_server::{Direction, TraceRecord, TraceSpace};

/// Print and filter a register trace that `isthmus twin --trace` wrote
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  isthmus trace t.jsonl --port a --register NTBCNTL      what port a did with its control register
  isthmus trace t.jsonl --space bar0 --writes            every register write
  isthmus trace t.jsonl --space dma-bar0                 what the DMA engines' drivers do
  isthmus trace t.jsonl --bad                            accesses that hit nothing")]
pub(crate) struct Arguments {
    /// The trace
    file: PathBuf,
    /// Only this port
    #[arg(long, value_enum)]
    port: Option<Port>,
    /// Only this block
    #[arg(long, value_enum)]
    space: Option<Space>,
    /// Only registers whose name contains this, in any case
    #[arg(long, value_name = "NAME")]
    register: Option<String>,
    /// Only reads
    #[arg(long, conflicts_with = "writes")]
    reads: bool,
    /// Only writes
    #[arg(long)]
    writes: bool,
    /// Only accesses that hit no register, or one of another width
    #[arg(long)]
    bad: bool,
    /// Print the matching records as they are in the file, one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Port {
    /// The upstream device
    A,
    /// The downstream device
    B,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Space {
    /// Configuration space
    Config,
    /// BAR 0
    Bar0,
    /// Configuration space of the DMA engine
    DmaConfig,
    /// BAR 0 of the DMA engine
    DmaBar0,
}

impl Arguments {
    fn wants(&self, record: &TraceRecord) -> bool {
        let port = self.port.is_none_or(|port| match port {
            Port::A => record.port == control::PortName::A,
            Port::B => record.port == control::PortName::B,
        });
        let space = self.space.is_none_or(|space| match space {
            Space::Config => record.space == TraceSpace::Config,
            Space::Bar0 => record.space == TraceSpace::Bar0,
            Space::DmaConfig => record.space == TraceSpace::DmaConfig,
            Space::DmaBar0 => record.space == TraceSpace::DmaBar0,
        });
        let direction = match record.direction {
            Direction::Read => !self.writes,
            Direction::Write => !self.reads,
        };
        let name = self
            .register
            .as_ref()
            .is_none_or(|part| record.register.to_ascii_lowercase().contains(&part.to_ascii_lowercase()));
        port && space && direction && name && !(self.bad && record.hit)
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let shown = arguments.file.display();
    let file = File::open(&arguments.file).with_context(|| format!("{shown} cannot be read"))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.with_context(|| format!("{shown} cannot be read"))?;
        let record: TraceRecord = match serde_json::from_str(&line) {
            Ok(record) => record,
            Err(error) => anyhow::bail!(
                "{shown}, line {number} is not a trace record ({error}): give a file that `isthmus twin --trace` wrote"
            ),
        };
        if arguments.wants(&record) {
            let text = if arguments.json { line } else { show(&record) };
            match writeln!(out, "{text}") {
                // Somebody piped this into `head`.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Outcome::Done),
                written => written?,
            }
        }
    }
    match out.flush() {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        flushed => flushed?,
    }
    Ok(Outcome::Done)
}

fn show(record: &TraceRecord) -> String {
    let TraceRecord { at_us, port, space, direction, offset, bytes, value, register, meaning, hit } = record;
    let space = match space {
        TraceSpace::Config => "config",
        TraceSpace::Bar0 => "bar0",
        TraceSpace::DmaConfig => "dma-config",
        TraceSpace::DmaBar0 => "dma-bar0",
    };
    let arrow = match direction {
        Direction::Read => "->",
        Direction::Write => "<-",
    };
    let digits = usize::try_from((*bytes).min(8)).unwrap_or(8) * 2;
    let register = if *hit { register } else { "(nothing)" };
    let line = format!(
        "{:>6}.{:06} {port} {space:10} {offset:#06x}/{bytes:<4} {register:<18} {arrow} {value:#0width$x}  {meaning}",
        at_us / 1_000_000,
        at_us % 1_000_000,
        width = digits + 2
    );
    line.trim_end().to_owned()
}
