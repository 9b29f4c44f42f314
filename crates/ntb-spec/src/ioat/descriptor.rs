//! The descriptor in memory (Linux `struct ioat_dma_descriptor` in `hw.h`): 64 bytes, little-endian, 64-aligned.

use bitfield_struct::bitfield;

/// Size and alignment of a descriptor (Linux `IOAT_DESC_SZ`).
pub const DESCRIPTOR_BYTES: usize = 64;
/// The operation of a copy, and of a null descriptor (Linux `IOAT_OP_COPY`).
pub const OPERATION_COPY: u8 = 0;

/// The control word, at 4.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Control {
    /// Raise the channel's interrupt when it is done.
    pub interrupt: bool,
    /// A hint about caches.
    pub source_snoop_off: bool,
    /// A hint about caches.
    pub destination_snoop_off: bool,
    /// Write its address to CHANCMP when it is done.
    pub completion_write: bool,
    /// What follows waits until this is done.
    pub fence: bool,
    /// Copies nothing, and is done.
    pub null: bool,
    /// Stop at a page's end in the source.
    pub source_break: bool,
    /// Stop at a page's end in the destination.
    pub destination_break: bool,
    /// Part of a bundle.
    pub bundle: bool,
    /// A hint about caches.
    pub destination_dca: bool,
    /// A hint about caches.
    pub hint: bool,
    #[bits(13)]
    __: u16,
    /// What to do.
    pub operation: u8,
}

/// A descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// Bytes to copy; 1 in a null descriptor.
    pub size: u32,
    /// What to do.
    pub control: Control,
    /// Where from.
    pub source: u64,
    /// Where to.
    pub destination: u64,
    /// Address of the next descriptor.
    pub next: u64,
}

impl Descriptor {
    /// As it stands in memory; the last 32 bytes are the driver's.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; DESCRIPTOR_BYTES]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| {
            let mut whole = [0; 8];
            whole.copy_from_slice(word);
            u64::from_le_bytes(whole)
        });
        let mut word = || words.next().unwrap_or(0);
        let [a, b, c, d, e, f, g, h] = word().to_le_bytes();
        Self {
            size: u32::from_le_bytes([a, b, c, d]),
            control: Control::from_bits(u32::from_le_bytes([e, f, g, h])),
            source: word(),
            destination: word(),
            next: word(),
        }
    }

    /// As it stands in memory, with zeros in the driver's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; DESCRIPTOR_BYTES] {
        let mut bytes = [0; DESCRIPTOR_BYTES];
        let head = u64::from(self.size) | u64::from(self.control.into_bits()) << 32;
        let words = [head, self.source, self.destination, self.next];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_linux_has_them() {
        let control = Control::new().with_interrupt(true).with_completion_write(true).with_null(true);
        assert_eq!(control.into_bits(), 0x29);
        assert_eq!(Control::new().with_fence(true).with_operation(0x87).into_bits(), 0x8700_0010);
        let descriptor = Descriptor { size: 2000, control, source: 0x1111, destination: 0x2222, next: 0x40 };
        let bytes = descriptor.to_bytes();
        assert_eq!(bytes[..8], [0xD0, 0x07, 0, 0, 0x29, 0, 0, 0]);
        assert_eq!((bytes[8], bytes[16], bytes[24]), (0x11, 0x22, 0x40));
        assert_eq!(bytes[32..], [0; 32]);
        assert_eq!(Descriptor::from_bytes(&bytes), descriptor);
    }
}
