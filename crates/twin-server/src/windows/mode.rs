//! The five ways.

use control::WindowClass;
use std::fmt;
use std::str::FromStr;

/// How data crosses a memory window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WindowMode {
    /// Every access is a message, and the twin carries it out in the peer's memory.
    #[default]
    Trap,
    /// Like `Trap`; bulk goes by the I/OAT engine.
    Dma,
    /// The BAR is memory that the peer's BAR is too.
    Shared,
    /// The BAR is memory that the peer's RAM at its translation is too.
    Alias,
    /// The BAR is the peer's RAM at its translation.
    Direct,
}

/// A word that names no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no window mode: give trap, dma, shared, alias or direct")]
pub struct UnknownMode(String);

impl WindowMode {
    /// Every mode.
    pub const ALL: [Self; 5] = [Self::Trap, Self::Dma, Self::Shared, Self::Alias, Self::Direct];

    /// Whether accesses are messages or memory.
    #[must_use]
    pub const fn class(self) -> WindowClass {
        match self {
            Self::Trap | Self::Dma => WindowClass::Messaged,
            Self::Shared | Self::Alias | Self::Direct => WindowClass::Mapped,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Dma => "dma",
            Self::Shared => "shared",
            Self::Alias => "alias",
            Self::Direct => "direct",
        }
    }
}

pub(super) const fn class_name(class: WindowClass) -> &'static str {
    match class {
        WindowClass::Messaged => "messaged",
        WindowClass::Mapped => "mapped",
    }
}

impl fmt::Display for WindowMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WindowMode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| UnknownMode(text.to_owned()))
    }
}

impl From<control::WindowMode> for WindowMode {
    fn from(mode: control::WindowMode) -> Self {
        match mode {
            control::WindowMode::Trap => Self::Trap,
            control::WindowMode::Dma => Self::Dma,
            control::WindowMode::Shared => Self::Shared,
            control::WindowMode::Alias => Self::Alias,
            control::WindowMode::Direct => Self::Direct,
        }
    }
}

impl From<WindowMode> for control::WindowMode {
    fn from(mode: WindowMode) -> Self {
        match mode {
            WindowMode::Trap => Self::Trap,
            WindowMode::Dma => Self::Dma,
            WindowMode::Shared => Self::Shared,
            WindowMode::Alias => Self::Alias,
            WindowMode::Direct => Self::Direct,
        }
    }
}
