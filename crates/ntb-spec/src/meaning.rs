//! What a value means, in words: for traces and register dumps.

use crate::bits::{Control, LinkStatus, Ppd, Sources};
use crate::{bar0, config};
use core::fmt;

/// A register of BAR 0 with a value; displays as words, or as nothing where the number says it all.
#[derive(Debug, Clone, Copy)]
pub struct Bar0Meaning {
    /// Which register.
    pub reg: bar0::Reg,
    /// Which element of it.
    pub index: u8,
    /// Its value.
    pub value: u64,
    /// Whether it was written, which for some registers is an order and not a state.
    pub written: bool,
}

impl fmt::Display for Bar0Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use bar0::Reg;
        match self.reg {
            Reg::Control => control(self.value, f),
            Reg::ImBar1Xbase | Reg::ImBar2Xbase => write!(f, "peer lands at {:#x}", self.value),
            Reg::IntStatus if self.written => sources("acknowledge", self.value, f),
            Reg::IntStatus | Reg::EmIntStatus => sources("pending", self.value, f),
            Reg::IntDisable | Reg::EmIntDisable => sources("enabled", !self.value & 0x1_FFFF_FFFF, f),
            Reg::IntVec if u64::from(self.index) == u64::from(crate::LINK_SOURCE) => {
                write!(f, "link raises vector {}", self.value)
            }
            Reg::IntVec => write!(f, "doorbell {} raises vector {}", self.index, self.value),
            Reg::Doorbell if self.written && self.value & 1 == 1 => {
                write!(f, "ring the peer's doorbell {}", self.index)
            }
            Reg::Doorbell if self.written => f.write_str("rings nothing"),
            Reg::PeerSpad => write!(f, "the peer's scratchpad {}", self.index),
            _ => Ok(()),
        }
    }
}

/// A register of configuration space with a value.
#[derive(Debug, Clone, Copy)]
pub struct ConfigMeaning {
    /// Which register.
    pub reg: config::Reg,
    /// Which element of it.
    pub index: u8,
    /// Its value.
    pub value: u64,
}

impl fmt::Display for ConfigMeaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use config::Reg;
        let bit = |mask: u16| self.value & u64::from(mask) != 0;
        let on_off = |on: bool| if on { "on" } else { "off" };
        match self.reg {
            Reg::Command => write!(
                f,
                "memory {}, bus master {}",
                on_off(bit(config::COMMAND_MEMORY)),
                on_off(bit(config::COMMAND_BUS_MASTER))
            ),
            Reg::MsixControl if bit(config::MSIX_FUNCTION_MASK) => {
                write!(f, "MSI-X {}, all masked", on_off(bit(config::MSIX_ENABLE)))
            }
            Reg::MsixControl => write!(f, "MSI-X {}", on_off(bit(config::MSIX_ENABLE))),
            Reg::DeviceControl if bit(config::DEVICE_CONTROL_FLR) => f.write_str("function-level reset"),
            Reg::WindowSizes => write!(f, "2^{} bytes", self.value),
            Reg::Ppd => match u8::try_from(self.value).map(Ppd::from_bits) {
                Ok(Ppd::USD) => f.write_str("back to back, upstream"),
                Ok(Ppd::DSD) => f.write_str("back to back, downstream"),
                _ => Ok(()),
            },
            Reg::LinkStatus => match u16::try_from(self.value).map(LinkStatus::from_bits) {
                Ok(link) if link.active() => write!(f, "link up, Gen{} x{}", link.speed(), link.width()),
                _ => f.write_str("link down"),
            },
            Reg::Bars if self.value == 0xFFFF_FFFF => f.write_str("sizing"),
            Reg::Bars => write!(
                f,
                "{} half of BAR {}",
                if self.index.is_multiple_of(2) { "low" } else { "high" },
                self.index & !1
            ),
            Reg::Plain | Reg::DeviceControl => Ok(()),
        }
    }
}

fn control(value: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let [low, _] = halves(value);
    let control = Control::from_bits(low);
    f.write_str(if control.link_disable() { "link disabled" } else { "link enabled" })?;
    if control.config_lock() {
        f.write_str(", configuration locked")?;
    }
    Ok(())
}

fn sources(what: &str, value: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let doorbells = value & 0xFFFF_FFFF;
    let link = value & Sources::LINK.0 != 0;
    match (doorbells, link) {
        (0, false) => write!(f, "{what}: none"),
        (0, true) => write!(f, "{what}: link"),
        (_, false) => write!(f, "{what}: doorbells {doorbells:#010x}"),
        (_, true) => write!(f, "{what}: doorbells {doorbells:#010x}, link"),
    }
}

/// Low and high dword.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn words() {
        let bar0 = |reg, index, value, written| Bar0Meaning { reg, index, value, written }.to_string();
        assert_eq!(bar0(bar0::Reg::Doorbell, 3, 1, true), "ring the peer's doorbell 3");
        assert_eq!(bar0(bar0::Reg::IntDisable, 0, 0x7FFF_FFFF, true), "enabled: doorbells 0x80000000, link");
        assert_eq!(bar0(bar0::Reg::Control, 0, 0x154, true), "link enabled");
        assert_eq!(bar0(bar0::Reg::Spad, 0, 4, true), "");
        let config = |reg, value| ConfigMeaning { reg, index: 0, value }.to_string();
        assert_eq!(config(config::Reg::LinkStatus, 0x2103), "link up, Gen3 x16");
        assert_eq!(config(config::Reg::Command, 0x6), "memory on, bus master on");
    }
}
