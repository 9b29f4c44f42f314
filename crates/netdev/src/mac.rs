//! Ethernet addresses.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

/// The address of an Ethernet interface, in the order in which its bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

/// Bit 0 of the first byte: the address of a group of hosts.
const GROUP: u8 = 0x01;
/// Bit 1 of the first byte: no manufacturer gave this address (IEEE 802, locally administered).
const LOCAL: u8 = 0x02;

/// Why a text is no address of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the Ethernet address of one host, such as 02:00:5e:00:53:01")]
pub struct NotAnAddress;

impl MacAddress {
    /// The address of these bytes.
    ///
    /// # Errors
    /// [`NotAnAddress`] for that of a group, and for all zeros: no interface may have those.
    pub fn new(bytes: [u8; 6]) -> Result<Self, NotAnAddress> {
        let [first, ..] = bytes;
        if first & GROUP != 0 || bytes == [0; 6] { Err(NotAnAddress) } else { Ok(Self(bytes)) }
    }

    /// An address of one's own choice, another one in each call.
    #[must_use]
    pub fn random() -> Self {
        // Seeded by the system for each value; that is all the chance that 46 bits on a link with two ends need.
        let [first, b, c, d, e, f, ..] = RandomState::new().hash_one(std::process::id()).to_ne_bytes();
        Self([first & !GROUP | LOCAL, b, c, d, e, f])
    }

    /// Its six bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let digits = |part: &&str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
            let part = parts.next().filter(digits).ok_or(NotAnAddress)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotAnAddress)?;
        }
        if parts.next().is_some() { Err(NotAnAddress) } else { Self::new(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_shown() {
        let address: MacAddress = "02:00:5e:00:53:01".parse().unwrap();
        assert_eq!(address.bytes(), [2, 0, 0x5e, 0, 0x53, 1]);
        assert_eq!(address.to_string(), "02:00:5e:00:53:01");
    }

    #[test]
    fn what_is_no_address_of_an_interface_is_refused() {
        for text in [
            "",
            "02",
            "02:00:5e:00:53",
            "02:00:5e:00:53:01:02",
            "2:0:5e:0:53:1",
            "zz:00:00:00:00:00",
            "+2:00:5e:00:53:01",
            "01:00:5e:00:53:01",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(NotAnAddress), "{text}");
        }
    }

    #[test]
    fn a_chosen_address_is_local_and_of_one_host() {
        let one = MacAddress::random();
        assert_eq!(one.bytes()[0] & 3, 2);
        assert_eq!(MacAddress::new(one.bytes()), Ok(one));
        assert!((0..8).any(|_| MacAddress::random() != one), "not always the same");
    }
}
