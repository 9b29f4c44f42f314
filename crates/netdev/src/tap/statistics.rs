//! What the kernel counts of an interface: `/proc/self/net/dev`, which is that of the caller's network namespace
//! (`/sys/class/net` is that of whoever mounted it).

use std::io;

/// The kernel's counters of an interface. From the kernel's side: what a TAP *sends* is what its reader takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Frames that the kernel received: those that were written into the TAP.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that were written into the TAP and then thrown away.
    pub rx_dropped: u64,
    /// Frames that were written into the TAP and were no frames to the kernel.
    pub rx_errors: u64,
    /// Frames that the kernel sent: those that were read from the TAP.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that the kernel threw away because the reader of the TAP was not quick enough, or there was none.
    pub tx_dropped: u64,
}

/// The counters of the interface of this name in the caller's network namespace.
///
/// # Errors
/// When there is no such interface, or the file cannot be read.
pub fn statistics(name: &str) -> io::Result<Statistics> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    parse(&text, name).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface {name}")))
}

/// Finds `  name: 16 numbers` (`dev_seq_printf_stats`, net/core/net-procfs.c).
fn parse(text: &str, name: &str) -> Option<Statistics> {
    let numbers = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    let mut numbers = numbers.split_ascii_whitespace().map(|number| number.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    let (rx_bytes, rx_frames, rx_errors, rx_dropped) = (next()?, next()?, next()?, next()?);
    // fifo, frame, compressed, multicast
    for _ in 0..4 {
        next()?;
    }
    let (tx_bytes, tx_frames, _tx_errors, tx_dropped) = (next()?, next()?, next()?, next()?);
    Some(Statistics { rx_frames, rx_bytes, rx_dropped, rx_errors, tx_frames, tx_bytes, tx_dropped })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
  ntb0: 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116
 ntb01: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
";

    #[test]
    fn the_line_of_the_interface_is_found() {
        let statistics = parse(TEXT, "ntb0").unwrap();
        let expected = Statistics {
            rx_frames: 102,
            rx_bytes: 101,
            rx_dropped: 104,
            rx_errors: 103,
            tx_frames: 110,
            tx_bytes: 109,
            tx_dropped: 112,
        };
        assert_eq!(statistics, expected);
        assert_eq!(parse(TEXT, "ntb"), None);
        assert_eq!(parse("  ntb0: 1 2 3", "ntb0"), None, "a line that is cut");
    }

    #[test]
    fn every_namespace_has_a_loopback() {
        assert!(statistics("lo").is_ok());
        assert_eq!(statistics("no-such-iface").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
