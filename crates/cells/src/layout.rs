//! Where everything lies: the directory at the front of a window, a channel's region, its cells.
//!
//! Offsets are in bytes. docs/framework.md draws this.

/// Raised with every change of what stands where; a peer of another version is refused.
pub const LAYOUT_VERSION: u32 = 1;

/// The first word of every announcement: whoever writes something else there does not speak this protocol.
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"CELL");

/// Announcements that a directory has room for, so many channels may share a link.
pub(crate) const DIRECTORY_SLOTS: usize = 16;

/// Length of an announcement.
pub(crate) const SLOT_BYTES: usize = 128;

/// Length of the directory; regions come after it.
pub(crate) const DIRECTORY_BYTES: usize = 4096;

/// Regions begin at a multiple of this.
pub(crate) const REGION_ALIGN: usize = 4096;

/// Longest name of a channel.
pub(crate) const NAME_BYTES: usize = 48;

/// Words that different processors write lie this far apart: a cache line, and the one fetched with it. Loom has no
/// lines, and every word costs it time.
const APART: usize = if cfg!(loom) { 8 } else { 128 };

/// In a region: how many of *my* cells the peer has taken. Written by the peer's receiver.
pub(crate) const CREDIT: usize = 0;

/// In a region: counts up each time the peer's receiver goes to sleep; 0 at first. Written by the peer's receiver.
pub(crate) const ARMED: usize = APART;

/// In a region: the peer's sender wants its bell rung once I have taken so many cells; 0 is none.
pub(crate) const WANTED: usize = 2 * APART;

/// In a region: a number that goes to and fro while the round trip is measured.
pub(crate) const PROBE: usize = 3 * APART;

/// In a region: where the ring itself begins.
pub(crate) const RING: usize = 4 * APART;

/// In a ring of the profile `paper`: the next place to enqueue, a u32. Written by the sender.
pub(crate) const ENTRY: usize = 0;

/// In a ring of the profile `paper`: the next place to dequeue, a u32. Written by the receiver, read by both.
pub(crate) const EXIT: usize = 4;

/// In a ring of the profile `paper`: the first cell.
pub(crate) const PAPER_CELLS: usize = 8;

/// Length of a published cell (`nt_data`), header and data.
pub(crate) const PAPER_CELL_BYTES: u32 = 750;

/// Most cells that the 14 bits of a 2-byte header can tell apart.
pub(crate) const PAPER_SHORT_CELLS: u32 = 1 << 14;

/// Length of a cell's header in the profile `fast`.
pub(crate) const FAST_HEADER_BYTES: u32 = 8;

/// What stands between two cells of the profile `fast`: a cache line that nobody uses. Without it the headers of a ring
/// of 64 KiB cells all fall into one set of a cache, and each round trip pays for a miss.
pub(crate) const FAST_GAP_BYTES: u32 = if cfg!(loom) { 0 } else { 64 };

/// Which of the two frameworks a channel runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// As published for dual-controller storage over a PLX 8749: 750-byte cells, entry and exit offsets at the front.
    Paper,
    /// The same with what is known today: larger cells, a sequence in each, nothing read across the bridge.
    Fast,
}

impl Profile {
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Paper => 1,
            Self::Fast => 2,
        }
    }

    pub(crate) fn of(number: u32) -> Option<Self> {
        [Self::Paper, Self::Fast].into_iter().find(|profile| profile.number() == number)
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Paper => "paper",
            Self::Fast => "fast",
        })
    }
}

/// A ring that cannot be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadGeometry {
    /// Too few or too many cells, or a number that the profile cannot have.
    #[error("a {profile} ring cannot have {cells} cells: {rule}")]
    Cells {
        /// The profile.
        profile: Profile,
        /// What was asked for.
        cells: u32,
        /// What is allowed.
        rule: &'static str,
    },
    /// A length of cells that the profile cannot have.
    #[error("a {profile} cell cannot have {cell_bytes} bytes with a header of {header_bytes}: {rule}")]
    CellBytes {
        /// The profile.
        profile: Profile,
        /// What was asked for.
        cell_bytes: u32,
        /// Its header.
        header_bytes: u32,
        /// What is allowed.
        rule: &'static str,
    },
}

/// The shape of one ring, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    profile: Profile,
    cells: u32,
    cell_bytes: u32,
    header_bytes: u32,
}

impl Geometry {
    /// A ring as published: 750-byte cells; a 2-byte header up to 16384 cells, a 4-byte header beyond.
    ///
    /// # Errors
    /// [`BadGeometry`] unless there are 2 to 2^20 cells.
    pub fn paper(cells: u32) -> Result<Self, BadGeometry> {
        let header_bytes = if cells <= PAPER_SHORT_CELLS { 2 } else { 4 };
        Self::of(Profile::Paper, cells, PAPER_CELL_BYTES, header_bytes)
    }

    /// A `fast` ring.
    ///
    /// # Errors
    /// [`BadGeometry`] unless there are 2 to 16384 cells, a power of two, of 2 KiB to 64 KiB, whole cache lines.
    pub fn fast(cells: u32, cell_bytes: u32) -> Result<Self, BadGeometry> {
        Self::of(Profile::Fast, cells, cell_bytes, FAST_HEADER_BYTES)
    }

    /// The ring that somebody describes by numbers.
    ///
    /// # Errors
    /// [`BadGeometry`].
    pub(crate) fn of(
        profile: Profile,
        cells: u32,
        cell_bytes: u32,
        header_bytes: u32,
    ) -> Result<Self, BadGeometry> {
        let bad_cells = |rule| Err(BadGeometry::Cells { profile, cells, rule });
        let bad_bytes = |rule| Err(BadGeometry::CellBytes { profile, cell_bytes, header_bytes, rule });
        match profile {
            Profile::Paper => {
                if !(2..=1 << 20).contains(&cells) {
                    return bad_cells("2 to 1048576");
                }
                if cell_bytes != PAPER_CELL_BYTES {
                    return bad_bytes("750 bytes");
                }
                if header_bytes != if cells <= PAPER_SHORT_CELLS { 2 } else { 4 } {
                    return bad_bytes("a header of 2 bytes up to 16384 cells, of 4 beyond");
                }
            }
            Profile::Fast => {
                if !(2..=1 << 14).contains(&cells) || !cells.is_power_of_two() {
                    return bad_cells("2 to 16384, a power of two");
                }
                if !(2048..=65536).contains(&cell_bytes) || !cell_bytes.is_multiple_of(64) {
                    return bad_bytes("2 KiB to 64 KiB, a multiple of 64");
                }
                if header_bytes != FAST_HEADER_BYTES {
                    return bad_bytes("a header of 8 bytes");
                }
            }
        }
        Ok(Self { profile, cells, cell_bytes, header_bytes })
    }

    /// A ring of small cells, so that a test gets round it soon.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn tiny(profile: Profile, cells: u32, cell_bytes: u32) -> Self {
        let header_bytes = match profile {
            Profile::Paper => 2,
            Profile::Fast => FAST_HEADER_BYTES,
        };
        assert!(cell_bytes > header_bytes && (profile == Profile::Paper || cells.is_power_of_two()));
        Self { profile, cells, cell_bytes, header_bytes }
    }

    /// The same ring of `paper` with the header of the long ones.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn with_long_header(self) -> Self {
        Self { header_bytes: 4, ..self }
    }

    /// Which framework.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Cells in the ring.
    #[must_use]
    pub fn cells(&self) -> u32 {
        self.cells
    }

    /// Length of a cell, header included.
    #[must_use]
    pub fn cell_bytes(&self) -> u32 {
        self.cell_bytes
    }

    /// Length of a cell's header.
    #[must_use]
    pub fn header_bytes(&self) -> u32 {
        self.header_bytes
    }

    /// Bytes of a frame that one cell carries.
    #[must_use]
    pub fn data_bytes(&self) -> u32 {
        self.cell_bytes.saturating_sub(self.header_bytes)
    }

    /// Cells that may be full at once. `paper` leaves one free, to tell a full ring from an empty one.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        match self.profile {
            Profile::Paper => self.cells.saturating_sub(1),
            Profile::Fast => self.cells,
        }
    }

    /// Longest frame in bytes: one that fills the ring.
    #[must_use]
    pub fn longest_frame(&self) -> usize {
        usize_of(self.capacity()).saturating_mul(usize_of(self.data_bytes()))
    }

    /// Cells that a frame takes; a frame of no bytes takes one.
    #[must_use]
    pub fn cells_for(&self, frame_bytes: usize) -> u64 {
        u64::try_from(frame_bytes.div_ceil(usize_of(self.data_bytes().max(1)))).unwrap_or(u64::MAX).max(1)
    }

    /// Bytes from the start of the region to the end of the last cell.
    #[must_use]
    pub fn region_bytes(&self) -> usize {
        self.cell_at(self.cells)
    }

    /// Offset in the region of the cell with this index.
    #[must_use]
    pub(crate) fn cell_at(&self, index: u32) -> usize {
        let (front, apart) = match self.profile {
            Profile::Paper => (RING + PAPER_CELLS, self.cell_bytes),
            Profile::Fast => (RING, self.cell_bytes.saturating_add(FAST_GAP_BYTES)),
        };
        usize_of(index).saturating_mul(usize_of(apart)).saturating_add(front)
    }
}

/// A u32 as an offset or a length; exact wherever Linux runs.
pub(crate) fn usize_of(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_published_cell() {
        let ring = Geometry::paper(1000).unwrap();
        assert_eq!((ring.cell_bytes(), ring.header_bytes(), ring.data_bytes()), (750, 2, 748));
        assert_eq!(ring.capacity(), 999);
        assert_eq!(ring.cells_for(1514), 3, "a full-size Ethernet frame");
        assert_eq!([0, 1, 748, 749, 1496, 1497].map(|bytes| ring.cells_for(bytes)), [1, 1, 1, 2, 2, 3]);
        assert_eq!(Geometry::paper(16384).unwrap().header_bytes(), 2);
        assert_eq!(Geometry::paper(16385).unwrap().header_bytes(), 4);
        assert_eq!(Geometry::paper(16385).unwrap().data_bytes(), 746);
    }

    #[test]
    fn cells_lie_one_after_the_other_behind_the_words() {
        let paper = Geometry::paper(4).unwrap();
        assert_eq!([0, 1, 4].map(|index| paper.cell_at(index)), [520, 1270, 3520]);
        assert_eq!(paper.region_bytes(), 3520);
        let fast = Geometry::fast(4, 2048).unwrap();
        assert_eq!([0, 1, 4].map(|index| fast.cell_at(index)), [512, 2624, 8960]);
    }

    #[test]
    fn rings_that_cannot_be() {
        for cells in [0, 1, (1 << 20) + 1, u32::MAX] {
            assert!(matches!(Geometry::paper(cells), Err(BadGeometry::Cells { .. })), "{cells}");
        }
        for cells in [0, 1, 3, 1000, 1 << 15, u32::MAX] {
            assert!(matches!(Geometry::fast(cells, 2048), Err(BadGeometry::Cells { .. })), "{cells}");
        }
        for bytes in [0, 8, 2047, 2049, 65537, 1 << 17, u32::MAX] {
            assert!(matches!(Geometry::fast(4, bytes), Err(BadGeometry::CellBytes { .. })), "{bytes}");
        }
        assert!(Geometry::of(Profile::Paper, 20000, 750, 2).is_err());
        assert!(Geometry::of(Profile::Paper, 4, 1500, 2).is_err());
        assert!(Geometry::of(Profile::Fast, 4, 2048, 16).is_err());
    }
}
