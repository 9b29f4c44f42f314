//! What this process maps where, as the kernel says.

use rustix::fs::{major, makedev, minor};
use std::fs::File;
use std::io::{self, Read};
use std::mem::size_of;
use std::os::fd::AsRawFd;

/// A mapping of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) shared: bool,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// Offset in the file of the byte at `start`.
    pub(crate) offset: u64,
}

/// All file mappings, in the order of their addresses.
pub(crate) fn areas() -> io::Result<Vec<Area>> {
    let mut bytes = Vec::new();
    File::open("/proc/self/maps")?.read_to_end(&mut bytes)?;
    // A path may be no UTF-8, and is not looked at.
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().filter_map(parse).filter(|area| area.inode != 0).collect())
}

/// `7f00-7f10 rw-s 00002000 00:01 1234   /memfd:x (deleted)`: proc(5).
fn parse(line: &str) -> Option<Area> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let shared = fields.next()?.ends_with('s');
    let offset = fields.next()?;
    let (device_major, device_minor) = fields.next()?.split_once(':')?;
    let hex = |digits: &str| u32::from_str_radix(digits, 16).ok();
    Some(Area {
        start: usize::from_str_radix(start, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
        shared,
        device: makedev(hex(device_major)?, hex(device_minor)?),
        inode: fields.next()?.parse().ok()?,
        offset: u64::from_str_radix(offset, 16).ok()?,
    })
}

/// Asks for one mapping at a time: `PROCMAP_QUERY`, Linux 6.11; a hundredth of the cost of reading them all.
#[derive(Debug)]
pub(crate) struct Query {
    maps: File,
}

/// `struct procmap_query`, include/uapi/linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

/// `_IOWR('f', 17, struct procmap_query)`.
const PROCMAP_QUERY: libc::Ioctl = 0xC068_6611;
const _: () = assert!(size_of::<ProcmapQuery>() == 0x68);

impl Query {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { maps: File::open("/proc/self/maps")? })
    }

    /// Device and inode of what is mapped at an address. `Err`: ask [`areas`], this kernel does not know the question
    /// or nothing is there.
    pub(crate) fn identity(&self, address: usize) -> io::Result<(u64, u64)> {
        let mut query = ProcmapQuery {
            size: size_of::<ProcmapQuery>() as u64,
            query_addr: address as u64,
            ..ProcmapQuery::default()
        };
        // SAFETY: the structure is the one that this request reads and writes, and lives across the call.
        let result = unsafe { libc::ioctl(self.maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((makedev(query.dev_major, query.dev_minor), query.inode))
    }
}

/// A device number as `/proc/self/maps` would show it: some file systems have more bits in `st_dev`.
pub(crate) fn normal_device(device: u64) -> u64 {
    makedev(major(device), minor(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_proc_5_has_them() {
        let line = "7f3b1c000000-7f3b1c100000 rw-s 00020000 00:01 2049   /memfd:window (deleted)";
        assert_eq!(
            parse(line),
            Some(Area {
                start: 0x7f3b_1c00_0000,
                end: 0x7f3b_1c10_0000,
                shared: true,
                device: makedev(0, 1),
                inode: 2049,
                offset: 0x20000
            })
        );
        for nonsense in ["", "x", "1-2", "1-2 rw-s", "1-2 rw-s 0 0 0", "g-h rw-s 0 0:0 0"] {
            assert_eq!(parse(nonsense), None, "{nonsense:?}");
        }
    }
}
