//! The object in QEMU: a constructor that starts one thread.
//!
//! It acts only in a program that was started as `qemu-system-*`, and only if the environment names a twin's control
//! socket ([`CONTROL`]). It takes itself out of `LD_PRELOAD`, so that what QEMU starts does not inherit it. A failure is
//! told on stderr, once, and costs nothing else: the windows are then trapped.

use crate::Overlays;
use crate::agent::Agent;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::thread;

/// The environment variable with the path of the twin's control socket.
pub const CONTROL: &str = "ISTHMUS_OVERLAY";

/// How this object's file name begins.
const OBJECT: &[u8] = b"libisthmus_overlay";

// The loader calls what stands in this section, once, with arguments that this function does not take; before
// `main`, when the program has one thread.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = construct;

extern "C" fn construct() {
    if !is_qemu() || std::env::var_os(CONTROL).is_none() {
        return;
    }
    leave_preload();
    // SAFETY: the handler is a function of this object, which is never unloaded.
    let registered = unsafe { libc::pthread_atfork(None, None, Some(after_fork)) };
    if registered == 0 {
        start();
    }
}

/// A fork has none of our threads. QEMU forks to become a daemon, and goes on in the child: there it starts anew. Any other
/// child is about to become another program.
extern "C" fn after_fork() {
    if std::env::args_os().any(|argument| argument == "-daemonize" || argument == "--daemonize") {
        start();
    }
}

fn start() {
    let Some(control) = std::env::var_os(CONTROL) else { return };
    // Here, not in the thread: the twin knows of us before QEMU asks it for its regions.
    let begun = Agent::connect(Path::new(&control)).map_err(|error| error.to_string()).and_then(|agent| {
        let mut overlays = Overlays::new().map_err(|error| error.to_string())?;
        let body = move || agent.run(&mut overlays);
        without_signals(|| thread::Builder::new().name("isthmus overlay".into()).spawn(body))
            .map_err(|error| error.to_string())
    });
    if let Err(why) = begun {
        tell(&format!("isthmus overlay: {why} ({}); windows will be trapped\n", control.to_string_lossy()));
    }
}

/// Starts a thread that takes none of the program's signals. QEMU blocks those that it waits for in every thread of its own; in
/// ours, which is there before, they would do what they do by default, and end QEMU.
fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: it fills the set that it is given.
    let filled = unsafe { libc::sigfillset(all.as_mut_ptr()) } == 0;
    // SAFETY: the first set is filled if it comes to this; the second is written.
    let blocked =
        filled && unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) } == 0;
    let started = start();
    if blocked {
        // SAFETY: written by the call before, which succeeded.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    started
}

/// Whether the program is a QEMU, by the name that it was started with; a private root's loader has it among its
/// arguments.
fn is_qemu() -> bool {
    std::fs::read("/proc/self/cmdline").is_ok_and(|line| {
        line.split(|&byte| byte == 0).take(16).any(|argument| {
            let name = argument.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
            name.starts_with(b"qemu-system-")
        })
    })
}

fn leave_preload() {
    const PRELOAD: &str = "LD_PRELOAD";
    let Some(list) = std::env::var_os(PRELOAD) else { return };
    let ours =
        |entry: &[u8]| entry.rsplit(|&byte| byte == b'/').next().unwrap_or_default().starts_with(OBJECT);
    let mut left = OsString::new();
    for entry in list.as_bytes().split(|&byte| byte == b':' || byte == b' ') {
        if !entry.is_empty() && !ours(entry) {
            if !left.is_empty() {
                left.push(":");
            }
            left.push(OsStr::from_bytes(entry));
        }
    }
    if left.is_empty() {
        // SAFETY: the program has one thread yet: this is its loader calling.
        unsafe { std::env::remove_var(PRELOAD) };
    } else {
        // SAFETY: the same.
        unsafe { std::env::set_var(PRELOAD, left) };
    }
}

/// To stderr, whatever state the program is in.
fn tell(text: &str) {
    // A program that has closed its stderr does not want to know.
    drop(std::io::stderr().write_all(text.as_bytes()));
}
