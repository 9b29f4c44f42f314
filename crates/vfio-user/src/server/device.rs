//! What a session asks of the device behind it.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::wire::{DeviceInfo, DmaMap, DmaUnmap, IrqIndex, IrqInfo, RegionIndex, SparseArea};

/// The device behind a session. Called on the session's thread, one call at a time, in the order of the
/// messages; a call must not block, since QEMU gives up after 5 s and stalls its guest until then.
///
/// An `Err` reaches the client as an error reply with that errno, or, for a posted message, moves a counter and
/// nothing else.
pub trait Device {
    /// What GET_INFO tells. QEMU wants PCI, 8 to 100 regions and 3 to 50 interrupt types.
    fn device_info(&self) -> DeviceInfo {
        DeviceInfo::PCI_DEFAULT
    }

    /// Size and access of a region below `device_info().regions`; [`Region::ABSENT`] for one it has not.
    ///
    /// Asked for with every access, so it should be cheap. It must not change while a client is attached: QEMU
    /// asks once.
    fn region(&self, index: RegionIndex) -> Region;

    /// The file with which a client may map (parts of) the region. `None`: every access is a message.
    ///
    /// One region of a device that can be mapped makes QEMU wait for the reply to every write to all of them.
    fn mapping(&mut self, index: RegionIndex) -> Option<Mapping<'_>> {
        let _ = index;
        None
    }

    /// Asked after each message: whether its reply has to wait. The session then does nothing until
    /// [`service`](super::ServerSession::service) is called again; the caller sees to it that this is well within 5 s.
    fn hold(&self) -> bool {
        false
    }

    /// Flags and number of vectors of an interrupt type below `device_info().irqs`.
    fn irq_info(&self, index: IrqIndex) -> IrqInfo;

    /// Fills `data` from `offset`. The range is within the region and not empty; it may have any length and
    /// alignment.
    ///
    /// # Errors
    /// An errno for the client. QEMU then gives its guest all ones.
    fn region_read(&mut self, index: RegionIndex, offset: u64, data: &mut [u8]) -> Result<(), Errno>;

    /// Stores `data` at `offset`. The range is within the region and not empty. `posted`: nobody waits.
    ///
    /// # Errors
    /// An errno for the client, unless `posted`.
    fn region_write(
        &mut self,
        index: RegionIndex,
        offset: u64,
        data: &[u8],
        posted: bool,
    ) -> Result<(), Errno>;

    /// Takes note of a range of the client's memory. Without `fd` it cannot be reached directly; this is how
    /// the mapped BARs of other devices arrive, so it is no error.
    ///
    /// # Errors
    /// An errno for the client; QEMU prints it and carries on. The specification wants `EEXIST` for an overlap.
    fn dma_map(&mut self, map: DmaMap, fd: Option<OwnedFd>) -> Result<(), Errno>;

    /// Forgets a range. It must be out of use when this returns.
    ///
    /// # Errors
    /// An errno for the client, such as `ENOENT`.
    fn dma_unmap(&mut self, unmap: DmaUnmap) -> Result<(), Errno>;

    /// Wires up, masks or triggers interrupts. All vectors named are within `irq_info(index).count`.
    ///
    /// # Errors
    /// An errno for the client.
    fn set_irqs(&mut self, index: IrqIndex, change: IrqChange<'_>) -> Result<(), Errno>;

    /// Resets the device. Mappings and eventfds stay: QEMU does not hand them over again.
    ///
    /// # Errors
    /// An errno for the client.
    fn reset(&mut self) -> Result<(), Errno>;
}

/// Size and access of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Length in bytes; 0 if the device has no such region.
    pub size: u64,
    /// REGION_READ is served.
    pub readable: bool,
    /// REGION_WRITE is served.
    pub writeable: bool,
}

impl Region {
    /// A region that the device does not have.
    pub const ABSENT: Self = Self { size: 0, readable: false, writeable: false };

    /// A region of `size` bytes for reading and writing.
    #[must_use]
    pub const fn read_write(size: u64) -> Self {
        Self { size, readable: true, writeable: true }
    }
}

/// How a client may map a region.
#[derive(Debug, Clone, Copy)]
pub struct Mapping<'a> {
    /// The file; the client gets a duplicate.
    pub fd: BorrowedFd<'a>,
    /// Where the region begins in it, in bytes.
    pub fd_offset: u64,
    /// The parts that may be mapped, page-aligned; empty for all of it.
    pub areas: &'a [SparseArea],
}

/// A change to the interrupts of one type.
#[derive(Debug)]
pub enum IrqChange<'a> {
    /// From now on vector `start + n` signals `fds[n]`; earlier eventfds of those vectors are closed.
    Assign {
        /// First vector.
        start: u32,
        /// One eventfd per vector. Only their number has been checked, not what they are.
        fds: Vec<OwnedFd>,
    },
    /// These vectors signal nobody.
    Deassign {
        /// First vector.
        start: u32,
        /// How many.
        count: u32,
    },
    /// No vector of this type signals anybody, and the type is off.
    DisableAll,
    /// Fire.
    Trigger(Vectors<'a>),
    /// Hold back. Only for types whose info says `MASKABLE`.
    Mask(Vectors<'a>),
    /// Let through. Only for types whose info says `MASKABLE`.
    Unmask(Vectors<'a>),
}

/// Some of the vectors of an interrupt type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vectors<'a> {
    pub(crate) start: u32,
    pub(crate) count: u32,
    /// One byte per vector, zero for "not this one"; `None` for all of them.
    pub(crate) chosen: Option<&'a [u8]>,
}

impl<'a> Vectors<'a> {
    /// The numbers of the vectors that are meant, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<'a> {
        let chosen = self.chosen;
        (self.start..self.start.saturating_add(self.count))
            .enumerate()
            .filter(move |(nth, _)| chosen.is_none_or(|bytes| bytes.get(*nth).is_some_and(|byte| *byte != 0)))
            .map(|(_, vector)| vector)
    }
}
