//! The suite of `ntb`, run over sockets on a twin in a process of its own; and who may not open these.

use ntb::conformance::{Failure, Outcome, Testbed, run};
use ntb::{FunctionError, PciFunction, Port, VfioUser};
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use twin::Setup;
use twin_server::{Endpoint, Options, Server, WindowMode};

/// The environment of a twin's process: its directory and its mode.
const DIRECTORY: &str = "ISTHMUS_TEST_TWIN";
const MODE: &str = "ISTHMUS_TEST_MODE";
/// The environment of a process without rights: the directory of a twin that it may see and not use.
const FORBIDDEN: &str = "ISTHMUS_TEST_FORBIDDEN";
/// `nobody` of every distribution.
const NOBODY: u32 = 65534;

/// Not a test but the body of a twin's process; among the tests it does nothing. It says one line when it listens, and ends
/// with its standard input.
#[test]
fn a_twin_apart() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let mode: WindowMode = std::env::var(MODE).unwrap().parse().unwrap();
    let at = |name: &str| Endpoint::Path(directory.join(name));
    let messages = mode != WindowMode::Shared;
    let setup = Setup { training: Duration::from_millis(2), messages, ..Setup::default() };
    let (ports, control, modes) = ([at("a"), at("b")], Some(at("control")), [[mode; 2]; 2]);
    let mut server = Server::bind(&Options {
        ports,
        engines: [None, None],
        control,
        setup,
        modes,
        ram_mapped: [false; 2],
        trace: None,
    })
    .unwrap();
    rustix::io::write(std::io::stdin(), b"!").unwrap();
    server.run(std::io::stdin().as_fd()).unwrap();
}

/// A twin in a process of its own, and its sockets.
struct Apart {
    child: Child,
    stop: UnixStream,
    directory: tempfile::TempDir,
    mapped: bool,
}

impl Apart {
    fn new(mode: WindowMode) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (stop, stopped) = UnixStream::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_twin_apart"])
            .env(DIRECTORY, directory.path())
            .env(MODE, mode.to_string())
            .stdin(OwnedFd::from(stopped))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // It says so when it listens; if it cannot, its end of the pair closes.
        let mut fds = [PollFd::new(&stop, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        let mut said = [0];
        assert_eq!(rustix::io::read(&stop, &mut said), Ok(1), "the twin does not start");
        Self { child, stop, directory, mapped: mode != WindowMode::Trap }
    }

    fn connect(&self, port: Port) -> Result<VfioUser, FunctionError> {
        let socket = match port {
            Port::Usd => "a",
            Port::Dsd => "b",
        };
        let control = self.directory.path().join("control");
        VfioUser::connect(&self.directory.path().join(socket), self.mapped.then_some(&*control))
    }
}

impl Testbed for Apart {
    fn attach(&self, port: Port) -> Result<Arc<dyn PciFunction>, FunctionError> {
        Ok(Arc::new(self.connect(port)?))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        drop(rustix::io::write(&self.stop, b".").map(|_| self.child.wait()));
    }
}

fn passes_in(mode: WindowMode) {
    let factory = || -> Result<Box<dyn Testbed>, Failure> { Ok(Box::new(Apart::new(mode))) };
    let outcomes = run(&factory).unwrap();
    assert!(outcomes.len() > 20);
    let failed: Vec<String> =
        outcomes.iter().filter(|outcome| outcome.failure.is_some()).map(Outcome::to_string).collect();
    assert!(failed.is_empty(), "{mode}:\n{}", failed.join("\n"));
}

#[test]
fn messaged_windows() {
    passes_in(WindowMode::Trap);
}

#[test]
fn shared_windows() {
    passes_in(WindowMode::Shared);
}

#[test]
fn alias_windows() {
    passes_in(WindowMode::Alias);
}

#[test]
fn direct_windows() {
    passes_in(WindowMode::Direct);
}

/// Not a test but the body of a process of another user, which says one letter for each socket that it is kept from.
#[test]
fn somebody_else() {
    let Some(directory) = std::env::var_os(FORBIDDEN).map(PathBuf::from) else { return };
    let (port, control) = (directory.join("a"), directory.join("control"));
    for (control, named) in [(None, &port), (Some(&*control), &control)] {
        let refused = VfioUser::connect(&port, control).unwrap_err();
        assert!(matches!(&refused, FunctionError::Permission { path } if path == named), "{refused}");
        rustix::io::write(std::io::stdin(), b"!").unwrap();
    }
}

#[test]
fn who_may_not_open_the_sockets_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let apart = Apart::new(WindowMode::Direct);
    // Anybody may look for the sockets, and nobody else may connect.
    let open_to_all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(apart.directory.path(), open_to_all).unwrap();
    for socket in ["a", "control"] {
        let closed = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(apart.directory.path().join(socket), closed).unwrap();
    }
    let (said, says) = UnixStream::pair().unwrap();
    // By this name it is found wherever the build is, also where another user may not look.
    let output = Command::new("/proc/self/exe")
        .args(["--exact", "somebody_else"])
        .env(FORBIDDEN, apart.directory.path())
        .stdin(OwnedFd::from(says))
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let mut letters = [0; 8];
    assert_eq!(rustix::io::read(&said, &mut letters), Ok(2), "it was kept from both");
    // The owner is not.
    drop(apart.connect(Port::Usd).unwrap());
}
