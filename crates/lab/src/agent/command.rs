//! Runs one command in the guest and carries its streams.

use super::SELF;
use crate::channel::{Call, CallWriter, Event, Exec, ExitStatus, Program, Stream, refuse};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// The search path of every command.
pub(super) const PATH: &str = "/isthmus/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a pipe holds, and so the most that a command that has exited may have left in one.
const PIPE_BYTES: usize = 64 * 1024;

/// Runs a request to its end.
pub(super) fn run(request: &Exec, call: Call) {
    match start(request) {
        Ok(started) => {
            let writer = call.writer();
            if let Err(error) = carry(started, &writer, call) {
                writer.exit(&ExitStatus::Lost(error.to_string()));
            }
        }
        Err(error) => {
            let name = words(request).into_iter().next().unwrap_or_default();
            refuse(&call, &format!("{name}: {error}"));
        }
    }
}

struct Started {
    child: Child,
    input: Option<File>,
    outputs: Vec<(Stream, File)>,
    /// The master of its terminal, for resizing.
    terminal: Option<OwnedFd>,
}

/// The shell that an `ssh` to this guest would find: bash where there is one. A busybox shell has commands of
/// its own under the names of others, `modprobe` for one.
fn shell() -> &'static str {
    if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" }
}

fn words(request: &Exec) -> Vec<String> {
    match &request.program {
        Program::Shell(line) => vec![shell().to_owned(), "-c".to_owned(), line.clone()],
        Program::Argv(words) => words.clone(),
    }
}

fn start(request: &Exec) -> io::Result<Started> {
    let words = words(request);
    let (program, rest) =
        words.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command"))?;
    let mut command = if request.terminal.is_some() {
        let mut command = Command::new(SELF);
        command.args(["lab", "exec-child", "--terminal", "--", program]);
        command
    } else {
        let mut command = Command::new(program);
        command.process_group(0);
        command
    };
    command.args(rest).current_dir("/root").env("PATH", PATH).env("HOME", "/root").env("USER", "root");
    if !Path::new("/root").is_dir() {
        command.current_dir("/");
    }
    for (name, value) in &request.env {
        command.env(name, value);
    }
    let Some((rows, columns)) = request.terminal else {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().map(OwnedFd::from).map(File::from);
        let mut outputs = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            outputs.push((Stream::Stdout, File::from(OwnedFd::from(pipe))));
        }
        if let Some(pipe) = child.stderr.take() {
            outputs.push((Stream::Stderr, File::from(OwnedFd::from(pipe))));
        }
        return Ok(Started { child, input, outputs, terminal: None });
    };
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let name = String::from_utf8_lossy(name.as_bytes()).into_owned();
    let slave = File::options().read(true).write(true).open(name)?;
    tcsetwinsize(&master, size(rows, columns))?;
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    let child = command.spawn()?;
    let output = File::from(master.try_clone()?);
    Ok(Started {
        child,
        input: Some(File::from(master.try_clone()?)),
        outputs: vec![(Stream::Stdout, output)],
        terminal: Some(master),
    })
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn carry(started: Started, writer: &CallWriter, mut call: Call) -> io::Result<()> {
    let Started { mut child, input, outputs, terminal } = started;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("a child without a pid"))?;
    let exited = pidfd_open(pid, PidfdFlags::empty())?;
    call.grant_by_hand();
    let (to_input, input_bytes) = channel::<Vec<u8>>();
    let granter = writer.clone();
    let is_terminal = terminal.is_some();
    std::thread::spawn(move || feed(input, &input_bytes, &granter, is_terminal));
    // Ends with the call: `exit` below takes it out of the table.
    std::thread::spawn(move || {
        loop {
            match call.next_event() {
                Event::Data(_, bytes) => drop(to_input.send(bytes)),
                Event::End(_) => drop(to_input.send(Vec::new())),
                Event::Signal(number) => {
                    if let Some(signal) = Signal::from_named_raw(number) {
                        let _ = kill_process_group(pid, signal);
                    }
                }
                Event::Resize(rows, columns) => {
                    if let Some(terminal) = &terminal {
                        let _ = tcsetwinsize(terminal, size(rows, columns));
                    }
                }
                Event::Exit(_) => return,
                Event::Cancel => {
                    let _ = kill_process_group(pid, Signal::KILL);
                    return;
                }
            }
        }
    });
    std::thread::scope(|scope| {
        for (stream, output) in outputs {
            let exited = &exited;
            scope.spawn(move || pump(output, exited, writer, stream));
        }
    });
    let status = child.wait()?;
    let status = match (status.code(), status.signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, signal) => ExitStatus::Signal(signal.unwrap_or(0)),
    };
    writer.exit(&status);
    Ok(())
}

/// Passes what comes to the command's standard input.
fn feed(input: Option<File>, bytes: &Receiver<Vec<u8>>, granter: &CallWriter, is_terminal: bool) {
    let Some(mut input) = input else { return };
    let mut wanted = true;
    while let Ok(bytes) = bytes.recv() {
        if bytes.is_empty() {
            if is_terminal {
                // End of transmission: what a terminal has in place of a closed pipe.
                let _ = input.write_all(&[4]);
                continue;
            }
            return;
        }
        // A command that does not read any more is nothing to complain about; the sender goes on.
        wanted = wanted && input.write_all(&bytes).is_ok();
        granter.grant(Stream::Stdin, bytes.len());
    }
}

/// Passes what the command prints, until the stream ends, or the command has exited and what it left in the
/// stream is read: whatever it started in the background may hold the stream open for ever.
fn pump(mut output: File, exited: &OwnedFd, writer: &CallWriter, stream: Stream) {
    let mut chunk = vec![0; 16 * 1024];
    let mut after_exit = 0;
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(exited.as_fd(), PollFlags::IN),
        ];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let (readable, dead) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if (dead && !readable) || after_exit >= PIPE_BYTES {
            break;
        }
        if !readable {
            continue;
        }
        match output.read(&mut chunk) {
            // A terminal whose last user has gone fails with EIO.
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if dead {
                    after_exit += count;
                }
                if writer.data(stream, &chunk[..count]).is_err() {
                    break;
                }
            }
        }
    }
    let _ = writer.end(stream);
}
