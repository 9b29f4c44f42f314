//! What a lab run needs from outside: a QEMU, a kernel with the NTB modules, a guest user space.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

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
