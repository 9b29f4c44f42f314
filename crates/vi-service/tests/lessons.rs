//! What docs/vi.md teaches, compiled and run. The pieces of Rust in that page are those between the marks of this file, line by line:
//! whoever changes one changes both.

mod world;

use std::sync::atomic::AtomicU64;
use std::time::Instant;
use world::{LONG, World, connect, frame, reach, send};

// lesson begins
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vi::clock::Keeper;
use vi::filter::{Filter, FlowCache, Table, Target, Verdict};
use vi::lane::{Geometry, Meta, SharedLane};
use vi::{Event, ProtectionDomain, RequestId, TimedEvent, TimedVi, Vi};
use vi_service::{Client, ClientOptions};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;
// lesson ends

#[derive(Debug)]
struct Market;

/// Not a test: what the processes of this program's tests do.
#[test]
fn part() {
    world::play(|part, _| panic!("{part}"));
}

#[test]
fn the_page_and_this_file_say_the_same() {
    let page = include_str!("../../../docs/vi.md");
    let here = include_str!("lessons.rs");
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    };
    let mut taught: Vec<Vec<String>> = Vec::new();
    for block in page.split("```rust\n").skip(1) {
        taught.push(lines(block.split("```").next().unwrap()));
    }
    // The mark is put together here, so that this line is none.
    let mark = ["// ", "lesson"].concat();
    let mut run: Vec<Vec<String>> = Vec::new();
    for block in here.split(&format!("{mark} begins")).skip(1) {
        run.push(lines(block.split(&format!("{mark} ends")).next().unwrap()));
    }
    assert!(taught.len() >= 8);
    for (number, (taught, run)) in taught.iter().zip(&run).enumerate() {
        assert_eq!(taught, run, "piece {number} of the page");
    }
    assert_eq!(taught.len(), run.len());
}

#[test]
fn a_first_frame_and_what_is_done_with_it() -> Outcome {
    let mut frame = vec![7; 100];
    // lesson begins
    #[derive(Debug)]
    struct Market; // stands for a protection domain

    let domain = ProtectionDomain::<Market>::new();
    let lane = SharedLane::create(Geometry::default())?; // 256 slots, 256 buffers of 2 KiB

    let mut here = Vi::<Market>::new(&domain);
    let out = here.attach_sender(lane.sender()?, None);

    let mut there = Vi::<Market>::new(&domain);
    let (_, buffers) = there.attach_receiver(lane.receiver()?);
    for buffer in buffers {
        there.receive_init(buffer, RequestId(0)).map_err(|refused| refused.reason)?;
    }
    there.receive_push();

    here.transmit(out, &frame, Meta::default(), RequestId(1))?;
    // lesson ends
    frame.fill(0);

    // lesson begins
    let mut events: [Event<'_, Market>; 32] = std::array::from_fn(|_| Event::Nothing);
    let count = there.poll(&mut events);
    for event in &events[..count] {
        match event {
            Event::Received(packet) => {
                let header: [u8; 64] = packet.header(); // a private snapshot: look at this one
                assert_eq!(header[0], 7);
                packet.copy_to(&mut frame)?;
            }
            Event::ReceiveFailed { lane, reason } => panic!("{lane:?}: {reason}"),
            _ => {}
        }
    }
    // lesson ends
    assert_eq!((count, frame), (1, vec![7; 100]));
    drop(events);

    // The completion, and the next frame without taking it.
    let mut done = [RequestId(0); 4];
    assert_eq!((here.transmit_unbundle(&mut done), done[0]), (1, RequestId(1)));
    assert!(here.transmit_flushed(out)? || there.peek(vi::LaneId(0)).is_none());
    Ok(())
}

#[test]
fn a_table_says_who_gets_a_frame() -> Outcome {
    let domain = ProtectionDomain::<Market>::new();
    let mut here = Vi::new(&domain);
    let lanes = [(); 5].map(|()| SharedLane::create(Geometry::default()).unwrap());
    let [first, second, third, fourth, monitor] =
        lanes.each_ref().map(|lane| here.attach_sender(lane.sender().unwrap(), None));
    let frame = frame("239.1.2.3:5005", &[1; 18]);
    // lesson begins
    let mut table = Table::new();
    table.add("udp:239.1.2.3:5000-5099".parse()?, Target::One(first))?;
    table.add("tcp:10.0.0.2:80,10.0.0.7:4711".parse()?, Target::One(second))?;
    table.add("ip-protocol:17".parse()?, Target::Set(vec![third, fourth]))?; // spread by Toeplitz hash
    table.add(Filter::Sniff, Target::One(monitor))?; // a copy of everything

    let mut cache = FlowCache::default();
    let steered = here.transmit_steered(&table, &mut cache, &frame, 0, RequestId(1))?;
    // Verdict::Kernel: no filter takes it, it is for the net device.
    assert_eq!((steered.verdict, steered.sent), (Verdict::Taken, 2));
    // lesson ends
    Ok(())
}

/// A program of many: takes so many datagrams.
fn datagrams(path: &Path, wanted: u32) -> Outcome {
    // lesson begins
    let domain = ProtectionDomain::new();
    let mut client = Client::<Market>::connect(path, &domain, &ClientOptions::default())?;
    client.add_filter("udp:239.1.2.3:5000".parse()?)?;
    let mut datagrams = 0;
    while datagrams < wanted {
        // One load of a page of its own: lanes and filters came or went.
        if client.has_news() {
            client.refresh()?;
        }
        let mut events: [Event<'_, Market>; 32] = std::array::from_fn(|_| Event::Nothing);
        let count = client.poll(&mut events);
        for event in &events[..count] {
            if let Event::Received(packet) = event {
                let header: [u8; 64] = packet.header();
                datagrams += u32::from(header[23] == 17); // the protocol of an IPv4 packet: UDP
            }
        }
        drop(events);
        if count == 0 {
            client.wait(None)?; // or poll on: it then never sleeps
        }
    }
    // lesson ends
    Ok(())
}

#[test]
fn a_process_takes_what_it_asked_for() {
    let world = World::new(8);
    let socket = world.socket("b");
    std::thread::scope(|scope| {
        let taker = scope.spawn(|| datagrams(&socket, 1000));
        let mut near = world.client("a");
        reach(&mut near, 1);
        for n in 0..1000_u64 {
            send(&near, &frame("239.1.2.3:5000", &n.to_le_bytes()));
        }
        taker.join().unwrap().unwrap();
    });
}

// lesson begins
/// One thread of the forwarder: an interface of the set on the left link, one of its own on the right.
fn forwarder(left: &Path, right: &Path, first: bool, over: &AtomicBool) -> Outcome {
    let domain = ProtectionDomain::new();
    let set = ClientOptions { name: "rss".into(), set: Some("rss".into()), ..ClientOptions::default() };
    let mut right = Client::<Market>::connect(right, &domain, &ClientOptions::default())?;
    // Nobody sends here before there is somebody to forward to.
    right.wait_to_reach(1, Duration::from_secs(60))?;
    let mut left = Client::<Market>::connect(left, &domain, &set)?;
    if first {
        left.add_set_filter("ip-protocol:17".parse()?)?; // on the set: each flow has one home
    }
    while !over.load(Ordering::Relaxed) {
        for client in [&mut left, &mut right] {
            if client.has_news() {
                client.refresh()?;
            }
        }
        let mut events: [Event<'_, Market>; 32] = std::array::from_fn(|_| Event::Nothing);
        let count = left.poll(&mut events);
        for event in &events[..count] {
            if let Event::Received(packet) = event {
                right.attachment().forward(packet, RequestId(0))?; // from buffer to buffer
            }
        }
        right.attachment().push()?;
        right.vi().transmit_unbundle(&mut [RequestId(0); 64]);
    }
    Ok(())
}
// lesson ends

/// Ends the threads of a test, however that ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_rss_forwarder_carries_flows_from_link_to_link() {
    const FLOWS: u16 = 8;
    const EACH: u64 = 200;
    let (left, right) = (World::new(16), World::new(16));
    let (over, received) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut sink = right.client("b");
    sink.add_filter("udp:10.99.0.2:1-65535".parse().unwrap()).unwrap();
    std::thread::scope(|scope| {
        let _over = Over(&over);
        let threads = [true, false].map(|first| {
            let (left, right, over) = (left.socket("b"), right.socket("a"), &over);
            scope.spawn(move || forwarder(&left, &right, first, over))
        });
        let mut source = connect(&left.socket("a"), None);
        reach(&mut source, 2);
        assert!(sink.wait_for(LONG, |client| client.vi().lanes().0 == 3).unwrap());
        let (mut next, mut sent) = ([0_u64; FLOWS as usize], 0);
        let start = Instant::now();
        while received.load(Ordering::Relaxed) < EACH * u64::from(FLOWS) {
            assert!(start.elapsed() < LONG, "{received:?} of {sent}");
            // No more on their way than one link has room for.
            if sent < EACH * u64::from(FLOWS) && sent < received.load(Ordering::Relaxed) + 32 {
                let (port, n) = (1000 + sent % u64::from(FLOWS), sent / u64::from(FLOWS));
                send(
                    &source,
                    &frame(&format!("10.99.0.2:{port}"), &[n.to_le_bytes(), [9; 8]].concat().repeat(10)),
                );
                sent += 1;
            }
            let mut events: [Event<'_, world::Domain>; 32] = std::array::from_fn(|_| Event::Nothing);
            let count = sink.poll(&mut events);
            for event in &events[..count] {
                let Event::Received(packet) = event else { continue };
                let mut number = [0; 8];
                packet.read(vi::udp::UDP_HEADER_BYTES, &mut number).unwrap();
                let flow = usize::from(packet.load_u16(36).unwrap() - 1000);
                assert_eq!(
                    u64::from_le_bytes(number),
                    next[flow],
                    "of a flow none is lost, and all are in order"
                );
                next[flow] += 1;
                received.fetch_add(1, Ordering::Relaxed);
            }
        }
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    });
}

#[test]
fn times_with_a_bound() -> Outcome {
    let domain = ProtectionDomain::<Market>::new();
    let lane = SharedLane::create(Geometry { stamps: true, ..Geometry::default() })?;
    let mut vi = Vi::new(&domain);
    let out = vi.attach_sender(lane.sender()?, None);
    vi.attach_receiver(lane.receiver()?);
    let frame = [1; 40];
    // lesson begins
    let kept = Keeper::new().spawn(Duration::from_millis(100))?; // a thread; or call Keeper::step yourself
    let clock = kept.clock(); // clones are cheap, one for each thread

    let timed = TimedVi::new(&vi, clock.clone());
    let sent = timed.transmit(out, &frame, Meta::default(), RequestId(1))?; // a Stamp: when it was handed over

    let mut events: [TimedEvent<'_, Market>; 32] = std::array::from_fn(|_| TimedEvent::Nothing);
    let count = timed.poll(&mut events);
    for event in &events[..count] {
        if let TimedEvent::Event(Event::Received(packet), stamp) = event {
            assert_eq!(packet.stamp(), Some(sent.ns)); // the sender's time
            assert!(stamp.ns >= sent.ns, "{stamp:?}"); // this end's, with its bound and its flags
        }
    }
    // lesson ends
    // The frame, and that it was sent.
    assert_eq!(count, 2);
    Ok(())
}

#[test]
fn times_across_the_link() -> Outcome {
    let world = World::stamped(8, 5_000_000_000);
    let (mut near, mut far) = (world.client("a"), world.client("b"));
    far.add_filter("udp:10.99.0.2:5000".parse()?)?;
    reach(&mut near, 1);
    let start = Instant::now();
    while far.peer_clock().is_none() {
        assert!(start.elapsed() < LONG);
        std::thread::yield_now();
    }
    let frame = frame("10.99.0.2:5000", &[1; 18]);
    let mut told = None;
    // lesson begins
    let (_, sent) = near.transmit_timed(&frame, RequestId(0))?; // with its time, as all that a client sends
    // lesson ends
    while told.is_none() {
        far.refresh()?;
        let mut events = [Event::Nothing];
        far.poll(&mut events);
        let [Event::Received(packet)] = &events else { continue };
        // lesson begins
        // At the other end: what time that was by the clock here, and how wrong that may be.
        if let (Some(theirs), Some(peer)) = (packet.stamp(), far.peer_clock()) {
            told = peer.to_mine(theirs).map(|mine| (mine, peer.bound_ns, peer.flags));
        }
        // lesson ends
    }
    // The services' clocks are five seconds apart; those of this process, which stamped the frame, are one.
    let (mine, bound_ns, _) = told.unwrap();
    assert!((mine - 5_000_000_000).abs_diff(sent.ns) <= bound_ns + 2_000_000, "{told:?} {sent:?}");
    Ok(())
}
