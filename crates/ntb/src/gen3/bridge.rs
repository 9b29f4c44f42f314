//! What the Linux API says, said to Gen3's registers.

use super::messages::MessageBlock;
use super::{CloseWindow, DISABLED, Gen3, SNOOP, VALID_DOORBELLS};
use crate::events::wait_readable;
use crate::{
    BarIndex, Bridge, BridgeError, DeviceAddress, DividedMemory, DmaMemory, DoorbellTarget, Events, Inbound,
    Link, Outbound, Port, Speed, Width, WindowAlign, WindowKind,
};
use ntb_spec::SCRATCHPADS;
use ntb_spec::bar0::{Reg, offset_of};
use ntb_spec::bits::Sources;
use shm::Window;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Scratchpads of a port, as an index counts them.
const COUNT: u8 = 16;
const _: () = assert!(COUNT as usize == SCRATCHPADS);

impl Bridge for Gen3 {
    fn port(&self) -> Port {
        self.port
    }

    fn link(&self) -> Result<Link, BridgeError> {
        self.read_link()
    }

    fn link_enable(&self, speed: Speed, width: Width) -> Result<(), BridgeError> {
        if (speed, width) != (Speed::Auto, Width::Auto) {
            tracing::debug!(?speed, ?width, "this hardware trains as it can");
        }
        let _one_at_a_time = self.state();
        let control = self.registers.read(Reg::Control, 0)? & !u64::from(DISABLED.into_bits());
        Ok(self.registers.write(Reg::Control, 0, control | u64::from(SNOOP.into_bits()))?)
    }

    fn link_disable(&self) -> Result<(), BridgeError> {
        let _one_at_a_time = self.state();
        let control = self.registers.read(Reg::Control, 0)? & !u64::from(SNOOP.into_bits());
        Ok(self.registers.write(Reg::Control, 0, control | u64::from(DISABLED.into_bits()))?)
    }

    fn wait_for_link(&self, up: bool, timeout: Duration) -> Result<Link, BridgeError> {
        self.await_link(up, timeout)
    }

    fn window_count(&self) -> usize {
        self.windows.count()
    }

    fn window_kind(&self, window: usize) -> Result<WindowKind, BridgeError> {
        self.windows.kind(window)
    }

    fn window_align(&self, window: usize) -> Result<WindowAlign, BridgeError> {
        self.windows.align(window)
    }

    fn set_translation(&self, window: usize, address: DeviceAddress, bytes: u64) -> Result<(), BridgeError> {
        self.windows.open(&self.registers, window, address, bytes)
    }

    fn clear_translation(&self, window: usize) -> Result<(), BridgeError> {
        self.windows.close(&self.registers, window)
    }

    fn outbound(&self, window: usize) -> Result<Outbound, BridgeError> {
        let (bar, bytes, mapped) = self.windows.outbound(window)?;
        let link = Arc::clone(&self.link_generation);
        let outbound = match mapped {
            Some(mapped) => Outbound::mapped(Arc::clone(&mapped.memory), link),
            None => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                Outbound::messaged(Arc::clone(self.registers.function()), bar, bytes, link)
            }
        };
        Ok(outbound.at(self.bar_address(bar)?))
    }

    fn inbound(&self, window: usize, bytes: u64) -> Result<Inbound, BridgeError> {
        if let Some(mapped) = self.windows.shared_inbound(window)? {
            let max_bytes = u64::try_from(Window::bytes(&*mapped.memory)).unwrap_or(u64::MAX);
            return match bytes <= max_bytes {
                true => Ok(Inbound::shared(Arc::clone(&mapped.memory))),
                false => Err(BridgeError::TooLarge { bytes, max_bytes }),
            };
        }
        let WindowAlign { address_bytes, max_bytes, .. } = self.window_align(window)?;
        if bytes > max_bytes {
            return Err(BridgeError::TooLarge { bytes, max_bytes });
        }
        let memory = self.dma_allocate(bytes.max(1), address_bytes)?;
        self.set_translation(window, memory.address(), bytes.max(1))?;
        let closer = CloseWindow { registers: self.registers.clone(), windows: self.windows.clone() };
        Ok(Inbound::own(memory, window, Arc::new(closer)))
    }

    fn outbound_address(&self, window: usize) -> Result<DeviceAddress, BridgeError> {
        self.bar_address(self.windows.outbound(window)?.0)
    }

    fn dma_allocate(&self, bytes: u64, align_bytes: u64) -> Result<DmaMemory, BridgeError> {
        Ok(self.registers.function().dma_allocate(bytes, align_bytes)?)
    }

    fn dma_divide(&self, bytes: u64, align_bytes: u64) -> Result<DividedMemory, BridgeError> {
        Ok(self.registers.function().dma_divide(bytes, align_bytes)?)
    }

    fn doorbell_valid_mask(&self) -> u64 {
        VALID_DOORBELLS
    }

    fn doorbell_vector_count(&self) -> u8 {
        super::LINK_VECTOR
    }

    fn doorbell_vector_mask(&self, vector: u8) -> u64 {
        Sources::one(vector).0 & VALID_DOORBELLS
    }

    fn doorbells(&self) -> Result<u64, BridgeError> {
        Ok(self.registers.read(Reg::IntStatus, 0)? & VALID_DOORBELLS)
    }

    fn doorbells_clear(&self, bits: u64) -> Result<(), BridgeError> {
        self.registers.write(Reg::IntStatus, 0, valid(bits)?)?;
        // A clear that is still on its way would swallow a bell that rings after the caller has looked (Linux
        // `ntb_transport_rxc_db` reads the register back for the same reason).
        self.registers.read(Reg::IntStatus, 0)?;
        Ok(())
    }

    fn doorbell_mask(&self) -> u64 {
        self.state().masked
    }

    fn doorbells_mask(&self, bits: u64) -> Result<(), BridgeError> {
        let bits = valid(bits)?;
        self.set_masked(|masked| masked | bits)
    }

    fn doorbells_unmask(&self, bits: u64) -> Result<(), BridgeError> {
        let bits = valid(bits)?;
        self.set_masked(|masked| masked & !bits)
    }

    fn ring(&self, bits: u64) -> Result<(), BridgeError> {
        for doorbell in Sources(valid(bits)?).iter() {
            self.registers.write(Reg::Doorbell, doorbell, 1)?;
        }
        Ok(())
    }

    fn doorbell_target(&self, doorbell: u8) -> Result<DoorbellTarget, BridgeError> {
        let bits = 1_u64.checked_shl(doorbell.into()).unwrap_or(0);
        if bits & VALID_DOORBELLS == 0 {
            return Err(BridgeError::NoDoorbell { bits, valid: VALID_DOORBELLS });
        }
        let registers = self.bar_address(BarIndex::REGISTERS)?;
        let address = DeviceAddress(registers.0.saturating_add(offset_of(Reg::Doorbell, doorbell).into()));
        Ok(DoorbellTarget { address, value: 1 })
    }

    fn scratchpad_count(&self) -> u8 {
        COUNT
    }

    fn scratchpad(&self, index: u8) -> Result<u32, BridgeError> {
        self.read_scratchpad(Reg::Spad, index)
    }

    fn scratchpad_write(&self, index: u8, value: u32) -> Result<(), BridgeError> {
        self.write_scratchpad(Reg::Spad, index, value)
    }

    fn peer_scratchpad(&self, index: u8) -> Result<u32, BridgeError> {
        self.read_scratchpad(Reg::PeerSpad, index)
    }

    fn peer_scratchpad_write(&self, index: u8, value: u32) -> Result<(), BridgeError> {
        self.write_scratchpad(Reg::PeerSpad, index, value)
    }

    fn message_count(&self) -> u8 {
        self.messages.as_ref().map_or(0, MessageBlock::count)
    }

    fn messages(&self) -> Result<u32, BridgeError> {
        self.message_block()?.arrived(&self.registers)
    }

    fn message_take(&self, register: u8) -> Result<Option<u32>, BridgeError> {
        let _one_at_a_time = self.state();
        self.message_block()?.take(&self.registers, register)
    }

    fn message_send(&self, register: u8, value: u32) -> Result<bool, BridgeError> {
        let _one_at_a_time = self.state();
        self.message_block()?.send(&self.registers, register, value)
    }

    fn messages_mask(&self, masked: u32) -> Result<(), BridgeError> {
        self.message_block()?.mask(&self.registers, masked)
    }

    fn events(&self) -> Result<Events, BridgeError> {
        self.take_events()
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.vectors.any()
    }

    fn doorbell_fd(&self, vector: u8) -> Result<BorrowedFd<'_>, BridgeError> {
        let bits = 1_u64.checked_shl(vector.into()).unwrap_or(0);
        let fd = self.vectors.one(vector).filter(|_| bits & VALID_DOORBELLS != 0);
        fd.ok_or(BridgeError::NoDoorbell { bits, valid: VALID_DOORBELLS })
    }

    fn wait(&self, timeout: Duration) -> Result<Events, BridgeError> {
        let began = Instant::now();
        loop {
            let events = self.take_events()?;
            let left = timeout.saturating_sub(began.elapsed());
            if !events.is_empty() || left.is_zero() {
                return Ok(events);
            }
            wait_readable(self.vectors.any(), left)?;
        }
    }
}

impl Gen3 {
    fn message_block(&self) -> Result<&MessageBlock, BridgeError> {
        self.messages.as_ref().ok_or(BridgeError::NoMessages)
    }

    fn read_scratchpad(&self, reg: Reg, index: u8) -> Result<u32, BridgeError> {
        let value = self.registers.read(reg, scratchpad(index)?)?;
        // The access has four bytes.
        Ok(u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX))
    }

    fn write_scratchpad(&self, reg: Reg, index: u8, value: u32) -> Result<(), BridgeError> {
        Ok(self.registers.write(reg, scratchpad(index)?, value.into())?)
    }
}

fn scratchpad(index: u8) -> Result<u8, BridgeError> {
    if index < COUNT { Ok(index) } else { Err(BridgeError::NoScratchpad { index, count: COUNT }) }
}

fn valid(bits: u64) -> Result<u64, BridgeError> {
    if bits & !VALID_DOORBELLS == 0 {
        Ok(bits)
    } else {
        Err(BridgeError::NoDoorbell { bits, valid: VALID_DOORBELLS })
    }
}
