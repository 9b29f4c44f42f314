//! The five ways.

use crate::status::port_name;
use control::WindowClass;
use std::fmt;
use std::str::FromStr;
use twin::Side;

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

/// Why a port may not have these modes beside each other, as a sentence that says what to do.
///
/// An *alias* window takes the place of some of its receiver's memory, in the receiver's own process. Any other process that
/// maps that memory goes on with the old pages: a QEMU that has a direct window onto it, and whoever the user names, such
/// as a vhost-user back end.
pub(crate) fn refusal(
    side: Side,
    modes: [WindowMode; ntb_spec::WINDOWS],
    mapped: [bool; 2],
) -> Option<String> {
    let (port, peer) = (port_name(side), port_name(side.peer()));
    if !modes.contains(&WindowMode::Alias) {
        return None;
    }
    if mapped.get(side.peer() as usize) == Some(&true) {
        return Some(format!(
            "a window of port {port} may not be alias: another process maps host {peer}'s memory (--ram-mapped) and would not \
             see what is stored through it; take direct or trap"
        ));
    }
    modes.contains(&WindowMode::Direct).then(|| {
        format!(
            "port {port} may not have an alias and a direct window: by the direct one host {port}'s QEMU maps host {peer}'s \
             memory, and would not see what the alias one puts there; take one of the modes for both (a window that is open \
             gets there by way of shared)"
        )
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_whose_receivers_memory_others_map_is_refused_with_advice() {
        use WindowMode::{Alias, Direct, Shared, Trap};
        let ask = |modes, mapped| refusal(Side::A, modes, mapped);
        assert_eq!(ask([Alias, Alias], [false; 2]), None);
        assert_eq!(ask([Alias, Shared], [true, false]), None, "a's own memory is not concerned");
        assert_eq!(ask([Direct, Trap], [true; 2]), None);
        let why = ask([Trap, Alias], [false, true]).unwrap();
        assert!(why.contains("host b's memory") && why.contains("take direct"), "{why}");
        let why = ask([Direct, Alias], [false; 2]).unwrap();
        assert!(why.contains("host a's QEMU maps host b's memory"), "{why}");
        assert!(refusal(Side::B, [Alias, Trap], [true, false]).unwrap().contains("host a's memory"));
    }
}
