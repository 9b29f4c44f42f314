//! DMA engines whose drivers, guests and peers do what they can to stop the twin: the channel halts with an error that Linux
//! recovers from, or bytes are dropped; everybody lives.

use crate::engine::{BAR0, BAR2, COMPLETIONS, DONE, Engine, HALTED, READ_ERROR, RING, TELL, WRITE_ERROR};
use crate::engine_copies::pair_with_engine;
use crate::house::{Host, House, PATIENCE, RAM_AT, RAM_BYTES, Ram, pause, ram_map};
use ntb_spec::ioat::{Channel, Control, Descriptor, XFER_CAP};
use ntb_spec::{bar0::Reg, config};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use twin::Side;
use vfio_user::wire::{DmaAddr, DmaUnmap, RegionIndex};

/// Memory of which nobody has touched most: a copy into it takes its time, and goes to the worker.
struct Lake {
    ram: Ram,
    next: u64,
}

const LAKE: u64 = 0x1_0000_0000;
const LAKE_BYTES: u64 = 64 << 20;

impl Lake {
    fn new() -> Self {
        Self { ram: Ram::new("lake", LAKE_BYTES), next: 0 }
    }

    fn map(&self, host: &mut Host) {
        host.client.dma_map(ram_map(LAKE, LAKE_BYTES, 0), Some(self.ram.0.as_fd())).unwrap();
    }

    /// Opens the peer's window 0 on the next MiB.
    fn open(&mut self, host: &mut Host) {
        self.next += 1 << 20;
        host.open_window(0, LAKE + self.next, 1 << 20);
    }

    /// What is there now. Looking at it through the file makes no pages.
    fn window(&self) -> Vec<u8> {
        self.ram.bytes(self.next, 1 << 20)
    }
}

/// Somewhere that nothing is.
const NOWHERE: u64 = 0x12_3456_7000;

#[test]
fn addresses_that_lead_nowhere_halt_the_channel_and_it_recovers() {
    let house = House::new();
    let (mut a, mut b, mut engine) = pair_with_engine(&house);
    let end = RAM_AT + RAM_BYTES;
    assert_eq!(engine.fails(&a, NOWHERE, RAM_AT, 64), READ_ERROR);
    assert_eq!(engine.fails(&a, RAM_AT, NOWHERE, 64), WRITE_ERROR);
    assert_eq!(engine.fails(&a, end - 32, RAM_AT, 64), READ_ERROR, "what begins inside may not end outside");
    assert_eq!(engine.fails(&a, RAM_AT, end - 32, 64), WRITE_ERROR);
    assert_eq!(engine.fails(&a, RAM_AT, u64::MAX - 63, 64), WRITE_ERROR);
    assert_eq!(engine.fails(&a, u64::MAX, RAM_AT, 1), READ_ERROR);
    // Behind the end of a BAR.
    assert_eq!(engine.fails(&a, RAM_AT, BAR0 + 0x1_0000 - 4, 8), WRITE_ERROR);
    assert_eq!(engine.fails(&a, BAR2 - 8, RAM_AT, 8), READ_ERROR);
    let status = house.port(Side::A).engine.unwrap();
    assert_eq!((status.faults, status.errors, status.descriptors), (8, 8, 0));
    engine.goes_on(&a);
    a.goes_on();
    b.goes_on();
    house.end();
}

#[test]
fn a_bar_that_does_not_decode_is_nowhere() {
    let house = House::new();
    let (mut a, mut b, mut engine) = pair_with_engine(&house);
    a.configure(config::COMMAND, &[0x04, 0x00]);
    assert_eq!(engine.fails(&a, RAM_AT, BAR2, 64), WRITE_ERROR);
    a.configure(config::COMMAND, &[0x06, 0x00]);
    engine.copy(&a, RAM_AT, BAR2, 64);
    // It moves, as its host wants it.
    a.configure(config::BAR + 8, &0x40_0000_0000_u64.to_le_bytes());
    assert_eq!(engine.fails(&a, RAM_AT, BAR2, 64), WRITE_ERROR);
    a.poke(RAM_AT, &[0x55; 64]);
    engine.copy(&a, RAM_AT, 0x40_0000_0000, 64);
    assert_eq!(b.peek::<64>(RAM_AT), [0x55; 64]);
    b.goes_on();
    house.end();
}

#[test]
fn a_closed_window_swallows_what_is_written_and_reads_all_ones() {
    let house = House::new();
    let (mut a, mut b, mut engine) = pair_with_engine(&house);
    b.poke(RAM_AT, &[0x11; 64]);
    b.open_window(0, RAM_AT, 0);
    engine.copy(&a, RAM_AT + 0x1000, BAR2, 0x8_0000);
    engine.copy(&a, BAR2, RAM_AT, 32);
    assert_eq!(a.peek::<33>(RAM_AT)[..32], [0xFF; 32]);
    assert_eq!(b.peek::<64>(RAM_AT), [0x11; 64]);
    // Open, but without link; then with link, but the peer's bus master off.
    b.open_window(0, RAM_AT, 1 << 20);
    let control = u32::from_le_bytes(b.read(Reg::Control, 0));
    b.write(Reg::Control, 0, &(control | 2).to_le_bytes());
    engine.copy(&a, RAM_AT + 0x1000, BAR2, 64);
    b.write(Reg::Control, 0, &control.to_le_bytes());
    a.wait_for_link(true);
    b.configure(config::COMMAND, &[0x02, 0x00]);
    engine.copy(&a, RAM_AT + 0x1000, BAR2, 64);
    // Open onto addresses where the peer has no memory, and onto its own window.
    b.configure(config::COMMAND, &[0x06, 0x00]);
    for address in [NOWHERE, BAR2, RAM_AT + RAM_BYTES, 0] {
        b.open_window(0, address, 1 << 20);
        engine.copy(&a, RAM_AT + 0x1000, BAR2, 64);
        engine.copy(&a, BAR2, RAM_AT, 4);
        assert_eq!(a.peek::<4>(RAM_AT), [0xFF; 4], "{address:#x}");
    }
    assert_eq!(b.peek::<64>(RAM_AT), [0x11; 64]);
    let status = house.port(Side::A).engine.unwrap();
    // The first is dropped in pieces as the engine makes them.
    assert_eq!((status.drops, status.dropped_bytes), (2 + 2 + 4, 0x8_0000 + 6 * 64));
    assert_eq!((status.refused_reads, status.faults), (1 + 4, 0));
    a.goes_on();
    b.goes_on();
    house.end();
}

#[test]
fn memory_with_a_hole_takes_what_it_can() {
    let house = House::new();
    let (a, mut b, mut engine) = pair_with_engine(&house);
    // Two pages of b's memory, a hole of one, two pages again.
    let base = 0x8000_0000;
    b.map(base, 0x2000, 0x10_0000).unwrap();
    b.map(base + 0x3000, 0x2000, 0x10_2000).unwrap();
    b.open_window(0, base, 0x1_0000);
    a.poke(RAM_AT, &[9; 0x6000]);
    engine.copy(&a, RAM_AT, BAR2, 0x6000);
    assert!(b.ram.bytes(0x10_0000, 0x4000).iter().all(|&byte| byte == 9));
    assert_eq!(b.ram.get::<1>(0x10_4000), [0]);
    let status = house.port(Side::A).engine.unwrap();
    assert_eq!((status.drops, status.dropped_bytes, status.faults), (2, 0x2000, 0));
    engine.copy(&a, BAR2, RAM_AT, 0x5000);
    let seen = a.bytes(RAM_AT, 0x5000);
    let expected = |at: usize| if (0x2000..0x3000).contains(&at) { 0xFF } else { 9 };
    assert!((0..0x5000).all(|at| seen[at] == expected(at)));
    house.end();
}

#[test]
fn memory_that_may_not_be_written_or_read_is_an_error() {
    let house = House::new();
    let (a, _b, mut engine) = pair_with_engine(&house);
    let mut map = ram_map(0x9000_0000, 0x1000, 0);
    map.writeable = false;
    engine.client.dma_map(map, Some(a.ram.0.as_fd())).unwrap();
    let mut map = ram_map(0x9000_1000, 0x1000, 0x1000);
    map.readable = false;
    engine.client.dma_map(map, Some(a.ram.0.as_fd())).unwrap();
    // As the mapped BAR of another device arrives: announced, without a file.
    engine.client.dma_map(ram_map(0x9000_2000, 0x1000, 0), None).unwrap();
    assert_eq!(engine.fails(&a, RAM_AT, 0x9000_0000, 64), WRITE_ERROR);
    assert_eq!(engine.fails(&a, 0x9000_1000, RAM_AT, 64), READ_ERROR);
    assert_eq!(engine.fails(&a, 0x9000_2000, RAM_AT, 64), READ_ERROR);
    engine.copy(&a, 0x9000_0000, 0x9000_1000, 64);
    // One copy may span sections, if each of them allows it.
    assert_eq!(engine.fails(&a, RAM_AT, 0x9000_0FF0, 64), WRITE_ERROR);
    engine.goes_on(&a);
    house.end();
}

#[test]
fn chains_that_are_nonsense_halt_with_one_error() {
    let house = House::new();
    let (mut a, mut b, mut engine) = pair_with_engine(&house);
    let good = Descriptor { size: 64, control: TELL, source: RAM_AT, destination: RAM_AT + 64, next: RING };
    let misaligned = Descriptor { next: RING + 4, ..good };
    let outside = Descriptor { next: NOWHERE, ..good };
    let too_long = Descriptor { size: XFER_CAP + 1, ..good };
    let empty = Descriptor { size: 0, ..good };
    let xor = Descriptor { control: TELL.with_operation(0x87), ..good };
    // The chain, descriptors posted, and the error.
    let cases = [
        (misaligned, 2, 0x8),
        (outside, 2, READ_ERROR),
        (too_long, 1, 0x800),
        (empty, 1, 0x800),
        (xor, 1, 0x400),
        (Descriptor { size: u32::MAX, ..good }, 1, 0x800),
        (Descriptor { source: u64::MAX - 8, ..good }, 1, READ_ERROR),
        (Descriptor { destination: u64::MAX - 8, ..good }, 1, WRITE_ERROR),
    ];
    for (descriptor, count, error) in cases {
        a.describe(RING, &descriptor);
        engine.start(0, RING, count);
        engine.wait_status(0, HALTED);
        assert_eq!(engine.error(0), error, "{descriptor:?}");
        engine.recover(0);
        engine.forget(0);
    }
    // A chain that is in a window or in registers is none.
    for (chain, error) in [(RING + 8, 0x10), (NOWHERE, READ_ERROR), (BAR2, READ_ERROR), (BAR0, READ_ERROR)] {
        engine.start(0, chain, 1);
        engine.wait_status(0, HALTED);
        assert_eq!(engine.error(0), error, "{chain:#x}");
        engine.recover(0);
        engine.forget(0);
    }
    // Neither are completions.
    for completion in [NOWHERE, BAR2, BAR0] {
        engine.write_channel(0, Channel::CompletionAddress, &completion.to_le_bytes());
        a.describe(RING, &good);
        engine.start(0, RING, 1);
        engine.wait_status(0, HALTED);
        assert_eq!(engine.error(0), 0x1000, "{completion:#x}");
        engine.recover(0);
        engine.forget(0);
    }
    engine.goes_on(&a);
    a.goes_on();
    b.goes_on();
    house.end();
}

#[test]
fn a_chain_that_loops_ends_with_what_was_posted() {
    let house = House::new();
    let (mut a, mut b, mut engine) = pair_with_engine(&house);
    let silent =
        Descriptor { size: 8, control: Control::new(), source: RAM_AT, destination: RAM_AT + 8, next: RING };
    a.describe(RING, &silent);
    // As many as can be posted, of one descriptor that points to itself; the port's registers answer meanwhile.
    engine.start(0, RING, u16::MAX);
    let slowest = (0..50).map(|_| a.goes_on().max(b.goes_on())).max().unwrap();
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    engine.wait_status(0, DONE);
    assert_eq!(house.port(Side::A).engine.unwrap().descriptors, 65535);
    engine.goes_on(&a);
    house.end();
}

#[test]
fn a_full_ring_of_65536_descriptors_is_carried_out() {
    let house = House::new();
    let (a, _b, mut engine) = pair_with_engine(&house);
    // 4 MiB of descriptors, as Linux allocates them, in memory of their own.
    let ring = Ram::new("ring", 65536 * 64);
    let at = 0x8000_0000;
    engine.client.dma_map(ram_map(at, 65536 * 64, 0), Some(ring.0.as_fd())).unwrap();
    let mut image = Vec::with_capacity(65536 * 64);
    for index in 0..65536u64 {
        let next = at + 64 * ((index + 1) % 65536);
        let null =
            Descriptor { size: 1, control: Control::new().with_null(true), next, ..Descriptor::default() };
        image.extend(null.to_bytes());
    }
    ring.put(0, &image);
    engine.write_channel(0, Channel::ChainAddress, &at.to_le_bytes());
    // DMACOUNT counts modulo 65536: one short of all, and then all of them and one.
    engine.write_channel(0, Channel::Count, &u16::MAX.to_le_bytes());
    engine.wait_status(0, DONE);
    engine.write_channel(0, Channel::Count, &1u16.to_le_bytes());
    engine.wait_descriptors(&house, 65537);
    assert_eq!(engine.status(0), at | DONE);
    engine.goes_on(&a);
    house.end();
}

#[test]
fn a_chain_that_changes_while_it_runs_copies_what_it_said_once() {
    let house = House::new();
    let (mut a, b, mut engine) = pair_with_engine(&house);
    let copy =
        Descriptor { size: 0x2_0000, control: Control::new(), source: RAM_AT, destination: BAR2, next: RING };
    a.describe(RING, &copy);
    engine.start(0, RING, 2000);
    let until = Instant::now() + PATIENCE;
    let mut turn = 0u64;
    while engine.status(0) & 7 == 0 {
        assert!(Instant::now() < until);
        // Half a descriptor at a time, so that a fetch may see two of them mixed.
        turn += 1;
        let nonsense = Descriptor {
            source: RAM_AT.wrapping_add(turn * 0x1000 % RAM_BYTES),
            destination: if turn.is_multiple_of(3) { NOWHERE } else { BAR2 + turn * 64 % 0x10_0000 },
            size: u32::try_from(turn * 0x777 % 0x3_0000).unwrap(),
            ..copy
        };
        let bytes = if turn.is_multiple_of(5) { copy.to_bytes() } else { nonsense.to_bytes() };
        a.poke(RING, &bytes[..16]);
        a.poke(RING + 16, &bytes[16..]);
    }
    engine.recover(0);
    engine.forget(0);
    engine.goes_on(&a);
    a.goes_on();
    assert_eq!(b.ram.0.metadata().unwrap().len(), RAM_BYTES);
    house.end();
}

#[test]
fn memory_that_is_withdrawn_under_a_copy_is_not_touched_after_the_answer() {
    let house = House::new();
    let (a, mut b, mut engine) = pair_with_engine(&house);
    let mut lake = Lake::new();
    lake.map(&mut b);
    for round in 0..40u8 {
        a.poke(RAM_AT, &vec![round | 0x80; 1 << 20]);
        lake.open(&mut b);
        engine.begin_copy(&a, 0, RAM_AT, BAR2, 1 << 20);
        if round % 2 == 0 {
            // The peer takes its memory away: what comes later is dropped.
            b.client.dma_unmap(DmaUnmap::Range { iova: DmaAddr(LAKE), size: LAKE_BYTES }).unwrap();
            let first = lake.window();
            engine.wait(0);
            assert!(lake.window() == first, "round {round}: a store after the answer");
            assert_eq!(engine.error(0), 0);
            lake.map(&mut b);
        } else {
            // The host itself takes the source away: the channel halts, or it was done already.
            engine.client.dma_unmap(DmaUnmap::Range { iova: DmaAddr(RAM_AT), size: RAM_BYTES }).unwrap();
            let first = lake.window();
            engine.settled(0);
            assert!(lake.window() == first, "round {round}: a store after the answer");
            engine.client.dma_map(ram_map(RAM_AT, RAM_BYTES, 0), Some(a.ram.0.as_fd())).unwrap();
            engine.recover(0);
            engine.forget(0);
        }
    }
    engine.goes_on(&a);
    b.goes_on();
    house.end();
}

#[test]
fn a_window_that_closes_under_a_copy_is_not_written_after_the_answer() {
    let house = House::new();
    let (mut a, mut b, mut engine) = pair_with_engine(&house);
    let mut lake = Lake::new();
    lake.map(&mut b);
    for round in 0..30u8 {
        a.poke(RAM_AT, &vec![round | 0x80; 1 << 20]);
        lake.open(&mut b);
        engine.begin_copy(&a, 0, RAM_AT, BAR2, 1 << 20);
        match round % 4 {
            0 => b.open_window(0, RAM_AT, 0),
            1 => b.configure(config::COMMAND, &[0x02, 0x00]),
            2 => {
                let control = u32::from_le_bytes(b.read(Reg::Control, 0));
                b.write(Reg::Control, 0, &(control | 2).to_le_bytes());
            }
            _ => b.client.reset().unwrap(),
        }
        let first = lake.window();
        engine.wait(0);
        assert!(lake.window() == first, "round {round}: a store after the answer");
        assert_eq!(engine.error(0), 0);
        b.load_driver();
        b.wait_for_link(true);
        a.wait_for_link(true);
    }
    house.end();
}

#[test]
fn a_reset_in_the_middle_ends_everything_and_the_engine_starts_anew() {
    let house = House::new();
    let (a, mut b, mut engine) = pair_with_engine(&house);
    let mut lake = Lake::new();
    lake.map(&mut b);
    for round in 0..30u8 {
        a.poke(RAM_AT, &vec![round | 0x80; 1 << 20]);
        lake.open(&mut b);
        for channel in 0..4 {
            engine.begin_copy(&a, channel, RAM_AT, BAR2, 1 << 20);
        }
        let seen = |a: &Host| (lake.window(), a.peek::<256>(COMPLETIONS));
        match round % 3 {
            0 => engine.client.reset().unwrap(),
            // A function-level reset.
            1 => engine.configure(config::DEVICE_CONTROL, &[0x10, 0xA8]),
            // The bus master goes off: the channels halt at their next access.
            _ => {
                engine.configure(config::COMMAND, &[0x02, 0x04]);
                let before = seen(&a);
                for channel in 0..4 {
                    engine.settled(channel);
                }
                assert!(before == seen(&a), "round {round}");
                engine.client.reset().unwrap();
            }
        }
        let before = seen(&a);
        pause(Duration::from_millis(2));
        assert!(before == seen(&a), "round {round}");
        engine.load_driver();
        for channel in 0..4 {
            engine.forget(channel);
        }
        engine.goes_on(&a);
    }
    assert!(house.port(Side::A).engine.unwrap().resets >= 30);
    house.end();
}

#[test]
fn a_peer_that_dies_in_the_middle_costs_the_engine_nothing() {
    let house = House::new();
    let (mut a, mut b, mut engine) = pair_with_engine(&house);
    let mut lake = Lake::new();
    lake.map(&mut b);
    for _ in 0..10 {
        lake.open(&mut b);
        for channel in 0..4 {
            engine.begin_copy(&a, channel, RAM_AT, BAR2, 1 << 20);
        }
        drop(b);
        for channel in 0..4 {
            engine.wait(channel);
            assert_eq!(engine.error(channel), 0);
        }
        house.wait_gone(Side::B);
        b = house.host(Side::B);
        lake.map(&mut b);
        b.load_driver();
        a.wait_for_link(true);
        b.wait_for_link(true);
    }
    b.open_window(0, RAM_AT, 1 << 20);
    a.poke(RAM_AT, b"the next one");
    engine.copy(&a, RAM_AT, BAR2, 12);
    assert_eq!(&b.peek::<12>(RAM_AT), b"the next one");
    house.end();
}

#[test]
fn an_engine_whose_host_dies_in_the_middle_is_there_for_the_next() {
    let house = House::new();
    let (mut a, mut b, mut engine) = pair_with_engine(&house);
    for round in 0..10 {
        for channel in 0..4 {
            engine.begin_copy(&a, channel, RAM_AT, BAR2, 1 << 20);
        }
        drop(engine);
        if round % 2 == 0 {
            drop(a);
            house.wait_gone(Side::A);
            a = house.host(Side::A);
            a.load_driver();
            a.place_bars();
            a.wait_for_link(true);
        }
        house.wait_until(|status| status.ports[0].engine.as_ref().is_some_and(|engine| !engine.attached));
        engine = Engine::new(&house, Side::A, &a);
        engine.goes_on(&a);
        b.wait_for_link(true);
    }
    b.goes_on();
    house.assert_idle();
    house.end();
}

#[test]
fn an_engine_has_no_other_regions_and_takes_what_any_device_takes() {
    let house = House::new();
    let (a, _b, mut engine) = pair_with_engine(&house);
    for region in [RegionIndex::BAR2, RegionIndex::BAR4, RegionIndex(1), RegionIndex(77)] {
        assert!(engine.client.region_write(region, 0, &[1]).is_err());
        assert!(engine.client.region_read(region, 0, &mut [0]).is_err());
    }
    assert!(engine.client.region_write(RegionIndex::BAR0, 0x3FFF, &[1, 2]).is_err());
    let mut whole = [0; 4096];
    engine.client.region_read(RegionIndex::CONFIG, 0, &mut whole).unwrap();
    assert_eq!(whole[..4], [0x86, 0x80, 0x21, 0x20]);
    // Somebody else at the socket is turned away, and the engine works on.
    let second = vfio_user::client::Client::connect(house.engine_socket(Side::A));
    assert!(second.is_err());
    engine.goes_on(&a);
    house.end();
}
