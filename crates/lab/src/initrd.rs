//! The archive that a run adds to a guest's root: this very executable, and how to start it.
//!
//! The kernel unpacks archives one after another, so the run's archive is appended to the image's. The
//! executable comes with its own loader and libraries: it does not matter which libc the guest has.

use crate::agent::{HOME, SELF};
use crate::artifacts::cpio::Writer;
use anyhow::{Context, bail};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Writes `image` and the run's own archive into the file `to`.
///
/// # Errors
/// When a file cannot be read or written, or the executable is not a dynamic ELF of this machine.
pub fn write(image: &Path, executable: &Path, to: &Path) -> anyhow::Result<()> {
    let mut out = BufWriter::new(File::create(to).with_context(|| format!("cannot write {}", to.display()))?);
    let mut rootfs = File::open(image).with_context(|| format!("cannot read {}", image.display()))?;
    io::copy(&mut rootfs, &mut out)?;
    archive(executable, out)?.flush()?;
    Ok(())
}

fn archive<W: Write>(executable: &Path, out: W) -> anyhow::Result<W> {
    let home = HOME.trim_start_matches('/');
    let bytes = fs::read(executable).with_context(|| format!("cannot read {}", executable.display()))?;
    let mut cpio = Writer::new(out);
    for directory in [home, &format!("{home}/lib"), &format!("{home}/bin")] {
        cpio.directory(directory)?;
    }
    let start = match interpreter(&bytes)? {
        Some(loader) => {
            for library in libraries(&loader, executable)? {
                let name = library.file_name().and_then(OsStr::to_str).context("a library without a name")?;
                let bytes =
                    fs::read(&library).with_context(|| format!("cannot read {}", library.display()))?;
                cpio.file(&format!("{home}/lib/{name}"), 0o755, &bytes)?;
            }
            cpio.file(&format!("{home}/lib/ld.so"), 0o755, &fs::read(&loader)?)?;
            format!("exec {HOME}/lib/ld.so --library-path {HOME}/lib {HOME}/isthmus \"$@\"")
        }
        None => format!("exec {HOME}/isthmus \"$@\""),
    };
    cpio.file(&format!("{home}/isthmus"), 0o755, &without_sections(bytes))?;
    cpio.file(SELF.trim_start_matches('/'), 0o755, format!("#!/bin/sh\n{start}\n").as_bytes())?;
    let ssh = format!("#!/bin/sh\nexec {SELF} lab agent ssh \"$@\"\n");
    cpio.file(&format!("{home}/bin/ssh"), 0o755, ssh.as_bytes())?;
    cpio.file("init", 0o755, format!("#!/bin/sh\nexec {SELF} lab agent init\n").as_bytes())?;
    Ok(cpio.finish()?)
}

/// The shared libraries that the loader would load for an executable.
fn libraries(loader: &Path, executable: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new(loader).arg("--list").arg(executable).output();
    let output = output.with_context(|| format!("cannot run {}", loader.display()))?;
    if !output.status.success() {
        bail!("{} does not list the libraries of {}", loader.display(), executable.display());
    }
    Ok(listed(&String::from_utf8_lossy(&output.stdout)))
}

/// The paths in `NAME => PATH (ADDRESS)` lines; the vDSO and the loader have no arrow.
fn listed(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_once(" => ")?.1.rsplit_once(" (").map(|(path, _)| path))
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

const ELF64_LITTLE: &[u8] = b"\x7fELF\x02\x01";
const PT_LOAD: u64 = 1;
const PT_INTERP: u64 = 3;

/// One program header: type, offset, bytes in the file.
fn program_headers(elf: &[u8]) -> Option<Vec<(u64, usize, usize)>> {
    if !elf.starts_with(ELF64_LITTLE) {
        return None;
    }
    let start = usize::try_from(number(elf, 32, 8)?).ok()?;
    let (entry, count) = (usize::try_from(number(elf, 54, 2)?).ok()?, number(elf, 56, 2)?);
    (0..usize::try_from(count).ok()?)
        .map(|index| {
            let at = start + index * entry;
            let offset = usize::try_from(number(elf, at + 8, 8)?).ok()?;
            Some((number(elf, at, 4)?, offset, usize::try_from(number(elf, at + 32, 8)?).ok()?))
        })
        .collect()
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(width)?)?;
    Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The dynamic loader that an executable names; `None` for a static one.
fn interpreter(elf: &[u8]) -> anyhow::Result<Option<PathBuf>> {
    let headers = program_headers(elf).context("the isthmus executable is not a 64-bit ELF file")?;
    let Some((_, offset, bytes)) = headers.into_iter().find(|header| header.0 == PT_INTERP) else {
        return Ok(None);
    };
    let name = elf.get(offset..offset + bytes).context("the executable is cut off")?;
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    Ok(Some(PathBuf::from(OsStr::from_bytes(name))))
}

/// The executable without what follows its segments, which is sections and so debug information: a guest
/// has to unpack all of it before its first process runs.
fn without_sections(mut elf: Vec<u8>) -> Vec<u8> {
    let end = program_headers(&elf).and_then(|headers| {
        headers
            .into_iter()
            .filter(|header| header.0 == PT_LOAD)
            .map(|(_, offset, bytes)| offset + bytes)
            .max()
    });
    if let Some(end) = end.filter(|end| *end >= 64 && *end < elf.len()) {
        elf.truncate(end);
        // e_shoff; then e_shnum and e_shstrndx.
        elf[40..48].fill(0);
        elf[60..64].fill(0);
    }
    elf
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_loaders_list_is_read() {
        let text = "\tlinux-vdso.so.1 (0x7ffe)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n\tlibq.so => not found\n";
        assert_eq!(listed(text), [PathBuf::from("/lib/x/libc.so.6")]);
    }

    #[test]
    fn an_executable_runs_without_its_sections_and_by_the_loader_of_its_own() {
        let elf = fs::read("/bin/true").unwrap();
        let loader = interpreter(&elf).unwrap().expect("a dynamic executable");
        let short = without_sections(elf.clone());
        assert!(short.len() < elf.len());
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("true");
        fs::write(&copy, short).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Command::new(loader).arg(&copy).status().unwrap().success());
    }

    #[test]
    fn the_archive_has_what_a_guest_starts() {
        let bytes = archive(Path::new("/bin/true"), Vec::new()).unwrap();
        for name in ["init\0", "isthmus/isthmus\0", "isthmus/bin/ssh\0", "isthmus/lib/ld.so\0", "libc.so.6\0"]
        {
            assert!(bytes.windows(name.len()).any(|part| part == name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_is_no_executable_is_refused() {
        assert!(interpreter(b"#!/bin/sh\n").is_err());
        assert_eq!(without_sections(b"short".to_vec()), b"short");
    }
}
