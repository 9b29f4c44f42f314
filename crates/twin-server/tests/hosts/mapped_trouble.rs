//! Mapped windows and overlays that fail: they cost their own host the link, and nobody a hang.

use crate::house::{House, PATIENCE, RAM_AT, pause};
use crate::mapped_windows::{Mapped, ONES, WINDOW, eventually, linked, overlay};
use control::{LinkState, OverlayAnswer, OverlayCommand, Reply, Request, decode, encode};
use isthmus_overlay::Overlays;
use ntb_spec::bar0::Reg;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use twin::Side;
use twin_server::WindowMode;
use vfio_user::wire::{DmaAddr, DmaUnmap};

/// What an overlay does with an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Obey,
    ObeyAfter(Duration),
    Fail,
    Nothing,
    Nonsense,
    AnswerAnother,
    Leave,
}

/// An overlay of this process whose conduct a test decides, order by order.
struct Strange {
    orders: Arc<AtomicUsize>,
}

/// Reads a line with its descriptors; `None` at the end.
fn read_order(stream: &UnixStream, rest: &mut Vec<u8>) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut files = Vec::new();
    loop {
        if let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let line = rest.drain(..=end).collect();
            return Some((line, files));
        }
        let mut bytes = [0; 8192];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let slices = &mut [IoSliceMut::new(&mut bytes)];
        let count = recvmsg(stream, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                files.extend(some);
            }
        }
        if count == 0 {
            return None;
        }
        rest.extend(&bytes[..count]);
    }
}

impl Strange {
    fn new(house: &House, does: impl Fn(usize, &OverlayCommand) -> Does + Send + 'static) -> Self {
        let mut stream = house.control_stream();
        stream.set_read_timeout(None).unwrap();
        stream.write_all(&encode(&Request::Overlay).unwrap()).unwrap();
        let mut rest = Vec::new();
        let (hello, _) = read_order(&stream, &mut rest).unwrap();
        assert!(matches!(decode(&hello[..hello.len() - 1]), Ok(Reply::Done)));
        let orders = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&orders);
        std::thread::spawn(move || {
            let mut overlays = Overlays::new().unwrap();
            while let Some((line, files)) = read_order(&stream, &mut rest) {
                let command: OverlayCommand = decode(&line[..line.len() - 1]).unwrap();
                let does = does(seen.fetch_add(1, Ordering::SeqCst), &command);
                let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
                let mut answer = OverlayAnswer { id: command.id, error: None, took_ns: 1 };
                match does {
                    Does::Obey | Does::ObeyAfter(_) => {
                        if let Does::ObeyAfter(time) = does {
                            pause(time);
                        }
                        let applied = overlays.apply(&command, &borrowed);
                        answer.error = applied.err().map(|error| error.to_string());
                    }
                    Does::Fail => answer.error = Some("it does not want to".into()),
                    Does::Nothing => continue,
                    Does::AnswerAnother => answer.id += 1,
                    Does::Nonsense => {
                        drop(stream.write_all(b"{\"nonsense\":true}\n"));
                        continue;
                    }
                    Does::Leave => break,
                }
                drop(stream.write_all(&encode(&answer).unwrap()));
            }
            overlays.hang_up();
        });
        Self { orders }
    }

    fn orders(&self) -> usize {
        self.orders.load(Ordering::SeqCst)
    }
}

/// The twin answers both hosts, at once.
fn assert_alive(house: &House, a: &mut Mapped, b: &mut Mapped) {
    for host in [&mut a.host, &mut b.host] {
        let slowest = host.goes_on();
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    }
    assert_eq!(house.status().link.state, LinkState::Down);
}

/// After hosts and overlay were replaced everything is as on the first day.
fn assert_heals(house: &House, a: Mapped, b: Mapped) {
    drop((a, b));
    house.wait_gone(Side::A);
    house.wait_gone(Side::B);
    overlay(house);
    let (a, mut b) = linked(house);
    b.open(RAM_AT);
    a.store(0x100, [0x66; 8]);
    assert_eq!(b.see(0x100), [0x66; 8]);
}

/// The overlay fails at the moment when a window opens.
fn fails_at_opening(mode: WindowMode, how: Does) {
    let house = House::apart(mode);
    // The orders before it close what memory enable uncovers; an order with pieces opens.
    let strange =
        Strange::new(&house, move |_, order| if order.pieces.is_empty() { Does::Obey } else { how });
    let (mut a, mut b) = linked(&house);
    let began = Instant::now();
    b.open(RAM_AT);
    let took = began.elapsed();
    assert!(took < Duration::from_millis(2500), "{how:?}: {took:?}");
    house.wait_until(|status| status.link.state == LinkState::Down);
    assert_alive(&house, &mut a, &mut b);
    // It stays down, and nobody goes on trying.
    let (orders, until) = (strange.orders(), Instant::now() + Duration::from_millis(100));
    while Instant::now() < until {
        a.host.goes_on();
    }
    assert!(strange.orders() <= orders + 1, "{how:?}");
    assert_eq!(house.status().link.state, LinkState::Down);
    if how != Does::Leave {
        assert_eq!(b.see(0x100), [0; 8]);
    }
    assert_heals(&house, a, b);
}

#[test]
fn an_overlay_that_never_answers_costs_the_link_and_a_second() {
    fails_at_opening(WindowMode::Direct, Does::Nothing);
    fails_at_opening(WindowMode::Alias, Does::Nothing);
}

#[test]
fn an_overlay_that_fails_or_talks_nonsense_costs_the_link() {
    for how in [Does::Fail, Does::Nonsense, Does::AnswerAnother, Does::Leave] {
        fails_at_opening(WindowMode::Direct, how);
        fails_at_opening(WindowMode::Alias, how);
    }
}

#[test]
fn an_overlay_that_fails_to_close_or_to_restore_is_not_asked_for_ever() {
    for mode in [WindowMode::Direct, WindowMode::Alias] {
        for how in [Does::Fail, Does::Nothing] {
            let house = House::apart(mode);
            let failing = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let fails = Arc::clone(&failing);
            // Restoring is an order that puts a file's own bytes where they were: the only one on RAM while failing.
            let strange = Strange::new(&house, move |_, order| {
                let closes = order.close_on_hangup;
                let now = fails.load(Ordering::SeqCst) && (mode == WindowMode::Direct || !closes);
                if now { how } else { Does::Obey }
            });
            let (mut a, mut b) = linked(&house);
            b.open(RAM_AT);
            a.store(0x100, [1; 8]);
            assert_eq!(b.see(0x100), [1; 8]);
            failing.store(true, Ordering::SeqCst);
            let began = Instant::now();
            b.host.client.dma_unmap(DmaUnmap::All).unwrap();
            assert!(began.elapsed() < Duration::from_millis(2500), "{mode} {how:?}");
            house.wait_until(|status| status.link.state == LinkState::Down);
            assert_alive(&house, &mut a, &mut b);
            let orders = strange.orders();
            for _ in 0..50 {
                a.host.goes_on();
            }
            assert!(strange.orders() <= orders + 1, "{mode} {how:?}");
            assert_eq!(b.see(0x100), [1; 8]);
            assert_heals(&house, a, b);
        }
    }
}

#[test]
fn an_overlay_that_is_slow_at_every_step_is_given_up_in_time() {
    let house = House::apart(WindowMode::Alias);
    let slow = Does::ObeyAfter(Duration::from_millis(900));
    let quick = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_quick = Arc::clone(&quick);
    let strange =
        Strange::new(&house, move |_, _| if is_quick.load(Ordering::SeqCst) { Does::Obey } else { slow });
    let (mut a, mut b) = linked(&house);
    b.open(RAM_AT);
    quick.store(false, Ordering::SeqCst);
    let orders = strange.orders();
    // Moving takes four steps: together too long for a QEMU that waits 5 s and has more to do.
    let began = Instant::now();
    let outer = u64::from_le_bytes(b.host.read(Reg::EmBar1, 0)) & !0xF;
    b.host.write(Reg::ImBar1Xbase, 0, &(RAM_AT + 2 * WINDOW).to_le_bytes());
    let moving = std::thread::spawn(move || {
        b.host.write(Reg::EmBar1Xlmt, 0, &(outer + WINDOW).to_le_bytes());
        (b, Instant::now())
    });
    // The other host does not wait for it.
    eventually("the first step is under way", || strange.orders() > orders);
    let slowest = a.host.goes_on();
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    let (mut b, ended) = moving.join().unwrap();
    assert!(ended - began < Duration::from_millis(3500), "{:?}", ended - began);
    house.wait_until(|status| status.link.state == LinkState::Down);
    assert_alive(&house, &mut a, &mut b);
    quick.store(true, Ordering::SeqCst);
    assert_heals(&house, a, b);
}

/// Two hosts, b's window on its way to being opened by an overlay that closes and answers to nothing else.
fn opening_without_answer(house: &House) -> (Strange, Mapped, JoinHandle<Mapped>) {
    let strange =
        Strange::new(house, |_, order| if order.pieces.is_empty() { Does::Obey } else { Does::Nothing });
    let (a, mut b) = linked(house);
    let orders = strange.orders();
    let opening = std::thread::spawn(move || {
        b.open(RAM_AT);
        b
    });
    eventually("the window is being opened", || strange.orders() > orders);
    (strange, a, opening)
}

#[test]
fn memory_that_no_window_leads_to_comes_and_goes_without_waiting_for_an_overlay() {
    let house = House::apart(WindowMode::Direct);
    let (_first, mut a, opening) = opening_without_answer(&house);
    a.host.map(1 << 40, 4096, 0).unwrap();
    a.host.client.dma_unmap(DmaUnmap::Range { iova: DmaAddr(1 << 40), size: 4096 }).unwrap();
    assert_eq!(house.status().link.state, LinkState::Up, "the overlay has its second still");
    drop(opening.join().unwrap());
}

#[test]
fn a_second_overlay_of_a_process_takes_the_place_of_the_first() {
    let house = House::apart(WindowMode::Direct);
    let (_first, mut a, opening) = opening_without_answer(&house);
    // The order that was under way is nobody's now; the host that waits for it is answered.
    let _second = Strange::new(&house, |_, _| Does::Obey);
    let began = Instant::now();
    let mut b = opening.join().unwrap();
    assert!(began.elapsed() < Duration::from_millis(2500));
    house.wait_until(|status| status.link.state == LinkState::Down);
    assert_alive(&house, &mut a, &mut b);
    assert_heals(&house, a, b);
}

#[test]
fn a_host_that_leaves_with_an_order_under_way_leaves_no_trace() {
    let house = House::apart(WindowMode::Direct);
    let strange =
        Strange::new(
            &house,
            |nth, _| {
                if nth < 3 { Does::ObeyAfter(Duration::from_millis(100)) } else { Does::Obey }
            },
        );
    // Memory enable closes: the order is under way when the host leaves, and is answered when the next one is there.
    let a = Mapped::new(&house, Side::A);
    let enable = vfio_user::wire::RegionIndex::CONFIG;
    let mut host = a.host;
    host.client.region_write_posted(enable, ntb_spec::config::COMMAND.into(), &[6, 0]).unwrap();
    eventually("the order is under way", || strange.orders() > 0);
    drop((host, a.bar));
    house.wait_gone(Side::A);
    let (mut a, mut b) = linked(&house);
    b.open(RAM_AT);
    a.store(0x100, [1; 8]);
    assert_eq!(b.see(0x100), [1; 8]);
    assert_eq!(house.status().link.state, LinkState::Up);
    a.host.goes_on();
}

#[test]
fn windows_that_come_and_go_leave_no_descriptors_and_no_mappings_in_the_twin() {
    for mode in [WindowMode::Direct, WindowMode::Alias, WindowMode::Shared] {
        let mut house = House::apart(mode);
        overlay(&house);
        let pid = house.child().id();
        let count = || {
            let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
            (fds, maps.lines().filter(|line| line.contains("/memfd:")).count())
        };
        let life = || {
            let (a, mut b) = linked(&house);
            for at in 0..3 {
                b.open(RAM_AT + at * 0x1000);
                a.store(0x100, [1; 8]);
            }
            b.host.client.dma_unmap(DmaUnmap::All).unwrap();
            b.host.map(RAM_AT, 4 << 20, 0).unwrap();
            drop((a, b));
            house.wait_gone(Side::A);
            house.wait_gone(Side::B);
        };
        life();
        let until = Instant::now() + PATIENCE;
        let before = count();
        for _ in 0..5 {
            life();
        }
        while count() > before {
            assert!(Instant::now() < until, "{mode}: {before:?} became {:?}", count());
        }
    }
}

#[test]
fn an_overlay_that_is_lost_closes_its_windows() {
    let house = House::apart(WindowMode::Direct);
    let leave = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let leaves = Arc::clone(&leave);
    Strange::new(&house, move |_, _| if leaves.load(Ordering::SeqCst) { Does::Leave } else { Does::Obey });
    let (mut a, mut b) = linked(&house);
    b.open(RAM_AT);
    a.store(0x100, [1; 8]);
    leave.store(true, Ordering::SeqCst);
    b.open(RAM_AT + WINDOW);
    eventually("closed", || a.load(0x100) == ONES);
    assert_eq!(b.see(0x100), [1; 8]);
    house.wait_until(|status| status.link.state == LinkState::Down);
    assert_alive(&house, &mut a, &mut b);
    assert_heals(&house, a, b);
}
