//! What hosts leave behind when they go: nothing.

use crate::engine::{BAR2, Engine};
use crate::house::{House, RAM_AT, Ram, ram_map};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::AsFd;
use std::process::Command;
use twin::Side;
use vfio_user::wire::{IrqIndex, RegionIndex};

/// Descriptors, mappings and resident pages of this process.
fn held() -> (usize, usize, usize) {
    let count = |path: &str| std::fs::read_dir(path).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = std::fs::read_to_string("/proc/self/statm").unwrap();
    let resident = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
    (count("/proc/self/fd"), maps.lines().filter(|line| line.contains("/memfd:")).count(), resident)
}

/// In a process of its own, since descriptors are counted: other tests have theirs.
#[test]
fn hosts_that_come_and_go_leave_nothing_behind() {
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", "leaks::alone", "--ignored", "--nocapture"]);
    let output = alone.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "counts descriptors; another test runs it in a process of its own"]
fn alone() {
    let house = House::new();
    // One round first: what is made once is not a leak.
    a_life(&house);
    // The visitor may be on his way out still, and so is the control client that asked just now.
    house.assert_idle();
    let (fds, maps, resident) = held();
    for _ in 0..30 {
        a_life(&house);
    }
    house.assert_idle();
    let after = held();
    assert_eq!((after.0, after.1), (fds, maps));
    // A round that kept one message buffer or one mapped page table would show by megabytes.
    assert!(after.2 < resident + 2048, "{resident} pages before, {} after", after.2);
    house.end();
}

/// Two hosts come, use everything, misbehave, and go.
fn a_life(house: &House) {
    let (mut a, mut b) = house.pair();
    let page = Ram::new("page", 4096);
    for nth in 0..100 {
        b.client.dma_map(ram_map(0x8000_0000 + nth * 8192, 4096, 0), Some(page.0.as_fd())).unwrap();
    }
    assert!(b.client.dma_map(ram_map(RAM_AT, 4096, 0), Some(page.0.as_fd())).is_err());
    let bell = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    a.client.assign_irqs(IrqIndex::MSIX, 0, &[bell.as_fd(); 33]).unwrap();
    assert!(a.client.assign_irqs(IrqIndex::MSIX, 0, &[pipe.as_fd()]).is_err());
    a.client.assign_irqs(IrqIndex::ERR, 0, &[bell.as_fd()]).unwrap();
    let data = vec![1; 1 << 20];
    a.client.region_write(RegionIndex::BAR2, 0, &data).unwrap();
    a.client.region_read(RegionIndex::BAR2, 0, &mut vec![0; 1 << 20]).unwrap();
    // An engine copies on the worker and at once, and is left with a copy under way.
    a.place_bars();
    let mut engine = Engine::new(house, Side::A, &a);
    engine.copy(&a, RAM_AT, BAR2, 0x8_0000);
    engine.copy(&a, RAM_AT, BAR2, 64);
    engine.begin_copy(&a, 1, RAM_AT, BAR2, 1 << 20);
    let turned_away = house.stranger(Side::B);
    drop(turned_away);
    // One leaves with descriptors in the middle of a message, one with replies that it never read.
    a.client.send_raw(&[1; 12], &[bell.as_fd(); 16]).unwrap();
    let mut request = Vec::new();
    for _ in 0..4 {
        vfio_user::wire::Request::RegionRead { region: RegionIndex::BAR2, offset: 0, count: 1 << 20 }.emit(
            vfio_user::wire::MessageId(1),
            vfio_user::wire::Flags::COMMAND,
            &mut request,
        );
    }
    b.client.send_raw(&request, &[]).unwrap();
    drop((a, b, engine));
    house.wait_gone(Side::A);
    house.wait_gone(Side::B);
    house.wait_until(|status| status.ports[0].engine.as_ref().is_some_and(|engine| !engine.attached));
}
