//! DMA engines beside mapped windows, and memory that may not be replaced.

use crate::engine::{BAR2, Engine};
use crate::house::{House, RAM_AT};
use crate::mapped_windows::{Mapped, ONES, WINDOW, eventually, linked, overlay, set_window};
use control::{CallError, PortName, Reply, Request, WindowMode as Mode};
use shm::{Access, Mapping, SharedFile};
use twin::Side;
use twin_server::WindowMode;
use vfio_user::wire::RegionIndex;

/// Two hosts with window 0 of a open onto b's memory, and an engine for each.
fn engines(house: &House) -> (Mapped, Mapped, Engine, Engine) {
    overlay(house);
    let (mut a, mut b) = linked(house);
    a.host.place_bars();
    b.host.place_bars();
    b.open(RAM_AT);
    let (engine_a, engine_b) = (Engine::new(house, Side::A, &a.host), Engine::new(house, Side::B, &b.host));
    (a, b, engine_a, engine_b)
}

fn lands_in_the_peers_memory(mode: WindowMode) {
    let house = House::apart(mode);
    let (a, b, mut engine_a, mut engine_b) = engines(&house);
    let somewhere = RAM_AT + (2 << 20);
    a.host.poke(somewhere, &[1; 0x8_0000]);
    engine_a.copy(&a.host, somewhere, BAR2 + 0x100, 0x8_0000);
    assert_eq!((b.see(0x100), a.load(0x100)), ([1; 8], [1; 8]), "{mode}");
    assert_eq!((b.see(0x8_00F8), a.load(0x8_00F8)), ([1; 8], [1; 8]), "{mode}");
    // What the processors store, engines read: through the window and in the memory under it.
    a.store(0x200, [2; 8]);
    engine_a.copy(&a.host, BAR2 + 0x200, somewhere, 8);
    assert_eq!(a.host.peek::<8>(somewhere), [2; 8], "{mode}");
    engine_b.copy(&b.host, RAM_AT + 0x200, somewhere, 8);
    assert_eq!(b.host.peek::<8>(somewhere), [2; 8], "{mode}");
    // And the other way round.
    b.host.poke(somewhere, &[3; 16]);
    engine_b.copy(&b.host, somewhere, RAM_AT + 0x300, 16);
    assert_eq!((b.see(0x300), a.load(0x308)), ([3; 8], [3; 8]), "{mode}");
    // From in front of the window's memory into it, and behind it.
    b.host.poke(somewhere, &[4; 0x2000]);
    engine_b.copy(&b.host, somewhere, RAM_AT + WINDOW - 0x1000, 0x2000);
    let end = usize::try_from(WINDOW).unwrap();
    assert_eq!((a.load(end - 8), b.see(end), b.see(end - 8)), ([4; 8], [4; 8], [4; 8]), "{mode}");
    house.end();
}

#[test]
fn an_engine_and_a_direct_window_are_one_memory() {
    lands_in_the_peers_memory(WindowMode::Direct);
}

#[test]
fn an_engine_looks_through_an_alias_window() {
    lands_in_the_peers_memory(WindowMode::Alias);
}

#[test]
fn in_shared_mode_an_engine_reaches_the_windows_own_memory() {
    let house = House::apart(WindowMode::Shared);
    let (a, b, mut engine, _) = engines(&house);
    let before = b.see(0x100);
    a.host.poke(RAM_AT, &[1; 0x8_0000]);
    engine.copy(&a.host, RAM_AT, BAR2 + 0x100, 0x8_0000);
    assert_eq!((a.load(0x100), b.load(0x100), b.load(0x8_00F8)), ([1; 8], [1; 8], [1; 8]));
    assert_eq!(b.see(0x100), before, "the peer's memory has no part in it");
    b.store(0x40, [2; 8]);
    engine.copy(&a.host, BAR2 + 0x40, RAM_AT, 8);
    assert_eq!(a.host.peek::<8>(RAM_AT), [2; 8]);
    house.end();
}

#[test]
fn a_window_that_changes_its_mode_under_an_engine_loses_nothing() {
    let house = House::apart(WindowMode::Direct);
    let (a, b, mut engine, _) = engines(&house);
    let modes = [Mode::Alias, Mode::Direct];
    for (round, mode) in (1u8..).zip(modes.into_iter().cycle().take(30)) {
        let source = RAM_AT + (1 << 20);
        a.host.poke(source, &vec![round; 1 << 20]);
        for channel in 0..4u8 {
            let part = 0x4_0000 * u64::from(channel);
            engine.begin_copy(&a.host, channel, source + part, BAR2 + part, 0x4_0000);
        }
        assert_eq!(set_window(&house, mode).unwrap(), Reply::Done);
        for channel in 0..4 {
            engine.wait(channel);
            assert_eq!(engine.error(channel), 0);
        }
        for at in (0..1 << 20).step_by(0x1000) {
            assert_eq!(b.see(at), [round; 8], "round {round}, {at:#x}");
        }
    }
    assert_eq!(house.port(Side::A).engine.unwrap().drops, 0);
    house.end();
}

/// Moves window 1 of port a.
fn set_second(house: &House, mode: Mode) -> Result<Reply, CallError> {
    house.control().call(&Request::SetWindow { port: PortName::A, window: 1, mode })
}

#[test]
fn memory_that_a_direct_window_maps_is_not_replaced_by_an_alias() {
    let house = House::apart(WindowMode::Direct);
    overlay(&house);
    let (mut a, mut b) = linked(&house);
    let second = a.host.client.region_info(RegionIndex::BAR4).unwrap();
    let file = SharedFile::accept(second.fd.unwrap(), WINDOW).unwrap();
    let second = Mapping::new(&file, second.fd_offset, WINDOW, Access::ReadWrite).unwrap();
    b.host.open_window(1, RAM_AT + 0x8000, 0x8000);
    house.wait_until(|status| status.ports[0].windows[1].open_bytes == 0x8000);
    second.write(0x10, &[9; 8]).unwrap();
    assert_eq!(b.see(0x8010), [9; 8]);
    let Err(CallError::Refused(why)) = set_window(&house, Mode::Alias) else { panic!() };
    assert!(why.contains("maps host b's memory") && why.contains("shared"), "{why}");
    // Closed, it maps nothing; then what the alias has taken, it does not get.
    b.host.open_window(1, RAM_AT + 0x8000, 0);
    assert_eq!(set_window(&house, Mode::Alias).unwrap(), Reply::Done);
    b.open(RAM_AT);
    a.store(0x100, [1; 8]);
    assert_eq!(b.see(0x100), [1; 8]);
    let Err(CallError::Refused(why)) = set_second(&house, Mode::Direct) else { panic!() };
    assert!(why.contains("an alias and a direct window"), "{why}");
    // The alias closes, the direct one opens; now the alias finds its memory mapped and stays closed.
    b.open(RAM_AT + (2 << 20));
    b.host.open_window(0, RAM_AT, 0);
    b.host.open_window(1, RAM_AT + 0x8000, 0x8000);
    b.open(RAM_AT);
    a.assert_closed(&b, "window 1 maps some of it");
    assert_eq!(a.load(0x8000), ONES);
    b.host.open_window(1, RAM_AT + 0x8000, 0);
    eventually("it opens when nobody maps it", || a.load(0x100) == [1; 8]);
    house.end();
}

#[test]
fn memory_that_somebody_else_maps_is_not_replaced() {
    let house = House::apart_with(WindowMode::Direct, true);
    overlay(&house);
    let (_a, mut b) = linked(&house);
    b.open(RAM_AT);
    let Err(CallError::Refused(why)) = set_window(&house, Mode::Alias) else { panic!() };
    assert!(why.contains("--ram-mapped") && why.contains("take direct"), "{why}");
    // The other host's memory is its own.
    let request = Request::SetWindow { port: PortName::B, window: 0, mode: Mode::Alias };
    assert_eq!(house.control().call(&request).unwrap(), Reply::Done);
    house.end();
}
