//! Requests: bytes to typed values and back.

use rustix::io::Errno;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::fault::{Fault, FaultKind};
use super::header::{Command, Flags, HEADER_BYTES, Header, MessageId};
use super::layout::{
    AccessBody, DmaMapBody, DmaUnmapBody, InfoBody, IrqInfoBody, MultiBody, MultiRecordBody, RegionInfoBody,
    SetIrqsBody, UNMAP_ALL, VersionBody, irq_set,
};
use super::types::{DmaAddr, DmaMap, DmaUnmap, IrqIndex, RegionIndex};

/// One request, its sizes and flags checked, its data borrowed from the message.
///
/// What needs the device or the session to judge (indices, ranges, file descriptors, the order of messages) is
/// not judged here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// VERSION. `data` is the rest of the message: see [`Capabilities::parse`](super::Capabilities::parse).
    Version {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
        /// JSON with its NUL, or nothing.
        data: &'a [u8],
    },
    /// DMA_MAP, with at most one file descriptor.
    DmaMap(DmaMap),
    /// DMA_UNMAP.
    DmaUnmap(DmaUnmap),
    /// DEVICE_GET_INFO.
    GetInfo {
        /// Room for the reply's body, in bytes; at least 16.
        argsz: u32,
    },
    /// DEVICE_GET_REGION_INFO.
    GetRegionInfo {
        /// Room for the reply's body, in bytes; at least 32.
        argsz: u32,
        /// Which region.
        index: RegionIndex,
    },
    /// DEVICE_GET_IRQ_INFO.
    GetIrqInfo {
        /// Room for the reply's body, in bytes; at least 16.
        argsz: u32,
        /// Which interrupt type.
        index: IrqIndex,
    },
    /// DEVICE_SET_IRQS.
    SetIrqs(SetIrqs<'a>),
    /// REGION_READ.
    RegionRead {
        /// Which region.
        region: RegionIndex,
        /// Where in it, in bytes.
        offset: u64,
        /// How much, in bytes.
        count: u32,
    },
    /// REGION_WRITE.
    RegionWrite {
        /// Which region.
        region: RegionIndex,
        /// Where in it, in bytes.
        offset: u64,
        /// What to write.
        data: &'a [u8],
    },
    /// REGION_WRITE_MULTI.
    WriteMulti(Records<'a>),
    /// DEVICE_RESET.
    Reset,
}

/// The body of SET_IRQS: exactly one kind of data and one action, and the length that they imply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetIrqs<'a> {
    /// Which interrupt type.
    pub index: IrqIndex,
    /// First vector.
    pub start: u32,
    /// How many vectors.
    pub count: u32,
    /// What to do.
    pub action: IrqAction,
    /// To which of them.
    pub data: IrqData<'a>,
}

/// What SET_IRQS does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqAction {
    /// Hold vectors back, or say which eventfd tells of it.
    Mask,
    /// Let vectors through, or say which eventfd does so.
    Unmask,
    /// Fire vectors, or say which eventfd they fire.
    Trigger,
}

/// What SET_IRQS says about each vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IrqData<'a> {
    /// Nothing: all of them.
    None,
    /// One byte each; those that are not zero.
    Bool(&'a [u8]),
    /// One file descriptor each beside the message, or none at all to take theirs away.
    Eventfd,
}

/// One record of REGION_WRITE_MULTI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Which region.
    pub region: RegionIndex,
    /// Where in it, in bytes.
    pub offset: u64,
    data: [u8; 8],
    len: u8,
}

impl Record {
    /// A record that writes `data`; `None` if that is more than 8 bytes.
    #[must_use]
    pub fn new(region: RegionIndex, offset: u64, data: &[u8]) -> Option<Self> {
        let mut bytes = [0; 8];
        bytes.get_mut(..data.len())?.copy_from_slice(data);
        Some(Self { region, offset, data: bytes, len: u8::try_from(data.len()).ok()? })
    }

    /// The 0 to 8 bytes to write.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.data.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The records of a REGION_WRITE_MULTI, all of them checked.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a>(&'a [MultiRecordBody]);

impl PartialEq for Records<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes() == other.0.as_bytes()
    }
}

impl Eq for Records<'_> {}

impl<'a> Records<'a> {
    fn parse(payload: &'a [u8]) -> Result<Self, Fault> {
        let (body, rest) = prefix::<MultiBody>(payload)?;
        let records = <[MultiRecordBody]>::ref_from_bytes(rest)
            .map_err(|_| Fault::malformed("the records of a multiple write are cut"))?;
        if u64::try_from(records.len()) != Ok(body.records.get()) {
            return Err(Fault::malformed("a multiple write does not have as many records as it says"));
        }
        if records.iter().any(|record| record.count.get() > 8) {
            return Err(Fault::malformed("a record of a multiple write is longer than 8 bytes"));
        }
        Ok(Self(records))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The records in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record> + use<'a> {
        self.0.iter().map(|body| Record {
            region: RegionIndex(body.region.get()),
            offset: body.offset.get(),
            data: body.data,
            // `parse` has let no more than 8 pass.
            len: u8::try_from(body.count.get()).unwrap_or(0),
        })
    }
}

fn prefix<T: FromBytes + KnownLayout + Immutable + Unaligned>(payload: &[u8]) -> Result<(&T, &[u8]), Fault> {
    T::ref_from_prefix(payload).map_err(|_| Fault::malformed("the message is shorter than its fixed part"))
}

fn exactly<T: FromBytes + KnownLayout + Immutable + Unaligned>(payload: &[u8]) -> Result<&T, Fault> {
    T::ref_from_bytes(payload).map_err(|_| Fault::malformed("the message has not the length it must have"))
}

/// `argsz` is the peer's own idea of a length; one that is less than the fixed part betrays another layout.
fn check_argsz<T>(argsz: U32) -> Result<u32, Fault> {
    let argsz = argsz.get();
    if usize::try_from(argsz).is_ok_and(|argsz| argsz >= size_of::<T>()) {
        Ok(argsz)
    } else {
        Err(Fault::malformed("argsz is less than the fixed part"))
    }
}

fn last_fits(first: u64, size: u64, limit: u64) -> bool {
    size.checked_sub(1).and_then(|rest| first.checked_add(rest)).is_some_and(|last| last <= limit)
}

impl<'a> Request<'a> {
    /// Reads the body of a message whose header said `command`.
    ///
    /// # Errors
    /// The [`Fault`] with which to refuse it. The caller has the whole message, so a fault never costs framing.
    pub fn parse(command: Command, payload: &'a [u8]) -> Result<Self, Fault> {
        match command {
            // First: nearly every message of a running guest is one of these two.
            Command::REGION_WRITE => {
                let (body, data) = prefix::<AccessBody>(payload)?;
                if u32::try_from(data.len()) != Ok(body.count.get()) {
                    return Err(Fault::malformed("a write does not carry as many bytes as it says"));
                }
                Ok(Self::RegionWrite {
                    region: RegionIndex(body.region.get()),
                    offset: body.offset.get(),
                    data,
                })
            }
            Command::REGION_READ => {
                let body = exactly::<AccessBody>(payload)?;
                Ok(Self::RegionRead {
                    region: RegionIndex(body.region.get()),
                    offset: body.offset.get(),
                    count: body.count.get(),
                })
            }
            Command::REGION_WRITE_MULTI => Records::parse(payload).map(Self::WriteMulti),
            Command::VERSION => {
                let (body, data) = prefix::<VersionBody>(payload)?;
                Ok(Self::Version { major: body.major.get(), minor: body.minor.get(), data })
            }
            Command::DMA_MAP => parse_dma_map(payload).map(Self::DmaMap),
            Command::DMA_UNMAP => parse_dma_unmap(payload).map(Self::DmaUnmap),
            // The three questions may carry more than the fixed part: a client that asks a second time with a
            // larger argsz may send a body as large as the reply it expects.
            Command::GET_INFO => {
                let (body, _) = prefix::<InfoBody>(payload)?;
                Ok(Self::GetInfo { argsz: check_argsz::<InfoBody>(body.argsz)? })
            }
            Command::GET_REGION_INFO => {
                let (body, _) = prefix::<RegionInfoBody>(payload)?;
                let argsz = check_argsz::<RegionInfoBody>(body.argsz)?;
                Ok(Self::GetRegionInfo { argsz, index: RegionIndex(body.index.get()) })
            }
            Command::GET_IRQ_INFO => {
                let (body, _) = prefix::<IrqInfoBody>(payload)?;
                let argsz = check_argsz::<IrqInfoBody>(body.argsz)?;
                Ok(Self::GetIrqInfo { argsz, index: IrqIndex(body.index.get()) })
            }
            Command::SET_IRQS => parse_set_irqs(payload).map(Self::SetIrqs),
            Command::RESET if payload.is_empty() => Ok(Self::Reset),
            Command::RESET => Err(Fault::malformed("a reset has no body")),
            // Known to the specification, but optional, or in the other direction (DMA_READ, DMA_WRITE).
            Command(1..=18) => {
                Err(Fault::new(FaultKind::Unsupported, Errno::OPNOTSUPP, "this command is not served"))
            }
            Command(_) => Err(Fault::new(FaultKind::Unsupported, Errno::NOSYS, "no such command")),
        }
    }

    /// The command that this request travels under.
    #[must_use]
    pub const fn command(&self) -> Command {
        match self {
            Self::Version { .. } => Command::VERSION,
            Self::DmaMap(_) => Command::DMA_MAP,
            Self::DmaUnmap(_) => Command::DMA_UNMAP,
            Self::GetInfo { .. } => Command::GET_INFO,
            Self::GetRegionInfo { .. } => Command::GET_REGION_INFO,
            Self::GetIrqInfo { .. } => Command::GET_IRQ_INFO,
            Self::SetIrqs(_) => Command::SET_IRQS,
            Self::RegionRead { .. } => Command::REGION_READ,
            Self::RegionWrite { .. } => Command::REGION_WRITE,
            Self::WriteMulti(_) => Command::REGION_WRITE_MULTI,
            Self::Reset => Command::RESET,
        }
    }

    /// Appends the whole message, header first, to `out`. File descriptors are the caller's.
    pub fn emit(&self, id: MessageId, flags: Flags, out: &mut Vec<u8>) {
        let command = self.command();
        let mut send = |parts: [&[u8]; 2]| message(id, command, flags, parts, out);
        match *self {
            Self::Version { major, minor, data } => {
                send([VersionBody { major: U16::new(major), minor: U16::new(minor) }.as_bytes(), data]);
            }
            Self::DmaMap(map) => send([
                DmaMapBody {
                    argsz: argsz::<DmaMapBody>(0),
                    flags: U32::new(map.flags()),
                    fd_offset: U64::new(map.fd_offset),
                    iova: U64::new(map.iova.0),
                    size: U64::new(map.size),
                }
                .as_bytes(),
                &[],
            ]),
            Self::DmaUnmap(unmap) => send([dma_unmap_body(unmap).as_bytes(), &[]]),
            Self::GetInfo { argsz } => {
                let zero = U32::new(0);
                send([
                    InfoBody { argsz: U32::new(argsz), flags: zero, regions: zero, irqs: zero }.as_bytes(),
                    &[],
                ]);
            }
            Self::GetRegionInfo { argsz, index } => send([
                RegionInfoBody {
                    argsz: U32::new(argsz),
                    flags: U32::new(0),
                    index: U32::new(index.0),
                    cap_offset: U32::new(0),
                    size: U64::new(0),
                    offset: U64::new(0),
                }
                .as_bytes(),
                &[],
            ]),
            Self::GetIrqInfo { argsz, index } => send([
                IrqInfoBody {
                    argsz: U32::new(argsz),
                    flags: U32::new(0),
                    index: U32::new(index.0),
                    count: U32::new(0),
                }
                .as_bytes(),
                &[],
            ]),
            Self::SetIrqs(set) => {
                let (kind, data): (u32, &[u8]) = match set.data {
                    IrqData::None => (irq_set::DATA_NONE, &[]),
                    IrqData::Bool(data) => (irq_set::DATA_BOOL, data),
                    IrqData::Eventfd => (irq_set::DATA_EVENTFD, &[]),
                };
                let action = match set.action {
                    IrqAction::Mask => irq_set::MASK,
                    IrqAction::Unmask => irq_set::UNMASK,
                    IrqAction::Trigger => irq_set::TRIGGER,
                };
                send([
                    SetIrqsBody {
                        argsz: argsz::<SetIrqsBody>(data.len()),
                        flags: U32::new(kind | action),
                        index: U32::new(set.index.0),
                        start: U32::new(set.start),
                        count: U32::new(set.count),
                    }
                    .as_bytes(),
                    data,
                ]);
            }
            Self::RegionRead { region, offset, count } => {
                send([access_body(region, offset, count).as_bytes(), &[]]);
            }
            Self::RegionWrite { region, offset, data } => {
                send([access_body(region, offset, length(data.len())).as_bytes(), data]);
            }
            Self::WriteMulti(records) => {
                let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
                send([MultiBody { records: U64::new(count) }.as_bytes(), records.0.as_bytes()]);
            }
            Self::Reset => send([&[], &[]]),
        }
    }
}

/// Appends a REGION_WRITE_MULTI, always posted, to `out`.
pub fn emit_write_multi(id: MessageId, records: &[Record], out: &mut Vec<u8>) {
    let bodies: Vec<MultiRecordBody> = records
        .iter()
        .map(|record| MultiRecordBody {
            offset: U64::new(record.offset),
            region: U32::new(record.region.0),
            count: U32::new(u32::from(record.len)),
            data: record.data,
        })
        .collect();
    Request::WriteMulti(Records(&bodies)).emit(id, Flags::POSTED, out);
}

fn parse_dma_map(payload: &[u8]) -> Result<DmaMap, Fault> {
    let body = exactly::<DmaMapBody>(payload)?;
    check_argsz::<DmaMapBody>(body.argsz)?;
    let flags = body.flags.get();
    if flags & !(DmaMap::READ | DmaMap::WRITE) != 0 {
        return Err(Fault::malformed("DMA_MAP has unknown flags"));
    }
    let (iova, size, fd_offset) = (body.iova.get(), body.size.get(), body.fd_offset.get());
    if !last_fits(iova, size, u64::MAX) {
        return Err(Fault::malformed("DMA_MAP is empty or wraps"));
    }
    // File offsets are signed.
    if !last_fits(fd_offset, size, i64::MAX.unsigned_abs()) {
        return Err(Fault::malformed("DMA_MAP ends beyond what a file can hold"));
    }
    Ok(DmaMap {
        iova: DmaAddr(iova),
        size,
        fd_offset,
        readable: flags & DmaMap::READ != 0,
        writeable: flags & DmaMap::WRITE != 0,
    })
}

fn parse_dma_unmap(payload: &[u8]) -> Result<DmaUnmap, Fault> {
    let body = exactly::<DmaUnmapBody>(payload)?;
    check_argsz::<DmaUnmapBody>(body.argsz)?;
    let (iova, size) = (body.iova.get(), body.size.get());
    match body.flags.get() {
        0 if last_fits(iova, size, u64::MAX) => Ok(DmaUnmap::Range { iova: DmaAddr(iova), size }),
        0 => Err(Fault::malformed("DMA_UNMAP is empty or wraps")),
        UNMAP_ALL if iova == 0 && size == 0 => Ok(DmaUnmap::All),
        UNMAP_ALL => Err(Fault::malformed("DMA_UNMAP of everything names a range")),
        _ => Err(Fault::malformed("DMA_UNMAP has unknown flags")),
    }
}

fn parse_set_irqs(payload: &[u8]) -> Result<SetIrqs<'_>, Fault> {
    let (body, data) = prefix::<SetIrqsBody>(payload)?;
    check_argsz::<SetIrqsBody>(body.argsz)?;
    let flags = body.flags.get();
    if flags & !(irq_set::DATA_BITS | irq_set::ACTION_BITS) != 0 {
        return Err(Fault::malformed("SET_IRQS has unknown flags"));
    }
    let action = match flags & irq_set::ACTION_BITS {
        irq_set::MASK => IrqAction::Mask,
        irq_set::UNMASK => IrqAction::Unmask,
        irq_set::TRIGGER => IrqAction::Trigger,
        _ => return Err(Fault::malformed("SET_IRQS has not exactly one action")),
    };
    let count = body.count.get();
    let (kind, bytes) = match flags & irq_set::DATA_BITS {
        irq_set::DATA_NONE => (IrqData::None, 0),
        irq_set::DATA_BOOL => (IrqData::Bool(data), count),
        irq_set::DATA_EVENTFD => (IrqData::Eventfd, 0),
        _ => return Err(Fault::malformed("SET_IRQS has not exactly one kind of data")),
    };
    if u32::try_from(data.len()) != Ok(bytes) {
        return Err(Fault::malformed("SET_IRQS does not carry the data it announces"));
    }
    Ok(SetIrqs { index: IrqIndex(body.index.get()), start: body.start.get(), count, action, data: kind })
}

pub(super) fn dma_unmap_body(unmap: DmaUnmap) -> DmaUnmapBody {
    let (flags, iova, size) = match unmap {
        DmaUnmap::Range { iova, size } => (0, iova.0, size),
        DmaUnmap::All => (UNMAP_ALL, 0, 0),
    };
    DmaUnmapBody {
        argsz: argsz::<DmaUnmapBody>(0),
        flags: U32::new(flags),
        iova: U64::new(iova),
        size: U64::new(size),
    }
}

pub(super) const fn access_body(region: RegionIndex, offset: u64, count: u32) -> AccessBody {
    AccessBody { offset: U64::new(offset), region: U32::new(region.0), count: U32::new(count) }
}

/// A length as the wire has it. Nothing here is ever near 4 GiB; a sender that is gets a message that the peer
/// refuses, not one that it misreads.
pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn argsz<T>(data: usize) -> U32 {
    U32::new(length(size_of::<T>().saturating_add(data)))
}

/// Appends a message made of a header and two parts.
pub(super) fn message(id: MessageId, command: Command, flags: Flags, parts: [&[u8]; 2], out: &mut Vec<u8>) {
    let body = parts.iter().fold(HEADER_BYTES, |sum, part| sum.saturating_add(part.len()));
    out.reserve(body);
    out.extend_from_slice(Header::new(id, command, length(body), flags).as_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}
