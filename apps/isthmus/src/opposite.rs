//! A twin, a process at its port b, and this process at port a: what `demo` and `perf` run on.

use crate::Outcome;
use anyhow::{Context, bail};
use ntb::{Bridge, Events, Gen3, Inbound, Memory, MessageQueue, Speed, VfioUser, Width, Window};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use twin_server::WindowMode;

/// Long enough for anything that happens at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Doorbells that the far side rings back. Each has time to be cleared while the others are used.
pub(crate) const ECHOES: std::ops::Range<u8> = 8..16;
/// The doorbell that asks the far side for a sum of what lies in its window 0: how many bytes is in its scratchpad 0, the sum goes
/// to mine.
pub(crate) const SUM: u8 = 1;
/// How long the link of such a twin trains, in milliseconds.
const TRAINING_MS: u64 = 2;

/// The far side's arguments: hidden, since only this program starts it.
#[derive(Debug, clap::Args)]
pub(crate) struct FarSide {
    /// Be the process opposite, at this socket
    #[arg(long, hide = true, value_name = "SOCKET")]
    far_side: Option<PathBuf>,
    /// The twin's control socket
    #[arg(long, hide = true, requires = "far_side")]
    far_control: Option<PathBuf>,
}

impl FarSide {
    /// Serves the other side, if that is what this process was started for.
    pub(crate) fn serve(&self) -> Option<anyhow::Result<Outcome>> {
        let socket = self.far_side.as_deref()?;
        Some(serve(socket, self.far_control.as_deref()).map(|()| Outcome::Done))
    }

    /// The port at which this process was told to be.
    pub(crate) fn attach(&self) -> anyhow::Result<Gen3> {
        let socket = self.far_side.as_deref().context("there is no socket to be opposite at")?;
        Ok(Gen3::open(Arc::new(VfioUser::connect(socket, self.far_control.as_deref())?))?)
    }
}

/// The near end, with the two processes that belong to it.
#[derive(Debug)]
pub(crate) struct Opposite {
    pub(crate) near: Arc<dyn Bridge>,
    /// Where this host's DMA engine is served, if there is one.
    pub(crate) engine: Option<PathBuf>,
    // In this order: the far side sees the link go down and ends, then the twin.
    _far: Process,
    _twin: Process,
    _directory: TempDir,
}

impl Opposite {
    /// Starts a twin with that mode and the far side, and waits until the link is up. `name` is the subcommand that serves as
    /// the far side.
    pub(crate) fn start(name: &str, mode: WindowMode, mw_bytes: u64) -> anyhow::Result<Self> {
        Self::start_with(&[name], mode, mw_bytes, mode == WindowMode::Dma)
    }

    /// The same with a far side of one's own, which takes the arguments of [`FarSide`], and with engines in any mode.
    pub(crate) fn start_with(
        far: &[&str],
        mode: WindowMode,
        mw_bytes: u64,
        engines: bool,
    ) -> anyhow::Result<Self> {
        let directory = TempDir::new().context("there is no place for sockets")?;
        let at = |name: &str| directory.path().join(name);
        let (a, b, control) = (at("a"), at("b"), at("control"));
        let program = std::env::current_exe().context("this program is not to be found")?;
        let mut command = Command::new(&program);
        command.env("ISTHMUS_LOG", "error").args(["twin", "--json", "--messages"]);
        command.args(["--training-ms", &TRAINING_MS.to_string(), "--window", &mode.to_string()]);
        command.args(["--mw-size", &mw_bytes.to_string()]);
        command.arg("--port-a").arg(&a).arg("--port-b").arg(&b).arg("--control").arg(&control);
        let engine = engines.then(|| at("dma-a"));
        if let Some(engine) = &engine {
            command.arg("--dma-a").arg(engine).arg("--dma-b").arg(at("dma-b"));
        }
        let mut twin = Process::start(command.stdout(Stdio::piped()), "the twin")?;
        twin.wait_for_line()?;
        let mapped = mode.class() == ::control::WindowClass::Mapped;
        let control = mapped.then_some(control);
        let mut command = Command::new(&program);
        command.args(far).arg("--far-side").arg(&b);
        if let Some(control) = &control {
            command.arg("--far-control").arg(control);
        }
        let far = Process::start(&mut command, "the far side")?;
        let near = Gen3::open(Arc::new(VfioUser::connect(&a, control.as_deref())?))?;
        near.link_enable(Speed::Auto, Width::Auto)?;
        near.wait_for_link(true, PATIENCE).context("the far side does not come")?;
        near.doorbells_unmask(near.doorbell_valid_mask())?;
        Ok(Self { near: Arc::new(near), engine, _far: far, _twin: twin, _directory: directory })
    }
}

/// A child that ends with this value.
#[derive(Debug)]
struct Process {
    child: Child,
    what: &'static str,
}

impl Process {
    fn start(command: &mut Command, what: &'static str) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("{what} does not start"))?;
        Ok(Self { child, what })
    }

    /// Waits until it says something: that it listens.
    fn wait_for_line(&mut self) -> anyhow::Result<()> {
        let Some(output) = self.child.stdout.take() else { bail!("{} has no output", self.what) };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.is_empty() {
            bail!("{} ended at once; its own message is above", self.what);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
            && let Err(errno) = kill_process(pid, Signal::TERM)
        {
            tracing::debug!(%errno, what = self.what, "it has ended already");
        }
        if let Err(error) = self.child.wait() {
            tracing::debug!(%error, what = self.what, "its end cannot be waited for");
        }
    }
}

/// The far side: rings back, sums up, sends messages back with one added, until the link goes down.
fn serve(socket: &Path, control: Option<&Path>) -> anyhow::Result<()> {
    let bridge: Arc<dyn Bridge> = Arc::new(Gen3::open(Arc::new(VfioUser::connect(socket, control)?))?);
    let inbound = bridge.inbound(0, bridge.window_align(0)?.max_bytes)?;
    bridge.doorbells_unmask(bridge.doorbell_valid_mask())?;
    let mut messages = MessageQueue::new(Arc::clone(&bridge), 64)?;
    bridge.link_enable(Speed::Auto, Width::Auto)?;
    bridge.wait_for_link(true, PATIENCE)?;
    loop {
        let events = bridge.wait(Duration::from_secs(60))?;
        answer(&*bridge, &inbound, &events)?;
        if events.messages {
            while let Some(message) = messages.receive()? {
                // The near side never has more of them on the way than fit.
                if messages.send(message.wrapping_add(1))?.is_err() {
                    bail!("more messages than were agreed on");
                }
            }
            messages.pump()?;
        }
        if events.link.is_some_and(|link| !link.up) {
            return Ok(());
        }
    }
}

/// What a process at the other end does when it is rung.
pub(crate) fn answer(bridge: &dyn Bridge, inbound: &Inbound, events: &Events) -> anyhow::Result<()> {
    let bells = events.doorbells;
    if bells == 0 {
        return Ok(());
    }
    let echoes = ECHOES.fold(0, |bits, bell| bits | 1 << bell) & bells;
    if echoes != 0 {
        // At once; this bell is cleared long before it is its turn again.
        bridge.ring(echoes)?;
    }
    bridge.doorbells_clear(bells)?;
    if bells >> SUM & 1 == 1 {
        let bytes = usize::try_from(bridge.scratchpad(0)?)?.min(inbound.bytes());
        let mut data = vec![0; bytes];
        inbound.read(0, &mut data)?;
        bridge.peer_scratchpad_write(1, sum(&data))?;
        bridge.ring(1 << SUM)?;
    }
    Ok(())
}

/// FNV-1a over words: enough to tell that bytes are those that were sent.
pub(crate) fn sum(data: &[u8]) -> u32 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for chunk in data.chunks(8) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
    }
    u32::try_from(hash >> 32).unwrap_or_default()
}

/// Waits for one doorbell, and clears it.
pub(crate) fn await_bell(bridge: &dyn Bridge, bell: u8) -> anyhow::Result<()> {
    let mut rung = 0;
    while rung >> bell & 1 == 0 {
        let events = bridge.wait(PATIENCE)?;
        if events.is_empty() {
            bail!("doorbell {bell} does not ring");
        }
        if events.link.is_some_and(|link| !link.up) {
            bail!("the far side has gone; its own message is above");
        }
        rung |= events.doorbells;
    }
    bridge.doorbells_clear(1 << bell)?;
    Ok(())
}
