//! `isthmus twin`: serve a twin on two sockets.

use crate::Outcome;
use crate::window_choice::{self, WindowChoice};
use anyhow::{Context, bail};
use control::WindowClass;
use serde_json::json;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use twin::{Setup, WindowSize};
use twin_server::{Endpoint, Modes, Options, Server};

/// Serve a twin on two sockets, for your own QEMUs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  isthmus twin --port-a /tmp/a.sock --port-b /tmp/b.sock --control /tmp/twin.sock
  isthmus status --control /tmp/twin.sock
  isthmus twin --port-a /tmp/a.sock --port-b /tmp/b.sock --dma-a /tmp/dma-a.sock --dma-b /tmp/dma-b.sock --window dma

QEMU must be 10.1 or newer. The guest's memory must be shared (memory-backend-memfd,share=on), or the twin cannot
reach it. The command lines that attach to this twin are printed once it listens. It serves until SIGTERM or SIGINT;
hosts may come and go meanwhile.")]
pub(crate) struct Arguments {
    /// Socket of port a, the upstream device: a path, or fd:N for an inherited listening socket
    #[arg(long, value_name = "PATH|fd:N")]
    port_a: Endpoint,
    /// Socket of port b, the downstream device
    #[arg(long, value_name = "PATH|fd:N")]
    port_b: Endpoint,
    /// Socket of an I/OAT DMA engine for the host at port a
    #[arg(long, value_name = "PATH|fd:N")]
    dma_a: Option<Endpoint>,
    /// Socket of an I/OAT DMA engine for the host at port b
    #[arg(long, value_name = "PATH|fd:N")]
    dma_b: Option<Endpoint>,
    /// Socket for `isthmus status`
    #[arg(long, value_name = "PATH|fd:N")]
    control: Option<Endpoint>,
    /// How data crosses the memory windows
    ///
    /// trap and dma: every access of a processor is a message; dma says that bulk is to go by the DMA engine, and insists on
    /// --dma-a and --dma-b. (The engine works in every mode.) shared, alias, direct: the BAR is memory, which needs
    /// the overlay in QEMU (the printed command lines load it). Two modes, as in direct,trap, are port a's and port b's; a:0=dma is
    /// the mode of port a's window 0.
    #[arg(long, value_name = "MODE[,MODE][,PORT:WINDOW=MODE]..", default_value = "trap", value_delimiter = ',', num_args = 1..=6)]
    window: Vec<WindowChoice>,
    /// Say whose guest memory other processes map too, a vhost-user back end for instance: windows by alias are refused there
    ///
    /// An alias window takes the place of some of its receiver's memory; a process that maps that memory by itself goes on with the
    /// old pages. What this twin does itself, direct windows and DMA engines, it knows without being told.
    #[arg(long, value_name = "HOST")]
    ram_mapped: Option<RamMapped>,
    /// The overlay object that mapped windows need in QEMU, if it is not where this program looks
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
    /// Size of each memory window: a power of two from 64K to 512M; stock Linux clients use at most 4M
    #[arg(long, value_name = "SIZE", default_value_t = WindowSize::DEFAULT)]
    mw_size: WindowSize,
    /// How long the link trains before it is up, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100)]
    training_ms: u64,
    /// Give both ports message registers: four each way, at 0x8000 of BAR 0. No hardware has them
    #[arg(long)]
    messages: bool,
    /// Write every register access to this file; `isthmus trace` reads it
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print what this twin serves as one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Hosts whose memory others map.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RamMapped {
    /// Host a's
    A,
    /// Host b's
    B,
    /// Both hosts'
    Both,
}

impl Arguments {
    /// The modes of port a's windows and of port b's.
    fn modes(&self) -> anyhow::Result<Modes> {
        let Some(modes) = window_choice::modes(&self.window) else {
            bail!(
                "--window takes one mode, or port a's and port b's with a comma between, and then single windows"
            );
        };
        Ok(modes)
    }

    /// The object that QEMU has to load, if any window is mapped.
    fn overlay_for(&self, modes: Modes) -> anyhow::Result<Option<PathBuf>> {
        if modes.iter().flatten().all(|mode| mode.class() == WindowClass::Messaged) {
            return Ok(None);
        }
        if !matches!(self.control, Some(Endpoint::Path(_))) {
            bail!("mapped windows need --control PATH: the overlay in QEMU connects there");
        }
        let found = crate::overlay::find(self.overlay.as_ref());
        if self.overlay.is_some() {
            return found.map(Some);
        }
        // A process that is a host needs none.
        Ok(found.inspect_err(|error| tracing::warn!("no QEMU can have these windows: {error:#}")).ok())
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let modes = arguments.modes()?;
    let options = Options {
        ports: [arguments.port_a.clone(), arguments.port_b.clone()],
        engines: [arguments.dma_a.clone(), arguments.dma_b.clone()],
        control: arguments.control.clone(),
        setup: Setup {
            windows: [arguments.mw_size; 2],
            training: Duration::from_millis(arguments.training_ms),
            messages: arguments.messages,
        },
        modes,
        ram_mapped: match arguments.ram_mapped {
            None => [false, false],
            Some(RamMapped::A) => [true, false],
            Some(RamMapped::B) => [false, true],
            Some(RamMapped::Both) => [true, true],
        },
        trace: arguments.trace.clone(),
    };
    let overlay = arguments.overlay_for(modes)?;
    // Before the sockets appear: whoever sees one may send SIGTERM.
    let stop = crate::stop::on_signal().context("SIGTERM and SIGINT cannot be watched")?;
    let mut server = Server::bind(&options)?;
    announce(arguments, overlay.as_deref())?;
    server.run(stop.as_fd())?;
    tracing::info!("stopped");
    Ok(Outcome::Done)
}

/// Says where the ports are and how a QEMU gets there. A closed stdout is no reason not to serve.
fn announce(arguments: &Arguments, overlay: Option<&Path>) -> anyhow::Result<()> {
    let environment = environment(arguments, overlay);
    let ports = [
        ("a", &arguments.port_a, arguments.dma_a.as_ref()),
        ("b", &arguments.port_b, arguments.dma_b.as_ref()),
    ];
    let mut text = String::new();
    if arguments.json {
        let ports: Vec<_> = ports
            .iter()
            .map(|(name, port, engine)| {
                json!({
                    "port": name, "socket": port.to_string(), "dma": engine.map(Endpoint::to_string),
                    "qemu": qemu(port, *engine),
                })
            })
            .collect();
        let control = arguments.control.as_ref().map(Endpoint::to_string);
        let object = json!({
            "pid": std::process::id(), "ports": ports, "control": control, "environment": environment,
            "window": arguments.window.iter().map(ToString::to_string).collect::<Vec<_>>(), "mw_bytes": arguments.mw_size.bytes(), "training_ms": arguments.training_ms, "messages": arguments.messages,
        });
        text.push_str(&serde_json::to_string(&object)?);
    } else {
        for (name, endpoint, engine) in ports {
            text.push_str(&format!("port {name} listens at {endpoint}"));
            if let Some(engine) = engine {
                text.push_str(&format!(", its DMA engine at {engine}"));
            }
            text.push_str("; attach a guest with\n  ");
            for (name, value) in &environment {
                text.push_str(&format!("{name}={} ", quoted(value)));
            }
            text.push_str("qemu-system-x86_64");
            for argument in qemu(endpoint, engine) {
                text.push(' ');
                text.push_str(&quoted(&argument));
            }
            text.push('\n');
        }
        if let Some(control) = &arguments.control {
            text.push_str(&format!("control socket: isthmus status --control {control}\n"));
        }
    }
    crate::out::say!("{}", text.trim_end());
    Ok(())
}

/// What QEMU's environment needs for mapped windows.
fn environment(arguments: &Arguments, overlay: Option<&Path>) -> BTreeMap<&'static str, String> {
    let (Some(object), Some(Endpoint::Path(control))) = (overlay, &arguments.control) else {
        return BTreeMap::new();
    };
    let control = std::path::absolute(control).unwrap_or_else(|_| control.clone());
    [("LD_PRELOAD", object), (isthmus_overlay::preload::CONTROL, &control)]
        .into_iter()
        .map(|(name, path)| (name, path.display().to_string()))
        .collect()
}

/// The arguments that matter: shared memory, a port of its own for each device, the devices.
fn qemu(port: &Endpoint, engine: Option<&Endpoint>) -> Vec<String> {
    let mut arguments = vec![
        "-machine".to_owned(),
        "q35,memory-backend=mem".to_owned(),
        "-m".to_owned(),
        "512M".to_owned(),
        "-object".to_owned(),
        "memory-backend-memfd,id=mem,size=512M,share=on".to_owned(),
    ];
    arguments.extend(device("ntb", "rp1", 1, port));
    if let Some(engine) = engine {
        arguments.extend(device("dma", "rp2", 2, engine));
    }
    arguments
}

/// A device behind a root port of its own.
fn device(id: &str, bus: &str, chassis: u8, endpoint: &Endpoint) -> [String; 4] {
    let path = match endpoint {
        Endpoint::Path(path) => {
            std::path::absolute(path).unwrap_or_else(|_| path.clone()).display().to_string()
        }
        Endpoint::Inherited { number, .. } => format!("(the path behind fd {number})"),
    };
    let device = json!({
        "driver": "vfio-user-pci", "id": id, "bus": bus, "socket": {"type": "unix", "path": path},
    });
    [
        "-device".to_owned(),
        format!("pcie-root-port,id={bus},chassis={chassis}"),
        "-device".to_owned(),
        device.to_string(),
    ]
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
