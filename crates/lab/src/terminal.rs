//! A guest's shell on this terminal.

use crate::access::Access;
use crate::channel::{Event, Exec, ExitStatus, Program, Stream, Target};
use crate::options::Side;
use anyhow::{Context, bail};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::SIGWINCH;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// The terminal in raw mode, until dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Runs an interactive shell in a guest until it ends.
///
/// # Errors
/// When standard input is no terminal, or the guest is lost.
pub fn shell(access: &Access<'_>, side: Side) -> anyhow::Result<ExitStatus> {
    if !isatty(io::stdin()) {
        bail!("lab shell needs a terminal; for scripts there is `isthmus lab run --guest {side} -- CMD`");
    }
    let size = || tcgetwinsize(io::stdin()).map(|size| (size.ws_row, size.ws_col));
    let term = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
    let request = Exec {
        target: Target::Here,
        program: Program::Shell("exec $(command -v bash || echo sh) -i".to_owned()),
        terminal: Some(size().context("the terminal has no size")?),
        env: vec![("TERM".to_owned(), term), ("PS1".to_owned(), format!("guest {side}:\\w# "))],
    };
    let mut call = access.exec(side, request)?;
    let (mut resized, tell_resized) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGWINCH, tell_resized)?;
    let raw = Raw::new()?;
    let writer = call.writer();
    std::thread::spawn(move || {
        let mut byte = [0];
        while let Ok(1) = resized.read(&mut byte) {
            if let Ok((rows, columns)) = size() {
                let _ = writer.resize(rows, columns);
            }
        }
    });
    let writer = call.writer();
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = io::stdin().read(&mut chunk) {
            if writer.data(Stream::Stdin, &chunk[..count]).is_err() {
                return;
            }
        }
    });
    let status = loop {
        match call.next_event() {
            Event::Data(_, bytes) => {
                io::stdout().write_all(&bytes)?;
                io::stdout().flush()?;
            }
            Event::Exit(status) => break status,
            Event::Cancel => break ExitStatus::Lost("the guest has gone".to_owned()),
            Event::End(_) | Event::Signal(_) | Event::Resize(..) => {}
        }
    };
    drop(raw);
    Ok(status)
}
