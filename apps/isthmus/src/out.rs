//! Stdout, for results, and stderr, for what happens. Who reads them may stop (`| head`), and nothing must end for that: what nobody reads is
//! left unsaid. Results that cannot be written for another reason (a full disk) are a failure of the command.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Writes a line to stdout.
macro_rules! say {
    ($($what:tt)*) => { $crate::out::write(format_args!("{}\n", format_args!($($what)*))) };
}
pub(crate) use say;

/// Writes a line to stderr.
macro_rules! note {
    ($($what:tt)*) => { $crate::out::write_note(format_args!("{}\n", format_args!($($what)*))) };
}
pub(crate) use note;

static NOBODY: AtomicBool = AtomicBool::new(false);
static FAILED: AtomicBool = AtomicBool::new(false);

/// Writes what is formatted, and lets it out: whoever waits for a line of a service waits for all of it.
pub(crate) fn write(what: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_fmt(what).and_then(|()| out.flush()) {
        NOBODY.store(true, Ordering::Relaxed);
        if error.kind() == ErrorKind::BrokenPipe {
            tracing::debug!(%error, "nobody reads stdout");
        } else if !FAILED.swap(true, Ordering::Relaxed) {
            note!("isthmus: stdout cannot be written: {error}");
        }
    }
}

/// As `eprintln!`, which panics when nobody reads.
pub(crate) fn write_note(what: fmt::Arguments<'_>) {
    if let Err(error) = io::stderr().lock().write_fmt(what) {
        tracing::debug!(%error, "nobody reads stderr");
    }
}

/// Whether all that was written could be: who only writes may end if not.
pub(crate) fn is_read() -> bool {
    !NOBODY.load(Ordering::Relaxed)
}

/// Whether results were lost, though there was somebody to read them.
pub(crate) fn has_failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}
