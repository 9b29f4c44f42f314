//! An adapter whose peer speaks the protocol's first words, and then says what it likes: its host's interfaces go on, and the next peer
//! that makes sense finds it as if nothing had been.

mod world;

use ntb::{Bridge, Inbound, Outbound};
use std::sync::Arc;
use std::time::Instant;
use vi::clock::{Answer, Question, SyncFlags};
use vi_service::{AdapterCounts, Client};
use world::{Domain, LONG, World, frame, reach, send};

/// Not a test: what the processes of this program's tests do.
#[test]
fn part() {
    world::play(|part, _| panic!("{part}"));
}

type Ring = (cells::Sender<Outbound, Inbound>, cells::Receiver<Outbound, Inbound>);

/// Port b, held by somebody who lays out window 0 as an adapter does.
struct Rogue {
    _bridge: Arc<ntb::Gen3>,
    link: Arc<cells::Link<Outbound, Inbound>>,
}

impl Rogue {
    fn new(world: &World) -> Self {
        let at = world.directory.path();
        let port = ntb::VfioUser::connect(&at.join("b"), Some(&at.join("control"))).unwrap();
        let bridge = Arc::new(ntb::Gen3::open(Arc::new(port)).unwrap());
        let inbound = Arc::new(bridge.inbound(0, 256 << 10).unwrap());
        bridge.link_enable(ntb::Speed::Auto, ntb::Width::Auto).unwrap();
        let start = Instant::now();
        while !bridge.link().unwrap().up {
            assert!(start.elapsed() < LONG);
            std::thread::yield_now();
        }
        let outbound = Arc::new(bridge.outbound(0).unwrap());
        let link = cells::Link::new(outbound, inbound).unwrap();
        Self { _bridge: bridge, link }
    }

    /// Opens the channel, as often as it takes, and greets.
    fn greet(&self, greeting: &[u8]) -> Ring {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < LONG, "no channel");
            let ring = cells::Geometry::fast(32, 2048).unwrap();
            let setup = cells::Setup { longest_frame: 4096, ..cells::Setup::new(ring) };
            let Ok(mut opening) = self.link.open("vi", setup) else { continue };
            let mut ready = false;
            while !ready && start.elapsed() < LONG {
                match opening.poll() {
                    Ok(now) => ready = now,
                    Err(_) => break,
                }
                std::thread::yield_now();
            }
            if ready && let Ok(Ok(channel)) = opening.finish() {
                let (mut sender, receiver) = channel.split();
                if sender.try_send(greeting).is_ok() {
                    return (sender, receiver);
                }
            }
        }
    }
}

/// The greeting of an adapter that fits.
fn greeting() -> Vec<u8> {
    let hello = r#"{"isthmus_vi":1,"mac":[2,0,0,0,0,9],"mtu":1500,"features":{"kernel":false},"lanes":8,"slots":256,
        "buffers":64,"buffer_bytes":2048,"stamps":true,"generation":4711}"#;
    hello.replace(['\n', ' '], "").into_bytes()
}

/// Waits until the counts of side a are so; the rogue's end of the channel is kept alive meanwhile, or not.
fn until(near: &mut Client<Domain>, what: &str, done: impl Fn(&AdapterCounts) -> bool) {
    let start = Instant::now();
    while !done(&near.status().unwrap().adapter) {
        assert!(start.elapsed() < LONG, "{what}: {:?}", near.status());
        std::thread::yield_now();
    }
}

#[test]
fn a_peer_that_talks_nonsense_is_counted_and_the_next_one_is_welcome() {
    let world = World::lonely(8);
    let mut near = world.client("a");
    near.add_filter("udp:10.99.0.1:5000".parse().unwrap()).unwrap();
    let rogue = Rogue::new(&world);
    let counts = near.status().unwrap().adapter;

    // Messages of the right form that cannot be: each is counted, and the link stays.
    let mut ring = rogue.greet(&greeting());
    let (sender, receiver) = (&mut ring.0, &mut ring.1);
    until(&mut near, "the greeting", |now| now.links > counts.links);
    let lane = r#""lane":{"number":3,"generation":9}"#;
    let offer = format!(r#"{{"Offer":{{{lane},"from":0,"to":0,"memory":[1,2]}}}}"#);
    let good = [r#"{"Sender":0}"#.to_owned(), offer.clone(), r#"{"Wake":55}"#.to_owned()];
    let bad = [
        r#"{"Sender":0}"#.to_owned(),
        r#"{"SenderGone":77}"#.to_owned(),
        offer,
        r#"{"Offer":{"lane":{"number":60000,"generation":1},"from":0,"to":1,"memory":[1,2]}}"#.to_owned(),
        r#"{"Taken":{"lane":{"number":60000,"generation":1},"memory":[1,2]}}"#.to_owned(),
        r#"{"Filters":{"Add":{"id":1,"filter":"every good frame","to":[0],"set":false}}}"#.to_owned(),
        r#"{"Filters":{"Add":{"id":40000,"filter":"sniff","to":[0],"set":false}}}"#.to_owned(),
        r#"{"Filters":{"Add":{"id":1,"filter":"sniff","to":[],"set":false}}}"#.to_owned(),
        r#"{"Filters":{"Remove":999}}"#.to_owned(),
        r#"{"Filters":{"Members":{"id":7,"to":[1]}}}"#.to_owned(),
    ];
    let before = near.status().unwrap().adapter;
    for message in &good {
        sender.try_send(message.as_bytes()).unwrap();
    }
    for (n, message) in (1..).zip(&bad) {
        sender.try_send(message.as_bytes()).unwrap();
        until(&mut near, message, |now| now.nonsense == before.nonsense + n);
    }
    assert_eq!(near.status().unwrap().adapter.links, before.links, "it was not worth a new beginning");

    // Questions without end are answered as there is room, and answers that lie are not believed.
    for number in 0..500_u64 {
        let question = Question { number, sent_ns: number }.to_bytes();
        let _ = sender.try_send(&[b"?", &question[..]].concat());
    }
    let (mut answers, mut lies) = (0, 0);
    let start = Instant::now();
    while answers == 0 || lies == 0 || near.status().unwrap().adapter.clock_refused == 0 {
        assert!(start.elapsed() < LONG, "{answers} {lies} {:?}", near.status());
        match receiver.try_receive().unwrap() {
            Some([b'!', rest @ ..]) => answers += u32::from(Answer::from_bytes(rest).unwrap().number < 500),
            Some([b'?', rest @ ..]) => {
                let Question { number, sent_ns } = Question::from_bytes(rest).unwrap();
                let answer = Answer {
                    number,
                    asked_ns: sent_ns,
                    received_ns: sent_ns,
                    sent_ns: sent_ns - 1,
                    bound_ns: 0,
                    flags: SyncFlags::IN_SYNC,
                };
                lies += u32::from(sender.try_send(&[b"!", &answer.to_bytes()[..]].concat()).is_ok());
            }
            Some(_) | None => {}
        }
    }
    assert_eq!((near.status().unwrap().clock, near.peer_clock()), (None, None), "nobody believed it");

    // What is no message at all ends the conversation, and a new one begins.
    let long = vec![b'['; 4096];
    let nonsense: [&[u8]; 6] = [b"\xff\xfe", b"{}", br#"{"Sender":-1}"#, b"?short", b"!", &long];
    for words in nonsense {
        ring.0.try_send(words).unwrap();
        let links = near.status().unwrap().adapter.links;
        assert!(near.wait_for(LONG, |client| client.link().is_none()).unwrap(), "{words:?}");
        drop(ring);
        ring = rogue.greet(&greeting());
        until(&mut near, "greeted again", |now| now.links > links);
        assert!(near.wait_for(LONG, |client| client.link().is_some()).unwrap());
    }
    drop(ring);
    // Greetings that do not fit are refused, and told.
    for refused in [&b"hello"[..], br#"{"isthmus_vi":2}"#, br#"{"isthmus_vi":1}"#] {
        let links = near.status().unwrap().adapter.links;
        let ring = rogue.greet(refused);
        assert!(near.wait_for(LONG, |client| client.link().is_none()).unwrap());
        assert_eq!(near.status().unwrap().adapter.links, links);
        drop(ring);
    }
    drop(rogue);

    let mut service = world.service_ahead(8, "0");
    service.expect("ready");
    let mut far = world.client("b");
    reach(&mut far, 1);
    let sent = frame("10.99.0.1:5000", b"and yet");
    send(&far, &sent);
    let start = Instant::now();
    loop {
        near.refresh().unwrap();
        let mut events = [vi::Event::Nothing];
        near.poll(&mut events);
        if let [vi::Event::Received(packet)] = &events {
            let mut bytes = vec![0; packet.len()];
            packet.copy_to(&mut bytes).unwrap();
            assert_eq!(bytes, sent);
            break;
        }
        assert!(start.elapsed() < LONG);
    }
}
