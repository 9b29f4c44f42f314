//! The wire format: bytes to typed values and back. No I/O, no file descriptors, no state.
//!
//! Numbers are little-endian (the specification says "endianness of the host"; the hosts here are x86 and
//! little-endian ARM). A parser never copies data and never panics; what it returns has been checked for
//! everything that the bytes alone can tell.
//!
//! Source: the vfio-user specification (QEMU, `docs/interop/vfio-user.rst`), protocol 0.0.

mod fault;
mod header;
mod layout;
mod reply;
mod request;
mod types;
mod version;

#[cfg(test)]
mod tests;

pub use fault::{Fault, FaultKind};
pub use header::{
    Command, Flags, HEADER_BYTES, Header, MAX_DATA_BYTES, MAX_MESSAGE_BYTES, MAX_MESSAGE_FDS, MessageId,
};
pub use reply::{RegionAnswer, RegionReply, Reply, answer, emit_error, emit_read_head};
pub use request::{IrqAction, IrqData, Record, Records, Request, SetIrqs, emit_write_multi};
pub use types::{
    DeviceInfo, DmaAddr, DmaMap, DmaUnmap, IrqIndex, IrqInfo, RegionIndex, SparseArea, irq_flags,
    region_flags,
};
pub use version::{Capabilities, MAJOR, MINOR, Migration, server_data};
