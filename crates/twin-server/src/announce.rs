//! Memory that hosts announce and withdraw.

use crate::guest_memory::{AddError, Backing, GuestMemory, Rights};
use crate::machine::Machine;
use crate::seat::Seat;
use crate::windows::PAGE;
use rustix::io::Errno;
use shm::{Mapping, SharedFile};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use twin::Side;
use vfio_user::wire::{DmaMap, DmaUnmap};

impl Machine {
    /// What a seat's client has announced. `None`: nobody can sit there.
    fn memory(&mut self, seat: Seat) -> Option<&mut GuestMemory> {
        match seat {
            Seat::Port(side) => Some(&mut self.hosts.get_mut(side).memory),
            Seat::Engine(side) => self.dma.get_mut(side).map(|host| &mut host.memory),
        }
    }

    pub(crate) fn map(&mut self, seat: Seat, map: DmaMap, fd: Option<OwnedFd>) -> Result<(), Errno> {
        let rights = Rights { readable: map.readable, writable: map.writeable };
        let fd = fd.filter(|_| rights.readable || rights.writable);
        let memory = self.memory(seat).ok_or(Errno::INVAL)?;
        if !memory.has_room(fd.is_some()) {
            return Err(Errno::NOSPC);
        }
        let (backing, problem) = match fd.map(|fd| back(memory, &map, rights, fd)).transpose() {
            Ok(backing) => (backing, None),
            Err(why) => (None, Some(why)),
        };
        let added = memory.add(map.iova.0, map.size, rights, backing);
        if let Some(why) = problem {
            self.log(seat.side(), |left_out| {
                tracing::warn!(
                    port = seat.name(), iova = %map.iova, bytes = map.size, why, left_out, "memory that cannot be reached"
                );
            });
        }
        self.replan_for(seat, map.iova.0, map.size);
        self.settle();
        added.map_err(|error| match error {
            AddError::Range => Errno::INVAL,
            AddError::Overlap => Errno::EXIST,
            AddError::TooMany => Errno::NOSPC,
        })
    }

    pub(crate) fn unmap(&mut self, seat: Seat, unmap: DmaUnmap) -> Result<(), Errno> {
        let memory = self.memory(seat).ok_or(Errno::INVAL)?;
        let (first, bytes) = match unmap {
            DmaUnmap::All => {
                memory.clear();
                (0, u64::MAX)
            }
            DmaUnmap::Range { iova, size } => match memory.remove(iova.0, size) {
                Some(true) => (iova.0, size),
                Some(false) => return Err(Errno::NOENT),
                None => return Err(Errno::INVAL),
            },
        };
        // The piece that is under way may lie there.
        self.wait_for_piece();
        // A neighbour's window on this memory closes, and the reply waits for it.
        self.replan_for(seat, first, bytes);
        self.settle();
        Ok(())
    }

    /// Memory of a host has changed: what lies under its neighbour's windows may have to follow, if they lead there. A guest behind a
    /// vIOMMU maps and unmaps page by page all the time, and to find what lies under a window may take thousands of pages.
    fn replan_for(&mut self, seat: Seat, first: u64, bytes: u64) {
        let Seat::Port(side) = seat else { return };
        self.replan |= (0..ntb_spec::WINDOWS).any(|window| self.leads_to(side, window, first, bytes));
    }

    /// Whether a window of its neighbour's is open onto some of this memory of a host.
    fn leads_to(&self, side: Side, window: usize, first: u64, bytes: u64) -> bool {
        let (translation, open) = self.twin.outbound(side.peer(), window);
        // Mappings have pages: the last one opens whole.
        let end = translation.saturating_add(open.saturating_add(PAGE));
        open > 0 && first < end && translation < first.saturating_add(bytes)
    }
}

/// The memory behind an announcement, if it cannot be cut under us.
fn back(memory: &mut GuestMemory, map: &DmaMap, rights: Rights, fd: OwnedFd) -> Result<Backing, String> {
    let end = map.fd_offset.checked_add(map.size).ok_or("the range leaves the file")?;
    let file = SharedFile::accept(fd, end).map_err(|unfit| unfit.to_string())?;
    let identity = file.identity();
    let mapping = Mapping::new(&file, map.fd_offset, map.size, rights.access());
    let mapping = Arc::new(mapping.map_err(|error| error.to_string())?);
    // Kept for others to map, so only if it was opened for writing, as the mapping above has shown.
    let file = rights.writable.then(|| memory.keep(file)).flatten();
    Ok(Backing { mapping, identity, file, offset: map.fd_offset })
}
