//! DMA engines that are used as they should be: through windows, to doorbells, by several channels.

use crate::engine::{BAR0, BAR2, BAR4, Engine, RING, TELL};
use crate::house::{Host, House, RAM_AT, RAM_BYTES};
use ntb_spec::bar0::{Reg, offset_of};
use ntb_spec::ioat::{Control, Descriptor};
use twin::Side;

/// Two hosts whose NTBs' BARs have addresses, and the engine of host a. Window 0 of each leads to the beginning of the
/// other's memory.
pub(crate) fn pair_with_engine(house: &House) -> (Host, Host, Engine) {
    let (mut a, mut b) = house.pair();
    for host in [&mut a, &mut b] {
        host.place_bars();
    }
    let engine = Engine::new(house, Side::A, &a);
    (a, b, engine)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect()
}

#[test]
fn it_is_what_linux_looks_for() {
    let house = House::new();
    let (a, _b, mut engine) = pair_with_engine(&house);
    assert_eq!(engine.config(0), [0x86, 0x80, 0x21, 0x20]);
    assert_eq!(engine.read::<1>(0), [4], "channels");
    assert_eq!(engine.read::<1>(8), [0x32], "version");
    engine.copy(&a, RAM_AT, RAM_AT + 0x8_0000, 2000);
    let status = house.port(Side::A).engine.unwrap();
    assert!(status.attached && status.bus_master && status.memory_enabled && status.pid.is_some());
    assert_eq!((status.channels, status.descriptors, status.copied_bytes, status.pieces), (4, 1, 2000, 1));
    assert_eq!((status.mapped_bytes, status.faults, status.drops), (RAM_BYTES, 0, 0));
    let idle = house.port(Side::B).engine.unwrap();
    assert!(!idle.attached && idle.socket.ends_with("dma-b"));
    house.assert_idle();
    house.end();
}

#[test]
fn a_megabyte_goes_through_a_window_into_the_peers_memory_and_back() {
    let house = House::new();
    let (a, b, mut engine) = pair_with_engine(&house);
    let data = pattern(1 << 20);
    a.poke(RAM_AT + (1 << 20), &data);
    engine.copy(&a, RAM_AT + (1 << 20), BAR2, 1 << 20);
    assert!(b.bytes(RAM_AT, 1 << 20) == data, "the window leads to the peer's memory");
    engine.copy(&a, BAR2, RAM_AT + (2 << 20), 1 << 20);
    assert!(a.bytes(RAM_AT + (2 << 20), 1 << 20) == data, "it can be read through the window");
    let status = house.port(Side::A).engine.unwrap();
    assert_eq!((status.descriptors, status.copied_bytes, status.pieces), (2, 2 << 20, 8));
    // What the engine does is not what the processor stores.
    assert_eq!(house.port(Side::A).windows[0].stores, 0);
    house.end();
}

#[test]
fn odd_pieces_arrive_whole() {
    let house = House::new();
    let (a, b, mut engine) = pair_with_engine(&house);
    let data = pattern(300_001);
    a.poke(RAM_AT + (1 << 20) + 3, &data);
    b.poke(RAM_AT, &[0xEE; 400_000]);
    engine.copy(&a, RAM_AT + (1 << 20) + 3, BAR2 + 5, 300_001);
    let there = b.bytes(RAM_AT, 300_007);
    assert!(there[5..300_006] == data);
    assert_eq!((&there[..5], there[300_006]), ([0xEE; 5].as_slice(), 0xEE));
    house.end();
}

#[test]
fn a_doorbell_rings_after_the_bytes_that_were_sent_before_it() {
    let house = House::new();
    let (a, mut b, mut engine) = pair_with_engine(&house);
    for round in 0..20u8 {
        // 600 KiB are three pieces; the doorbell is the next descriptor of the chain.
        a.poke(RAM_AT + (1 << 20), &[round; 600 << 10]);
        a.poke(RAM_AT, &1u32.to_le_bytes());
        let doorbell = BAR0 + u64::from(offset_of(Reg::Doorbell, 5));
        let data = Descriptor {
            size: 600 << 10,
            control: Control::new(),
            source: RAM_AT + (1 << 20),
            destination: BAR2,
            next: RING + 64,
        };
        let ring = Descriptor { size: 4, control: TELL, source: RAM_AT, destination: doorbell, next: RING };
        a.describe(RING, &data);
        a.describe(RING + 64, &ring);
        engine.start(0, RING, 2);
        b.wait_for_vector(5);
        assert_eq!(b.peek::<1>(RAM_AT + (600 << 10) - 1), [round]);
        assert_eq!(b.peek::<1>(RAM_AT), [round]);
        engine.wait(0);
        b.write(Reg::IntStatus, 0, &(1u64 << 5).to_le_bytes());
    }
    assert_eq!(house.port(Side::A).doorbells, 20);
    house.end();
}

#[test]
fn registers_are_read_and_written_by_words() {
    let house = House::new();
    let (mut a, mut b, mut engine) = pair_with_engine(&house);
    let scratchpads = BAR0 + u64::from(offset_of(Reg::EmSpad, 0));
    let mut values = Vec::new();
    for value in 0..16u32 {
        values.extend((value * 0x1111_1111).to_le_bytes());
    }
    a.poke(RAM_AT, &values);
    engine.copy(&a, RAM_AT, scratchpads, 64);
    for index in [0, 1, 15] {
        let value = u32::from_le_bytes(a.read(Reg::EmSpad, index));
        assert_eq!(value, u32::from(index) * 0x1111_1111);
    }
    engine.copy(&a, scratchpads, RAM_AT + 0x1000, 64);
    assert_eq!(a.peek::<64>(RAM_AT + 0x1000).as_slice(), values);
    // From registers through a window: the peer sees them.
    engine.copy(&a, scratchpads + 4, BAR2 + 0x100, 8);
    assert_eq!(b.peek::<8>(RAM_AT + 0x100).as_slice(), &values[4..12]);
    // No register answers there: all ones, as for a processor, and it is counted.
    let before = house.port(Side::A).bad_accesses;
    engine.copy(&a, BAR0 + 0x8000, RAM_AT + 0x1000, 8);
    assert_eq!(a.peek::<8>(RAM_AT + 0x1000), [0xFF; 8]);
    assert_eq!(house.port(Side::A).bad_accesses, before + 2);
    b.goes_on();
    house.end();
}

#[test]
fn four_channels_of_both_hosts_work_at_once() {
    let house = House::new();
    let (a, b, mut engine_a) = pair_with_engine(&house);
    let mut engine_b = Engine::new(&house, Side::B, &b);
    for channel in 0..4u8 {
        let at = 0x4_0000 * u64::from(channel);
        a.poke(RAM_AT + (1 << 20) + at, &[0xA0 + channel; 0x4_0000]);
        b.poke(RAM_AT + (1 << 20) + at, &[0xB0 + channel; 0x4_0000]);
    }
    for channel in 0..4u8 {
        let at = 0x4_0000 * u64::from(channel);
        engine_a.begin_copy(&a, channel, RAM_AT + (1 << 20) + at, BAR2 + at, 0x4_0000);
        engine_b.begin_copy(&b, channel, RAM_AT + (1 << 20) + at, BAR2 + at, 0x4_0000);
    }
    for channel in 0..4u8 {
        engine_a.wait(channel);
        engine_b.wait(channel);
        let at = RAM_AT + 0x4_0000 * u64::from(channel);
        assert!(b.bytes(at, 0x4_0000).iter().all(|&byte| byte == 0xA0 + channel));
        assert!(a.bytes(at, 0x4_0000).iter().all(|&byte| byte == 0xB0 + channel));
    }
    house.end();
}

#[test]
fn a_window_that_opens_less_than_its_bar_takes_what_fits() {
    let house = House::new();
    let (mut a, mut b, mut engine) = pair_with_engine(&house);
    b.open_window(1, RAM_AT + 0x8_0000, 0x1_0000);
    a.poke(RAM_AT, &[7; 0x2_0000]);
    b.poke(RAM_AT + 0x8_0000, &[1; 0x2_0000]);
    // The first half fits, the second is dropped, as hardware drops it: the descriptor completes.
    engine.copy(&a, RAM_AT, BAR4, 0x2_0000);
    assert!(b.bytes(RAM_AT + 0x8_0000, 0x1_0000).iter().all(|&byte| byte == 7));
    assert!(b.bytes(RAM_AT + 0x9_0000, 0x1_0000).iter().all(|&byte| byte == 1));
    engine.copy(&a, BAR4, RAM_AT + 0x4_0000, 0x2_0000);
    let seen = a.bytes(RAM_AT + 0x4_0000, 0x2_0000);
    assert!(seen[..0x1_0000].iter().all(|&byte| byte == 7));
    assert!(seen[0x1_0000..].iter().all(|&byte| byte == 0xFF));
    let status = house.port(Side::A).engine.unwrap();
    assert_eq!((status.drops, status.dropped_bytes, status.refused_reads), (1, 0x1_0000, 1));
    a.goes_on();
    house.end();
}
