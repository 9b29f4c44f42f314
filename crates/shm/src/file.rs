//! Files that may be mapped: memory, of known length, that cannot shrink.

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, ftruncate, memfd_create,
};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// `SYSFS_MAGIC` of the kernel's `uapi/linux/magic.h`.
const SYSFS: i64 = 0x6265_6572;

/// A memory file whose first [`bytes`](Self::bytes) bytes stay there.
#[derive(Debug)]
pub struct SharedFile {
    fd: OwnedFd,
    bytes: u64,
    page_bytes: u64,
    identity: (u64, u64),
}

/// Why a descriptor that somebody sent is not used as memory.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// Not a memfd or hugetlb file, or one whose seals are fixed without this one.
    #[error(
        "the file cannot be sealed against shrinking: share memory from a memfd (QEMU: memory-backend-memfd,share=on)"
    )]
    Unsealable(#[source] io::Error),
    /// The file's state cannot be read.
    #[error("the file cannot be examined")]
    Stat(#[source] io::Error),
    /// The range that was announced lies behind the end.
    #[error("the file has {has_bytes:#x} bytes where {needs_bytes:#x} were announced")]
    TooShort {
        /// Length of the file.
        has_bytes: u64,
        /// What was announced.
        needs_bytes: u64,
    },
}

impl SharedFile {
    /// A new memfd of `bytes` zero bytes, sealed against shrinking, growing and further seals.
    ///
    /// # Errors
    /// When the kernel refuses the memory.
    pub fn create(name: &str, bytes: u64) -> io::Result<Self> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, bytes)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let stat = fstat(&fd)?;
        Ok(Self { fd, bytes, page_bytes: 4096, identity: (stat.st_dev, stat.st_ino) })
    }

    /// A BAR of a PCI device of this machine, `/sys/bus/pci/devices/../resourceN` or `.._wc`. The kernel gives such a
    /// file the length of the BAR and lets nobody change it: no seal is needed, and none is possible.
    ///
    /// # Errors
    /// When it cannot be opened for loads and stores, or is no file of sysfs.
    pub fn bar(path: &Path) -> io::Result<Self> {
        let fd = OwnedFd::from(File::options().read(true).write(true).open(path)?);
        if fstatfs(&fd)?.f_type != SYSFS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file of sysfs"));
        }
        let stat = fstat(&fd)?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Self { fd, bytes, page_bytes: 4096, identity: (stat.st_dev, stat.st_ino) })
    }

    /// Takes a descriptor that somebody sent, if it is memory that cannot be cut under us and has at least
    /// `needs_bytes` bytes. A seal that is missing and allowed is added.
    ///
    /// # Errors
    /// [`Unfit`] says what is wrong with it.
    pub fn accept(fd: OwnedFd, needs_bytes: u64) -> Result<Self, Unfit> {
        // Only memfd, shmem and hugetlb files answer this at all: a FIFO, /dev/zero or a disk file does not.
        let seals = fcntl_get_seals(&fd).map_err(|errno| Unfit::Unsealable(errno.into()))?;
        if !seals.contains(SealFlags::SHRINK) {
            fcntl_add_seals(&fd, SealFlags::SHRINK).map_err(|errno| Unfit::Unsealable(errno.into()))?;
        }
        // After the seal, so that the length cannot change between the check and the use.
        let stat = fstat(&fd).map_err(|errno| Unfit::Stat(errno.into()))?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if bytes < needs_bytes {
            return Err(Unfit::TooShort { has_bytes: bytes, needs_bytes });
        }
        // hugetlb files want offsets in their own pages, and tell their size here.
        let block = u64::try_from(stat.st_blksize).unwrap_or(0);
        let page_bytes = if block.is_power_of_two() && block > 4096 { block } else { 4096 };
        Ok(Self { fd, bytes, page_bytes, identity: (stat.st_dev, stat.st_ino) })
    }

    /// Device and inode: what `/proc/self/maps` names it by in every process that maps it.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Length in bytes that is certain.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Granularity of mappings in bytes.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes
    }
}

impl AsFd for SharedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    fn memfd(bytes: u64, flags: MemfdFlags) -> OwnedFd {
        let fd = memfd_create("test", flags | MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, bytes).unwrap();
        fd
    }

    #[test]
    fn a_sealable_memfd_is_sealed_and_cannot_be_cut_afterwards() {
        let fd = memfd(8192, MemfdFlags::ALLOW_SEALING);
        let other = fd.try_clone().unwrap();
        let file = SharedFile::accept(fd, 8192).unwrap();
        assert_eq!(file.bytes(), 8192);
        assert!(ftruncate(&other, 0).is_err(), "the seal must hold");
    }

    #[test]
    fn files_that_can_be_cut_are_refused() {
        assert!(matches!(
            SharedFile::accept(memfd(4096, MemfdFlags::empty()), 4096),
            Err(Unfit::Unsealable(_))
        ));
        let zero = File::options().read(true).write(true).open("/dev/zero").unwrap();
        assert!(matches!(SharedFile::accept(zero.into(), 4096), Err(Unfit::Unsealable(_))));
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert!(matches!(SharedFile::accept(read, 0), Err(Unfit::Unsealable(_))));
        let mut disk = tempfile::tempfile().unwrap();
        disk.write_all(&[0; 4096]).unwrap();
        assert!(matches!(SharedFile::accept(disk.into(), 4096), Err(Unfit::Unsealable(_))));
    }

    #[test]
    fn only_files_of_sysfs_are_bars() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        for path in [disk.path(), Path::new("/dev/null"), Path::new("/nowhere")] {
            assert!(SharedFile::bar(path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_file_shorter_than_announced_is_refused() {
        let fd = memfd(4096, MemfdFlags::ALLOW_SEALING);
        assert!(matches!(
            SharedFile::accept(fd, 8192),
            Err(Unfit::TooShort { has_bytes: 4096, needs_bytes: 8192 })
        ));
    }
}
