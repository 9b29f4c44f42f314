//! Announcements: what each side tells the other about its end of a channel.
//!
//! The front of each memory is a directory, written by the peer alone. An announcement is a slot of it:
//!
//! | offset | word | |
//! |---|---|---|
//! | 0x00 | magic number, layout version << 32 | |
//! | 0x08 | state: my generation, the peer's generation that I answer << 32 | 0: nothing here; stored last |
//! | 0x10 | profile, length of a cell's header << 32 | |
//! | 0x18 | cells, length of a cell << 32 | |
//! | 0x20 | where my region begins in the window that the peer stores into | |
//! | 0x28 | longest frame that I take | |
//! | 0x30 | flags: bit 0 my receiver sleeps, bit 1 my sender sleeps, bit 2 I measure the round trip; length of the name << 32 | |
//! | 0x38 | 0 | |
//! | 0x40 | name, 48 bytes, UTF-8, zeros behind it | |
//! | 0x70 | 0 | |
//!
//! The state is stored first as 0 and last as it is, so that whoever reads it twice around the fields has all of one
//! announcement.

use crate::fault::Fault;
use crate::layout::{LAYOUT_VERSION, MAGIC, NAME_BYTES, Profile};
use crate::order::{self, Site, acquire, release};
use shm::{LoadOrder, Memory, StoreOrder, Window};

/// Where the state stands in a slot.
pub(crate) const STATE: usize = 8;
/// Words behind the state.
const FIELDS: usize = 14;
/// Words of the name.
const NAME_WORDS: usize = NAME_BYTES / 8;

/// The first word of an announcement of ours.
pub(crate) fn marker() -> u64 {
    u64::from(MAGIC) | u64::from(LAYOUT_VERSION) << 32
}

/// Two halves of a word: low, high.
fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

fn joined(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Which session of each side an announcement belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    /// The generation of whoever announces; never 0.
    pub(crate) mine: u32,
    /// The generation of the other side that it has seen and made room for; 0 is none.
    pub(crate) yours: u32,
}

impl State {
    pub(crate) fn word(self) -> u64 {
        joined(self.mine, self.yours)
    }

    pub(crate) fn of(word: u64) -> Option<Self> {
        let (mine, yours) = halves(word);
        (mine != 0).then_some(Self { mine, yours })
    }
}

/// What one side tells of its end, in numbers that nobody has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) profile: u32,
    pub(crate) header_bytes: u32,
    pub(crate) cells: u32,
    pub(crate) cell_bytes: u32,
    pub(crate) region: u64,
    pub(crate) longest_frame: u64,
    pub(crate) receiver_sleeps: bool,
    pub(crate) sender_sleeps: bool,
    pub(crate) measures: bool,
    pub(crate) name: String,
}

impl Announcement {
    fn fields(&self) -> [u64; FIELDS] {
        let flags = u32::from(self.receiver_sleeps)
            | u32::from(self.sender_sleeps) << 1
            | u32::from(self.measures) << 2;
        let mut name = [0; NAME_BYTES];
        name.iter_mut().zip(self.name.bytes()).for_each(|(to, from)| *to = from);
        let name_bytes = u32::try_from(self.name.len().min(NAME_BYTES)).unwrap_or(0);
        let mut fields = [0; FIELDS];
        let numbers = [
            joined(self.profile, self.header_bytes),
            joined(self.cells, self.cell_bytes),
            self.region,
            self.longest_frame,
            joined(flags, name_bytes),
            0,
        ];
        let (words, _) = name.as_chunks::<8>();
        let words = words.iter().map(|&word| u64::from_le_bytes(word));
        fields.iter_mut().zip(numbers.into_iter().chain(words)).for_each(|(to, from)| *to = from);
        fields
    }

    fn of(fields: &[u64; FIELDS]) -> Option<Self> {
        let [ring, cells, region, longest_frame, flags, _, name @ ..] = *fields;
        let ((profile, header_bytes), (cells, cell_bytes), (flags, name_bytes)) =
            (halves(ring), halves(cells), halves(flags));
        let name: Vec<u8> = name.iter().take(NAME_WORDS).flat_map(|word| word.to_le_bytes()).collect();
        let name = name.get(..usize::try_from(name_bytes).ok()?)?;
        Some(Self {
            profile,
            header_bytes,
            cells,
            cell_bytes,
            region,
            longest_frame,
            receiver_sleeps: flags & 1 != 0,
            sender_sleeps: flags & 2 != 0,
            measures: flags & 4 != 0,
            name: std::str::from_utf8(name).ok()?.to_owned(),
        })
    }

    /// Writes it into the peer's directory.
    pub(crate) fn write(&self, window: &impl Window, at: usize, state: State) -> Result<(), Fault> {
        window.store_u64(at, marker(), StoreOrder::Relaxed)?;
        Ok(write_slot(window, at.wrapping_add(STATE), state.word(), &self.fields())?)
    }
}

/// Clears a slot of the peer's directory.
pub(crate) fn withdraw(window: &impl Window, at: usize) -> Result<(), Fault> {
    Ok(window.store_u64(at.wrapping_add(STATE), 0, StoreOrder::Relaxed)?)
}

/// What a slot of my own directory holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nothing, or something that is being written.
    Empty,
    /// An announcement of this layout.
    Announced(State, Announcement),
    /// Something else: its first word.
    Stranger(u64),
}

impl Slot {
    /// Reads a slot of my own directory.
    pub(crate) fn read(memory: &impl Memory, at: usize) -> Result<Self, Fault> {
        let Some((state, fields)) = read_slot::<FIELDS>(memory, at.wrapping_add(STATE))? else {
            return Ok(Self::Empty);
        };
        let first = memory.load_u64(at, LoadOrder::Relaxed)?;
        if first != marker() {
            return Ok(Self::Stranger(first));
        }
        match (State::of(state), Announcement::of(&fields)) {
            (Some(state), Some(announcement)) => Ok(Self::Announced(state, announcement)),
            (None, _) => Ok(Self::Empty),
            (_, None) => Ok(Self::Stranger(first)),
        }
    }
}

/// Writes a state word and the fields behind it.
pub(crate) fn write_slot(
    window: &impl Window,
    at: usize,
    state: u64,
    fields: &[u64],
) -> Result<(), shm::WindowError> {
    window.store_u64(at, 0, StoreOrder::Relaxed)?;
    // Whoever reads a field of this announcement finds the state changed when it looks again. Pairs with ReadTwice.
    order::fence(Site::TakeBack);
    for (word, &field) in fields.iter().enumerate() {
        window.store_u64(field_at(at, word), field, StoreOrder::Relaxed)?;
    }
    // Pairs with SeeAnnouncement.
    window.store_u64(at, state, release(Site::Announce))
}

/// Reads a state word and the fields behind it; none if there is no state or it changes meanwhile.
pub(crate) fn read_slot<const N: usize>(
    memory: &impl Memory,
    at: usize,
) -> Result<Option<(u64, [u64; N])>, shm::WindowError> {
    let state = memory.load_u64(at, acquire(Site::SeeAnnouncement))?;
    if state == 0 {
        return Ok(None);
    }
    let mut fields = [0; N];
    for (word, field) in fields.iter_mut().enumerate() {
        *field = memory.load_u64(field_at(at, word), LoadOrder::Relaxed)?;
    }
    // Pairs with TakeBack.
    order::fence(Site::ReadTwice);
    let again = memory.load_u64(at, LoadOrder::Relaxed)?;
    Ok((again == state).then_some((state, fields)))
}

fn field_at(state_at: usize, word: usize) -> usize {
    state_at.wrapping_add(8).wrapping_add(word.wrapping_mul(8))
}

/// The profile of an announcement, if it is one that this side knows.
pub(crate) fn profile_of(announcement: &Announcement) -> Option<Profile> {
    Profile::of(announcement.profile)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::layout::SLOT_BYTES;
    use shm::Heap;

    fn announcement() -> Announcement {
        Announcement {
            profile: 2,
            header_bytes: 8,
            cells: 64,
            cell_bytes: 2048,
            region: 0x1000,
            longest_frame: 9000,
            receiver_sleeps: true,
            sender_sleeps: false,
            measures: true,
            name: "net0".to_owned(),
        }
    }

    #[test]
    fn an_announcement_byte_by_byte() {
        let memory = Heap::new(SLOT_BYTES);
        announcement().write(&memory, 0, State { mine: 0x11, yours: 0x22 }).unwrap();
        let mut bytes = [0; SLOT_BYTES];
        memory.read(0, &mut bytes).unwrap();
        let words = |range: std::ops::Range<usize>| bytes[range].to_vec();
        assert_eq!(words(0..8), b"CELL\x01\0\0\0");
        assert_eq!(words(8..16), [0x11, 0, 0, 0, 0x22, 0, 0, 0]);
        assert_eq!(words(16..32), [2, 0, 0, 0, 8, 0, 0, 0, 64, 0, 0, 0, 0, 8, 0, 0]);
        assert_eq!(words(32..48), [0, 0x10, 0, 0, 0, 0, 0, 0, 0x28, 0x23, 0, 0, 0, 0, 0, 0]);
        assert_eq!(words(48..64), [5, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(words(64..72), b"net0\0\0\0\0");
        assert!(bytes[72..].iter().all(|&byte| byte == 0));
        let read = Slot::read(&memory, 0).unwrap();
        assert_eq!(read, Slot::Announced(State { mine: 0x11, yours: 0x22 }, announcement()));
        withdraw(&memory, 0).unwrap();
        assert_eq!(Slot::read(&memory, 0), Ok(Slot::Empty));
    }

    #[test]
    fn strangers_are_told_from_ours() {
        let memory = Heap::new(SLOT_BYTES);
        announcement().write(&memory, 0, State { mine: 1, yours: 0 }).unwrap();
        let newer = marker() + (1 << 32);
        memory.store_u64(0, newer, StoreOrder::Relaxed).unwrap();
        assert_eq!(Slot::read(&memory, 0), Ok(Slot::Stranger(newer)));
        announcement().write(&memory, 0, State { mine: 1, yours: 0 }).unwrap();
        memory.store_u32(0x34, 49, StoreOrder::Relaxed).unwrap();
        assert_eq!(Slot::read(&memory, 0), Ok(Slot::Stranger(marker())), "a name longer than its field");
        memory.store_u32(0x34, 2, StoreOrder::Relaxed).unwrap();
        memory.write(0x40, &[0xFF, 0xFE]).unwrap();
        assert_eq!(Slot::read(&memory, 0), Ok(Slot::Stranger(marker())), "a name that is no text");
    }
}
