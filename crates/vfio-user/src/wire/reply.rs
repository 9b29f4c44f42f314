//! Replies: typed values to bytes for a server, bytes to typed values for a client.

use rustix::io::Errno;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::header::{Flags, HEADER_BYTES, Header};
use super::layout::{
    AccessBody, CAP_SPARSE_MMAP, InfoBody, IrqInfoBody, MultiBody, RegionInfoBody, SparseAreaBody, SparseCap,
    VersionBody,
};
use super::request::{access_body, dma_unmap_body, length, message};
use super::types::{DeviceInfo, DmaUnmap, IrqIndex, IrqInfo, RegionIndex, SparseArea, region_flags};

/// What a server says about one region; the file descriptor of a mapping travels beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionReply<'a> {
    /// Which region.
    pub index: RegionIndex,
    /// [`region_flags`] without `CAPS`, which follows from `areas`.
    pub flags: u32,
    /// Length of the region in bytes.
    pub size: u64,
    /// Where the region begins in the file to map, in bytes.
    pub fd_offset: u64,
    /// The parts that may be mapped; empty for no capability, which means the whole region.
    pub areas: &'a [SparseArea],
}

/// A successful reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A bare header: DMA_MAP, SET_IRQS, DEVICE_RESET.
    Done,
    /// VERSION, with JSON and its NUL, or nothing.
    Version {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
        /// JSON with its NUL, or nothing.
        data: &'a [u8],
    },
    /// DMA_UNMAP: the entry that was asked for.
    Unmapped(DmaUnmap),
    /// DEVICE_GET_INFO.
    Info(DeviceInfo),
    /// DEVICE_GET_REGION_INFO, in as much as `argsz` lets through.
    RegionInfo {
        /// The whole answer.
        region: RegionReply<'a>,
        /// How many bytes of body the client has room for.
        room: u32,
    },
    /// DEVICE_GET_IRQ_INFO.
    IrqInfo {
        /// Which type.
        index: IrqIndex,
        /// Its attributes.
        info: IrqInfo,
    },
    /// REGION_WRITE that was not posted.
    Written {
        /// Which region.
        region: RegionIndex,
        /// Where in it, in bytes.
        offset: u64,
        /// How much, in bytes.
        count: u32,
    },
    /// REGION_WRITE_MULTI that was not posted.
    WrittenMulti {
        /// How many records were written.
        records: u64,
    },
}

impl RegionReply<'_> {
    /// Bytes that the whole body needs: what `argsz` says in the reply.
    #[must_use]
    pub fn full_bytes(&self) -> usize {
        let areas = self.areas.len().saturating_mul(size_of::<SparseAreaBody>());
        let cap = if self.areas.is_empty() { 0 } else { size_of::<SparseCap>().saturating_add(areas) };
        size_of::<RegionInfoBody>().saturating_add(cap)
    }

    /// Whether a client with `room` bytes gets the whole body; the file descriptor goes only with that.
    #[must_use]
    pub fn fits(&self, room: u32) -> bool {
        usize::try_from(room).is_ok_and(|room| self.full_bytes() <= room)
    }

    fn body(&self, room: u32) -> Vec<u8> {
        let caps = !self.areas.is_empty();
        let mut out = Vec::with_capacity(self.full_bytes());
        out.extend_from_slice(
            RegionInfoBody {
                argsz: U32::new(length(self.full_bytes())),
                flags: U32::new(self.flags | if caps { region_flags::CAPS } else { 0 }),
                index: U32::new(self.index.0),
                // Even in a short reply that carries no capability: QEMU takes CAPS with offset 0 for an error.
                cap_offset: U32::new(if caps { length(size_of::<RegionInfoBody>()) } else { 0 }),
                size: U64::new(self.size),
                offset: U64::new(self.fd_offset),
            }
            .as_bytes(),
        );
        if caps && self.fits(room) {
            out.extend_from_slice(
                SparseCap {
                    id: U16::new(CAP_SPARSE_MMAP),
                    version: U16::new(1),
                    next: U32::new(0),
                    areas: U32::new(length(self.areas.len())),
                    reserved: U32::new(0),
                }
                .as_bytes(),
            );
            for area in self.areas {
                let area = SparseAreaBody { offset: U64::new(area.offset), size: U64::new(area.size) };
                out.extend_from_slice(area.as_bytes());
            }
        }
        out
    }
}

impl Reply<'_> {
    /// Appends the whole message, in answer to `request`, to `out`.
    pub fn emit(&self, request: &Header, out: &mut Vec<u8>) {
        let mut send = |parts: [&[u8]; 2]| message(request.id(), request.command(), Flags::REPLY, parts, out);
        match *self {
            Self::Done => send([&[], &[]]),
            Self::Version { major, minor, data } => {
                send([VersionBody { major: U16::new(major), minor: U16::new(minor) }.as_bytes(), data]);
            }
            Self::Unmapped(unmap) => send([dma_unmap_body(unmap).as_bytes(), &[]]),
            Self::Info(info) => send([
                InfoBody {
                    argsz: U32::new(length(size_of::<InfoBody>())),
                    flags: U32::new(info.flags),
                    regions: U32::new(info.regions),
                    irqs: U32::new(info.irqs),
                }
                .as_bytes(),
                &[],
            ]),
            Self::RegionInfo { region, room } => send([&region.body(room), &[]]),
            Self::IrqInfo { index, info } => send([
                IrqInfoBody {
                    argsz: U32::new(length(size_of::<IrqInfoBody>())),
                    flags: U32::new(info.flags),
                    index: U32::new(index.0),
                    count: U32::new(info.count),
                }
                .as_bytes(),
                &[],
            ]),
            Self::Written { region, offset, count } => {
                send([access_body(region, offset, count).as_bytes(), &[]]);
            }
            Self::WrittenMulti { records } => {
                send([MultiBody { records: U64::new(records) }.as_bytes(), &[]]);
            }
        }
    }
}

/// Appends an error reply to `request`: a bare header with a real errno.
pub fn emit_error(request: &Header, errno: Errno, out: &mut Vec<u8>) {
    // QEMU takes an error of 0 for success; an `Errno` is 1 to 4095.
    let errno = u32::try_from(errno.raw_os_error()).unwrap_or(5).max(1);
    let header = Header::new(request.id(), request.command(), length(HEADER_BYTES), Flags::ERROR_REPLY);
    out.extend_from_slice(header.with_error(errno).as_bytes());
}

/// Appends the front of a successful reply to a REGION_READ; `count` bytes of data must follow.
pub fn emit_read_head(request: &Header, region: RegionIndex, offset: u64, count: u32, out: &mut Vec<u8>) {
    let size = length(HEADER_BYTES.saturating_add(size_of::<AccessBody>())).saturating_add(count);
    let header = Header::new(request.id(), request.command(), size, Flags::REPLY);
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(access_body(region, offset, count).as_bytes());
}

/// A region as a client hears of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionAnswer {
    /// Bytes that a complete answer needs. More than was asked for: ask again with this `argsz`.
    pub argsz: u32,
    /// Which region.
    pub index: RegionIndex,
    /// See [`region_flags`].
    pub flags: u32,
    /// Length of the region in bytes.
    pub size: u64,
    /// Where the region begins in the file to map, in bytes.
    pub fd_offset: u64,
    /// The parts that may be mapped; empty if the answer has no such capability.
    pub areas: Vec<SparseArea>,
}

/// Readers of reply bodies, for a client. `None` means that the server broke the format.
pub mod answer {
    use super::super::types::DmaAddr;
    use super::super::version::Capabilities;
    use super::{
        AccessBody, CAP_SPARSE_MMAP, DeviceInfo, FromBytes, InfoBody, IrqIndex, IrqInfo, IrqInfoBody,
        MultiBody, RegionAnswer, RegionIndex, RegionInfoBody, SparseArea, SparseAreaBody, SparseCap,
        VersionBody, region_flags,
    };
    use crate::wire::layout::{DmaUnmapBody, UNMAP_ALL};
    use crate::wire::types::DmaUnmap;

    /// VERSION: major, minor, capabilities.
    #[must_use]
    pub fn version(body: &[u8]) -> Option<(u16, u16, Capabilities)> {
        let (version, data) = VersionBody::ref_from_prefix(body).ok()?;
        Some((version.major.get(), version.minor.get(), Capabilities::parse(data).ok()?))
    }

    /// DEVICE_GET_INFO.
    #[must_use]
    pub fn info(body: &[u8]) -> Option<DeviceInfo> {
        let (body, _) = InfoBody::ref_from_prefix(body).ok()?;
        Some(DeviceInfo { flags: body.flags.get(), regions: body.regions.get(), irqs: body.irqs.get() })
    }

    /// DEVICE_GET_REGION_INFO. A capability chain that is cut off by a small `argsz` is no error.
    #[must_use]
    pub fn region_info(body: &[u8]) -> Option<RegionAnswer> {
        let (info, _) = RegionInfoBody::ref_from_prefix(body).ok()?;
        let complete = usize::try_from(info.argsz.get()).ok()? <= body.len();
        let areas = if complete && info.flags.get() & region_flags::CAPS != 0 {
            sparse_areas(body, info.cap_offset.get())?
        } else {
            Vec::new()
        };
        Some(RegionAnswer {
            argsz: info.argsz.get(),
            index: RegionIndex(info.index.get()),
            flags: info.flags.get(),
            size: info.size.get(),
            fd_offset: info.offset.get(),
            areas,
        })
    }

    fn sparse_areas(body: &[u8], first: u32) -> Option<Vec<SparseArea>> {
        let mut at = usize::try_from(first).ok()?;
        let mut areas = Vec::new();
        // Forward only, so a hostile chain ends.
        while at != 0 {
            let (cap, rest) = SparseCap::ref_from_prefix(body.get(at..)?).ok()?;
            if cap.id.get() == CAP_SPARSE_MMAP {
                let count = usize::try_from(cap.areas.get()).ok()?;
                let bytes = rest.get(..count.checked_mul(size_of::<SparseAreaBody>())?)?;
                let found = <[SparseAreaBody]>::ref_from_bytes(bytes).ok()?;
                areas.extend(
                    found.iter().map(|area| SparseArea { offset: area.offset.get(), size: area.size.get() }),
                );
            }
            let next = usize::try_from(cap.next.get()).ok()?;
            if next != 0 && next <= at {
                return None;
            }
            at = next;
        }
        Some(areas)
    }

    /// DEVICE_GET_IRQ_INFO.
    #[must_use]
    pub fn irq_info(body: &[u8]) -> Option<(IrqIndex, IrqInfo)> {
        let (body, _) = IrqInfoBody::ref_from_prefix(body).ok()?;
        let info = IrqInfo { flags: body.flags.get(), count: body.count.get() };
        Some((IrqIndex(body.index.get()), info))
    }

    /// DMA_UNMAP: the entry, or `None` also for a bare header, which some servers send.
    #[must_use]
    pub fn unmapped(body: &[u8]) -> Option<DmaUnmap> {
        let (body, _) = DmaUnmapBody::ref_from_prefix(body).ok()?;
        if body.flags.get() & UNMAP_ALL != 0 {
            return Some(DmaUnmap::All);
        }
        Some(DmaUnmap::Range { iova: DmaAddr(body.iova.get()), size: body.size.get() })
    }

    /// REGION_READ and REGION_WRITE: region, offset, count, and the data of a read.
    #[must_use]
    pub fn access(body: &[u8]) -> Option<(RegionIndex, u64, u32, &[u8])> {
        let (access, data) = AccessBody::ref_from_prefix(body).ok()?;
        Some((RegionIndex(access.region.get()), access.offset.get(), access.count.get(), data))
    }

    /// REGION_WRITE_MULTI that was not posted: how many records were written.
    #[must_use]
    pub fn written_multi(body: &[u8]) -> Option<u64> {
        MultiBody::ref_from_prefix(body).ok().map(|(body, _)| body.records.get())
    }
}
