//! iperf3 between the two hosts of a [`World`], and the kernel's own way between them to compare with.

use crate::soak::world::{Side, World};
use anyhow::{Context, bail, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A command in a host's namespace.
pub(super) fn inside(world: &World, side: Side, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", world.namespace(side).display())).arg(program).stdin(Stdio::null());
    command
}

/// A pair of veth of this name and MTU, with the addresses 10.9.N.1 and 10.9.N.2.
pub(super) fn add_veth(world: &World, name: &str, network: u8, mtu: u32) -> anyhow::Result<()> {
    let there = world.namespace(Side::B).display().to_string();
    let ip = |side: Side, arguments: &[&str]| -> anyhow::Result<()> {
        let output = inside(world, side, "ip").args(arguments).output()?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), why.trim());
        Ok(())
    };
    ip(Side::A, &["link", "add", name, "type", "veth", "peer", "name", name, "netns", &there])?;
    for (side, host) in [(Side::A, 1), (Side::B, 2)] {
        ip(side, &["address", "add", &format!("10.9.{network}.{host}/24"), "dev", name])?;
        ip(side, &["link", "set", name, "mtu", &mtu.to_string(), "up"])?;
    }
    Ok(())
}

/// What iperf3 in namespace a tells of a run to this address.
pub(super) fn run(world: &World, to: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = inside(world, Side::A, "iperf3")
        .args(["--client", to, "--json", "--connect-timeout", "5000"])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()?;
    serde_json::from_slice(&output.stdout).context("iperf3 says nothing")
}

/// Bits a second of one TCP stream that arrive there.
pub(super) fn tcp(world: &World, to: &str, arguments: &[&str]) -> anyhow::Result<f64> {
    let report = run(world, to, arguments)?;
    match report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64) {
        Some(bits) if bits > 0.0 => Ok(bits),
        _ => bail!("iperf3 to {to} measured nothing: {}", report.get("error").unwrap_or(&Value::Null)),
    }
}

/// An iperf3 that serves one client after the other; it ends with this value.
#[derive(Debug)]
pub(super) struct Server(Child);

impl Server {
    /// One that listens at an address of a host's.
    pub(super) fn start(world: &World, side: Side, address: &str) -> anyhow::Result<Self> {
        let child = inside(world, side, "iperf3")
            .args(["--server", "--bind", address, "--forceflush"])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let mut server = Self(child);
        let mut said = BufReader::new(server.0.stdout.take().context("a server without output")?).lines();
        loop {
            let line = said.next().with_context(|| format!("no iperf3 at {address}"))??;
            if line.contains("listening") {
                break;
            }
        }
        // What else it says is read, so that it never waits for a reader.
        std::thread::spawn(move || said.for_each(drop));
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}
