//! The ring of the profile `paper`, as published.
//!
//! ```text
//!   the receiver's memory:  entry │ exit │ cell 0 │ cell 1 │ .. │ cell n-1
//!   empty when entry = exit; full when (entry + 1) mod n = exit
//! ```
//!
//! The sender fills cells from *entry*, then moves it. The receiver takes them from *exit*, then moves that. The sender
//! reads *exit* where it lies, across the bridge: the one exception to the law that only stores cross, and why this
//! profile is refused on windows that carry messages.

use crate::carry::Carrier;
use crate::fault::Fault;
use crate::header::PaperHeader;
use crate::layout::{ENTRY, EXIT, Geometry, RING, usize_of};
use crate::order::{Site, acquire, release};
use crate::region::Ends;
use shm::{Memory, StoreOrder, Window, WindowError};

/// Steps from one position up to another, round the ring.
fn distance(cells: u32, from: u32, to: u32) -> u32 {
    if to >= from { to.wrapping_sub(from) } else { cells.wrapping_sub(from).wrapping_add(to) }
}

/// The position `steps` further; both below `cells`, of which there are at most 2^20.
fn further(cells: u32, position: u32, steps: u32) -> u32 {
    let sum = position.wrapping_add(steps);
    if sum >= cells { sum.wrapping_sub(cells) } else { sum }
}

fn checked(which: &'static str, offset: u32, cells: u32) -> Result<u32, Fault> {
    if offset < cells { Ok(offset) } else { Err(Fault::OffsetRange { which, offset, cells }) }
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct Sender<O, I> {
    ends: Ends<O, I>,
    geometry: Geometry,
    /// The next cell to fill. Nobody else moves it, so it is never read back.
    entry: u32,
    /// As the peer has been told.
    published: u32,
    /// As last read.
    exit: u32,
    /// Cells filled so far.
    sent: u64,
}

impl<O: Window, I: Memory> Sender<O, I> {
    pub(crate) fn new(ends: Ends<O, I>, geometry: Geometry) -> Self {
        Self { ends, geometry, entry: 0, published: 0, exit: 0, sent: 0 }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Of these, how many the peer is known to have taken.
    pub(crate) fn taken(&self) -> u64 {
        self.sent.wrapping_sub(distance(self.geometry.cells(), self.exit, self.entry).into())
    }

    /// Free cells, counted as published: from the exit offset where it lies.
    pub(crate) fn free(&mut self) -> Result<u64, Fault> {
        let cells = self.geometry.cells();
        let at = self.ends.theirs.wrapping_add(RING).wrapping_add(EXIT);
        let window = self.ends.out.as_memory().ok_or(Fault::Window(WindowError::ReadOnly))?;
        // Pairs with MoveExit.
        let exit = checked("exit", window.load_u32(at, acquire(Site::SeeExit))?, cells)?;
        if distance(cells, self.exit, exit) > distance(cells, self.exit, self.entry) {
            return Err(Fault::ExitPastEntry { from: self.exit, to: exit, entry: self.entry });
        }
        self.exit = exit;
        let full = distance(cells, exit, self.entry);
        Ok(u64::from(self.geometry.capacity().saturating_sub(full)))
    }

    /// Puts a frame into the ring; the caller has seen that there is room, and that it is not too long. The peer sees
    /// it after [`publish`](Self::publish).
    pub(crate) fn put(&mut self, carrier: &mut Carrier, frame: &[u8]) -> Result<(), Fault> {
        let cells = self.geometry.cells();
        let data_bytes = usize_of(self.geometry.data_bytes());
        let count = u32::try_from(self.geometry.cells_for(frame.len())).unwrap_or(u32::MAX);
        let last = further(cells, self.entry, count.wrapping_sub(1));
        let way = carrier.way(frame.len(), data_bytes);
        let mut rest = frame;
        let mut position = self.entry;
        loop {
            let (data, after) = rest.split_at(rest.len().min(data_bytes));
            let bytes = u32::try_from(data.len()).unwrap_or(0);
            let header = match (count, position) {
                (1, _) => PaperHeader::whole(bytes),
                (_, position) if position == last => PaperHeader::last(bytes),
                (_, position) if position == self.entry => PaperHeader::first(last),
                _ => PaperHeader::middle(),
            };
            let at = self.ends.theirs.wrapping_add(self.geometry.cell_at(position));
            let header_bytes = if self.geometry.header_bytes() == 2 {
                self.ends.out.write(at, &header.short())?;
                2
            } else {
                self.ends.out.write(at, &header.long())?;
                4
            };
            carrier.copy(way, &*self.ends.out, at.wrapping_add(header_bytes), data)?;
            if position == last {
                break;
            }
            position = further(cells, position, 1);
            rest = after;
        }
        carrier.finish(way, &*self.ends.out)?;
        self.entry = further(cells, last, 1);
        self.sent = self.sent.wrapping_add(u64::from(count));
        Ok(())
    }

    /// Moves the entry offset over all that was put; true if there was something.
    pub(crate) fn publish(&mut self) -> Result<bool, Fault> {
        if self.published == self.entry {
            return Ok(false);
        }
        let at = self.ends.theirs.wrapping_add(RING).wrapping_add(ENTRY);
        // Pairs with SeeEntry.
        self.ends.out.store_u32(at, self.entry, release(Site::MoveEntry))?;
        self.published = self.entry;
        Ok(true)
    }
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Receiver<O, I> {
    ends: Ends<O, I>,
    geometry: Geometry,
    /// As last read.
    entry: u32,
    /// The next cell to take. Nobody else may move it, so it is never read back.
    exit: u32,
    /// Cells taken so far.
    taken: u64,
    frame: Box<[u8]>,
    filled: usize,
}

impl<O: Window, I: Memory> Receiver<O, I> {
    pub(crate) fn new(ends: Ends<O, I>, geometry: Geometry, longest_frame: usize) -> Self {
        let frame = vec![0; longest_frame].into_boxed_slice();
        Self { ends, geometry, entry: 0, exit: 0, taken: 0, frame, filled: 0 }
    }

    /// Empties the ring. The caller knows that the peer does not send.
    pub(crate) fn reset_memory(own: &I, mine: usize) -> Result<(), Fault> {
        let ring = mine.wrapping_add(RING);
        own.store_u32(ring.wrapping_add(ENTRY), 0, StoreOrder::Relaxed)?;
        Ok(own.store_u32(ring.wrapping_add(EXIT), 0, StoreOrder::Relaxed)?)
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    pub(crate) fn frame(&self) -> &[u8] {
        self.frame.get(..self.filled).unwrap_or_default()
    }

    /// Whether there is a frame.
    pub(crate) fn is_ready(&mut self) -> Result<bool, Fault> {
        if self.entry == self.exit {
            self.read_entry()?;
        }
        Ok(self.entry != self.exit)
    }

    fn read_entry(&mut self) -> Result<(), Fault> {
        let cells = self.geometry.cells();
        let at = self.ends.mine.wrapping_add(RING).wrapping_add(ENTRY);
        // Pairs with MoveEntry.
        let entry = checked("entry", self.ends.own.load_u32(at, acquire(Site::SeeEntry))?, cells)?;
        // Read when the ring was empty, so every position is ahead: what lies before it shows in the headers.
        self.entry = entry;
        Ok(())
    }

    /// Fetches a whole frame, from its first fragment to its last; false if there is none.
    pub(crate) fn fetch(&mut self) -> Result<bool, Fault> {
        if !self.is_ready()? {
            return Ok(false);
        }
        self.filled = 0;
        let cells = self.geometry.cells();
        let data_bytes = self.geometry.data_bytes();
        let (first, found) = self.header(self.exit)?;
        let bad = |why| Fault::Header { found, why };
        if !first.fragmented {
            if first.first {
                return Err(bad("a whole frame is marked as a fragment's beginning"));
            }
            self.copy_out(self.exit, first.value, bad)?;
            return self.move_exit(further(cells, self.exit, 1), 1);
        }
        if !first.first {
            return Err(bad("a frame begins that is not marked as one"));
        }
        let last = first.value;
        if last >= cells {
            return Err(bad("the last fragment lies outside the ring"));
        }
        let steps = distance(cells, self.exit, last);
        if steps == 0 || steps >= distance(cells, self.exit, self.entry) {
            return Err(bad("the last fragment does not lie before the entry offset"));
        }
        self.copy_out(self.exit, data_bytes, bad)?;
        let mut position = self.exit;
        loop {
            position = further(cells, position, 1);
            let (header, found) = self.header(position)?;
            let bad = |why| Fault::Header { found, why };
            if !header.fragmented || header.first {
                return Err(bad("a frame begins inside another"));
            }
            if position == last {
                self.copy_out(position, header.value, bad)?;
                return self.move_exit(further(cells, last, 1), steps.wrapping_add(1));
            }
            if header.value != 0 {
                return Err(bad("a fragment before the last has a length"));
            }
            self.copy_out(position, data_bytes, bad)?;
        }
    }

    /// The header at a position: read once.
    fn header(&self, position: u32) -> Result<(PaperHeader, u64), Fault> {
        let at = self.ends.mine.wrapping_add(self.geometry.cell_at(position));
        if self.geometry.header_bytes() == 2 {
            let mut bytes = [0; 2];
            self.ends.own.read(at, &mut bytes)?;
            Ok((PaperHeader::from_short(bytes), u64::from(u16::from_le_bytes(bytes))))
        } else {
            let mut bytes = [0; 4];
            self.ends.own.read(at, &mut bytes)?;
            Ok((PaperHeader::from_long(bytes), u64::from(u32::from_le_bytes(bytes))))
        }
    }

    fn copy_out(
        &mut self,
        position: u32,
        bytes: u32,
        bad: impl Fn(&'static str) -> Fault,
    ) -> Result<(), Fault> {
        if bytes > self.geometry.data_bytes() {
            return Err(bad("more bytes than the cell has"));
        }
        let at = self.ends.mine.wrapping_add(self.geometry.cell_at(position));
        let end = self.filled.wrapping_add(usize_of(bytes));
        let longest = self.frame.len();
        let room = self.frame.get_mut(self.filled..end).ok_or(Fault::FrameTooLong { longest })?;
        self.ends.own.read(at.wrapping_add(usize_of(self.geometry.header_bytes())), room)?;
        self.filled = end;
        Ok(())
    }

    fn move_exit(&mut self, exit: u32, cells: u32) -> Result<bool, Fault> {
        let at = self.ends.mine.wrapping_add(RING).wrapping_add(EXIT);
        // Pairs with SeeExit: the copies out of these cells are done before they are written anew.
        self.ends.own.store_u32(at, exit, release(Site::MoveExit))?;
        self.exit = exit;
        self.taken = self.taken.wrapping_add(u64::from(cells));
        Ok(true)
    }
}
