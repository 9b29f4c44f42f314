//! Any sequence of operations at both ports: the twin lives, and whoever is attached gets his answers.

use crate::engine::{BAR0, BAR2, BAR4, Engine, RING, TELL};
use crate::house::{Host, House, RAM_AT, RAM_BYTES, Ram, ram_map};
use ntb_spec::ioat::Descriptor;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::fs::MemfdFlags;
use std::os::fd::AsFd;
use twin::Side;
use vfio_user::client::ClientError;
use vfio_user::wire::{
    DmaAddr, DmaMap, DmaUnmap, IrqAction, IrqData, IrqIndex, Record, RegionIndex, SetIrqs,
};

/// What a host may do next.
#[derive(Debug, Clone)]
enum Step {
    Read { region: u32, offset: u64, bytes: usize },
    Write { region: u32, offset: u64, data: Vec<u8>, posted: bool },
    Multi(Vec<(u32, u64, Vec<u8>)>),
    Map { page: u64, pages: u64, file: usize, readable: bool, writeable: bool },
    Unmap { page: u64, pages: u64 },
    UnmapAll,
    Irqs { index: u32, start: u32, count: u32, fds: usize, action: u8, data: u8 },
    Reset,
    Driver,
    Window { window: u8, page: u64, bytes: u64 },
    Raw(Vec<u8>),
    Leave,
    Bars,
    Engine(EngineStep),
}

/// What the driver of a host's engine may do next.
#[derive(Debug, Clone)]
enum EngineStep {
    Write { config: bool, offset: u64, data: Vec<u8> },
    Copy { channel: u8, source: u64, destination: u64, size: u32, posted: u16 },
    Unmap,
    Map,
    Reset,
    Leave,
}

/// Addresses that lead somewhere, their edges, and any other.
fn addresses() -> impl Strategy<Value = u64> {
    let places =
        vec![RAM_AT, RAM_AT + RAM_BYTES - 64, RING, BAR0, BAR0 + 0x100, BAR2, BAR4, BAR2 + 0xF_FFC0, 0];
    prop_oneof![6 => (prop::sample::select(places), 0u64..4096).prop_map(|(place, more)| place + more), 1 => any::<u64>()]
}

fn engine_steps() -> impl Strategy<Value = EngineStep> {
    let registers = prop::sample::select(vec![
        0x03u64, 0x80, 0x84, 0x86, 0x90, 0x94, 0x98, 0xA8, 0x104, 0x184, 0x204, 0x206,
    ]);
    prop_oneof![
        4 => (any::<bool>(), prop_oneof![registers, offsets()], data())
            .prop_map(|(config, offset, data)| EngineStep::Write { config, offset, data }),
        6 => (0u8..4, addresses(), addresses(), prop_oneof![0u32..0x2000, 0u32..0x20_0000], 0u16..20)
            .prop_map(|(channel, source, destination, size, posted)| EngineStep::Copy { channel, source, destination, size, posted }),
        1 => Just(EngineStep::Unmap),
        2 => Just(EngineStep::Map),
        1 => Just(EngineStep::Reset),
        1 => Just(EngineStep::Leave),
    ]
}

/// Does one thing with the engine of a host, whose memory `host` is.
fn drive(engine: &mut Engine, step: &EngineStep, host: &Host, house: &House, side: Side) {
    let client = &mut engine.client;
    match step {
        EngineStep::Write { config, offset, data } => {
            let region = if *config { RegionIndex::CONFIG } else { RegionIndex::BAR0 };
            answered(client.region_write(region, *offset, data));
        }
        EngineStep::Copy { channel, source, destination, size, posted } => {
            let at = RING + 0x1000 * u64::from(*channel);
            let (source, destination) = (*source, *destination);
            host.describe(at, &Descriptor { size: *size, control: TELL, source, destination, next: at });
            engine.start(*channel, at, *posted);
        }
        EngineStep::Unmap => answered(client.dma_unmap(DmaUnmap::All)),
        EngineStep::Map => answered(client.dma_map(ram_map(RAM_AT, RAM_BYTES, 0), Some(host.ram.0.as_fd()))),
        EngineStep::Reset => answered(client.reset()),
        EngineStep::Leave => {
            rustix::net::shutdown(&*client, rustix::net::Shutdown::Both).unwrap();
            house.wait_until(|status| {
                status.ports[side as usize].engine.as_ref().is_some_and(|it| !it.attached)
            });
            *engine = Engine::new(house, side, host);
        }
    }
}

/// Offsets where something happens, and any other.
fn offsets() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => prop::sample::select(vec![
            0x0u64, 0x4, 0x10, 0x14, 0x18, 0x40, 0x48, 0x80, 0x82, 0x98, 0xD0, 0xF0, 0x100, 0x17C, 0x180, 0x1A2, 0x4518, 0x4018,
        ]),
        2 => 0u64..0x1000,
        1 => any::<u64>(),
        1 => prop::sample::select(vec![0xFFF8u64, 0xF_FFF8, 0xF_FFFF, 0x10_0000]),
    ]
}

fn regions() -> impl Strategy<Value = u32> {
    prop_oneof![6 => prop::sample::select(vec![0u32, 2, 4, 7]), 1 => any::<u32>()]
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(vec![1usize, 2, 4, 8]).prop_flat_map(|bytes| prop::collection::vec(any::<u8>(), bytes)),
        1 => prop::collection::vec(any::<u8>(), 0..100),
        1 => prop::sample::select(vec![vec![1, 0, 0, 0], vec![0x06, 0], vec![0, 0x80], vec![0x54, 1, 0, 0], vec![0; 8]]),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let pages = || prop_oneof![3 => 0u64..8, 1 => prop::sample::select(vec![u64::MAX >> 12, 1 << 40])];
    prop_oneof![
        4 => (regions(), offsets(), 0usize..5000).prop_map(|(region, offset, bytes)| Step::Read { region, offset, bytes }),
        8 => (regions(), offsets(), data(), any::<bool>())
            .prop_map(|(region, offset, data, posted)| Step::Write { region, offset, data, posted }),
        1 => prop::collection::vec((regions(), offsets(), prop::collection::vec(any::<u8>(), 0..=8)), 0..400)
            .prop_map(Step::Multi),
        2 => (pages(), pages(), 0usize..4, any::<bool>(), any::<bool>())
            .prop_map(|(page, pages, file, readable, writeable)| Step::Map { page, pages, file, readable, writeable }),
        2 => (pages(), pages()).prop_map(|(page, pages)| Step::Unmap { page, pages }),
        1 => Just(Step::UnmapAll),
        2 => (0u32..6, 0u32..40, 0u32..40, 0usize..17, 0u8..3, 0u8..3)
            .prop_map(|(index, start, count, fds, action, data)| Step::Irqs { index, start, count, fds, action, data }),
        1 => Just(Step::Reset),
        2 => Just(Step::Driver),
        2 => (0u8..2, pages(), offsets()).prop_map(|(window, page, bytes)| Step::Window { window, page, bytes }),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Step::Raw),
        1 => Just(Step::Leave),
        2 => Just(Step::Bars),
        10 => engine_steps().prop_map(Step::Engine),
    ]
}

/// A refusal is an answer.
fn answered(result: Result<(), ClientError>) {
    assert!(matches!(result, Ok(()) | Err(ClientError::Refused { .. } | ClientError::TooMuch)), "{result:?}");
}

/// Does one thing. Returns whether the host is still there.
fn take(host: &mut Host, step: &Step, files: &[Ram]) -> bool {
    let client = &mut host.client;
    match step {
        Step::Read { region, offset, bytes } => {
            answered(client.region_read(RegionIndex(*region), *offset, &mut vec![0; *bytes]));
        }
        Step::Write { region, offset, data, posted: false } => {
            answered(client.region_write(RegionIndex(*region), *offset, data));
        }
        Step::Write { region, offset, data, posted: true } => {
            client.region_write_posted(RegionIndex(*region), *offset, data).unwrap();
        }
        Step::Multi(records) => {
            let records: Vec<Record> = records
                .iter()
                .map(|(region, offset, data)| Record::new(RegionIndex(*region), *offset, data).unwrap())
                .collect();
            client.write_multi(&records).unwrap();
        }
        Step::Map { page, pages, file, readable, writeable } => {
            let map = ram_map(page << 12, pages << 12, (page & 3) << 12);
            let map = DmaMap { readable: *readable, writeable: *writeable, ..map };
            answered(client.dma_map(map, files.get(*file).map(|file| file.0.as_fd())));
        }
        Step::Unmap { page, pages } => {
            answered(client.dma_unmap(DmaUnmap::Range { iova: DmaAddr(page << 12), size: pages << 12 }));
        }
        Step::UnmapAll => answered(client.dma_unmap(DmaUnmap::All)),
        Step::Irqs { index, start, count, fds, action, data } => {
            let fds: Vec<_> = host.vectors.iter().take(*fds).map(AsFd::as_fd).collect();
            let bytes = vec![1; *count as usize];
            let action = [IrqAction::Mask, IrqAction::Unmask, IrqAction::Trigger][usize::from(*action)];
            let data = [IrqData::None, IrqData::Bool(&bytes), IrqData::Eventfd][usize::from(*data)];
            let (index, start, count) = (IrqIndex(*index), *start, *count);
            answered(client.set_irqs(SetIrqs { index, start, count, action, data }, &fds));
        }
        Step::Reset => answered(client.reset()),
        Step::Driver => host.load_driver(),
        Step::Window { window, page, bytes } => {
            // Only what the driver would write; without decode the registers are not there.
            host.configure(ntb_spec::config::COMMAND, &[0x06, 0]);
            host.open_window(*window, page << 12, *bytes & 0x1F_FFFF);
        }
        // Whatever it is, it is the last thing that this host says: nobody knows where the next message begins.
        Step::Raw(bytes) => {
            client.send_raw(bytes, &[]).unwrap();
            return false;
        }
        Step::Leave => return false,
        Step::Bars => host.place_bars(),
        // The engine's own affair: see `drive`.
        Step::Engine(_) => {}
    }
    true
}

#[test]
fn no_sequence_of_operations_stops_the_twin_or_the_other_port() {
    let house = House::new();
    let files = [
        Ram::new("good", 64 << 10),
        Ram::with("unsealable", 64 << 10, MemfdFlags::empty()),
        Ram::new("short", 4096),
    ];
    let sequences = prop::collection::vec((any::<bool>(), steps()), 1..60);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&sequences, |sequence| {
        let (mut a, mut b) = house.pair();
        let mut engines = [Engine::new(&house, Side::A, &a), Engine::new(&house, Side::B, &b)];
        for (at_a, step) in &sequence {
            let (side, active, passive) =
                if *at_a { (Side::A, &mut a, &mut b) } else { (Side::B, &mut b, &mut a) };
            if let Step::Engine(step) = step {
                drive(&mut engines[side as usize], step, active, &house, side);
            }
            if !take(active, step, &files) {
                // The next host finds the port as after power-on.
                let socket = rustix::net::shutdown(&active.client, rustix::net::Shutdown::Both);
                prop_assert!(socket.is_ok());
                house.wait_gone(side);
                *active = house.host(side);
                prop_assert_eq!(active.config::<2>(ntb_spec::config::COMMAND), [0, 0]);
            }
            passive.goes_on_without_decode();
            active.goes_on_without_decode();
        }
        // After all that, both are brought up as ever and reach each other.
        for host in [&mut a, &mut b] {
            host.client.reset().unwrap();
            host.client.dma_unmap(DmaUnmap::All).unwrap();
            host.map(RAM_AT, RAM_BYTES, 0).unwrap();
            host.load_driver();
        }
        for host in [&mut a, &mut b] {
            host.wait_for_link(true);
            host.open_window(0, RAM_AT, 1 << 20);
        }
        for (engine, host) in engines.iter_mut().zip([&mut a, &mut b]) {
            host.place_bars();
            engine.client.reset().unwrap();
            engine.client.dma_unmap(DmaUnmap::All).unwrap();
            engine.client.dma_map(ram_map(RAM_AT, RAM_BYTES, 0), Some(host.ram.0.as_fd())).unwrap();
            engine.load_driver();
            for channel in 0..4 {
                engine.forget(channel);
            }
            engine.goes_on(host);
            engine.copy(host, RAM_AT, BAR2 + 0x8_0000, 0x2_0000);
        }
        a.store(16, &[1; 8]);
        prop_assert_eq!(b.ram.get(16), [1; 8]);
        b.ring(5);
        a.wait_for_vector(5);
        drop((a, b, engines));
        house.wait_gone(Side::A);
        house.wait_gone(Side::B);
        house.wait_until(|status| {
            status.ports.iter().all(|port| port.engine.as_ref().is_some_and(|engine| !engine.attached))
        });
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    house.end();
}
