//! `isthmus lab exec-child`: what a child does to itself before it becomes the program.
//!
//! Between fork and exec only async-signal-safe code may run, which needs `unsafe`; a program that prepares
//! itself and then replaces itself does not.

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `--die-with PID`: be killed when that parent's spawning thread ends. `--terminal`: lead a session whose
/// terminal is standard input; `--session`: lead one without. `--env NAME=VALUE`: environment for the program and
/// not for this one, into which a preload object must not go. Then `--` and the command.
///
/// # Errors
/// When a preparation fails or the program cannot be started; on success it does not return.
pub fn main(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let mut args = args.into_iter();
    let mut environment = Vec::new();
    loop {
        let word = args.next().context("exec-child: no command")?;
        match word.to_str() {
            Some("--die-with") => {
                let pid = args.next().and_then(|pid| pid.to_str()?.parse().ok()).and_then(Pid::from_raw);
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // A parent that died before the line above sends no signal any more.
                if rustix::process::getppid() != pid {
                    bail!("exec-child: the lab has gone");
                }
            }
            Some("--session") => drop(rustix::process::setsid()?),
            Some("--terminal") => {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            }
            Some("--env") => {
                let pair = args.next().context("exec-child: --env without NAME=VALUE")?;
                let (name, value) =
                    split(&pair).with_context(|| format!("exec-child: {pair:?} sets nothing"))?;
                environment.push((name.to_owned(), value.to_owned()));
            }
            Some("--") => break,
            _ => bail!("exec-child: what is {word:?}?"),
        }
    }
    let program = args.next().context("exec-child: no command")?;
    let error = Command::new(&program).args(args).envs(environment).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

/// The word that [`main`] takes after `--env`.
pub(super) fn join(name: &OsStr, value: &OsStr) -> OsString {
    let mut pair = name.to_owned();
    pair.push("=");
    pair.push(value);
    pair
}

fn split(pair: &OsStr) -> Option<(&OsStr, &OsStr)> {
    let bytes = pair.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=')?;
    Some((OsStr::from_bytes(bytes.get(..at)?), OsStr::from_bytes(bytes.get(at + 1..)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_goes_through_one_word() {
        let word = join(OsStr::new("A"), OsStr::new("b=c d"));
        assert_eq!(split(&word), Some((OsStr::new("A"), OsStr::new("b=c d"))));
        assert_eq!(split(OsStr::new("A")), None);
    }
}
