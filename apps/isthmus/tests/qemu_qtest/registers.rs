//! BAR 0: widths, places where nothing is, storage.

use crate::bench::Pair;
use crate::qemu::there_is_a_qemu;
use control::PortName;
use ntb_spec::bar0::{Reg, offset_of};

#[test]
fn qemu_reads_and_writes_registers_in_their_widths_only() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::start(&[]);
    for host in [&mut pair.a, &mut pair.b] {
        host.assign_bars();
        // 4 bytes
        let pad = offset_of(Reg::Spad, 5);
        host.write_at(pad, 4, 0x1234_5678);
        assert_eq!(host.read_at(pad, 4), 0x1234_5678);
        // 8 bytes, and the same as two halves
        let limit = offset_of(Reg::ImBar1Xlmt, 0);
        host.write_at(limit, 8, 0x0123_4567_89AB_CDEF);
        assert_eq!(host.read_at(limit, 8), 0x0123_4567_89AB_CDEF);
        assert_eq!(host.read_at(limit, 4), 0x89AB_CDEF);
        host.write_at(limit + 4, 4, 0x7654_3210);
        assert_eq!(host.read_at(limit, 8), 0x7654_3210_89AB_CDEF);
        // 2 bytes
        let command = offset_of(Reg::SpciCmd, 0);
        host.write_at(command, 2, 0x0006);
        assert_eq!(host.read_at(command, 2), 0x0006);
        // 1 byte: after reset doorbell n has vector n + 1, and the link 0
        assert_eq!(host.read_at(offset_of(Reg::IntVec, 7), 1), 8);
        assert_eq!(host.read_at(offset_of(Reg::IntVec, 32), 1), 0);
        host.write_at(offset_of(Reg::IntVec, 32), 1, 31);
        assert_eq!(host.read_at(offset_of(Reg::IntVec, 32), 1), 31);
        // pages: the low bits of a translation do not exist
        let base = offset_of(Reg::ImBar1Xbase, 0);
        host.write_at(base, 8, 0x1234_5FFF);
        assert_eq!(host.read_at(base, 8), 0x1234_5000);
        // the external bases that drivers add their sizes to
        assert_eq!(host.read_at(offset_of(Reg::EmBar2, 0), 8), 0x4000_0000_0000_000C);
    }
    let bad_before = pair.twin.port(PortName::A).bad_accesses;
    let host = &mut pair.a;
    let wrong = [
        (0x0080, 1),
        (0x0080, 2),
        (0x0080, 8),
        (0x0010, 1),
        (0x0010, 2),
        (0x00D0, 2),
        (0x00D0, 4),
        (0x0001, 1),
    ];
    let nothing = [
        (0x0058, 8),
        (0x0060, 4),
        (0x0200, 4),
        (0x1000, 1),
        (0x3FF8, 8),
        (0x4530, 2),
        (0xFFF8, 8),
        (0xFFFF, 1),
    ];
    for (offset, bytes) in wrong.into_iter().chain(nothing) {
        let all_ones = u64::MAX >> (64 - 8 * bytes);
        assert_eq!(host.read_at(offset, bytes), all_ones, "{bytes} bytes at {offset:#x}");
        host.write_at(offset, bytes, 0);
    }
    assert_eq!(host.read_at(0x0094, 4), 0x1234_5678, "a write that means nothing changes nothing");
    let bad = pair.twin.port(PortName::A).bad_accesses - bad_before;
    assert_eq!(bad, 2 * 16, "each of them is counted");
    assert_eq!(pair.twin.port(PortName::B).bad_accesses, 0);
    assert_eq!(pair.twin.port(PortName::A).refused_messages, 0);
    pair.finish();
}

#[test]
fn qemu_carries_scratchpads_both_ways() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::up(&[]);
    let Pair { a, b, .. } = &mut pair;
    for pad in 0..16 {
        a.write(Reg::PeerSpad, pad, 0xA000_0000 + u64::from(pad));
        b.write(Reg::PeerSpad, pad, 0xB000_0000 + u64::from(pad));
    }
    a.flush();
    b.flush();
    for pad in 0..16 {
        let (from_a, from_b) = (0xA000_0000 + u64::from(pad), 0xB000_0000 + u64::from(pad));
        assert_eq!(b.read(Reg::Spad, pad), from_a, "what a wrote is b's own");
        assert_eq!(a.read(Reg::PeerSpad, pad), from_a, "and a sees it there");
        assert_eq!(a.read(Reg::Spad, pad), from_b);
        assert_eq!(b.read(Reg::PeerSpad, pad), from_b);
    }
    // The array at 0x180 is live: it shows what the owner does with its own.
    b.write(Reg::Spad, 3, 0xFFFF_FFFF);
    b.flush();
    assert_eq!(a.read(Reg::PeerSpad, 3), 0xFFFF_FFFF);
    // Down, the peer's are out of reach and one's own stay.
    a.disable_link();
    a.wait_for_link(false);
    a.write(Reg::PeerSpad, 4, 0xDEAD);
    a.flush();
    assert_eq!(a.read(Reg::PeerSpad, 4), 0xFFFF_FFFF);
    assert_eq!(a.read(Reg::Spad, 4), 0xB000_0004);
    assert_eq!(b.read(Reg::Spad, 4), 0xA000_0004);
    pair.finish();
}
