//! The registers and BARs of the memory windows.

use super::registers::{Registers, name};
use crate::{BarIndex, BarMapping, BridgeError, DeviceAddress, OpenError, Port};
use crate::{WindowAlign, WindowKind};
use ntb_spec::WINDOWS;
use ntb_spec::bar0::Reg;

/// The registers by which the peer reaches this host through its own window of the same number.
#[derive(Debug, Clone, Copy)]
struct Incoming {
    bar: BarIndex,
    base: Reg,
    limit: Reg,
    external_base: Reg,
    external_limit: Reg,
    /// EMBARnXLMT that Linux's probe writes: with no translation before it, closed.
    closed: u64,
}

const INCOMING: [Incoming; WINDOWS] = [
    Incoming {
        bar: BarIndex::WINDOW_0,
        base: Reg::ImBar1Xbase,
        limit: Reg::ImBar1Xlmt,
        external_base: Reg::EmBar1,
        external_limit: Reg::EmBar1Xlmt,
        closed: 0x2000_0000_0000_0000,
    },
    Incoming {
        bar: BarIndex::WINDOW_1,
        base: Reg::ImBar2Xbase,
        limit: Reg::ImBar2Xlmt,
        external_base: Reg::EmBar2,
        external_limit: Reg::EmBar2Xlmt,
        closed: 0x4000_0000_0000_0000,
    },
];

/// What is known of the window BARs of a port.
#[derive(Debug, Clone)]
pub(super) struct WindowBars {
    bytes: [u64; WINDOWS],
    mapped: [Option<BarMapping>; WINDOWS],
    /// Of *shared* windows: the one that carries data to the peer; the other one carries it here.
    shared: Option<usize>,
}

impl WindowBars {
    pub(super) fn find(registers: &Registers, port: Port) -> Result<Self, OpenError> {
        let mut bytes = [0; WINDOWS];
        let mut mapped = [None, None];
        for ((way, bytes), mapped) in INCOMING.iter().zip(&mut bytes).zip(&mut mapped) {
            *bytes = registers.function().bar_bytes(way.bar)?;
            if *bytes < super::MIN_WINDOW_BYTES || !bytes.is_power_of_two() {
                let (bar, has_bytes, needs_bytes) = (way.bar.0, *bytes, super::MIN_WINDOW_BYTES);
                return Err(OpenError::BarSize { bar, has_bytes, needs_bytes });
            }
            *mapped = registers.function().bar_map(way.bar)?;
        }
        let shared = |mapped: &Option<BarMapping>| mapped.as_ref().is_some_and(|mapping| mapping.shared);
        let shared = match mapped.each_ref().map(shared) {
            [false, false] => None,
            // Window 0 carries USD to DSD.
            [true, true] => Some(usize::from(port == Port::Dsd)),
            _ => return Err(OpenError::MixedWindows),
        };
        Ok(Self { bytes, mapped, shared })
    }

    pub(super) fn count(&self) -> usize {
        if self.shared.is_some() { 1 } else { WINDOWS }
    }

    fn known(&self, window: usize) -> Result<usize, BridgeError> {
        let count = self.count();
        if window < count { Ok(window) } else { Err(BridgeError::NoWindow { window, count }) }
    }

    /// The BAR through which this host stores.
    pub(super) fn outbound(
        &self,
        window: usize,
    ) -> Result<(BarIndex, u64, Option<&BarMapping>), BridgeError> {
        let at = self.shared.unwrap_or(self.known(window)?);
        let _ = self.known(window)?;
        self.at(at)
    }

    /// The BAR that the peer stores into, in mode *shared*.
    pub(super) fn shared_inbound(&self, window: usize) -> Result<Option<&BarMapping>, BridgeError> {
        self.known(window)?;
        match self.shared {
            None => Ok(None),
            Some(outbound) => Ok(self.at(1_usize.saturating_sub(outbound))?.2),
        }
    }

    fn at(&self, at: usize) -> Result<(BarIndex, u64, Option<&BarMapping>), BridgeError> {
        match (INCOMING.get(at), self.bytes.get(at), self.mapped.get(at)) {
            (Some(way), Some(&bytes), Some(mapped)) => Ok((way.bar, bytes, mapped.as_ref())),
            _ => Err(BridgeError::NoWindow { window: at, count: self.count() }),
        }
    }

    pub(super) fn kind(&self, window: usize) -> Result<WindowKind, BridgeError> {
        let (_, _, mapped) = self.outbound(window)?;
        Ok(if mapped.is_some() { WindowKind::Mapped } else { WindowKind::Messaged })
    }

    pub(super) fn align(&self, window: usize) -> Result<WindowAlign, BridgeError> {
        let (_, bytes, _) = self.outbound(window)?;
        Ok(WindowAlign { address_bytes: bytes, size_bytes: 1, max_bytes: bytes })
    }

    /// Linux `intel_ntb3_mw_set_trans`: translation, own limit, external limit, each read back. The twin opens the window at the last
    /// one.
    pub(super) fn open(
        &self,
        registers: &Registers,
        window: usize,
        address: DeviceAddress,
        bytes: u64,
    ) -> Result<(), BridgeError> {
        let (bar, max_bytes, _) = self.at(self.known(window)?)?;
        let way = INCOMING.get(window).ok_or(BridgeError::NoWindow { window, count: self.count() })?;
        if !address.0.is_multiple_of(max_bytes) {
            return Err(BridgeError::Unaligned { address, align_bytes: max_bytes });
        }
        if bytes > max_bytes {
            return Err(BridgeError::TooLarge { bytes, max_bytes });
        }
        let own = crate::addresses::bar_address(&**registers.function(), bar)?;
        let opened = keep(registers, way.base, address.0)
            .and_then(|()| keep(registers, way.limit, own.0.saturating_add(bytes)))
            .and_then(|()| {
                let outer = registers.read(way.external_base, 0)? & !0xF;
                keep(registers, way.external_limit, outer.saturating_add(bytes))
            });
        if opened.is_err() && bytes > 0 {
            // Whatever was written half is written back; the first error is the one to tell.
            drop(self.close(registers, window));
        }
        opened
    }

    /// Linux `intel_ntb_mw_clear_trans`: a translation of no bytes at address 0.
    pub(super) fn close(&self, registers: &Registers, window: usize) -> Result<(), BridgeError> {
        self.open(registers, window, DeviceAddress(0), 0)
    }

    /// What Linux's probe does with them (`xeon_gen3_setup_b2b_mw`).
    pub(super) fn close_all(&self, registers: &Registers) -> Result<(), BridgeError> {
        for way in INCOMING {
            registers.write(way.base, 0, 0)?;
            keep(registers, way.limit, way.closed)?;
            let outer = registers.read(way.external_base, 0)? & !0xF;
            keep(registers, way.external_limit, outer)?;
        }
        Ok(())
    }

    /// The same for a device that may be gone.
    pub(super) fn close_quietly(&self, registers: &Registers) {
        if let Err(error) = self.close_all(registers) {
            tracing::debug!(%error, "the windows could not be closed");
        }
    }
}

/// Writes a register that must keep its value.
fn keep(registers: &Registers, register: Reg, wrote: u64) -> Result<(), BridgeError> {
    registers.write(register, 0, wrote)?;
    let read = registers.read(register, 0)?;
    if read == wrote { Ok(()) } else { Err(BridgeError::Readback { register: name(register), wrote, read }) }
}
