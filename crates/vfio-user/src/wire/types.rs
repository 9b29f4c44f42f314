//! Words of the protocol that both directions use: indices, addresses, flag sets.

use std::fmt;

/// Which region of the device. Source: `linux/vfio.h`, `VFIO_PCI_*_REGION_INDEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionIndex(pub u32);

impl RegionIndex {
    /// BAR 0; BAR n is `RegionIndex(n)` for n from 0 to 5.
    pub const BAR0: Self = Self(0);
    /// BAR 1.
    pub const BAR1: Self = Self(1);
    /// BAR 2.
    pub const BAR2: Self = Self(2);
    /// BAR 3.
    pub const BAR3: Self = Self(3);
    /// BAR 4.
    pub const BAR4: Self = Self(4);
    /// BAR 5.
    pub const BAR5: Self = Self(5);
    /// The expansion ROM.
    pub const ROM: Self = Self(6);
    /// PCI configuration space.
    pub const CONFIG: Self = Self(7);
    /// Legacy VGA ranges.
    pub const VGA: Self = Self(8);
}

impl fmt::Display for RegionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n @ 0..=5 => write!(f, "BAR{n}"),
            6 => f.write_str("ROM"),
            7 => f.write_str("config"),
            8 => f.write_str("VGA"),
            n => write!(f, "region {n}"),
        }
    }
}

/// Which interrupt type of the device. Source: `linux/vfio.h`, `VFIO_PCI_*_IRQ_INDEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IrqIndex(pub u32);

impl IrqIndex {
    /// The legacy pin.
    pub const INTX: Self = Self(0);
    /// Message signalled interrupts.
    pub const MSI: Self = Self(1);
    /// MSI-X.
    pub const MSIX: Self = Self(2);
    /// An error of the device; QEMU stops the guest when it is signalled.
    pub const ERR: Self = Self(3);
    /// A request to give the device back.
    pub const REQ: Self = Self(4);
}

impl fmt::Display for IrqIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("INTx"),
            1 => f.write_str("MSI"),
            2 => f.write_str("MSI-X"),
            3 => f.write_str("ERR"),
            4 => f.write_str("REQ"),
            n => write!(f, "irq index {n}"),
        }
    }
}

/// An address as the device sees the client's memory: guest-physical, or an IOVA behind a vIOMMU. In bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DmaAddr(pub u64);

impl fmt::Debug for DmaAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaAddr({:#x})", self.0)
    }
}

impl fmt::Display for DmaAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// One range of the client's memory, offered by DMA_MAP. The parser has checked that it neither is empty nor
/// wraps, in the address space or in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaMap {
    /// First address, in bytes.
    pub iova: DmaAddr,
    /// Length in bytes; never 0.
    pub size: u64,
    /// Where the range begins in the file that came with the message, in bytes.
    pub fd_offset: u64,
    /// The device may read.
    pub readable: bool,
    /// The device may write.
    pub writeable: bool,
}

impl DmaMap {
    /// Flag bit of `readable`.
    pub const READ: u32 = 1;
    /// Flag bit of `writeable`.
    pub const WRITE: u32 = 2;

    /// The flag word for the wire.
    #[must_use]
    pub const fn flags(&self) -> u32 {
        (if self.readable { Self::READ } else { 0 }) | (if self.writeable { Self::WRITE } else { 0 })
    }
}

/// What DMA_UNMAP withdraws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmaUnmap {
    /// One range, which must equal one that was mapped.
    Range {
        /// First address, in bytes.
        iova: DmaAddr,
        /// Length in bytes; never 0, and the range does not wrap.
        size: u64,
    },
    /// Everything (`VFIO_DMA_UNMAP_FLAG_ALL`).
    All,
}

/// Attributes of the device in GET_INFO's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Flag word: see [`DeviceInfo::RESET`] and [`DeviceInfo::PCI`].
    pub flags: u32,
    /// Number of regions. QEMU wants 8 to 100.
    pub regions: u32,
    /// Number of interrupt types. QEMU wants 3 to 50.
    pub irqs: u32,
}

impl DeviceInfo {
    /// DEVICE_RESET is served.
    pub const RESET: u32 = 1;
    /// It is a PCI device.
    pub const PCI: u32 = 2;
    /// A resettable PCI device with the nine regions and five interrupt types that PCI has in VFIO.
    pub const PCI_DEFAULT: Self = Self { flags: Self::PCI | Self::RESET, regions: 9, irqs: 5 };
}

/// Flag bits of GET_REGION_INFO's reply.
pub mod region_flags {
    /// The client may read.
    pub const READ: u32 = 1;
    /// The client may write.
    pub const WRITE: u32 = 2;
    /// The client may map the file that comes with the reply.
    pub const MMAP: u32 = 4;
    /// A capability chain follows (here: sparse areas).
    pub const CAPS: u32 = 8;
}

/// Flag bits of GET_IRQ_INFO's reply.
pub mod irq_flags {
    /// An eventfd can be assigned.
    pub const EVENTFD: u32 = 1;
    /// MASK and UNMASK are served.
    pub const MASKABLE: u32 = 2;
    /// Masks itself when it fires.
    pub const AUTOMASKED: u32 = 4;
    /// Vectors cannot be added one at a time. Setting it makes QEMU tear down and rebuild all vectors whenever
    /// one more is unmasked.
    pub const NORESIZE: u32 = 8;
}

/// Attributes of one interrupt type in GET_IRQ_INFO's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IrqInfo {
    /// Flag word, see [`irq_flags`].
    pub flags: u32,
    /// How many vectors it has.
    pub count: u32,
}

/// A part of a region that may be mapped. Must be aligned to the host's page size, else QEMU traps the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseArea {
    /// Offset in the region, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
}
