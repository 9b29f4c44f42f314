//! One QEMU without a guest: `-accel qtest` carries out the accesses that a test asks for, QMP the rest.

use crate::bench::DEADLINE;
use lab::artifacts::{self, SetupOptions, Silent};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

/// The guest's memory: in one file or, for what happens at a border between sections, in two halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    OneFile,
    TwoFiles,
}

/// Bytes of memory of every QEMU here.
pub(crate) const RAM_BYTES: u64 = 64 << 20;

/// Whether there is a QEMU to test with. In CI it is required, and made if need be; elsewhere nothing is downloaded, and
/// without one in the cache the tests pass with a loud word about it.
pub(crate) fn there_is_a_qemu() -> bool {
    program().is_some()
}

fn program() -> Option<&'static artifacts::Qemu> {
    static QEMU: OnceLock<Option<artifacts::Qemu>> = OnceLock::new();
    let find = || {
        let options = SetupOptions::default();
        let required = !matches!(std::env::var("CI").as_deref(), Err(_) | Ok("" | "0" | "false"));
        let found = if required {
            artifacts::setup_qemu(&options, &mut Silent).map(Some)
        } else {
            artifacts::find_qemu(&options)
        };
        let found = found.unwrap_or_else(|error| panic!("no QEMU to test with: {error}"));
        if found.is_none() {
            // Not by a macro: the harness would keep that to itself, since the test passes.
            let mut stderr = std::io::stderr().lock();
            stderr.write_all(SKIPPED.as_bytes()).unwrap();
        }
        found
    };
    QEMU.get_or_init(find).as_ref()
}

const SKIPPED: &str = "
SKIPPED: tests named qemu_ need a QEMU with vfio-user-pci (10.1 or newer), and there is none in the cache.
Make one by `cargo run --release -- lab setup`, or name yours in ISTHMUS_QEMU. With CI=1 one is made.

";

/// A running QEMU. Killed when dropped; if the test has failed by then, its messages are printed.
pub(crate) struct Qemu {
    name: String,
    child: Child,
    qtest: BufReader<UnixStream>,
    qmp: Qmp,
    messages: PathBuf,
}

/// Starts QEMU with more arguments, its messages going to a file; the stream speaks qtest.
fn spawn(messages: &Path, memory: Memory, arguments: &[String]) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = OwnedFd::from(theirs);
    let mut command: Command = program().expect("there_is_a_qemu() was asked").command();
    command.args(["-accel", "qtest", "-qtest", "stdio", "-qtest-log", "none"]);
    command.args(["-display", "none", "-nodefaults", "-no-user-config", "-m", &format!("{RAM_BYTES}B")]);
    let file = |id: &str, bytes: u64| format!("memory-backend-memfd,id={id},size={bytes},share=on");
    match memory {
        Memory::OneFile => {
            command.args(["-machine", "q35,memory-backend=mem", "-object", &file("mem", RAM_BYTES)]);
        }
        Memory::TwoFiles => {
            command.args(["-machine", "q35", "-numa", "node,memdev=low", "-numa", "node,memdev=high"]);
            for id in ["low", "high"] {
                command.args(["-object", &file(id, RAM_BYTES / 2)]);
            }
        }
    }
    command.args(arguments);
    command.stdin(Stdio::from(theirs.try_clone().unwrap())).stdout(Stdio::from(theirs));
    command.stderr(Stdio::from(File::create(messages).unwrap()));
    (command.spawn().unwrap(), ours)
}

/// A file of its own for every QEMU, though several of one name may come one after another.
fn new_log(directory: &Path, name: &str) -> PathBuf {
    let mut paths = (1..).map(|number| directory.join(format!("qemu-{name}-{number}.log")));
    paths.find(|path| !path.exists()).unwrap()
}

/// A QEMU that is expected to refuse to start: its exit status and what it says.
pub(crate) fn refused(directory: &Path, name: &str, arguments: &[String]) -> (ExitStatus, String) {
    let messages = new_log(directory, name);
    let (mut child, stream) = spawn(&messages, Memory::OneFile, arguments);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = String::new();
    (&stream).write_all(b"endianness\n").ok();
    let read = BufReader::new(stream).read_line(&mut answer);
    if matches!(read, Ok(0)) || matches!(&read, Err(error) if error.kind() == ErrorKind::ConnectionReset) {
        let status = child.wait().unwrap();
        return (status, std::fs::read_to_string(messages).unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("QEMU {name} runs, and should have refused to: {read:?}, {answer:?}");
}

impl Qemu {
    /// Starts a QEMU and waits until it answers.
    pub(crate) fn start(directory: &Path, name: &str, memory: Memory, arguments: &[String]) -> Self {
        let messages = new_log(directory, name);
        let socket = directory.join(format!("qmp-{name}.sock"));
        std::fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket).unwrap();
        let mut all = vec!["-qmp".to_owned(), format!("unix:{},server=off", socket.display())];
        all.extend_from_slice(arguments);
        let (child, qtest) = spawn(&messages, memory, &all);
        qtest.set_read_timeout(Some(DEADLINE)).unwrap();
        // The connection of QMP is made before the devices are, so it waits by the time that qtest answers.
        let mut starting = Starting {
            name: name.to_owned(),
            child: Some(child),
            qtest: Some(BufReader::new(qtest)),
            messages,
        };
        starting.wait_for_qtest();
        listener.set_nonblocking(true).unwrap();
        let (qmp, _) = listener.accept().expect("QEMU answers on qtest, so it has connected to QMP");
        let mut qemu = starting.done(Qmp::new(qmp));
        qemu.qmp.greet();
        qemu
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Carries out a qtest command; gives what follows `OK`.
    fn qtest(&mut self, command: &str) -> String {
        ask(&mut self.qtest, command)
            .unwrap_or_else(|problem| panic!("QEMU {}: `{command}`: {problem}", self.name))
    }

    /// A load of 1, 2, 4 or 8 bytes.
    pub(crate) fn load(&mut self, address: u64, bytes: u32) -> u64 {
        let answer = self.qtest(&format!("read{} {address:#x}", letter(bytes)));
        number(&answer)
    }

    /// A store of 1, 2, 4 or 8 bytes.
    pub(crate) fn store(&mut self, address: u64, bytes: u32, value: u64) {
        self.qtest(&format!("write{} {address:#x} {value:#x}", letter(bytes)));
    }

    /// Loads many bytes. QEMU makes aligned accesses of it where it meets a device.
    pub(crate) fn load_bytes(&mut self, address: u64, bytes: usize) -> Vec<u8> {
        let answer = self.qtest(&format!("read {address:#x} {bytes:#x}"));
        let digits = answer.strip_prefix("0x").unwrap().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// Stores many bytes.
    pub(crate) fn store_bytes(&mut self, address: u64, data: &[u8]) {
        let digits: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        self.qtest(&format!("write {address:#x} {:#x} 0x{digits}", data.len()));
    }

    pub(crate) fn fill(&mut self, address: u64, bytes: u64, value: u8) {
        self.qtest(&format!("memset {address:#x} {bytes:#x} {value:#x}"));
    }

    pub(crate) fn port_in(&mut self, port: u16) -> u64 {
        let answer = self.qtest(&format!("inl {port:#x}"));
        number(&answer)
    }

    pub(crate) fn port_out(&mut self, port: u16, value: u32) {
        self.qtest(&format!("outl {port:#x} {value:#x}"));
    }

    /// Passes the main loop often enough that an eventfd which was written before has been seen.
    pub(crate) fn settle(&mut self) {
        for _ in 0..4 {
            self.qtest("endianness");
        }
    }

    /// Carries out a QMP command.
    pub(crate) fn qmp(&mut self, command: &str, arguments: Value) -> Value {
        let name = self.name.clone();
        self.qmp
            .call(command, arguments)
            .unwrap_or_else(|problem| panic!("QEMU {name}: {command}: {problem}"))
    }

    /// Waits for a QMP event.
    pub(crate) fn wait_for_event(&mut self, event: &str) {
        self.qmp.wait_for_event(event);
    }

    /// What a command of the human monitor prints.
    pub(crate) fn monitor(&mut self, line: &str) -> String {
        let answer = self.qmp("human-monitor-command", json!({"command-line": line}));
        answer.as_str().unwrap().replace('\r', "")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it in order. A QEMU that had something to complain about fails the test.
    pub(crate) fn quit(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.qmp("quit", json!({}));
            let status = self.child.wait().unwrap();
            assert!(status.success(), "QEMU {} ended with {status}", self.name);
        }
        let said = self.said();
        assert!(said.is_empty(), "QEMU {} said:\n{said}", self.name);
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.messages).unwrap_or_default()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- QEMU {} said:\n{}---", self.name, self.said());
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A QEMU that does not answer yet; killed when dropped.
struct Starting {
    name: String,
    child: Option<Child>,
    qtest: Option<BufReader<UnixStream>>,
    messages: PathBuf,
}

impl Starting {
    fn wait_for_qtest(&mut self) {
        let problem = ask(self.qtest.as_mut().unwrap(), "endianness").err();
        if let Some(problem) = problem {
            let said = std::fs::read_to_string(&self.messages).unwrap_or_default();
            panic!("QEMU {} does not start ({problem}); it said:\n{said}", self.name);
        }
    }

    fn done(mut self, qmp: Qmp) -> Qemu {
        Qemu {
            name: std::mem::take(&mut self.name),
            child: self.child.take().unwrap(),
            qtest: self.qtest.take().unwrap(),
            qmp,
            messages: std::mem::take(&mut self.messages),
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn ask(stream: &mut BufReader<UnixStream>, command: &str) -> Result<String, String> {
    stream.get_mut().write_all(format!("{command}\n").as_bytes()).map_err(|error| error.to_string())?;
    let mut line = String::new();
    match stream.read_line(&mut line) {
        Ok(0) => return Err("QEMU is gone".to_owned()),
        Ok(_) => {}
        Err(error) => return Err(format!("no answer: {error}")),
    }
    line.trim_end().strip_prefix("OK").map(|rest| rest.trim().to_owned()).ok_or(line.clone())
}

fn letter(bytes: u32) -> char {
    match bytes {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        8 => 'q',
        _ => panic!("there is no access of {bytes} bytes"),
    }
}

fn number(answer: &str) -> u64 {
    u64::from_str_radix(answer.strip_prefix("0x").unwrap(), 16).unwrap()
}

/// A QMP connection.
struct Qmp {
    stream: BufReader<UnixStream>,
    events: Vec<String>,
}

impl Qmp {
    fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { stream: BufReader::new(stream), events: Vec::new() }
    }

    fn greet(&mut self) {
        let greeting = self.next().unwrap();
        assert!(greeting.get("QMP").is_some(), "{greeting}");
        self.call("qmp_capabilities", json!({})).unwrap();
    }

    fn next(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err("QEMU is gone".to_owned()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| error.to_string()),
            Err(error) => Err(format!("no answer: {error}")),
        }
    }

    fn call(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let request = json!({"execute": command, "arguments": arguments});
        self.stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())
            .map_err(|error| error.to_string())?;
        loop {
            let mut answer = self.next()?;
            if let Some(event) = answer.get("event").and_then(Value::as_str) {
                self.events.push(event.to_owned());
            } else if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            } else {
                return Err(answer.to_string());
            }
        }
    }

    fn wait_for_event(&mut self, wanted: &str) {
        while !self.events.iter().any(|event| event == wanted) {
            let message = self.next().unwrap_or_else(|problem| panic!("no event {wanted}: {problem}"));
            self.events.extend(message.get("event").and_then(Value::as_str).map(str::to_owned));
        }
        self.events.clear();
    }
}
