//! What the table tests of both devices need.

use std::collections::BTreeSet;

/// The accesses that mean registers: each one's own width, or the halves of a 64-bit one.
pub(crate) fn legal(registers: impl Iterator<Item = (u32, u8)>) -> BTreeSet<(u32, usize)> {
    registers
        .flat_map(|(at, bytes)| {
            let halves = if bytes == 8 { &[(0, 4), (4, 4)][..] } else { &[] };
            [(at, usize::from(bytes))]
                .into_iter()
                .chain(halves.iter().map(move |&(by, width)| (at + by, width)))
        })
        .collect()
}

/// A capability's number, and where it lies.
pub(crate) type Found = Vec<(u32, usize)>;

/// The capabilities of a configuration space and the extended ones, as a host walks them.
pub(crate) fn capabilities(whole: &[u8; 4096]) -> (Found, Found) {
    let dword = |at: usize| u32::from_le_bytes(whole[at..at + 4].try_into().unwrap());
    let mut plain = Vec::new();
    let mut at = usize::from(whole[0x34]);
    while at != 0 {
        plain.push((u32::from(whole[at]), at));
        at = usize::from(whole[at + 1]);
    }
    let mut extended = Vec::new();
    let mut at = 0x100;
    while at != 0 {
        extended.push((dword(at) & 0xFFFF, at));
        at = usize::try_from(dword(at) >> 20).unwrap();
    }
    (plain, extended)
}
