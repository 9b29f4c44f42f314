//! `ssh`, as scripts use it to reach the other guest: a shim on the lab's channel, never on the NTB.

use super::SHIM_SOCKET;
use crate::channel::{Event, Exec, ExitStatus, Handler, Mux, Program, Stream, Target, refuse};
use anyhow::{Context, bail};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

/// Options of ssh that have a value, and so hide the word after them.
const WITH_VALUE: &str = "BbcDEeFIiJLlmOopQRSWw";

struct Nobody;

impl Handler for Nobody {
    fn exec(&self, _request: Exec, call: crate::channel::Call) {
        refuse(&call, "an ssh runs no commands for others");
    }
}

pub(super) fn run(args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let args: Vec<String> = args.map(|word| word.to_string_lossy().into_owned()).collect();
    let Some(line) = remote_line(&args) else { bail!("usage: ssh [options] HOST COMMAND..") };
    let stream = UnixStream::connect(SHIM_SOCKET).context("the agent does not answer")?;
    let mux = Mux::start(stream.try_clone()?, stream, false, Arc::new(Nobody));
    let request =
        Exec { target: Target::Peer, program: Program::Shell(line), terminal: None, env: Vec::new() };
    let mut call = mux.exec(&request)?;
    let writer = call.writer();
    std::thread::spawn(move || {
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut chunk) {
            if writer.data(Stream::Stdin, &chunk[..count]).is_err() {
                return;
            }
        }
        let _ = writer.end(Stream::Stdin);
    });
    loop {
        match call.next_event() {
            Event::Data(Stream::Stderr, bytes) => std::io::stderr().write_all(&bytes)?,
            Event::Data(_, bytes) => {
                std::io::stdout().write_all(&bytes)?;
                std::io::stdout().flush()?;
            }
            Event::Exit(status) => {
                if let ExitStatus::Lost(why) = &status {
                    writeln!(std::io::stderr(), "ssh: {why}")?;
                }
                return Ok(ExitCode::from(status.shell_code()));
            }
            Event::End(_) | Event::Signal(_) | Event::Resize(..) | Event::Cancel => {}
        }
    }
}

/// The remote's shell line: options and host skipped, the words after them joined by spaces, as ssh does.
fn remote_line(args: &[String]) -> Option<String> {
    let mut words = args.iter();
    loop {
        let word = words.next()?;
        let Some(letters) = word.strip_prefix('-') else { break };
        if letters == "-" {
            words.next()?;
            break;
        }
        // `-p22` carries its value; `-p 22` takes the next word.
        if letters.len() == 1 && WITH_VALUE.contains(letters) {
            words.next()?;
        }
    }
    let line = words.map(String::as_str).collect::<Vec<_>>().join(" ");
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::remote_line;

    fn line(words: &[&str]) -> Option<String> {
        remote_line(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn host_and_options_are_not_the_command() {
        assert_eq!(line(&["b", "cat", "/x y"]).unwrap(), "cat /x y");
        assert_eq!(
            line(&["-q", "-o", "BatchMode=yes", "-p22", "b", "echo \"-n\" > f"]).unwrap(),
            "echo \"-n\" > f"
        );
        assert_eq!(line(&["--", "b", "true"]).unwrap(), "true");
        assert_eq!(line(&["b"]), None);
        assert_eq!(line(&["-o"]), None);
    }
}
