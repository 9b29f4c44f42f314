//! A twin, and a QEMU at each of its ports.

use crate::host::{Host, Slot};
use crate::qemu::Memory;
use control::{
    CallError, Client, Event, LinkState, PortName, PortStatus, Reply, Request, Status, WindowStatus,
};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Both ports.
pub(crate) const BOTH: [PortName; 2] = [PortName::A, PortName::B];

/// How long anything may take that takes milliseconds on an idle machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// An `isthmus twin` in a directory of its own. Killed when dropped; if the test has failed by then, its log is printed.
pub(crate) struct Twin {
    directory: TempDir,
    child: Child,
    control: Client<UnixStream>,
    watch: Client<UnixStream>,
}

impl Twin {
    /// Starts a twin and waits until it listens.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options)
    }

    /// The same in a directory where another twin may have been.
    pub(crate) fn start_in(directory: TempDir, options: &[&str]) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = twin_command(directory.path());
        command.args(options).stdout(OwnedFd::from(theirs));
        command.stderr(File::options().create(true).append(true).open(log(directory.path())).unwrap());
        let mut child = command.spawn().unwrap();
        drop(command);
        ours.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut announcement = String::new();
        let read = BufReader::new(ours).read_line(&mut announcement);
        let connect = || UnixStream::connect(directory.path().join("control.sock"));
        let (Ok(1..), Ok(control), Ok(watch)) = (read, connect(), connect()) else {
            child.kill().ok();
            let status = child.wait();
            panic!("the twin does not start: {status:?}, it said:\n{}", read_log(directory.path()));
        };
        for stream in [&control, &watch] {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
        }
        let mut twin = Self { directory, child, control: Client::new(control), watch: Client::new(watch) };
        assert!(matches!(twin.watch.call(&Request::Watch), Ok(Reply::Done)));
        twin
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The socket of a port.
    pub(crate) fn socket(&self, port: PortName) -> PathBuf {
        self.directory().join(format!("{port}.sock"))
    }

    /// The socket of the DMA engine beside a port.
    pub(crate) fn engine_socket(&self, port: PortName) -> PathBuf {
        self.directory().join(format!("dma-{port}.sock"))
    }

    pub(crate) fn status(&mut self) -> Status {
        match self.control.call(&Request::Status) {
            Ok(Reply::Status(status)) => *status,
            other => panic!("the twin answers {other:?} to a question for its status"),
        }
    }

    pub(crate) fn port(&mut self, port: PortName) -> PortStatus {
        self.status().ports.into_iter().find(|status| status.port == port).unwrap()
    }

    /// A window through which `port` stores into its peer.
    pub(crate) fn window(&mut self, port: PortName, window: usize) -> WindowStatus {
        self.port(port).windows.swap_remove(window)
    }

    /// Waits for an event, skipping others; `what` is for the failure's message.
    pub(crate) fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let begun = Instant::now();
        while let Some(left) = DEADLINE.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            match self.next_event(left) {
                Some(event) if wanted(&event) => return event,
                _ => {}
            }
        }
        panic!("the twin did not report: {what}");
    }

    /// The next event, unless none comes for so long.
    pub(crate) fn next_event(&mut self, patience: Duration) -> Option<Event> {
        self.watch.stream().set_read_timeout(Some(patience)).unwrap();
        match self.watch.next_event() {
            Ok(event) => Some(event),
            Err(CallError::Io(error)) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("the twin's control connection fails: {error}"),
        }
    }

    pub(crate) fn wait_for_link(&mut self, wanted: LinkState) -> Event {
        self.wait_for(
            &format!("link {wanted}"),
            |event| matches!(event, Event::Link { state, .. } if *state == wanted),
        )
    }

    pub(crate) fn wait_for_attach(&mut self, wanted: PortName) {
        self.wait_for("attached", |event| matches!(event, Event::Attached { port, .. } if *port == wanted));
    }

    pub(crate) fn wait_for_detach(&mut self, wanted: PortName) {
        self.wait_for("detached", |event| matches!(event, Event::Detached { port, .. } if *port == wanted));
    }

    /// Stops it until [`finish`](Self::finish): what hosts send meanwhile is under way when it ends.
    pub(crate) fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// Ends it by SIGTERM: it must end well, and take its sockets with it.
    ///
    /// What it warned of must be in `expected`.
    pub(crate) fn finish(&mut self, expected: &[&str]) {
        for signal in [Signal::TERM, Signal::CONT] {
            kill_process(Pid::from_child(&self.child), signal).unwrap();
        }
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "the twin ended with {status}");
        for name in ["a.sock", "b.sock", "control.sock", "dma-a.sock", "dma-b.sock"] {
            assert!(!self.directory().join(name).exists(), "the twin left {name} behind");
        }
        let log = read_log(self.directory());
        let grave = log
            .lines()
            .filter(|line| [" WARN ", " ERROR ", "panicked"].iter().any(|word| line.contains(word)));
        for line in grave {
            assert!(expected.iter().any(|part| line.contains(part)), "the twin complained: {line}");
        }
        for part in expected {
            assert!(log.contains(part), "the twin did not log {part:?}:\n{log}");
        }
    }

    /// Kills it as a crash would; the directory with what it leaves goes to the caller.
    pub(crate) fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }

    /// Prints all registers, for a test that has failed.
    fn show_registers(&mut self) {
        match self.control.call(&Request::Status) {
            Ok(Reply::Status(status)) => eprintln!("--- the twin: {status:#?}"),
            other => eprintln!("--- the twin does not say how it is: {other:?}"),
        }
        if let Ok(Reply::Registers(registers)) = self.control.call(&Request::Registers) {
            for register in registers.registers {
                let control::RegisterValue { port, space, offset, bytes, name, value, meaning } = register;
                eprintln!("{port} {space:6} {offset:#06x}/{bytes} {name:<16} {value:#x} {meaning}");
            }
        }
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the twin said:\n{}---", read_log(self.directory()));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `isthmus twin` with its three sockets in a directory.
pub(crate) fn twin_command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.args(["twin", "--json"]).stdin(Stdio::null()).env_remove("ISTHMUS_LOG");
    for (option, name) in [("--port-a", "a.sock"), ("--port-b", "b.sock"), ("--control", "control.sock")] {
        command.arg(option).arg(directory.join(name));
    }
    command
}

/// Runs a twin that is expected not to start: its exit status and what it says.
pub(crate) fn refused_twin(directory: &Path, options: &[&str]) -> (ExitStatus, String) {
    let output = twin_command(directory).args(options).output().unwrap();
    (output.status, String::from_utf8(output.stderr).unwrap())
}

fn log(directory: &Path) -> PathBuf {
    directory.join("twin.log")
}

fn read_log(directory: &Path) -> String {
    std::fs::read_to_string(log(directory)).unwrap_or_default()
}

/// A twin with both its hosts.
pub(crate) struct Pair {
    pub(crate) a: Host,
    pub(crate) b: Host,
    pub(crate) twin: Twin,
    /// Parts of the warnings that the twin is expected to log.
    pub(crate) expected: Vec<&'static str>,
}

impl Pair {
    /// A twin with options, port a behind a root port and port b directly on the root complex, whose memory is in two files.
    pub(crate) fn start(options: &[&str]) -> Self {
        let twin = Twin::start(options);
        let a = Host::start(&twin, PortName::A, Slot::RootPort, Memory::OneFile);
        let b = Host::start(&twin, PortName::B, Slot::RootComplex, Memory::TwoFiles);
        Self { a, b, twin, expected: Vec::new() }
    }

    /// The same with a DMA engine in each QEMU, the link up and all windows open.
    pub(crate) fn up_with_engines(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (dma_a, dma_b) = (path("dma-a.sock"), path("dma-b.sock"));
        let mut all = vec!["--dma-a", &dma_a, "--dma-b", &dma_b];
        all.extend(options);
        let twin = Twin::start_in(directory, &all);
        let a = Host::start_with_engine(&twin, PortName::A, Slot::RootPort, Memory::OneFile);
        let b = Host::start_with_engine(&twin, PortName::B, Slot::RootComplex, Memory::TwoFiles);
        let mut pair = Self { a, b, twin, expected: Vec::new() };
        pair.a.probe();
        pair.b.probe();
        pair.bring_link_up();
        pair
    }

    /// The same with the link up and all windows open, each to memory of its own.
    pub(crate) fn up(options: &[&str]) -> Self {
        let mut pair = Self::start(options);
        pair.a.probe();
        pair.b.probe();
        pair.bring_link_up();
        pair
    }

    /// Both drivers do what Linux's do once they have probed, until the link is up.
    pub(crate) fn bring_link_up(&mut self) {
        for host in [&mut self.a, &mut self.b] {
            host.open_windows();
            host.enable_link();
        }
        self.wait_until_up();
    }

    pub(crate) fn wait_until_up(&mut self) {
        self.twin.wait_for_link(LinkState::Up);
        for host in [&mut self.a, &mut self.b] {
            host.wait_for_link(true);
            host.wait_for_vector(crate::host::LINK_VECTOR);
            host.acknowledge_link();
            host.clear_messages();
        }
    }

    /// A direction: who sends, who receives, and the twin.
    pub(crate) fn direction(&mut self, from: PortName) -> (&mut Host, &mut Host, &mut Twin) {
        match from {
            PortName::A => (&mut self.a, &mut self.b, &mut self.twin),
            PortName::B => (&mut self.b, &mut self.a, &mut self.twin),
        }
    }

    /// Ends everything; nobody may have complained.
    pub(crate) fn finish(mut self) {
        self.a.qemu.quit();
        self.b.qemu.quit();
        self.twin.finish(&self.expected.clone());
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.twin.show_registers();
        }
    }
}
