//! A port as its session wants it.

use crate::machine::{Location, Machine};
use crate::seat::Seat;
use crate::windows::WindowMode;
use control::WindowClass;
use ntb_spec::{MSIX_VECTORS, WINDOWS, bar0, config};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use twin::Side;
use vfio_user::server::{Device, IrqChange, Region};
use vfio_user::wire::{DmaMap, DmaUnmap, IrqIndex, IrqInfo, RegionIndex};

/// One port of a machine, as a vfio-user session wants it.
#[derive(Debug)]
pub struct PortDevice<'a> {
    machine: &'a mut Machine,
    side: Side,
}

impl<'a> PortDevice<'a> {
    /// The caller says that it acts.
    pub(crate) fn new(machine: &'a mut Machine, side: Side) -> Self {
        Self { machine, side }
    }

    /// Whether a region is memory that the peer's region is too, so that nothing is translated.
    #[must_use]
    pub fn is_shared(&self, index: RegionIndex) -> bool {
        let Some(Location::Window(window)) = Machine::place(index) else { return false };
        let (mode, class) = self.machine.windows.mode((self.side, window));
        mode == WindowMode::Shared && class == WindowClass::Mapped
    }
}

impl Drop for PortDevice<'_> {
    fn drop(&mut self) {
        self.machine.acting = None;
    }
}

impl Device for PortDevice<'_> {
    fn region(&self, index: RegionIndex) -> Region {
        let size = match Machine::place(index) {
            Some(Location::Bar0) => u64::from(bar0::BYTES),
            Some(Location::Window(window)) => self.machine.twin.window_bytes(self.side, window),
            Some(Location::Config) => u64::from(config::BYTES),
            None => return Region::ABSENT,
        };
        Region::read_write(size)
    }

    fn mapping(&mut self, index: RegionIndex) -> Option<vfio_user::server::Mapping<'_>> {
        let Some(Location::Window(window)) = Machine::place(index) else { return None };
        let Machine { twin, windows, hosts, .. } = &mut *self.machine;
        let bytes = twin.window_bytes(self.side, window);
        let fd = windows.mapping((self.side, window), bytes, hosts)?;
        Some(vfio_user::server::Mapping { fd, fd_offset: 0, areas: &[] })
    }

    fn hold(&self) -> bool {
        self.machine.holds(Seat::Port(self.side))
    }

    fn irq_info(&self, index: IrqIndex) -> IrqInfo {
        crate::interrupts::info(index, MSIX_VECTORS)
    }

    fn region_read(&mut self, index: RegionIndex, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let place = Machine::place(index).ok_or(Errno::INVAL)?;
        self.machine.load(self.side, &place, offset, data);
        Ok(())
    }

    fn region_write(
        &mut self,
        index: RegionIndex,
        offset: u64,
        data: &[u8],
        _posted: bool,
    ) -> Result<(), Errno> {
        let place = Machine::place(index).ok_or(Errno::INVAL)?;
        self.machine.store(self.side, &place, offset, data);
        Ok(())
    }

    fn dma_map(&mut self, map: DmaMap, fd: Option<OwnedFd>) -> Result<(), Errno> {
        self.machine.map(Seat::Port(self.side), map, fd)
    }

    fn dma_unmap(&mut self, unmap: DmaUnmap) -> Result<(), Errno> {
        self.machine.unmap(Seat::Port(self.side), unmap)
    }

    fn set_irqs(&mut self, index: IrqIndex, change: IrqChange<'_>) -> Result<(), Errno> {
        self.machine.hosts.get_mut(self.side).interrupts.change(index, change)
    }

    fn reset(&mut self) -> Result<(), Errno> {
        let machine = &mut *self.machine;
        let now = machine.now();
        machine.twin.reset(now, self.side, &mut machine.effects);
        machine.after_reset(now, self.side);
        machine.settle();
        Ok(())
    }
}

const _: () = assert!(WINDOWS == 2, "place() knows two windows");
