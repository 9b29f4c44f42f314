//! What a user may choose, resolved from nothing but the arguments.

use crate::artifacts::Series;
use crate::windows::{Window, Windows};
use std::fmt;
use std::path::PathBuf;

/// How the guests' processors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// KVM where a guest comes up with it, else TCG.
    Auto,
    /// The processor's own virtualisation.
    Kvm,
    /// Emulation.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// One of the two guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// At the twin's port a, the upstream device.
    A,
    /// At the twin's port b, the downstream device.
    B,
}

impl Side {
    /// Both, in order.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Its letter.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// Position in a table of the two.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a process in guest a drives by VFIO. The guest has an IOMMU for it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vfio {
    /// Nothing: the guests' kernels have the devices.
    Nothing,
    /// Its own port.
    Port,
    /// Both ports, which are both in this guest.
    BothPorts,
}

/// Choices that all runs share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How processors run.
    pub accel: Accel,
    /// Which kernel.
    pub series: Series,
    /// How windows work.
    pub windows: Windows,
    /// Whether each guest has an I/OAT engine beside its NTB.
    pub dma: bool,
    /// What a process in guest a drives.
    pub vfio: Vfio,
    /// Whether the guests are joined by a virtio-net device as well, to compare with.
    pub virtio_net: bool,
    /// Whether QEMU tells perf which guest code its translated code is.
    pub perfmap: bool,
    /// The object that QEMU loads where windows are mapped.
    pub overlay: Option<PathBuf>,
    /// Size of each memory window.
    pub window_bytes: u64,
    /// Memory of each guest.
    pub memory_mib: u32,
    /// The guest whose gdb stub is opened.
    pub gdb: Option<Side>,
    /// Keep the run directory (consoles, logs) even when all went well.
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            accel: Accel::Auto,
            series: Series::V6_12,
            windows: Window::Trap.into(),
            dma: false,
            vfio: Vfio::Nothing,
            virtio_net: false,
            perfmap: false,
            overlay: None,
            window_bytes: 1 << 20,
            memory_mib: 512,
            gdb: None,
            keep: false,
        }
    }
}

/// The smallest window that the twin makes.
pub const MIN_WINDOW_BYTES: u64 = 64 << 10;
/// The largest one that the hardware has.
pub const MAX_WINDOW_BYTES: u64 = 512 << 20;
/// The smallest one that ntb_netdev can use: it wants ten free slots of 64 KiB before it sends again.
pub const MIN_NETWORK_WINDOW_BYTES: u64 = 1 << 20;
/// The largest one that stock clients can use: the kernel's page allocator gives no larger aligned block.
pub const MAX_STOCK_WINDOW_BYTES: u64 = 4 << 20;

/// A size as people write it: `65536`, `64K`, `1M`.
///
/// # Errors
/// A sentence that says what a window size may be.
pub fn parse_window_size(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Some(size) if size.is_power_of_two() && (MIN_WINDOW_BYTES..=MAX_WINDOW_BYTES).contains(&size) => {
            Ok(size)
        }
        _ => Err(format!("{text:?} is no window size: a power of two from 64K to 512M, such as 1M")),
    }
}

/// A size as people write it, whatever it is for.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let word = text.trim_end_matches(['B', 'b', 'i']);
    let (digits, shift) = match word.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 10),
        None => word.strip_suffix(['M', 'm']).map_or((word, 0), |digits| (digits, 20)),
    };
    digits.parse::<u64>().ok().and_then(|size| size.checked_mul(1 << shift))
}

/// A size for people: `1M`.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}M", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}K", bytes >> 10),
        _ => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_sizes_are_powers_of_two_within_limits() {
        for (text, size) in
            [("64K", 65536), ("1M", 1 << 20), ("1MiB", 1 << 20), ("131072", 131_072), ("512m", 1 << 29)]
        {
            assert_eq!(parse_window_size(text), Ok(size), "{text}");
        }
        for text in ["", "K", "32K", "1G", "3M", "1024M", "-1M", "99999999999999999999", "M1", "ä"] {
            assert!(parse_window_size(text).is_err(), "{text}");
        }
        assert_eq!(show_size(1 << 20), "1M");
        assert_eq!(show_size(65536), "64K");
    }
}
