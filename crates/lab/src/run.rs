//! `lab run`: a command in one guest, or in both.

use crate::access::Access;
use crate::channel::{Call, Event, Exec, ExitStatus, Stream, capture};
use crate::options::Side;
use crate::process::quoted;
use anyhow::{Context, bail};
use serde::Serialize;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long loading a module may take.
const MODULE: Duration = Duration::from_secs(60);

/// What to run where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The guests, in order.
    pub guests: Vec<Side>,
    /// Modules to insert first, besides ntb_hw_intel.
    pub modules: Vec<PathBuf>,
    /// The command: one word is a shell line, several are a program and its arguments.
    pub words: Vec<String>,
}

/// How it ended in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Which guest.
    pub guest: &'static str,
    /// The exit status as a shell would have it.
    pub status: u8,
    /// The end in words.
    pub end: String,
    /// Standard output; empty when it went to the terminal as it came.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// Standard error; as above.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stderr: String,
}

impl Request {
    fn exec(&self) -> Exec {
        match self.words.as_slice() {
            [line] => Exec::shell(line),
            words => Exec::argv(words.iter().cloned()),
        }
    }
}

/// Loads the modules, runs the command, and passes its output on as it comes, unless `collect` asks for it.
///
/// # Errors
/// When a module cannot be loaded or a guest is lost.
pub fn run(access: &Access<'_>, request: &Request, collect: bool) -> anyhow::Result<Vec<Outcome>> {
    for side in &request.guests {
        load(access, *side, &request.modules)?;
    }
    let start = |side: &Side| Ok((*side, access.exec(*side, request.exec())?));
    let calls = request.guests.iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
    let alone = calls.len() == 1;
    std::thread::scope(|scope| {
        let threads: Vec<_> = calls
            .into_iter()
            .map(|(side, call)| {
                scope.spawn(move || if collect { gather(side, call) } else { stream(side, call, alone) })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread died"))).collect()
    })
}

fn load(access: &Access<'_>, side: Side, modules: &[PathBuf]) -> anyhow::Result<()> {
    let checked = |exec: Exec, what: &str, input: Option<&[u8]>| -> anyhow::Result<()> {
        let call = access.exec(side, exec)?;
        let writer = call.writer();
        let captured = std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = writer.data(Stream::Stdin, input.unwrap_or_default());
                let _ = writer.end(Stream::Stdin);
            });
            capture(call, Instant::now() + MODULE)
        })?;
        if !captured.status.success() {
            bail!("{what} in guest {side}: {}: {}", captured.status, captured.error_text());
        }
        Ok(())
    };
    checked(Exec::shell("modprobe ntb_hw_intel"), "modprobe ntb_hw_intel", None)?;
    for module in modules {
        let bytes = std::fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
        let at = guest_path(module)?;
        let line = format!("cat > {at} && insmod {at}", at = quoted(&at));
        checked(Exec::shell(line), &format!("insmod {}", module.display()), Some(&bytes))?;
    }
    Ok(())
}

fn guest_path(module: &Path) -> anyhow::Result<String> {
    let name = module.file_name().and_then(|name| name.to_str());
    let name =
        name.with_context(|| format!("{} has no file name that a guest could use", module.display()))?;
    Ok(format!("/tmp/{name}"))
}

fn outcome(side: Side, status: &ExitStatus) -> Outcome {
    Outcome {
        guest: side.name(),
        status: status.shell_code(),
        end: status.to_string(),
        stdout: String::new(),
        stderr: String::new(),
    }
}

fn gather(side: Side, call: Call) -> anyhow::Result<Outcome> {
    call.writer().end(Stream::Stdin)?;
    // As long as it takes: the user has ^C.
    let far = Instant::now() + Duration::from_secs(60 * 60 * 24 * 365);
    let captured = capture(call, far)?;
    let mut outcome = outcome(side, &captured.status);
    outcome.stdout = captured.text();
    outcome.stderr = String::from_utf8_lossy(&captured.stderr).into_owned();
    Ok(outcome)
}

/// Passes output on: as it comes for one guest, in lines with the guest's letter for two.
fn stream(side: Side, mut call: Call, alone: bool) -> anyhow::Result<Outcome> {
    let writer = call.writer();
    if alone {
        std::thread::spawn(move || {
            let mut chunk = vec![0; 16 * 1024];
            while let Ok(count @ 1..) = io::stdin().read(&mut chunk) {
                if writer.data(Stream::Stdin, &chunk[..count]).is_err() {
                    return;
                }
            }
            let _ = writer.end(Stream::Stdin);
        });
    } else {
        writer.end(Stream::Stdin)?;
    }
    let mut lines = [Vec::new(), Vec::new()];
    loop {
        match call.next_event() {
            Event::Data(stream, bytes) => {
                let is_error = stream == Stream::Stderr;
                if alone {
                    put(is_error, &bytes)?;
                    continue;
                }
                let line = &mut lines[usize::from(is_error)];
                line.extend_from_slice(&bytes);
                while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                    let rest = line.split_off(end + 1);
                    let whole = std::mem::replace(line, rest);
                    put(is_error, &[format!("{side}: ").as_bytes(), &whole].concat())?;
                }
            }
            Event::Exit(status) => {
                for (is_error, line) in [(false, &lines[0]), (true, &lines[1])] {
                    if !line.is_empty() {
                        put(is_error, &[format!("{side}: ").as_bytes(), line, b"\n"].concat())?;
                    }
                }
                return Ok(outcome(side, &status));
            }
            Event::Cancel => bail!("guest {side} has gone"),
            Event::End(_) | Event::Signal(_) | Event::Resize(..) => {}
        }
    }
}

fn put(is_error: bool, bytes: &[u8]) -> io::Result<()> {
    if is_error {
        io::stderr().write_all(bytes)
    } else {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Program;

    #[test]
    fn one_word_is_a_line_and_several_are_a_program() {
        let request = |words: &[&str]| Request {
            guests: vec![Side::A],
            modules: Vec::new(),
            words: words.iter().map(|&word| word.to_owned()).collect(),
        };
        assert_eq!(request(&["dmesg | tail"]).exec().program, Program::Shell("dmesg | tail".to_owned()));
        let program = request(&["echo", "a b"]).exec().program;
        assert_eq!(program, Program::Argv(vec!["echo".to_owned(), "a b".to_owned()]));
    }

    #[test]
    fn a_module_goes_to_a_place_of_its_name() {
        assert_eq!(guest_path(Path::new("/x/my.ko")).unwrap(), "/tmp/my.ko");
        assert!(guest_path(Path::new("..")).is_err());
    }
}
