//! `isthmus lab exec-child`: what a child does to itself before it becomes the program.
//!
//! Between fork and exec only async-signal-safe code may run, which needs `unsafe`; a program that prepares
//! itself and then replaces itself does not.

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `--die-with PID`: be killed when that parent's spawning thread ends. `--terminal`: lead a session whose
/// terminal is standard input; `--session`: lead one without. Then `--` and the command.
///
/// # Errors
/// When a preparation fails or the program cannot be started; on success it does not return.
pub fn main(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let mut args = args.into_iter();
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
            Some("--") => break,
            _ => bail!("exec-child: what is {word:?}?"),
        }
    }
    let program = args.next().context("exec-child: no command")?;
    let error = Command::new(&program).args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
