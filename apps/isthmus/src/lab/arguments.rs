//! The arguments of `isthmus lab`.

use ::lab::artifacts::Series;
use ::lab::options::{Accel, Options, Side, Vfio, parse_size, parse_window_size};
use ::lab::perf::Settings;
use ::lab::windows::{Window, Windows};
use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Two stock guests on a twin: an unmodified QEMU, unmodified Linux drivers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  isthmus lab perf                          boot two guests, measure what crosses between them
  isthmus lab run --guest both -- uname -r  run a command in both
  isthmus lab up; isthmus lab shell a; isthmus lab down

QEMU, kernels and guest images are made from Debian packages at the first run and cached.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Link, ping, ntb_perf and iperf3 between two guests, as a report
    #[command(after_help = "\
Examples:
  isthmus lab perf --json | jq .ntb_perf
  isthmus lab perf --window all             one table of all modes; with --json an array of their objects
  isthmus lab perf --window all --report comparison.html
  isthmus lab perf --window direct --chunks 64K,1M --profile")]
    Perf(PerfArguments),
    /// The kernel's own NTB test, then faults: kill -9, reboot, rmmod, load orders
    #[command(after_help = "\
Examples:
  isthmus lab test --full                   both kernels, every fault ten times
  isthmus lab test --window all --repeat 1  every mode, every fault once
  isthmus lab test --vfio                   the driver in a guest, over the kernel's VFIO")]
    Test(TestArguments),
    /// Run a command in one guest or in both
    #[command(after_help = "\
Examples:
  isthmus lab run --guest a --module my_client.ko -- 'dmesg | tail'
  isthmus lab run --guest both --json -- cat /proc/interrupts

One word is a line for the guest's shell, several are a program and its arguments. ntb_hw_intel is loaded before.
Uses the lab that is up, if one is. Exit 1 when the command fails.")]
    Run(RunArguments),
    /// A shell in a guest
    #[command(
        after_help = "Example:\n  isthmus lab shell a      in the lab that is up, else in one of its own"
    )]
    Shell(ShellArguments),
    /// Boot a lab that stays, for run and shell
    #[command(after_help = "Example:\n  isthmus lab up --gdb a\n  isthmus lab shell a\n  isthmus lab down")]
    Up(UpArguments),
    /// End the lab that is up
    #[command(after_help = "Example:\n  isthmus lab down")]
    Down {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Find or make QEMU, kernels and guest images, without booting anything
    #[command(after_help = "Example:\n  isthmus lab setup --kernel 6.12,6.1")]
    Setup {
        /// The kernels to make
        #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kernel::V6_12])]
        kernel: Vec<Kernel>,
        /// Ask the archive for newer packages even where the cache has an answer
        #[arg(long)]
        refresh: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// The part that runs inside a guest
    #[command(hide = true, disable_help_flag = true)]
    Agent {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// What a child does to itself before it becomes the program
    #[command(hide = true, disable_help_flag = true)]
    ExecChild {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

/// Choices of every run.
#[derive(Debug, Clone, Args)]
pub(super) struct Common {
    /// How processors run; auto tries KVM and falls back to TCG when a guest does not come up
    #[arg(long, value_enum, default_value_t = AccelName::Auto)]
    pub(super) accel: AccelName,
    /// The guests' kernel
    #[arg(long, value_enum, default_value_t = Kernel::V6_12)]
    pub(super) kernel: Kernel,
    /// How data crosses the memory windows: trap, dma, shared, alias, direct, or two of them
    ///
    /// trap: every access is a message. dma: the same, and bulk goes by the I/OAT engine. shared: the BAR is memory
    /// that the peer's BAR is too; stock drivers cannot receive by it, ntb_perf measures it. alias: the BAR is memory
    /// that the peer's RAM is too. direct: the BAR is the peer's RAM. Two modes, as in direct,trap, are port a's and
    /// port b's. all: each mode in turn, by `lab perf` and `lab test` alone.
    #[arg(long, value_name = "MODE[,MODE]", default_value = "trap", value_parser = parse_choice)]
    pub(super) window: Choice,
    /// Give each guest the I/OAT engine in other modes than dma, too
    #[arg(long)]
    pub(super) dma: bool,
    /// The overlay object that mapped windows need in QEMU, if it is not where this program looks
    #[arg(long, value_name = "FILE")]
    pub(super) overlay: Option<PathBuf>,
    /// Size of each memory window: a power of two from 64K to 512M (default 1M; stock drivers use at most 4M)
    #[arg(long, value_name = "SIZE", value_parser = parse_window_size)]
    pub(super) mw_size: Option<u64>,
    /// Memory of each guest in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(256..))]
    pub(super) memory: u32,
    /// Open QEMU's gdb stub for a guest, and print the gdb command
    #[arg(long, value_enum, value_name = "GUEST")]
    pub(super) gdb: Option<GuestName>,
    /// Print every command line that would run, and run none
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Print one JSON object on standard output; with --window all an array of them
    #[arg(long)]
    pub(super) json: bool,
    /// Keep consoles and logs
    #[arg(long)]
    pub(super) keep: bool,
}

impl Common {
    pub(super) fn options(&self) -> anyhow::Result<Options> {
        let defaults = Options::default();
        let windows = self.window.one()?;
        let overlay =
            if windows.any_mapped() { Some(crate::overlay::find(self.overlay.as_ref())?) } else { None };
        Ok(Options {
            accel: match self.accel {
                AccelName::Auto => Accel::Auto,
                AccelName::Kvm => Accel::Kvm,
                AccelName::Tcg => Accel::Tcg,
            },
            series: self.kernel.into(),
            windows,
            dma: self.dma || windows.want_dma(),
            vfio: Vfio::Nothing,
            virtio_net: false,
            perfmap: false,
            overlay,
            window_bytes: self.mw_size.unwrap_or(defaults.window_bytes),
            memory_mib: self.memory,
            gdb: self.gdb.map(Side::from),
            keep: self.keep,
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct PerfArguments {
    /// Chunks of ntb_perf beside its own 512K, up to 1M: powers of two with commas between, or none
    #[arg(long, value_name = "SIZES", value_parser = parse_chunks)]
    chunks: Option<Chunks>,
    /// Write a page with plots, tables and all figures, which needs no other file
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Where TCP across the bridge is slower than virtio-net, find out by perf which function limits it
    #[arg(long)]
    pub(super) profile: bool,
    #[command(flatten)]
    pub(super) common: Common,
}

impl PerfArguments {
    /// The chunks to try.
    pub(super) fn chunks(&self) -> Vec<u64> {
        self.chunks.as_ref().map_or_else(|| Settings::CHUNKS.to_vec(), |chunks| chunks.0.clone())
    }
}

#[derive(Debug, Args)]
pub(super) struct TestArguments {
    /// One guest, and opposite it a process (isthmus peer linux): frames both ways, and the process comes and goes
    #[arg(long, conflicts_with = "repeat")]
    pub(super) peer: bool,
    /// A process in a guest, to which its kernel gives the NTB by VFIO: the suite of the driver between two such ports, and
    /// isthmus peer linux opposite a stock guest
    #[arg(long, conflicts_with_all = ["repeat", "peer"])]
    pub(super) vfio: bool,
    /// Both kernels, every fault ten times, large sizes
    #[arg(long)]
    pub(super) full: bool,
    /// How often each fault (default once; ten times with --full)
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) repeat: Option<u32>,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// Where to run it
    #[arg(long, value_enum, default_value_t = GuestsName::A)]
    pub(super) guest: GuestsName,
    /// A kernel module to insert first; may be given several times
    #[arg(long, value_name = "FILE")]
    pub(super) module: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) common: Common,
    /// The command
    #[arg(last = true, required = true)]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ShellArguments {
    /// Which guest
    #[arg(value_enum)]
    pub(super) guest: GuestName,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Args)]
pub(super) struct UpArguments {
    /// Stay in the foreground; print one JSON object once the lab is up
    #[arg(long)]
    pub(super) foreground: bool,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum AccelName {
    Auto,
    Kvm,
    Tcg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Kernel {
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
}

impl From<Kernel> for Series {
    fn from(kernel: Kernel) -> Self {
        match kernel {
            Kernel::V6_1 => Self::V6_1,
            Kernel::V6_12 => Self::V6_12,
        }
    }
}

/// One way to run, or several in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// These.
    One(Windows),
    /// Every mode.
    All,
}

impl Choice {
    /// The one way that it names.
    pub(super) fn one(self) -> anyhow::Result<Windows> {
        match self {
            Self::One(windows) => Ok(windows),
            Self::All => {
                bail!("--window all is for `isthmus lab perf` and `isthmus lab test`: name one mode here")
            }
        }
    }

    /// What to run, one after the other.
    pub(super) fn each(self) -> Vec<Self> {
        match self {
            Self::One(_) => vec![self],
            Self::All => Window::ALL.map(|window| Self::One(window.into())).to_vec(),
        }
    }
}

fn parse_choice(text: &str) -> Result<Choice, String> {
    if text == "all" { Ok(Choice::All) } else { text.parse().map(Choice::One) }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Chunks(Vec<u64>);

fn parse_chunks(text: &str) -> Result<Chunks, String> {
    if text == "none" {
        return Ok(Chunks(Vec::new()));
    }
    text.split(',').map(parse_chunk).collect::<Result<_, _>>().map(Chunks)
}

fn parse_chunk(text: &str) -> Result<u64, String> {
    let size = parse_size(text);
    let fits = |size: &u64| size.is_power_of_two() && (4 << 10..=Settings::MAX_CHUNK_BYTES).contains(size);
    size.filter(fits)
        .ok_or_else(|| format!("{text:?} is no chunk: a power of two from 4K to 1M, such as 64K"))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum GuestName {
    A,
    B,
}

impl From<GuestName> for Side {
    fn from(guest: GuestName) -> Self {
        match guest {
            GuestName::A => Self::A,
            GuestName::B => Self::B,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum GuestsName {
    A,
    B,
    Both,
}

impl GuestsName {
    pub(super) fn sides(self) -> Vec<Side> {
        match self {
            Self::A => vec![Side::A],
            Self::B => vec![Side::B],
            Self::Both => Side::BOTH.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::lab::options::{MAX_STOCK_WINDOW_BYTES, show_size};

    #[test]
    fn the_lab_names_the_control_socket_as_the_overlay_does() {
        assert_eq!(::lab::plan::OVERLAY_CONTROL, isthmus_overlay::preload::CONTROL);
    }

    #[test]
    fn the_help_names_the_limits_that_hold() {
        assert_eq!(show_size(MAX_STOCK_WINDOW_BYTES), "4M");
        assert_eq!(show_size(Options::default().window_bytes), "1M");
    }

    #[test]
    fn chunks_are_powers_of_two_that_ntb_perf_takes() {
        assert_eq!(parse_chunks("4K,1M"), Ok(Chunks(vec![4096, 1 << 20])));
        assert_eq!(parse_chunks("none"), Ok(Chunks(Vec::new())));
        for text in ["", "2K", "2M", "5K", "4K,", "x"] {
            assert!(parse_chunks(text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_is_every_mode_in_turn() {
        assert_eq!(parse_choice("all").unwrap().each().len(), Window::ALL.len());
        assert_eq!(parse_choice("direct,trap").unwrap().each().len(), 1);
        assert!(parse_choice("all").unwrap().one().is_err() && parse_choice("none").is_err());
    }
}
