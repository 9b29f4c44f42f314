//! Host processes of a lab: QEMU and the twin.
//!
//! Each is a process group of its own and dies with the lab, however the lab dies: the child asks the kernel
//! to be killed with its parent (see [`trampoline`]), [`Process`] kills it when dropped, and a signal to
//! the lab kills them all first.

pub mod trampoline;

use crate::interrupt;
use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A command line, printable before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Environment beside the inherited one.
    pub env: Vec<(OsString, OsString)>,
    /// Program and arguments.
    pub words: Vec<OsString>,
}

impl CommandLine {
    /// From a [`Command`].
    #[must_use]
    pub fn new(command: &Command) -> Self {
        let env = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        Self { env: env.collect(), words: words.map(ToOwned::to_owned).collect() }
    }
}

impl std::fmt::Display for CommandLine {
    /// As one would type it into a shell.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let assignments = self
            .env
            .iter()
            .map(|(name, value)| format!("{}={}", name.display(), quoted(&value.to_string_lossy())));
        let words = self.words.iter().map(|word| quoted(&word.to_string_lossy()));
        f.write_str(&assignments.chain(words).collect::<Vec<_>>().join(" "))
    }
}

/// A word as a shell needs it.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    exited: OwnedFd,
    log: PathBuf,
}

impl Process {
    /// Starts a command with its output in the file `log`.
    ///
    /// # Errors
    /// When the log cannot be written or the process not be started.
    pub fn start(name: &str, line: &CommandLine, log: &Path) -> anyhow::Result<Self> {
        if interrupt::interrupted() {
            bail!("interrupted");
        }
        let output = File::options().create(true).append(true).open(log);
        let mut output = output.with_context(|| format!("cannot write {}", log.display()))?;
        writeln!(output, "$ {line}")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["lab", "exec-child", "--die-with", &std::process::id().to_string()]);
        for (name, value) in &line.env {
            command.arg("--env").arg(trampoline::join(name, value));
        }
        command.arg("--").args(&line.words);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = spawn(command).with_context(|| format!("cannot start {name}"))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a child without a pid")?;
        interrupt::register(pid);
        let exited = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { name: name.to_owned(), child, pid, exited, log: log.to_owned() })
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The descriptor that becomes readable when it exits.
    #[must_use]
    pub fn exited(&self) -> &OwnedFd {
        &self.exited
    }

    /// Its exit status, if it has exited.
    ///
    /// # Errors
    /// When the kernel does not know the child.
    pub fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// The end of what it printed.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log, 20)
    }

    /// Asks it to end, and kills it when it has not at the deadline.
    ///
    /// # Errors
    /// When the kernel does not know the child.
    pub fn stop(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        let _ = pidfd_send_signal(&self.exited, Signal::TERM);
        if !wait_readable(&[&self.exited], Instant::now() + patience)? {
            tracing::warn!("{} did not end within {patience:?} and is killed", self.name);
        }
        self.kill()
    }

    /// `kill -9`, and waits until it has gone.
    ///
    /// # Errors
    /// When the kernel does not know the child.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        interrupt::unregister(self.pid);
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Starts a command from a thread that lives as long as the lab: the kernel takes the end of the *thread*
/// that forked for the end of the parent.
fn spawn(command: Command) -> io::Result<Child> {
    type Job = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::spawn(move || {
            while let Ok((mut command, answer)) = jobs.recv() {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (answer, spawned) = channel();
    let gone = |_| io::Error::other("the thread that starts processes has gone");
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).map_err(|_| gone(()))?;
    spawned.recv().map_err(|_| gone(()))?
}

/// Waits until one of the descriptors is readable; false at the deadline.
///
/// # Errors
/// What `poll` says.
pub fn wait_readable(fds: &[&OwnedFd], deadline: Instant) -> io::Result<bool> {
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The last lines of a text file, whatever bytes are in it.
#[must_use]
pub fn tail(file: &Path, lines: usize) -> String {
    let mut bytes = Vec::new();
    let _ = File::open(file).and_then(|mut file| file.read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_printed_as_one_would_type_it() {
        let mut command = Command::new("/opt/qemu");
        command.env("LD_LIBRARY_PATH", "/opt/lib").args(["-append", "console=ttyS0 it's", "-smp", "1", ""]);
        let line = CommandLine::new(&command).to_string();
        assert_eq!(line, r"LD_LIBRARY_PATH=/opt/lib /opt/qemu -append 'console=ttyS0 it'\''s' -smp 1 ''");
    }

    #[test]
    fn the_tail_of_a_file_is_its_last_lines() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("console");
        std::fs::write(&file, b"one\r\ntwo\xff\r\nthree").unwrap();
        assert_eq!(tail(&file, 2), "two\u{fffd}\nthree");
        assert_eq!(tail(&directory.path().join("absent"), 2), "");
    }
}
