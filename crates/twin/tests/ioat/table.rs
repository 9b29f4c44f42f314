//! Every row of the register tables against the engine: value after reset, what each bit does, which widths are legal,
//! and that an access that hits nothing changes nothing.

use crate::common::{capabilities, legal};
use crate::host::{Host, block};
use ntb_spec::function::Reg;
use ntb_spec::ioat::{CHANNEL, GLOBAL, Place, config, lookup};
use ntb_spec::table::Access;
use twin::Space;
use twin::ioat::{Effect, Engine};

/// What drivers rely on, typed from their sources and not from the table: offset, width, value after reset, the bits
/// that a write of ones and zeros moves.
const GLOBAL_CONTRACT: &[(u32, u8, u64, u64)] = &[
    (0x00, 1, 4, 0),
    (0x01, 1, 20, 0),
    (0x02, 1, 0, 0),
    (0x03, 1, 0, 0x09),
    (0x04, 4, 0, 0),
    (0x08, 1, 0x32, 0),
    (0x0A, 2, 0, 0),
    (0x0C, 2, 0, 0x3FFF),
    (0x0E, 2, 0, 0),
    (0x10, 4, 0, 0),
    (0x14, 2, 0, 0),
];

/// The same of a channel's block.
const CHANNEL_CONTRACT: &[(u32, u8, u64, u64)] = &[
    (0x00, 2, 0, 0xF33C), // bit 0 is the interrupt's
    (0x02, 2, 2, 0),
    (0x04, 1, 0, 0), // orders
    (0x06, 2, 0, 0xFFFF),
    (0x08, 8, 3, 0),
    (0x10, 8, 0, !0),
    (0x18, 8, 0, !7),
    (0x20, 8, 0, 0),
    (0x28, 4, 0, 0), // clears, never sets
    (0x2C, 4, 0, 0x0FFF_FFFF),
    (0x30, 4, 0, 0xFFFF_FFFF),
];

fn contract() -> impl Iterator<Item = (u32, u8, u64, u64)> {
    let channels = (0..4).flat_map(|channel| {
        CHANNEL_CONTRACT
            .iter()
            .map(move |&(at, bytes, reset, mask)| (block(channel) + at, bytes, reset, mask))
    });
    GLOBAL_CONTRACT.iter().copied().chain(channels)
}

fn engine() -> Engine {
    let mut engine = Engine::new();
    engine.config_write(config::COMMAND, &[0x06], &mut Vec::new());
    engine
}

/// Reads; `None` if the access missed, and then every byte is 0xFF.
fn read(engine: &mut Engine, offset: u32, bytes: usize) -> Option<u64> {
    let mut out = [0x5A; 16];
    let hit = engine.bar0_read(offset, &mut out[..bytes]);
    assert!(hit || out[..bytes].iter().all(|&byte| byte == 0xFF), "{offset:#x}: a miss reads all ones");
    assert!(out[bytes..].iter().all(|&byte| byte == 0x5A));
    hit.then(|| out[..bytes].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

fn write(engine: &mut Engine, offset: u32, bytes: usize, value: u64) -> Vec<Effect> {
    let mut effects = Vec::new();
    assert!(engine.bar0_write(offset, &value.to_le_bytes()[..bytes], &mut effects));
    effects
}

/// Everything that a host could see.
fn snapshot(engine: &Engine) -> Vec<(Space, u32, u8, u64)> {
    engine.registers().map(|reg| (reg.space, reg.offset, reg.bytes, reg.value)).collect()
}

fn config_bytes<const N: usize>(engine: &mut Engine, offset: u32) -> [u8; N] {
    let mut out = [0; N];
    engine.config_read(offset, &mut out);
    out
}

#[test]
fn the_tables_have_what_drivers_rely_on_and_nothing_else() {
    let global = GLOBAL.iter().map(|row| (row.at, row.bytes));
    assert!(global.eq(GLOBAL_CONTRACT.iter().map(|&(at, bytes, ..)| (at, bytes))));
    let channel = CHANNEL.iter().map(|row| (row.at, row.bytes));
    assert!(channel.eq(CHANNEL_CONTRACT.iter().map(|&(at, bytes, ..)| (at, bytes))));
    for channel in 0..4 {
        let place = lookup(block(channel) + 0x08, 8);
        assert!(matches!(place, Ok(Place::Channel(found, _)) if found == channel));
    }
}

#[test]
fn bar0_after_reset_after_ones_after_zeros() {
    let mut engine = engine();
    for (at, bytes, reset, mask) in contract() {
        let width = usize::from(bytes);
        assert_eq!(read(&mut engine, at, width), Some(reset), "{at:#x} after reset");
        // An order among the ones resets the channel again.
        write(&mut engine, at, width, u64::MAX);
        assert_eq!(read(&mut engine, at, width), Some(reset | mask), "{at:#x} after ones");
        write(&mut engine, at, width, 0);
        assert_eq!(read(&mut engine, at, width), Some(reset & !mask), "{at:#x} after zeros");
        let mut fresh = self::engine();
        std::mem::swap(&mut engine, &mut fresh);
        write(&mut fresh, at, width, u64::MAX);
        fresh.reset();
        assert_eq!(snapshot(&fresh), snapshot(&Engine::new()), "{at:#x}: reset undoes it");
    }
}

#[test]
fn halves_of_a_64_bit_register_are_its_two_dwords() {
    for (at, _, reset, mask) in contract().filter(|&(_, bytes, ..)| bytes == 8) {
        let mut engine = engine();
        assert_eq!(read(&mut engine, at, 4), Some(reset & 0xFFFF_FFFF), "{at:#x}");
        assert_eq!(read(&mut engine, at + 4, 4), Some(reset >> 32), "{at:#x}");
        write(&mut engine, at, 4, 0x89AB_CDEF);
        write(&mut engine, at + 4, 4, 0x0123_4567);
        let expected = reset & !mask | 0x0123_4567_89AB_CDEF & mask;
        assert_eq!(read(&mut engine, at, 8), Some(expected), "{at:#x}");
    }
}

#[test]
fn every_offset_of_bar0_in_every_width() {
    let mut engine = engine();
    let before = snapshot(&engine);
    let legal = legal(contract().map(|(at, bytes, ..)| (at, bytes)));
    let mut bad = 0;
    for offset in (0..0x4000 + 32).chain(u32::MAX - 32..=u32::MAX) {
        for bytes in 0..=16 {
            let means_one = legal.contains(&(offset, bytes));
            assert_eq!(read(&mut engine, offset, bytes).is_some(), means_one, "{offset:#x}/{bytes}");
            if !means_one {
                let mut effects = Vec::new();
                assert!(!engine.bar0_write(offset, &[0xFF; 16][..bytes], &mut effects));
                assert_eq!(effects, []);
                bad += 2;
            }
        }
    }
    assert_eq!(engine.counters().bad_accesses, bad);
    assert_eq!(snapshot(&engine), before);
}

#[test]
fn without_memory_decode_bar0_is_not_there() {
    let mut engine = Engine::new();
    let before = snapshot(&engine);
    for (at, bytes) in legal(contract().map(|(at, bytes, ..)| (at, bytes))) {
        assert_eq!(read(&mut engine, at, bytes), None);
        assert!(!engine.bar0_write(at, &[0xFF; 8][..bytes], &mut Vec::new()));
    }
    assert_eq!(snapshot(&engine), before);
}

#[test]
fn config_after_reset_after_ones_after_zeros() {
    let mut engine = Engine::new();
    let read = |engine: &mut Engine, at, bytes: u8| {
        let mut out = [0; 8];
        engine.config_read(at, &mut out[..usize::from(bytes)]);
        u64::from_le_bytes(out)
    };
    let after_reset = |at: u32, index: u8, reset: u64| match (at, index) {
        (0x009, index) => [0x00, 0x80, 0x08][usize::from(index)],
        (0x010, 0) => 0x4,
        _ => reset,
    };
    for row in config::TABLE {
        for index in 0..row.count {
            let (at, name) = (row.offset_of(index), row.name);
            let reset = after_reset(row.at, index, row.reset);
            assert_eq!(read(&mut engine, at, row.bytes), reset, "{name} after reset");
            let mask = match (row.access, row.reg, index) {
                (Access::ReadWrite, Reg::Bars, 0) => 0xFFFF_C000,
                (Access::ReadWrite, Reg::Bars, 1) => 0xFFFF_FFFF,
                (Access::ReadWrite, Reg::Bars, _) => 0,
                (Access::ReadWrite, Reg::DeviceControl, _) => 0x7FFF,
                (Access::ReadWrite, ..) => row.mask,
                _ => 0,
            };
            let flr = u64::from(config::DEVICE_CONTROL_FLR) * u64::from(row.at == config::DEVICE_CONTROL);
            for (pattern, expected) in [(!flr, reset & !mask | mask), (0, reset & !mask)] {
                let data = &pattern.to_le_bytes()[..usize::from(row.bytes)];
                engine.config_write(at, data, &mut Vec::new());
                assert_eq!(read(&mut engine, at, row.bytes), expected, "{name}[{index}]");
            }
        }
    }
    let mut effects = Vec::new();
    engine.config_write(config::DEVICE_CONTROL + 1, &[0x80], &mut effects);
    assert_eq!(effects, [Effect::Reset]);
    assert_eq!(snapshot(&engine), snapshot(&Engine::new()));
    assert_eq!(engine.counters().resets, 1);
}

#[test]
fn capabilities_chain_as_pci_wants_them() {
    let mut engine = Engine::new();
    let whole: [u8; 4096] = config_bytes(&mut engine, 0);
    let word = |at: usize| u16::from_le_bytes([whole[at], whole[at + 1]]);
    assert_eq!((word(0), word(2), word(6) & 0x10), (0x8086, 0x2021, 0x10));
    assert_eq!((whole[0x09], whole[0x0A], whole[0x0B], whole[0x0E]), (0, 0x80, 0x08, 0), "system peripheral");
    let (plain, extended) = capabilities(&whole);
    assert_eq!(plain, [(0x11, 0x80), (0x10, 0x90), (0x01, 0xE0)], "MSI-X, PCI Express, power management");
    assert_eq!(extended, [(0x000B, 0x100), (0x0001, 0x148)], "vendor-specific, AER");
    assert_eq!((word(0x82) & 0x7FF, word(0x84), word(0x88)), (3, 0x2000, 0x3000), "4 vectors in BAR 0");
    engine.config_write(config::BAR, &[0xFF; 24], &mut Vec::new());
    let bars: [u8; 24] = config_bytes(&mut engine, config::BAR);
    assert_eq!(bars[..8], [0x04, 0xC0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], "16 KiB, 64-bit");
    assert_eq!(bars[8..], [0; 16], "and no other BAR");
    let mut behind = [0; 8];
    engine.config_read(0xFFC, &mut behind);
    assert_eq!(behind, [0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
    assert_eq!(engine.counters().bad_accesses, 1);
}

#[test]
fn chanerr_int_remembers_until_it_is_cleared_there() {
    let mut host = Host::new(4096);
    host.start(2, 0x10_0000, 1);
    host.run();
    assert_eq!(config_bytes::<4>(&mut host.engine, config::CHANERR_INT), [0x00, 0x01, 0, 0]);
    host.config(config::CHANERR_INT, [0xFF; 4]);
    assert_eq!(config_bytes::<4>(&mut host.engine, config::CHANERR_INT), [0; 4]);
}

#[test]
fn no_register_is_left_out_of_the_list() {
    let config: usize = config::TABLE.iter().map(|row| usize::from(row.count)).sum();
    let engine = Engine::new();
    assert_eq!(engine.registers().count(), config + GLOBAL.len() + 4 * CHANNEL.len());
    let status: Vec<_> = engine.registers().filter(|reg| reg.name == "CHANSTS").collect();
    assert!(status.iter().all(|reg| reg.array && reg.value == 3));
    assert!(status.iter().map(|reg| (reg.index, reg.offset)).eq((0..4).map(|n| (n, block(n) + 8))));
}
