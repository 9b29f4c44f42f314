//! SIGTERM and SIGINT as a descriptor to wait on.

use std::io;
use std::os::unix::net::UnixStream;

/// A descriptor that becomes readable when this process should end.
pub(crate) fn on_signal() -> io::Result<UnixStream> {
    let (stop, on_signal) = UnixStream::pair()?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::low_level::pipe::register(signal, on_signal.try_clone()?)?;
    }
    Ok(stop)
}
