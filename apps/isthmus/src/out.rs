//! Stdout, for results. Who reads it may stop (`| head`), and a service must not end for that: what nobody reads is left unsaid.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Writes a line to stdout.
macro_rules! say {
    ($($what:tt)*) => { $crate::out::write(format_args!("{}\n", format_args!($($what)*))) };
}
pub(crate) use say;

static NOBODY: AtomicBool = AtomicBool::new(false);

/// Writes what is formatted, and lets it out: whoever waits for a line of a service waits for all of it.
pub(crate) fn write(what: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_fmt(what).and_then(|()| out.flush()) {
        NOBODY.store(true, Ordering::Relaxed);
        tracing::debug!(%error, "nobody reads stdout");
    }
}

/// Whether all that was written could be: who only writes may end if not.
pub(crate) fn is_read() -> bool {
    !NOBODY.load(Ordering::Relaxed)
}
