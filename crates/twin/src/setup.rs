//! What is fixed when a twin is made.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Size of a memory window in bytes: a power of two from 64 KiB to 512 MiB.
///
/// 512 MiB is where hardware ends (DPDK `ntb.rst`: 2^12 to 2^29 by firmware). Stock Linux clients need at most
/// 4 MiB: they allocate their buffer aligned to the window's size, and the page allocator ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    log2: u8,
}

/// A size that no window can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadWindowSize(String);

impl fmt::Display for BadWindowSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not a window size: give a power of two from 64K to 512M, such as 1M", self.0)
    }
}

impl std::error::Error for BadWindowSize {}

impl WindowSize {
    /// The default: 1 MiB.
    pub const DEFAULT: Self = Self { log2: 20 };

    /// A size in bytes.
    ///
    /// # Errors
    /// [`BadWindowSize`] unless it is a power of two from 64 KiB to 512 MiB.
    pub fn new(bytes: u64) -> Result<Self, BadWindowSize> {
        let log2 = bytes.trailing_zeros();
        match u8::try_from(log2) {
            Ok(log2 @ 16..=29) if bytes.is_power_of_two() => Ok(Self { log2 }),
            _ => Err(BadWindowSize(format!("{bytes} bytes"))),
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1u64.wrapping_shl(self.log2 as u32)
    }

    /// The exponent, as the size registers have it.
    #[must_use]
    pub const fn log2(self) -> u8 {
        self.log2
    }
}

impl FromStr for WindowSize {
    type Err = BadWindowSize;

    /// `65536`, `64K`, `1M`, `4MiB`: binary units.
    fn from_str(text: &str) -> Result<Self, BadWindowSize> {
        let bad = || BadWindowSize(format!("{text:?}"));
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = text.get(digits.len()..).unwrap_or_default().to_ascii_lowercase();
        let scale: u64 = match unit.as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            _ => return Err(bad()),
        };
        let number: u64 = digits.parse().map_err(|_| bad())?;
        Self::new(number.checked_mul(scale).ok_or_else(bad)?).map_err(|_| bad())
    }
}

impl fmt::Display for WindowSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.log2 {
            20.. => write!(f, "{}M", self.bytes() >> 20),
            _ => write!(f, "{}K", self.bytes() >> 10),
        }
    }
}

/// What a twin is made from.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Windows 0 and 1, the same on both ports.
    pub windows: [WindowSize; ntb_spec::WINDOWS],
    /// How long a link trains before it is up.
    ///
    /// Not a nicety: ntb_transport's probe enables the link and then handles the current state itself; a link that
    /// came up before that is cleaned up again and never starts (Linux `ntb_transport_probe`,
    /// `ntb_transport_link_cleanup` cancels `link_work`).
    pub training: Duration,
    /// Whether both ports have message registers, which no Gen3 hardware has ([`ntb_spec::messages`]).
    pub messages: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            windows: [WindowSize::DEFAULT; ntb_spec::WINDOWS],
            training: Duration::from_millis(100),
            messages: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_two_within_hardware() {
        for (text, bytes) in
            [("64K", 1 << 16), ("1M", 1 << 20), ("4MiB", 4 << 20), ("65536", 1 << 16), ("512m", 1 << 29)]
        {
            let size: WindowSize = text.parse().unwrap();
            assert_eq!(size.bytes(), bytes);
            assert_eq!(size.to_string().parse::<WindowSize>().unwrap(), size);
        }
        for text in ["", "K", "0", "3M", "32K", "1G", "1024M", "-1", "1T", "99999999999999999999", "1 M", "é"]
        {
            assert!(text.parse::<WindowSize>().is_err(), "{text}");
        }
    }
}
