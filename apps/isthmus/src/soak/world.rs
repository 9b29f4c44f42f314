//! The processes of a soak: a twin, and an `isthmus net` in each of two network namespaces.

use crate::net;
use anyhow::{Context, bail};
use netdev::namespace::Namespace;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longer than anything takes to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to look.
const GLANCE: Duration = Duration::from_millis(10);

/// What all of it is to be like.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) mtu: u32,
    pub(crate) window: String,
    pub(crate) profile: String,
    /// The one processor that the twin and both interfaces share; none: wherever the kernel puts them.
    pub(crate) processor: Option<usize>,
}

/// One host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::A, Self::B];

    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// Its interface's address.
    pub(crate) fn address(self) -> &'static str {
        match self {
            Self::A => "10.9.0.1",
            Self::B => "10.9.0.2",
        }
    }

    /// Fixed: a host that is killed comes back with the address that its peer knows.
    fn mac(self) -> &'static str {
        match self {
            Self::A => "02:00:5e:00:53:01",
            Self::B => "02:00:5e:00:53:02",
        }
    }
}

/// All of them. They end with it.
#[derive(Debug)]
pub(crate) struct World {
    options: Options,
    more: Vec<String>,
    directory: Directory,
    twin: Running,
    a: Host,
    b: Host,
}

#[derive(Debug)]
struct Host {
    namespace: Namespace,
    net: Option<Running>,
}

/// A child that does not outlive this value.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory for sockets and logs, removed at the end.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl World {
    pub(crate) fn build(options: &Options) -> anyhow::Result<Self> {
        Self::build_with(options, &[])
    }

    /// The same with more arguments for both `isthmus net`.
    pub(crate) fn build_with(options: &Options, more: &[&str]) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("isthmus-soak-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let directory = Directory(path);
        let host = || -> anyhow::Result<Host> {
            let namespace = Namespace::new().context(
                "two hosts on one machine take root, and the programs unshare, nsenter, ip and ping",
            )?;
            // A kernel that doubles its wait after each loss comes to two minutes, and a stream then stands still though the
            // link is well. Older kernels than 6.15 have no such file.
            let _ = namespace.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_rto_max_ms", "2000"))?;
            // With so short waits the kernel's fifteen tries are over 27 s after the first of them, and a stream that has not got
            // over one fault when the next one comes is given up, though all that was ever lost has been sent again.
            let _ = namespace.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_retries2", "255"))?;
            Ok(Host { namespace, net: None })
        };
        let (a, b) = (host()?, host()?);
        let twin = start(
            command(options.processor)?
                .args(["twin", "--window", &options.window, "--mw-size", "4M"])
                .args(["--port-a".as_ref(), directory.0.join("a.sock").as_os_str()])
                .args(["--port-b".as_ref(), directory.0.join("b.sock").as_os_str()])
                .args(["--control".as_ref(), directory.0.join("twin.sock").as_os_str()]),
            &directory.0.join("twin.log"),
        )?;
        let more = more.iter().map(|&argument| argument.to_owned()).collect();
        let mut world = Self { options: options.clone(), more, directory, twin, a, b };
        let control = world.directory.0.join("twin.sock");
        world.wait("the twin listens", |_| control.exists())?;
        for side in Side::BOTH {
            world.start_net(side)?;
        }
        world.wait_for_link()?;
        Ok(world)
    }

    fn host(&mut self, side: Side) -> &mut Host {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    pub(crate) fn namespace(&self, side: Side) -> &Path {
        match side {
            Side::A => self.a.namespace.path(),
            Side::B => self.b.namespace.path(),
        }
    }

    fn file(&self, side: Side, what: &str) -> PathBuf {
        self.directory.0.join(format!("{}.{what}", side.name()))
    }

    fn metrics(&self, side: Side) -> String {
        format!("unix:{}", self.file(side, "metrics").display())
    }

    fn start_net(&mut self, side: Side) -> anyhow::Result<()> {
        let mut command = command(self.options.processor)?;
        command
            .args(["net", "--tap", "ntb0", "--mac", side.mac(), "--profile", &self.options.profile])
            .args(["--addr", &format!("{}/24", side.address()), "--mtu", &self.options.mtu.to_string()])
            .args(["--metrics", &self.metrics(side)])
            .args(["--port".as_ref(), self.file(side, "sock").as_os_str()])
            .args(["--control".as_ref(), self.directory.0.join("twin.sock").as_os_str()])
            .args(["--netns".as_ref(), self.namespace(side).as_os_str()])
            .args(&self.more);
        let net = start(&mut command, &self.file(side, "log"))?;
        self.host(side).net = Some(net);
        Ok(())
    }

    /// Takes the link down and up again, from this side.
    pub(crate) fn flap(&mut self, side: Side) -> anyhow::Result<()> {
        let downs = self.downs(side);
        let net = self.host(side).net.as_ref().context("there is no process to tell")?;
        let pid =
            i32::try_from(net.0.id()).ok().and_then(Pid::from_raw).context("a process without a number")?;
        kill_process(pid, Signal::USR1)?;
        self.wait("the link goes down", |world| world.downs(side) > downs)?;
        self.wait_for_link()
    }

    /// Kills one of the two, and starts it again.
    pub(crate) fn kill(&mut self, side: Side) -> anyhow::Result<()> {
        // Dropping it is SIGKILL.
        self.host(side).net = None;
        self.start_net(side)?;
        self.wait_for_link()
    }

    fn downs(&self, side: Side) -> u64 {
        let told = net::ask(&self.metrics(side)).ok();
        told.and_then(|report| report.counters.get("link_downs").copied()).unwrap_or_default()
    }

    fn wait_for_link(&mut self) -> anyhow::Result<()> {
        self.wait("the link is up at both ends", |world| {
            Side::BOTH
                .iter()
                .all(|side| net::ask(&world.metrics(*side)).is_ok_and(|report| report.link.is_some()))
        })
    }

    /// What both interfaces tell of themselves.
    pub(crate) fn interfaces(&self) -> Vec<net::Report> {
        Side::BOTH.iter().filter_map(|side| net::ask(&self.metrics(*side)).ok()).collect()
    }

    /// Waits for a fact; a process that ends meanwhile says why.
    fn wait(&mut self, what: &str, fact: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let began = Instant::now();
        while !fact(self) {
            let mut ended = Vec::new();
            let nets = [("a", &mut self.a.net), ("b", &mut self.b.net)];
            let nets = nets.into_iter().filter_map(|(name, net)| net.as_mut().map(|net| (name, net)));
            for (name, running) in nets.chain([("twin", &mut self.twin)]) {
                if running.0.try_wait()?.is_some() {
                    ended.push(name);
                }
            }
            if !ended.is_empty() || began.elapsed() > PATIENCE {
                let logs: String = ["twin", "a", "b"]
                    .iter()
                    .map(|name| {
                        let log = self.directory.0.join(format!("{name}.log"));
                        format!("\n{name}: {}", std::fs::read_to_string(log).unwrap_or_default().trim_end())
                    })
                    .collect();
                bail!("waited for this: {what}; ended: {ended:?}{logs}");
            }
            pause(GLANCE);
        }
        Ok(())
    }
}

/// Lets time pass where there is no descriptor to wait on.
pub(crate) fn pause(time: Duration) {
    let (_nobody, nothing) = mpsc::channel::<()>();
    let _ = nothing.recv_timeout(time);
}

/// This program again, as `taskset` starts it if it is to have one processor.
fn command(processor: Option<usize>) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("which program is this?")?;
    let Some(processor) = processor else { return Ok(Command::new(program)) };
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &processor.to_string()]).arg(program);
    Ok(command)
}

fn start(command: &mut Command, log: &Path) -> anyhow::Result<Running> {
    let log = File::options().create(true).append(true).open(log)?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    Ok(Running(child))
}
