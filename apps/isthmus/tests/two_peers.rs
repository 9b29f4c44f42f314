//! `isthmus twin` and an `isthmus peer linux` at each of its ports: three processes, over sockets, as a user starts them.

#![forbid(unsafe_code)]

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A child that dies with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// SIGTERM, and what it printed until it ended; it ends well.
    fn end(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.0.wait().unwrap().success(), "{said}");
        said
    }
}

fn isthmus(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A twin that listens.
fn twin(directory: &Path, window: &str) -> Running {
    let path = |name: &str| directory.join(name);
    let mut command = isthmus(&["twin", "--json", "--window", window]);
    command.arg("--port-a").arg(path("a")).arg("--port-b").arg(path("b")).arg("--control").arg(path("c"));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with('{'), "{line}");
    Running(child)
}

fn peer(directory: &Path, port: &str, arguments: &[&str]) -> Command {
    let mut command = isthmus(&["peer", "linux"]);
    command.arg("--port").arg(directory.join(port)).args(arguments);
    command
}

fn raw_test(directory: &Path, arguments: &[&str]) -> Output {
    peer(directory, "b", &[&["--json", "--frames", "2000"], arguments].concat()).output().unwrap()
}

#[test]
fn frames_cross_between_processes_trapped_and_mapped() {
    for (window, windows) in [("trap", "messaged"), ("direct", "mapped")] {
        let directory = TempDir::new().unwrap();
        let at = directory.path();
        let _twin = twin(at, window);
        let control = at.join("c");
        let control: &[&str] = &["--control", control.to_str().unwrap()];
        let mut answers = peer(at, "a", &[&["--addr", "10.0.77.1/24"], control].concat());
        let answers = Running(answers.stdout(Stdio::piped()).spawn().unwrap());
        let output = raw_test(at, control);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        let report = &object["report"];
        assert_eq!(
            (report["windows"].as_str(), report["raw"]["answered"].as_u64()),
            (Some(windows), Some(2000))
        );
        assert!(said.contains("queue pair 0 up"), "{said}");
        let said = answers.end();
        assert!(said.contains("received 2001 frames"), "{said}");
    }
}

#[test]
fn what_is_wrong_is_said_with_a_status() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let told = |command: &mut Command| {
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, said) = told(&mut peer(at, "b", &[]));
    assert!(status == Some(2) && said.contains("start the twin first"), "{said}");

    let _twin = twin(at, "trap");
    let (status, said) = told(&mut peer(at, "b", &["--frames", "1", "--timeout", "1"]));
    assert!(status == Some(1) && said.contains("the link is down: nobody drives the other port"), "{said}");

    let first = Running(peer(at, "b", &[]).stdout(Stdio::piped()).spawn().unwrap());
    // Its port is taken from the moment that the twin knows it.
    let status = || isthmus(&["status", "--json", "--control"]).arg(at.join("c")).output().unwrap();
    while !String::from_utf8_lossy(&status().stdout).contains("\"attached\":true") {}
    let (code, said) = told(&mut peer(at, "b", &[]));
    assert!(code == Some(2) && said.contains("another driver is attached"), "{said}");
    first.end();

    fs::write(at.join("bad.toml"), "[[rule]]\non = \"send\"\ndo = \"stall\"\n").unwrap();
    let script = at.join("bad.toml");
    let (status, said) = told(&mut peer(at, "b", &["--script", script.to_str().unwrap()]));
    assert!(status == Some(2) && said.contains("rule 1: `ms` is missing"), "{said}");
}

/// A TAP that is switched off takes no frame: each one is told as dropped. Where namespaces or a TAP are not permitted it passes, but not in CI.
#[test]
fn what_the_tap_refuses_is_told_as_dropped() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let _twin = twin(at, "trap");
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        env!("CARGO_BIN_EXE_isthmus"),
        "peer",
        "linux",
        "--json",
        "--dump",
        "--tap",
        "ntb0",
    ]);
    command.args(["--addr", "10.0.77.1/24", "--port"]).arg(at.join("a")).stdin(Stdio::null());
    let mut tap = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let network = format!("--net=/proc/{}/ns/net", tap.0.id());
    let ip = |arguments: &[&str]| {
        let mut ip = Command::new("nsenter");
        ip.args([network.as_str(), "ip"]).args(arguments).stderr(Stdio::null()).output().unwrap()
    };
    // Its owner is through with it when it is up and has its address: before, what is switched off here is switched on again.
    let is_ready = || {
        let shown = ip(&["-o", "-4", "address", "show", "dev", "ntb0", "up"]).stdout;
        String::from_utf8_lossy(&shown).contains("10.0.77.1")
    };
    while !(is_ready() && ip(&["link", "set", "ntb0", "down"]).status.success()) {
        if tap.0.try_wait().unwrap().is_some() {
            assert!(std::env::var_os("CI").is_none(), "CI must be able to make a TAP");
            return;
        }
    }
    // Asks for the address that nobody has now, again and again.
    let _asks = Running(peer(at, "b", &["--frames", "1"]).stdout(Stdio::null()).spawn().unwrap());
    let mut told = BufReader::new(tap.0.stderr.take().unwrap()).lines();
    let asked = |line: &String| line.contains("ARP");
    assert_eq!(told.by_ref().map_while(Result::ok).filter(asked).take(3).count(), 3);
    // What is told from now on is nobody's: it has to be read, so that the peer can end.
    let reads = std::thread::spawn(move || told.map_while(Result::ok).count());
    let said = tap.end();
    reads.join().unwrap();
    let report = &serde_json::from_str::<Value>(&said).unwrap()["report"];
    let count = |key: &str| report[key].as_u64().unwrap();
    assert!(count("received") >= 3 && count("dropped") >= count("received"), "{said}");
}
