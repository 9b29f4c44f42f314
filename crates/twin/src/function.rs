//! A PCI function's configuration space: what the NTB and the I/OAT engine do alike.

use crate::register_file::RegisterFile;
use ntb_spec::function::{self, BYTES, Reg};
use ntb_spec::table::Row;

/// A BAR of 64 bits: what its low dword says of it, and its size, a power of two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bar {
    pub(crate) kind: u32,
    pub(crate) bytes: u64,
}

/// Configuration space of a function.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) registers: RegisterFile,
}

/// What a write to configuration space did besides storing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// It ended inside configuration space; what lay behind is dropped.
    pub(crate) inside: bool,
    /// It ordered a function-level reset, which the device carries out.
    pub(crate) reset: bool,
    /// The bus-master bit is another one now.
    pub(crate) master: bool,
}

impl Function {
    /// The function that a table describes, with its class code and its BARs from BAR 0 on.
    pub(crate) fn new(table: &[Row<Reg>], class: [u8; 3], bars: &[Bar]) -> Self {
        let mut registers = RegisterFile::new(table);
        for (offset, byte) in (0x09..).zip(class) {
            registers.preset(offset, 1, u64::from(byte));
        }
        for offset in (function::BAR..).step_by(4).take(6) {
            registers.set_writable(offset, 4, 0);
        }
        for (offset, bar) in (function::BAR..).step_by(8).zip(bars.iter().take(3)) {
            registers.preset(offset, 8, u64::from(bar.kind));
            registers.set_writable(offset, 8, bar.bytes.wrapping_neg());
        }
        Self { registers }
    }

    /// Everything as after power-on.
    pub(crate) fn reset(&mut self) {
        let Self { registers } = self;
        registers.reset();
    }

    /// A read of any width at any offset; all ones behind the end. Returns whether all of it lay inside.
    pub(crate) fn read(&self, offset: u32, out: &mut [u8]) -> bool {
        let (within, behind) = out.split_at_mut(out.len().min(bytes_from(offset)));
        self.registers.load(offset, within);
        behind.fill(0xFF);
        behind.is_empty()
    }

    /// A write of any width at any offset; dropped behind the end.
    pub(crate) fn write(&mut self, offset: u32, data: &[u8]) -> Written {
        let master_before = self.bus_master();
        let (within, behind) = data.split_at(data.len().min(bytes_from(offset)));
        self.registers.store(offset, within);
        Written {
            inside: behind.is_empty(),
            reset: self.flag(function::DEVICE_CONTROL, function::DEVICE_CONTROL_FLR),
            master: self.bus_master() != master_before,
        }
    }

    pub(crate) fn memory_enabled(&self) -> bool {
        self.flag(function::COMMAND, function::COMMAND_MEMORY)
    }

    pub(crate) fn bus_master(&self) -> bool {
        self.flag(function::COMMAND, function::COMMAND_BUS_MASTER)
    }

    pub(crate) fn msix_enabled(&self) -> bool {
        self.flag(function::MSIX_CONTROL, function::MSIX_ENABLE)
    }

    fn flag(&self, offset: u32, mask: u16) -> bool {
        self.registers.get(offset, 2) & u64::from(mask) != 0
    }
}

/// How much of configuration space lies from an offset on.
fn bytes_from(offset: u32) -> usize {
    usize::try_from(BYTES.saturating_sub(offset)).unwrap_or(usize::MAX)
}
