//! A QEMU with `vfio-user-pci`: the one asked for, the machine's own, or one in a private root.
//!
//! Debian 13's QEMU 10.0 has no vfio-user client; its backports have one that does. On an older machine that
//! QEMU runs by the loader and the libraries of its own root, with no chroot: it sees the machine's files.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::Qemu;
use super::apt::{Suite, Universe, Wanted};
use super::cache::{Cache, key};
use super::error::SetupError;
use super::progress::Progress;
use super::root::Root;
use super::tools::{Log, command};

/// The first release with the vfio-user client.
const OLDEST: (u32, u32, u32) = (10, 1, 0);

/// Devices that a lab plugs in.
const DEVICES: &[&str] =
    &["vfio-user-pci", "pcie-root-port", "virtio-serial-pci", "virtio-net-pci", "intel-iommu", "isa-serial"];

/// `ipxe-qemu` has the option ROM without which virtio-net-pci does not start.
const PACKAGES: &[&str] = &["qemu-system-x86", "ipxe-qemu", "seabios"];

/// Changes when the way the root is made does.
const RECIPE: &str = "qemu 1: only qemu-system-x86_64, its libraries, modules and firmware";

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";

/// What the record of choices calls this artifact.
pub(crate) const REQUEST: &str = "qemu";

/// The QEMU at `path`, which the caller insists on.
pub(crate) fn given(path: &Path) -> Result<Qemu, SetupError> {
    probe(bare(path)).map_err(|reason| SetupError::Qemu { path: path.to_owned(), reason })
}

/// The machine's own QEMU, if it will do.
pub(crate) fn of_machine() -> Option<Qemu> {
    let path = std::env::var_os("PATH")?;
    let candidate = std::env::split_paths(&path)
        .map(|directory| directory.join("qemu-system-x86_64"))
        .find(|path| path.is_file())?;
    match probe(bare(&candidate)) {
        Ok(qemu) => Some(qemu),
        Err(reason) => {
            tracing::info!(?candidate, reason, "the machine's QEMU will not do");
            None
        }
    }
}

/// The recipe's hash.
pub(crate) fn recipe() -> String {
    key([RECIPE].into_iter().chain(PACKAGES.iter().copied()))
}

/// The private QEMU in an artifact directory.
pub(crate) fn load(directory: &Path) -> Result<Qemu, SetupError> {
    let path = directory.join("version.json");
    let text = fs::read(&path).map_err(SetupError::io("read", &path))?;
    let version = serde_json::from_slice(&text)
        .map_err(|error| SetupError::Damaged { path, reason: error.to_string() })?;
    Ok(Qemu { version, ..private(&directory.join("root")) })
}

/// Makes the private root, or finds that the same packages have been unpacked before.
pub(crate) fn build(
    universe: &Universe,
    cache: &Cache,
    log: &Log,
    progress: &mut dyn Progress,
) -> Result<Qemu, SetupError> {
    let wanted = Wanted { packages: PACKAGES, prefer: Suite::Trixie.backports() };
    let packages = universe.resolve(wanted, log)?;
    let recipe = recipe();
    let hashes = packages.iter().map(|package| package.hash.as_str());
    let directory = format!("{REQUEST}/{}", key([recipe.as_str()].into_iter().chain(hashes)));
    if !cache.path(&directory).is_dir() {
        progress.step("Downloading QEMU");
        universe.download(wanted, &packages, log, progress)?;
        progress.step("Unpacking QEMU");
        let scratch = cache.scratch("qemu")?;
        let root = Root::create(scratch.join("root"))?;
        root.unpack(universe, &packages, log, progress)?;
        trim(&root)?;
        let qemu = probe(private(&root.path(""))).map_err(|reason| SetupError::Archive {
            suite: Suite::Trixie.name(),
            wanted: format!("QEMU that starts here ({reason})"),
        })?;
        let path = scratch.join("version.json");
        fs::write(&path, serde_json::json!(qemu.version).to_string())
            .map_err(SetupError::io("write", &path))?;
        cache.publish(&scratch, &directory)?;
        universe.forget(&packages);
    }
    cache.record(REQUEST, &recipe, &directory)?;
    load(&cache.path(&directory))
}

/// Deletes what this QEMU never opens: two thirds of the root.
fn trim(root: &Root) -> Result<(), SetupError> {
    let mut useless: Vec<PathBuf> =
        ["etc", "var", "usr/sbin", "usr/include", "usr/games"].iter().map(|name| root.path(name)).collect();
    for (directory, kept) in
        [("usr/bin", &["qemu-system-x86_64"][..]), ("usr/share", &["qemu", "seabios", "vgabios", "ipxe"][..])]
    {
        let directory = root.path(directory);
        for entry in fs::read_dir(&directory).map_err(SetupError::io("read", &directory))? {
            let entry = entry.map_err(SetupError::io("read", &directory))?;
            if !kept.iter().any(|name| entry.file_name() == *name) {
                useless.push(entry.path());
            }
        }
    }
    for path in useless {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let removed = if metadata.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(SetupError::io("delete", &path))?;
    }
    Ok(())
}

fn bare(path: &Path) -> Qemu {
    Qemu { program: path.to_owned(), prefix: Vec::new(), env: Vec::new(), version: (0, 0, 0) }
}

/// How to start the QEMU of a private root; its version is yet unknown.
fn private(root: &Path) -> Qemu {
    let libraries = root.join(LIBRARIES);
    let firmware = |name: &str| root.join("usr/share").join(name).into_os_string();
    let mut prefix: Vec<OsString> =
        ["--inhibit-cache", "--argv0", "qemu-system-x86_64", "--library-path"].map(OsString::from).into();
    prefix.extend([libraries.clone().into_os_string(), root.join(PROGRAM).into_os_string()]);
    for name in ["qemu", "seabios"] {
        prefix.extend([OsString::from("-L"), firmware(name)]);
    }
    Qemu {
        program: libraries.join("ld-linux-x86-64.so.2"),
        prefix,
        env: vec![("QEMU_MODULE_DIR".into(), libraries.join("qemu").into_os_string())],
        version: (0, 0, 0),
    }
}

/// Starts a QEMU to see that it does start, is new enough and has the devices.
fn probe(qemu: Qemu) -> Result<Qemu, String> {
    let ask = |arguments: &[&str]| {
        // As `Qemu::command` does, but with this module's fixed locale.
        let mut child = command(&qemu.program);
        child.args(&qemu.prefix).envs(qemu.env.iter().map(|(name, value)| (name, value))).args(arguments);
        let output = child.output().map_err(|error| format!("it does not start: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(format!("{} fails: {said}", arguments.join(" ")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let version = parse_version(&ask(&["--version"])?).ok_or("it does not print a version")?;
    if version < OLDEST {
        let (major, minor, micro) = version;
        return Err(format!("it is version {major}.{minor}.{micro}, and vfio-user came with 10.1"));
    }
    let devices = ask(&["-device", "help"])?;
    let absent = |name: &&&str| !devices.contains(&format!("name \"{name}\""));
    if let Some(name) = DEVICES.iter().find(absent) {
        return Err(format!("it is built without the device {name}"));
    }
    Ok(Qemu { version, ..qemu })
}

/// `QEMU emulator version 11.1.3 (Debian ..)`.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let text = text.split_once("version ")?.1;
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let mut numbers = text.get(..end)?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_distributions_print_them() {
        let debian = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright (c)";
        assert_eq!(parse_version(debian), Some((11, 1, 3)));
        assert_eq!(parse_version("QEMU emulator version 10.1.0\n"), Some((10, 1, 0)));
        assert_eq!(parse_version("nothing of the kind"), None);
    }

    #[test]
    fn a_program_that_is_no_qemu_is_refused_with_a_reason() {
        let error = given(Path::new("/bin/true")).unwrap_err();
        assert!(matches!(error, SetupError::Qemu { reason, .. } if reason.contains("version")));
    }
}
