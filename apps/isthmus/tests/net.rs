//! `isthmus net` when what it stands on is missing or goes away. Where network namespaces are not permitted it says so and
//! passes, but not in CI.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a test that is left out says so")]

use netdev::namespace::Namespace;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that does not outlive a test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Waits for its end.
    fn ends(mut self) -> Output {
        let began = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "it does not end");
            std::thread::yield_now();
        }
        let mut output = Output { status: self.0.wait().unwrap(), stdout: Vec::new(), stderr: Vec::new() };
        std::io::Read::read_to_end(&mut self.0.stdout.take().unwrap(), &mut output.stdout).unwrap();
        std::io::Read::read_to_end(&mut self.0.stderr.take().unwrap(), &mut output.stderr).unwrap();
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn isthmus() -> Command {
    Command::new(env!("CARGO_BIN_EXE_isthmus"))
}

fn until(mut fact: impl FnMut() -> bool) {
    let began = Instant::now();
    while !fact() {
        assert!(began.elapsed() < PATIENCE, "it did not come to that");
        std::thread::yield_now();
    }
}

/// Sockets in a directory, and a twin on them.
struct Bench {
    directory: PathBuf,
    twin: Running,
}

impl Bench {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("isthmus-net-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let at = |name: &str| directory.join(name);
        let twin = Running::start(
            isthmus()
                .args(["twin", "--window", "direct"])
                .args(["--port-a".as_ref(), at("a.sock").as_os_str()])
                .args(["--port-b".as_ref(), at("b.sock").as_os_str()])
                .args(["--control".as_ref(), at("twin.sock").as_os_str()]),
        );
        until(|| at("twin.sock").exists());
        Self { directory, twin }
    }

    /// One that tells its counters in a socket with the port's name, and its like without.
    fn net(&self, port: &str, namespace: &Path) -> Command {
        let mut command = self.bare(port, namespace, "ntb0");
        command.arg("--metrics").arg(format!("unix:{}", self.directory.join(port).display()));
        command
    }

    fn bare(&self, port: &str, namespace: &Path, tap: &str) -> Command {
        let at = |name: &str| self.directory.join(name);
        let mut command = isthmus();
        command
            .args(["net", "--tap", tap])
            .args(["--port".as_ref(), at(&format!("{port}.sock")).as_os_str()])
            .args(["--control".as_ref(), at("twin.sock").as_os_str()])
            .args(["--netns".as_ref(), namespace.as_os_str()]);
        command
    }

    fn told(&self, port: &str) -> Output {
        let place = format!("unix:{}", self.directory.join(port).display());
        isthmus().args(["status", "--net", &place]).output().unwrap()
    }

    fn is_up(&self, port: &str) -> bool {
        String::from_utf8_lossy(&self.told(port).stdout).contains("link up")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn namespaces() -> Option<[Namespace; 2]> {
    match (Namespace::new(), Namespace::new()) {
        (Ok(a), Ok(b)) => Some([a, b]),
        (Err(error), _) | (_, Err(error)) => {
            assert!(std::env::var_os("CI").is_none(), "CI must permit namespaces: {error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn both_ends_end_with_the_reason_when_the_twin_is_killed() {
    let Some([a, b]) = namespaces() else { return };
    let mut bench = Bench::new("twin-gone");
    let ends = [("a", &a), ("b", &b)].map(|(port, at)| Running::start(&mut bench.net(port, at.path())));
    until(|| bench.is_up("a") && bench.is_up("b"));
    bench.twin.0.kill().unwrap();
    for end in ends {
        let Output { status, stderr, .. } = end.ends();
        let said = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains("the device is gone"), "{said}");
    }
}

#[test]
fn an_address_a_name_or_a_port_that_is_taken_is_told() {
    let Some([a, b]) = namespaces() else { return };
    let bench = Bench::new("taken");
    let refused = |command: &mut Command| {
        let Output { status, stderr, .. } = Running::start(command).ends();
        assert_eq!(status.code(), Some(2));
        String::from_utf8_lossy(&stderr).into_owned()
    };
    let _first = Running::start(bench.net("a", a.path()).args(["--addr", "10.9.0.1/24"]));
    until(|| bench.told("a").status.success());
    let name = refused(&mut bench.bare("b", a.path(), "ntb0"));
    assert!(name.contains("ntb0") && name.contains("has this TAP open"), "{name}");
    let address = refused(bench.bare("b", a.path(), "ntb1").args(["--addr", "10.9.0.1/24"]));
    assert!(address.contains("10.9.0.1"), "{address}");
    let port = refused(&mut bench.bare("a", b.path(), "ntb0"));
    assert!(port.contains("a.sock"), "{port}");
}
