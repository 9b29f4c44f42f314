//! What a lab run needs from outside: a QEMU, a kernel with the NTB modules, a guest user space.
//!
//! ```text
//! the machine's apt sources ─► mirror ─► apt (one private universe per suite) ─► debs
//!      debs ─► root ─► qemu                        trixie-backports, unless the machine's own will do
//!      debs ─► root ─► kernel                      vmlinuz, stock modules, NTB modules built here
//!      debs ─► root ─► image (cpio)                programs + the kernel's modules = rootfs.cpio
//!                each ─► cache                     a directory named by what made it, complete or absent
//! ```
//!
//! Nothing is installed, nothing outside the cache is written, and root is not needed. Which packages to use is
//! asked of the archive once; later setups reuse the recorded answer until told to refresh.

mod apt;
mod cache;
pub mod cpio;
mod error;
mod image;
mod kernel;
mod mirror;
mod progress;
mod qemu;
mod root;
mod setup;
mod tools;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

pub use error::SetupError;
pub use progress::{Progress, Silent};
pub use setup::{Artifacts, SetupOptions, find_qemu, setup, setup_image, setup_qemu};

/// A QEMU that has `vfio-user-pci`, and how to start it.
///
/// Where the machine's own QEMU will not do, this is one from a private root, started by that root's
/// dynamic loader: hence a prefix and an environment rather than a bare path.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// The file to execute: QEMU itself, or the private root's loader.
    pub program: PathBuf,
    /// Arguments that come before QEMU's own (the loader's, then QEMU's path, `-L` firmware directories).
    pub prefix: Vec<OsString>,
    /// Environment that this QEMU needs.
    pub env: Vec<(OsString, OsString)>,
    /// `major, minor, micro` as QEMU prints them.
    pub version: (u32, u32, u32),
}

impl Qemu {
    /// A command that starts this QEMU; the caller adds QEMU's arguments.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.prefix).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A guest kernel series that the lab knows how to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Series {
    /// Linux 6.1, Debian 12.
    V6_1,
    /// Linux 6.12, Debian 13.
    V6_12,
}

impl Series {
    /// Every series, oldest first.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// As people write it: `6.12`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// A kernel, its modules and a user space, ready to boot.
#[derive(Debug, Clone)]
pub struct GuestImage {
    /// Which series was asked for.
    pub series: Series,
    /// `uname -r` of the guest.
    pub release: String,
    /// The kernel to hand to `-kernel`.
    pub kernel: PathBuf,
    /// A newc cpio archive (uncompressed, so that another can be appended) with the user space under `/`
    /// and the kernel modules under `/lib/modules/RELEASE`, but without `/init`: the run adds that.
    pub rootfs: PathBuf,
    /// Directory of the NTB modules with their debug information, for gdb on the host.
    pub debug_modules: PathBuf,
}
