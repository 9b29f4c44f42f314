//! What every window keeps, mapped and on the heap.

use crate::{
    Access, Heap, LoadOrder, Mapping, Memory, SharedFile, StoreOrder, Window, WindowError, WindowKind,
};
use std::sync::Arc;

const BYTES: usize = 8192;

fn windows() -> Vec<(&'static str, Arc<dyn Memory>)> {
    let file = SharedFile::create("test", BYTES as u64).unwrap();
    let mapping = Mapping::new(&file, 0, BYTES as u64, Access::ReadWrite).unwrap();
    vec![("mapping", Arc::new(mapping)), ("heap", Arc::new(Heap::new(BYTES)))]
}

#[test]
fn words_are_little_endian_and_round_trip() {
    for (name, window) in windows() {
        assert_eq!((window.bytes(), window.kind()), (BYTES, WindowKind::Mapped), "{name}");
        window.store_u32(4, 0x0403_0201, StoreOrder::Release).unwrap();
        window.store_u64(BYTES - 8, 0x0807_0605_0403_0201, StoreOrder::Relaxed).unwrap();
        window.flush().unwrap();
        window.settle().unwrap();
        let mut bytes = [0; 8];
        window.read(BYTES - 8, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8], "{name}");
        window.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 0, 0, 0, 1, 2, 3, 4], "{name}");
        assert_eq!(window.load_u32(4, LoadOrder::Acquire), Ok(0x0403_0201), "{name}");
        assert_eq!(window.load_u64(BYTES - 8, LoadOrder::Relaxed), Ok(0x0807_0605_0403_0201), "{name}");
    }
}

#[test]
fn hints_change_nothing_wherever_they_point() {
    let file = SharedFile::create("test", BYTES as u64).unwrap();
    let mapping = Mapping::new(&file, 0, BYTES as u64, Access::ReadWrite).unwrap();
    mapping.write(0, &[7; BYTES]).unwrap();
    let ranges = [(0, BYTES), (1, 1), (63, 2), (BYTES, 0), (BYTES - 1, 2), (usize::MAX, 1), (1, usize::MAX)];
    for (at, bytes) in ranges {
        mapping.will_store(at, bytes);
        mapping.will_load(at, bytes);
    }
    let mut seen = [0; BYTES];
    mapping.read(0, &mut seen).unwrap();
    assert_eq!(seen, [7; BYTES]);
}

#[test]
fn words_outside_and_crooked_words_touch_nothing() {
    for (name, window) in windows() {
        for at in [BYTES - 3, BYTES, usize::MAX - 2, usize::MAX] {
            assert_eq!(
                window.store_u32(at, !0, StoreOrder::Relaxed),
                Err(WindowError::OutOfBounds),
                "{name}"
            );
            assert_eq!(window.load_u32(at, LoadOrder::Relaxed), Err(WindowError::OutOfBounds), "{name}");
            assert_eq!(
                window.store_u64(at, !0, StoreOrder::Relaxed),
                Err(WindowError::OutOfBounds),
                "{name}"
            );
            assert_eq!(window.load_u64(at, LoadOrder::Relaxed), Err(WindowError::OutOfBounds), "{name}");
            assert_eq!(window.write(at, &[0xFF; 8]), Err(WindowError::OutOfBounds), "{name}");
        }
        for at in 1..8 {
            assert_eq!(window.store_u64(at, !0, StoreOrder::Relaxed), Err(WindowError::Misaligned), "{name}");
            assert_eq!(window.load_u64(at, LoadOrder::Relaxed), Err(WindowError::Misaligned), "{name}");
            let misaligned = !at.is_multiple_of(4);
            assert_eq!(window.load_u32(at, LoadOrder::Relaxed).is_err(), misaligned, "{name}");
            assert_eq!(window.store_u32(at, 0, StoreOrder::Relaxed).is_err(), misaligned, "{name}");
        }
        let mut all = vec![7; BYTES];
        window.read(0, &mut all).unwrap();
        assert!(all.iter().all(|&byte| byte == 0), "{name}");
    }
}

#[test]
fn memory_that_may_only_be_read_refuses_every_store() {
    let file = SharedFile::create("test", 4096).unwrap();
    let window = Mapping::new(&file, 0, 4096, Access::Read).unwrap();
    assert_eq!(window.store_u32(0, 1, StoreOrder::Relaxed), Err(WindowError::ReadOnly));
    assert_eq!(window.store_u64(0, 1, StoreOrder::Relaxed), Err(WindowError::ReadOnly));
    assert_eq!(Window::write(&window, 0, &[1]), Err(WindowError::ReadOnly));
    assert_eq!(window.load_u64(0, LoadOrder::Acquire), Ok(0));
}

#[test]
fn a_release_store_publishes_what_was_copied_before() {
    let window = Arc::new(Heap::new(BYTES));
    let writer = Arc::clone(&window);
    let thread = std::thread::spawn(move || {
        for round in 1..=2000_u32 {
            while writer.load_u32(4, LoadOrder::Acquire).unwrap() != round - 1 {
                std::thread::yield_now();
            }
            writer.write(64, &[round.to_le_bytes()[0]; 1000]).unwrap();
            writer.flush().unwrap();
            writer.store_u32(0, round, StoreOrder::Release).unwrap();
        }
    });
    for round in 1..=2000_u32 {
        while window.load_u32(0, LoadOrder::Acquire).unwrap() != round {
            std::thread::yield_now();
        }
        let mut seen = [0; 1000];
        window.read(64, &mut seen).unwrap();
        assert!(seen.iter().all(|&byte| byte == round.to_le_bytes()[0]), "{round}");
        window.store_u32(4, round, StoreOrder::Release).unwrap();
    }
    thread.join().unwrap();
}
