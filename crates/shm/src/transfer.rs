//! Copies from one mapping to another, without a stop in between.

use crate::mapping::{Mapping, OutOfBounds};

/// Copies `bytes` bytes from one mapping to another. The ranges may be the same memory: bytes then go upwards, one
/// after the other, as a DMA engine's do.
///
/// # Errors
/// [`OutOfBounds`] when either range leaves its mapping or the target is for loads only; nothing was touched.
pub fn transfer(
    from: &Mapping,
    from_at: usize,
    to: &Mapping,
    to_at: usize,
    bytes: usize,
) -> Result<(), OutOfBounds> {
    let source = from.range(from_at, bytes)?;
    let target = to.range_for_stores(to_at, bytes)?;
    crate::counted::transferred(bytes);
    // SAFETY: both ranges are valid for `bytes` bytes while the mappings live (checked by `range`), the target for stores.
    unsafe { move_up(source, target, bytes) };
    Ok(())
}

/// Sets `bytes` bytes of a mapping to one value.
///
/// # Errors
/// [`OutOfBounds`], and nothing was stored.
pub fn fill(to: &Mapping, at: usize, bytes: usize, value: u8) -> Result<(), OutOfBounds> {
    let target = to.range_for_stores(at, bytes)?;
    // SAFETY: the range is valid for stores of `bytes` bytes while the mapping lives.
    unsafe { store_up(target, bytes, value) };
    Ok(())
}

/// The processor's own copy. It is the fastest from 512 bytes to 256 KiB (`cargo bench -p shm --bench transfers`), and others may
/// write these bytes at any time: an instruction copies whatever it finds, where a Rust copy could not be defined.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of `bytes` bytes; others may access both meanwhile.
#[cfg(target_arch = "x86_64")]
unsafe fn move_up(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: reads and writes exactly the two ranges that the caller vouches for; the direction flag is clear by the
    // calling convention.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") bytes => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// The same with volatile words, or bytes where the two ranges are not aligned alike.
///
/// # Safety
/// As above.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn move_up(from: *const u8, to: *mut u8, bytes: usize) {
    const WORD: usize = size_of::<u64>();
    let alike = from.addr() % WORD == to.addr() % WORD && from.addr().abs_diff(to.addr()) >= WORD;
    let mut at = 0;
    while at < bytes {
        // SAFETY: `at` < `bytes`, the length of both ranges.
        let source = unsafe { from.add(at) };
        // SAFETY: the same.
        let target = unsafe { to.add(at) };
        if alike && source.addr() % WORD == 0 && bytes - at >= WORD {
            // SAFETY: aligned, and a word lies before the end.
            let word = unsafe { source.cast::<u64>().read_volatile() };
            // SAFETY: the same.
            unsafe { target.cast::<u64>().write_volatile(word) };
            at += WORD;
        } else {
            // SAFETY: one byte inside both ranges.
            let byte = unsafe { source.read_volatile() };
            // SAFETY: the same.
            unsafe { target.write_volatile(byte) };
            at += 1;
        }
    }
}

/// # Safety
/// `to` is valid for writes of `bytes` bytes; others may access them meanwhile.
#[cfg(target_arch = "x86_64")]
unsafe fn store_up(to: *mut u8, bytes: usize, value: u8) {
    // SAFETY: writes exactly the range that the caller vouches for; the direction flag is clear by the calling convention.
    unsafe {
        core::arch::asm!(
            "rep stosb",
            inout("rcx") bytes => _,
            inout("rdi") to => _,
            in("al") value,
            options(nostack, preserves_flags)
        );
    }
}

/// # Safety
/// As above.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn store_up(to: *mut u8, bytes: usize, value: u8) {
    for at in 0..bytes {
        // SAFETY: `at` < `bytes`.
        let target = unsafe { to.add(at) };
        // SAFETY: inside the range.
        unsafe { target.write_volatile(value) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, SharedFile};

    fn mapping(access: Access) -> Mapping {
        Mapping::new(&SharedFile::create("test", 8192).unwrap(), 0, 8192, access).unwrap()
    }

    #[test]
    fn every_alignment_and_length_arrives_and_leaves_the_neighbours() {
        let (from, to) = (mapping(Access::ReadWrite), mapping(Access::ReadWrite));
        let data: Vec<u8> = (1..=200).collect();
        from.write(0, &data).unwrap();
        for (from_at, to_at, bytes) in (0..9)
            .flat_map(|from| (0..9).map(move |to| (from, to)))
            .flat_map(|(from, to)| [0, 1, 7, 8, 9, 64, 100].map(move |bytes| (from, to, bytes)))
        {
            fill(&to, 0, 128, 0xEE).unwrap();
            transfer(&from, from_at, &to, to_at, bytes).unwrap();
            let mut all = [0; 128];
            to.read(0, &mut all).unwrap();
            assert_eq!(&all[to_at..to_at + bytes], &data[from_at..from_at + bytes]);
            let around = all[..to_at].iter().chain(&all[to_at + bytes..]);
            assert!(around.copied().all(|byte| byte == 0xEE), "{from_at} {to_at} {bytes}");
        }
    }

    #[test]
    fn ranges_that_overlap_are_copied_upwards() {
        let memory = mapping(Access::ReadWrite);
        memory.write(0, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]).unwrap();
        transfer(&memory, 8, &memory, 0, 8).unwrap();
        transfer(&memory, 0, &memory, 1, 4).unwrap();
        let mut seen = [0; 8];
        memory.read(0, &mut seen).unwrap();
        assert_eq!(seen, [9, 9, 9, 9, 9, 14, 15, 16]);
    }

    #[test]
    fn what_leaves_a_mapping_or_may_not_be_stored_touches_nothing() {
        let (memory, constant) = (mapping(Access::ReadWrite), mapping(Access::Read));
        for (from_at, to_at, bytes) in [(8190, 0, 3), (0, 8190, 3), (usize::MAX, 0, 2), (0, 0, 8193)] {
            assert_eq!(transfer(&memory, from_at, &memory, to_at, bytes), Err(OutOfBounds));
        }
        assert_eq!(transfer(&memory, 0, &constant, 0, 1), Err(OutOfBounds));
        assert_eq!(fill(&constant, 0, 1, 1), Err(OutOfBounds));
        assert_eq!(fill(&memory, 8192, 1, 1), Err(OutOfBounds));
        transfer(&constant, 0, &memory, 8191, 1).unwrap();
    }
}
