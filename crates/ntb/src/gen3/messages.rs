//! The message registers that a twin may have, and no hardware has ([`ntb_spec::messages`]).

use super::registers::Registers;
use crate::{BarIndex, BridgeError};
use ntb_spec::messages::{
    ALL, ARRIVED, REFUSED_SHIFT, REGISTERS, RESET_VECTOR, Reg, SIGNATURE, TAKEN_SHIFT, offset_of,
};

/// The vector of all message events: it is free in the set-up of doorbells and link.
pub(super) const VECTOR: u8 = RESET_VECTOR;

/// The block of one port.
#[derive(Debug)]
pub(super) struct MessageBlock {
    count: u8,
}

impl MessageBlock {
    /// Looks for it, and has it raise nothing.
    pub(super) fn find(registers: &Registers) -> Result<Option<Self>, BridgeError> {
        let end = u64::from(offset_of(Reg::Outbound, 3)).saturating_add(4);
        if registers.function().bar_bytes(BarIndex::REGISTERS)? < end {
            return Ok(None);
        }
        let [count, reserved, low, high] = registers.word(offset_of(Reg::Capability, 0))?.to_le_bytes();
        let signed = u32::from(u16::from_le_bytes([low, high])) == SIGNATURE && reserved == 0;
        if !signed || count == 0 || usize::from(count) > REGISTERS {
            return Ok(None);
        }
        registers.set_word(offset_of(Reg::Mask, 0), ALL)?;
        registers.set_word(offset_of(Reg::Status, 0), ALL)?;
        registers.function().bar_write(BarIndex::REGISTERS, offset_of(Reg::Vector, 0).into(), &[VECTOR])?;
        Ok(Some(Self { count }))
    }

    pub(super) fn count(&self) -> u8 {
        self.count
    }

    /// The bit of a register, if there is one.
    fn bit(&self, register: u8) -> Result<u32, BridgeError> {
        let bit = (register < self.count).then(|| 1_u32.checked_shl(register.into())).flatten();
        bit.ok_or(BridgeError::NoMessages)
    }

    /// What lies in the inbound registers. Acknowledges that there is room, which whoever was woken by it finds out by
    /// sending.
    pub(super) fn arrived(&self, registers: &Registers) -> Result<u32, BridgeError> {
        let status = registers.word(offset_of(Reg::Status, 0))?;
        let room = status & ARRIVED << TAKEN_SHIFT;
        if room != 0 {
            registers.set_word(offset_of(Reg::Status, 0), room)?;
        }
        Ok(status & ARRIVED)
    }

    pub(super) fn take(&self, registers: &Registers, register: u8) -> Result<Option<u32>, BridgeError> {
        let bit = self.bit(register)?;
        if registers.word(offset_of(Reg::Status, 0))? & bit == 0 {
            return Ok(None);
        }
        let message = registers.word(offset_of(Reg::Inbound, register))?;
        registers.set_word(offset_of(Reg::Status, 0), bit)?;
        Ok(Some(message))
    }

    pub(super) fn send(&self, registers: &Registers, register: u8, value: u32) -> Result<bool, BridgeError> {
        let refused = self.bit(register)? << REFUSED_SHIFT;
        registers.set_word(offset_of(Reg::Outbound, register), value)?;
        let went = registers.word(offset_of(Reg::Status, 0))? & refused == 0;
        if !went {
            registers.set_word(offset_of(Reg::Status, 0), refused)?;
        }
        Ok(went)
    }

    pub(super) fn mask(&self, registers: &Registers, masked: u32) -> Result<(), BridgeError> {
        // Refusals are answered where they happen.
        let masked = masked & ALL | ARRIVED << REFUSED_SHIFT;
        Ok(registers.set_word(offset_of(Reg::Mask, 0), masked)?)
    }
}
