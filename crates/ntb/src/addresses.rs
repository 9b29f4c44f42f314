//! Device addresses for memory and BARs, where this process is what firmware and an IOMMU are to a kernel.

use crate::{BarIndex, DeviceAddress, FunctionError, PciFunction};
use ntb_spec::config;
use ntb_spec::function::BAR;
use std::collections::BTreeMap;

/// The first address that is handed out: nothing lies at 0, where a driver that forgot to set an address would write.
const FIRST: u64 = 0x10_0000;
/// One past the last address of memory.
const END: u64 = 1 << 39;
/// Where BARs begin.
const BARS: u64 = 1 << 40;
/// From one BAR to the next, more than the largest window.
const BAR_STRIDE: u64 = 1 << 32;
/// From one function's BARs to those of a function of another kind: a host has an NTB and a DMA engine.
const FUNCTION_STRIDE: u64 = 1 << 36;

/// Which addresses are given away.
#[derive(Debug, Default)]
pub struct AddressSpace {
    /// First address to length.
    taken: BTreeMap<u64, u64>,
}

impl AddressSpace {
    /// A space that hands out addresses of these ranges alone, each given by its first and its last: what an IOMMU
    /// translates.
    #[must_use]
    pub fn within(ranges: &[(u64, u64)]) -> Self {
        let mut ranges = ranges.to_vec();
        ranges.sort_unstable();
        let mut taken = BTreeMap::new();
        let mut reserve = |from: u64, until: u64| {
            if from < until {
                taken.insert(from, until.saturating_sub(from));
            }
        };
        let mut free = 0_u64;
        for (first, last) in ranges {
            reserve(free, first);
            free = free.max(last.saturating_add(1));
        }
        reserve(free, END);
        Self { taken }
    }

    /// Takes the lowest free range of `bytes` whose address is a multiple of `align_bytes`.
    ///
    /// # Errors
    /// [`FunctionError::NoAddress`] when there is none, or the alignment is no power of two.
    pub fn take(&mut self, bytes: u64, align_bytes: u64) -> Result<DeviceAddress, FunctionError> {
        let none = FunctionError::NoAddress { bytes };
        if !align_bytes.is_power_of_two() || bytes == 0 {
            return Err(none);
        }
        let fits = |from: u64, until: u64| {
            let first = from.checked_next_multiple_of(align_bytes)?;
            (first.checked_add(bytes)? <= until).then_some(first)
        };
        let mut free = FIRST;
        let mut found = None;
        for (&first, &length) in &self.taken {
            found = fits(free, first);
            if found.is_some() {
                break;
            }
            free = free.max(first.saturating_add(length));
        }
        let first = found.or_else(|| fits(free, END)).ok_or(none)?;
        self.taken.insert(first, bytes);
        Ok(DeviceAddress(first))
    }

    /// Gives back the range that begins at `address`.
    pub fn give_back(&mut self, address: DeviceAddress) {
        self.taken.remove(&address.0);
    }
}

/// Does what firmware does: gives each 64-bit BAR of a function an address, so that a DMA engine of this host can name it.
///
/// # Errors
/// When configuration space cannot be written.
pub fn place_bars(function: &dyn PciFunction) -> Result<(), FunctionError> {
    let mut device = [0; 2];
    function.config_read(2, &mut device)?;
    let is_ntb = u16::from_le_bytes(device) == config::DEVICE;
    let first = if is_ntb { BARS } else { BARS.saturating_add(FUNCTION_STRIDE) };
    for (nth, bar) in [BarIndex(0), BarIndex(2), BarIndex(4)].into_iter().enumerate() {
        if function.bar_bytes(bar)? == 0 {
            continue;
        }
        let nth = u64::try_from(nth).unwrap_or_default();
        let address = first.saturating_add(BAR_STRIDE.saturating_mul(nth));
        function.config_write(bar_offset(bar), &address.to_le_bytes())?;
    }
    Ok(())
}

/// Where a BAR begins, as devices see it.
///
/// # Errors
/// When configuration space cannot be read.
pub(crate) fn bar_address(function: &dyn PciFunction, bar: BarIndex) -> Result<DeviceAddress, FunctionError> {
    let mut bytes = [0; 8];
    function.config_read(bar_offset(bar), &mut bytes)?;
    Ok(DeviceAddress(u64::from_le_bytes(bytes) & !0xF))
}

fn bar_offset(bar: BarIndex) -> u32 {
    BAR.saturating_add(u32::from(bar.0).saturating_mul(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_aligned_apart_and_used_again() {
        let mut space = AddressSpace::default();
        let page = space.take(4096, 4096).unwrap();
        let window = space.take(1 << 20, 1 << 20).unwrap();
        assert_eq!(page.0, FIRST);
        assert_eq!(window.0, 2 << 20);
        // The hole between the two is used.
        assert_eq!(space.take(4096, 4096).unwrap().0, FIRST + 4096);
        space.give_back(page);
        assert_eq!(space.take(4096, 1).unwrap(), page);
    }

    #[test]
    fn an_iommu_has_holes() {
        // x86: the range of message-signalled interrupts, and 39 bits.
        let mut space = AddressSpace::within(&[(0xFEF0_0000, (1 << 39) - 1), (0, 0xFEDF_FFFF)]);
        assert_eq!(space.take(4096, 4096).unwrap().0, FIRST);
        assert_eq!(space.take(0xFEDF_0000 - FIRST, 4096).unwrap().0, FIRST + 4096);
        assert_eq!(space.take(1 << 20, 1 << 20).unwrap().0, 0xFEF0_0000, "behind the hole");
        let mut small = AddressSpace::within(&[(FIRST + 4096, FIRST + 8191)]);
        assert_eq!(small.take(4096, 4096).unwrap().0, FIRST + 4096);
        assert!(small.take(4096, 4096).is_err());
        for nonsense in [&[(5, 4)][..], &[], &[(0, 0)], &[(u64::MAX, u64::MAX)]] {
            assert!(AddressSpace::within(nonsense).take(4096, 4096).is_err(), "{nonsense:x?}");
        }
        assert!(AddressSpace::within(&[(0, u64::MAX), (1, 2)]).take(END - FIRST, 4096).is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut space = AddressSpace::default();
        for (bytes, align) in [(0, 1), (1, 0), (1, 3), (END, 1), (u64::MAX, 1), (1, 1 << 63)] {
            assert!(space.take(bytes, align).is_err(), "{bytes:#x} {align:#x}");
        }
    }
}
