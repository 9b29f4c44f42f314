//! Windows that are memory: what lies under a host's mapping of its BAR at every moment.
//!
//! Both hosts are in this process, one overlay serves them, and the twin is in a process of its own.

use crate::house::{Host, House, PATIENCE, RAM_AT, Ram, pause, ram_map};
use control::{CallError, PortName, Reply, Request, WindowClass, WindowMode as Mode};
use ntb_spec::bar0::Reg;
use ntb_spec::config;
use shm::{Access, Mapping, SharedFile};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use twin::Side;
use twin_server::WindowMode;
use vfio_user::wire::{DmaAddr, DmaUnmap, RegionIndex, region_flags};

pub(crate) const WINDOW: u64 = 1 << 20;
pub(crate) const ONES: [u8; 8] = [0xFF; 8];

/// Lets an overlay of this process serve a twin, until the twin is gone.
pub(crate) fn overlay(house: &House) {
    // Once this returns, the twin knows it. To ask whether a host is offered a file would not do: it may be by another
    // overlay of this process, and then the new one, when it comes, costs the hosts that have attached meanwhile their link.
    let service = isthmus_overlay::Service::connect(&house.control_path()).unwrap();
    Box::leak(Box::new(service));
}

/// A host that has mapped window 0 and its own memory, as QEMU does.
pub(crate) struct Mapped {
    pub(crate) host: Host,
    pub(crate) bar: Mapping,
    pub(crate) ram: Mapping,
}

impl Mapped {
    pub(crate) fn new(house: &House, side: Side) -> Self {
        let mut host = house.host(side);
        let info = host.client.region_info(RegionIndex::BAR2).unwrap();
        assert_eq!(info.flags & region_flags::MMAP, region_flags::MMAP);
        let file = SharedFile::accept(info.fd.unwrap(), WINDOW).unwrap();
        let bar = Mapping::new(&file, info.fd_offset, WINDOW, Access::ReadWrite).unwrap();
        let ram = map_file(&host.ram);
        Self { host, bar, ram }
    }

    /// The first bytes of its window at `at`.
    pub(crate) fn load(&self, at: usize) -> [u8; 8] {
        let mut out = [0; 8];
        self.bar.read(at, &mut out).unwrap();
        out
    }

    pub(crate) fn store(&self, at: usize, data: [u8; 8]) {
        self.bar.write(at, &data).unwrap();
    }

    /// What its own processors see in its memory.
    pub(crate) fn see(&self, at: usize) -> [u8; 8] {
        let mut out = [0; 8];
        self.ram.read(at, &mut out).unwrap();
        out
    }

    /// Nothing is behind its window: loads give ones, stores do not reach the peer.
    pub(crate) fn assert_closed(&self, peer: &Self, why: &str) {
        let before = peer.see(0x100);
        assert_eq!(self.load(0x100), ONES, "{why}");
        self.store(0x100, [0x77; 8]);
        assert_eq!(peer.see(0x100), before, "{why}");
        assert_eq!(peer.host.ram.get(0x100), before, "{why}");
        // What was stored is this host's own affair; leave it as it was.
        self.store(0x100, ONES);
    }

    pub(crate) fn open(&mut self, address: u64) {
        self.host.open_window(0, address, WINDOW);
    }
}

pub(crate) fn map_file(ram: &Ram) -> Mapping {
    let file = SharedFile::accept(ram.0.try_clone().unwrap().into(), 0).unwrap();
    Mapping::new(&file, 0, file.bytes(), Access::ReadWrite).unwrap()
}

/// Two hosts with the link up, and nothing open.
pub(crate) fn linked(house: &House) -> (Mapped, Mapped) {
    let (mut a, mut b) = (Mapped::new(house, Side::A), Mapped::new(house, Side::B));
    a.host.load_driver();
    b.host.load_driver();
    a.host.wait_for_link(true);
    b.host.wait_for_link(true);
    (a, b)
}

pub(crate) fn set_window(house: &House, mode: Mode) -> Result<Reply, CallError> {
    house.control().call(&Request::SetWindow { port: PortName::A, window: 0, mode })
}

/// Does something until it is so; for changes that no reply waits for.
pub(crate) fn eventually(what: &str, fact: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !fact() {
        assert!(Instant::now() < until, "{what}");
        pause(Duration::from_millis(1));
    }
}

/// Both modes by which a store lands in the peer's memory: opening, moving, closing, and every way to close.
fn a_life(mode: WindowMode) {
    let house = House::apart(mode);
    overlay(&house);
    let (mut a, mut b) = linked(&house);
    assert_eq!(house.port(Side::A).windows[0].class, WindowClass::Mapped);
    a.assert_closed(&b, "never opened");
    // Everything after a write's reply is there without waiting.
    b.ram.write(0x8, &[0x42; 8]).unwrap();
    b.open(RAM_AT);
    assert_eq!(a.load(0x8), [0x42; 8], "what is in the memory is in the window");
    a.store(0x100, [1; 8]);
    assert_eq!(b.see(0x100), [1; 8]);
    b.ram.write(0x100, &[2; 8]).unwrap();
    assert_eq!(a.load(0x100), [2; 8]);
    // By messages it is the same memory.
    assert_eq!(a.host.load(0x100), [2; 8]);
    a.host.store(0x108, &[3; 8]);
    assert_eq!((a.load(0x108), b.see(0x108)), ([3; 8], [3; 8]));
    a.store(usize::try_from(WINDOW).unwrap() - 8, [4; 8]);
    assert_eq!(b.see(usize::try_from(WINDOW).unwrap() - 8), [4; 8]);
    // It moves.
    b.open(RAM_AT + 2 * WINDOW);
    assert_eq!(b.see(0x100), [2; 8], "bytes stay where they were stored");
    assert_eq!(b.host.ram.get(0x100), [2; 8], "in the file too");
    a.store(0x100, [5; 8]);
    assert_eq!((b.see(0x20_0100), b.see(0x100)), ([5; 8], [2; 8]));
    // As Linux clears it: translation, limit, limit of the outer one.
    let outer: [u8; 8] = b.host.read(Reg::EmBar1, 0);
    let close = |b: &mut Mapped| {
        b.host.write(Reg::ImBar1Xbase, 0, &[0; 8]);
        b.host.write(Reg::ImBar1Xlmt, 0, &[0; 8]);
        b.host.write(Reg::EmBar1Xlmt, 0, &outer);
    };
    close(&mut b);
    a.assert_closed(&b, "cleared");
    assert_eq!(b.host.ram.get(0x20_0100), [5; 8], "what was stored is the memory's");
    assert_eq!(b.see(0x20_0100), [5; 8]);
    // Less than the whole, in whole pages.
    b.host.open_window(0, RAM_AT, 0x1801);
    a.store(0x1FF8, [6; 8]);
    assert_eq!((b.see(0x1FF8), a.load(0x2000)), ([6; 8], ONES));
    // The peer's bus mastering, the link from either end.
    b.open(RAM_AT);
    b.host.configure(config::COMMAND, &[0x02, 0]);
    a.assert_closed(&b, "the peer may not master its bus");
    b.host.configure(config::COMMAND, &[0x06, 0]);
    a.store(0x100, [7; 8]);
    assert_eq!(b.see(0x100), [7; 8]);
    for side in Side::BOTH {
        let host = if side == Side::A { &mut a.host } else { &mut b.host };
        host.write(Reg::Control, 0, &3u32.to_le_bytes());
        a.assert_closed(&b, "the link is down");
        let host = if side == Side::A { &mut a.host } else { &mut b.host };
        host.write(Reg::Control, 0, &0x154u32.to_le_bytes());
        a.host.wait_for_link(true);
        b.host.wait_for_link(true);
        eventually("open again with the link", || a.load(0x100) == [7; 8]);
    }
    // Withdrawn under it.
    b.host.client.dma_unmap(DmaUnmap::All).unwrap();
    a.assert_closed(&b, "its memory is withdrawn");
    assert_eq!(b.host.ram.get(0x100), [7; 8]);
}

#[test]
fn a_direct_window_is_the_peers_memory_while_it_is_open() {
    a_life(WindowMode::Direct);
}

#[test]
fn an_alias_window_is_the_peers_memory_while_it_is_open() {
    a_life(WindowMode::Alias);
}

/// Across two sections with files of their own, then one of them leaves.
fn spans(mode: WindowMode) {
    let house = House::apart(mode);
    overlay(&house);
    let (a, mut b) = linked(&house);
    b.host.client.dma_unmap(DmaUnmap::All).unwrap();
    let other = Ram::new("other", WINDOW);
    let other_seen = map_file(&other);
    b.host.map(RAM_AT, 0x8000, 0x30_0000).unwrap();
    let rest = ram_map(RAM_AT + 0x8000, WINDOW - 0x8000, 0x4000);
    b.open(RAM_AT);
    a.assert_closed(&b, "half of its memory is missing");
    b.host.client.dma_map(rest, Some(other.0.as_fd())).unwrap();
    a.store(0x7FF8, [1; 8]);
    a.store(0x8000, [2; 8]);
    assert_eq!(b.see(0x30_7FF8), [1; 8]);
    let mut seen = [0; 8];
    other_seen.read(0x4000, &mut seen).unwrap();
    assert_eq!(seen, [2; 8]);
    let second = DmaUnmap::Range { iova: DmaAddr(RAM_AT + 0x8000), size: WINDOW - 0x8000 };
    b.host.client.dma_unmap(second).unwrap();
    a.assert_closed(&b, "half of its memory is withdrawn");
    assert_eq!((b.host.ram.get(0x30_7FF8), other.get(0x4000)), ([1; 8], [2; 8]));
    assert_eq!(house.status().link.state, control::LinkState::Up);
}

#[test]
fn a_direct_window_may_span_two_sections() {
    spans(WindowMode::Direct);
}

#[test]
fn an_alias_window_may_span_two_sections() {
    spans(WindowMode::Alias);
}

fn resets_and_departures(mode: WindowMode) {
    let house = House::apart(mode);
    overlay(&house);
    let (mut a, mut b) = linked(&house);
    b.open(RAM_AT);
    a.store(0x100, [1; 8]);
    b.host.client.reset().unwrap();
    a.assert_closed(&b, "the peer was reset");
    b.host.load_driver();
    b.host.wait_for_link(true);
    a.host.wait_for_link(true);
    b.open(RAM_AT);
    assert_eq!(a.load(0x100), [1; 8]);
    // The storing side is reset: its window is closed, and opens when the link is back.
    a.host.client.reset().unwrap();
    a.assert_closed(&b, "it was reset itself");
    a.host.load_driver();
    a.host.wait_for_link(true);
    eventually("open again", || a.load(0x100) == [1; 8]);
    // The peer leaves; its memory is nobody's any more.
    let Mapped { host, ram, bar } = b;
    let Host { client, ram: file, .. } = host;
    drop((client, bar));
    house.wait_gone(Side::B);
    eventually("closed", || a.load(0x100) == ONES);
    a.store(0x100, [9; 8]);
    let mut seen = [0; 8];
    ram.read(0x100, &mut seen).unwrap();
    assert_eq!(seen, [1; 8]);
    a.store(0x100, ONES);
    // The next one has nothing in common with it.
    let mut next = Mapped::new(&house, Side::B);
    next.host.load_driver();
    next.host.wait_for_link(true);
    next.open(RAM_AT);
    eventually("open", || a.load(0x100) == [0; 8]);
    a.store(0x100, [8; 8]);
    assert_eq!(next.see(0x100), [8; 8]);
    ram.read(0x100, &mut seen).unwrap();
    assert_eq!(seen, [1; 8], "a host that left is not written to");
    drop(file);
}

#[test]
fn a_direct_window_closes_with_a_reset_or_a_departure() {
    resets_and_departures(WindowMode::Direct);
}

#[test]
fn an_alias_window_closes_with_a_reset_or_a_departure() {
    resets_and_departures(WindowMode::Alias);
}

#[test]
fn shared_windows_are_one_memory_while_the_link_is_up() {
    let house = House::apart(WindowMode::Shared);
    overlay(&house);
    let (mut a, b) = linked(&house);
    eventually("open", || a.load(0) == [0; 8] && b.load(0) == [0; 8]);
    a.store(0x100, [1; 8]);
    assert_eq!((b.load(0x100), b.see(0x100)), ([1; 8], [0; 8]));
    b.store(0x200, [2; 8]);
    assert_eq!(a.load(0x200), [2; 8]);
    assert_eq!(a.host.load(0x200), [2; 8], "by messages too");
    a.host.write(Reg::Control, 0, &3u32.to_le_bytes());
    assert_eq!((a.load(0x100), b.load(0x100)), (ONES, ONES));
    a.host.write(Reg::Control, 0, &0x154u32.to_le_bytes());
    a.host.wait_for_link(true);
    eventually("open again", || a.load(0x100) == [1; 8]);
    drop(b);
    house.wait_gone(Side::B);
    let mut b = Mapped::new(&house, Side::B);
    b.host.load_driver();
    b.host.wait_for_link(true);
    eventually("open", || b.load(0x100) == [0; 8] && a.load(0x100) == [0; 8]);
}

#[test]
fn a_window_moves_between_the_modes_of_its_class() {
    let house = House::apart(WindowMode::Direct);
    overlay(&house);
    let (a, mut b) = linked(&house);
    b.open(RAM_AT);
    for (nth, mode) in [Mode::Alias, Mode::Direct, Mode::Shared, Mode::Alias, Mode::Shared, Mode::Direct]
        .into_iter()
        .enumerate()
    {
        let before = b.see(0x100);
        assert_eq!(set_window(&house, mode).unwrap(), Reply::Done);
        let data = [u8::try_from(nth + 1).unwrap(); 8];
        if mode == Mode::Shared {
            eventually("shared", || ![before, ONES].contains(&a.load(0x100)));
            assert_eq!(b.see(0x100), before);
        } else {
            eventually("open", || a.load(0x100) == before);
            // The same bytes may be seen before the last step.
            eventually("it passes", || {
                a.store(0x100, data);
                b.see(0x100) == data
            });
        }
        assert_eq!(house.port(Side::A).windows[0].mode, mode);
    }
    for mode in [Mode::Trap, Mode::Dma] {
        let Err(CallError::Refused(why)) = set_window(&house, mode) else { panic!() };
        assert!(why.contains("mapped") && why.contains("messaged") && why.contains("restart"), "{why}");
    }
    assert!(
        house.control().call(&Request::SetWindow { port: PortName::A, window: 2, mode: Mode::Trap }).is_err()
    );
}

#[test]
fn translations_into_nowhere_leave_a_mapped_window_closed() {
    for mode in [WindowMode::Direct, WindowMode::Alias] {
        let house = House::apart(mode);
        overlay(&house);
        let (a, mut b) = linked(&house);
        let read_only = Ram::new("rom", WINDOW);
        let map = vfio_user::wire::DmaMap { writeable: false, ..ram_map(0x1_0000_0000, WINDOW, 0) };
        b.host.client.dma_map(map, Some(read_only.0.as_fd())).unwrap();
        let write_only = vfio_user::wire::DmaMap { readable: false, ..ram_map(0x2_0000_0000, WINDOW, 0) };
        b.host.client.dma_map(write_only, Some(read_only.0.as_fd())).unwrap();
        b.host.client.dma_map(ram_map(0x3_0000_0000, WINDOW, 0), None).unwrap();
        let odd = ram_map(0x4_0000_0800, WINDOW, 0x800);
        b.host.client.dma_map(odd, Some(Ram::new("odd", 2 * WINDOW).0.as_fd())).unwrap();
        for base in [
            0,
            RAM_AT - 0x1000,
            RAM_AT + (4 << 20) - 0x1000,
            0x1_0000_0000,
            0x2_0000_0000,
            0x3_0000_0000,
            0x4_0000_1000,
            u64::MAX - 0xFFF,
            1 << 63,
            0xFFFF_FFFF_FFF0_0000,
        ] {
            b.open(base);
            a.assert_closed(&b, &format!("{mode} {base:#x}"));
            b.open(RAM_AT);
            assert_eq!(a.load(0x100), [0; 8], "{mode} {base:#x}");
        }
        assert_eq!(house.status().link.state, control::LinkState::Up);
    }
}

#[test]
fn without_an_overlay_a_window_attaches_as_trap_until_there_is_one() {
    let house = House::apart(WindowMode::Direct);
    let (mut a, mut b) = house.pair();
    for host in [&mut a, &mut b] {
        let info = host.client.region_info(RegionIndex::BAR2).unwrap();
        assert_eq!((info.flags & region_flags::MMAP, info.fd.is_none()), (0, true));
    }
    let window = house.port(Side::A).windows[0].clone();
    assert_eq!((window.mode, window.class), (Mode::Trap, WindowClass::Messaged));
    a.store(0x100, &[1; 8]);
    assert_eq!((b.ram.get(0x100), a.load(0x100)), ([1; 8], [1; 8]));
    let Err(CallError::Refused(why)) = set_window(&house, Mode::Direct) else { panic!() };
    assert!(why.contains("attached as messaged"), "{why}");
    drop((a, b));
    house.wait_gone(Side::A);
    house.wait_gone(Side::B);
    overlay(&house);
    let (a, mut b) = linked(&house);
    b.open(RAM_AT);
    a.store(0x100, [2; 8]);
    assert_eq!(b.see(0x100), [2; 8]);
}

#[test]
fn two_alias_windows_do_not_share_their_memory() {
    let house = House::apart(WindowMode::Alias);
    overlay(&house);
    let (mut a, mut b) = linked(&house);
    let file = SharedFile::accept(a.host.client.region_info(RegionIndex::BAR4).unwrap().fd.unwrap(), WINDOW);
    let second = Mapping::new(&file.unwrap(), 0, WINDOW, Access::ReadWrite).unwrap();
    let load = |at| {
        let mut out = [0; 8];
        second.read(at, &mut out).unwrap();
        out
    };
    b.open(RAM_AT);
    b.host.open_window(1, RAM_AT, WINDOW);
    b.host.open_window(1, RAM_AT + 0x1000, WINDOW);
    assert_eq!(load(0x100), ONES, "that memory is taken");
    a.store(0x1100, [1; 8]);
    assert_eq!(b.see(0x1100), [1; 8]);
    b.host.open_window(1, RAM_AT + WINDOW, WINDOW);
    second.write(0x100, &[2; 8]).unwrap();
    assert_eq!((b.see(0x10_0100), b.see(0x1100)), ([2; 8], [1; 8]));
    assert_eq!(house.status().link.state, control::LinkState::Up);
}

#[test]
fn a_process_that_keeps_an_alias_window_of_a_host_that_is_gone_has_nothing_of_the_next_ones() {
    let house = House::apart(WindowMode::Alias);
    overlay(&house);
    let (a, mut b) = linked(&house);
    b.open(RAM_AT);
    a.store(0x100, [1; 8]);
    assert_eq!(b.see(0x100), [1; 8]);
    // The host goes, and its process keeps the mapping.
    let Mapped { host, bar: kept, ram: _ram } = a;
    drop(host);
    house.wait_gone(Side::A);
    eventually("b has its memory back", || b.host.ram.get(0x100) == [1; 8]);
    let mut next = Mapped::new(&house, Side::A);
    next.host.load_driver();
    next.host.wait_for_link(true);
    eventually("open again", || next.load(0x100) == [1; 8]);
    next.store(0x108, [2; 8]);
    assert_eq!(b.see(0x108), [2; 8]);
    let mut seen = [0; 8];
    kept.read(0x108, &mut seen).unwrap();
    assert_ne!(seen, [2; 8], "the next host's bytes");
    kept.write(0x100, &[9; 8]).unwrap();
    assert_eq!((b.see(0x100), next.load(0x100)), ([1; 8], [1; 8]));
}

#[test]
fn a_twin_that_dies_leaves_windows_closed_and_memory_as_it_is() {
    for mode in [WindowMode::Direct, WindowMode::Alias, WindowMode::Shared] {
        let mut house = House::apart(mode);
        overlay(&house);
        let (a, mut b) = linked(&house);
        b.open(RAM_AT);
        a.store(0x100, [1; 8]);
        let seen = b.see(0x100);
        house.child().kill().unwrap();
        eventually("closed", || a.load(0x100) == ONES && b.load(0) == ONES);
        assert_eq!(b.see(0x100), seen, "{mode}");
        a.store(0x100, [2; 8]);
        assert_eq!((b.see(0x100), a.load(0x108)), (seen, ONES));
    }
}
