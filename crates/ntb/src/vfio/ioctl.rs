//! The ioctls of VFIO (`include/uapi/linux/vfio.h`) and iommufd (`include/uapi/linux/iommufd.h`), as functions that are safe to call.
//!
//! This is the crate's one file with unsafe code. All arguments are structures of plain numbers whose first word is their
//! length in bytes, but for four that are a number in the place of the pointer, a pointer to an `int`, or a name. Each call
//! has one function here whose opcode decides it. The kernel writes no further than the length says, and keeps no
//! address of an argument; the memory that a device is given is a [`Mapping`], which anybody may write at any time.

use rustix::ffi::{CStr, c_void};
use rustix::io::Result;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use shm::Mapping;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `VFIO_TYPE`, and iommufd's.
const TYPE: u8 = b';';

const GET_API_VERSION: Opcode = vfio(0);
const CHECK_EXTENSION: Opcode = vfio(1);
const SET_IOMMU: Opcode = vfio(2);
const GROUP_GET_STATUS: Opcode = vfio(3);
const GROUP_SET_CONTAINER: Opcode = vfio(4);
const GROUP_GET_DEVICE_FD: Opcode = vfio(6);
const DEVICE_GET_INFO: Opcode = vfio(7);
const DEVICE_GET_REGION_INFO: Opcode = vfio(8);
const DEVICE_GET_IRQ_INFO: Opcode = vfio(9);
const DEVICE_SET_IRQS: Opcode = vfio(10);
const DEVICE_RESET: Opcode = vfio(11);
const IOMMU_GET_INFO: Opcode = vfio(12);
const IOMMU_MAP_DMA: Opcode = vfio(13);
const IOMMU_UNMAP_DMA: Opcode = vfio(14);
const DEVICE_BIND_IOMMUFD: Opcode = vfio(18);
const DEVICE_ATTACH_IOMMUFD: Opcode = vfio(19);
const IOAS_ALLOC: Opcode = opcode::none(TYPE, 0x81);
const IOAS_IOVA_RANGES: Opcode = opcode::none(TYPE, 0x84);
const IOAS_MAP: Opcode = opcode::none(TYPE, 0x85);
const IOAS_UNMAP: Opcode = opcode::none(TYPE, 0x86);

const fn vfio(number: u8) -> Opcode {
    opcode::none(TYPE, 100_u8.saturating_add(number))
}

/// The version of the interface that there is.
pub(super) const API_VERSION: i32 = 0;
/// `VFIO_TYPE1v2_IOMMU`: what is unmapped has to be what was mapped.
const TYPE1V2: usize = 3;
/// `VFIO_GROUP_FLAGS_VIABLE`.
pub(super) const GROUP_VIABLE: u32 = 1 << 0;
/// `VFIO_DEVICE_FLAGS_RESET`.
pub(super) const DEVICE_RESETS: u32 = 1 << 0;
/// `VFIO_DEVICE_FLAGS_PCI`.
pub(super) const DEVICE_PCI: u32 = 1 << 1;
/// `VFIO_REGION_INFO_FLAG_READ` and `_WRITE`.
pub(super) const REGION_READ_WRITE: u32 = 3;
/// `VFIO_REGION_INFO_FLAG_MMAP`.
pub(super) const REGION_MMAP: u32 = 1 << 2;
/// `VFIO_IRQ_INFO_EVENTFD`.
pub(super) const IRQ_EVENTFD: u32 = 1 << 0;
/// Regions 0 to 5 are the BARs; this one is configuration space (`VFIO_PCI_CONFIG_REGION_INDEX`).
pub(super) const CONFIG_REGION: u32 = 7;
/// `VFIO_PCI_MSIX_IRQ_INDEX`.
pub(super) const MSIX_IRQ: u32 = 2;

/// `VFIO_REGION_INFO_FLAG_CAPS`; the flags of an IOMMU have theirs at bit 1.
const REGION_CAPS: u32 = 1 << 3;
const IOMMU_PAGE_SIZES: u32 = 1 << 0;
const IOMMU_CAPS: u32 = 1 << 1;
/// `VFIO_REGION_INFO_CAP_SPARSE_MMAP`.
const CAP_SPARSE: u16 = 1;
/// `VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE`.
const CAP_IOVA_RANGE: u16 = 1;
/// `VFIO_IRQ_SET_DATA_NONE`, `_DATA_EVENTFD`, `_ACTION_TRIGGER`.
const IRQ_DATA_NONE: u32 = 1 << 0;
const IRQ_DATA_EVENTFD: u32 = 1 << 2;
const IRQ_ACTION_TRIGGER: u32 = 1 << 5;
/// `VFIO_DMA_MAP_FLAG_READ` and `_WRITE`.
const MAP_READ_WRITE: u32 = 3;
/// `IOMMU_IOAS_MAP_FIXED_IOVA`, `_WRITEABLE`, `_READABLE`.
const IOAS_MAP_FLAGS: u32 = 7;
/// Words of 8 bytes for an answer with capabilities; one that is longer is asked for again, up to a hundred times that.
const ANSWER_WORDS: usize = 64;
const ANSWER_WORDS_MAX: usize = ANSWER_WORDS.saturating_mul(100);

/// A call whose argument is a pointer to `T`.
struct Pointed<'a, const OPCODE: Opcode, T: ?Sized>(&'a mut T);

/// A call whose argument is a number.
struct Number<const OPCODE: Opcode>(usize);

// SAFETY: the functions below make these values, each with an opcode that takes a pointer to what they hold; the output
// is the call's own result.
unsafe impl<const OPCODE: Opcode, T: ?Sized> Ioctl for Pointed<'_, OPCODE, T> {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<IoctlOutput> {
        Ok(output)
    }
}

// SAFETY: the functions below make these values, each with an opcode that takes a number or nothing.
unsafe impl<const OPCODE: Opcode> Ioctl for Number<OPCODE> {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0)
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<IoctlOutput> {
        Ok(output)
    }
}

/// Calls with a number, or with nothing.
fn number<const OPCODE: Opcode>(fd: BorrowedFd<'_>, value: usize) -> Result<i32> {
    // SAFETY: private, and only for the opcodes above whose argument is a number or unused: no memory is touched.
    unsafe { ioctl(fd, Number::<OPCODE>(value)) }
}

/// Calls with a structure of plain numbers.
fn pointed<const OPCODE: Opcode, T: Plain + ?Sized>(fd: BorrowedFd<'_>, argument: &mut T) -> Result<i32> {
    // SAFETY: private, and only for the opcodes above that take a pointer to this structure: the kernel reads and writes no
    // more than the length that stands in it, which is at most the structure's, and any bytes are valid numbers.
    unsafe { ioctl(fd, Pointed::<OPCODE, T>(argument)) }
}

/// Integers alone, any bits of which are valid.
trait Plain {}
impl Plain for i32 {}
impl Plain for [u64] {}
impl Plain for [u32] {}

/// A structure of the kernel that begins with its own length.
macro_rules! structure {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, Default)]
        struct $name { $($field: $kind),* }

        impl Plain for $name {}

        impl $name {
            const BYTES: u32 = {
                assert!(size_of::<Self>() < 128);
                #[expect(clippy::cast_possible_truncation, reason = "a constant below 128 (asserted)")]
                let bytes = size_of::<Self>() as u32;
                bytes
            };
        }
    };
}

structure!(/// `vfio_group_status`, and `vfio_device_attach_iommufd_pt` without its PASID.
    Short { argsz: u32, flags: u32 });
structure!(/// `vfio_device_info`, as it was first.
    RawDeviceInfo { argsz: u32, flags: u32, regions: u32, irqs: u32 });
structure!(/// `vfio_irq_info`.
    RawIrqInfo { argsz: u32, flags: u32, index: u32, count: u32 });
structure!(/// `vfio_iommu_type1_dma_map`.
    RawMap { argsz: u32, flags: u32, vaddr: u64, iova: u64, size: u64 });
structure!(/// `vfio_iommu_type1_dma_unmap`, and `iommu_ioas_unmap`, which has an object where that one has flags.
    RawUnmap { argsz: u32, flags: u32, iova: u64, size: u64 });
structure!(/// `vfio_device_bind_iommufd`.
    RawBind { argsz: u32, flags: u32, iommufd: i32, device: u32 });
structure!(/// `vfio_device_attach_iommufd_pt`, and `iommu_ioas_alloc`.
    RawObject { argsz: u32, flags: u32, object: u32 });
structure!(/// `iommu_ioas_iova_ranges`.
    RawRanges { argsz: u32, object: u32, count: u32, reserved: u32, ranges: u64, alignment: u64 });
structure!(/// `iommu_ioas_map`.
    RawIoasMap { argsz: u32, flags: u32, object: u32, reserved: u32, vaddr: u64, size: u64, iova: u64 });

/// The version of a container's interface.
pub(super) fn api_version(container: BorrowedFd<'_>) -> Result<i32> {
    number::<GET_API_VERSION>(container, 0)
}

/// Whether a container can be of the type that [`set_type1v2`] makes it.
pub(super) fn has_type1v2(container: BorrowedFd<'_>) -> Result<bool> {
    Ok(number::<CHECK_EXTENSION>(container, TYPE1V2)? > 0)
}

/// Gives a container, which holds a group by now, its IOMMU.
pub(super) fn set_type1v2(container: BorrowedFd<'_>) -> Result<()> {
    number::<SET_IOMMU>(container, TYPE1V2).map(drop)
}

/// The flags of a group.
pub(super) fn group_flags(group: BorrowedFd<'_>) -> Result<u32> {
    let mut status = Short { argsz: Short::BYTES, flags: 0 };
    pointed::<GROUP_GET_STATUS, _>(group, &mut status)?;
    Ok(status.flags)
}

/// Puts a group into a container.
pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<()> {
    pointed::<GROUP_SET_CONTAINER, _>(group, &mut container.as_raw_fd()).map(drop)
}

/// A device of a group, by its name in sysfs.
pub(super) fn group_device(group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    // SAFETY: the kernel reads the name up to its closing zero and no further (`strndup_user`), and writes nothing.
    let fd = unsafe { ioctl(group, Number::<GROUP_GET_DEVICE_FD>(name.as_ptr().expose_provenance())) }?;
    // SAFETY: the call returns a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a device is: flags, how many regions, how many kinds of interrupt.
pub(super) fn device_info(device: BorrowedFd<'_>) -> Result<(u32, u32, u32)> {
    let mut info = RawDeviceInfo { argsz: RawDeviceInfo::BYTES, ..RawDeviceInfo::default() };
    pointed::<DEVICE_GET_INFO, _>(device, &mut info)?;
    Ok((info.flags, info.regions, info.irqs))
}

/// What the kernel says of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RegionInfo {
    pub(super) flags: u32,
    /// Length in bytes.
    pub(super) bytes: u64,
    /// Where it begins in the device's descriptor.
    pub(super) offset: u64,
    /// Only parts of it may be mapped.
    pub(super) sparse: bool,
}

/// What a region is: `struct vfio_region_info` with its capabilities.
pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> Result<RegionInfo> {
    let answer = ask::<DEVICE_GET_REGION_INFO>(device, &[(8, index)])?;
    let flags = answer.word(4);
    let capabilities = if flags & REGION_CAPS != 0 { answer.word(12) } else { 0 };
    Ok(RegionInfo {
        flags,
        bytes: answer.long(16),
        offset: answer.long(24),
        sparse: answer.capability(capabilities, CAP_SPARSE).is_some(),
    })
}

/// What a kind of interrupt has: flags, and how many vectors.
pub(super) fn irq_info(device: BorrowedFd<'_>, index: u32) -> Result<(u32, u32)> {
    let mut info = RawIrqInfo { argsz: RawIrqInfo::BYTES, index, ..RawIrqInfo::default() };
    pointed::<DEVICE_GET_IRQ_INFO, _>(device, &mut info)?;
    Ok((info.flags, info.count))
}

/// Has vector n of a kind of interrupt signal `eventfds[n]`. What is not 0 in return is how many vectors the kernel has at
/// most, and then none was set.
pub(super) fn set_irqs(device: BorrowedFd<'_>, index: u32, eventfds: &[BorrowedFd<'_>]) -> Result<i32> {
    let count = u32::try_from(eventfds.len()).unwrap_or(u32::MAX);
    let data = if eventfds.is_empty() { IRQ_DATA_NONE } else { IRQ_DATA_EVENTFD };
    let mut set = vec![0, data | IRQ_ACTION_TRIGGER, index, 0, count];
    set.extend(eventfds.iter().map(|fd| fd.as_raw_fd().cast_unsigned()));
    let bytes = u32::try_from(size_of_val(set.as_slice())).unwrap_or(0);
    if let Some(argsz) = set.first_mut() {
        *argsz = bytes;
    }
    pointed::<DEVICE_SET_IRQS, [u32]>(device, &mut set)
}

/// Resets the function.
pub(super) fn reset(device: BorrowedFd<'_>) -> Result<()> {
    number::<DEVICE_RESET>(device, 0).map(drop)
}

/// What an IOMMU translates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IommuInfo {
    /// The smallest page in bytes, if it says so.
    pub(super) page_bytes: Option<u64>,
    /// Device addresses that can be used, first and last; if it says so.
    pub(super) ranges: Vec<(u64, u64)>,
}

/// What the IOMMU of a container translates: `struct vfio_iommu_type1_info` with its capabilities.
pub(super) fn iommu_info(container: BorrowedFd<'_>) -> Result<IommuInfo> {
    let answer = ask::<IOMMU_GET_INFO>(container, &[])?;
    let flags = answer.word(4);
    let sizes = if flags & IOMMU_PAGE_SIZES != 0 { answer.long(8) } else { 0 };
    let capabilities = if flags & IOMMU_CAPS != 0 { answer.word(16) } else { 0 };
    let mut ranges = Vec::new();
    if let Some(at) = answer.capability(capabilities, CAP_IOVA_RANGE) {
        let mut next = at.saturating_add(16);
        for _ in 0..answer.word(at.saturating_add(8)) {
            if next.saturating_add(16) > answer.bytes() {
                break;
            }
            ranges.push((answer.long(next), answer.long(next.saturating_add(8))));
            next = next.saturating_add(16);
        }
    }
    let page_bytes = (sizes != 0).then(|| 1_u64.checked_shl(sizes.trailing_zeros())).flatten();
    Ok(IommuInfo { page_bytes, ranges })
}

/// Lets the devices of a container read and write memory at `iova`.
pub(super) fn map_dma(container: BorrowedFd<'_>, iova: u64, memory: &Mapping) -> Result<()> {
    let (vaddr, size) = place(memory);
    let mut map = RawMap { argsz: RawMap::BYTES, flags: MAP_READ_WRITE, vaddr, iova, size };
    pointed::<IOMMU_MAP_DMA, _>(container, &mut map).map(drop)
}

/// Takes back what [`map_dma`] gave; how many bytes that were.
pub(super) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, bytes: u64) -> Result<u64> {
    let mut unmap = RawUnmap { argsz: RawUnmap::BYTES, flags: 0, iova, size: bytes };
    pointed::<IOMMU_UNMAP_DMA, _>(container, &mut unmap)?;
    Ok(unmap.size)
}

/// Gives a device that was opened by itself to an iommufd.
pub(super) fn bind_iommufd(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<()> {
    let mut bind = RawBind { argsz: RawBind::BYTES, iommufd: iommufd.as_raw_fd(), ..RawBind::default() };
    pointed::<DEVICE_BIND_IOMMUFD, _>(device, &mut bind).map(drop)
}

/// A new space of device addresses, which holds nothing.
pub(super) fn ioas_allocate(iommufd: BorrowedFd<'_>) -> Result<u32> {
    let mut alloc = RawObject { argsz: RawObject::BYTES, ..RawObject::default() };
    pointed::<IOAS_ALLOC, _>(iommufd, &mut alloc)?;
    Ok(alloc.object)
}

/// Has a device that was bound translate by a space of addresses.
pub(super) fn attach_ioas(device: BorrowedFd<'_>, ioas: u32) -> Result<()> {
    let mut attach = RawObject { argsz: RawObject::BYTES, flags: 0, object: ioas };
    pointed::<DEVICE_ATTACH_IOMMUFD, _>(device, &mut attach).map(drop)
}

/// What a space of addresses translates, by the devices that are attached to it.
pub(super) fn ioas_info(iommufd: BorrowedFd<'_>, ioas: u32) -> Result<IommuInfo> {
    // Each range is two words.
    let mut found = vec![0_u64; ANSWER_WORDS];
    let count = u32::try_from(found.len() / 2).unwrap_or(0);
    let ranges = found.as_mut_ptr().expose_provenance();
    let mut ask = RawRanges {
        argsz: RawRanges::BYTES,
        object: ioas,
        count,
        ranges: u64::try_from(ranges).unwrap_or(0),
        ..RawRanges::default()
    };
    // The kernel writes `count` pairs of words at most into `found`, which is not touched meanwhile.
    pointed::<IOAS_IOVA_RANGES, _>(iommufd, &mut ask)?;
    let (pairs, _) = found.as_chunks::<2>();
    let pairs = pairs.iter().take(usize::try_from(ask.count).unwrap_or(0));
    let ranges = pairs.map(|[first, last]| (*first, *last)).collect();
    Ok(IommuInfo { page_bytes: Some(ask.alignment), ranges })
}

/// As [`map_dma`], in a space of addresses.
pub(super) fn ioas_map(iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, memory: &Mapping) -> Result<()> {
    let (vaddr, size) = place(memory);
    let argsz = RawIoasMap::BYTES;
    let mut map = RawIoasMap { argsz, flags: IOAS_MAP_FLAGS, object: ioas, reserved: 0, vaddr, size, iova };
    pointed::<IOAS_MAP, _>(iommufd, &mut map).map(drop)
}

/// Takes back what [`ioas_map`] gave; how many bytes that were.
pub(super) fn ioas_unmap(iommufd: BorrowedFd<'_>, ioas: u32, iova: u64, bytes: u64) -> Result<u64> {
    let mut unmap = RawUnmap { argsz: RawUnmap::BYTES, flags: ioas, iova, size: bytes };
    pointed::<IOAS_UNMAP, _>(iommufd, &mut unmap)?;
    Ok(unmap.size)
}

/// Where a mapping is in this process, and its length.
fn place(memory: &Mapping) -> (u64, u64) {
    let number = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    (number(memory.address()), number(memory.bytes()))
}

/// An answer with capabilities behind it. The kernel wrote it; what it says of places is checked all the same.
struct Answer(Vec<u64>);

/// Asks for a structure with capabilities; `set` are words at offsets that say what for. A kernel that has more to tell
/// than there is room says how much.
fn ask<const OPCODE: Opcode>(fd: BorrowedFd<'_>, set: &[(usize, u32)]) -> Result<Answer> {
    let mut words = ANSWER_WORDS;
    loop {
        let mut answer = Answer(vec![0; words]);
        answer.set(0, u32::try_from(answer.bytes()).unwrap_or(0));
        for &(offset, value) in set {
            answer.set(offset, value);
        }
        pointed::<OPCODE, [u64]>(fd, &mut answer.0)?;
        let needs = usize::try_from(answer.word(0)).unwrap_or(usize::MAX);
        if needs <= answer.bytes() || words >= ANSWER_WORDS_MAX {
            return Ok(answer);
        }
        words = needs.div_ceil(8).min(ANSWER_WORDS_MAX);
    }
}

impl Answer {
    fn bytes(&self) -> usize {
        self.0.len().saturating_mul(8)
    }

    /// 8 bytes at an offset that 8 divides.
    fn long(&self, offset: usize) -> u64 {
        self.0.get(offset / 8).copied().unwrap_or(0)
    }

    /// 4 bytes at an offset that 4 divides.
    fn word(&self, offset: usize) -> u32 {
        let bytes = self.long(offset).to_ne_bytes();
        let (words, _) = bytes.as_chunks::<4>();
        words.get(offset % 8 / 4).map_or(0, |word| u32::from_ne_bytes(*word))
    }

    fn set(&mut self, offset: usize, value: u32) {
        let Some(long) = self.0.get_mut(offset / 8) else { return };
        let mut bytes = long.to_ne_bytes();
        let (words, _) = bytes.as_chunks_mut::<4>();
        if let Some(word) = words.get_mut(offset % 8 / 4) {
            *word = value.to_ne_bytes();
        }
        *long = u64::from_ne_bytes(bytes);
    }

    /// Where the capability of a number begins (`struct vfio_info_cap_header`): id, version, offset of the next.
    fn capability(&self, first: u32, wanted: u16) -> Option<usize> {
        let mut at = usize::try_from(first).ok()?;
        // More than fit are a circle.
        for _ in 0..self.0.len() {
            if at == 0 || !at.is_multiple_of(8) || at.saturating_add(8) > self.bytes() {
                return None;
            }
            let [low, high, ..] = self.word(at).to_ne_bytes();
            if u16::from_ne_bytes([low, high]) == wanted {
                return Some(at);
            }
            at = usize::try_from(self.word(at.saturating_add(4))).ok()?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_and_structures_are_those_of_the_kernels_headers() {
        let opcodes =
            [GET_API_VERSION, GROUP_GET_DEVICE_FD, DEVICE_RESET, IOMMU_UNMAP_DMA, DEVICE_ATTACH_IOMMUFD];
        assert_eq!(opcodes, [0x3B64, 0x3B6A, 0x3B6F, 0x3B72, 0x3B77]);
        assert_eq!([IOAS_ALLOC, IOAS_IOVA_RANGES, IOAS_MAP, IOAS_UNMAP], [0x3B81, 0x3B84, 0x3B85, 0x3B86]);
        assert_eq!([Short::BYTES, RawDeviceInfo::BYTES, RawIrqInfo::BYTES], [8, 16, 16]);
        assert_eq!([RawMap::BYTES, RawUnmap::BYTES], [32, 24]);
        assert_eq!([RawBind::BYTES, RawObject::BYTES, RawRanges::BYTES, RawIoasMap::BYTES], [16, 12, 32, 40]);
    }

    /// An answer whose capabilities are these: offset, id, next.
    fn answer(capabilities: &[(usize, u16, u32)]) -> Answer {
        let mut answer = Answer(vec![0; 8]);
        for &(offset, id, next) in capabilities {
            answer.set(offset, u32::from(id));
            answer.set(offset + 4, next);
        }
        answer
    }

    #[test]
    fn capabilities_are_found_and_nonsense_leads_nowhere() {
        let good = answer(&[(16, 3, 40), (40, 1, 0)]);
        assert_eq!(good.capability(16, 1), Some(40));
        assert_eq!(good.capability(16, 3), Some(16));
        assert_eq!(good.capability(16, 9), None);
        assert_eq!(answer(&[(16, 3, 16)]).capability(16, 1), None, "a circle");
        for nonsense in [0, 3, 64, 1 << 30, u32::MAX] {
            assert_eq!(good.capability(nonsense, 1), None, "{nonsense}");
        }
    }

    #[test]
    fn words_of_an_answer_are_where_they_were_put() {
        let mut answer = Answer(vec![0; 2]);
        answer.set(4, 0x0102_0304);
        answer.set(8, 7);
        answer.set(64, 7);
        assert_eq!((answer.word(0), answer.word(4), answer.word(8), answer.word(64)), (0, 0x0102_0304, 7, 0));
        assert_eq!(answer.long(8).to_ne_bytes()[..4], 7_u32.to_ne_bytes());
    }

    #[test]
    fn what_is_no_device_is_refused_by_the_kernel() {
        use std::os::fd::AsFd;
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(api_version(file.as_fd()).is_err() && device_info(file.as_fd()).is_err());
        assert!(region_info(file.as_fd(), 0).is_err() && iommu_info(file.as_fd()).is_err());
        assert!(group_device(file.as_fd(), c"0000:01:00.0").is_err());
        assert!(set_irqs(file.as_fd(), MSIX_IRQ, &[file.as_fd()]).is_err() && reset(file.as_fd()).is_err());
    }
}
