//! What two well-behaved hosts see of each other.

use crate::house::{
    House, LINK_VECTOR, PATIENCE, RAM_AT, RAM_BYTES, Ram, ram_map, refused, take, times_mapped, times_open,
};
use ntb_spec::bar0::{Reg, offset_of};
use ntb_spec::{LINK_SOURCE, config};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use twin::{Setup, Side};
use vfio_user::wire::{IrqAction, IrqData, IrqIndex, Record, RegionIndex, SetIrqs};

#[test]
fn the_link_comes_up_after_its_training_and_both_are_told() {
    let training = Duration::from_millis(150);
    let house = House::with(Setup { training, ..Setup::default() });
    let (mut a, mut b) = (house.host(Side::A), house.host(Side::B));
    assert_eq!(a.config::<4>(0), [0x86, 0x80, 0x1C, 0x20]);
    assert_eq!((a.config::<1>(config::PPD), b.config::<1>(config::PPD)), ([0x01], [0x11]));
    a.load_driver();
    assert_eq!(a.link(), 0x0103, "one host alone has no link");
    assert_eq!(a.read::<4>(Reg::PeerSpad, 0), [0xFF; 4]);
    let began = Instant::now();
    b.load_driver();
    assert_eq!(b.link(), 0x0103, "a link trains before it is up");
    for host in [&mut a, &mut b] {
        assert_eq!(host.wait_for_vector(LINK_VECTOR), 1);
        assert_eq!(host.link(), 0x2103);
        assert_eq!(u64::from_le_bytes(host.read(Reg::IntStatus, 0)), 1 << LINK_SOURCE);
    }
    assert!(began.elapsed() >= training, "{:?}", began.elapsed());
    let status = house.status();
    assert_eq!((status.link.ups, status.link.downs, status.link.training_ms), (1, 0, 150));
}

#[test]
fn doorbells_ring_at_the_peer_and_scratchpads_are_seen_there() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    for doorbell in 0..31 {
        a.ring(doorbell);
        assert_eq!(b.wait_for_vector(doorbell.into()), 1, "doorbell {doorbell}");
        // Latched until it is cleared: one message, however often it rings.
        a.ring(doorbell);
    }
    a.goes_on();
    assert_eq!(u64::from_le_bytes(b.read(Reg::IntStatus, 0)), 0x7FFF_FFFF);
    assert!((0..31).all(|vector| b.taken(vector).is_none()));
    b.write(Reg::IntStatus, 0, &0x7FFF_FFFFu64.to_le_bytes());
    // Masked: pending; unmasked: fires.
    b.write(Reg::IntDisable, 0, &2u64.to_le_bytes());
    a.ring(1);
    a.goes_on();
    assert_eq!(b.taken(1), None);
    b.write(Reg::IntDisable, 0, &0u64.to_le_bytes());
    assert_eq!(b.wait_for_vector(1), 1);

    for index in 0..16 {
        let value = 0xA000_0000 | u32::from(index);
        a.write(Reg::PeerSpad, index, &value.to_le_bytes());
        assert_eq!(b.read(Reg::Spad, index), value.to_le_bytes());
        b.write(Reg::Spad, index, &(!value).to_le_bytes());
        assert_eq!(a.read(Reg::PeerSpad, index), (!value).to_le_bytes());
    }
    let port = house.port(Side::A);
    assert_eq!((port.doorbells, port.doorbells_dropped), (63, 0));
}

#[test]
fn a_question_sees_what_the_other_host_wrote_before_it_was_asked() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    // The twin finds both messages at once now and then, and may not take them in the order of its sockets.
    for round in 0..2000u32 {
        let (writer, reader) = if round % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        let at = offset_of(Reg::PeerSpad, 0).into();
        writer.client.region_write_posted(RegionIndex::BAR0, at, &round.to_le_bytes()).unwrap();
        assert_eq!(u32::from_le_bytes(reader.read(Reg::Spad, 0)), round);
    }
}

#[test]
fn vectors_pend_until_they_have_an_eventfd() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let take_away = SetIrqs {
        index: IrqIndex::MSIX,
        start: 4,
        count: 2,
        action: IrqAction::Trigger,
        data: IrqData::Eventfd,
    };
    b.client.set_irqs(take_away, &[]).unwrap();
    a.ring(4);
    a.ring(5);
    a.goes_on();
    assert_eq!(b.taken(4), None);
    let fds = [eventfd(0, EventfdFlags::NONBLOCK).unwrap(), eventfd(0, EventfdFlags::NONBLOCK).unwrap()];
    b.client.assign_irqs(IrqIndex::MSIX, 4, &[fds[0].as_fd()]).unwrap();
    assert_eq!((take(&fds[0]), take(&fds[1])), (Some(1), None));
    // Switching MSI-X off forgets the other one.
    b.configure(config::MSIX + 2, &[0x20, 0x00]);
    b.configure(config::MSIX + 2, &[0x20, 0x80]);
    b.client.assign_irqs(IrqIndex::MSIX, 5, &[fds[1].as_fd()]).unwrap();
    assert_eq!(take(&fds[1]), None);
    // Replacing, disabling all, and leaving: an eventfd is let go of each time.
    assert_eq!(times_open(&fds[0]), 2);
    b.client.assign_irqs(IrqIndex::MSIX, 4, &[b.vectors[4].as_fd()]).unwrap();
    assert_eq!(times_open(&fds[0]), 1);
    b.client.disable_irqs(IrqIndex::MSIX).unwrap();
    assert_eq!(times_open(&fds[1]), 1);
    // A test by the client itself goes to whoever is there.
    let one: &[BorrowedFd<'_>] = &[fds[0].as_fd()];
    b.client.assign_irqs(IrqIndex::MSIX, 9, one).unwrap();
    let test = SetIrqs {
        index: IrqIndex::MSIX,
        start: 8,
        count: 3,
        action: IrqAction::Trigger,
        data: IrqData::None,
    };
    b.client.set_irqs(test, &[]).unwrap();
    assert_eq!(take(&fds[0]), Some(1));
}

#[test]
fn a_multiple_write_is_so_many_writes() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let spad = |index: u8| u64::from(offset_of(Reg::PeerSpad, index));
    let mut records: Vec<Record> = (0..16)
        .map(|index| Record::new(RegionIndex::BAR0, spad(index), &u32::from(index).to_le_bytes()).unwrap())
        .collect();
    // One that the twin refuses does not stop the others.
    records.insert(3, Record::new(RegionIndex(40), 0, &[1]).unwrap());
    let bell = u64::from(offset_of(Reg::Doorbell, 7));
    records.push(Record::new(RegionIndex::BAR2, 0x40, b"through!").unwrap());
    records.push(Record::new(RegionIndex::BAR0, bell, &1u32.to_le_bytes()).unwrap());
    a.client.write_multi(&records).unwrap();
    b.wait_for_vector(7);
    assert_eq!(b.ram.get(0x40), *b"through!");
    for index in 0..16 {
        assert_eq!(b.read(Reg::Spad, index), u32::from(index).to_le_bytes());
    }
    // More records than the twin does at a time: all of them, in order, before what comes after.
    let many: Vec<Record> = (0..20_000u32)
        .map(|value| {
            Record::new(RegionIndex::BAR2, u64::from(value % 100) * 8, &u64::from(value).to_le_bytes())
                .unwrap()
        })
        .collect();
    a.client.write_multi(&many).unwrap();
    a.store(0x1000, &[1]);
    for at in 0..100 {
        assert_eq!(u64::from_le_bytes(b.ram.get(at * 8)), 19_900 + at);
    }
    let port = house.port(Side::A);
    assert_eq!(port.windows[0].stores, 20_002);
    assert_eq!(port.refused_messages, 1);
}

#[test]
fn both_resets_clear_the_port_and_the_link_and_keep_memory_and_vectors() {
    let house = House::new();
    for level in ["function", "bus"] {
        let (mut a, mut b) = house.pair();
        b.write(Reg::Spad, 0, &[9; 4]);
        b.write(Reg::EmSpad, 0, &[9; 4]);
        let resets = house.port(Side::B).resets;
        if level == "function" {
            b.configure(config::DEVICE_CONTROL, &[0x00, 0x80]);
        } else {
            b.client.reset().unwrap();
        }
        assert_eq!(house.port(Side::B).resets, resets + 1);
        a.wait_for_link(false);
        assert_eq!(a.load(0), [0xFF; 8], "the window of a survivor is closed");
        assert_eq!(a.read::<4>(Reg::PeerSpad, 0), [0xFF; 4]);
        assert_eq!(b.config(config::COMMAND), [0x00, 0x00]);
        b.configure(config::COMMAND, &[0x06, 0x00]);
        assert_eq!(b.read(Reg::Spad, 0), [0; 4]);
        assert_eq!(b.read(Reg::Control, 0), [3, 0, 0, 0]);
        assert_eq!(b.config(config::DEVICE_CONTROL), [0x10, 0x28], "the reset bit reads 0");
        // The driver comes back; the maps and vectors are still those of before.
        b.load_driver();
        b.open_window(0, RAM_AT, 1 << 20);
        a.wait_for_link(true);
        a.store(8, &[5; 8]);
        assert_eq!(b.ram.get(8), [5; 8]);
        a.ring(3);
        b.wait_for_vector(3);
        drop((a, b));
        house.wait_gone(Side::A);
        house.wait_gone(Side::B);
    }
}

#[test]
fn a_host_goes_and_another_comes_and_nothing_of_the_old_one_is_left() {
    let house = House::new();
    let (mut a, b) = house.pair();
    drop(b);
    house.wait_gone(Side::B);
    a.wait_for_link(false);
    for (_, host) in ["first", "second", "third"].iter().zip(0..3) {
        let name = format!("old-{host}");
        let mut b = house.host(Side::B);
        b.ram = Ram::new(&name, RAM_BYTES);
        b.client.dma_unmap(vfio_user::wire::DmaUnmap::All).unwrap();
        b.map(RAM_AT, RAM_BYTES, 0).unwrap();
        b.load_driver();
        b.open_window(0, RAM_AT, 1 << 20);
        a.wait_for_link(true);
        a.store(0, b"are you?");
        assert_eq!(b.ram.get(0), *b"are you?");
        assert_eq!(times_mapped(&name), 1);
        let watched = b.vectors[6].try_clone().unwrap();
        assert_eq!(times_open(&watched), 3);
        let crate::house::Host { client, ram, vectors } = b;
        drop((client, vectors));
        house.wait_gone(Side::B);
        a.wait_for_link(false);
        let down = house.port(Side::A).windows[0].clone();
        a.store(0, b"nobody!!");
        assert_eq!(a.load(0), [0xFF; 8]);
        assert_eq!(ram.get(0), *b"are you?", "memory of a host that is gone was written");
        assert_eq!(times_mapped(&name), 0, "it is still mapped");
        assert_eq!(times_open(&watched), 1, "its eventfds are still open");
        let now = house.port(Side::A).windows[0].clone();
        assert_eq!((now.dropped, now.refused_loads), (down.dropped + 1, down.refused_loads + 1));
        a.ring(6);
        a.goes_on();
        assert_eq!(take(&watched), None);
    }
    let port = house.port(Side::B);
    assert_eq!((port.attaches, port.attached, port.mapped_bytes, port.unreachable_bytes), (4, false, 0, 0));
    assert!(!port.enabled && !port.bus_master && !port.memory_enabled, "it is as after power-on");
    assert_eq!(house.port(Side::A).doorbells_dropped, 3);
}

#[test]
fn a_host_that_comes_back_finds_the_survivors_registers_as_they_were() {
    let house = House::new();
    let (mut a, b) = house.pair();
    a.write(Reg::Spad, 2, &[1, 2, 3, 4]);
    drop(b);
    a.wait_for_link(false);
    assert_eq!(a.read(Reg::Spad, 2), [1, 2, 3, 4]);
    let mut b = house.host(Side::B);
    b.load_driver();
    a.wait_for_link(true);
    assert_eq!(b.read(Reg::PeerSpad, 2), [1, 2, 3, 4]);
    b.store(0x20, &[7; 3]);
    assert_eq!(a.ram.get(0x20), [7; 3]);
    let status = house.status();
    assert_eq!((status.link.ups, status.link.downs), (2, 1));
}

#[test]
fn ports_tell_what_they_have() {
    let house = House::new();
    let mut a = house.client(Side::A);
    let info = a.device_info().unwrap();
    assert_eq!((info.flags, info.regions, info.irqs), (3, 9, 5));
    let sizes: Vec<u64> = (0..9).map(|at| a.region_info(RegionIndex(at)).unwrap().size).collect();
    assert_eq!(sizes, [0x1_0000, 0, 1 << 20, 0, 1 << 20, 0, 0, 4096, 0]);
    assert!((0..9).all(|at| a.region_info(RegionIndex(at)).unwrap().fd.is_none()), "windows are messages");
    let irqs: Vec<(u32, u32)> =
        (0..5).map(|at| a.irq_info(IrqIndex(at)).unwrap()).map(|info| (info.flags, info.count)).collect();
    assert_eq!(irqs, [(0, 0), (0, 0), (1, 33), (1, 1), (0, 0)]);
    let einval = rustix::io::Errno::INVAL.raw_os_error();
    assert_eq!(refused(a.region_info(RegionIndex(9))), einval);
    assert_eq!(refused(a.irq_info(IrqIndex(5))), einval);
    assert_eq!(a.server().max_data_xfer_size, 1 << 20);
    // As QEMU does before anything else: all of configuration space in one read.
    let mut space = [0; 4096];
    a.region_read(RegionIndex::CONFIG, 0, &mut space).unwrap();
    assert_eq!(space[..4], [0x86, 0x80, 0x1C, 0x20]);
    a.dma_map(ram_map(0, 4096, 0), None).unwrap();
    let port = house.port(Side::A);
    assert_eq!((port.mapped_bytes, port.unreachable_bytes), (0, 4096));
    assert_eq!(port.pid, Some(std::process::id()));
    assert!(PATIENCE > Duration::from_secs(5));
}
