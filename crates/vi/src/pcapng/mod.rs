//! Capture files: pcapng with nanosecond times and drop counts, written and read.
//!
//! Written here, because of the two crates that could `pcap-file` 2 stores the halves of a statistics block's time in
//! the wrong order and `pcap-parser` allocates for each block. Read by `pcap-parser`, which is fuzzed by the people of
//! Suricata; it reads the older pcap too. What a file says is checked here once more.

mod reader;
#[cfg(all(test, not(loom)))]
mod tests;
mod writer;

pub use reader::{FileFrame, ReadError, Reader};
pub use writer::{Direction, FrameMeta, InterfaceCounts, Writer};

/// The longest frame that is read or written, in bytes: Wireshark's own limit (WTAP_MAX_PACKET_SIZE_STANDARD).
pub const MOST_FRAME_BYTES: usize = 262_144;
/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;
