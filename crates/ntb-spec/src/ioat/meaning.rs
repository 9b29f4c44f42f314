//! What a channel's register says, in words: for traces and register dumps.

use super::{
    COMMAND_RESET, COMMAND_RESUME, COMMAND_SUSPEND, CONTROL_REARM, Channel, STATUS_COMPLETED, State,
};
use core::fmt;

/// A register of a channel with a value; displays as words, or as nothing where the number says it all.
#[derive(Debug, Clone, Copy)]
pub struct Meaning {
    /// Which register.
    pub reg: Channel,
    /// Its value.
    pub value: u64,
    /// Whether it was written, which for some registers is an order and not a state.
    pub written: bool,
}

/// The bits of CHANERR, lowest first (Linux `chanerr_str`).
const ERRORS: [&str; 19] = [
    "source address",
    "destination address",
    "next descriptor address",
    "descriptor alignment",
    "chain address",
    "command",
    "chipset data integrity",
    "DMA data integrity",
    "read data",
    "write data",
    "descriptor control",
    "descriptor size",
    "completion address",
    "interrupt configuration",
    "super extended descriptor address",
    "unaffiliated",
    "CRC or XOR P",
    "XOR Q",
    "descriptor count",
];

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bit = |mask: u8| self.value & u64::from(mask) != 0;
        match self.reg {
            Channel::Status => {
                f.write_str(match State::of(self.value) {
                    Some(State::Active) => "active",
                    Some(State::Done) => "done",
                    Some(State::Suspended) => "suspended",
                    Some(State::Halted) => "halted",
                    None => "no state",
                })?;
                match self.value & STATUS_COMPLETED {
                    0 => Ok(()),
                    last => write!(f, ", completed {last:#x}"),
                }
            }
            Channel::Error if self.written => Ok(()),
            Channel::Error => {
                let mut set = ERRORS.iter().enumerate().filter(|&(bit, _)| self.value >> bit & 1 == 1);
                match set.next() {
                    None => f.write_str("no error"),
                    Some((_, name)) => {
                        write!(f, "error: {name}")?;
                        set.try_for_each(|(_, name)| write!(f, ", {name}"))
                    }
                }
            }
            Channel::Command if bit(COMMAND_RESET) => f.write_str("reset"),
            Channel::Command if bit(COMMAND_SUSPEND) => f.write_str("suspend"),
            Channel::Command if bit(COMMAND_RESUME) => f.write_str("resume"),
            Channel::Control if self.written && self.value & CONTROL_REARM != 0 => f.write_str("re-arm"),
            Channel::Count if self.written => write!(f, "{} posted", self.value),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn words() {
        let words = |reg, value, written| Meaning { reg, value, written }.to_string();
        assert_eq!(words(Channel::Status, 0x1_2341, false), "done, completed 0x12340");
        assert_eq!(words(Channel::Status, 3, false), "halted");
        assert_eq!(words(Channel::Error, 0x300, false), "error: read data, write data");
        assert_eq!(words(Channel::Error, 0, false), "no error");
        assert_eq!(words(Channel::Command, 0x24, true), "reset");
        assert_eq!(words(Channel::Control, 0x1D, true), "re-arm");
        assert_eq!(words(Channel::DcaControl, 1, true), "");
    }
}
