//! Private root directories: packages unpacked side by side, never installed, and programs run inside.
//!
//! No maintainer script runs. What the scripts of the few packages used here would have made (the links of the
//! merged `/usr`, `awk`) is made by hand.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::{Package, Universe};
use super::error::SetupError;
use super::progress::Progress;
use super::tools::{Log, command};

/// Left out of every root: nobody reads it there.
const EXCLUDED: &[&str] = &[
    "./usr/share/bash-completion",
    "./usr/share/bug",
    "./usr/share/doc",
    "./usr/share/info",
    "./usr/share/lintian",
    "./usr/share/locale",
    "./usr/share/man",
];

/// A directory that has the shape of `/`.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
}

/// How this process may enter a root.
#[derive(Debug, Clone, Copy)]
enum Entry {
    /// Root with a private mount name space: `/dev/null` is bound.
    Mounts,
    /// Root in a container that forbids mounts: `/dev/null` is made.
    Node,
    /// An ordinary user, root in a user name space.
    UserSpace,
}

impl Root {
    /// Makes an empty root at `path`, with the links of the merged `/usr`.
    pub(crate) fn create(path: PathBuf) -> Result<Self, SetupError> {
        for directory in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "dev", "proc", "tmp", "build"] {
            let path = path.join(directory);
            fs::create_dir_all(&path).map_err(SetupError::io("create", &path))?;
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            let link_path = path.join(link);
            symlink(format!("usr/{link}"), &link_path).map_err(SetupError::io("link", &link_path))?;
        }
        Ok(Self { path })
    }

    /// A path inside, as seen from outside.
    pub(crate) fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.path.join(inside)
    }

    /// Unpacks packages.
    pub(crate) fn unpack<'a>(
        &self,
        universe: &Universe,
        packages: impl IntoIterator<Item = &'a Package>,
        log: &Log,
        progress: &mut dyn Progress,
    ) -> Result<(), SetupError> {
        let packages: Vec<&Package> = packages.into_iter().collect();
        let total = packages.iter().map(|package| package.bytes).sum();
        let mut done = 0;
        for package in packages {
            let mut tar = self.tar();
            tar.args(EXCLUDED.iter().map(|path| format!("--exclude={path}")));
            log.pipeline(&format!("unpacking {}", package.name()), &mut [fsys(&universe.deb(package)), tar])?;
            done += package.bytes;
            progress.bytes(done, total);
        }
        Ok(())
    }

    fn tar(&self) -> Command {
        let mut tar = command("tar");
        tar.args(["-x", "--keep-directory-symlink", "--no-same-owner", "-C"]).arg(&self.path);
        tar
    }

    /// Runs a bash script with this directory as `/`, its output in the log.
    pub(crate) fn run(&self, what: &str, script: &str, log: &Log) -> Result<(), SetupError> {
        let mut inside = self.enter()?;
        inside.args(["/bin/bash", "-euc", script]);
        // What the machine's user has set (MAKEFLAGS, CROSS_COMPILE, KBUILD_*) must not change an artifact.
        inside.env_clear().env("PATH", super::tools::PATH).env("LC_ALL", "C").env("HOME", "/build");
        log.run(what, &mut inside)
    }

    fn enter(&self) -> Result<Command, SetupError> {
        let null = self.path("dev/null");
        match Entry::find().ok_or(SetupError::NoPrivateRoot)? {
            Entry::Node => {
                let mut mknod = command("mknod");
                mknod.args(["-m", "666"]).arg(&null).args(["c", "1", "3"]);
                let made = null.exists() || mknod.status().is_ok_and(|status| status.success());
                if !made {
                    return Err(SetupError::NoPrivateRoot);
                }
                let mut chroot = command("chroot");
                chroot.arg(&self.path);
                Ok(chroot)
            }
            entry @ (Entry::Mounts | Entry::UserSpace) => {
                fs::write(&null, "").map_err(SetupError::io("create", &null))?;
                let mut unshare = entry.unshare();
                unshare.args(["sh", "-ec", r#"mount --bind /dev/null "$0/dev/null"; exec chroot "$0" "$@""#]);
                unshare.arg(&self.path);
                Ok(unshare)
            }
        }
    }
}

impl Entry {
    /// The first way that works, tried for real: whether name spaces are allowed depends on half a dozen settings.
    fn find() -> Option<Self> {
        let ways: &[Self] = if rustix::process::geteuid().is_root() {
            &[Self::Mounts, Self::Node]
        } else {
            &[Self::UserSpace]
        };
        ways.iter().copied().find(|way| match way {
            Self::Node => true,
            Self::Mounts | Self::UserSpace => {
                let mut trial = way.unshare();
                trial.args(["mount", "--bind", "/dev/null", "/dev/null"]);
                trial.stderr(std::process::Stdio::null());
                trial.status().is_ok_and(|status| status.success())
            }
        })
    }

    fn unshare(self) -> Command {
        let mut unshare = command("unshare");
        unshare.arg("--mount");
        if matches!(self, Self::UserSpace) {
            unshare.arg("--map-root-user");
        }
        unshare
    }
}

/// The files of a package as a tar stream on standard output.
pub(crate) fn fsys(deb: &Path) -> Command {
    let mut dpkg = command("dpkg-deb");
    dpkg.arg("--fsys-tarfile").arg(deb);
    dpkg
}
