//! Every row and element of the register tables against the model: value after reset, what each bit does, which
//! widths are legal, and that an access that hits nothing changes nothing.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use crate::common::{capabilities, legal as legal_accesses};
    use ntb_spec::bar0::Reg;
    use ntb_spec::table::Access;
    use ntb_spec::{bar0, config};
    use std::collections::BTreeSet;
    use std::time::Duration;
    use twin::{Effect, LinkState, Setup, Side, Time, Twin, WindowSize};

    const NOW: Time = Time(Duration::ZERO);
    /// Memory decode and bus master.
    const ON: [u8; 2] = [0x06, 0];

    /// What drivers rely on, typed from their sources and not from the table:
    /// offset, width, elements, value after reset, the bits that a write of ones and zeros moves.
    #[rustfmt::skip] // a table reads by columns
    const CONTRACT: &[(u32, u8, u8, u64, u64)] = &[
        (0x0000, 4,  1, 0x3,                   0xF3FF),
        (0x0010, 8,  1, 0,                     !0xFFF),
        (0x0018, 8,  1, 0,                     !0),
        (0x0020, 8,  1, 0,                     !0xFFF),
        (0x0028, 8,  1, 0,                     !0),
        (0x0040, 8,  1, 0,                     0), // clears, never sets
        (0x0048, 8,  1, 0x1_FFFF_FFFF,         0x1_FFFF_FFFF),
        (0x0070, 2,  1, 0,                     0),
        (0x0080, 4, 16, 0,                     0xFFFF_FFFF),
        (0x00D0, 1, 33, 0,                     0xFF), // reset: see below
        (0x0100, 4, 32, 0,                     0),
        (0x0180, 4, 16, 0xFFFF_FFFF,           0), // the link is down
        (0x4008, 8,  1, 0,                     !0xFFF),
        (0x4010, 8,  1, 0x2000_0000_0000_0000, !0xFFF),
        (0x4018, 8,  1, 0,                     !0),
        (0x4020, 8,  1, 0x4000_0000_0000_0000, !0xFFF),
        (0x4028, 8,  1, 0,                     !0),
        (0x4040, 8,  1, 0,                     0),
        (0x4048, 8,  1, 0x1_FFFF_FFFF,         0x1_FFFF_FFFF),
        (0x4080, 4, 16, 0,                     0xFFFF_FFFF),
        (0x4100, 8,  1, 0,                     0),
        (0x4504, 2,  1, 0,                     0x0547),
        (0x4510, 8,  1, 0xC,                   !0xFFF),
        (0x4518, 8,  1, 0x2000_0000_0000_000C, !0xFFF),
        (0x4520, 8,  1, 0x4000_0000_0000_000C, !0xFFF),
    ];

    /// Two hosts attached, memory decode on, link down.
    fn attached() -> Twin {
        let mut twin = Twin::new(&Setup { training: Duration::ZERO, ..Setup::default() });
        let mut effects = Vec::new();
        for side in Side::BOTH {
            twin.attach(NOW, side, &mut effects);
            twin.config_write(NOW, side, config::COMMAND, &ON, &mut effects);
        }
        twin
    }

    /// The same with the link up.
    fn linked() -> Twin {
        let mut twin = attached();
        for side in Side::BOTH {
            write(&mut twin, side, 0x0000, 4, 0x154);
        }
        twin.advance(NOW, &mut Vec::new());
        assert_eq!(twin.link(), LinkState::Up);
        twin
    }

    /// Reads; `None` if the access missed, and then every byte is 0xFF.
    fn read(twin: &mut Twin, side: Side, offset: u32, bytes: usize) -> Option<u64> {
        let mut out = [0x5A; 16];
        let hit = twin.bar0_read(side, offset, &mut out[..bytes]);
        assert!(hit || out[..bytes].iter().all(|&byte| byte == 0xFF), "{offset:#x}: a miss reads all ones");
        assert!(out[bytes..].iter().all(|&byte| byte == 0x5A));
        hit.then(|| out[..bytes].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn write(twin: &mut Twin, side: Side, offset: u32, bytes: usize, value: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        assert!(twin.bar0_write(NOW, side, offset, &value.to_le_bytes()[..bytes], &mut effects));
        effects
    }

    fn config_bytes<const N: usize>(twin: &mut Twin, side: Side, offset: u32) -> [u8; N] {
        let mut out = [0; N];
        twin.config_read(side, offset, &mut out);
        out
    }

    /// Everything that a host could see, both sides.
    fn snapshot(twin: &Twin) -> Vec<(Side, u32, u8, u64)> {
        Side::BOTH
            .into_iter()
            .flat_map(|side| twin.registers(side).map(move |reg| (side, reg.offset, reg.bytes, reg.value)))
            .collect()
    }

    /// All elements of the contract: offset, width, value after reset, changeable bits.
    fn contract() -> impl Iterator<Item = (u32, u8, u64, u64)> {
        CONTRACT.iter().flat_map(|&(at, bytes, count, reset, mask)| {
            (0..count).map(move |index| {
                let reset = match at {
                    0xD0 => (u64::from(index) + 1) % 33, // doorbell n has vector n + 1, the link 0
                    _ => reset,
                };
                (at + u32::from(bytes) * u32::from(index), bytes, reset, mask)
            })
        })
    }

    /// The accesses that mean a register: its own width, or the halves of a 64-bit one.
    fn legal() -> BTreeSet<(u32, usize)> {
        legal_accesses(contract().map(|(at, bytes, ..)| (at, bytes)))
    }

    #[test]
    fn the_table_has_what_drivers_rely_on_and_nothing_else() {
        let table = bar0::TABLE.iter().flat_map(|row| (0..row.count).map(|n| (row.offset_of(n), row.bytes)));
        assert!(table.eq(contract().map(|(at, bytes, ..)| (at, bytes))));
        for row in bar0::TABLE {
            assert_eq!(bar0::offset_of(row.reg, 0), row.at);
        }
    }

    #[test]
    fn bar0_after_reset_after_ones_after_zeros() {
        let mut twin = attached();
        for side in Side::BOTH {
            for (at, bytes, reset, mask) in contract() {
                let width = usize::from(bytes);
                assert_eq!(read(&mut twin, side, at, width), Some(reset), "{at:#x} after reset");
                write(&mut twin, side, at, width, u64::MAX);
                assert_eq!(read(&mut twin, side, at, width), Some(reset | mask), "{at:#x} after ones");
                write(&mut twin, side, at, width, 0);
                assert_eq!(read(&mut twin, side, at, width), Some(reset & !mask), "{at:#x} after zeros");
                // NTBCNTL = 0 enables the link; keep it down for the others.
                if at == 0 {
                    write(&mut twin, side, at, width, 3);
                }
            }
            let fresh = snapshot(&attached());
            twin.reset(NOW, side, &mut Vec::new());
            twin.config_write(NOW, side, config::COMMAND, &ON, &mut Vec::new());
            let again: Vec<_> = snapshot(&twin).into_iter().filter(|&(whose, ..)| whose == side).collect();
            assert!(
                fresh.iter().filter(|&&(whose, ..)| whose == side).eq(again.iter()),
                "reset undoes it all"
            );
        }
    }

    #[test]
    fn halves_of_a_64_bit_register_are_its_two_dwords() {
        let mut twin = attached();
        for (at, bytes, reset, mask) in contract().filter(|&(_, bytes, ..)| bytes == 8) {
            assert_eq!(read(&mut twin, Side::A, at, 4), Some(reset & 0xFFFF_FFFF), "{at:#x}");
            assert_eq!(read(&mut twin, Side::A, at + 4, 4), Some(reset >> 32), "{at:#x}");
            for (pattern, low, high) in
                [(0x0123_4567_89AB_CDEF, 0x89AB_CDEF, 0x0123_4567), (!0, !0, !0), (0, 0, 0)]
            {
                write(&mut twin, Side::A, at, 4, low);
                write(&mut twin, Side::A, at + 4, 4, high);
                let expected = reset & !mask | pattern & mask;
                assert_eq!(read(&mut twin, Side::A, at, usize::from(bytes)), Some(expected), "{at:#x}");
            }
        }
    }

    #[test]
    fn status_bits_clear_one_by_one_in_either_width() {
        let mut twin = linked();
        let all = 0x1_FFFF_FFFF_u64;
        let status = |twin: &mut Twin| read(twin, Side::B, 0x40, 8).unwrap();
        let ring_all = |twin: &mut Twin| {
            for doorbell in 0..32 {
                write(twin, Side::A, 0x100 + 4 * doorbell, 4, 1);
            }
        };
        ring_all(&mut twin);
        assert_eq!(status(&mut twin), all, "the link came up, and every doorbell was rung");
        write(&mut twin, Side::B, 0x40, 8, 0);
        assert_eq!(status(&mut twin), all, "zeros clear nothing");
        let mut left = all;
        for source in 0..33 {
            write(&mut twin, Side::B, 0x40, 8, 1 << source);
            left &= !(1 << source);
            assert_eq!(status(&mut twin), left);
        }
        ring_all(&mut twin);
        write(&mut twin, Side::B, 0x44, 4, 0xFFFF_FFFF);
        assert_eq!(status(&mut twin), 0xFFFF_FFFF, "the high half holds the link bit alone");
        write(&mut twin, Side::B, 0x40, 4, 0x8000_0001);
        assert_eq!(status(&mut twin), 0x7FFF_FFFE);
    }

    #[test]
    fn a_doorbell_rings_the_peer_and_reads_zero() {
        let mut twin = linked();
        write(&mut twin, Side::B, 0x40, 8, u64::MAX);
        for doorbell in 0..32 {
            let at = 0x100 + 4 * doorbell;
            for nothing in [0, 2, 0xFFFF_FFFE] {
                write(&mut twin, Side::A, at, 4, nothing);
                assert_eq!(read(&mut twin, Side::B, 0x40, 8), Some(0), "bit 0 alone rings");
            }
            write(&mut twin, Side::A, at, 4, 1);
            assert_eq!(read(&mut twin, Side::A, at, 4), Some(0));
            assert_eq!(read(&mut twin, Side::B, 0x40, 8), Some(1 << doorbell));
            assert_eq!(read(&mut twin, Side::A, 0x40, 8), Some(0x1_0000_0000), "never one's own");
            write(&mut twin, Side::B, 0x40, 8, 1 << doorbell);
        }
        assert_eq!(twin.counters(Side::A).doorbells, 32);
    }

    #[test]
    fn the_peers_scratchpads_are_live_both_ways() {
        let mut twin = linked();
        for side in Side::BOTH {
            for index in 0..16 {
                let value = 0xA000_0000 | u64::from(index);
                write(&mut twin, side, 0x180 + 4 * index, 4, value);
                assert_eq!(read(&mut twin, side.peer(), 0x80 + 4 * index, 4), Some(value));
                write(&mut twin, side.peer(), 0x80 + 4 * index, 4, !value);
                assert_eq!(read(&mut twin, side, 0x180 + 4 * index, 4), Some(!value & 0xFFFF_FFFF));
            }
        }
    }

    #[test]
    fn every_offset_of_bar0_in_every_width() {
        let mut twin = linked();
        let before = snapshot(&twin);
        let legal = legal();
        let mut bad = 0;
        for offset in (0..bar0::BYTES + 32).chain(u32::MAX - 32..=u32::MAX) {
            for bytes in 0..=16 {
                let means_one = legal.contains(&(offset, bytes));
                assert_eq!(
                    read(&mut twin, Side::A, offset, bytes).is_some(),
                    means_one,
                    "{offset:#x}/{bytes}"
                );
                if !means_one {
                    let mut effects = Vec::new();
                    assert!(!twin.bar0_write(NOW, Side::A, offset, &[0xFF; 16][..bytes], &mut effects));
                    assert_eq!(effects, []);
                    bad += 2;
                }
            }
            assert_eq!(twin.counters(Side::A).bad_accesses, bad, "{offset:#x}");
        }
        assert_eq!(snapshot(&twin), before);
    }

    #[test]
    fn each_illegal_access_to_a_register_changes_nothing() {
        let mut twin = linked();
        let before = snapshot(&twin);
        let legal = legal();
        for (at, own, ..) in contract() {
            for offset in at.saturating_sub(8)..at + u32::from(own) {
                for bytes in (1..=16).chain([32, 64, 4096]).filter(|&bytes| !legal.contains(&(offset, bytes)))
                {
                    let data = vec![0xFF; bytes];
                    assert!(!twin.bar0_write(NOW, Side::B, offset, &data, &mut Vec::new()));
                }
            }
            assert_eq!(snapshot(&twin), before, "{at:#x}");
        }
    }

    #[test]
    fn without_memory_decode_bar0_is_not_there() {
        let mut twin = linked();
        twin.config_write(NOW, Side::A, config::COMMAND, &[0x04, 0], &mut Vec::new());
        let before = snapshot(&twin);
        let legal = legal();
        for &(at, bytes) in &legal {
            assert_eq!(read(&mut twin, Side::A, at, bytes), None);
            assert!(!twin.bar0_write(NOW, Side::A, at, &[0xFF; 8][..bytes], &mut Vec::new()));
        }
        assert_eq!(snapshot(&twin), before);
        assert_eq!(twin.counters(Side::A).bad_accesses, 2 * u64::try_from(legal.len()).unwrap());
        assert_eq!(twin.link(), LinkState::Up, "the link does not depend on it");
    }

    // --- configuration space --------------------------------------------------------------------------------

    /// Value of an element after reset at a port, from the specifications and `Setup::default()`.
    fn config_reset(side: Side, row: &ntb_spec::table::Row<config::Reg>, index: u8) -> u64 {
        match (row.reg, row.at, index) {
            (config::Reg::Ppd, ..) => [0x01, 0x11][usize::from(side == Side::B)],
            (config::Reg::WindowSizes, ..) => 20,
            (_, 0x009, index) => [0x00, 0x80, 0x06][usize::from(index)],
            (config::Reg::Bars, _, 0 | 2 | 4) => 0xC,
            _ => row.reset,
        }
    }

    #[test]
    fn config_after_reset_after_ones_after_zeros() {
        let mut twin = Twin::new(&Setup::default());
        let read = |twin: &mut Twin, side, at, bytes: u8| {
            let mut out = [0; 8];
            twin.config_read(side, at, &mut out[..usize::from(bytes)]);
            u64::from_le_bytes(out)
        };
        for side in Side::BOTH {
            for row in config::TABLE {
                for index in 0..row.count {
                    let (at, name) = (row.offset_of(index), row.name);
                    let reset = config_reset(side, row, index);
                    assert_eq!(read(&mut twin, side, at, row.bytes), reset, "{name} after reset");
                    let mask = match (row.access, row.reg, index) {
                        (Access::ReadWrite, config::Reg::Bars, 0) => 0xFFFF_0000,
                        (Access::ReadWrite, config::Reg::Bars, 2 | 4) => 0xFFF0_0000,
                        (Access::ReadWrite, config::Reg::DeviceControl, _) => 0x7FFF,
                        (Access::ReadWrite, ..) => row.mask,
                        _ => 0,
                    };
                    let flr =
                        u64::from(config::DEVICE_CONTROL_FLR) * u64::from(row.at == config::DEVICE_CONTROL);
                    for (pattern, expected) in [(!flr, reset & !mask | mask), (0, reset & !mask)] {
                        let data = &pattern.to_le_bytes()[..usize::from(row.bytes)];
                        twin.config_write(NOW, side, at, data, &mut Vec::new());
                        assert_eq!(read(&mut twin, side, at, row.bytes), expected, "{name}[{index}]");
                    }
                }
            }
            let mut effects = Vec::new();
            twin.config_write(NOW, side, config::DEVICE_CONTROL + 1, &[0x80], &mut effects);
            assert_eq!(effects[0], Effect::Reset { side });
            for row in config::TABLE {
                for index in 0..row.count {
                    let now = read(&mut twin, side, row.offset_of(index), row.bytes);
                    assert_eq!(now, config_reset(side, row, index), "{} after FLR", row.name);
                }
            }
        }
    }

    #[test]
    fn a_bar_tells_its_size_as_a_host_asks_for_it() {
        for (text, low) in [("64K", 0xFFFF_000C_u32), ("4M", 0xFFC0_000C), ("512M", 0xE000_000C)] {
            let size: WindowSize = text.parse().unwrap();
            let mut twin = Twin::new(&Setup { windows: [WindowSize::DEFAULT, size], ..Setup::default() });
            for bar in 0..6 {
                twin.config_write(NOW, Side::A, 0x10 + 4 * bar, &[0xFF; 4], &mut Vec::new());
            }
            let bars: [u8; 24] = config_bytes(&mut twin, Side::A, 0x10);
            let dwords: Vec<u32> =
                bars.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect();
            assert_eq!(dwords, [0xFFFF_000C, !0, 0xFFF0_000C, !0, low, !0]);
            assert_eq!(config_bytes(&mut twin, Side::A, 0xD0), [20, size.log2(), 20, size.log2()]);
        }
    }

    #[test]
    fn capabilities_chain_as_pci_wants_them() {
        let mut twin = Twin::new(&Setup::default());
        let whole: [u8; 4096] = config_bytes(&mut twin, Side::A, 0);
        let word = |at: usize| u16::from_le_bytes([whole[at], whole[at + 1]]);
        let dword = |at: usize| u32::from(word(at)) | u32::from(word(at + 2)) << 16;
        assert_eq!((word(0), word(2), word(6) & 0x10), (0x8086, 0x201C, 0x10));
        assert_eq!((whole[0x09], whole[0x0A], whole[0x0B], whole[0x0E]), (0, 0x80, 0x06, 0));
        let (found, extended) = capabilities(&whole);
        assert_eq!(found, [(0x11, 0x80), (0x10, 0x90), (0x01, 0xE0)], "MSI-X, PCI Express, power management");
        assert_eq!(
            (word(0x82) & 0x7FF, dword(0x84), dword(0x88)),
            (32, 0x2000, 0x3000),
            "33 vectors in BAR 0"
        );
        assert_eq!(extended, [(0x000B, 0x100), (0x0001, 0x148)], "vendor-specific, AER");
        assert_eq!(word(0x1A2), 0x0103);
    }

    #[test]
    fn config_reads_of_any_width_agree_with_the_whole() {
        let mut twin = Twin::new(&Setup::default());
        let whole: [u8; 4096] = config_bytes(&mut twin, Side::B, 0);
        let byte = |at: u32| usize::try_from(at).ok().and_then(|at| whole.get(at)).copied().unwrap_or(0xFF);
        let mut behind = 0;
        for offset in (0..4096 + 16).chain([0x1_0000, 0x7FFF_FFFF, u32::MAX - 4, u32::MAX]) {
            for bytes in 0..=8_u32 {
                let mut out = [0; 8];
                let out = &mut out[..usize::try_from(bytes).unwrap()];
                twin.config_read(Side::B, offset, out);
                for (at, &got) in (0..bytes).map(|n| offset.checked_add(n)).zip(out.iter()) {
                    assert_eq!(got, at.map_or(0xFF, byte), "{offset:#x}/{bytes}");
                }
                behind += u64::from(u64::from(offset) + u64::from(bytes) > 4096 && bytes > 0);
                assert_eq!(twin.counters(Side::B).bad_accesses, behind, "{offset:#x}/{bytes}");
            }
        }
    }

    #[test]
    fn config_writes_of_any_width_are_their_bytes() {
        for (bytes, pattern) in (1..=8).flat_map(|bytes| [(bytes, 0x7F), (bytes, 0x25), (bytes, 0x5A)]) {
            let [mut wide, mut narrow] = [0; 2].map(|_| Twin::new(&Setup::default()));
            for offset in (0..4096 + 8).step_by(3).chain([u32::MAX - 3, u32::MAX]) {
                let data = [pattern; 8];
                wide.config_write(NOW, Side::A, offset, &data[..bytes], &mut Vec::new());
                for at in (0..8).take(bytes).filter_map(|n| offset.checked_add(n)) {
                    narrow.config_write(NOW, Side::A, at, &data[..1], &mut Vec::new());
                }
            }
            assert_eq!(snapshot(&wide), snapshot(&narrow), "{bytes} bytes");
            let both = [&mut wide, &mut narrow].map(|twin| config_bytes::<4096>(twin, Side::A, 0));
            assert_eq!(both[0], both[1]);
        }
    }

    #[test]
    fn the_whole_of_config_in_one_write() {
        let mut twin = linked();
        let mut effects = Vec::new();
        twin.config_write(NOW, Side::A, 0, &[0x7F; 5000], &mut effects);
        assert_eq!(effects, [], "bus master was on before");
        twin.config_write(NOW, Side::A, 0, &[0xFF; 5000], &mut effects);
        assert_eq!(effects[0], Effect::Reset { side: Side::A });
        assert_eq!(
            config_bytes(&mut twin, Side::A, 0),
            config_bytes::<4096>(&mut attached_cold(), Side::A, 0)
        );
        assert_eq!(twin.counters(Side::A).bad_accesses, 2);
    }

    fn attached_cold() -> Twin {
        Twin::new(&Setup::default())
    }

    #[test]
    fn no_register_is_left_out_of_the_list() {
        let twin = attached();
        let listed = twin.registers(Side::A).count();
        let config: usize = config::TABLE.iter().map(|row| usize::from(row.count)).sum();
        let bar0: usize =
            bar0::TABLE.iter().filter(|row| row.reg != Reg::PeerSpad).map(|row| usize::from(row.count)).sum();
        assert_eq!(listed, config + bar0);
    }
}
