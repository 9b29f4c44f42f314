//! Fields inside registers.

use bitfield_struct::bitfield;

/// NTBCNTL, BAR 0 + 0x0000 (Linux `NTB_CTL_*` in `ntb_hw_intel.h`).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Control {
    /// Configuration lock.
    pub config_lock: bool,
    /// The link is administratively down.
    pub link_disable: bool,
    /// Snooping from secondary to primary, BAR 2.
    #[bits(2)]
    pub s2p_bar2_snoop: u8,
    /// Snooping from primary to secondary, BAR 2.
    #[bits(2)]
    pub p2s_bar2_snoop: u8,
    /// Snooping from secondary to primary, BAR 4.
    #[bits(2)]
    pub s2p_bar4_snoop: u8,
    /// Snooping from primary to secondary, BAR 4.
    #[bits(2)]
    pub p2s_bar4_snoop: u8,
    #[bits(2)]
    __: u8,
    /// Snooping from secondary to primary, BAR 5.
    #[bits(2)]
    pub s2p_bar5_snoop: u8,
    /// Snooping from primary to secondary, BAR 5.
    #[bits(2)]
    pub p2s_bar5_snoop: u8,
    #[bits(16)]
    __: u16,
}

/// PPD, configuration space 0xD4 (Linux `SKX_PPD_*` in `ntb_hw_gen3.h`).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Ppd {
    /// 0 transparent, 1 back to back, 2 root port.
    #[bits(2)]
    pub port_definition: u8,
    #[bits(2)]
    __: u8,
    /// 0 upstream device (USD), 1 downstream device (DSD).
    pub downstream: bool,
    /// One MSI-X message for all sources (FreeBSD `XEON_PPD_ONE_MSIX`).
    pub one_msix: bool,
    /// BAR 4 is split in two 32-bit BARs.
    pub split_bar: bool,
    __: bool,
}

impl Ppd {
    /// Back to back, upstream: 0x01.
    pub const USD: Self = Self::new().with_port_definition(1);
    /// Back to back, downstream: 0x11.
    pub const DSD: Self = Self::new().with_port_definition(1).with_downstream(true);
}

/// LINK_STATUS, configuration space 0x1A2 (Linux `GEN3_LINK_STATUS_OFFSET`, `NTB_LNK_STA_*`).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct LinkStatus {
    /// Generation of the link: 3 is 8 GT/s.
    #[bits(4)]
    pub speed: u8,
    /// Lanes.
    #[bits(6)]
    pub width: u8,
    #[bits(3)]
    __: u8,
    /// Data link layer active.
    pub active: bool,
    #[bits(2)]
    __: u8,
}

impl LinkStatus {
    /// Gen3 x16 and active: 0x2103.
    pub const UP: Self = Self::new().with_speed(3).with_width(16).with_active(true);
    /// The same without the link: 0x0103.
    pub const DOWN: Self = Self::new().with_speed(3).with_width(16);
}

/// A set of interrupt sources: bit n is doorbell n, bit 32 the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sources(pub u64);

impl Sources {
    /// The link bit.
    pub const LINK: Self = Self(1 << crate::LINK_SOURCE);

    /// The set with one source; empty for a number that is none.
    #[must_use]
    pub const fn one(source: u8) -> Self {
        if source <= crate::LINK_SOURCE { Self(1 << source) } else { Self(0) }
    }

    /// The sources of the set, lowest first.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..=crate::LINK_SOURCE).filter(move |source| self.0 >> source & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_the_values_that_drivers_test() {
        assert_eq!(Ppd::USD.into_bits(), 0x01);
        assert_eq!(Ppd::DSD.into_bits(), 0x11);
        assert_eq!(LinkStatus::UP.into_bits(), 0x2103);
        assert_eq!(LinkStatus::DOWN.into_bits(), 0x0103);
        assert!(Control::from_bits(0x3).link_disable());
        let enabled = Control::new()
            .with_s2p_bar2_snoop(1)
            .with_p2s_bar2_snoop(1)
            .with_s2p_bar4_snoop(1)
            .with_p2s_bar4_snoop(1);
        assert_eq!(enabled.into_bits(), 0x154);
        assert_eq!(Sources(0x1_8000_0001).iter().collect::<FixedSet>().0, [0, 31, 32]);
    }

    /// Three small numbers without an allocator.
    struct FixedSet([u8; 3]);
    impl FromIterator<u8> for FixedSet {
        fn from_iter<I: IntoIterator<Item = u8>>(items: I) -> Self {
            let mut out = [0; 3];
            for (slot, item) in out.iter_mut().zip(items) {
                *slot = item;
            }
            Self(out)
        }
    }
}
