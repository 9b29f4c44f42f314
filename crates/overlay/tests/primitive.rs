//! The primitive on this process's own mappings: what lands where, and what nonsense does.

use control::{FileRange, OverlayCommand, Piece};
use isthmus_overlay::{OverlayError, Overlays};
use rustix::fs::fstat;
use shm::{Access, Mapping, SharedFile};
use std::os::fd::{AsFd, BorrowedFd};

const PAGE: u64 = 4096;

/// A file, and a mapping of all of it as QEMU has one of a BAR.
struct Bar {
    file: SharedFile,
    mapping: Mapping,
}

impl Bar {
    fn new(pages: u64) -> Self {
        let file = SharedFile::create("bar", pages * PAGE).expect("memory");
        let mapping = Mapping::new(&file, 0, pages * PAGE, Access::ReadWrite).expect("memory");
        Self { file, mapping }
    }

    fn range(&self, offset: u64, bytes: u64) -> FileRange {
        let stat = fstat(&self.file).expect("stat");
        FileRange { device: stat.st_dev, inode: stat.st_ino, offset, bytes }
    }

    fn byte(&self, at: u64) -> u8 {
        let mut byte = [0];
        self.mapping.read(usize::try_from(at).expect("small"), &mut byte).expect("inside");
        byte[0]
    }

    fn set(&self, at: u64, byte: u8) {
        self.mapping.write(usize::try_from(at).expect("small"), &[byte]).expect("inside");
    }
}

fn order(target: FileRange, pieces: &[(u64, u64, usize, u64)]) -> OverlayCommand {
    let pieces = pieces.iter().map(|&(at, bytes, file, offset)| Piece { at, bytes, file, offset }).collect();
    OverlayCommand { id: 1, target, pieces, close_on_hangup: true }
}

#[test]
fn a_range_becomes_pieces_of_other_files_and_gaps_are_closed() {
    let (bar, ram) = (Bar::new(4), Bar::new(8));
    let mut overlays = Overlays::new().expect("memory");
    let files: [BorrowedFd<'_>; 1] = [ram.file.as_fd()];
    // Page 1 of the window is page 5 of the RAM, page 3 is page 2; pages 0 and 2 stay closed.
    let pieces = [(PAGE, PAGE, 0, 5 * PAGE), (3 * PAGE, PAGE, 0, 2 * PAGE)];
    overlays.apply(&order(bar.range(0, 4 * PAGE), &pieces), &files).expect("applies");
    bar.set(PAGE + 7, 0x11);
    bar.set(3 * PAGE, 0x22);
    assert_eq!((ram.byte(5 * PAGE + 7), ram.byte(2 * PAGE)), (0x11, 0x22));
    assert_eq!((bar.byte(0), bar.byte(2 * PAGE)), (0xFF, 0xFF));
    bar.set(0, 0x33);
    // Moved: what was closed is open, and what was stored there while it was closed is nowhere.
    overlays.apply(&order(bar.range(0, 4 * PAGE), &[(0, 4 * PAGE, 0, 0)]), &files).expect("applies");
    assert_eq!(bar.byte(0), 0);
    bar.set(0, 0x44);
    assert_eq!(ram.byte(0), 0x44);
}

#[test]
fn a_hang_up_closes_what_may_be_closed() {
    let (bar, kept, ram) = (Bar::new(1), Bar::new(1), Bar::new(2));
    let mut overlays = Overlays::new().expect("memory");
    let files = [ram.file.as_fd()];
    overlays.apply(&order(bar.range(0, PAGE), &[(0, PAGE, 0, 0)]), &files).expect("applies");
    let mut own_ram = order(kept.range(0, PAGE), &[(0, PAGE, 0, PAGE)]);
    own_ram.close_on_hangup = false;
    overlays.apply(&own_ram, &files).expect("applies");
    overlays.hang_up();
    bar.set(0, 1);
    kept.set(0, 2);
    assert_eq!((ram.byte(0), ram.byte(PAGE)), (0, 2));
    assert_eq!(bar.byte(1), 0xFF);
}

#[test]
fn a_window_larger_than_the_closed_file_is_closed_whole() {
    let bar = Bar::new(1536);
    let mut overlays = Overlays::new().expect("memory");
    overlays.apply(&order(bar.range(0, 1536 * PAGE), &[]), &[]).expect("applies");
    assert!((0..1536).all(|page| bar.byte(page * PAGE + 4095) == 0xFF));
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    let (bar, ram) = (Bar::new(4), Bar::new(4));
    let stranger = SharedFile::create("unmapped", 4 * PAGE).expect("memory");
    let stat = fstat(&stranger).expect("stat");
    let mut overlays = Overlays::new().expect("memory");
    let files = [ram.file.as_fd()];
    let elsewhere = FileRange { device: stat.st_dev, inode: stat.st_ino, offset: 0, bytes: PAGE };
    for (target, pieces) in [
        (elsewhere, vec![(0, PAGE, 0, 0)]),
        (bar.range(2 * PAGE, 4 * PAGE), vec![(0, PAGE, 0, 0)]),
        (bar.range(u64::MAX - PAGE + 1, PAGE), vec![]),
    ] {
        assert!(
            matches!(overlays.apply(&order(target, &pieces), &files), Err(OverlayError::NotMapped)),
            "{target:?}"
        );
    }
    for (target, pieces) in [
        (bar.range(0, 0), vec![]),
        (bar.range(1, PAGE), vec![]),
        (bar.range(0, PAGE), vec![(0, 2 * PAGE, 0, 0)]),
        (bar.range(0, 2 * PAGE), vec![(PAGE, PAGE, 0, 0), (0, PAGE, 0, 0)]),
        (bar.range(0, 2 * PAGE), vec![(0, PAGE, 1, 0)]),
        (bar.range(0, 2 * PAGE), vec![(0, PAGE, 0, 17)]),
        (bar.range(0, 2 * PAGE), vec![(0, 100, 0, 0)]),
        (bar.range(0, 2 * PAGE), vec![(u64::MAX - PAGE + 1, PAGE, 0, 0)]),
        (bar.range(0, 2 * PAGE), vec![(0, PAGE, 0, 0); 4097]),
    ] {
        assert!(
            matches!(overlays.apply(&order(target, &pieces), &files), Err(OverlayError::BadPieces(_))),
            "{target:?}"
        );
    }
    assert!((0..4).all(|page| bar.byte(page * PAGE) == 0), "still its own file");
}

#[test]
fn a_range_that_was_unmapped_meanwhile_is_not_touched() {
    let ram = Bar::new(1);
    let bar = Bar::new(1);
    let target = bar.range(0, PAGE);
    let mut overlays = Overlays::new().expect("memory");
    overlays.apply(&order(target, &[(0, PAGE, 0, 0)]), &[ram.file.as_fd()]).expect("applies");
    let Bar { file, mapping } = bar;
    drop(mapping);
    let result = overlays.apply(&order(target, &[]), &[]);
    assert!(matches!(result, Err(OverlayError::NotMapped)), "{result:?}");
    drop(file);
}
