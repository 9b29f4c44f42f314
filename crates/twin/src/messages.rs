//! The message registers of a port: an extension, see [`ntb_spec::messages`].

use crate::register_file::RegisterFile;
use crate::{Effect, Side, Twin};
use ntb_spec::messages::{ARRIVED, REFUSED_SHIFT, Reg, TABLE, TAKEN_SHIFT, lookup, offset_of};

const STATUS: u32 = offset_of(Reg::Status, 0);
const MASK: u32 = offset_of(Reg::Mask, 0);
const VECTOR: u32 = offset_of(Reg::Vector, 0);

/// One port's block.
#[derive(Debug)]
pub(crate) struct Messages {
    pub(crate) registers: RegisterFile,
}

impl Messages {
    pub(crate) fn new() -> Self {
        Self { registers: RegisterFile::new(TABLE) }
    }

    fn word(&self, at: u32) -> u32 {
        u32::try_from(self.registers.get(at, 4)).unwrap_or(u32::MAX)
    }

    /// Sets bits of the status. Returns the vector to raise, if any.
    fn latch(&mut self, bits: u32) -> Option<u8> {
        let before = self.word(STATUS);
        self.registers.put(STATUS, 4, u64::from(before | bits));
        self.vector_if(bits & !before & !self.word(MASK))
    }

    fn vector_if(&self, bits: u32) -> Option<u8> {
        (bits != 0).then(|| u8::try_from(self.registers.get(VECTOR, 1)).unwrap_or(u8::MAX))
    }

    /// A message from the peer. `None`: the last one lies there still.
    fn arrive(&mut self, index: u8, message: u64) -> Option<Option<u8>> {
        let bit = bit(index);
        if self.word(STATUS) & bit != 0 {
            return None;
        }
        self.registers.put(offset_of(Reg::Inbound, index), 4, message);
        Some(self.latch(bit))
    }

    /// The link went down: what lies in either direction is lost.
    pub(crate) fn drop_all(&mut self) {
        self.registers.put(STATUS, 4, 0);
    }
}

/// The arrived bit of a register.
fn bit(index: u8) -> u32 {
    1_u32.checked_shl(index.into()).unwrap_or(0) & ARRIVED
}

impl Twin {
    /// Whether an access means a message register.
    pub(crate) fn is_message(&self, side: Side, offset: u32, bytes: usize) -> bool {
        let port = self.port(side);
        port.messages.is_some() && port.function.memory_enabled() && lookup(offset, bytes).is_ok()
    }

    /// A read of a message register.
    pub(crate) fn message_read(&self, side: Side, offset: u32, out: &mut [u8]) {
        match &self.port(side).messages {
            Some(messages) => messages.registers.load(offset, out),
            None => out.fill(0xFF),
        }
    }

    /// A write to a message register.
    pub(crate) fn message_write(&mut self, side: Side, offset: u32, data: &[u8], effects: &mut Vec<Effect>) {
        let Ok(hit) = lookup(offset, data.len()) else { return };
        let value = data.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        match hit.row.reg {
            Reg::Outbound => self.message_send(side, hit.index, value, effects),
            Reg::Status => {
                let port = self.port_mut(side);
                let Some(messages) = &mut port.messages else { return };
                let before = messages.word(STATUS);
                messages.registers.store(offset, data);
                let taken = before & !messages.word(STATUS) & ARRIVED;
                if taken != 0 && self.is_up() {
                    self.message_latch(side.peer(), taken << TAKEN_SHIFT, effects);
                }
            }
            Reg::Mask => {
                let port = self.port_mut(side);
                let Some(messages) = &mut port.messages else { return };
                let before = messages.word(MASK);
                messages.registers.store(offset, data);
                let pending = messages.word(STATUS) & before & !messages.word(MASK);
                if let Some(vector) = messages.vector_if(pending) {
                    port.raise_vector(vector.into(), effects);
                }
            }
            Reg::Capability | Reg::Vector | Reg::Inbound => {
                if let Some(messages) = &mut self.port_mut(side).messages {
                    messages.registers.store(offset, data);
                }
            }
        }
    }

    fn message_send(&mut self, side: Side, index: u8, message: u64, effects: &mut Vec<Effect>) {
        let up = self.is_up();
        let peer = self.port_mut(side.peer());
        match peer.messages.as_mut().filter(|_| up).and_then(|messages| messages.arrive(index, message)) {
            Some(Some(vector)) => peer.raise_vector(vector.into(), effects),
            Some(None) => {}
            None => self.message_latch(side, bit(index) << REFUSED_SHIFT, effects),
        }
    }

    fn message_latch(&mut self, side: Side, bits: u32, effects: &mut Vec<Effect>) {
        let port = self.port_mut(side);
        if let Some(vector) = port.messages.as_mut().and_then(|messages| messages.latch(bits)) {
            port.raise_vector(vector.into(), effects);
        }
    }
}
