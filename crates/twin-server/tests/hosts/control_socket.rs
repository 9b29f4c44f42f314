//! The control socket: what it tells, and clients of it that misbehave.

use crate::house::{House, PATIENCE, wait_readable};
use control::{CallError, Event, LinkState, PortName, Reply, Request, Role};
use ntb_spec::bar0::Reg;
use ntb_spec::config;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use twin::Side;

#[test]
fn status_tells_both_ports_apart() {
    let house = House::new();
    let status = house.status();
    assert_eq!((status.link.state, status.pid), (LinkState::Down, std::process::id()));
    let (a, _b) = house.pair();
    let status = house.status();
    assert_eq!((status.link.state, status.link.ups), (LinkState::Up, 1));
    let [left, right] = <[_; 2]>::try_from(status.ports).unwrap();
    assert_eq!(
        (left.port, left.role, right.port, right.role),
        (PortName::A, Role::Usd, PortName::B, Role::Dsd)
    );
    assert!(left.enabled && left.bus_master && left.memory_enabled && left.attached);
    assert!(left.messages > 40 && left.refused_messages == 0 && left.bad_accesses == 0);
    assert_eq!(std::path::Path::new(&left.socket), house.socket(Side::A));
    drop(a);
    house.wait_gone(Side::A);
    let kept = house.port(Side::A);
    assert!(kept.messages >= left.messages, "what a session counted is kept when it is over");
}

#[test]
fn sockets_are_for_their_owner_alone() {
    let house = House::new();
    for side in Side::BOTH {
        let found = std::fs::metadata(house.socket(side)).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o7777, 0o600);
        let found = std::fs::metadata(house.engine_socket(side)).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    }
    let control = house.socket(Side::A).with_file_name("control");
    assert_eq!(std::fs::metadata(&control).unwrap().permissions().mode() & 0o7777, 0o600);
    let sockets = [house.socket(Side::A), house.socket(Side::B), control];
    assert_eq!(
        std::fs::read_dir(sockets[0].parent().unwrap()).unwrap().count(),
        5,
        "nothing else is left there"
    );
    house.end();
    // The directory went with the house; a twin of its own takes its sockets away when it ends.
    assert!(sockets.iter().all(|path| !path.exists()));
}

#[test]
fn registers_come_with_names_and_meanings() {
    let house = House::new();
    let (_a, mut b) = house.pair();
    b.write(Reg::Spad, 5, &0xCAFEu32.to_le_bytes());
    let Reply::Registers(dump) = house.control().call(&Request::Registers).unwrap() else { panic!() };
    let of = |port, name: &str| {
        dump.registers.iter().find(|found| found.port == port && found.name == name).cloned().unwrap()
    };
    assert_eq!(of(PortName::B, "IM_SPAD[5]").value, 0xCAFE);
    assert_eq!(of(PortName::A, "IM_SPAD[5]").value, 0);
    assert_eq!(of(PortName::A, "LINK_STATUS").value, 0x2103);
    let control = of(PortName::A, "NTBCNTL");
    assert_eq!((control.space.as_str(), control.offset, control.value), ("bar0", 0, 0x154));
    assert!(!control.meaning.is_empty());
}

#[test]
fn a_watcher_hears_of_every_change_in_order() {
    let house = House::new();
    let mut watcher = house.control();
    assert_eq!(watcher.call(&Request::Watch).unwrap(), Reply::Done);
    let (a, mut b) = house.pair();
    b.configure(config::DEVICE_CONTROL, &[0, 0x80]);
    drop(a);
    let mut heard = Vec::new();
    while heard.len() < 7 {
        heard.push(match watcher.next_event().unwrap() {
            Event::Attached { port, .. } => format!("{port} came"),
            Event::Detached { port, .. } => format!("{port} went"),
            Event::Reset { port, .. } => format!("{port} reset"),
            Event::Link { state, .. } => format!("link {state}"),
        });
        // It may still ask.
        assert!(matches!(watcher.call(&Request::Status).unwrap(), Reply::Status(_)));
    }
    let links: Vec<&String> = heard.iter().filter(|line| line.starts_with("link")).collect();
    assert_eq!(heard[..2], ["a came", "b came"]);
    assert_eq!(links, ["link training", "link up", "link down"]);
    assert_eq!(heard[6], "a went");
}

#[test]
fn nonsense_is_answered_and_the_connection_goes_on() {
    let house = House::new();
    let mut stream = house.control_stream();
    let nonsense: &[&[u8]] = &[
        b"",
        b"{}",
        b"hello",
        b"{\"request\":\"explode\"}",
        b"{\"request\":\"set_stores\"}",
        b"{\"request\":\"set_stores\",\"stores\":\"sometimes\"}",
        b"\xFF\xFE\0\0",
        b"[[[[[[[[[[",
        &[b'['; 100_000],
        &[b'9'; 100_000],
        b"{\"request\":\"underlay\"}",
    ];
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    for line in nonsense {
        stream.write_all(line).unwrap();
        stream.write_all(b"\n").unwrap();
        let mut reply = String::new();
        replies.read_line(&mut reply).unwrap();
        assert!(reply.starts_with("{\"reply\":\"error\""), "{:?}: {reply}", String::from_utf8_lossy(line));
        assert!(reply.len() < 400, "{reply}");
    }
    // Several requests in one piece, then no more: each is answered.
    stream
        .write_all(b"{\"request\":\"status\"}\n{\"request\":\"registers\"}\nwhat?\n{\"request\":\"stat")
        .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let answers: Vec<String> = replies.lines().map(Result::unwrap).collect();
    let kinds: Vec<&str> = answers.iter().map(|line| &line[..20]).collect();
    assert_eq!(
        kinds,
        ["{\"reply\":\"status\",\"ve", "{\"reply\":\"registers\",", "{\"reply\":\"error\",\"err"]
            .map(|kind| &kind[..20])
    );
}

#[test]
fn an_endless_line_ends_its_connection_alone() {
    let house = House::new();
    let (mut a, mut b) = house.pair();
    let mut stream = house.control_stream();
    let piece = [b'x'; 65536];
    let mut sent = 0usize;
    let ended = loop {
        match stream.write_all(&piece) {
            Ok(()) => sent += piece.len(),
            Err(error) => break error,
        }
        assert!(sent < 8 << 20, "an endless line is swallowed");
    };
    assert!(sent >= (1 << 20) - piece.len(), "{ended}");
    a.goes_on();
    b.goes_on();
    house.end();
}

#[test]
fn a_client_that_never_reads_is_not_served_on_and_one_that_watches_is_let_go() {
    let house = House::new();
    let (mut a, _b) = house.pair();
    // It asks for 60 KiB at a time and takes nothing: it is not read from after what the socket holds.
    let mut asks = house.control_stream();
    asks.set_nonblocking(true).unwrap();
    let request = b"{\"request\":\"registers\"}\n".repeat(1000);
    let mut asked = 0;
    while let Ok(count) = asks.write(&request) {
        asked += count;
        a.goes_on();
        assert!(asked < 64 << 20, "requests are taken without end");
    }
    house.assert_idle();
    // It watches and takes nothing, while a guest resets its device in a loop.
    let mut watches = house.control_stream();
    watches.write_all(b"{\"request\":\"watch\"}\n").unwrap();
    let reset = 0x8000u16.to_le_bytes();
    let mut resets = 0;
    let ended = loop {
        for _ in 0..1000 {
            a.client
                .region_write_posted(
                    vfio_user::wire::RegionIndex::CONFIG,
                    config::DEVICE_CONTROL.into(),
                    &reset,
                )
                .unwrap();
        }
        resets += 1000;
        a.goes_on_without_decode();
        // A connection that was closed takes no more.
        if watches.write_all(b" ").is_err() {
            break resets;
        }
        assert!(resets < 1_000_000, "events are kept without end");
    };
    assert!(ended >= 10_000, "it had room for some");
    // The first one is served when it reads again.
    asks.set_nonblocking(false).unwrap();
    let mut line = String::new();
    BufReader::new(&asks).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"reply\":\"registers\""));
    house.end();
}

#[test]
fn the_sixty_fifth_client_hears_why_it_is_not_served() {
    let house = House::new();
    let clients: Vec<_> = (0..64)
        .map(|_| {
            let mut client = house.control();
            client.call(&Request::Status).unwrap();
            client
        })
        .collect();
    let mut one_more = house.control_stream();
    let mut said = String::new();
    one_more.read_to_string(&mut said).unwrap();
    assert!(said.contains("64 control clients already"), "{said}");
    drop(clients);
    // There is room again as soon as the twin has seen them go.
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        match house.control().call(&Request::Status) {
            Ok(Reply::Status(_)) => break,
            Err(CallError::Refused(_) | CallError::Io(_)) => assert!(std::time::Instant::now() < until),
            other => panic!("{other:?}"),
        }
    }
    assert!(!wait_readable(house.control_stream().as_fd(), std::time::Duration::ZERO));
}
