//! An engine as its session wants it.

use crate::interrupts::Interrupts;
use crate::machine::Machine;
use crate::seat::Seat;
use crate::trace::{Direction, TraceSpace};
use ntb_spec::ioat::{self, config};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use twin::Side;
use vfio_user::server::{Device, IrqChange, Region};
use vfio_user::wire::{DmaMap, DmaUnmap, IrqIndex, IrqInfo, RegionIndex};

/// The engine of one host.
#[derive(Debug)]
pub(crate) struct EngineDevice<'a> {
    machine: &'a mut Machine,
    side: Side,
}

impl Machine {
    /// The engine of one host, for a session.
    pub(crate) fn engine(&mut self, side: Side) -> EngineDevice<'_> {
        self.acting = Some(Seat::Engine(side));
        EngineDevice { machine: self, side }
    }

    /// A client connected to an engine.
    pub(crate) fn attach_engine(&mut self, side: Side, pid: Option<u32>) {
        let Some(host) = self.dma.get_mut(side) else { return };
        host.attached = true;
        host.pid = pid;
        host.attaches = host.attaches.wrapping_add(1);
        let port = self.hosts.get(side).pid;
        if pid.is_some() && port.is_some() && pid != port {
            let side = crate::status::port_name(side);
            tracing::warn!(port = %side, "another process than the port's has its engine: it reaches no window");
        }
    }

    /// The client of an engine is gone: its memory and its eventfds go with it.
    pub(crate) fn detach_engine(&mut self, side: Side) {
        let Some(host) = self.dma.get_mut(side) else { return };
        host.attached = false;
        host.pid = None;
        host.memory.clear();
        host.interrupts.detach();
        host.reset();
    }

    fn store_engine(&mut self, side: Side, region: RegionIndex, offset: u32, data: &[u8]) {
        let mut effects = std::mem::take(&mut self.dma.effects);
        let Some(host) = self.dma.get_mut(side) else { return };
        let (space, hit) = if region == RegionIndex::CONFIG {
            let msix_before = host.engine.msix_enabled();
            host.engine.config_write(offset, data, &mut effects);
            if msix_before && !host.engine.msix_enabled() {
                host.interrupts.reset();
            }
            (TraceSpace::DmaConfig, true)
        } else {
            (TraceSpace::DmaBar0, host.engine.bar0_write(offset, data, &mut effects))
        };
        self.dma.effects = effects;
        self.record(side, space, Direction::Write, offset, data, hit);
        self.hear_engine(side);
        if region == RegionIndex::CONFIG {
            // It may not master the bus any more.
            self.wait_for_piece();
        }
    }
}

impl Drop for EngineDevice<'_> {
    fn drop(&mut self) {
        self.machine.acting = None;
    }
}

impl Device for EngineDevice<'_> {
    fn region(&self, index: RegionIndex) -> Region {
        match index {
            RegionIndex::BAR0 => Region::read_write(u64::from(ioat::BYTES)),
            RegionIndex::CONFIG => Region::read_write(u64::from(config::BYTES)),
            _ => Region::ABSENT,
        }
    }

    fn hold(&self) -> bool {
        self.machine.holds(Seat::Engine(self.side))
    }

    fn irq_info(&self, index: IrqIndex) -> IrqInfo {
        crate::interrupts::info(index, ioat::MSIX_VECTORS)
    }

    fn region_read(&mut self, index: RegionIndex, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let offset = u32::try_from(offset).map_err(|_| Errno::INVAL)?;
        let host = self.machine.dma.get_mut(self.side).ok_or(Errno::INVAL)?;
        let (space, hit) = match index {
            RegionIndex::BAR0 => (TraceSpace::DmaBar0, host.engine.bar0_read(offset, data)),
            RegionIndex::CONFIG => {
                host.engine.config_read(offset, data);
                (TraceSpace::DmaConfig, true)
            }
            _ => return Err(Errno::INVAL),
        };
        self.machine.record(self.side, space, Direction::Read, offset, data, hit);
        Ok(())
    }

    fn region_write(
        &mut self,
        index: RegionIndex,
        offset: u64,
        data: &[u8],
        _posted: bool,
    ) -> Result<(), Errno> {
        let offset = u32::try_from(offset).map_err(|_| Errno::INVAL)?;
        match index {
            RegionIndex::BAR0 | RegionIndex::CONFIG => {
                self.machine.store_engine(self.side, index, offset, data);
                Ok(())
            }
            _ => Err(Errno::INVAL),
        }
    }

    fn dma_map(&mut self, map: DmaMap, fd: Option<OwnedFd>) -> Result<(), Errno> {
        self.machine.map(Seat::Engine(self.side), map, fd)
    }

    fn dma_unmap(&mut self, unmap: DmaUnmap) -> Result<(), Errno> {
        self.machine.unmap(Seat::Engine(self.side), unmap)
    }

    fn set_irqs(&mut self, index: IrqIndex, change: IrqChange<'_>) -> Result<(), Errno> {
        let host = self.machine.dma.get_mut(self.side).ok_or(Errno::INVAL)?;
        Interrupts::change(&mut host.interrupts, index, change)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        let host = self.machine.dma.get_mut(self.side).ok_or(Errno::INVAL)?;
        host.reset();
        self.machine.after_engine_reset(self.side);
        Ok(())
    }
}
