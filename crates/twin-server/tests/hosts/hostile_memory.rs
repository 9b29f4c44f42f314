//! Memory that is none, that goes away, or that is too much; and what is given in place of an eventfd.

use crate::house::{
    Host, House, PATIENCE, RAM_AT, RAM_BYTES, Ram, ram_map, refused, take, times_mapped, times_open,
};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, ftruncate,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use twin::Side;
use vfio_user::wire::{
    DmaAddr, DmaMap, DmaUnmap, Flags, IrqAction, IrqData, IrqIndex, MessageId, Request, SetIrqs,
};

const PAGE: u64 = 4096;
/// Where the suspicious map goes, and the window that leads there.
const AT: u64 = 0x4000_0000;

/// Maps `fd` at [`AT`] of port b and looks through a's window 0 what is there.
fn offered(a: &mut Host, b: &mut Host, map: DmaMap, fd: BorrowedFd<'_>) -> [u8; 8] {
    b.client.dma_map(map, Some(fd)).unwrap();
    b.open_window(0, AT, 1 << 20);
    a.store(8, &[7; 8]);
    let seen = a.load(8);
    a.goes_on();
    b.goes_on();
    seen
}

#[test]
fn files_that_are_no_memory_are_not_reached_and_not_kept() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let fifo = File::options().read(true).write(true).open(fifo).unwrap();
    let zero = File::options().read(true).write(true).open("/dev/zero").unwrap();
    let mut disk = tempfile::tempfile().unwrap();
    disk.write_all(&[1; 8192]).unwrap();
    let folder = File::open(directory.path()).unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let bell = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let unsealable = Ram::with("unsealable", 8192, MemfdFlags::empty());
    let sealed_open = Ram::new("sealed-open", 8192);
    fcntl_add_seals(&sealed_open.0, SealFlags::SEAL).unwrap();
    let no_writes = Ram::new("no-writes", 8192);
    fcntl_add_seals(&no_writes.0, SealFlags::WRITE).unwrap();
    let short = Ram::new("short", 4096);
    let empty = Ram::new("empty", 0);
    let fds: [(&str, OwnedFd); 11] = [
        ("fifo", fifo.into()),
        ("/dev/zero", zero.into()),
        ("disk", disk.into()),
        ("directory", folder.into()),
        ("socket", socket.into()),
        ("eventfd", bell),
        ("unsealable", unsealable.0.into()),
        ("sealed, but not against shrinking", sealed_open.0.into()),
        ("sealed against writing", no_writes.0.into()),
        ("shorter than announced", short.0.into()),
        ("empty", empty.0.into()),
    ];
    let map = ram_map(AT, 8192, 0);
    for (name, fd) in &fds {
        assert_eq!(offered(&mut a, &mut b, map, fd.as_fd()), [0xFF; 8], "{name}");
        assert_eq!(house.port(Side::B).unreachable_bytes, 8192, "{name}");
        b.client.dma_unmap(DmaUnmap::Range { iova: DmaAddr(AT), size: 8192 }).unwrap();
    }
    assert_eq!(times_open(&fds[5].1), 1);
    // Reading what is sealed against writing is fine; so is a file's far end, and not a byte more.
    let no_writes = fds[8].1.as_fd();
    assert_eq!(offered(&mut a, &mut b, DmaMap { writeable: false, ..map }, no_writes), [0; 8]);
    b.client.dma_unmap(DmaUnmap::Range { iova: DmaAddr(AT), size: 8192 }).unwrap();
    let ram = b.ram.0.try_clone().unwrap();
    for (fd_offset, seen) in [(RAM_BYTES - 8192, [7; 8]), (RAM_BYTES - 4096, [0xFF; 8]), (1 << 62, [0xFF; 8])]
    {
        let map = ram_map(AT, 8192, fd_offset);
        assert_eq!(offered(&mut a, &mut b, map, ram.as_fd()), seen, "at {fd_offset:#x}");
        b.client.dma_unmap(DmaUnmap::Range { iova: DmaAddr(AT), size: 8192 }).unwrap();
    }
    house.end();
}

#[test]
fn a_file_that_is_cut_or_emptied_afterwards_kills_nobody() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    // A memfd is sealed when it is offered, so it cannot be cut.
    let ram = Ram::new("cut", 8192);
    assert_eq!(offered(&mut a, &mut b, ram_map(AT, 8192, 0), ram.0.as_fd()), [7; 8]);
    assert!(fcntl_get_seals(&ram.0).unwrap().contains(SealFlags::SHRINK));
    assert!(ftruncate(&ram.0, 0).is_err());
    assert!(ftruncate(&ram.0, 4096).is_err());
    ftruncate(&ram.0, 1 << 20).unwrap();
    // Its pages may be given back (a balloon does that): they read zero and take stores again.
    fallocate(&ram.0, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 8192).unwrap();
    assert_eq!(a.load(8), [0; 8]);
    a.store(8, &[9; 8]);
    assert_eq!(ram.get(8), [9; 8]);
    // One that cannot be sealed is not touched, so it may be cut.
    b.client.dma_unmap(DmaUnmap::Range { iova: DmaAddr(AT), size: 8192 }).unwrap();
    let unsealable = Ram::with("unsealed", 8192, MemfdFlags::empty());
    assert_eq!(offered(&mut a, &mut b, ram_map(AT, 8192, 0), unsealable.0.as_fd()), [0xFF; 8]);
    ftruncate(&unsealable.0, 0).unwrap();
    a.store(8, &[7; 8]);
    assert_eq!(a.load(8), [0xFF; 8]);
    // A file on disk, cut while it is offered.
    b.client.dma_unmap(DmaUnmap::Range { iova: DmaAddr(AT), size: 8192 }).unwrap();
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(8192).unwrap();
    assert_eq!(offered(&mut a, &mut b, ram_map(AT, 8192, 0), disk.as_fd()), [0xFF; 8]);
    disk.set_len(0).unwrap();
    assert_eq!(a.load(8), [0xFF; 8]);
    house.end();
}

#[test]
fn overlaps_are_refused_and_an_unmap_takes_whole_sections() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let fd = b.ram.0.try_clone().unwrap();
    let client = &mut b.client;
    client.dma_unmap(DmaUnmap::All).unwrap();
    for page in [0, 1, 3] {
        client.dma_map(ram_map(RAM_AT + page * PAGE, PAGE, page * PAGE), Some(fd.as_fd())).unwrap();
    }
    let exists = Errno::EXIST.raw_os_error();
    for (first, bytes) in [(0, RAM_BYTES), (RAM_AT, 1), (RAM_AT + PAGE, PAGE), (RAM_AT + 2 * PAGE, 2 * PAGE)]
    {
        assert_eq!(refused(client.dma_map(ram_map(first, bytes, 0), Some(fd.as_fd()))), exists);
        assert_eq!(refused(client.dma_map(ram_map(first, bytes, 0), None)), exists);
    }
    let cuts = Errno::INVAL.raw_os_error();
    let none = Errno::NOENT.raw_os_error();
    let range = |first, size| DmaUnmap::Range { iova: DmaAddr(first), size };
    for (first, bytes, errno) in [
        (RAM_AT, 1, cuts),
        (RAM_AT + 1, PAGE - 1, cuts),
        (RAM_AT, PAGE + 1, cuts),
        (RAM_AT - 8, PAGE, cuts),
        (RAM_AT + 2 * PAGE, PAGE, none),
        (0, RAM_AT, none),
        (RAM_AT + 4 * PAGE, 1 << 40, none),
    ] {
        assert_eq!(refused(client.dma_unmap(range(first, bytes))), errno, "{first:#x}+{bytes:#x}");
    }
    client.dma_unmap(range(0, 1 << 40)).unwrap();
    assert_eq!(refused(client.dma_unmap(range(0, 1 << 40))), none);
    client.dma_unmap(DmaUnmap::All).unwrap();
    assert_eq!(a.load(0), [0xFF; 8]);
    b.map(RAM_AT, RAM_BYTES, 0).unwrap();
    a.store(0, &[1; 8]);
    assert_eq!(b.ram.get(0), [1; 8]);
    house.end();
}

/// Sends maps of one page each in one go, as QEMU does, and counts the errors of the answers.
fn map_many(host: &mut Host, pages: std::ops::Range<u64>, fd: Option<BorrowedFd<'_>>) -> (usize, usize) {
    let (mut good, mut full) = (0, 0);
    let no_space = Errno::NOSPC.raw_os_error();
    let pages: Vec<u64> = pages.collect();
    for chunk in pages.chunks(100) {
        for &page in chunk {
            let mut message = Vec::new();
            let map = ram_map(AT + 2 * PAGE * page, PAGE, 0);
            Request::DmaMap(map).emit(MessageId(1), Flags::COMMAND, &mut message);
            host.client.send_raw(&message, fd.as_slice()).unwrap();
        }
        for _ in chunk {
            let (header, _, _) = host.client.receive_raw().unwrap();
            match i32::try_from(header.error()).unwrap() {
                0 => good += 1,
                errno if errno == no_space => full += 1,
                errno => panic!("errno {errno}"),
            }
        }
    }
    (good, full)
}

#[test]
fn more_maps_than_there_is_room_for_cost_the_other_host_nothing() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let page = Ram::new("a-page", PAGE);
    // Each with a file: the process has 65530 mappings for both hosts and both engines.
    assert_eq!(map_many(&mut a, 0..17_000, Some(page.0.as_fd())), (12_287, 4713));
    assert_eq!(times_mapped("a-page"), 12_287);
    b.goes_on();
    let more = Ram::new("more", PAGE);
    b.client.dma_map(ram_map(AT, PAGE, 0), Some(more.0.as_fd())).unwrap();
    assert_eq!(times_mapped("more"), 1);
    // Without one: as many as QEMU says it may have.
    assert_eq!(map_many(&mut a, 12_287..65_540, None), (53_247, 6));
    let port = house.port(Side::A);
    assert_eq!((port.mapped_bytes, port.unreachable_bytes), (12_287 * PAGE + RAM_BYTES, 53_247 * PAGE));
    let slowest = b.goes_on();
    a.client.dma_unmap(DmaUnmap::All).unwrap();
    assert_eq!(times_mapped("a-page"), 0);
    assert!(slowest < PATIENCE);
    a.map(RAM_AT, RAM_BYTES, 0).unwrap();
    b.store(0, &[1; 8]);
    assert_eq!(a.ram.get(0), [1; 8]);
    house.end();
}

#[test]
fn only_eventfds_are_taken_as_interrupts_and_a_full_one_does_not_stop_the_twin() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let (pipe_out, pipe_in) = rustix::pipe::pipe().unwrap();
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let disk: OwnedFd = tempfile::tempfile().unwrap().into();
    let null: OwnedFd = File::options().write(true).open("/dev/null").unwrap().into();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let good = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let socket = OwnedFd::from(socket);
    for bad in [&pipe_in, &pipe_out, &poller, &disk, &null, &socket] {
        let fds = [good.as_fd(), bad.as_fd(), good.as_fd()];
        let result = b.client.assign_irqs(IrqIndex::MSIX, 3, &fds);
        assert_eq!(refused(result), Errno::INVAL.raw_os_error());
        assert_eq!(times_open(&good), 1, "a message is taken whole or not at all");
        a.ring(3);
        b.wait_for_vector(3);
        b.write(ntb_spec::bar0::Reg::IntStatus, 0, &8u64.to_le_bytes());
    }
    // Full, and blocking: the twin makes it non-blocking, and does not wait for room.
    let full = eventfd(0, EventfdFlags::empty()).unwrap();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    b.client.assign_irqs(IrqIndex::MSIX, 3, &[full.as_fd()]).unwrap();
    for _ in 0..100 {
        a.ring(3);
        a.goes_on();
        b.write(ntb_spec::bar0::Reg::IntStatus, 0, &8u64.to_le_bytes());
    }
    b.goes_on();
    assert_eq!(take(&full), Some(u64::MAX - 1));
    a.ring(3);
    a.goes_on();
    assert_eq!(take(&full), Some(1));
    // An eventfd as a semaphore, and one whose reader is gone.
    let semaphore = eventfd(5, EventfdFlags::SEMAPHORE).unwrap();
    b.client.assign_irqs(IrqIndex::MSIX, 4, &[semaphore.as_fd()]).unwrap();
    drop(semaphore);
    a.ring(4);
    a.goes_on();
    house.end();
}

#[test]
fn a_host_that_fills_an_eventfd_and_makes_it_blocking_again_does_not_stop_its_neighbour() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let full = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    b.client.assign_irqs(IrqIndex::MSIX, 3, &[full.as_fd()]).unwrap();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let flags = rustix::fs::fcntl_getfl(&full).unwrap();
    rustix::fs::fcntl_setfl(&full, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    a.ring(3);
    a.goes_on();
    b.goes_on();
    // It has lost its interrupts, and nothing else.
    let refused = refused(b.client.assign_irqs(IrqIndex::MSIX, 3, &[full.as_fd()]));
    assert_eq!(refused, Errno::PERM.raw_os_error());
    drop(b);
    house.wait_gone(Side::B);
    let mut b = house.host(Side::B);
    b.load_driver();
    a.wait_for_link(true);
    b.wait_for_link(true);
    a.ring(3);
    b.wait_for_vector(3);
    house.end();
}

#[test]
fn a_storm_of_set_irqs_leaves_what_was_set_last_and_no_descriptors() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let fds: Vec<OwnedFd> = (0..33).map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap()).collect();
    fn set(start: u32, count: u32, action: IrqAction, data: IrqData<'_>) -> SetIrqs<'_> {
        SetIrqs { index: IrqIndex::MSIX, start, count, action, data }
    }
    for round in 0..500u32 {
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        b.client.assign_irqs(IrqIndex::MSIX, 0, &borrowed).unwrap();
        b.client.set_irqs(set(0, 33, IrqAction::Trigger, IrqData::None), &[]).unwrap();
        let some: [u8; 33] = std::array::from_fn(|at| u8::from(u32::try_from(at) == Ok(round % 33)));
        b.client.set_irqs(set(0, 33, IrqAction::Trigger, IrqData::Bool(&some)), &[]).unwrap();
        b.client.set_irqs(set(round % 33, 1, IrqAction::Trigger, IrqData::Eventfd), &[]).unwrap();
        if round.is_multiple_of(3) {
            b.client.disable_irqs(IrqIndex::MSIX).unwrap();
        }
        assert_eq!(refused(b.client.set_irqs(set(0, 33, IrqAction::Mask, IrqData::None), &[])), 22);
    }
    assert_eq!(take(&fds[0]), Some(500 + 16));
    a.goes_on();
    b.client.disable_irqs(IrqIndex::MSIX).unwrap();
    assert!(fds.iter().all(|fd| times_open(fd) == 1));
    house.end();
}

#[test]
fn what_a_file_was_is_read_from_the_file_not_from_its_name() {
    // A twin maps what it is given and nothing else: the bytes outside a section are not touched.
    let house = House::new();
    let (mut a, mut b) = house.pair();
    b.client.dma_unmap(DmaUnmap::All).unwrap();
    b.client.dma_map(ram_map(RAM_AT + 0x123, 0x100, 0x4567), Some(b.ram.0.as_fd())).unwrap();
    b.ram.put(0x4566, &[0xAA]);
    b.ram.put(0x4667, &[0xAA]);
    let mut data = Vec::new();
    std::io::repeat(3).take(0x100).read_to_end(&mut data).unwrap();
    a.store(0x123, &data);
    assert_eq!(b.ram.get::<0x102>(0x4566)[..3], [0xAA, 3, 3]);
    assert_eq!(b.ram.get::<0x102>(0x4566)[0xFF..], [3, 3, 0xAA]);
    assert_eq!(a.load::<8>(0x121), [0xFF; 8]);
    assert_eq!(a.load::<8>(0x21C), [0xFF; 8]);
}
