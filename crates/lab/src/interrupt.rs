//! SIGINT, SIGTERM and SIGHUP: the lab's children go first, then everything that waits for them gives up.

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::HashSet;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

static GROUPS: OnceLock<Mutex<HashSet<Pid>>> = OnceLock::new();
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn groups() -> std::sync::MutexGuard<'static, HashSet<Pid>> {
    GROUPS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Process groups that a signal takes along.
pub(crate) fn register(group: Pid) {
    groups().insert(group);
}

/// A group that has ended.
pub(crate) fn unregister(group: Pid) {
    groups().remove(&group);
}

/// Whether a signal has come.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Handles the signals from now on: the first one ends the children, whose ends then end the run in order
/// (the run directory is removed); the second one ends the lab at once.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn install() -> io::Result<()> {
    let (mut reader, writer) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let second = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&second))?;
        signal_hook::flag::register(signal, second)?;
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    std::thread::spawn(move || {
        let mut byte = [0];
        while let Ok(1) = reader.read(&mut byte) {
            INTERRUPTED.store(true, Ordering::Relaxed);
            for group in groups().iter() {
                let _ = kill_process_group(*group, Signal::KILL);
            }
        }
    });
    Ok(())
}
