//! A guest kernel: Debian's binary, and the NTB drivers that Debian leaves out, built from Debian's own source.
//!
//! Debian sets `CONFIG_NTB=n`. The sources of the drivers are taken from the `linux-source` package of exactly
//! the kernel's version and built unmodified as external modules, by the compiler that built the kernel, in a
//! private root of the same suite.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Series;
use super::apt::{Package, Suite, Universe, Wanted};
use super::cache::{Cache, key};
use super::error::SetupError;
use super::progress::Progress;
use super::root::{Root, fsys};
use super::tools::{Log, command};

/// Stock modules that a guest may load; their dependencies come along. Those a series has built in are passed over.
const STOCK_MODULES: &[&str] = &[
    // what QEMU plugs in
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_rng",
    "virtio_blk",
    "9pnet_virtio",
    "9p",
    // the I/OAT twin
    "ioatdma",
    "dca",
    // a guest that hands the twin on to a process
    "vfio-pci",
    "vfio_iommu_type1",
    "vfio",
    "uio_pci_generic",
    // networks beside ntb_netdev
    "tun",
    "veth",
    "bridge",
    "sch_netem",
];

/// Trees and files that leave the source archive.
const SOURCES: &[&str] = &[
    "drivers/ntb",
    "drivers/net/ntb_netdev.c",
    "drivers/dma/dmatest.c",
    "tools/testing/selftests/ntb/ntb_test.sh",
];

/// The configuration of the drivers, as the kernel's own makefiles take it.
const NTB_CONFIG: &str = "CONFIG_NTB=m CONFIG_NTB_INTEL=m CONFIG_NTB_TRANSPORT=m CONFIG_NTB_PINGPONG=m \
                          CONFIG_NTB_TOOL=m CONFIG_NTB_PERF=m";

/// Programs of the build; the compiler comes as a dependency of the headers.
const BUILD_TOOLS: &[&str] = &[
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "kmod",
    "make",
    "mawk",
    "perl-base",
    "sed",
    "tar",
    "xz-utils",
];

/// Dependencies that only an installed kernel needs; matched as prefixes of package names.
const UNNEEDED: &[&str] = &[
    "apparmor",
    "dracut-install",
    "initramfs-tools",
    "klibc-utils",
    "libapparmor",
    "libklibc",
    "libsystemd-shared",
    "linux-base",
    "linux-image-",
    "linux-source-",
    "systemd",
    "udev",
];

/// First script: builds the modules in /build/{ntb,netdev,dma}, and the list of stock modules' dependencies.
const BUILD: &str = r#"
headers=/usr/src/linux-headers-$release
ln -sf mawk /usr/bin/awk
# The BTF step wants pahole as soon as the header package brings a vmlinux.
command -v pahole >/dev/null || rm -f "$headers/vmlinux"
depmod "$release"
build() { make -s -j"$(nproc)" -C "$headers" "$@" modules; }
build M=/build/ntb $config
build M=/build/netdev KBUILD_EXTRA_SYMBOLS=/build/ntb/Module.symvers
build M=/build/dma
"#;

/// Second script: collects the stock modules listed in /build/stock and the built ones, as a guest loads them.
const COLLECT: &str = r#"
from=/lib/modules/$release
to=/build/image/lib/modules/$release
mkdir -p "$to/extra" /build/debug
while read -r module; do
    mkdir -p "$to/$(dirname "$module")"
    case $module in
    # Unpacked here once rather than in every guest that boots.
    *.xz) xz -dc "$from/$module" >"$to/${module%.xz}" ;;
    *) cp "$from/$module" "$to/$module" ;;
    esac
done </build/stock
for module in $(find /build/ntb /build/netdev /build/dma -name '*.ko'); do
    cp "$module" /build/debug/
    strip --strip-debug -o "$to/extra/$(basename "$module")" "$module"
done
for list in builtin builtin.modinfo order; do
    cp "$from/modules.$list" "$to/"
done
depmod -b /build/image "$release"
"#;

/// What differs between the series.
struct Edition {
    suite: Suite,
    /// The package with the source; also the directory in its archive.
    source: &'static str,
}

impl Series {
    const fn edition(self) -> Edition {
        match self {
            Self::V6_1 => Edition { suite: Suite::Bookworm, source: "linux-source-6.1" },
            Self::V6_12 => Edition { suite: Suite::Trixie, source: "linux-source-6.12" },
        }
    }

    /// The suite whose kernel this is.
    pub(crate) const fn suite(self) -> Suite {
        self.edition().suite
    }
}

/// A kernel in the cache.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Its artifact directory: `vmlinuz`, `release`, `modules/`, `debug/`, `ntb_test.sh`.
    pub(crate) directory: PathBuf,
    /// `uname -r`.
    pub(crate) release: String,
}

impl Kernel {
    /// Opens a kernel's artifact directory.
    pub(crate) fn load(directory: PathBuf) -> Result<Self, SetupError> {
        let path = directory.join("release");
        let release = fs::read_to_string(&path).map_err(SetupError::io("read", &path))?.trim().to_owned();
        Ok(Self { directory, release })
    }

    /// A file or tree of it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The name of its directory, which stands for its content.
    pub(crate) fn key(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The recipe's hash.
pub(crate) fn recipe(series: Series) -> String {
    let lists = [STOCK_MODULES, SOURCES, BUILD_TOOLS, UNNEEDED].into_iter().flatten().copied();
    key(["kernel 1", series.name(), series.edition().source, NTB_CONFIG, BUILD, COLLECT]
        .into_iter()
        .chain(lists))
}

/// The packages of one build.
struct Plan {
    release: String,
    names: Vec<String>,
    packages: Vec<Package>,
}

impl Plan {
    fn make(series: Series, universe: &Universe, log: &Log) -> Result<Self, SetupError> {
        let source = series.edition().source;
        // The metapackage says which kernel is the suite's present one ..
        let metapackage = Wanted { packages: &["linux-headers-amd64"], prefer: None };
        let found = universe.resolve(metapackage, log)?;
        let headers = universe.pick(&found, "kernel headers", |name| release_of(name).is_some())?;
        let (release, version) = (release_of(headers.name()).unwrap_or_default(), headers.version());
        // .. and its source must be of that very version.
        let mut names: Vec<String> = BUILD_TOOLS.iter().map(|name| (*name).to_owned()).collect();
        names.extend([
            headers.name().to_owned(),
            format!("linux-image-{release}={version}"),
            format!("{source}={version}"),
        ]);
        let mut plan = Self { release: release.to_owned(), names, packages: Vec::new() };
        plan.packages = plan.with_wanted(|wanted| universe.resolve(wanted, log))?;
        Ok(plan)
    }

    fn with_wanted<T>(&self, use_it: impl FnOnce(Wanted<'_>) -> T) -> T {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        use_it(Wanted { packages: &names, prefer: None })
    }
}

/// `linux-headers-6.12.107+deb13-amd64` is for `6.12.107+deb13-amd64`; `-common` and the metapackage are for none.
fn release_of(name: &str) -> Option<&str> {
    let release = name.strip_prefix("linux-headers-")?;
    (release.ends_with("-amd64") && release.starts_with(|letter: char| letter.is_ascii_digit()))
        .then_some(release)
}

/// Builds a kernel, or finds that the same packages have been built before.
pub(crate) fn build(
    series: Series,
    universe: &Universe,
    cache: &Cache,
    log: &Log,
    progress: &mut dyn Progress,
) -> Result<Kernel, SetupError> {
    let plan = Plan::make(series, universe, log)?;
    let recipe = recipe(series);
    let hashes = plan.packages.iter().map(|package| package.hash.as_str());
    let directory = format!("kernel/{}", key([recipe.as_str()].into_iter().chain(hashes)));
    if !cache.path(&directory).is_dir() {
        progress.step(&format!("Downloading Linux {} and its compiler", plan.release));
        plan.with_wanted(|wanted| universe.download(wanted, &plan.packages, log, progress))?;
        let scratch = make(series, &plan, universe, cache, log, progress)?;
        cache.publish(&scratch, &directory)?;
        universe.forget(&plan.packages);
    }
    cache.record(&request(series), &recipe, &directory)?;
    Kernel::load(cache.path(&directory))
}

/// What the record of choices calls this artifact.
pub(crate) fn request(series: Series) -> String {
    format!("kernel {}", series.name())
}

/// Everything between the downloads and a finished artifact directory.
fn make(
    series: Series,
    plan: &Plan,
    universe: &Universe,
    cache: &Cache,
    log: &Log,
    progress: &mut dyn Progress,
) -> Result<PathBuf, SetupError> {
    let release = plan.release.as_str();
    progress.step(&format!("Unpacking Linux {release}"));
    let root = Root::create(cache.scratch("kernel-root")?)?;
    let needed =
        plan.packages.iter().filter(|package| !UNNEEDED.iter().any(|name| package.name().starts_with(name)));
    root.unpack(universe, needed, log, progress)?;
    let image = universe.pick(&plan.packages, "kernel image", |name| name.starts_with("linux-image-"))?;
    root.unpack(universe, [image], log, progress)?;
    unpack_sources(series, plan, universe, &root, log, progress)?;

    progress.step(&format!("Building the NTB drivers for Linux {release}"));
    let head = format!("release={release}\nconfig='{NTB_CONFIG}'\n");
    root.run("building the NTB drivers", &format!("{head}{BUILD}"), log)?;
    let path = root.path("lib/modules").join(release).join("modules.dep");
    let dependencies = fs::read_to_string(&path).map_err(SetupError::io("read", &path))?;
    let stock: String =
        closure(&dependencies, STOCK_MODULES).iter().map(|module| format!("{module}\n")).collect();
    let path = root.path("build/stock");
    fs::write(&path, stock).map_err(SetupError::io("write", &path))?;
    root.run("collecting modules", &format!("{head}{COLLECT}"), log)?;

    let scratch = cache.scratch("kernel")?;
    for (from, to) in [
        (root.path("boot").join(format!("vmlinuz-{release}")), "vmlinuz"),
        (root.path("boot").join(format!("config-{release}")), "config"),
        (root.path("build/image/lib/modules"), "modules"),
        (root.path("build/debug"), "debug"),
        (root.path("build/source/tools/testing/selftests/ntb/ntb_test.sh"), "ntb_test.sh"),
        // Last: the entries above are inside it.
        (root.path("build/source"), "source"),
    ] {
        let to = scratch.join(to);
        // Within the cache's own file system: renaming moves.
        let moved = if from.is_file() { fs::copy(&from, &to).map(|_| ()) } else { fs::rename(&from, &to) };
        moved.map_err(SetupError::io("keep", &from))?;
    }
    let path = scratch.join("release");
    fs::write(&path, release).map_err(SetupError::io("write", &path))?;
    let path = root.path("");
    fs::remove_dir_all(&path).map_err(SetupError::io("clear", &path))?;
    Ok(scratch)
}

/// Takes the drivers out of the source archive and lays them out for the build.
fn unpack_sources(
    series: Series,
    plan: &Plan,
    universe: &Universe,
    root: &Root,
    log: &Log,
    progress: &mut dyn Progress,
) -> Result<(), SetupError> {
    let source = series.edition().source;
    progress.step("Taking the NTB drivers out of Debian's kernel source");
    let package = universe.pick(&plan.packages, source, |name| name == source)?;
    let from = root.path("build/source");
    fs::create_dir_all(&from).map_err(SetupError::io("create", &from))?;
    let mut archive = command("tar");
    archive.args(["-xO", &format!("./usr/src/{source}.tar.xz")]);
    let mut xz = command("xz");
    xz.arg("-dc");
    let mut files = command("tar");
    files.args(["-x", "--no-same-owner", "--strip-components=1", "-C"]).arg(&from);
    files.args(SOURCES.iter().map(|path| format!("{source}/{path}")));
    log.pipeline("unpacking the kernel source", &mut [fsys(&universe.deb(package)), archive, xz, files])?;

    // Outside the kernel's tree a single driver needs a makefile of its own; drivers/ntb brings the kernel's.
    let mut copy = command("cp");
    log.run("copying drivers/ntb", copy.arg("-r").arg(from.join("drivers/ntb")).arg(root.path("build/ntb")))?;
    for (directory, driver) in [("netdev", "drivers/net/ntb_netdev"), ("dma", "drivers/dma/dmatest")] {
        let to = root.path("build").join(directory);
        fs::create_dir_all(&to).map_err(SetupError::io("create", &to))?;
        let base = Path::new(driver).file_name().unwrap_or_default().to_string_lossy();
        let file = from.join(format!("{driver}.c"));
        fs::copy(&file, to.join(format!("{base}.c"))).map_err(SetupError::io("copy", &file))?;
        let makefile = to.join("Kbuild");
        fs::write(&makefile, format!("obj-m += {base}.o\n")).map_err(SetupError::io("write", &makefile))?;
    }
    Ok(())
}

/// The modules of `modules.dep` named in `wanted`, with all that they depend on (the file lists full closures).
fn closure<'a>(dependencies: &'a str, wanted: &[&str]) -> BTreeSet<&'a str> {
    let named = |path: &str| {
        let base = path.rsplit('/').next().unwrap_or(path);
        let name = base.split_once(".ko").map_or(base, |(name, _)| name);
        // Module names do not tell - from _.
        wanted.iter().any(|wanted| wanted.replace('-', "_") == name.replace('-', "_"))
    };
    dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(module, _)| named(module))
        .flat_map(|(module, needs)| [module].into_iter().chain(needs.split_whitespace()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closure_has_each_needed_module_once() {
        let dependencies = "kernel/a/vfio-pci.ko.xz: kernel/b/vfio.ko.xz kernel/c/irqbypass.ko.xz\n\
            kernel/b/vfio.ko.xz:\n\
            kernel/c/irqbypass.ko.xz:\n\
            kernel/d/virtio_net_other.ko: kernel/e/x.ko\n\
            kernel/d/virtio_net.ko: kernel/e/failover.ko\n";
        let modules: Vec<_> =
            closure(dependencies, &["vfio_pci", "virtio_net", "absent"]).into_iter().collect();
        let expected = [
            "kernel/a/vfio-pci.ko.xz",
            "kernel/b/vfio.ko.xz",
            "kernel/c/irqbypass.ko.xz",
            "kernel/d/virtio_net.ko",
            "kernel/e/failover.ko",
        ];
        assert_eq!(modules, expected);
    }

    #[test]
    fn only_a_flavours_headers_name_a_release() {
        assert_eq!(release_of("linux-headers-6.12.107+deb13-amd64"), Some("6.12.107+deb13-amd64"));
        assert_eq!(release_of("linux-headers-6.12.107+deb13-common"), None);
        assert_eq!(release_of("linux-headers-amd64"), None);
        assert_eq!(release_of("linux-image-6.1.0-50-amd64"), None);
    }

    #[test]
    fn the_series_have_different_recipes() {
        assert_ne!(recipe(Series::V6_1), recipe(Series::V6_12));
    }
}
