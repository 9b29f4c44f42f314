//! Where a PCI function is.

use std::fmt;
use std::str::FromStr;

/// The address of a PCI function of this machine: `0000:01:00.0`, or `01:00.0` in the first domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PciAddress {
    /// The domain; a machine with one calls it 0.
    pub domain: u32,
    /// The bus.
    pub bus: u8,
    /// The device on it, 0 to 31.
    pub device: u8,
    /// The function of the device, 0 to 7.
    pub function: u8,
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address of a PCI function, such as 0000:01:00.0")]
pub struct BadPciAddress(String);

impl FromStr for PciAddress {
    type Err = BadPciAddress;

    fn from_str(text: &str) -> Result<Self, BadPciAddress> {
        let read = || {
            let (front, function) = text.rsplit_once('.')?;
            let (front, device) = front.rsplit_once(':')?;
            let (domain, bus) = front.rsplit_once(':').unwrap_or(("0", front));
            let number = |text: &str, digits: usize| {
                let plain =
                    (1..=digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                plain.then(|| u32::from_str_radix(text, 16).ok()).flatten()
            };
            let byte = |text, most: u8| {
                let byte = u8::try_from(number(text, 2)?).ok()?;
                (byte <= most).then_some(byte)
            };
            Some(Self {
                domain: number(domain, 8)?,
                bus: byte(bus, u8::MAX)?,
                device: byte(device, 31)?,
                function: byte(function, 7)?,
            })
        };
        read().ok_or_else(|| BadPciAddress(text.to_owned()))
    }
}

/// As the kernel names it in sysfs.
impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_lspci_prints_them() {
        for (text, shown) in [
            ("0000:01:00.0", "0000:01:00.0"),
            ("01:00.0", "0000:01:00.0"),
            ("10000:e1:1f.7", "10000:e1:1f.7"),
        ] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "01:00",
            "01:20.0",
            "01:00.8",
            "1001:00.0",
            "0000:01:00.0/../x",
            "+1:00.0",
            "-1:00.0",
            "a:b:c:d.0",
            "::.0",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }
}
