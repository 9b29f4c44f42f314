//! `isthmus status`: ports, windows, counters of a running twin, or of an interface of `isthmus net`.

use crate::Outcome;
use crate::window_choice::OneWindow;
use anyhow::{Context, bail};
use clap::ValueEnum;
use control::{Client, EngineStatus, PortStatus, Registers, Reply, Request, Status, StoreMode};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Ports, windows and counters of a running twin
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  isthmus status --control /tmp/twin.sock
  isthmus status --control /tmp/twin.sock --registers | grep SPAD
  isthmus status --control /tmp/twin.sock --watch          a line at every change of the link
  isthmus status --net unix:/run/ntb0.sock                 an interface that `isthmus net --metrics` serves")]
pub(crate) struct Arguments {
    /// The twin's control socket
    #[arg(long, value_name = "PATH", required_unless_present = "net")]
    control: Option<PathBuf>,
    /// An `isthmus net` instead: what its --metrics says, unix:PATH or ADDRESS:PORT
    #[arg(long, value_name = "WHERE", conflicts_with_all = ["control", "registers", "watch", "set_stores", "set_window"])]
    net: Option<String>,
    /// Every register of both ports and of their DMA engines instead
    #[arg(long)]
    registers: bool,
    /// Print a line at every change from now on, until interrupted
    #[arg(long, conflicts_with = "registers")]
    watch: bool,
    /// First change what becomes of stores through trapped windows: `discard` is the ceiling to measure against
    #[arg(long, value_name = "WHAT")]
    set_stores: Option<Stores>,
    /// First move a window to another mode of its class while the guests run, as in a:0=direct: port, window, mode
    #[arg(long, value_name = "PORT:WINDOW=MODE")]
    set_window: Vec<OneWindow>,
    /// One JSON object (with --watch: one a line)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Stores {
    /// Into the peer's memory
    Deliver,
    /// Checked and thrown away
    Discard,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    if let Some(place) = &arguments.net {
        let report = crate::net::ask(place)?;
        match arguments.json {
            true => crate::out::say!("{}", serde_json::to_string(&report)?),
            false => crate::out::write(format_args!("{}", crate::net::show(&report))),
        }
        return Ok(Outcome::Done);
    }
    let control = arguments.control.as_ref().context("--control says which twin")?;
    let shown = control.display();
    let stream = UnixStream::connect(control).with_context(|| {
        format!("no twin answers at {shown}: start one with `isthmus twin --control {shown}`")
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut client = Client::new(stream);
    if let Some(stores) = arguments.set_stores {
        let stores = match stores {
            Stores::Deliver => StoreMode::Deliver,
            Stores::Discard => StoreMode::Discard,
        };
        client.call(&Request::SetStores { stores })?;
    }
    for &OneWindow { port, window, mode } in &arguments.set_window {
        client.call(&Request::SetWindow { port, window, mode: mode.into() })?;
    }
    if arguments.watch {
        client.call(&Request::Watch)?;
        client.stream().set_read_timeout(None)?;
        while crate::out::is_read() {
            crate::out::say!("{}", serde_json::to_string(&client.next_event()?)?);
        }
        return Ok(Outcome::Done);
    }
    let request = if arguments.registers { Request::Registers } else { Request::Status };
    match client.call(&request)? {
        Reply::Status(status) if arguments.json => crate::out::say!("{}", serde_json::to_string(&status)?),
        Reply::Registers(registers) if arguments.json => {
            crate::out::say!("{}", serde_json::to_string(&registers)?);
        }
        Reply::Status(status) => crate::out::write(format_args!("{}", show(&status))),
        Reply::Registers(registers) => crate::out::write(format_args!("{}", show_registers(&registers))),
        _ => bail!("the twin at {shown} answered something else: is it of another version?"),
    }
    Ok(Outcome::Done)
}

fn show(status: &Status) -> String {
    let Status { version, pid, uptime_ms, link, stores, ports } = status;
    let mut text = format!("twin {version}, pid {pid}, up for {}\n", seconds(*uptime_ms));
    text += &format!(
        "link {} for {}; came up {} times, went down {} times; trains {} ms\n",
        link.state,
        seconds(link.for_ms),
        link.ups,
        link.downs,
        link.training_ms
    );
    if *stores == StoreMode::Discard {
        text += "stores through trapped windows are DISCARDED (--set-stores deliver ends that)\n";
    }
    for port in ports {
        text += &show_port(port);
    }
    text
}

fn show_port(port: &PortStatus) -> String {
    let who = who(port.attached, port.pid);
    let mut text = format!("\nport {} ({:?}) at {}: {who}\n", port.port, port.role, port.socket).to_string();
    text += &format!(
        "  link enable {}, memory decode {}, bus master {}; {} attaches, {} resets\n",
        on(port.enabled),
        on(port.memory_enabled),
        on(port.bus_master),
        port.attaches,
        port.resets
    );
    text += &format!(
        "  host memory {} MiB reachable, {} MiB not\n",
        port.mapped_bytes >> 20,
        port.unreachable_bytes >> 20
    );
    text += &format!(
        "  messages {}, refused {}, bad accesses {}\n",
        port.messages, port.refused_messages, port.bad_accesses
    );
    text += &format!(
        "  doorbells rung {}, dropped {}; interrupts raised {}\n",
        port.doorbells, port.doorbells_dropped, port.interrupts
    );
    for window in &port.windows {
        let open = match window.translation {
            Some(address) => format!("{} KiB open at the peer's {address:#x}", window.open_bytes >> 10),
            None => "closed".to_owned(),
        };
        text += &format!(
            "  window {} ({:?}, {} KiB): {open}; stores {} ({} bytes), dropped {}, discarded {}; loads {}, refused {}\n",
            window.window,
            window.mode,
            window.bytes >> 10,
            window.stores,
            window.stored_bytes,
            window.dropped,
            window.discarded,
            window.loads,
            window.refused_loads
        );
    }
    if let Some(engine) = &port.engine {
        text += &show_engine(engine);
    }
    text
}

fn show_engine(engine: &EngineStatus) -> String {
    let mut text = format!(
        "  DMA engine at {}: {}; {} channels, memory decode {}, bus master {}; {} attaches, {} resets\n",
        engine.socket,
        who(engine.attached, engine.pid),
        engine.channels,
        on(engine.memory_enabled),
        on(engine.bus_master),
        engine.attaches,
        engine.resets
    );
    text += &format!(
        "    host memory {} MiB reachable, {} MiB not; messages {}, refused {}, bad accesses {}\n",
        engine.mapped_bytes >> 20,
        engine.unreachable_bytes >> 20,
        engine.messages,
        engine.refused_messages,
        engine.bad_accesses
    );
    text += &format!(
        "    descriptors {}, copied {} bytes in {} pieces; halts {}, {} of them at bad addresses; \
         closed windows: dropped {} writes ({} bytes), refused {} reads; interrupts raised {}\n",
        engine.descriptors,
        engine.copied_bytes,
        engine.pieces,
        engine.errors,
        engine.faults,
        engine.drops,
        engine.dropped_bytes,
        engine.refused_reads,
        engine.interrupts
    );
    text
}

fn on(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}

fn who(attached: bool, pid: Option<u32>) -> String {
    match (attached, pid) {
        (true, Some(pid)) => format!("host attached, pid {pid}"),
        (true, None) => "host attached".to_owned(),
        (false, _) => "nobody attached".to_owned(),
    }
}

fn show_registers(registers: &Registers) -> String {
    let mut text = String::new();
    for register in &registers.registers {
        let digits = usize::from(register.bytes) * 2 + 2;
        let line = format!(
            "{} {:10} {:#06x} {:<18} {:#0digits$x}  {}",
            register.port, register.space, register.offset, register.name, register.value, register.meaning
        );
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn seconds(millis: u64) -> String {
    format!("{}.{:03} s", millis / 1000, millis % 1000)
}
