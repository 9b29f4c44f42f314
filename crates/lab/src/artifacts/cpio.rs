//! A writer of newc cpio archives, the format of an initramfs (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Owner and time are always 0, and the caller gives the order: the same files give the same bytes. The
//! kernel reads archives one after another, so an archive may be appended to another as it is.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;
/// Archives are appended to each other: each ends on this boundary, as those of cpio(1) do.
const BLOCK_BYTES: u64 = 512;

/// Writes entries one after another; [`Writer::finish`] closes the archive.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    written: u64,
    entries: u32,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub const fn new(to: W) -> Self {
        Self { to, written: 0, entries: 0 }
    }

    /// A directory, mode 0755.
    ///
    /// # Errors
    /// What `to` says; so for every entry.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// A regular file.
    ///
    /// # Errors
    /// What `to` says, or that `data` is 4 GiB or longer.
    pub fn file(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | (mode & 0o7777), (0, 0), data)
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// What `to` says.
    pub fn symlink(&mut self, name: &str, target: &[u8]) -> io::Result<()> {
        self.entry(name, SYMLINK | 0o777, (0, 0), target)
    }

    /// A character device.
    ///
    /// # Errors
    /// What `to` says.
    pub fn character(&mut self, name: &str, mode: u32, major: u32, minor: u32) -> io::Result<()> {
        self.entry(name, CHARACTER | (mode & 0o7777), (major, minor), &[])
    }

    /// Everything under `from` (not `from` itself), sorted by name, under the archive's `prefix`.
    ///
    /// # Errors
    /// What the file system or `to` says. Sockets, pipes and devices are refused.
    pub fn tree(&mut self, prefix: &str, from: &Path) -> io::Result<()> {
        let mut entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let base = entry.file_name();
            let base = base.to_str().ok_or_else(|| io::Error::other(format!("{base:?} is not UTF-8")))?;
            let name = if prefix.is_empty() { base.to_owned() } else { format!("{prefix}/{base}") };
            let path = entry.path();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.directory(&name)?;
                self.tree(&name, &path)?;
            } else if kind.is_symlink() {
                self.symlink(&name, fs::read_link(&path)?.as_os_str().as_bytes())?;
            } else if kind.is_file() {
                self.file(&name, entry.metadata()?.permissions().mode(), &fs::read(&path)?)?;
            } else {
                return Err(io::Error::other(format!("{path:?} is neither file, directory nor link")));
            }
        }
        Ok(())
    }

    /// Writes the trailer and the padding; gives the destination back.
    ///
    /// # Errors
    /// What `to` says.
    pub fn finish(mut self) -> io::Result<W> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.pad(BLOCK_BYTES)?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::other(format!("{name} is too long for a cpio archive"));
        let name_bytes = u32::try_from(name.len() + 1).map_err(too_long)?;
        let data_bytes = u32::try_from(data.len()).map_err(too_long)?;
        // A trailer has inode 0; every other entry its own, since equal ones would make hard links.
        let inode = if mode == 0 { 0 } else { self.entries + 1 };
        self.entries = inode;
        let links = if mode & 0o170_000 == DIRECTORY { 2 } else { 1 };
        let (major, minor) = device;
        let fields = [inode, mode, 0, 0, links, 0, data_bytes, 0, 0, major, minor, name_bytes, 0];
        self.put(b"070701")?;
        for field in fields {
            self.put(format!("{field:08x}").as_bytes())?;
        }
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad(4)?;
        self.put(data)?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, boundary: u64) -> io::Result<()> {
        while !self.written.is_multiple_of(boundary) {
            self.put(&[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_bytes_that_the_format_says() {
        let mut writer = Writer::new(Vec::new());
        writer.file("a", 0o644, b"hi\n").unwrap();
        let bytes = writer.finish().unwrap();
        let mut golden = Vec::new();
        golden.extend(b"070701");
        golden.extend(b"00000001000081a400000000000000000000000100000000");
        golden.extend(b"00000003000000000000000000000000000000000000000200000000");
        golden.extend(b"a\0hi\n\0");
        golden.extend(b"070701");
        golden.extend(b"000000000000000000000000000000000000000100000000");
        golden.extend(b"00000000000000000000000000000000000000000000000b00000000");
        golden.extend(b"TRAILER!!!\0\0\0\0");
        golden.resize(512, 0);
        assert_eq!(bytes, golden);
    }

    #[test]
    fn entries_differ_by_kind_and_inode() {
        let mut writer = Writer::new(Vec::new());
        writer.directory("dev").unwrap();
        writer.character("dev/console", 0o600, 5, 1).unwrap();
        writer.symlink("sh", b"bash").unwrap();
        let bytes = writer.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("07070100000001000041ed"));
        assert!(text.contains("070701000000020000218000000000"));
        assert!(text.contains("0000000500000001"));
        assert!(text.contains("070701000000030000a1ff"));
        assert!(text.contains("sh\0bash") || text.contains("sh\0\0\0\0bash"));
    }

    #[test]
    fn a_tree_is_sorted_and_prefixed() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        fs::write(directory.path().join("sub/file"), "x").unwrap();
        fs::write(directory.path().join("first"), "y").unwrap();
        let mut writer = Writer::new(Vec::new());
        writer.tree("top", directory.path()).unwrap();
        let bytes = writer.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let places: Vec<_> =
            ["top/first", "top/sub\0", "top/sub/file"].iter().map(|name| text.find(name).unwrap()).collect();
        assert!(places.is_sorted());
    }
}
