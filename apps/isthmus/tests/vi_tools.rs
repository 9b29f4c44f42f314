//! `isthmus vi` at the services of two hosts, or of three: as a user starts it, and what he is told.

#![forbid(unsafe_code)]

mod vi;

use ::vi::pcapng::Reader;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vi::{Running, finish, isthmus, make, run, serve, services, start, tool, twin};

fn count(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key}: {value}"))
}

#[test]
fn times_of_the_sender_are_shown_and_captured_and_refused_where_there_are_none() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let _services = services(at, &["--stamps"]);
    let file = at.join("sent.pcapng");
    let sink = start(&mut tool(at, "sink", "b", &["-t", "-n", "200", "udp:10.9.0.2:5000"]));
    let mut capture = tool(at, "capture", "b", &["-c", "200", "--times", "sender", "-w"]);
    let capture = start(capture.arg(&file).arg("udp:10.9.0.2:5000"));
    // The peer's clock is measured within a quarter of a second: these take longer.
    let arguments = ["-t", "-n", "200", "-s", "5000", "-m", "100", "--reach", "2", "10.9.0.2", "5000"];
    let (sent, told) = run(&mut tool(at, "send", "a", &arguments));
    assert_eq!((count(&sent, "frames"), count(&sent, "sent"), count(&sent, "dropped")), (200, 400, 0));
    // What the sender says of each frame, in nanoseconds.
    let stamps: Vec<i128> = told.lines().filter(|line| line.contains(" sent ")).map(sent_ns).collect();
    assert_eq!(stamps.len(), 200, "{told}");

    let (report, shown) = finish(sink);
    let times = &report["times"];
    let known = count(times, "frames");
    assert!((100..=200).contains(&known), "{report}");
    assert_eq!(times["peer"]["set"], true, "{report}");
    let (least, offset) = (times["least_ns"].as_i64().unwrap(), times["peer"]["offset_ns"].as_i64().unwrap());
    // One machine and one CLOCK_TAI, and each clock within its bound of it, as both have shown: a frame does not come before it was sent.
    let widest = |lines: &str| lines.lines().filter_map(bound_ns).max().unwrap();
    let slack = 2 * (widest(&shown) + widest(&told)) + 1000;
    assert!(least >= -slack && offset.abs() <= slack, "{report}");
    let shown: Vec<i128> = shown.lines().filter(|line| line.contains(" sent ")).map(sent_ns).collect();
    assert_eq!(shown.len() as u64, known);
    let begin = 200 - shown.len();
    for (shown, stamp) in shown.iter().zip(&stamps[begin..]) {
        assert!((shown - stamp).abs() <= i128::from(slack), "{shown} {stamp}");
    }

    let (captured, _) = finish(capture);
    assert!(count(&captured, "captured") == 200 && captured["peer_clock"]["set"] == true, "{captured}");
    let mut reader = Reader::new(BufReader::new(File::open(&file).unwrap())).unwrap();
    for stamp in stamps {
        let frame = reader.next_frame().unwrap().unwrap();
        // Files have UTC, which most kernels take CLOCK_TAI for; a whole number of seconds otherwise.
        let away = (i128::from(frame.utc_ns) - stamp).rem_euclid(1_000_000_000);
        assert!(away.min(1_000_000_000 - away) <= i128::from(slack), "{away}");
    }

    // Where services have no --stamps, nobody is given something else for a time.
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let _services = services(at, &[]);
    for (name, arguments) in [
        ("sink", &["-t", "sniff"][..]),
        ("capture", &["--times", "sender", "-w", "/dev/null"]),
        ("send", &["-t", "10.9.0.2", "5000"]),
    ] {
        let output = tool(at, name, "a", arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("--stamps"), "{name}: {said}");
    }
}

/// The bound in a line that says ".. ± NANOSECONDS ..".
fn bound_ns(line: &str) -> Option<i64> {
    let (_, rest) = line.split_once("± ")?;
    rest.split(' ').next()?.parse().ok()
}

/// The time in a line that says ".. sent SECONDS.NANOSECONDS ..".
fn sent_ns(line: &str) -> i128 {
    let (_, rest) = line.split_once("sent ").unwrap();
    let (seconds, rest) = rest.split_once('.').unwrap();
    seconds.parse::<i128>().unwrap() * 1_000_000_000 + rest[..9].parse::<i128>().unwrap()
}

#[test]
fn services_of_which_one_has_stamps_come_to_no_agreement_and_say_so() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let _twin = twin(at);
    let _a = vi::ready(serve(at, "a", isthmus(&[])).arg("--stamps"));
    let mut b = serve(at, "b", isthmus(&[]));
    let mut b = start(&mut b);
    let mut errors = BufReader::new(b.0.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("stamps in a lane") {
        said.clear();
        assert!(errors.read_line(&mut said).unwrap() > 0);
    }
    assert!(said.contains("start both services with the same options"), "{said}");
}

/// Two links, and a host that has a port of both: a file is replayed at one end, and captured at the other.
#[test]
fn what_is_forwarded_between_two_links_arrives_as_it_was_and_each_payload_is_copied_once() {
    const FRAMES: u64 = 3000;
    let directory = TempDir::new().unwrap();
    let [left, right] = ["left", "right"].map(|name| {
        let at = directory.path().join(name);
        std::fs::create_dir(&at).unwrap();
        at
    });
    let _services = [services(&left, &[]), services(&right, &[])];
    let (made, captured) = (left.join("made.pcapng"), right.join("captured.pcapng"));
    make(&made, FRAMES);
    let mut capture = tool(&right, "capture", "b", &["--spin", "-c", &FRAMES.to_string(), "-w"]);
    let capture = start(capture.arg(&captured).args(["unicast-all", "multicast-all"]));
    let mut forward =
        tool(&left, "forward", "b", &["-u", "--wait", "--reach", "1", "-n", &FRAMES.to_string()]);
    let forward = start(forward.arg("--service2").arg(right.join("vi-a")));
    let replay = tool(&left, "replay", "a", &["--reach", "1", "--speed", "0.01", made.to_str().unwrap()]);
    let (replayed, _) = run(&mut { replay });
    assert_eq!((count(&replayed, "sent"), count(&replayed, "lost")), (FRAMES, 0), "{replayed}");
    let (forwarded, _) = finish(forward);
    let (report, _) = finish(capture);
    assert_eq!((count(&report, "captured"), count(&report, "lost")), (FRAMES, 0), "{report}");
    let bytes = same(&made, &captured);
    assert_eq!((count(&forwarded, "frames"), count(&forwarded, "dropped")), (FRAMES, 0), "{forwarded}");
    assert_eq!(count(&forwarded, "bytes"), bytes);
    // The counter of the copy routines: frames that lie in buffers went from buffer to buffer once; shorter ones lie in
    // their events. A build without debug assertions does not count.
    let mut in_buffers = 0;
    let mut reader = Reader::new(BufReader::new(File::open(&made).unwrap())).unwrap();
    while let Some(frame) = reader.next_frame().unwrap() {
        in_buffers += if frame.bytes.len() > 120 { frame.bytes.len() as u64 } else { 0 };
    }
    match &forwarded["copied"] {
        Value::Null if cfg!(debug_assertions) => panic!("{forwarded}"),
        Value::Null => {}
        copied => {
            assert_eq!(count(copied, "payload_bytes"), in_buffers, "{forwarded}");
            // The rest is lines and headers: nobody reads a payload into private memory, or writes it from there.
            let most = FRAMES * 512;
            assert!(
                count(copied, "read_bytes") <= most && count(copied, "written_bytes") <= most,
                "{copied}"
            );
        }
    }
}

/// Bytes of all frames of two files, which are equal one by one.
fn same(one: &Path, other: &Path) -> u64 {
    let open = |path: &Path| Reader::new(BufReader::new(File::open(path).unwrap())).unwrap();
    let (mut one, mut other) = (open(one), open(other));
    let mut bytes = 0;
    while let Some(frame) = one.next_frame().unwrap() {
        let again = other.next_frame().unwrap().unwrap();
        assert!(frame.bytes == again.bytes, "frame {}", frame.utc_ns);
        bytes += frame.bytes.len() as u64;
    }
    assert_eq!(other.next_frame().unwrap(), None);
    bytes
}

#[test]
fn rss_spreads_flows_over_its_threads_and_loses_none() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let _services = services(at, &[]);
    let rss = start(&mut tool(at, "rss", "b", &["-n", "2", "--iterations", "1600", "ip-protocol:17"]));
    for port in 1..=16 {
        let arguments = ["-n", "100", "-l", &(4000 + port).to_string(), "--reach", "2", "10.9.0.2", "5000"];
        let (sent, _) = run(&mut tool(at, "send", "a", &arguments));
        assert_eq!((count(&sent, "sent"), count(&sent, "dropped")), (100, 0), "{sent}");
    }
    let (report, _) = finish(rss);
    assert_eq!(count(&report, "frames"), 1600, "{report}");
    let threads: Vec<u64> =
        report["threads"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    assert_eq!(threads.iter().sum::<u64>(), 1600);
    // Each flow is whole in one thread, and both have some: of sixteen, none would be a hash that does not spread.
    assert!(threads.len() == 2 && threads.iter().all(|&n| n > 0 && n % 100 == 0), "{report}");
}

#[test]
fn latency_in_every_mode() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let _services = services(at, &[]);
    for mode in ["d", "p", "c", "a"] {
        let arguments = ["-n", "200", "-w", "20", "-s", "18,1000", "-m", mode];
        let pong = start(tool(at, "latency", "b", &["pong"]).args(arguments));
        let (report, _) = run(tool(at, "latency", "a", &["ping"]).args(arguments));
        finish(pong);
        let rows = report["half_round_trip"].as_array().unwrap();
        assert_eq!(rows.iter().map(|row| count(row, "payload")).collect::<Vec<_>>(), [18, 1000], "{report}");
        for row in rows {
            let ns = |key: &str| row[key].as_f64().unwrap();
            assert!(
                0.0 < ns("min_ns") && ns("min_ns") <= ns("p50_ns") && ns("p50_ns") <= ns("max_ns"),
                "{row}"
            );
        }
    }
}

/// Programs with filters and both kernels' pings on one link, at the same time.
#[test]
fn kernels_ping_each_other_while_a_program_takes_its_frames() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: two kernels take two network namespaces, and root");
        return;
    }
    const FRAMES: u64 = 4000;
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let _twin = twin(at);
    let [a, b] = [("a", "10.99.1.1/24"), ("b", "10.99.1.2/24")].map(|(port, address)| {
        let mut own = Command::new("unshare");
        own.arg("--net").arg(env!("CARGO_BIN_EXE_isthmus")).stdin(std::process::Stdio::null());
        vi::ready(serve(at, port, own).args(["--tap", "vi0", "--addr", address]))
    });
    let sink = start(&mut tool(at, "sink", "b", &["-e", "-n", &FRAMES.to_string(), "udp:10.99.1.2:5000"]));
    let arguments = ["-n", &FRAMES.to_string(), "-s", "200", "--reach", "1", "10.99.1.2", "5000"];
    let send = start(&mut tool(at, "send", "a", &arguments));
    let pings = |running: &Running, to: &str, how: &[&str]| {
        let id = running.0.id().to_string();
        let output = Command::new("nsenter")
            .args(["--net", "-t", &id, "ping", "-q"])
            .args(how)
            .arg(to)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // What a kernel sends before there is a way is lost, as on a cable that is being plugged in: the first answer ends that.
    let start = Instant::now();
    while !pings(&a, "10.99.1.2", &["-c", "1", "-W", "1"]).contains(" 1 received") {
        assert!(start.elapsed() < Duration::from_secs(50));
    }
    let (there, back) = std::thread::scope(|scope| {
        let (near, far, pings) = (&a, &b, &pings);
        let many = ["-c", "40", "-i", "0.02", "-W", "30"];
        let there = scope.spawn(move || pings(near, "10.99.1.2", &many));
        let back = scope.spawn(move || pings(far, "10.99.1.1", &many));
        (there.join().unwrap(), back.join().unwrap())
    });
    for pings in [there, back] {
        assert!(pings.contains("40 packets transmitted, 40 received"), "{pings}");
    }
    let (sent, _) = finish(send);
    let (received, _) = finish(sink);
    assert_eq!((count(&sent, "sent"), count(&sent, "dropped")), (FRAMES, 0), "{sent}");
    assert_eq!((count(&received, "frames"), count(&received, "strangers")), (FRAMES, 0), "{received}");
    for service in [a, b] {
        let status = service.end();
        let kernel = &status["kernel"];
        // The pings, their answers, and what kernels say by themselves; none of the program's frames.
        assert!((80..FRAMES / 4).contains(&count(kernel, "to_kernel")), "{status}");
        assert_eq!((count(kernel, "dropped"), count(&status["adapter"], "nonsense")), (0, 0), "{status}");
    }
}

/// A service that is killed says nothing to anybody: whoever needs it ends, and says why.
#[test]
fn a_tool_whose_service_is_killed_ends_and_says_so() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let mut services = services(at, &[]);
    let file = at.join("some.pcapng");
    make(&file, 2);
    let (written, socket) = (at.join("written.pcapng"), at.join("vi-a"));
    let [file, written, socket] = [&file, &written, &socket].map(|path| path.to_str().unwrap());
    let tools = [
        ("sink", &["udp:10.9.0.2:1"][..]),
        ("sink", &["-e", "udp:10.9.0.2:2"]),
        ("rss", &["udp:10.9.0.2:3"]),
        ("capture", &["-w", written]),
        ("capture", &["--spin", "-w", "/dev/null"]),
        ("forward", &["--service2", socket, "udp:10.9.0.2:4"]),
        ("send", &["-n", "1000000000", "10.9.0.1", "5"]),
        ("send", &["-n", "1000000000", "-s", "1000", "10.9.0.1", "5"]),
        ("replay", &["--loops", "0", "--top-speed", file]),
        ("replay", &["--speed", "0.001", "--loops", "0", file]),
    ];
    let running: Vec<_> =
        tools.iter().map(|(name, arguments)| start(&mut tool(at, name, "b", arguments))).collect();
    // All are at work: the service knows their interfaces, and the filters of those that have some of their own.
    let mut watcher = ::vi_service::Client::<()>::connect(
        &at.join("vi-b"),
        &::vi::ProtectionDomain::new(),
        &::vi_service::ClientOptions::default(),
    )
    .unwrap();
    let begun = Instant::now();
    loop {
        let clients = watcher.status().unwrap().clients;
        // Those of the tools, one more of `rss`, and the watcher.
        if clients.len() == tools.len() + 2 && clients.iter().map(|client| client.filters).sum::<u32>() == 5 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{clients:?}");
        std::thread::yield_now();
    }
    services[1].0.kill().unwrap();
    for (mut running, (name, arguments)) in running.into_iter().zip(tools) {
        let mut said = String::new();
        running.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(running.0.wait().unwrap().code(), Some(2), "{name} {arguments:?}: {said}");
        assert!(said.contains("the service has ended the connection"), "{name} {arguments:?}: {said}");
    }
    assert!(Reader::new(BufReader::new(File::open(written).unwrap())).unwrap().next_frame().is_ok());
}

#[test]
fn a_sink_takes_as_many_frames_as_it_is_told() {
    let directory = TempDir::new().unwrap();
    let at = directory.path();
    let _services = services(at, &[]);
    let sink = start(&mut tool(at, "sink", "b", &["-e", "-n", "3", "udp:10.9.0.2:5000"]));
    run(&mut tool(at, "send", "a", &["-n", "200", "--drop", "--reach", "1", "10.9.0.2", "5000"]));
    assert_eq!(count(&finish(sink).0, "frames"), 3);
}
