//! Hosts that do too much, or nothing at all, while the other one works.

use crate::house::{Host, House, PATIENCE, hello, refused, wait_readable};
use ntb_spec::bar0::{Reg, offset_of};
use ntb_spec::config;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use twin::Side;
use twin_server::{Endpoint, Options, Server};
use vfio_user::client::{Client, ClientError};
use vfio_user::wire::{Command, Flags, MessageId, Record, RegionIndex, Request};

/// QEMU gives up on a device that answers later: then its guest has lost it for good.
const TOO_LATE: Duration = Duration::from_secs(5);
/// A host whose every tenth question takes a tenth of that is badly served by its neighbour's twin. (A single slow answer
/// says something of the machine that runs the test.)
const BADLY_SERVED: Duration = Duration::from_millis(500);

/// A host works while `other` runs, and is served as it should be.
fn works_meanwhile(host: &mut Host, other: impl FnOnce() + Send) {
    let over = AtomicBool::new(false);
    let mut answers = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            other();
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            answers.push(host.goes_on());
        }
    });
    answers.sort();
    let (ninth, slowest) = (answers[answers.len() * 9 / 10], answers[answers.len() - 1]);
    let said = format!("{} rounds, 90 % within {ninth:?}, the slowest {slowest:?}", answers.len());
    assert!(answers.len() > 10 && ninth < BADLY_SERVED && slowest < TOO_LATE, "{said}");
}

#[test]
fn a_million_doorbells_in_a_loop() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let bell = offset_of(Reg::Doorbell, 2).into();
    let record = Record::new(RegionIndex::BAR0, bell, &1u32.to_le_bytes()).unwrap();
    works_meanwhile(&mut b, || {
        for _ in 0..200_000 {
            a.ring(2);
        }
        // As QEMU sends them when it falls behind: 200 in a message.
        for _ in 0..4000 {
            a.client.write_multi(&[record; 200]).unwrap();
        }
        a.goes_on();
    });
    assert_eq!(house.port(Side::A).doorbells, 1_000_000);
    assert_eq!(b.wait_for_vector(2), 1, "latched once, told once");
    house.end();
}

#[test]
fn messages_as_large_as_they_may_be_leave_the_other_port_its_turn() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    // Every second record raises all of its own 32 vectors: the most work that a message can make.
    let mask = |value: u64| {
        Record::new(RegionIndex::BAR0, offset_of(Reg::IntDisable, 0).into(), &value.to_le_bytes()).unwrap()
    };
    for doorbell in 0..32 {
        b.ring(doorbell);
    }
    b.goes_on();
    let storm: Vec<Record> = (0..32_768).map(|nth| mask(if nth % 2 == 0 { u64::MAX } else { 0 })).collect();
    works_meanwhile(&mut b, || {
        for _ in 0..4 {
            a.client.write_multi(&storm).unwrap();
        }
        a.goes_on();
    });
    let data = vec![0x77; 1 << 20];
    works_meanwhile(&mut b, || {
        for _ in 0..200 {
            a.client.region_write_posted(RegionIndex::BAR2, 0, &data).unwrap();
        }
        a.goes_on();
    });
    assert_eq!(b.ram.get((1 << 20) - 8), [0x77; 8]);
    assert_eq!(house.port(Side::A).windows[0].stored_bytes, 200 << 20);
    house.end();
}

/// Asks for a mebibyte at a time until neither the twin nor the socket takes more, and never reads.
fn stuff(client: &Client) -> usize {
    let mut request = Vec::new();
    Request::RegionRead { region: RegionIndex::BAR2, offset: 0, count: 1 << 20 }.emit(
        MessageId(9),
        Flags::COMMAND,
        &mut request,
    );
    let mut asked = 0;
    // Full: wait a moment for the twin to take some, then it is stuck for good.
    while let Ok(sent) = send(client, &request, SendFlags::DONTWAIT).or_else(|_| {
        wait_readable(client.as_fd(), Duration::from_millis(20));
        send(client, &request, SendFlags::DONTWAIT)
    }) {
        assert_eq!(sent, request.len());
        asked += 1;
        assert!(asked < 100_000, "requests are taken without end");
    }
    asked
}

fn a_stopped_client_costs_the_other_nothing(stopped_for: Duration) {
    let house = House::new();
    let (a, mut b) = house.pair();
    let rate = |b: &mut Host, time: Duration| {
        let (began, mut trips) = (Instant::now(), 0u32);
        while began.elapsed() < time {
            b.goes_on();
            trips += 1;
        }
        f64::from(trips) / began.elapsed().as_secs_f64()
    };
    let before = rate(&mut b, stopped_for / 4);
    let asked = stuff(&a.client);
    assert!(asked > 10);
    let during = rate(&mut b, stopped_for);
    // Half of it would already be a fault; less than that is also what a busy machine makes of it.
    assert!(
        during > before / 3.0,
        "{before:.0} round trips a second before, {during:.0} beside a stopped client"
    );
    // Nobody spins on it.
    house.assert_idle();
    // It wakes up, and everything it asked for is there, in order.
    let mut a = a;
    for _ in 0..asked {
        let (header, body, _) = a.client.receive_raw().unwrap();
        assert_eq!((header.id(), header.flags(), body.len()), (MessageId(9), Flags::REPLY, 16 + (1 << 20)));
    }
    a.goes_on();
    b.goes_on();
    house.end();
}

#[test]
fn a_client_that_stops_reading_costs_the_other_nothing() {
    a_stopped_client_costs_the_other_nothing(Duration::from_secs(1));
}

#[test]
#[ignore = "takes 13 s; nothing in it depends on how long the client stops"]
fn a_client_that_stops_reading_for_ten_seconds_costs_the_other_nothing() {
    a_stopped_client_costs_the_other_nothing(Duration::from_secs(10));
}

#[test]
fn replies_that_are_taken_in_crumbs_arrive_whole() {
    let house = House::new();
    let (a, mut b) = house.pair();
    let pattern: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    b.ram.put(0, &pattern);
    let asked = 20;
    let mut request = Vec::new();
    for _ in 0..asked {
        Request::RegionRead { region: RegionIndex::BAR2, offset: 0, count: 1 << 20 }.emit(
            MessageId(9),
            Flags::COMMAND,
            &mut request,
        );
    }
    assert_eq!(send(&a.client, &request, SendFlags::empty()), Ok(request.len()));
    let whole = asked * (32 + (1 << 20));
    let (mut taken, mut crumb) = (0, [0; 4096]);
    while taken < whole {
        // Crumbs first; when the point is made, bigger ones, so that it ends.
        let size = if taken < 20_000 { 7 } else { 4093 };
        let (got, _) = recv(&a.client, &mut crumb[..size], RecvFlags::empty()).unwrap();
        for (at, &byte) in (taken..).zip(&crumb[..got]) {
            let inside = at % (32 + (1 << 20));
            assert!(inside < 32 || byte == pattern[inside - 32], "byte {at}");
        }
        taken += got;
        if taken.is_multiple_of(5) {
            b.goes_on();
        }
    }
    house.end();
}

#[test]
fn a_second_client_is_told_that_the_port_is_taken() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let busy = Errno::BUSY.raw_os_error();
    for _ in 0..50 {
        let mut second = house.stranger(Side::A);
        match hello(&mut second) {
            Err(ClientError::Refused { command: Command::VERSION, errno }) => assert_eq!(errno, busy),
            other => panic!("{other:?}"),
        }
        drop(second);
        a.goes_on();
    }
    assert_eq!(refused(Client::connect(house.socket(Side::B))), busy);
    // Those who do not leave are shown out after a second, and are no more than a handful until then.
    let mut persistent = house.stranger(Side::A);
    assert_eq!(refused(hello(&mut persistent)), busy);
    assert!(matches!(hello(&mut persistent), Err(ClientError::Closed | ClientError::Socket(_))));
    let began = Instant::now();
    let silent: Vec<UnixStream> =
        (0..20).map(|_| UnixStream::connect(house.socket(Side::A)).unwrap()).collect();
    for stream in &silent {
        assert!(wait_readable(stream.as_fd(), PATIENCE));
        assert_eq!(recv(stream, &mut [0; 16], RecvFlags::empty()), Ok((0, 0)), "an end of file");
    }
    assert!(began.elapsed() > Duration::from_millis(700), "{:?}", began.elapsed());
    house.assert_idle();
    a.goes_on();
    b.goes_on();
    assert_eq!(house.port(Side::A).attaches, 1);
    // When the first one leaves there is room.
    drop(a);
    house.wait_gone(Side::A);
    house.host(Side::A).load_driver();
    house.end();
}

#[test]
fn a_crowd_at_a_taken_port_does_not_keep_the_hosts_waiting() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let socket = house.socket(Side::A);
    let came = AtomicU64::new(0);
    works_meanwhile(&mut a, || {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            // With and without a word, with descriptors in the word, and leaving before the answer.
            let stream = UnixStream::connect(&socket).unwrap();
            let nth = came.fetch_add(1, Ordering::Relaxed);
            if nth.is_multiple_of(3) {
                drop(Client::from_stream(stream).unwrap().send_raw(&[0; 15], &[b.ram.0.as_fd(); 16]));
            } else if nth % 3 == 1 {
                drop(hello(&mut Client::from_stream(stream).unwrap()));
            }
        }
    });
    assert!(came.into_inner() > 20);
    b.goes_on();
    house.end();
}

#[test]
fn a_guest_that_resets_and_flaps_its_link_in_a_loop() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let link = |value: u32| {
        Record::new(RegionIndex::BAR0, offset_of(Reg::Control, 0).into(), &value.to_le_bytes()).unwrap()
    };
    let reset =
        Record::new(RegionIndex::CONFIG, config::DEVICE_CONTROL.into(), &0x8000u16.to_le_bytes()).unwrap();
    let decode = Record::new(RegionIndex::CONFIG, config::COMMAND.into(), &6u16.to_le_bytes()).unwrap();
    let flaps: Vec<Record> = [decode, link(0x154), link(3), link(0x154), reset].repeat(200);
    works_meanwhile(&mut b, || {
        for _ in 0..100 {
            a.client.write_multi(&flaps).unwrap();
        }
        a.goes_on_without_decode();
    });
    assert_eq!(house.port(Side::A).resets, 20_000);
    a.load_driver();
    a.wait_for_link(true);
    b.wait_for_link(true);
    house.end();
}

#[test]
fn a_place_where_no_socket_can_be_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| Endpoint::Path(directory.path().join(name));
    let bind = |a: Endpoint, b: Endpoint| {
        let options = Options {
            ports: [a, b],
            control: None,
            setup: twin::Setup::default(),
            modes: twin_server::Modes::default(),
            ram_mapped: [false; 2],
            engines: [None, None],
            trace: None,
        };
        Server::bind(&options).map(drop).map_err(|error| error.to_string())
    };
    let said = bind(at("no/such/directory/a"), at("b")).unwrap_err();
    assert!(said.contains("no/such/directory") && said.contains("does not exist"), "{said}");
    std::fs::write(directory.path().join("file"), "precious").unwrap();
    let said = bind(at("a"), at("file")).unwrap_err();
    assert!(said.contains("not a socket"), "{said}");
    assert_eq!(std::fs::read(directory.path().join("file")).unwrap(), b"precious");
    let said = bind(at("a"), at("a")).unwrap_err();
    assert!(said.contains("in use"), "{said}");
    let said = bind(at(&"x".repeat(200)), at("b")).unwrap_err();
    assert!(said.contains("107 bytes"), "{said}");
    let said = "fd:9999".parse::<Endpoint>().unwrap_err().to_string();
    assert!(said.contains("fd:9999"), "{said}");
    // What a twin that was killed left behind is replaced; what a living one has is not.
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("stale")).unwrap());
    bind(at("stale"), at("b")).unwrap();
    let house = House::new();
    let taken = Endpoint::Path(house.socket(Side::A));
    assert!(bind(taken, at("b")).unwrap_err().contains("in use"));
    house.host(Side::A).load_driver();
    house.end();
}

#[test]
fn modes_that_cannot_be_are_refused_before_any_socket_appears() {
    use twin_server::{Modes, WindowMode};
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| Endpoint::Path(directory.path().join(name));
    let bind = |modes: Modes, engines: [Option<Endpoint>; 2], ram_mapped| {
        let options = Options {
            ports: [at("a"), at("b")],
            engines,
            control: None,
            setup: twin::Setup::default(),
            modes,
            ram_mapped,
            trace: None,
        };
        Server::bind(&options).map(drop).map_err(|error| error.to_string())
    };
    let (alias, direct, dma, trap) =
        (WindowMode::Alias, WindowMode::Direct, WindowMode::Dma, WindowMode::Trap);
    let said = bind([[trap; 2], [trap, dma]], [Some(at("dma")), None], [false; 2]).unwrap_err();
    assert!(said.contains("port b has not") && said.contains("--dma-b"), "{said}");
    let said = bind([[alias, direct], [trap; 2]], [None, None], [false; 2]).unwrap_err();
    assert!(said.contains("an alias and a direct window"), "{said}");
    let said = bind([[trap; 2], [alias; 2]], [None, None], [true, false]).unwrap_err();
    assert!(said.contains("host a's memory"), "{said}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    bind([[trap; 2], [trap, dma]], [None, Some(at("dma"))], [true; 2]).unwrap();
}
