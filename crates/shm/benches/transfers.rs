//! Which copy to use between two mappings, by size: `cargo bench -p shm --bench transfers`
//!
//! The ways take turns within one run, round by round, and each line is the median of the rounds: this machine may
//! have other things to do. Every copy takes the next piece of 64 MiB of source and of 1 MiB of target, as an engine's
//! does that fills a window: sources are cold, the target is warm.
#![expect(clippy::print_stdout, reason = "a bench reports to whoever runs it")]
#![expect(unsafe_code, reason = "UNSAFETY: a bench of unsafe candidates on memory of its own")]

use std::time::Instant;

const SOURCE_BYTES: usize = 64 << 20;
const TARGET_BYTES: usize = 1 << 20;
const ROUNDS: usize = 15;
const SIZES: [usize; 7] = [64, 512, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10];

/// A way to copy.
type Way = unsafe fn(*const u8, *mut u8, usize);

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    let (rounds, total) = if quick { (1, 1 << 20) } else { (ROUNDS, SOURCE_BYTES) };
    let source = vec![0x5Au8; SOURCE_BYTES];
    let mut target = vec![0u8; TARGET_BYTES];
    let ways: [(&str, Way); 4] = [
        ("volatile words", volatile_words),
        ("copy_nonoverlapping", plain),
        ("rep movsb", string_move),
        ("non-temporal", non_temporal),
    ];
    print!("{:<22}", "GB/s, median");
    for size in SIZES {
        print!("{:>12}", if size < 1024 { format!("{size} B") } else { format!("{} KiB", size >> 10) });
    }
    println!();
    let mut rates = vec![vec![Vec::new(); SIZES.len()]; ways.len()];
    for _ in 0..rounds {
        for (column, size) in SIZES.into_iter().enumerate() {
            for (row, (_, way)) in ways.iter().enumerate() {
                let began = Instant::now();
                for at in (0..total).step_by(size) {
                    let from = source[at..at + size].as_ptr();
                    let to = target[at % TARGET_BYTES..].as_mut_ptr();
                    // SAFETY: `size` bytes from either on are inside the two vectors, and size divides their lengths.
                    unsafe { way(from, to, size) };
                }
                std::hint::black_box(&mut target);
                rates[row][column].push(total as f64 / began.elapsed().as_secs_f64() / 1e9);
            }
        }
    }
    for ((name, _), columns) in ways.iter().zip(&mut rates) {
        print!("{name:<22}");
        for rates in columns {
            rates.sort_by(f64::total_cmp);
            print!("{:>12.1}", rates[rates.len() / 2]);
        }
        println!();
    }
}

/// # Safety
/// Both ranges are valid, aligned and `bytes` long, a multiple of 8.
unsafe fn volatile_words(from: *const u8, to: *mut u8, bytes: usize) {
    for at in (0..bytes).step_by(8) {
        // SAFETY: inside the ranges by the caller.
        let word = unsafe { from.wrapping_add(at).cast::<u64>().read_volatile() };
        // SAFETY: the same.
        unsafe { to.wrapping_add(at).cast::<u64>().write_volatile(word) };
    }
}

/// # Safety
/// Both ranges are valid and `bytes` long.
unsafe fn plain(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: by the caller; they do not overlap.
    unsafe { from.copy_to_nonoverlapping(to, bytes) };
}

/// # Safety
/// Both ranges are valid and `bytes` long.
#[cfg(target_arch = "x86_64")]
unsafe fn string_move(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: by the caller.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") bytes => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// Both ranges are valid, and `bytes` long, a multiple of 64; `to` is 16-aligned.
#[cfg(target_arch = "x86_64")]
unsafe fn non_temporal(from: *const u8, to: *mut u8, bytes: usize) {
    use core::arch::x86_64::{_mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    for at in (0..bytes).step_by(16) {
        // SAFETY: inside the range by the caller.
        let word = unsafe { _mm_loadu_si128(from.wrapping_add(at).cast()) };
        // SAFETY: the same, and aligned.
        unsafe { _mm_stream_si128(to.wrapping_add(at).cast(), word) };
    }
    // SAFETY: every x86-64 has it.
    unsafe { _mm_sfence() };
}

#[cfg(not(target_arch = "x86_64"))]
use {plain as non_temporal, plain as string_move};
