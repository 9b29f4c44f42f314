//! Hosts that reset, die, stop, are unplugged or come twice; a twin that dies.

use crate::bench::{BOTH, Pair, Twin};
use crate::host::{Host, LINK_VECTOR, Slot, device};
use crate::qemu::{Memory, refused, there_is_a_qemu};
use control::{Event, LinkState, PortName};
use ntb_spec::bar0::Reg;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// How long a stopped host must not matter to anybody.
const STOPPED: Duration = Duration::from_secs(10);

/// Data and doorbells pass both ways.
fn check_traffic(pair: &mut Pair, value: u64) {
    for port in BOTH {
        let (from, to, _) = pair.direction(port);
        from.qemu.store(from.bar(4) + 0x40, 8, value);
        from.write(Reg::PeerSpad, 9, value & 0xFFFF_FFFF);
        from.ring(2);
        to.expect_only(2);
        // The doorbell was rung after the stores, so they have arrived.
        assert_eq!(to.qemu.load(to.buffer(1) + 0x40, 8), value);
        assert_eq!(to.read(Reg::Spad, 9), value & 0xFFFF_FFFF);
        to.clear_status(1 << 2);
    }
}

/// What a host sees whose peer is not there.
fn check_solitude(host: &mut Host) {
    host.wait_for_link(false);
    host.expect_only(LINK_VECTOR);
    assert_eq!(host.read(Reg::IntStatus, 0), 1 << 32);
    host.acknowledge_link();
    for bar in [2, 4] {
        let at = host.bar(bar);
        host.qemu.store(at, 8, 0xBAD);
        assert_eq!(host.qemu.load(at, 8), u64::MAX, "BAR {bar}");
    }
    assert_eq!(host.read(Reg::PeerSpad, 0), 0xFFFF_FFFF);
    host.ring(1);
    host.expect_silence();
}

#[test]
fn qemu_reset_takes_the_link_down_until_its_driver_is_back() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::up(&[]);
    check_traffic(&mut pair, 0x1111_2222_3333_4444);
    for round in 0..2 {
        let (gone, stays) = match round {
            0 => (&mut pair.b, &mut pair.a),
            _ => (&mut pair.a, &mut pair.b),
        };
        let port = gone.port;
        gone.reset();
        pair.twin.wait_for("a reset", |event| matches!(event, Event::Reset { port: of, .. } if *of == port));
        check_solitude(stays);
        let kept = stays.read(Reg::ImBar2Xbase, 0);
        assert_eq!(kept, stays.buffer(1), "the survivor's translation survives");
        // The device is as after power-on; its driver begins anew.
        gone.assign_bars();
        assert_eq!(gone.read(Reg::Control, 0), 0x3);
        assert_eq!(gone.read(Reg::ImBar2Xbase, 0), 0);
        assert_eq!(gone.read(Reg::Spad, 9), 0);
        gone.probe();
        assert_eq!(stays.link_status(), 0x0103, "nobody has enabled the link yet");
        gone.open_windows();
        gone.enable_link();
        pair.wait_until_up();
        check_traffic(&mut pair, 0x5555_0000 + round);
    }
    for port in pair.twin.status().ports {
        assert!(port.attached && port.attaches == 1 && port.resets >= 2, "{port:?}");
    }
    pair.finish();
}

#[test]
fn qemu_killed_takes_the_link_down_until_the_next_one_attaches() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::up(&[]);
    for round in 0..2 {
        check_traffic(&mut pair, 0x7777_0000 + round);
        let (gone, stays) = match round {
            0 => (&mut pair.b, &mut pair.a),
            _ => (&mut pair.a, &mut pair.b),
        };
        let port = gone.port;
        gone.qemu.kill();
        pair.twin.wait_for_detach(port);
        check_solitude(stays);
        let status = pair.twin.port(port);
        assert!(!status.attached && status.pid.is_none() && !status.enabled, "{status:?}");
        assert_eq!((status.mapped_bytes, status.unreachable_bytes), (0, 0), "its memory is let go");
        *gone = Host::start(&pair.twin, port, Slot::RootPort, Memory::OneFile);
        pair.twin.wait_for_attach(port);
        let status = pair.twin.port(port);
        assert_eq!((status.pid, status.attaches), (Some(gone.qemu.id()), 2));
        gone.probe();
        gone.open_windows();
        gone.enable_link();
        pair.wait_until_up();
    }
    check_traffic(&mut pair, 0x9999_8888_7777_6666);
    let link = pair.twin.status().link;
    assert_eq!((link.ups, link.downs), (3, 2));
    pair.finish();
}

#[test]
fn qemu_stopped_for_ten_seconds_does_not_hold_up_the_other() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::up(&[]);
    check_traffic(&mut pair, 1);
    let Pair { a, b, twin, .. } = &mut pair;
    b.qemu.signal(Signal::STOP);
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < STOPPED {
        rounds += 1;
        a.write(Reg::PeerSpad, 0, rounds);
        a.qemu.store(a.bar(2) + 8 * (rounds % 512), 8, rounds);
        a.ring(3);
        assert_eq!(a.read(Reg::PeerSpad, 0), rounds);
        assert_eq!(a.qemu.load(a.bar(2) + 8 * (rounds % 512), 8), rounds, "its memory is still there");
        assert_eq!(a.link_status(), 0x2103);
        assert_eq!(twin.next_event(Duration::from_millis(250)), None, "the link stays");
    }
    assert!(begun.elapsed() < STOPPED * 2, "and nothing took long");
    // Not even a change of the link waits for it.
    a.disable_link();
    twin.wait_for_link(LinkState::Down);
    a.expect_only(LINK_VECTOR);
    a.acknowledge_link();
    assert_eq!(b.qemu.id(), twin.port(PortName::B).pid.unwrap());
    b.qemu.signal(Signal::CONT);
    // What happened meanwhile is there when it goes on.
    b.wait_for_vector(3);
    b.wait_for_vector(LINK_VECTOR);
    assert_eq!(b.link_status(), 0x0103);
    assert_eq!(b.read(Reg::Spad, 0), rounds);
    assert_eq!(b.qemu.load(b.buffer(0) + 8 * (rounds % 512), 8), rounds);
    assert_eq!(b.read(Reg::IntStatus, 0), 1 << 3 | 1 << 32);
    b.clear_status(1 << 3 | 1 << 32);
    b.clear_messages();
    a.enable_link();
    pair.wait_until_up();
    check_traffic(&mut pair, 2);
    pair.finish();
}

#[test]
fn qemu_at_an_occupied_port_is_told_so_and_the_first_goes_on() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::up(&[]);
    for (port, slot) in [(PortName::A, Slot::RootComplex), (PortName::B, Slot::RootComplex)] {
        let arguments = ["-device", &device(&pair.twin.socket(port), slot)].map(str::to_owned);
        let (status, said) = refused(pair.twin.directory(), "second", &arguments);
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("Device or resource busy"), "the message must say what is wrong: {said}");
    }
    check_traffic(&mut pair, 0xABCD_EF01_2345_6789);
    for port in pair.twin.status().ports {
        assert_eq!((port.attaches, port.attached), (1, true));
    }
    pair.expected.push("a second host is turned away");
    pair.finish();
}

#[test]
fn qemu_outlives_a_twin_that_ends_or_dies_and_the_next_twin_takes_its_place() {
    if !there_is_a_qemu() {
        return;
    }
    let twin = Twin::start(&[]);
    let mut orphan = Host::start(&twin, PortName::A, Slot::RootPort, Memory::OneFile);
    orphan.probe();
    // QEMU 11.1.3 aborts if its connection is reset, which a process that is killed does to it if it leaves requests unread.
    orphan.flush();
    let directory = twin.kill();
    // From now on QEMU gives its guest all ones, and lives. It does not connect again.
    assert_eq!(orphan.read(Reg::Control, 0), 0xFFFF_FFFF);
    assert_eq!(orphan.qemu.load(orphan.bar(2), 8), u64::MAX);

    // What the dead twin left behind is in nobody's way.
    let mut twin = Twin::start_in(directory, &[]);
    let mut host = Host::start(&twin, PortName::A, Slot::RootComplex, Memory::OneFile);
    host.assign_bars();
    assert_eq!(host.read(Reg::Control, 0), 0x3);
    assert_eq!(orphan.read(Reg::Control, 0), 0xFFFF_FFFF);
    // A twin that ends in order takes what is under way, so that these stores reset nothing.
    twin.pause();
    for value in 0..50 {
        host.write(Reg::Spad, 0, value);
    }
    twin.finish(&[]);
    assert_eq!(host.read(Reg::Control, 0), 0xFFFF_FFFF);
    assert_eq!(host.config_read(0x14C, 4), 0xFFFF_FFFF);
}
