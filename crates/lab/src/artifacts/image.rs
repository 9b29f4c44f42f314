//! The guest's user space as one cpio archive: a shell, the tools of a network and PCI test, the kernel's modules.
//!
//! Programs are chosen one by one and their libraries found by the loader of the private root, so that the
//! archive holds nothing that a guest does not run: under TCG, unpacking is a good part of booting.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::apt::{Universe, Wanted};
use super::cache::{Cache, key};
use super::cpio;
use super::error::SetupError;
use super::kernel::Kernel;
use super::progress::Progress;
use super::root::Root;
use super::tools::{Log, command};
use super::{GuestImage, Series};

/// What ntb_test.sh calls beyond busybox: bash, kmod, and the cmp of diffutils. The rest is for people and benchmarks.
const PACKAGES: &[&str] = &[
    "bash",
    "busybox-static",
    "diffutils",
    "ethtool",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "kmod",
    "pciutils",
];

/// Programs that go into the archive; the applets of busybox stand in for everything else.
const PROGRAMS: &[&str] = &[
    "usr/bin/bash",
    "usr/bin/busybox",
    "usr/bin/cmp",
    "usr/bin/ip",
    "usr/bin/iperf3",
    "usr/bin/kmod",
    "usr/bin/lspci",
    "usr/bin/ping",
    "usr/bin/setpci",
    "usr/bin/ss",
    "usr/sbin/ethtool",
    "usr/sbin/bridge",
    "usr/sbin/tc",
];

/// Names under which kmod is each of its tools.
const KMOD: &[&str] = &["depmod", "insmod", "lsmod", "modinfo", "modprobe", "rmmod"];

/// Applets that busybox must not give: `ssh` and friends come with the run, an init of its own would confuse.
const NO_APPLETS: &[&str] = &["busybox", "init", "linuxrc", "ssh"];

const DIRECTORIES: &[&str] = &["dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "var/log"];

/// Small files, as text.
const FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
    ("etc/group", "root:x:0:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

/// PCI vendors whose names lspci should know: Intel, the virtio and QEMU ones.
const PCI_VENDORS: &[&str] = &["1234", "1af4", "1b36", "8086"];

/// Libraries that no program names: glibc opens this one when a thread is cancelled, as iperf3's are.
const OPENED_LATER: &[&str] = &["libgcc_s.so.1"];

const SELFTEST: &str = "usr/lib/isthmus/ntb_test.sh";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";

/// The recipe's hash. The kernel is part of it: its modules are in the archive.
pub(crate) fn recipe(kernel: &Kernel) -> String {
    let lists = [PACKAGES, PROGRAMS, KMOD, NO_APPLETS, DIRECTORIES, PCI_VENDORS, OPENED_LATER]
        .into_iter()
        .flatten()
        .copied();
    let files = FILES.iter().flat_map(|(name, text)| [*name, *text]);
    let fixed = key(["image 1", SELFTEST].into_iter().chain(lists).chain(files));
    key([fixed.as_str(), kernel.key().as_str()])
}

/// The image in an artifact directory.
pub(crate) fn load(series: Series, kernel: &Kernel, directory: &Path) -> GuestImage {
    GuestImage {
        series,
        release: kernel.release.clone(),
        kernel: kernel.path("vmlinuz"),
        rootfs: directory.join("rootfs.cpio"),
        debug_modules: kernel.path("debug"),
    }
}

/// Packs the archive for one kernel, or finds that the same one has been packed before.
pub(crate) fn build(
    series: Series,
    kernel: &Kernel,
    universe: &Universe,
    cache: &Cache,
    log: &Log,
    progress: &mut dyn Progress,
) -> Result<GuestImage, SetupError> {
    let wanted = Wanted { packages: PACKAGES, prefer: None };
    let packages = universe.resolve(wanted, log)?;
    let recipe = recipe(kernel);
    let hashes = packages.iter().map(|package| package.hash.as_str());
    let directory = format!("image/{}", key([recipe.as_str()].into_iter().chain(hashes)));
    if !cache.path(&directory).is_dir() {
        progress.step("Downloading the guest's programs");
        universe.download(wanted, &packages, log, progress)?;
        progress.step(&format!("Packing the user space for Linux {}", kernel.release));
        let root = Root::create(cache.scratch("image-root")?)?;
        root.unpack(universe, &packages, log, progress)?;
        let stage = cache.scratch("image-stage")?;
        lay_out(&root, &stage, kernel, log)?;
        let scratch = cache.scratch("image")?;
        let path = scratch.join("rootfs.cpio");
        pack(&stage, kernel, &path).map_err(SetupError::io("pack", &path))?;
        cache.publish(&scratch, &directory)?;
        for path in [root.path(""), stage] {
            fs::remove_dir_all(&path).map_err(SetupError::io("clear", &path))?;
        }
    }
    cache.record(&request(series), &recipe, &directory)?;
    Ok(load(series, kernel, &cache.path(&directory)))
}

/// What the record of choices calls this artifact.
pub(crate) fn request(series: Series) -> String {
    format!("image {}", series.name())
}

/// Puts together the tree that becomes the archive, modules apart.
fn lay_out(root: &Root, stage: &Path, kernel: &Kernel, log: &Log) -> Result<(), SetupError> {
    for name in DIRECTORIES {
        make_directory(&stage.join(name))?;
    }
    let guest = Root::create(stage.to_owned())?;
    for name in PROGRAMS {
        copy(&root.path(name), &guest.path(name))?;
    }
    let bin = guest.path("usr/bin");
    for name in KMOD {
        link("../bin/kmod", &guest.path("usr/sbin").join(name))?;
    }
    for name in applets(root, log)? {
        if ["usr/bin", "usr/sbin"].iter().all(|directory| !guest.path(directory).join(&name).exists()) {
            link("busybox", &bin.join(&name))?;
        }
    }
    for library in libraries(root, log)? {
        copy(&root.path(LIBRARIES).join(&library), &guest.path(LIBRARIES).join(&library))?;
    }
    link(&format!("../lib/x86_64-linux-gnu/{LOADER}"), &guest.path("usr/lib64").join(LOADER))?;
    for (name, text) in FILES {
        write(&guest.path(name), text)?;
    }
    let ids = root.path("usr/share/misc/pci.ids");
    let text = fs::read(&ids).map_err(SetupError::io("read", &ids))?;
    write(&guest.path("usr/share/misc/pci.ids"), &pci_ids(&String::from_utf8_lossy(&text)))?;
    let selftest = guest.path(SELFTEST);
    copy(&kernel.path("ntb_test.sh"), &selftest)?;
    fs::set_permissions(&selftest, fs::Permissions::from_mode(0o755))
        .map_err(SetupError::io("open up", &selftest))
}

/// The names that this busybox answers to; it is static and runs as it is.
fn applets(root: &Root, log: &Log) -> Result<Vec<String>, SetupError> {
    let list =
        log.output("asking busybox for its applets", command(root.path("usr/bin/busybox")).arg("--list"))?;
    Ok(list.lines().filter(|name| !NO_APPLETS.contains(name)).map(str::to_owned).collect())
}

/// File names of the libraries that the programs need, asked of the root's own loader.
fn libraries(root: &Root, log: &Log) -> Result<BTreeSet<String>, SetupError> {
    let directory = root.path(LIBRARIES);
    let mut names: BTreeSet<String> =
        OPENED_LATER.iter().chain(&[LOADER]).map(|name| (*name).to_owned()).collect();
    for program in PROGRAMS.iter().filter(|name| !name.ends_with("busybox")) {
        let mut loader = command(directory.join(LOADER));
        loader
            .args(["--inhibit-cache", "--library-path"])
            .arg(&directory)
            .arg("--list")
            .arg(root.path(program));
        names.extend(needed(&log.output(&format!("finding the libraries of {program}"), &mut loader)?));
    }
    Ok(names)
}

/// `\tlibx.so.1 => /root/usr/lib/../libx.so.1 (0x..)`: the names on the left. The loader names itself by path.
fn needed(listing: &str) -> impl Iterator<Item = String> + '_ {
    listing
        .lines()
        .filter_map(|line| line.split_once(" => "))
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| !name.contains('/'))
}

/// The part of pci.ids about [`PCI_VENDORS`]: a vendor begins at a line's start, its devices are indented.
fn pci_ids(text: &str) -> String {
    let mut keep = false;
    let mut kept = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if !line.starts_with('\t') {
            // Classes ("C 01  ..") come last and are kept: lspci prints them for every device.
            keep =
                line.starts_with("C ") || line.get(..4).is_some_and(|vendor| PCI_VENDORS.contains(&vendor));
        }
        if keep {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

fn pack(stage: &Path, kernel: &Kernel, path: &Path) -> std::io::Result<()> {
    let mut archive = cpio::Writer::new(BufWriter::new(File::create(path)?));
    archive.tree("", stage)?;
    // Without a console node the kernel starts init with no standard output.
    archive.character("dev/console", 0o600, 5, 1)?;
    archive.character("dev/null", 0o666, 1, 3)?;
    archive.directory("usr/lib/modules")?;
    archive.tree("usr/lib/modules", &kernel.path("modules"))?;
    archive.finish().map(|_| ())
}

fn make_directory(path: &Path) -> Result<(), SetupError> {
    fs::create_dir_all(path).map_err(SetupError::io("create", path))
}

fn copy(from: &Path, to: &Path) -> Result<(), SetupError> {
    to.parent().map_or(Ok(()), make_directory)?;
    fs::copy(from, to).map(|_| ()).map_err(SetupError::io("copy", from))
}

fn link(target: &str, path: &Path) -> Result<(), SetupError> {
    symlink(target, path).map_err(SetupError::io("link", path))
}

fn write(path: &Path, text: &str) -> Result<(), SetupError> {
    path.parent().map_or(Ok(()), make_directory)?;
    fs::write(path, text).map_err(SetupError::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_loaders_listing() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibtinfo.so.6 => /root/usr/lib/x86_64-linux-gnu/libtinfo.so.6 (0x00007f01)\n\
            \t/lib64/ld-linux-x86-64.so.2 => /root/usr/lib/ld-linux-x86-64.so.2 (0x00007f02)\n";
        assert_eq!(needed(listing).collect::<Vec<_>>(), ["libtinfo.so.6"]);
    }

    #[test]
    fn pci_ids_keep_the_labs_vendors_and_the_classes() {
        let text = "# comment\n\n0001  Other\n\t0001  Thing\n8086  Intel Corporation\n\t201c  NTB\n\t\t8086 0000  Sub\n\
            9999  Last\nC 06  Bridge\n\t80  Bridge\n";
        assert_eq!(
            pci_ids(text),
            "8086  Intel Corporation\n\t201c  NTB\n\t\t8086 0000  Sub\nC 06  Bridge\n\t80  Bridge\n"
        );
    }
}
