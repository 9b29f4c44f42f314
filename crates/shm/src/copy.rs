//! Routines that copy between private memory and memory that others write meanwhile.
//!
//! Each is either volatile accesses of whole words or assembly, which the compiler takes for opaque: none of them
//! assumes that the bytes stay what they are.

use crate::counted;

/// How bytes are copied. All routines put the same bytes in the same place; they differ in what they do to caches.
///
/// | routine | what it is | when it pays |
/// |---|---|---|
/// | [`Words`](Self::Words) | volatile 8-byte words | up to two cache lines |
/// | [`Vector`](Self::Vector) | 32-byte AVX2 loads and stores | a few lines; all larger copies where `rep movsb` is slow |
/// | [`Rep`](Self::Rep) | `rep movsb` | from 512 bytes on processors that have it fast (ERMS) |
/// | [`Stream`](Self::Stream) | non-temporal stores (whole lines by AVX-512; else AVX2, else SSE2) | write-combined windows; a peer on another die that reads ahead, or where `rep movsb` is slow |
/// | [`Memcpy`](Self::Memcpy) | the C library's `memcpy` | what a program without this crate would call: to compare with |
///
/// A routine that this processor has not got falls back to one that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routine {
    /// Volatile words of 8 bytes.
    Words,
    /// The processor's string move.
    Rep,
    /// Vector registers, through the caches.
    Vector,
    /// Vector registers, past the caches: a [`Window::flush`](crate::Window::flush) must stand between this copy and
    /// the store that announces it. Out of shared memory it is the same as [`Vector`](Self::Vector).
    Stream,
    /// The C library's `memcpy`, called as any program calls it. It need not make one access of an aligned word.
    Memcpy,
}

impl Routine {
    /// Every routine.
    pub const ALL: [Self; 5] = [Self::Words, Self::Rep, Self::Vector, Self::Stream, Self::Memcpy];

    /// What serves `bytes` bytes best between processors that share a cache: `cargo bench -p shm` shows why.
    #[inline]
    #[must_use]
    pub fn for_size(bytes: usize) -> Self {
        if bytes <= 128 { Self::Words } else { Self::for_many(bytes) }
    }

    fn for_many(bytes: usize) -> Self {
        if bytes >= 512 && fast_rep() { Self::Rep } else { Self::Vector }
    }
}

/// Whether `rep movsb` moves whole lines (ERMS).
#[cfg(target_arch = "x86_64")]
fn fast_rep() -> bool {
    is_x86_feature_detected!("ermsb")
}

#[cfg(not(target_arch = "x86_64"))]
fn fast_rep() -> bool {
    false
}

/// Copies out of shared memory.
///
/// # Safety
/// `from` is valid for reads of `out.len()` bytes; others may write them meanwhile.
#[inline(always)]
pub(crate) unsafe fn copy_out(routine: Routine, from: *const u8, out: &mut [u8]) {
    counted::loaded(out.len());
    if routine == Routine::Words {
        // SAFETY: the caller's.
        unsafe { words_out(from, out) };
    } else {
        // SAFETY: the caller's.
        unsafe { bulk_out(routine, from, out) };
    }
}

/// # Safety
/// As [`copy_out`].
#[inline(never)]
unsafe fn bulk_out(routine: Routine, from: *const u8, out: &mut [u8]) {
    let copied = if out.len() <= WORD {
        0
    } else {
        let routine = if routine == Routine::Stream { Routine::Vector } else { routine };
        // SAFETY: `from` by the caller, `out` is ours; they do not overlap, since private memory is not shared.
        unsafe { bulk(routine, out.as_mut_ptr(), from, out.len()) }
    };
    let rest = out.get_mut(copied..).unwrap_or_default();
    // SAFETY: `copied` <= `out.len()`.
    let from = unsafe { from.add(copied) };
    // SAFETY: valid for what is left.
    unsafe { words_out(from, rest) };
}

/// Copies into shared memory.
///
/// # Safety
/// `to` is valid for writes of `data.len()` bytes; others may read and write them meanwhile.
#[inline(always)]
pub(crate) unsafe fn copy_in(routine: Routine, to: *mut u8, data: &[u8]) {
    counted::stored(data.len());
    if routine == Routine::Words {
        // SAFETY: the caller's.
        unsafe { words_in(to, data) };
    } else {
        // SAFETY: the caller's.
        unsafe { bulk_in(routine, to, data) };
    }
}

/// # Safety
/// As [`copy_in`].
#[inline(never)]
unsafe fn bulk_in(routine: Routine, to: *mut u8, data: &[u8]) {
    // Non-temporal stores want whole aligned lines: what comes before the first goes by words.
    let lead = if routine == Routine::Stream { to.align_offset(LINE).min(data.len()) } else { 0 };
    let (before, data) = data.split_at(lead);
    // SAFETY: `before` is the first part of the range.
    unsafe { words_in(to, before) };
    // SAFETY: `lead` <= the length of the range.
    let to = unsafe { to.add(lead) };
    let copied = if data.len() <= WORD {
        0
    } else {
        // SAFETY: `to` by the caller, `data` is ours; they do not overlap, since private memory is not shared.
        unsafe { bulk(routine, to, data.as_ptr(), data.len()) }
    };
    let rest = data.get(copied..).unwrap_or_default();
    // SAFETY: `copied` <= `data.len()`.
    let to = unsafe { to.add(copied) };
    // SAFETY: valid for what is left.
    unsafe { words_in(to, rest) };
}

/// What one turn of the vector loops moves, and the alignment that non-temporal stores are given.
const TURN: usize = 128;
const LINE: usize = 64;

/// Copies as much as suits the routine, and says how many bytes that was; words do the rest.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of `len` bytes; they do not overlap. For [`Routine::Stream`] `to` is
/// aligned to a line, or `len` is less than one.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn bulk(routine: Routine, to: *mut u8, from: *const u8, len: usize) -> usize {
    let turns = len / TURN;
    match routine {
        Routine::Words => 0,
        Routine::Memcpy => {
            // SAFETY: both ranges are valid for `len` bytes and do not overlap.
            unsafe { libc_memcpy(to, from, len) };
            len
        }
        Routine::Vector if is_x86_feature_detected!("avx2") => {
            if turns > 0 {
                // SAFETY: `turns * TURN` <= `len`, and the processor has AVX2.
                unsafe { vector(to, from, turns) };
            }
            turns * TURN
        }
        Routine::Stream => {
            if is_x86_feature_detected!("avx512f") {
                let lines = len / LINE;
                if lines > 0 {
                    // SAFETY: `lines * LINE` <= `len`, `to` is aligned, and the processor has AVX-512.
                    unsafe { stream_lines(to, from, lines) };
                }
                return lines * LINE;
            }
            if turns > 0 && is_x86_feature_detected!("avx2") {
                // SAFETY: `turns * TURN` <= `len`, `to` is aligned, and the processor has AVX2.
                unsafe { stream(to, from, turns) };
            } else if turns > 0 {
                // SAFETY: the same; every x86-64 processor has SSE2.
                unsafe { stream_sse2(to, from, turns) };
            }
            turns * TURN
        }
        Routine::Rep | Routine::Vector => {
            // SAFETY: both ranges are valid for `len` bytes.
            unsafe { rep(to, from, len) };
            len
        }
    }
}

#[cfg(all(not(target_arch = "x86_64"), not(miri)))]
unsafe fn bulk(routine: Routine, to: *mut u8, from: *const u8, len: usize) -> usize {
    if routine != Routine::Memcpy {
        return 0;
    }
    // SAFETY: both ranges are valid for `len` bytes and do not overlap.
    unsafe { libc_memcpy(to, from, len) };
    len
}

#[cfg(miri)]
unsafe fn bulk(_routine: Routine, _to: *mut u8, _from: *const u8, _len: usize) -> usize {
    0
}

#[cfg(not(miri))]
mod c {
    unsafe extern "C" {
        pub(super) fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
    }
}

/// # Safety
/// As [`bulk`].
#[cfg(not(miri))]
unsafe fn libc_memcpy(to: *mut u8, from: *const u8, len: usize) {
    // The compiler knows `memcpy` by its name, and might then take the bytes for such that nobody else writes. Of a pointer
    // that may be any it knows nothing.
    let memcpy: unsafe extern "C" fn(*mut u8, *const u8, usize) -> *mut u8 = std::hint::black_box(c::memcpy);
    // SAFETY: both ranges are valid and do not overlap. That others write the bytes meanwhile is outside of what C says of
    // memcpy; what a library does is loads and stores, in which torn bytes come to nothing but torn bytes.
    unsafe { memcpy(to, from, len) };
}

/// # Safety
/// As [`bulk`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn rep(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the direction flag is clear (the ABI says so), and both ranges are valid.
    unsafe {
        std::arch::asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// As [`bulk`], for `turns` times [`TURN`] bytes, at least one, with AVX2.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2")]
#[inline(never)] // vzeroupper: a caller may keep nothing in the upper halves, as at every call
unsafe fn vector(to: *mut u8, from: *const u8, turns: usize) {
    // SAFETY: the loop moves `turns * TURN` bytes up both ranges and no more.
    unsafe {
        std::arch::asm!(
            "2:",
            "vmovdqu {a}, [{from}]",
            "vmovdqu {b}, [{from} + 32]",
            "vmovdqu {c}, [{from} + 64]",
            "vmovdqu {d}, [{from} + 96]",
            "vmovdqu [{to}], {a}",
            "vmovdqu [{to} + 32], {b}",
            "vmovdqu [{to} + 64], {c}",
            "vmovdqu [{to} + 96], {d}",
            "add {from}, 128",
            "add {to}, 128",
            "dec {turns}",
            "jnz 2b",
            "vzeroupper",
            from = inout(reg) from => _, to = inout(reg) to => _, turns = inout(reg) turns => _,
            a = out(ymm_reg) _, b = out(ymm_reg) _, c = out(ymm_reg) _, d = out(ymm_reg) _,
            options(nostack)
        );
    }
}

/// # Safety
/// As [`bulk`], for `lines` lines, at least one, with AVX-512; `to` is aligned to a line.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx512f")]
#[inline(never)] // vzeroupper: a caller may keep nothing in the upper parts, as at every call
unsafe fn stream_lines(to: *mut u8, from: *const u8, lines: usize) {
    // SAFETY: the loop moves `lines * LINE` bytes up both ranges and no more.
    unsafe {
        std::arch::asm!(
            "2:",
            "vmovdqu64 {a}, [{from}]",
            "vmovntdq [{to}], {a}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {lines}",
            "jnz 2b",
            "vzeroupper",
            from = inout(reg) from => _, to = inout(reg) to => _, lines = inout(reg) lines => _,
            a = out(zmm_reg) _,
            options(nostack)
        );
    }
}

/// # Safety
/// As [`vector`], and `to` is aligned to 32 bytes.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2")]
#[inline(never)] // vzeroupper: a caller may keep nothing in the upper halves, as at every call
unsafe fn stream(to: *mut u8, from: *const u8, turns: usize) {
    // SAFETY: the loop moves `turns * TURN` bytes up both ranges and no more.
    unsafe {
        std::arch::asm!(
            "2:",
            "vmovdqu {a}, [{from}]",
            "vmovdqu {b}, [{from} + 32]",
            "vmovdqu {c}, [{from} + 64]",
            "vmovdqu {d}, [{from} + 96]",
            "vmovntdq [{to}], {a}",
            "vmovntdq [{to} + 32], {b}",
            "vmovntdq [{to} + 64], {c}",
            "vmovntdq [{to} + 96], {d}",
            "add {from}, 128",
            "add {to}, 128",
            "dec {turns}",
            "jnz 2b",
            "vzeroupper",
            from = inout(reg) from => _, to = inout(reg) to => _, turns = inout(reg) turns => _,
            a = out(ymm_reg) _, b = out(ymm_reg) _, c = out(ymm_reg) _, d = out(ymm_reg) _,
            options(nostack)
        );
    }
}

/// # Safety
/// As [`stream`], without AVX2.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn stream_sse2(to: *mut u8, from: *const u8, turns: usize) {
    // SAFETY: the loop moves `turns * TURN` bytes, two lines a turn, up both ranges and no more.
    unsafe {
        std::arch::asm!(
            "2:",
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + 32]",
            "movdqu {d}, [{from} + 48]",
            "movntdq [{to}], {a}",
            "movntdq [{to} + 16], {b}",
            "movntdq [{to} + 32], {c}",
            "movntdq [{to} + 48], {d}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {lines}",
            "jnz 2b",
            from = inout(reg) from => _, to = inout(reg) to => _, lines = inout(reg) turns * 2 => _,
            a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
            options(nostack)
        );
    }
}

const WORD: usize = size_of::<u64>();

/// Copies out of shared memory by the widest aligned accesses there are: up to a word's boundary, by words, and what is
/// left. An aligned access of 1, 2, 4 or 8 bytes is one load.
///
/// # Safety
/// `from` is valid for reads of `out.len()` bytes; others may write them meanwhile.
#[inline(always)]
unsafe fn words_out(from: *const u8, out: &mut [u8]) {
    let (mut at, mut out) = (from, out);
    macro_rules! one {
        ($word:ty) => {
            if let Some((now, later)) = std::mem::take(&mut out).split_first_chunk_mut() {
                // SAFETY: inside the range that the caller vouches for; aligned, as the callers of this macro say.
                let word = unsafe { at.cast::<$word>().read_volatile() };
                *now = word.to_ne_bytes();
                // SAFETY: at most one past that range.
                at = unsafe { at.add(size_of::<$word>()) };
                out = later;
            }
        };
    }
    if !at.addr().is_multiple_of(WORD) {
        // Each is aligned once the smaller ones were made. Where one does not fit, what is left is smaller still.
        if at.addr() & 1 != 0 && !out.is_empty() {
            one!(u8);
        }
        if at.addr() & 2 != 0 && out.len() >= 2 {
            one!(u16);
        }
        if at.addr() & 4 != 0 && out.len() >= 4 {
            one!(u32);
        }
    }
    while out.len() >= WORD {
        one!(u64);
    }
    if out.len() >= 4 {
        one!(u32);
    }
    if out.len() >= 2 {
        one!(u16);
    }
    if let Some(byte) = out.first_mut() {
        // SAFETY: the last byte of the range.
        *byte = unsafe { at.read_volatile() };
    }
}

/// Copies into shared memory, the same way.
///
/// # Safety
/// `to` is valid for writes of `data.len()` bytes; others may read and write them meanwhile.
#[inline(always)]
unsafe fn words_in(to: *mut u8, data: &[u8]) {
    let (mut at, mut data) = (to, data);
    macro_rules! one {
        ($word:ty) => {
            if let Some((&now, later)) = data.split_first_chunk() {
                // SAFETY: inside the range that the caller vouches for; aligned, as the callers of this macro say.
                unsafe { at.cast::<$word>().write_volatile(<$word>::from_ne_bytes(now)) };
                // SAFETY: at most one past that range.
                at = unsafe { at.add(size_of::<$word>()) };
                data = later;
            }
        };
    }
    if !at.addr().is_multiple_of(WORD) {
        if at.addr() & 1 != 0 && !data.is_empty() {
            one!(u8);
        }
        if at.addr() & 2 != 0 && data.len() >= 2 {
            one!(u16);
        }
        if at.addr() & 4 != 0 && data.len() >= 4 {
            one!(u32);
        }
    }
    while data.len() >= WORD {
        one!(u64);
    }
    if data.len() >= 4 {
        one!(u32);
    }
    if data.len() >= 2 {
        one!(u16);
    }
    if let Some(&byte) = data.first() {
        // SAFETY: the last byte of the range.
        unsafe { at.write_volatile(byte) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_routine_copies_every_length_and_alignment_and_nothing_else() {
        let data: Vec<u8> = (0..1200_usize).map(|at| (at * 7 + at / 256).to_le_bytes()[0]).collect();
        let lengths = (0..80).chain([127, 128, 129, 191, 256, 257, 384, 750, 1000]);
        for len in lengths {
            for at in (0..70).step_by(3) {
                for routine in Routine::ALL {
                    let mut shared = vec![0xEE_u8; 1400];
                    // SAFETY: 70 + 1000 < 1400.
                    let to = unsafe { shared.as_mut_ptr().add(at) };
                    // SAFETY: the same.
                    unsafe { copy_in(routine, to, &data[at..at + len]) };
                    crate::fence::store_fence();
                    assert_eq!(&shared[at..at + len], &data[at..at + len], "{routine:?} {at} {len}");
                    let around = shared[..at].iter().chain(&shared[at + len..]);
                    assert!(around.copied().all(|byte| byte == 0xEE), "{routine:?} {at} {len}");
                    let mut back = vec![0x11; len];
                    // SAFETY: the same.
                    unsafe { copy_out(routine, to, &mut back) };
                    assert_eq!(back, data[at..at + len], "{routine:?} {at} {len}");
                }
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_older_streaming_loops_copy_too() {
        #[repr(align(64))]
        struct Lines([u8; 256]);
        let data: Vec<u8> = (0..=255).collect();
        let mut shared = Lines([0; 256]);
        // SAFETY: both have 256 bytes, which is two turns, and the target is aligned.
        unsafe { stream_sse2(shared.0.as_mut_ptr(), data.as_ptr(), 2) };
        crate::fence::store_fence();
        assert_eq!(shared.0, data[..]);
        if is_x86_feature_detected!("avx2") {
            shared = Lines([0; 256]);
            // SAFETY: the same, and the processor has AVX2.
            unsafe { stream(shared.0.as_mut_ptr(), data.as_ptr(), 2) };
            crate::fence::store_fence();
            assert_eq!(shared.0, data[..]);
        }
    }
}
