//! The bodies of messages, byte for byte. Nothing here is public: [`Request`](super::Request) and the reply
//! functions are.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident [$bytes:literal] { $($field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $ty),* }
        const _: () = assert!(size_of::<$name>() == $bytes);
    )*};
}

bodies! {
    /// VERSION, before its JSON.
    VersionBody [4] { major: U16, minor: U16 }
    /// DMA_MAP.
    DmaMapBody [32] { argsz: U32, flags: U32, fd_offset: U64, iova: U64, size: U64 }
    /// DMA_UNMAP, request and reply.
    DmaUnmapBody [24] { argsz: U32, flags: U32, iova: U64, size: U64 }
    /// DEVICE_GET_INFO, request and reply.
    InfoBody [16] { argsz: U32, flags: U32, regions: U32, irqs: U32 }
    /// DEVICE_GET_REGION_INFO, request and reply. `linux/vfio.h`, `struct vfio_region_info`.
    RegionInfoBody [32] { argsz: U32, flags: U32, index: U32, cap_offset: U32, size: U64, offset: U64 }
    /// The sparse mmap capability, before its areas. `linux/vfio.h`, `struct vfio_region_info_cap_sparse_mmap`.
    SparseCap [16] { id: U16, version: U16, next: U32, areas: U32, reserved: U32 }
    /// One area of it.
    SparseAreaBody [16] { offset: U64, size: U64 }
    /// DEVICE_GET_IRQ_INFO, request and reply.
    IrqInfoBody [16] { argsz: U32, flags: U32, index: U32, count: U32 }
    /// DEVICE_SET_IRQS, before its data.
    SetIrqsBody [20] { argsz: U32, flags: U32, index: U32, start: U32, count: U32 }
    /// REGION_READ, REGION_WRITE and the front of their replies.
    AccessBody [16] { offset: U64, region: U32, count: U32 }
    /// REGION_WRITE_MULTI, before its records, and its reply.
    MultiBody [8] { records: U64 }
    /// One record of it.
    MultiRecordBody [24] { offset: U64, region: U32, count: U32, data: [u8; 8] }
}

/// `VFIO_REGION_INFO_CAP_SPARSE_MMAP`.
pub(crate) const CAP_SPARSE_MMAP: u16 = 1;
/// `VFIO_DMA_UNMAP_FLAG_ALL`.
pub(crate) const UNMAP_ALL: u32 = 2;

/// SET_IRQS flags. `linux/vfio.h`, `VFIO_IRQ_SET_*`.
pub(crate) mod irq_set {
    pub(crate) const DATA_NONE: u32 = 1;
    pub(crate) const DATA_BOOL: u32 = 2;
    pub(crate) const DATA_EVENTFD: u32 = 4;
    pub(crate) const MASK: u32 = 8;
    pub(crate) const UNMASK: u32 = 0x10;
    pub(crate) const TRIGGER: u32 = 0x20;
    pub(crate) const DATA_BITS: u32 = DATA_NONE | DATA_BOOL | DATA_EVENTFD;
    pub(crate) const ACTION_BITS: u32 = MASK | UNMASK | TRIGGER;
}
