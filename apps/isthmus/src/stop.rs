//! Signals as descriptors to wait on.

use std::io;
use std::os::unix::net::UnixStream;

/// A descriptor that becomes readable when this process should end.
pub(crate) fn on_signal() -> io::Result<UnixStream> {
    on(&[signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])
}

/// A descriptor that becomes readable with each of these signals, by one byte.
pub(crate) fn on(signals: &[i32]) -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
    }
    Ok(reader)
}
