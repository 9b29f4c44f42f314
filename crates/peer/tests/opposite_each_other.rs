//! Two peers at the two ports of a twin in this process, each in a thread of its own.

use linux_transport::Config;
use ntb::{Bridge, Gen3};
use peer::ethernet::Mac;
use peer::raw::Plan;
use peer::script::Script;
use peer::{PeerError, Report, Responder, Role, Settings};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use twin_local::{LocalTwin, Setup, Side, WindowMode};

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 77, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 77, 2);

fn twin(mode: WindowMode) -> LocalTwin {
    let setup = Setup { training: Duration::from_millis(5), ..Setup::default() };
    LocalTwin::new(setup, [mode; 2]).unwrap()
}

fn bridge(twin: &LocalTwin, side: Side) -> Arc<dyn Bridge> {
    Arc::new(Gen3::open(Arc::new(twin.attach(side).unwrap())).unwrap())
}

fn settings(role: Role, script: &str) -> Settings {
    Settings {
        queue: 0,
        transport: Config::default(),
        role,
        script: Script::parse(script).unwrap(),
        dump: true,
        timeout: Some(Duration::from_secs(20)),
    }
}

fn responder(script: &str) -> Settings {
    settings(Role::Respond(Responder { mac: Mac([2, 0, 0, 0, 0, 1]), address: A, echo: false }), script)
}

fn tester(frames: u32) -> Settings {
    let me = Responder { mac: Mac::OURS, address: B, echo: false };
    settings(Role::Raw(me, Plan { frames, bytes: (60, 3000), from: (me.mac, B), to: A }), "")
}

/// Runs a raw test against a responder with a script: both reports, and the responder's lines.
fn test(mode: WindowMode, frames: u32, script: &str) -> (Report, Report, Vec<String>) {
    let twin = twin(mode);
    let (tester, responder) = (tester(frames), responder(script));
    let (mut end, stop) = UnixStream::pair().unwrap();
    let (_never, unstopped) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let at_b = bridge(&twin, Side::B);
        let answers = scope.spawn(move || {
            let mut lines = Vec::new();
            let report = peer::run(at_b, &responder, stop.as_fd(), &mut |line| lines.push(line.to_owned()));
            (report.unwrap(), lines)
        });
        let report = peer::run(bridge(&twin, Side::A), &tester, unstopped.as_fd(), &mut |_| {}).unwrap();
        end.write_all(b"x").unwrap();
        let (answers, lines) = answers.join().unwrap();
        (report, answers, lines)
    })
}

#[test]
fn every_frame_comes_back_whole() {
    for (mode, windows) in [(WindowMode::Trap, "messaged"), (WindowMode::Direct, "mapped")] {
        let (report, answers, lines) = test(mode, 1000, "");
        let score = report.raw.unwrap();
        assert!(score.is_perfect(1000), "{score:?}");
        assert_eq!((report.windows, report.came_up, report.dropped), (windows, 1, 0));
        // One frame each way is ARP's.
        assert_eq!((answers.received, answers.sent), (1001, 1001));
        assert_eq!((report.port.as_str(), answers.port.as_str()), ("USD", "DSD"));
        for part in [
            "to peer   scratchpad 0 VERSION      0x00000004",
            "from peer scratchpad 5 MW0_SZ_LOW   0x00100000",
            "hand-shake agreed; the peer has version 4, 2 queue pairs, 2 windows of 0x100000, 0x100000 bytes",
            "queue pair 0 up",
            "<- qp 0 slot 0   ver 0 len 42 flags 0x1  ARP who has 10.0.77.1? tell 10.0.77.2",
            "ICMP echo reply 10.0.77.1 > 10.0.77.2, number 999",
        ] {
            assert!(lines.iter().any(|line| line.contains(part)), "no {part}");
        }
    }
}

#[test]
fn a_script_is_followed() {
    let script = r#"
        [[rule]]
        on = "receive"
        frames = "11"
        do = "drop"
        [[rule]]
        on = "send"
        frames = "20"
        do = "corrupt"
        [[rule]]
        on = "receive"
        frames = "30"
        do = "delay"
        ms = 20
        [[rule]]
        on = "send"
        frames = "40"
        do = "stall"
        ms = 20
    "#;
    let (report, _, lines) = test(WindowMode::Direct, 100, script);
    let score = report.raw.unwrap();
    // What was corrupted fails its checksum, so its answer is missing, too.
    assert_eq!((score.answered, score.lost, score.corrupted, score.unexpected), (98, 2, 1, 0));
    for told in [
        "receive frame 11: Drop",
        "send frame 20: Corrupt",
        "receive frame 30: Delay",
        "send frame 40: Stall",
    ] {
        assert!(lines.iter().any(|line| line.contains(told)), "no {told} in {lines:?}");
    }
}

#[test]
fn a_queue_pair_that_a_script_closes_comes_back() {
    let script = "[[rule]]\non = \"receive\"\nframes = \"50\"\ndo = \"close\"\nms = 30\n";
    let (report, answers, _) = test(WindowMode::Direct, 200, script);
    assert_eq!((report.came_up, answers.came_up), (2, 2));
    let score = report.raw.unwrap();
    assert_eq!((score.answered + score.lost, score.corrupted), (200, 0));
    assert!(score.answered > 100, "{score:?}");
}

#[test]
fn frames_that_wait_when_their_queue_pair_closes_are_counted() {
    let script = r#"
        [[rule]]
        on = "send"
        frames = "5"
        do = "stall"
        ms = 500
        [[rule]]
        on = "receive"
        frames = "12"
        do = "close"
        ms = 30
    "#;
    let (_, answers, lines) = test(WindowMode::Direct, 100, script);
    assert!(answers.dropped > 0, "{answers:?} {lines:?}");
    assert_eq!(answers.received, answers.sent + answers.dropped, "each frame is answered once");
}

#[test]
fn a_falsified_header_stops_the_ring_and_is_told() {
    let script = "[[rule]]\non = \"send\"\nframes = \"10\"\ndo = \"header\"\nversion = 77\n";
    let (report, ..) = test(WindowMode::Direct, 20, script);
    let score = report.raw.unwrap();
    // As at Linux, nothing comes after a frame whose count is not the expected one.
    assert_eq!((report.bad, score.answered), (1, 8));
}

#[test]
fn nobody_there_and_nobody_who_fits() {
    let twin = twin(WindowMode::Trap);
    let (_never, unstopped) = UnixStream::pair().unwrap();
    let lonely = Settings { timeout: Some(Duration::from_millis(50)), ..tester(1) };
    let error = peer::run(bridge(&twin, Side::A), &lonely, unstopped.as_fd(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("the link is down: nobody drives the other port"), "{error}");

    let liar = responder("[handshake]\nversion = 5\n");
    let (mut end, stop) = UnixStream::pair().unwrap();
    let impatient = Settings { timeout: Some(Duration::from_secs(1)), ..tester(1) };
    let error = std::thread::scope(|scope| {
        let at_b = bridge(&twin, Side::B);
        let liar = scope.spawn(move || peer::run(at_b, &liar, stop.as_fd(), &mut |_| {}));
        let result = peer::run(bridge(&twin, Side::A), &impatient, unstopped.as_fd(), &mut |_| {});
        end.write_all(b"x").unwrap();
        liar.join().unwrap().unwrap();
        result.unwrap_err()
    });
    assert!(matches!(error, PeerError::NotUp { .. }));
    assert!(error.to_string().contains("the peer speaks version 5, not 4"), "{error}");
}
