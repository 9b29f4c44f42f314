//! The ways through a memory window, and which of them each port's windows take.

use crate::options::Side;
use control::{WindowClass, WindowMode};
use std::fmt;
use std::str::FromStr;

/// How stores into a port's BAR cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Every access is a message to the twin.
    Trap,
    /// Every access is a message, and bulk goes by the I/OAT engine.
    Dma,
    /// The BAR is memory that the peer's BAR is too.
    Shared,
    /// The BAR is memory that the peer's RAM is too.
    Alias,
    /// The BAR is the peer's RAM.
    Direct,
}

impl Window {
    /// Every mode, in the order in which they are compared.
    pub const ALL: [Self; 5] = [Self::Trap, Self::Dma, Self::Shared, Self::Alias, Self::Direct];

    /// What the twin calls it.
    #[must_use]
    pub fn mode(self) -> WindowMode {
        match self {
            Self::Trap => WindowMode::Trap,
            Self::Dma => WindowMode::Dma,
            Self::Shared => WindowMode::Shared,
            Self::Alias => WindowMode::Alias,
            Self::Direct => WindowMode::Direct,
        }
    }

    /// Whether accesses reach the twin.
    #[must_use]
    pub fn class(self) -> WindowClass {
        match self {
            Self::Trap | Self::Dma => WindowClass::Messaged,
            Self::Shared | Self::Alias | Self::Direct => WindowClass::Mapped,
        }
    }

    /// Whether the BAR is memory, which needs the overlay in QEMU.
    #[must_use]
    pub fn is_mapped(self) -> bool {
        self.class() == WindowClass::Mapped
    }

    /// Whether stores arrive in the peer's RAM, the only place where stock drivers look for them.
    #[must_use]
    pub fn reaches_ram(self) -> bool {
        self != Self::Shared
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Dma => "dma",
            Self::Shared => "shared",
            Self::Alias => "alias",
            Self::Direct => "direct",
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|window| window.name() == text);
        found.ok_or_else(|| format!("{text:?} is no mode: trap, dma, shared, alias or direct"))
    }
}

/// The mode of port a's windows and that of port b's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows([Window; 2]);

impl Windows {
    /// The mode of a guest's own BARs: how what it stores crosses.
    #[must_use]
    pub fn of(self, side: Side) -> Window {
        let [a, b] = self.0;
        match side {
            Side::A => a,
            Side::B => b,
        }
    }

    /// Whether any of them is memory, which needs the overlay in QEMU.
    #[must_use]
    pub fn any_mapped(self) -> bool {
        self.0.into_iter().any(Window::is_mapped)
    }

    /// Whether both ways end in RAM, which stock network drivers need.
    #[must_use]
    pub fn reach_ram(self) -> bool {
        self.0.into_iter().all(Window::reaches_ram)
    }

    /// Whether a mode asks for the I/OAT engine.
    #[must_use]
    pub fn want_dma(self) -> bool {
        self.0.contains(&Window::Dma)
    }
}

impl From<Window> for Windows {
    fn from(window: Window) -> Self {
        Self([window; 2])
    }
}

impl fmt::Display for Windows {
    /// As `isthmus twin --window` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.0;
        if a == b { write!(f, "{a}") } else { write!(f, "{a},{b}") }
    }
}

impl FromStr for Windows {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(',') {
            Some((a, b)) => Ok(Self([a.parse()?, b.parse()?])),
            None => Ok(text.parse::<Window>()?.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mode_is_for_both_ports_and_two_are_for_one_each() {
        for window in Window::ALL {
            let both: Windows = window.name().parse().unwrap();
            assert_eq!((both.of(Side::A), both.of(Side::B)), (window, window));
            assert_eq!(both.to_string(), window.name());
        }
        let mixed: Windows = "direct,trap".parse().unwrap();
        assert_eq!((mixed.of(Side::A), mixed.of(Side::B)), (Window::Direct, Window::Trap));
        assert_eq!(mixed.to_string(), "direct,trap");
        assert!(mixed.any_mapped() && mixed.reach_ram() && !mixed.want_dma());
        for text in ["", "all", "direct,", "a,b", "trap,trap,trap", "TRAP"] {
            assert!(text.parse::<Windows>().is_err(), "{text}");
        }
        assert!("dma,trap".parse::<Windows>().unwrap().want_dma());
        assert!(!"alias,shared".parse::<Windows>().unwrap().reach_ram());
    }
}
