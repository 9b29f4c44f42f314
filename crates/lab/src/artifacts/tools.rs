//! Programs of the host: whether they are there, and running them with their output kept.
//!
//! Every child's standard error, and standard output where nobody reads it, goes to one log file in the
//! cache. A failure quotes the end of what that command wrote and names the file.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use super::error::SetupError;

/// `PATH` for every child: apt, chroot and unshare live in `sbin` on some machines, which an ordinary user lacks.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Program, and the Debian package that has it.
const REQUIRED: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("chroot", "coreutils"),
    ("dpkg-deb", "dpkg"),
    ("mount", "mount"),
    ("tar", "tar"),
    ("unshare", "util-linux"),
    ("xz", "xz-utils"),
];

/// Lines of a failed command's output that an error quotes.
const TAIL_LINES: usize = 15;
/// Bytes of it that are read to find those lines.
const TAIL_BYTES: u64 = 16 << 10;

/// Checks that this is a machine to build on, and that every program that a build needs is on [`PATH`].
pub(crate) fn check_host() -> Result<(), SetupError> {
    if !cfg!(target_arch = "x86_64") {
        return Err(SetupError::WrongMachine);
    }
    let absent: Vec<_> = REQUIRED.iter().filter(|(tool, _)| find(tool).is_none()).copied().collect();
    if absent.is_empty() {
        return Ok(());
    }
    let (tools, packages) = absent.into_iter().unzip();
    Err(SetupError::MissingTools { tools, packages })
}

/// Where a program is on [`PATH`].
pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    PATH.split(':').map(|directory| Path::new(directory).join(tool)).find(|path| path.is_file())
}

/// A command with the fixed `PATH` and the C locale, so that its output can be read by a program.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", PATH).env("LC_ALL", "C").env_remove("APT_CONFIG").stdin(Stdio::null());
    command
}

/// The log file of all children.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
}

impl Log {
    /// Starts an empty log.
    pub(crate) fn create(path: PathBuf) -> Result<Self, SetupError> {
        File::create(&path).map_err(SetupError::io("create", &path))?;
        Ok(Self { path })
    }

    fn append(&self) -> Result<File, SetupError> {
        OpenOptions::new().append(true).open(&self.path).map_err(SetupError::io("append to", &self.path))
    }

    /// How long the log is: the mark from which [`Log::tail`] reads.
    fn mark(&self) -> u64 {
        self.path.metadata().map_or(0, |metadata| metadata.len())
    }

    /// The last lines written after `mark`; empty if the log cannot be read, for an error is already on its way.
    fn tail(&self, mark: u64) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.path)?;
            let from = mark.max(file.metadata()?.len().saturating_sub(TAIL_BYTES));
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(TAIL_LINES);
        lines.get(first..).unwrap_or_default().join("\n")
    }

    /// Runs a command to its end with all output in the log.
    pub(crate) fn run(&self, what: &str, command: &mut Command) -> Result<(), SetupError> {
        command.stdout(self.append()?);
        self.stream(what, command, |_| {})
    }

    /// Runs a command and returns what it wrote to standard output.
    pub(crate) fn output(&self, what: &str, command: &mut Command) -> Result<String, SetupError> {
        let mut text = String::new();
        command.stdout(Stdio::piped());
        self.stream(what, command, |line| {
            text.push_str(line);
            text.push('\n');
        })?;
        Ok(text)
    }

    /// Runs a command and hands each line of its standard output (if piped) to `each` as it comes.
    pub(crate) fn stream(
        &self,
        what: &str,
        command: &mut Command,
        mut each: impl FnMut(&str),
    ) -> Result<(), SetupError> {
        let mark = self.mark();
        let mut child = self.spawn(command)?;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                each(&String::from_utf8_lossy(&line));
            }
        }
        self.finish(what, command, child, mark)
    }

    /// Runs commands with each one's standard output as the next one's standard input; all must succeed.
    pub(crate) fn pipeline(&self, what: &str, commands: &mut [Command]) -> Result<(), SetupError> {
        let mark = self.mark();
        let mut children = Vec::new();
        let mut upstream: Option<ChildStdout> = None;
        let last = commands.len().saturating_sub(1);
        for (index, command) in commands.iter_mut().enumerate() {
            if let Some(stdout) = upstream.take() {
                command.stdin(stdout);
            }
            command.stdout(if index == last { self.append()?.into() } else { Stdio::piped() });
            let mut child = self.spawn(command)?;
            upstream = child.stdout.take();
            children.push(child);
            // The parent must not keep the read end that the child now has, or a dead reader goes unnoticed.
            command.stdin(Stdio::null());
        }
        // The last one first: it is the one whose complaint explains the others' broken pipes.
        for (command, child) in commands.iter().zip(children).rev() {
            self.finish(what, command, child, mark)?;
        }
        Ok(())
    }

    fn spawn(&self, command: &mut Command) -> Result<Child, SetupError> {
        tracing::debug!(?command, "running");
        command.stderr(self.append()?);
        command.spawn().map_err(|source| SetupError::Spawn { program: program(command), source })
    }

    fn finish(&self, what: &str, command: &Command, mut child: Child, mark: u64) -> Result<(), SetupError> {
        let status =
            child.wait().map_err(|source| SetupError::Spawn { program: program(command), source })?;
        if status.success() { Ok(()) } else { Err(self.failure(what, command, status, mark)) }
    }

    fn failure(&self, what: &str, command: &Command, status: ExitStatus, mark: u64) -> SetupError {
        SetupError::Command {
            what: what.to_owned(),
            program: program(command),
            status: status.to_string(),
            log: self.path.clone(),
            tail: self.tail(mark),
        }
    }
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, Log) {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::create(directory.path().join("log")).unwrap();
        (directory, log)
    }

    #[test]
    fn a_failure_quotes_only_its_own_output() {
        let (_directory, log) = log();
        log.run("first", command("sh").args(["-c", "echo before >&2"])).unwrap();
        let error = log.run("second", command("sh").args(["-c", "echo after >&2; exit 3"])).unwrap_err();
        let SetupError::Command { tail, status, .. } = error else { panic!("{error}") };
        assert_eq!(tail, "after");
        assert!(status.contains('3'));
    }

    #[test]
    fn a_pipeline_fails_if_its_first_command_fails() {
        let (_directory, log) = log();
        let mut failing = command("sh");
        failing.args(["-c", "exit 4"]);
        let error = log.pipeline("both", &mut [failing, command("cat")]).unwrap_err();
        assert!(matches!(error, SetupError::Command { program, .. } if program == "sh"));
    }

    #[test]
    fn output_is_what_was_printed() {
        let (_directory, log) = log();
        assert_eq!(log.output("printing", command("printf").arg("a\\nb")).unwrap(), "a\nb\n");
    }
}
