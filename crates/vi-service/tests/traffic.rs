//! Several processes with several interfaces each, and the kernel, on one link at the same time: each gets exactly its frames.

mod world;

use std::process::{Command, Stdio};
use std::time::Instant;
use vi::udp::UDP_HEADER_BYTES;
use vi::{Event, RequestId};
use vi_service::Client;
use world::{Domain, LONG, Parent, Process, World, connect, frame, reach, send};

/// Kinds of frames, each for one interface: where they go, and the filter that takes them.
const KINDS: [(&str, &str); 4] = [
    ("10.99.0.2:5000", "udp:10.99.0.2:5000"),
    ("10.99.0.2:5001", "udp:10.99.0.2:5001-5009"),
    // More special than the next one.
    ("10.99.0.3:6000", "udp:10.99.0.3:6000,10.99.0.1:7"),
    ("10.99.0.3:6001", "udp:10.99.0.3:1-65535"),
];
/// Lengths of their payloads: in one line, in two, in a buffer.
const LENGTHS: [usize; 8] = [16, 18, 40, 78, 100, 400, 1000, 1472];
/// How many processes send.
const SENDERS: u64 = 2;

/// Not a test: what the processes of this program's tests do.
#[test]
fn part() {
    world::play(|part, arguments| match part {
        "give" => give(connect(arguments[0].as_ref(), None), number(arguments[1]), number(arguments[2])),
        "take" => take(arguments[0], number(arguments[1]), [2, 3].map(|at| number(arguments[at]))),
        // One who is killed, whichever way it works.
        "victim-takes" => {
            let mut client = connect(arguments[0].as_ref(), None);
            client.add_filter("udp:10.99.0.2:9000".parse().unwrap()).unwrap();
            Parent.say("ready");
            loop {
                let mut events: [Event<'_, Domain>; 8] = std::array::from_fn(|_| Event::Nothing);
                client.poll(&mut events);
                drop(events);
                client.refresh().unwrap();
            }
        }
        "victim-gives" => {
            let mut client = connect(arguments[0].as_ref(), None);
            reach(&mut client, KINDS.len() + 1);
            Parent.say("ready");
            let frame = frame("10.99.0.2:9000", &[0; 300]);
            loop {
                client.transmit(&frame, RequestId(0)).unwrap();
                client.vi().transmit_unbundle(&mut [RequestId(0); 8]);
                client.refresh().unwrap();
            }
        }
        _ => panic!("{part}"),
    });
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

/// Sends so many frames of each kind: in each the sender, the kind, and how many of that kind came before.
fn give(mut client: Client<Domain>, sender: u64, frames: u64) {
    let there = |client: &Client<Domain>| client.attachment().reaches().0 >= KINDS.len();
    assert!(client.wait_for(LONG, there).unwrap());
    let mut ready: Vec<Vec<Vec<u8>>> = KINDS
        .iter()
        .map(|(to, _)| LENGTHS.iter().map(|&bytes| frame(to, &vec![0x5A; bytes])).collect())
        .collect();
    Parent.say("ready");
    Parent.hear();
    for n in 0..frames {
        for (kind, frames) in ready.iter_mut().enumerate() {
            let length = (n as usize).wrapping_mul(31) % LENGTHS.len();
            let frame = &mut frames[length];
            let word = sender << 56 | (kind as u64) << 48 | n;
            frame[UDP_HEADER_BYTES..UDP_HEADER_BYTES + 8].copy_from_slice(&word.to_le_bytes());
            assert_eq!(send(&client, frame).sent, 1);
        }
        if client.has_news() {
            client.refresh().unwrap();
        }
    }
    Parent.say("done");
    // Alive until the others have what was sent, as any program is that goes on.
    Parent.hear();
}

/// Two interfaces of one process, each with the filter of one kind: takes all frames of every sender, in order.
fn take(socket: &str, frames: u64, kinds: [u64; 2]) {
    let mut clients = kinds.map(|kind| {
        let mut client = connect(socket.as_ref(), None);
        client.add_filter(KINDS[kind as usize].1.parse().unwrap()).unwrap();
        client
    });
    Parent.say("ready");
    let mut next = [[0; SENDERS as usize]; 2];
    let mut idle = 0;
    while next.iter().flatten().any(|&next| next < frames) {
        let mut found = 0;
        for ((client, kind), next) in clients.iter_mut().zip(kinds).zip(&mut next) {
            if client.has_news() {
                client.refresh().unwrap();
            }
            let mut events: [Event<'_, Domain>; 32] = std::array::from_fn(|_| Event::Nothing);
            let count = client.poll(&mut events);
            for event in &events[..count] {
                let Event::Received(packet) = event else { panic!("{event:?}") };
                let mut word = [0; 8];
                packet.read(UDP_HEADER_BYTES, &mut word).unwrap();
                let word = u64::from_le_bytes(word);
                let (sender, of, n) = ((word >> 56) as usize, word >> 48 & 0xFF, word & 0xFFFF_FFFF_FFFF);
                assert_eq!(of, kind, "misdelivered");
                assert_eq!(n, next[sender], "lost or twice, of sender {sender}");
                let length = LENGTHS[(n as usize).wrapping_mul(31) % LENGTHS.len()];
                let mut last = [0];
                packet.read(UDP_HEADER_BYTES + length - 1, &mut last).unwrap();
                assert_eq!(last, [0x5A]);
                next[sender] += 1;
            }
            found += count;
        }
        idle = if found == 0 { idle + 1 } else { 0 };
        if idle > 100 {
            std::thread::yield_now();
        }
    }
    assert!(clients.iter().all(|client| client.attachment().strangers() == 0));
    Parent.say("done");
}

/// Replies that a ping from one kernel to the other got, of how many.
fn ping(world: &World, count: u32) -> String {
    let id = world.services[0].id().to_string();
    let count = count.to_string();
    let out = Command::new("nsenter")
        .args(["--net", "-t", &id, "ping", "-q", "-c", &count, "-i", "0.05", "-W", "60", "10.99.0.2"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap()
}

fn everybody_gets_his(frames: u64) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: two kernels take two network namespaces, and root");
        return;
    }
    let world = World::with(40, Some(["10.99.0.1", "10.99.0.2"]));
    let each = frames / SENDERS / KINDS.len() as u64;
    let mut receivers = ["0 1", "2 3"].map(|kinds| world.process("b", "take", &format!("{each} {kinds}")));
    receivers.iter_mut().for_each(|receiver| receiver.expect("ready"));
    let mut senders: Vec<Process> =
        (0..SENDERS).map(|sender| world.process("a", "give", &format!("{sender} {each}"))).collect();
    senders.iter_mut().for_each(|sender| sender.expect("ready"));
    let mut victims = [world.process("b", "victim-takes", ""), world.process("a", "victim-gives", "")];
    victims.iter_mut().for_each(|victim| victim.expect("ready"));
    let start = Instant::now();
    senders.iter_mut().for_each(Process::tell);
    let pings = std::thread::scope(|scope| {
        let pings = scope.spawn(|| ping(&world, 40));
        // In the middle of it.
        victims[1].kill();
        victims[0].kill();
        senders.iter_mut().for_each(|sender| sender.expect("done"));
        receivers.iter_mut().for_each(|receiver| receiver.expect("done"));
        pings.join().unwrap()
    });
    let seconds = start.elapsed().as_secs_f64();
    assert!(pings.contains("40 packets transmitted, 40 received"), "{pings}");
    let mut watcher = world.client("b");
    let status = watcher.status().unwrap();
    eprintln!("{} frames in {seconds:.1} s; {}; {status:?}", each * SENDERS * 4, pings.trim());
    assert_eq!((status.adapter.lanes_failed, status.adapter.lanes_short, status.adapter.nonsense), (0, 0, 0));
    assert!(status.kernel.to_kernel >= 40);
}

#[test]
fn everybody_gets_exactly_his_frames() {
    everybody_gets_his(100_000);
}

#[test]
#[ignore = "minutes, in a release build: the same with ten million frames"]
fn everybody_gets_exactly_his_of_ten_million_frames() {
    everybody_gets_his(10_000_000);
}
