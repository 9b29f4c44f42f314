//! What the tests of `isthmus vi` have in common: a twin, a service at each port, and the tools, each a process as a user starts it.

use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use vi::pcapng::{FrameMeta, Writer};

/// A child that dies with its test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn isthmus(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Starts it, and waits for the line that says that it is ready.
pub(crate) fn ready(command: &mut Command) -> Running {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with('{'), "{line}");
    Running(child)
}

/// A twin, and a service at each port, with these options; it goes by the order of the array.
pub(crate) fn services(at: &Path, options: &[&str]) -> [Running; 3] {
    let twin = twin(at);
    let [a, b] = ["a", "b"].map(|port| ready(serve(at, port, isthmus(&[])).args(options)));
    [a, b, twin]
}

pub(crate) fn twin(at: &Path) -> Running {
    let mut twin = isthmus(&["twin", "--json", "--window", "direct", "--mw-size", "16M"]);
    twin.arg("--port-a")
        .arg(at.join("a"))
        .arg("--port-b")
        .arg(at.join("b"))
        .arg("--control")
        .arg(at.join("c"));
    ready(&mut twin)
}

/// A service at a port, of a command that goes on with isthmus's arguments.
pub(crate) fn serve(at: &Path, port: &str, mut isthmus: Command) -> Command {
    isthmus.args(["vi", "serve", "--json", "--port"]).arg(at.join(port)).arg("--control").arg(at.join("c"));
    isthmus.arg("--socket").arg(at.join(format!("vi-{port}")));
    isthmus
}

impl Running {
    /// Asks it to end, and waits for what it says at its end.
    pub(crate) fn end(mut self) -> Value {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(self.0.stdout.as_mut().unwrap(), &mut text).unwrap();
        assert!(self.0.wait().unwrap().success(), "{text}");
        serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// Starts a tool whose output is looked at when it ends.
pub(crate) fn start(command: &mut Command) -> Running {
    Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Runs it to its end, which is a good one: what it says as JSON, and to people.
pub(crate) fn run(command: &mut Command) -> (Value, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (object(&output), said)
}

/// The end of one that was started.
pub(crate) fn finish(mut running: Running) -> (Value, String) {
    let mut said = String::new();
    let mut errors = running.0.stderr.take().unwrap();
    let mut out = running.0.stdout.take().unwrap();
    let reads =
        std::thread::spawn(move || std::io::Read::read_to_string(&mut errors, &mut said).map(|_| said));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut out, &mut text).unwrap();
    let said = reads.join().unwrap().unwrap();
    assert!(running.0.wait().unwrap().success(), "{said}");
    (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {said}")), said)
}

pub(crate) fn tool(at: &Path, name: &str, port: &str, arguments: &[&str]) -> Command {
    let mut command = isthmus(&["vi", name, "--json", "--service"]);
    command.arg(at.join(format!("vi-{port}"))).args(arguments);
    command
}

/// Frames of every length, of many kinds, a microsecond apart.
pub(crate) fn make(path: &Path, frames: u64) {
    let mut writer = Writer::new(BufWriter::new(File::create(path).unwrap()), "a test").unwrap();
    let interface = writer.interface("made", "", 0).unwrap();
    for n in 0..frames {
        let mut frame = vec![n.to_le_bytes()[0]; 14 + usize::try_from(n * 7919 % 1501).unwrap()];
        frame[0] = 2;
        frame[12..14]
            .copy_from_slice(&[[8, 0], [0x86, 0xDD], [8, 6], [0x12, 0x34]][usize::try_from(n % 4).unwrap()]);
        frame.extend_from_slice(&n.to_le_bytes());
        frame.truncate(1514);
        let original_bytes = u32::try_from(frame.len()).unwrap();
        let meta = FrameMeta {
            utc_ns: 1_700_000_000_000_000_000 + n * 1000,
            original_bytes,
            ..FrameMeta::default()
        };
        writer.frame(interface, &meta, &frame).unwrap();
    }
    writer.finish().unwrap();
}

pub(crate) fn object(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}
