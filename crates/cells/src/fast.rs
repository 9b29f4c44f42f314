//! The ring of the profile `fast`: nothing is read across the bridge.
//!
//! ```text
//!   sender                    the receiver's memory               receiver
//!   data, then header  ────▶  cell │ cell │ cell │ cell  ────▶  header, then data
//!   (sequence in the header says that the cell is full)
//!                             the sender's memory
//!   free = cells - (sent - taken)  ◀────  taken  ◀──── stored now and then, not for every cell
//! ```
//!
//! Cells of a frame are published one by one in order, so that the receiver copies out while the sender still copies
//! in; the sender begins only when the whole frame has room. Positions are counted from 0 in 64 bits and never wrap.

use crate::carry::{Carrier, Way};
use crate::fault::Fault;
use crate::header::FastHeader;
use crate::layout::{CREDIT, FAST_HEADER_BYTES, Geometry, usize_of};
use crate::order::{Site, acquire, release};
use crate::region::Ends;
use shm::{Memory, StoreOrder, Window, WindowError};

/// Index of the cell at a position.
fn index(geometry: &Geometry, position: u64) -> u32 {
    // A power of two, so this is an and; the remainder fits, being less than `cells`.
    u32::try_from(position & u64::from(geometry.cells().wrapping_sub(1))).unwrap_or(0)
}

/// The sequence that the cell at a position has when it is full.
fn sequence(position: u64) -> u32 {
    let [a, b, c, d, ..] = position.wrapping_add(1).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct Sender<O, I> {
    ends: Ends<O, I>,
    geometry: Geometry,
    /// Cells filled so far.
    sent: u64,
    /// Cells that the peer has taken, as last read.
    taken: u64,
}

impl<O: Window, I: Memory> Sender<O, I> {
    pub(crate) fn new(ends: Ends<O, I>, geometry: Geometry) -> Self {
        Self { ends, geometry, sent: 0, taken: 0 }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Of these, how many the peer is known to have taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Free cells, read anew only if the last answer has fewer than `need`.
    pub(crate) fn free(&mut self, need: u64) -> Result<u64, Fault> {
        let free = self.known_free();
        if free >= need {
            return Ok(free);
        }
        let ends = &self.ends;
        let claimed = ends.own.load_u64(ends.mine.wrapping_add(CREDIT), acquire(Site::SeeCredit))?;
        if claimed.wrapping_sub(self.taken) > self.sent.wrapping_sub(self.taken) {
            return Err(Fault::Credit { claimed, sent: self.sent });
        }
        self.taken = claimed;
        Ok(self.known_free())
    }

    fn known_free(&self) -> u64 {
        u64::from(self.geometry.cells()).saturating_sub(self.sent.wrapping_sub(self.taken))
    }

    /// Puts a frame into the ring; the caller has seen that there is room, and that it is not too long.
    pub(crate) fn put(&mut self, carrier: &mut Carrier, frame: &[u8]) -> Result<(), Fault> {
        let data_bytes = usize_of(self.geometry.data_bytes());
        let way = carrier.way(frame.len(), data_bytes);
        if let Way::Cached(_) = way {
            self.each_cell(frame, data_bytes, |ends, at, data, header| {
                carrier.copy(way, &*ends.out, at.wrapping_add(HEADER), data)?;
                // Pairs with TakeCell.
                Ok(ends.out.store_u64(at, header.word(), release(Site::PublishCell))?)
            })?;
        } else {
            self.each_cell(frame, data_bytes, |ends, at, data, _| {
                carrier.copy(way, &*ends.out, at.wrapping_add(HEADER), data)
            })?;
            carrier.finish(way, &*self.ends.out)?;
            self.each_cell(frame, data_bytes, |ends, at, _, header| {
                Ok(ends.out.store_u64(at, header.word(), release(Site::PublishCell))?)
            })?;
        }
        self.sent = self.sent.wrapping_add(self.geometry.cells_for(frame.len()));
        Ok(())
    }

    fn each_cell(
        &self,
        frame: &[u8],
        data_bytes: usize,
        mut act: impl FnMut(&Ends<O, I>, usize, &[u8], FastHeader) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut more = u16::try_from(self.geometry.cells_for(frame.len()).wrapping_sub(1)).unwrap_or(0x3FFF);
        let mut rest = frame;
        let mut position = self.sent;
        loop {
            let (data, after) = rest.split_at(rest.len().min(data_bytes));
            let bytes = u16::try_from(data.len()).unwrap_or(0);
            let header =
                FastHeader { sequence: sequence(position), bytes, more, first: position == self.sent };
            let at = self.ends.theirs.wrapping_add(self.geometry.cell_at(index(&self.geometry, position)));
            act(&self.ends, at, data, header)?;
            if more == 0 {
                return Ok(());
            }
            more = more.wrapping_sub(1);
            position = position.wrapping_add(1);
            rest = after;
        }
    }
}

/// [`FAST_HEADER_BYTES`] as an offset.
const HEADER: usize = FAST_HEADER_BYTES as usize;

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Receiver<O, I> {
    ends: Ends<O, I>,
    geometry: Geometry,
    /// Cells taken so far.
    taken: u64,
    /// Of these, how many the peer has been told of.
    told: u64,
    /// Tell it when so many are untold.
    batch: u64,
    /// The frame, as far as it has been fetched.
    frame: Box<[u8]>,
    filled: usize,
    /// Cells of this frame that are still to come; none between frames.
    more: Option<u16>,
}

impl<O: Window, I: Memory> Receiver<O, I> {
    pub(crate) fn new(ends: Ends<O, I>, geometry: Geometry, longest_frame: usize) -> Self {
        let frame = vec![0; longest_frame].into_boxed_slice();
        let batch = u64::from(geometry.cells() / 4).max(1);
        Self { ends, geometry, taken: 0, told: 0, batch, frame, filled: 0, more: None }
    }

    /// Empties the ring: no cell is full, no credit and no flag is left from another session. The caller knows that
    /// the peer does not send.
    pub(crate) fn reset_memory(own: &I, mine: usize, geometry: &Geometry) -> Result<(), Fault> {
        for cell in 0..geometry.cells() {
            own.store_u64(mine.wrapping_add(geometry.cell_at(cell)), 0, StoreOrder::Relaxed)?;
        }
        Ok(())
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Of the cells taken, how many the peer has been told of.
    pub(crate) fn told(&self) -> u64 {
        self.told
    }

    pub(crate) fn frame(&self) -> &[u8] {
        self.frame.get(..self.filled).unwrap_or_default()
    }

    /// Whether the next cell is full.
    pub(crate) fn is_ready(&self) -> Result<bool, Fault> {
        Ok(self.next_header()?.is_some())
    }

    /// Fetches what is there of a frame; true once it is complete.
    pub(crate) fn fetch(&mut self) -> Result<bool, Fault> {
        if self.more.is_none() {
            self.filled = 0;
        }
        while let Some(word) = self.next_header()? {
            let header = self.checked(word)?;
            self.copy_out(header)?;
            self.taken = self.taken.wrapping_add(1);
            self.more = header.more.checked_sub(1).map(|_| header.more);
            if self.taken.wrapping_sub(self.told) >= self.batch {
                self.give_credit()?;
            }
            if self.more.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells the peer how many cells have been taken, if it does not know.
    pub(crate) fn give_credit(&mut self) -> Result<(), Fault> {
        if self.told == self.taken {
            return Ok(());
        }
        let at = self.ends.theirs.wrapping_add(CREDIT);
        // Pairs with SeeCredit: the copies out of these cells are done before they are written anew.
        match self.ends.out.store_u64(at, self.taken, release(Site::GiveCredit)) {
            // Nobody is there to be told. What has come is still delivered: it lies in my memory.
            Ok(()) | Err(WindowError::Closed) => self.told = self.taken,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The header of the next cell if that cell is full.
    fn next_header(&self) -> Result<Option<u64>, Fault> {
        let at = self.ends.mine.wrapping_add(self.geometry.cell_at(index(&self.geometry, self.taken)));
        // Pairs with PublishCell.
        let word = self.ends.own.load_u64(at, acquire(Site::TakeCell))?;
        let (found, expected) = (FastHeader::sequence(word), sequence(self.taken));
        if found == expected {
            return Ok(Some(word));
        }
        // The round before left its sequence here; before the first round there were zeros.
        let before = match self.taken.checked_sub(u64::from(self.geometry.cells())) {
            Some(position) => sequence(position),
            None => 0,
        };
        if found == before { Ok(None) } else { Err(Fault::Sequence { found, expected }) }
    }

    fn checked(&self, word: u64) -> Result<FastHeader, Fault> {
        let bad = |why| Fault::Header { found: word, why };
        let header = FastHeader::of(word).ok_or(bad("bit 63 is set"))?;
        let data_bytes = self.geometry.data_bytes();
        match self.more {
            None if !header.first => return Err(bad("a frame begins that is not marked as one")),
            Some(_) if header.first => return Err(bad("a frame begins inside another")),
            Some(more) if header.more != more.wrapping_sub(1) => {
                return Err(bad("the fragments do not count down to the last"));
            }
            None | Some(_) => {}
        }
        if u32::from(header.bytes) > data_bytes {
            return Err(bad("more bytes than the cell has"));
        }
        if header.more > 0 && u32::from(header.bytes) != data_bytes {
            return Err(bad("a fragment before the last is not full"));
        }
        if u32::from(header.more) >= self.geometry.cells() {
            return Err(bad("more fragments than the ring has cells"));
        }
        Ok(header)
    }

    fn copy_out(&mut self, header: FastHeader) -> Result<(), Fault> {
        let at = self.ends.mine.wrapping_add(self.geometry.cell_at(index(&self.geometry, self.taken)));
        let end = self.filled.wrapping_add(usize::from(header.bytes));
        let longest = self.frame.len();
        let room = self.frame.get_mut(self.filled..end).ok_or(Fault::FrameTooLong { longest })?;
        self.ends.own.read(at.wrapping_add(HEADER), room)?;
        self.filled = end;
        Ok(())
    }
}
