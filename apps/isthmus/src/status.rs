//! `isthmus status`: ports, windows, counters of a running twin.

use crate::Outcome;
use anyhow::{Context, bail};
use clap::ValueEnum;
use control::{Client, PortName, PortStatus, Registers, Reply, Request, Status, StoreMode, WindowMode};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Ports, windows and counters of a running twin
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  isthmus status --control /tmp/twin.sock
  isthmus status --control /tmp/twin.sock --registers | grep SPAD
  isthmus status --control /tmp/twin.sock --watch          a line at every change of the link")]
pub(crate) struct Arguments {
    /// The twin's control socket
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// Every register of both ports instead
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
    set_window: Vec<SetWindow>,
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

/// `a:0=direct`.
#[derive(Debug, Clone, Copy)]
struct SetWindow {
    port: PortName,
    window: u8,
    mode: WindowMode,
}

impl FromStr for SetWindow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not PORT:WINDOW=MODE, such as a:0=direct");
        let (place, mode) = text.split_once('=').ok_or_else(form)?;
        let (port, window) = place.split_once(':').ok_or_else(form)?;
        let port = match port {
            "a" => PortName::A,
            "b" => PortName::B,
            _ => return Err(form()),
        };
        let window = match window {
            "0" => 0,
            "1" => 1,
            _ => return Err(form()),
        };
        let mode: twin_server::WindowMode = mode.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { port, window, mode: mode.into() })
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let shown = arguments.control.display();
    let stream = UnixStream::connect(&arguments.control).with_context(|| {
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
    for &SetWindow { port, window, mode } in &arguments.set_window {
        client.call(&Request::SetWindow { port, window, mode })?;
    }
    if arguments.watch {
        client.call(&Request::Watch)?;
        client.stream().set_read_timeout(None)?;
        loop {
            println!("{}", serde_json::to_string(&client.next_event()?)?);
        }
    }
    let request = if arguments.registers { Request::Registers } else { Request::Status };
    match client.call(&request)? {
        Reply::Status(status) if arguments.json => println!("{}", serde_json::to_string(&status)?),
        Reply::Registers(registers) if arguments.json => println!("{}", serde_json::to_string(&registers)?),
        Reply::Status(status) => print!("{}", show(&status)),
        Reply::Registers(registers) => print!("{}", show_registers(&registers)),
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
    let on = |flag: bool| if flag { "on" } else { "off" };
    let who = match (port.attached, port.pid) {
        (true, Some(pid)) => format!("host attached, pid {pid}"),
        (true, None) => "host attached".to_owned(),
        (false, _) => "nobody attached".to_owned(),
    };
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
    text
}

fn show_registers(registers: &Registers) -> String {
    let mut text = String::new();
    for register in &registers.registers {
        let digits = usize::from(register.bytes) * 2 + 2;
        let line = format!(
            "{} {:6} {:#06x} {:<18} {:#0digits$x}  {}",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_named_by_port_number_and_mode() {
        let set: SetWindow = "b:1=alias".parse().unwrap();
        assert_eq!((set.port, set.window, set.mode), (PortName::B, 1, WindowMode::Alias));
        for nonsense in ["", "a", "a:0", "a:2=trap", "c:0=trap", "a:0=warp", "a:0=", ":=", "a:0=trap=x"] {
            assert!(nonsense.parse::<SetWindow>().is_err(), "{nonsense}");
        }
    }
}
