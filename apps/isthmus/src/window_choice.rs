//! What a command line says of windows: `direct`, or `a:0=direct` for one of them.

use control::PortName;
use std::fmt;
use std::str::FromStr;
use twin_server::{Modes, WindowMode};

/// One window and its mode, as in `a:0=direct`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OneWindow {
    pub(crate) port: PortName,
    /// 0 is BAR 2, 1 is BAR 4.
    pub(crate) window: u8,
    pub(crate) mode: WindowMode,
}

impl FromStr for OneWindow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not PORT:WINDOW=MODE, such as a:0=direct");
        let (place, mode) = text.split_once('=').ok_or_else(form)?;
        let (port, window) = place.split_once(':').ok_or_else(form)?;
        let port = match port {
            "a" => PortName::A,
            "b" => PortName::B,
            _ => return Err(form()),
        };
        let window = match window {
            "0" => 0,
            "1" => 1,
            _ => return Err(form()),
        };
        let mode = mode.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { port, window, mode })
    }
}

impl fmt::Display for OneWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}={}", self.port, self.window, self.mode)
    }
}

/// A word of `--window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowChoice {
    /// A mode: of all windows, or of port a's and then of port b's.
    Mode(WindowMode),
    /// An exception.
    One(OneWindow),
}

impl FromStr for WindowChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(['=', ':']) {
            text.parse().map(Self::One)
        } else {
            text.parse().map(Self::Mode).map_err(|error: twin_server::UnknownMode| error.to_string())
        }
    }
}

impl fmt::Display for WindowChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode(mode) => mode.fmt(f),
            Self::One(one) => one.fmt(f),
        }
    }
}

/// What the words come to; `None` for too many modes. Windows that no word names are trapped.
pub(crate) fn modes(choices: &[WindowChoice]) -> Option<Modes> {
    let general: Vec<WindowMode> = choices
        .iter()
        .filter_map(|choice| match choice {
            WindowChoice::Mode(mode) => Some(*mode),
            WindowChoice::One(_) => None,
        })
        .collect();
    let [a, b] = match general.as_slice() {
        [] => [WindowMode::Trap; 2],
        [both] => [*both; 2],
        [a, b] => [*a, *b],
        _ => return None,
    };
    let mut modes = [[a; 2], [b; 2]];
    for choice in choices {
        if let WindowChoice::One(OneWindow { port, window, mode }) = choice {
            let [a, b] = &mut modes;
            let windows = if *port == PortName::A { a } else { b };
            if let Some(slot) = windows.get_mut(usize::from(*window)) {
                *slot = *mode;
            }
        }
    }
    Some(modes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_named_by_port_number_and_mode() {
        let one: OneWindow = "b:1=alias".parse().unwrap();
        assert_eq!(one, OneWindow { port: PortName::B, window: 1, mode: WindowMode::Alias });
        assert_eq!(one.to_string(), "b:1=alias");
        for nonsense in ["", "a", "a:0", "a:2=trap", "c:0=trap", "a:0=warp", "a:0=", ":=", "a:0=trap=x"] {
            assert!(nonsense.parse::<OneWindow>().is_err(), "{nonsense}");
            assert!(nonsense.parse::<WindowChoice>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn modes_are_for_all_for_each_port_or_for_one_window() {
        use WindowMode::{Alias, Direct, Dma, Trap};
        let of = |words: &str| {
            let choices: Vec<WindowChoice> = words.split(',').map(|word| word.parse().unwrap()).collect();
            modes(&choices)
        };
        assert_eq!(of("direct"), Some([[Direct; 2]; 2]));
        assert_eq!(of("direct,trap"), Some([[Direct; 2], [Trap; 2]]));
        assert_eq!(of("direct,trap,b:1=dma,a:0=alias"), Some([[Alias, Direct], [Trap, Dma]]));
        assert_eq!(of("a:0=dma"), Some([[Dma, Trap], [Trap; 2]]));
        assert_eq!(of("trap,trap,trap"), None);
    }
}
