//! Memory windows: what is stored at one end is found at the other, and nowhere else.

use super::{PATIENCE, Pair, Testbed, Verdict, check, equal, is_shared};
use crate::{Bridge, BridgeError, DeviceAddress, Gen3, Memory, StoreOrder, Window, WindowError, WindowKind};

const BYTES: usize = 64 << 10;
const TWICE: u64 = 128 << 10;

/// Bytes that tell where they belong.
fn pattern(seed: u8, bytes: usize) -> Vec<u8> {
    let [bytes_have_a_seed, ..] = bytes.to_le_bytes();
    let mut next = seed ^ bytes_have_a_seed;
    let mut byte = || {
        next = next.wrapping_mul(5).wrapping_add(seed | 1);
        next
    };
    (0..bytes).map(|_| byte()).collect()
}

fn found(memory: &dyn Memory, at: usize, bytes: usize) -> Result<Vec<u8>, WindowError> {
    let mut out = vec![0; bytes];
    memory.read(at, &mut out)?;
    Ok(out)
}

pub(super) fn stores_reach_the_memory_under_them(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    for (end, peer) in pair.both() {
        let inbound = peer.inbound(0, BYTES as u64)?;
        let outbound = end.outbound(0)?;
        equal("the kind, asked in two ways", outbound.kind(), super::kind(end)?)?;
        let ranges = [(0, 1), (1, 2), (3, 4), (8, 8), (4095, 2), (100, 5000), (0, BYTES), (BYTES - 1, 1)];
        for (seed, (at, bytes)) in (1..).zip(ranges) {
            let data = pattern(seed, bytes);
            outbound.write(at, &data)?;
            outbound.settle()?;
            check(found(&inbound, at, bytes)? == data, format!("{bytes} bytes at {at:#x} have arrived"))?;
            let mut back = vec![0; bytes];
            outbound.read_across(at, &mut back)?;
            check(back == data, format!("{bytes} bytes at {at:#x} read across"))?;
        }
        inbound.write(16, b"mine")?;
        let mut seen = [0; 4];
        outbound.read_across(16, &mut seen)?;
        equal("what the owner writes", &seen, b"mine")?;
        let outside = outbound.write(outbound.bytes(), &[1]);
        equal("a store past the BAR", outside, Err(WindowError::OutOfBounds))?;
        equal("one that wraps", outbound.write(usize::MAX, &[1, 2]), Err(WindowError::OutOfBounds))?;
    }
    Ok(())
}

pub(super) fn both_directions_and_both_windows_are_apart(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    let mut ways = Vec::new();
    for (end, peer) in pair.both() {
        for window in 0..end.window_count() {
            ways.push((end.outbound(window)?, peer.inbound(window, 4096)?));
        }
    }
    for (seed, (outbound, _)) in (1..).zip(&ways) {
        outbound.write(0, &pattern(seed, 4096))?;
        outbound.settle()?;
    }
    for (seed, (_, inbound)) in (1..).zip(&ways) {
        check(found(inbound, 0, 4096)? == pattern(seed, 4096), format!("way {seed} has its own"))?;
    }
    Ok(())
}

pub(super) fn translations_that_do_not_fit_are_refused(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    let bridge = &pair.dsd;
    let align = bridge.window_align(0)?;
    for address in [1, 4096, align.address_bytes / 2, align.address_bytes.saturating_add(1), u64::MAX] {
        let refused = bridge.set_translation(0, DeviceAddress(address), 4096);
        check(matches!(refused, Err(BridgeError::Unaligned { .. })), format!("{address:#x}: {refused:?}"))?;
    }
    for bytes in [align.max_bytes.saturating_add(1), u64::MAX] {
        let refused = bridge.set_translation(0, DeviceAddress(0), bytes);
        check(matches!(refused, Err(BridgeError::TooLarge { .. })), format!("{bytes:#x}: {refused:?}"))?;
        let refused = bridge.inbound(0, bytes).err();
        check(matches!(refused, Some(BridgeError::TooLarge { .. })), format!("{bytes:#x}: {refused:?}"))?;
    }
    // Memory that there is not lets nothing through, and breaks nothing.
    bridge.set_translation(0, DeviceAddress(align.address_bytes << 8), align.max_bytes)?;
    if !is_shared(bridge) {
        let outbound = pair.usd.outbound(0)?;
        outbound.write(0, &[0; 8])?;
        let mut seen = [0; 8];
        outbound.read_across(8, &mut seen)?;
        equal("a window on nothing reads", seen, [0xFF; 8])?;
    }
    bridge.clear_translation(0)?;
    let inbound = bridge.inbound(0, align.max_bytes)?;
    equal("the whole window fits", inbound.bytes() as u64, align.max_bytes)
}

pub(super) fn one_that_is_closed_lets_nothing_through(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    let (end, owner): (&Gen3, &Gen3) = (&pair.usd, &pair.dsd);
    if is_shared(owner) {
        // It is nobody's memory while the link is down.
        let (outbound, inbound) = (end.outbound(0)?, owner.inbound(0, 4096)?);
        outbound.write(0, &[1; 8])?;
        equal("open", found(&inbound, 0, 8)?, vec![1; 8])?;
        owner.link_disable()?;
        end.wait_for_link(false, PATIENCE)?;
        equal("a store after the link was seen down", outbound.write(0, &[2; 8]), Err(WindowError::Closed))?;
        return Ok(());
    }
    let align = owner.window_align(0)?;
    let memory = owner.dma_allocate(TWICE, align.address_bytes)?;
    owner.set_translation(0, memory.address(), BYTES as u64)?;
    let outbound = end.outbound(0)?;
    let store = |value: u8| -> Result<(), WindowError> {
        outbound.write(8, &[value; 8])?;
        outbound.settle()
    };
    store(1)?;
    equal("open", found(&memory, 8, 8)?, vec![1; 8])?;
    // Bytes that the owner has not opened.
    outbound.write(BYTES, &[9; 8])?;
    outbound.settle()?;
    equal("behind the limit", found(&memory, BYTES, 8)?, vec![0; 8])?;
    owner.clear_translation(0)?;
    store(2)?;
    equal("cleared", found(&memory, 8, 8)?, vec![1; 8])?;
    let mut seen = [0; 8];
    outbound.read_across(64, &mut seen)?;
    equal("a closed window reads", seen, [0xFF; 8])?;
    owner.set_translation(0, memory.address(), BYTES as u64)?;
    store(3)?;
    equal("open again", found(&memory, 8, 8)?, vec![3; 8])?;
    owner.link_disable()?;
    end.wait_for_link(false, PATIENCE)?;
    equal("a store after the link was seen down", store(4), Err(WindowError::Closed))?;
    equal("nothing passes while the link is down", found(&memory, 8, 8)?, vec![3; 8])?;
    pair.connect()?;
    check(!outbound.is_current(), "a window from before is not current")?;
    let outbound = end.outbound(0)?;
    outbound.write(8, &[5; 8])?;
    outbound.settle()?;
    equal("a translation outlives the link", found(&memory, 8, 8)?, vec![5; 8])
}

pub(super) fn one_moves_to_other_memory(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    let (end, owner) = (&pair.dsd, &pair.usd);
    if is_shared(owner) {
        return Ok(());
    }
    let align = owner.window_align(0)?;
    let memories =
        [owner.dma_allocate(4096, align.address_bytes)?, owner.dma_allocate(4096, align.address_bytes)?];
    let outbound = end.outbound(0)?;
    for round in 1..=20 {
        for (nth, memory) in (0..).zip(&memories) {
            owner.set_translation(0, memory.address(), 4096)?;
            outbound.write(0, &[round, nth])?;
            outbound.settle()?;
            equal("where it is", found(memory, 0, 2)?, vec![round, nth])?;
        }
        let [first, _] = &memories;
        equal("where it was", found(first, 0, 2)?, vec![round, 0])?;
    }
    Ok(())
}

pub(super) fn words_are_stored_whole(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    let (outbound, inbound) = (pair.usd.outbound(0)?, pair.dsd.inbound(0, 4096)?);
    outbound.store_u32(12, 0x0102_0304, StoreOrder::Release)?;
    outbound.store_u64(16, 0x1112_1314_1516_1718, StoreOrder::Relaxed)?;
    outbound.flush()?;
    outbound.settle()?;
    equal("4 bytes", inbound.load_u32(12, crate::LoadOrder::Acquire)?, 0x0102_0304)?;
    equal("8 bytes", inbound.load_u64(16, crate::LoadOrder::Acquire)?, 0x1112_1314_1516_1718)?;
    equal("little-endian", found(&inbound, 12, 4)?, vec![4, 3, 2, 1])?;
    for at in [1, 2, 3, 6] {
        let refused = outbound.store_u32(at, 0, StoreOrder::Relaxed);
        equal("4 bytes askew", refused, Err(WindowError::Misaligned))?;
    }
    equal("8 bytes askew", outbound.store_u64(4, 0, StoreOrder::Relaxed), Err(WindowError::Misaligned))?;
    // No reader sees half of a word, whatever the way.
    let torn = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for value in 0..2000_u64 {
                let word = value << 32 | value;
                outbound.store_u64(0, word, StoreOrder::Relaxed)?;
            }
            outbound.settle()
        });
        let mut torn = None;
        while !writer.is_finished() {
            let word = inbound.load_u64(0, crate::LoadOrder::Relaxed)?;
            if word >> 32 != word & 0xFFFF_FFFF && word != 0 && word != u64::MAX {
                torn = Some(word);
            }
        }
        writer.join().map_err(|_| "the writing thread panicked")??;
        Ok::<_, super::Failure>(torn)
    })?;
    equal("halves of different words", torn, None)?;
    equal("the last one", inbound.load_u64(0, crate::LoadOrder::Relaxed)?, 1999 << 32 | 1999)?;
    let kind = outbound.kind();
    check(kind == WindowKind::Messaged || outbound.memory().is_some(), "a mapped window has memory")
}
