//! Registers by name, over any way to reach the function.

use crate::{BarIndex, FunctionError, PciFunction};
use ntb_spec::bar0::{Reg, TABLE, offset_of};
use std::sync::Arc;

/// BAR 0 of a Gen3 port.
#[derive(Debug, Clone)]
pub(crate) struct Registers {
    function: Arc<dyn PciFunction>,
}

impl Registers {
    pub(crate) fn new(function: Arc<dyn PciFunction>) -> Self {
        Self { function }
    }

    pub(crate) fn function(&self) -> &Arc<dyn PciFunction> {
        &self.function
    }

    /// One access of the register's own width.
    pub(crate) fn read(&self, reg: Reg, index: u8) -> Result<u64, FunctionError> {
        let mut bytes = [0; 8];
        let offset = u64::from(offset_of(reg, index));
        let own = bytes.get_mut(..width(reg)).unwrap_or_default();
        self.function.bar_read(BarIndex::REGISTERS, offset, own)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// One posted access of the register's own width; bits of `value` beyond it are left out.
    pub(crate) fn write(&self, reg: Reg, index: u8, value: u64) -> Result<(), FunctionError> {
        let offset = u64::from(offset_of(reg, index));
        let bytes = value.to_le_bytes();
        self.function.bar_write(BarIndex::REGISTERS, offset, bytes.get(..width(reg)).unwrap_or_default())
    }

    /// A 4-byte register of BAR 0 that is in no table of Gen3.
    pub(crate) fn word(&self, offset: u32) -> Result<u32, FunctionError> {
        let mut bytes = [0; 4];
        self.function.bar_read(BarIndex::REGISTERS, offset.into(), &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes such a register.
    pub(crate) fn set_word(&self, offset: u32, value: u32) -> Result<(), FunctionError> {
        self.function.bar_write(BarIndex::REGISTERS, offset.into(), &value.to_le_bytes())
    }

    /// Little-endian bytes of configuration space.
    pub(crate) fn config<const N: usize>(&self, offset: u32) -> Result<[u8; N], FunctionError> {
        let mut bytes = [0; N];
        self.function.config_read(offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// Width of a register in bytes.
fn width(reg: Reg) -> usize {
    TABLE.iter().find(|row| row.reg == reg).map_or(0, |row| usize::from(row.bytes))
}

/// A register's name, for messages.
pub(crate) fn name(reg: Reg) -> &'static str {
    TABLE.iter().find(|row| row.reg == reg).map_or("a register", |row| row.name)
}
