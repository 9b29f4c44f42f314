//! Network namespaces: a second host's interfaces on one machine, for checked runs and tests.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A network namespace of one's own. It ends with this value, and what is in it, unless a process is still there.
#[derive(Debug)]
pub struct Namespace {
    /// Does nothing in it but be there, until its standard input ends.
    holder: Child,
    path: PathBuf,
}

impl Namespace {
    /// Makes a namespace with a loopback interface that is up.
    ///
    /// # Errors
    /// When that is not permitted (it takes root, or `CAP_SYS_ADMIN`), or `unshare` and `ip` are not installed.
    pub fn new() -> io::Result<Self> {
        // The line that it prints says that it is there; until then the path below would name ours.
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "ip link set lo up && echo there && exec cat >/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("unshare (package util-linux): {error}"))
            })?;
        let mut line = String::new();
        if let Some(output) = holder.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        if line.trim() != "there" {
            let output = holder.wait_with_output()?;
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("no network namespace: {why}"),
            ));
        }
        let path = PathBuf::from(format!("/proc/{}/ns/net", holder.id()));
        Ok(Self { holder, path })
    }

    /// What `nsenter --net=` and [`enter`] take.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs work on a thread that is in this namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| enter(&self.path).map(|()| work()));
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command in this namespace.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg(program).stdin(Stdio::null());
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // It ends at the end of its input; this only makes sure of it.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Moves the calling thread, and those that it starts from now on, into the namespace of this path, such as `/proc/1/ns/net` or
/// `/run/netns/NAME`.
///
/// # Errors
/// When there is none, or it takes rights that one does not have.
pub fn enter(path: &Path) -> io::Result<()> {
    let namespace = File::open(path)?;
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}
