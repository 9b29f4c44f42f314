//! Short frames: how the bytes of a frame lie in one slot, or in two.
//!
//! ```text
//!   slot n    0..56 of the frame (48 with a stamp) │ 4 bytes in the last word
//!   slot n+1  the next 56                          │ 4 bytes in the last word
//! ```

use super::Geometry;
use super::event::{BODY_BYTES, STAMP, TAIL_BYTES, split};
use shm::{Memory, Window, WindowError};

/// Cuts a frame into its four pieces.
#[inline(always)]
fn pieces(frame: &[u8], stamps: bool) -> ([&[u8]; 2], [u32; 2]) {
    let (first, rest) = frame.split_at_checked(split(stamps)).unwrap_or((frame, &[]));
    let (tail, rest) = rest.split_at_checked(TAIL_BYTES).unwrap_or((rest, &[]));
    let (second, last) = rest.split_at_checked(BODY_BYTES).unwrap_or((rest, &[]));
    ([first, second], [word(tail), word(last)])
}

/// Up to 4 bytes as a little-endian word, padded with zeros.
#[inline(always)]
fn word(bytes: &[u8]) -> u32 {
    match bytes.first_chunk::<4>() {
        Some(&whole) => u32::from_le_bytes(whole),
        None => bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte)),
    }
}

/// What the last word of its line holds of a frame that fits one without a time.
#[inline(always)]
pub(crate) fn tail(frame: &[u8]) -> u32 {
    frame.get(BODY_BYTES..).map_or(0, word)
}

/// Stores such a frame into the line at `at`, all but the last word.
#[inline(always)]
pub(crate) fn store_line(window: &impl Window, at: usize, frame: &[u8]) -> Result<(), WindowError> {
    // A whole first part has a length that the compiler knows.
    match frame.first_chunk::<BODY_BYTES>() {
        Some(whole) => window.write(at, whole),
        None => window.write(at, frame),
    }
}

/// What the last words of its slots hold of a frame.
#[inline(always)]
pub(crate) fn tails(frame: &[u8], stamps: bool) -> [u32; 2] {
    pieces(frame, stamps).1
}

/// The first line of a short frame, all but its last word, padded with zeros.
pub(crate) fn first(frame: &[u8], stamps: bool, stamp: u64, line: &mut [u8; BODY_BYTES]) {
    let ([first, _], _) = pieces(frame, stamps);
    *line = [0; BODY_BYTES];
    line.iter_mut().zip(first).for_each(|(to, &from)| *to = from);
    if stamps {
        line.iter_mut().skip(STAMP).zip(stamp.to_le_bytes()).for_each(|(to, from)| *to = from);
    }
}

/// What the second line of a short frame holds of it, all but its last word.
pub(crate) fn second(frame: &[u8], stamps: bool) -> &[u8] {
    pieces(frame, stamps).0[1]
}

/// Stores a frame of at most [`Geometry::short_most`] bytes into the `n`th slot and perhaps the one after, all but
/// the last words. The first slot comes last, so that its last word can follow at once: a line that is written in two
/// steps is fetched by a receiver that polls it in between, and travels twice.
#[inline(always)]
pub(crate) fn store(
    window: &impl Window,
    geometry: &Geometry,
    n: u64,
    frame: &[u8],
) -> Result<(), WindowError> {
    let ([first, second], _) = pieces(frame, geometry.stamps);
    if !second.is_empty() {
        window.write(geometry.slot_at(n + 1), second)?;
    }
    // A whole first part has a length that the compiler knows.
    match first.first_chunk::<BODY_BYTES>() {
        Some(whole) => window.write(geometry.slot_at(n), whole),
        None => window.write(geometry.slot_at(n), first),
    }
}

/// Copies bytes of a short frame out, from its byte `at` on. The caller has checked that they are in the frame.
#[inline(always)]
pub(crate) fn load(
    memory: &impl Memory,
    geometry: &Geometry,
    n: u64,
    tails: [u32; 2],
    at: usize,
    out: &mut [u8],
) -> Result<(), WindowError> {
    let first = split(geometry.stamps);
    if at + out.len() <= first {
        return memory.read(geometry.slot_at(n) + at, out);
    }
    if at == 0
        && first == BODY_BYTES
        && let Some((whole, rest)) = out.split_first_chunk_mut::<BODY_BYTES>()
    {
        memory.read(geometry.slot_at(n), whole)?;
        let Some((tail, rest)) = rest.split_first_chunk_mut() else {
            copy(tails[0], rest);
            return Ok(());
        };
        // One store: bytes that are stored one by one cannot be loaded again as a word at once.
        *tail = tails[0].to_le_bytes();
        if rest.is_empty() {
            return Ok(());
        }
        let (second, last) = rest.split_at_mut(rest.len().min(BODY_BYTES));
        copy(tails[1], last);
        return memory.read(geometry.slot_at(n + 1), second);
    }
    load_pieces(memory, geometry, n, tails, at, out)
}

/// As many bytes of a word as there is room for.
#[inline(always)]
fn copy(word: u32, out: &mut [u8]) {
    out.iter_mut().zip(word.to_le_bytes()).for_each(|(to, from)| *to = from);
}

/// The same, of bytes that lie in more than one piece.
fn load_pieces(
    memory: &impl Memory,
    geometry: &Geometry,
    n: u64,
    tails: [u32; 2],
    at: usize,
    out: &mut [u8],
) -> Result<(), WindowError> {
    let first = split(geometry.stamps);
    let ends = [first, first + TAIL_BYTES, first + TAIL_BYTES + BODY_BYTES, usize::MAX];
    let (mut begin, mut at, mut left) = (0, at, out);
    for (piece, end) in ends.into_iter().enumerate() {
        if at < end && !left.is_empty() {
            let count = (end - at).min(left.len());
            let Some((now, later)) = left.split_at_mut_checked(count) else { return Ok(()) };
            match piece {
                0 => memory.read(geometry.slot_at(n) + at, now)?,
                2 => memory.read(geometry.slot_at(n + 1) + (at - begin), now)?,
                _ => {
                    let tail = if piece == 1 { tails[0] } else { tails[1] };
                    let bytes = tail.to_le_bytes().into_iter().skip(at - begin);
                    now.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
                }
            }
            at += count;
            left = later;
        }
        begin = end;
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shm::Heap;

    proptest! {
        #[test]
        fn every_part_of_a_short_frame_is_what_it_was(frame in proptest::collection::vec(any::<u8>(), 0..=120),
            at in 0_usize..=120, len in 0_usize..=120, stamps: bool, n in 0_u64..8) {
            let geometry = Geometry { slots: 4, stamps, ..Geometry::default() };
            let frame = &frame[..frame.len().min(geometry.short_most())];
            let memory = Heap::new(4096);
            store(&memory, &geometry, n, frame).unwrap();
            let tails = tails(frame, stamps);
            let at = at.min(frame.len());
            let len = len.min(frame.len() - at);
            let mut out = vec![0xEE; len];
            load(&memory, &geometry, n, tails, at, &mut out).unwrap();
            prop_assert_eq!(&out, &frame[at..at + len]);
        }
    }
}
