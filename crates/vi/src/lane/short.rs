//! Short frames: how the bytes of a frame lie in one slot, or in two.
//!
//! ```text
//!   slot n          0..56 of the frame (48 with a stamp) │ 4 bytes in the last word
//!   slot n+1        the next 56                          │ 4 bytes in the last word
//!   .. or, where no more than 4 bytes are left:          │ these
//! ```

use super::Geometry;
use super::event::{BODY_BYTES, LINE_FRAME, TAIL_BYTES, split};
use crate::bits::low32;
use shm::{Lines, Memory, WindowError};

/// The longest short frame that lies in one piece: the time stands between the first bytes of a line and those in its last word.
pub(crate) fn piece(stamps: bool) -> usize {
    if stamps { split(stamps) } else { LINE_FRAME }
}

/// Where the bytes of a received short frame are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lies {
    /// Its first slot.
    pub(crate) n: u64,
    pub(crate) len: usize,
    /// What was in last words: of its first line, and of its rest.
    pub(crate) tails: u64,
    /// Whether all else is in its first line: see [`Body::straight`](super::body::Body::straight).
    pub(crate) straight: bool,
}

/// Cuts a frame into its four pieces. A rest that its line's last word can hold is nowhere else.
#[inline(always)]
fn pieces(frame: &[u8], stamps: bool) -> ([&[u8]; 2], [u32; 2]) {
    let (first, rest) = frame.split_at_checked(split(stamps)).unwrap_or((frame, &[]));
    let (tail, rest) = rest.split_at_checked(TAIL_BYTES).unwrap_or((rest, &[]));
    let (second, last) = rest.split_at(second_bytes(rest.len()));
    ([first, second], [word(tail), word(last)])
}

/// How much of a rest of so many bytes is not in its line's last word.
#[inline(always)]
fn second_bytes(rest: usize) -> usize {
    if rest <= TAIL_BYTES { 0 } else { rest.min(BODY_BYTES) }
}

/// Up to 4 bytes as a little-endian word, padded with zeros.
#[inline(always)]
pub(crate) fn word(bytes: &[u8]) -> u32 {
    match bytes.first_chunk::<4>() {
        Some(&whole) => u32::from_le_bytes(whole),
        None => bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte)),
    }
}

/// What the last words of its slots hold of a frame.
#[inline(always)]
pub(crate) fn tails(frame: &[u8], stamps: bool) -> [u32; 2] {
    pieces(frame, stamps).1
}

/// What the first line of a short frame holds of it, all but its last word.
pub(crate) fn first(frame: &[u8], stamps: bool) -> &[u8] {
    pieces(frame, stamps).0[0]
}

/// What the second line of a short frame holds of it, all but its last word.
pub(crate) fn second(frame: &[u8], stamps: bool) -> &[u8] {
    pieces(frame, stamps).0[1]
}

/// Copies bytes of a short frame out, from its byte `at` on. The caller has checked that they are in the frame.
#[inline(always)]
pub(crate) fn load(
    slots: &Lines<impl Memory>,
    geometry: &Geometry,
    lies: Lies,
    at: usize,
    out: &mut [u8],
) -> Result<(), WindowError> {
    if lies.straight
        && at == 0
        && let Some((whole, rest)) = out.split_first_chunk_mut::<BODY_BYTES>()
    {
        slots.read(lies.n, whole)?;
        // One store: bytes that are stored one by one cannot be loaded again as a word at once.
        if let Ok(tail) = <&mut [u8; 4]>::try_from(&mut *rest) {
            *tail = low32(lies.tails).to_le_bytes();
        } else if let Ok(tails) = <&mut [u8; 8]>::try_from(&mut *rest) {
            *tails = lies.tails.to_le_bytes();
        } else {
            rest.iter_mut().zip(lies.tails.to_le_bytes()).for_each(|(to, byte)| *to = byte);
        }
        return Ok(());
    }
    if at == 0 && out.len() < split(geometry.stamps) {
        return slots.read_part(lies.n, out);
    }
    if at + out.len() <= split(geometry.stamps) {
        return slots.window().read(geometry.slot_at(lies.n) + at, out);
    }
    load_pieces(slots.window(), geometry, lies.n, lies.len, lies.tails, at, out)
}

/// The same, of bytes that lie in more than one piece. What says where they lie comes in registers: the usual way, which ends
/// before this one, would put it into memory first.
#[inline(never)]
fn load_pieces(
    memory: &impl Memory,
    geometry: &Geometry,
    n: u64,
    len: usize,
    tails: u64,
    at: usize,
    out: &mut [u8],
) -> Result<(), WindowError> {
    let first = split(geometry.stamps);
    let one = first + TAIL_BYTES;
    let ends = [first, one, one + second_bytes(len.saturating_sub(one)), usize::MAX];
    let (mut begin, mut at, mut left) = (0, at, out);
    for (piece, end) in ends.into_iter().enumerate() {
        if at < end && !left.is_empty() {
            let count = (end - at).min(left.len());
            let Some((now, later)) = left.split_at_mut_checked(count) else { return Ok(()) };
            match piece {
                0 => memory.read(geometry.slot_at(n) + at, now)?,
                2 => memory.read(geometry.slot_at(n + 1) + (at - begin), now)?,
                _ => {
                    let tail = if piece == 1 { low32(tails) } else { low32(tails >> 32) };
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
    use shm::{Heap, Window};

    proptest! {
        #[test]
        fn every_part_of_a_short_frame_is_what_it_was(frame in proptest::collection::vec(any::<u8>(), 0..=120),
            at in 0_usize..=120, len in 0_usize..=120, stamps: bool, n in 0_u64..8) {
            let geometry = Geometry { slots: 4, stamps, ..Geometry::default() };
            let frame = &frame[..frame.len().min(geometry.short_most())];
            let memory = Heap::new(4096);
            memory.write(geometry.slot_at(n), first(frame, stamps)).unwrap();
            memory.write(geometry.slot_at(n + 1), second(frame, stamps)).unwrap();
            let [tail, rest] = tails(frame, stamps);
            let straight = !stamps && frame.len() <= LINE_FRAME + TAIL_BYTES;
            let lies = Lies { n, len: frame.len(), tails: u64::from(rest) << 32 | u64::from(tail), straight };
            let at = at.min(frame.len());
            let len = len.min(frame.len() - at);
            let mut out = vec![0xEE; len];
            let slots = Lines::new(memory, 4).unwrap();
            load(&slots, &geometry, lies, at, &mut out).unwrap();
            prop_assert_eq!(&out, &frame[at..at + len]);
        }
    }
}
