//! What goes through a window, and what does not.

use crate::house::{Host, House, RAM_AT, RAM_BYTES, Ram, ram_map};
use ntb_spec::bar0::Reg;
use ntb_spec::config;
use shm::{Access, Mapping, SharedFile};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use twin::Side;
use vfio_user::wire::{DmaAddr, DmaMap, DmaUnmap, RegionIndex};

#[test]
fn stores_and_loads_of_every_size_reach_the_peers_memory() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    b.open_window(1, RAM_AT + (2 << 20), 1 << 20);
    let data: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    for (count, at) in
        [(1, 0), (2, 2), (3, 5), (4, 8), (8, 16), (7, 25), (64, 64), (4096, 4096), (1 << 20, 0)]
    {
        let part = &data[at..][..count.min((1 << 20) - at)];
        a.client.region_write(RegionIndex::BAR2, at as u64, part).unwrap();
        let mut back = vec![0; part.len()];
        a.client.region_read(RegionIndex::BAR2, at as u64, &mut back).unwrap();
        assert!(back == part, "{count} bytes at {at:#x}");
    }
    assert_eq!(b.ram.get::<256>(0x300).as_slice(), &data[..256]);
    a.client.region_write_posted(RegionIndex::BAR4, 0xF_FFF8, &[0x5A; 8]).unwrap();
    a.goes_on();
    assert_eq!(b.ram.get((3 << 20) - 8), [0x5A; 8]);
    // The other way it is another window, closed so far in one of two places.
    b.store(0, &[3; 4]);
    assert_eq!(a.ram.get(0), [3; 4]);
    b.client.region_write(RegionIndex::BAR4, 0, &[3; 4]).unwrap();
    let [to_b, to_a] = [house.port(Side::A), house.port(Side::B)];
    assert_eq!((to_b.windows[0].stores, to_b.windows[0].loads, to_b.windows[0].dropped), (9, 9, 0));
    assert_eq!((to_b.windows[1].stores, to_b.windows[1].stored_bytes), (1, 8));
    assert_eq!((to_a.windows[1].stores, to_a.windows[1].dropped), (0, 1));
    assert_eq!(to_b.windows[0].translation, Some(RAM_AT));
}

#[test]
fn an_aligned_store_of_8_bytes_is_seen_whole_or_not_at_all() {
    let house = House::new();
    let (mut a, b) = house.pair();
    let file = SharedFile::accept(b.ram.0.try_clone().unwrap().into(), RAM_BYTES).unwrap();
    let memory = Mapping::new(&file, 0, RAM_BYTES, Access::Read).unwrap();
    let (over, both) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seen = [0; 8];
            let (mut zeros, mut ones) = (0u64, 0u64);
            while !over.load(Ordering::Relaxed) {
                memory.read(64, &mut seen).unwrap();
                match u64::from_ne_bytes(seen) {
                    0 => zeros += 1,
                    u64::MAX => ones += 1,
                    torn => panic!("{torn:#x}"),
                }
                both.store(zeros > 0 && ones > 0, Ordering::Relaxed);
            }
        });
        for nth in 0..2_000_000u64 {
            let value = [if nth.is_multiple_of(2) { 0xFF } else { 0 }; 8];
            a.client.region_write_posted(RegionIndex::BAR2, 64, &value).unwrap();
            if nth > 20_000 && both.load(Ordering::Relaxed) {
                break;
            }
        }
        a.goes_on();
        over.store(true, Ordering::Relaxed);
    });
    assert!(both.into_inner(), "the reader never saw both values");
}

/// Stores and loads 16 bytes at `at` through window 0, and says whether that reached anybody.
fn passes(house: &House, a: &mut Host, at: u64) -> bool {
    let before = house.port(Side::A).windows[0].clone();
    let mark: [u8; 16] = std::array::from_fn(|at| 0x40 + u8::try_from(at).unwrap());
    a.store(at, &mark);
    let loaded: [u8; 16] = a.load(at);
    let after = house.port(Side::A).windows[0].clone();
    let moved = (after.stores - before.stores, after.dropped - before.dropped);
    let asked = (after.loads - before.loads, after.refused_loads - before.refused_loads);
    match (moved, asked) {
        ((1, 0), (1, 0)) => {
            assert_eq!(loaded, mark);
            assert_eq!(after.stored_bytes, before.stored_bytes + 16);
            true
        }
        ((0, 1), (0, 1)) => {
            assert_eq!(loaded, [0xFF; 16], "what cannot be reached reads all ones");
            assert_eq!(after.stored_bytes, before.stored_bytes);
            false
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_window_ends_where_the_peer_says() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    assert!(passes(&house, &mut a, 0) && passes(&house, &mut a, (1 << 20) - 16));
    b.open_window(0, RAM_AT, 0x1_0000);
    let misses = u16::from_le_bytes(b.read(Reg::UsMemMiss, 0));
    assert!(passes(&house, &mut a, 0xFFF0));
    assert!(!passes(&house, &mut a, 0xFFF1), "across the limit");
    assert!(!passes(&house, &mut a, 0x1_0000));
    assert_eq!(u16::from_le_bytes(b.read(Reg::UsMemMiss, 0)), misses + 4);
    assert_eq!(house.port(Side::A).windows[0].open_bytes, 0x1_0000);
    b.open_window(0, RAM_AT, 0);
    assert!(!passes(&house, &mut a, 0));
    assert_eq!(house.port(Side::A).windows[0].open_bytes, 0);
}

#[test]
fn a_window_needs_decode_here_and_mastering_there_and_a_link() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    b.configure(config::COMMAND, &[0x02, 0]);
    assert!(!passes(&house, &mut a, 0), "the peer may not master its bus");
    b.configure(config::COMMAND, &[0x06, 0]);
    assert!(passes(&house, &mut a, 0));
    a.configure(config::COMMAND, &[0x04, 0]);
    assert!(!passes(&house, &mut a, 0), "my own decode is off");
    a.configure(config::COMMAND, &[0x06, 0]);
    b.write(Reg::Control, 0, &3u32.to_le_bytes());
    assert!(!passes(&house, &mut a, 0), "the link is down");
    b.write(Reg::Control, 0, &0x154u32.to_le_bytes());
    a.wait_for_link(true);
    assert!(passes(&house, &mut a, 0), "translations survive a link that was down");
    drop(b);
    house.wait_gone(Side::B);
    assert!(!passes(&house, &mut a, 0), "nobody is there");
}

#[test]
fn sections_may_touch_and_have_holes_and_be_read_only() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    b.client.dma_unmap(DmaUnmap::All).unwrap();
    assert!(!passes(&house, &mut a, 0), "unmapped");
    // Two pages that are neighbours on the bus and strangers in the file; a hole; one to be read; one without a file.
    let page = 0x1000;
    b.map(RAM_AT, page, 0x8000).unwrap();
    b.map(RAM_AT + page, page, 0x2000).unwrap();
    let read_only = DmaMap { writeable: false, ..ram_map(RAM_AT + 3 * page, page, 0x4000) };
    b.client.dma_map(read_only, Some(b.ram.0.as_fd())).unwrap();
    b.client.dma_map(ram_map(RAM_AT + 4 * page, page, 0), None).unwrap();
    assert!(passes(&house, &mut a, page - 8), "across two sections");
    assert_eq!(b.ram.get::<8>(0x8FF8), [0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47]);
    assert_eq!(b.ram.get::<8>(0x2000), [0x48, 0x49, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E, 0x4F]);
    assert!(!passes(&house, &mut a, 2 * page - 8), "into a hole");
    assert_eq!(b.ram.get::<8>(0x2FF8), [0; 8], "a store that does not fit stores nothing");
    assert!(!passes(&house, &mut a, 2 * page));
    assert!(!passes(&house, &mut a, 4 * page));
    b.ram.put(0x4000, &[6; 16]);
    a.store(3 * page, &[7; 16]);
    assert_eq!(a.load(3 * page), [6; 16]);
    assert_eq!(b.ram.get(0x4000), [6; 16]);
    // What is taken back is out of reach when the answer is there.
    b.client.dma_unmap(DmaUnmap::Range { iova: DmaAddr(RAM_AT + page), size: page }).unwrap();
    assert!(!passes(&house, &mut a, page));
    assert!(passes(&house, &mut a, page - 16));
}

#[test]
fn memory_for_writing_alone_is_not_read() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    b.client.dma_unmap(DmaUnmap::All).unwrap();
    let write_only = DmaMap { readable: false, ..ram_map(RAM_AT, 0x1000, 0) };
    b.client.dma_map(write_only, Some(b.ram.0.as_fd())).unwrap();
    a.store(0, &[1; 8]);
    assert_eq!(b.ram.get(0), [1; 8]);
    assert_eq!(a.load(0), [0xFF; 8]);
}

#[test]
fn discarded_stores_are_checked_and_counted_and_go_nowhere() {
    let house = House::new();
    let (mut a, b) = house.pair();
    let set = |stores| {
        let reply = house.control().call(&control::Request::SetStores { stores }).unwrap();
        assert_eq!(reply, control::Reply::Done);
    };
    set(control::StoreMode::Discard);
    assert_eq!(house.status().stores, control::StoreMode::Discard);
    a.store(0, &[9; 8]);
    a.client.region_write(RegionIndex::BAR4, 0, &[9; 8]).unwrap();
    assert_eq!(b.ram.get(0), [0; 8]);
    let port = house.port(Side::A);
    assert_eq!(
        (port.windows[0].discarded, port.windows[0].discarded_bytes, port.windows[0].stores),
        (1, 8, 0)
    );
    assert_eq!(
        (port.windows[1].discarded, port.windows[1].dropped),
        (0, 1),
        "a closed window drops either way"
    );
    set(control::StoreMode::Deliver);
    a.store(0, &[9; 8]);
    assert_eq!(b.ram.get(0), [9; 8]);
}

#[test]
fn translations_into_nowhere_reach_nobody() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    // Unmapped; behind the end of memory; the last pages there are; wrapping; an odd one, whose low bits do not exist.
    for base in [0, RAM_AT + RAM_BYTES, 0xFFFF_FFFF_0000_0000, !0xFFF, 0x8000_0000_0000_0000] {
        b.open_window(0, base, 1 << 20);
        for at in [0, 0x800, 0xFF0, 0x1000, (1 << 20) - 16] {
            assert!(!passes(&house, &mut a, at), "{base:#x} + {at:#x}");
        }
    }
    b.open_window(0, RAM_AT + 0xABC, 1 << 20);
    assert!(passes(&house, &mut a, 0));
    assert_eq!(b.ram.get(0), [0x40]);
    // The top of the address space is memory like any other, and ends there.
    let top = Ram::new("top", 0x1000);
    b.client.dma_map(ram_map(u64::MAX - 0xFFF, 0x1000, 0), Some(top.0.as_fd())).unwrap();
    b.open_window(0, u64::MAX - 0xFFF, 1 << 20);
    assert!(passes(&house, &mut a, 0xFE0));
    assert_eq!(top.get(0xFE0), [0x40]);
    assert!(!passes(&house, &mut a, 0xFF1));
    // A limit below the base, and the largest one.
    b.write(Reg::EmBar1Xlmt, 0, &0u64.to_le_bytes());
    assert!(!passes(&house, &mut a, 0));
    b.write(Reg::ImBar1Xbase, 0, &RAM_AT.to_le_bytes());
    b.write(Reg::EmBar1Xlmt, 0, &u64::MAX.to_le_bytes());
    assert!(passes(&house, &mut a, (1 << 20) - 16));
}
