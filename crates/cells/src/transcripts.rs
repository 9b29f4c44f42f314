//! Dialogues of two ends, byte by byte where the layout is promised.

use crate::layout::{CREDIT, DIRECTORY_BYTES, RING};
use crate::{
    Bells, Channel, EventBell, Fault, Geometry, Link, OpenError, Receiver, SendError, Sender, Setup,
};
use shm::{Heap, LoadOrder, Memory, StoreOrder, Window, WindowError, WindowKind};
use std::sync::Arc;
use std::time::Duration;

const WINDOW: usize = 1 << 20;
const SECOND: Option<Duration> = Some(Duration::from_secs(10));

type End = (Sender<Heap, Heap>, Receiver<Heap, Heap>);

/// Two memories, and a link on each.
struct World {
    a_memory: Arc<Heap>,
    b_memory: Arc<Heap>,
    a: Arc<Link<Heap, Heap>>,
    b: Arc<Link<Heap, Heap>>,
}

impl World {
    fn new() -> Self {
        Self::of(WINDOW)
    }

    fn of(bytes: usize) -> Self {
        let (a_memory, b_memory) = (Arc::new(Heap::new(bytes)), Arc::new(Heap::new(bytes)));
        let a = Link::new(Arc::clone(&b_memory), Arc::clone(&a_memory)).unwrap();
        let b = Link::new(Arc::clone(&a_memory), Arc::clone(&b_memory)).unwrap();
        Self { a_memory, b_memory, a, b }
    }

    fn up(&self, setup: &Setup) -> (End, End) {
        let (a, b) = self.channels(setup, setup, (1, 2));
        (a.split(), b.split())
    }

    fn channels(
        &self,
        a: &Setup,
        b: &Setup,
        generations: (u32, u32),
    ) -> (Channel<Heap, Heap>, Channel<Heap, Heap>) {
        let mut a = self.a.open_as("x", a.clone(), generations.0).unwrap();
        let mut b = self.b.open_as("x", b.clone(), generations.1).unwrap();
        assert_eq!(a.poll(), Ok(false));
        assert_eq!(b.poll(), Ok(true));
        assert_eq!(a.poll(), Ok(true));
        (a.finish().unwrap().unwrap(), b.finish().unwrap().unwrap())
    }

    fn bytes_of_b(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.b_memory.read(at, &mut bytes).unwrap();
        bytes
    }
}

fn paper(cells: u32) -> Setup {
    Setup::new(Geometry::paper(cells).unwrap())
}

fn fast(cells: u32) -> Setup {
    Setup::new(Geometry::fast(cells, 2048).unwrap())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251).to_le_bytes()[0]).collect()
}

/// Where B's ring begins.
const B_RING: usize = DIRECTORY_BYTES + RING;

#[test]
fn paper_a_full_ethernet_frame_takes_three_cells() {
    let world = World::new();
    let ((mut send, _), (_, mut receive)) = world.up(&paper(8));
    let frame = pattern(1514);
    send.try_send(&frame).unwrap();
    // Entry is 3, exit is 0.
    assert_eq!(world.bytes_of_b(B_RING, 8), [3, 0, 0, 0, 0, 0, 0, 0]);
    // First fragment, the last one is in cell 2.
    assert_eq!(world.bytes_of_b(B_RING + 8, 2), [0x02, 0xC0]);
    assert_eq!(world.bytes_of_b(B_RING + 10, 748), frame[..748]);
    assert_eq!(world.bytes_of_b(B_RING + 8 + 750, 2), [0x00, 0x80]);
    assert_eq!(world.bytes_of_b(B_RING + 10 + 750, 748), frame[748..1496]);
    // The last has 18 valid bytes.
    assert_eq!(world.bytes_of_b(B_RING + 8 + 1500, 2), [18, 0x80]);
    assert_eq!(world.bytes_of_b(B_RING + 10 + 1500, 18), frame[1496..]);
    assert_eq!(receive.try_receive().unwrap(), Some(&frame[..]));
    assert_eq!(world.bytes_of_b(B_RING, 8), [3, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(receive.try_receive().unwrap(), None);
}

#[test]
fn paper_is_full_when_entry_is_one_before_exit_and_wraps() {
    let world = World::new();
    let ((mut send, _), (_, mut receive)) = world.up(&paper(4));
    for round in 0..10_u8 {
        for cell in 0..3 {
            send.try_send(&[round, cell]).unwrap();
        }
        assert_eq!(send.try_send(&[9]), Err(SendError::Full { needs: 1, free: 0 }));
        assert_eq!(receive.try_receive().unwrap(), Some(&[round, 0][..]));
        assert_eq!(send.try_send(&pattern(749)), Err(SendError::Full { needs: 2, free: 1 }));
        for cell in 1..3 {
            assert_eq!(receive.try_receive().unwrap(), Some(&[round, cell][..]));
        }
        let wrapped = pattern(3 * 748);
        send.try_send(&wrapped).unwrap();
        assert_eq!(receive.try_receive().unwrap(), Some(&wrapped[..]));
    }
    assert_eq!(send.counters().full, 20);
    assert_eq!(send.counters().cells, receive.counters().cells);
}

#[test]
fn paper_has_four_byte_headers_in_long_rings() {
    let world = World::of(16 << 20);
    let ((mut send, _), (_, mut receive)) = world.up(&paper(17_000));
    let frame = pattern(1493);
    for _ in 0..6_000 {
        send.try_send(&frame).unwrap();
        assert_eq!(receive.try_receive().unwrap(), Some(&frame[..]));
    }
    // 18000 cells are past the end once, and far past what 14 bits can say.
    assert_eq!(world.bytes_of_b(B_RING, 8), [0xE8, 3, 0, 0, 0xE8, 3, 0, 0]);
    assert_eq!(world.bytes_of_b(B_RING + 8 + 750 * 16_995, 4), [0x65, 0x42, 0, 0xC0]);
}

#[test]
fn fast_a_frame_and_its_headers() {
    let world = World::new();
    let ((mut send, _), (_, mut receive)) = world.up(&fast(4));
    let frame = pattern(2040 + 5);
    send.try_send(&frame).unwrap();
    // Sequence 1, 2040 bytes, one more to come, first; then sequence 2, 5 bytes, the last.
    assert_eq!(world.bytes_of_b(B_RING, 8), [1, 0, 0, 0, 0xF8, 0x07, 1, 0x40]);
    assert_eq!(world.bytes_of_b(B_RING + 8, 2040), frame[..2040]);
    assert_eq!(world.bytes_of_b(B_RING + 2112, 8), [2, 0, 0, 0, 5, 0, 0, 0]);
    assert_eq!(receive.try_receive().unwrap(), Some(&frame[..]));
    let credit = || world.a_memory.load_u64(DIRECTORY_BYTES + CREDIT, LoadOrder::Relaxed).unwrap();
    assert_eq!(credit(), 2, "told while it was fetched: a quarter of the ring is one cell");
}

#[test]
fn fast_fills_all_its_cells_and_gives_credit_in_batches() {
    let world = World::new();
    let ((mut send, _), (_, mut receive)) = world.up(&fast(16));
    let credit = || world.a_memory.load_u64(DIRECTORY_BYTES + CREDIT, LoadOrder::Relaxed).unwrap();
    for cell in 0..16 {
        send.try_send(&[cell]).unwrap();
    }
    assert_eq!(send.try_send(&[16]), Err(SendError::Full { needs: 1, free: 0 }));
    for cell in 0..3 {
        assert_eq!(receive.try_receive().unwrap(), Some(&[cell][..]));
    }
    assert_eq!(credit(), 0, "three of sixteen are not worth a store across the bridge");
    assert_eq!(receive.try_receive().unwrap(), Some(&[3][..]));
    assert_eq!(credit(), 4);
    send.try_send(&[16]).unwrap();
    for cell in 4..17 {
        assert_eq!(receive.try_receive().unwrap(), Some(&[cell][..]));
    }
    assert_eq!(receive.try_receive().unwrap(), None);
    assert_eq!(credit(), 17, "who finds nothing tells all");
}

#[test]
fn fast_a_frame_is_fetched_as_it_comes() {
    let world = World::new();
    let ((mut send, _), (_, mut receive)) = world.up(&fast(4));
    send.try_send(&pattern(3 * 2040)).unwrap();
    // As if the third cell were still on its way.
    let third = world.bytes_of_b(B_RING + 4224, 8);
    world.b_memory.store_u64(B_RING + 4224, 0, StoreOrder::Relaxed).unwrap();
    assert_eq!(receive.try_receive().unwrap(), None);
    let third = u64::from_le_bytes(third.try_into().unwrap());
    world.b_memory.store_u64(B_RING + 4224, third, StoreOrder::Release).unwrap();
    assert_eq!(receive.try_receive().unwrap(), Some(&pattern(3 * 2040)[..]));
}

#[test]
fn frames_of_every_length_pass() {
    for setup in [paper(100), fast(64)] {
        let world = World::new();
        let ((mut send, _), (_, mut receive)) = world.up(&setup);
        for len in
            [0, 1, 2, 747, 748, 749, 1496, 1497, 1514, 2039, 2040, 2041, 4080, 65521, 65535, 65536, 65537]
        {
            let frame = pattern(len);
            send.try_send(&frame).unwrap();
            assert_eq!(receive.try_receive().unwrap(), Some(&frame[..]), "{len}");
        }
        assert_eq!(send.counters().frames, 17);
        assert_eq!(receive.counters().frames, 17);
        assert_eq!(send.counters().bytes, receive.counters().bytes);
    }
}

#[test]
fn a_frame_longer_than_the_peer_takes_is_refused_here() {
    for setup in [paper(100), fast(64)] {
        let world = World::new();
        let small = Setup { longest_frame: 1514, ..setup.clone() };
        let (a, b) = world.channels(&setup, &small, (1, 2));
        let ((mut a_send, mut a_receive), (mut b_send, mut b_receive)) = (a.split(), b.split());
        let refused = SendError::TooLong { bytes: 1515, longest: 1514 };
        assert_eq!(a_send.try_send(&pattern(1515)), Err(refused));
        assert_eq!(a_send.counters().too_long, 1);
        a_send.try_send(&pattern(1514)).unwrap();
        assert_eq!(b_receive.try_receive().unwrap(), Some(&pattern(1514)[..]));
        b_send.try_send(&pattern(1515)).unwrap();
        assert_eq!(a_receive.try_receive().unwrap(), Some(&pattern(1515)[..]));
    }
}

#[test]
fn staged_frames_of_the_paper_ring_show_when_they_are_published() {
    let world = World::new();
    let ((mut send, _), (_, mut receive)) = world.up(&paper(8));
    send.stage(b"one").unwrap();
    send.stage(b"two").unwrap();
    assert_eq!(receive.try_receive().unwrap(), None);
    send.publish().unwrap();
    assert_eq!(receive.try_receive().unwrap(), Some(&b"one"[..]));
    assert_eq!(receive.try_receive().unwrap(), Some(&b"two"[..]));
}

#[test]
fn channels_share_a_link_by_name() {
    let world = World::new();
    let names = ["net0", "perf", "a name of forty-eight bytes, the longest of all!"];
    let setups = [fast(16), paper(64), fast(4)];
    let mut opened: Vec<_> =
        names.iter().zip(&setups).map(|(name, setup)| world.a.open(name, setup.clone()).unwrap()).collect();
    // The other side opens them in another order.
    let mut others: Vec<_> = names
        .iter()
        .zip(&setups)
        .rev()
        .map(|(name, setup)| world.b.open(name, setup.clone()).unwrap())
        .collect();
    others.reverse();
    let mut ends = Vec::new();
    for (mut a, mut b) in opened.drain(..).zip(others.drain(..)) {
        let _ = a.poll().unwrap();
        let _ = b.poll().unwrap();
        assert_eq!(a.poll(), Ok(true));
        ends.push((a.finish().unwrap().unwrap().split(), b.finish().unwrap().unwrap().split()));
    }
    for (index, ((send, _), _)) in ends.iter_mut().enumerate() {
        send.try_send(names[index].as_bytes()).unwrap();
    }
    for (index, (_, (_, receive))) in ends.iter_mut().enumerate() {
        assert_eq!(receive.try_receive().unwrap(), Some(names[index].as_bytes()));
    }
    assert!(matches!(world.a.open("net0", fast(4)), Err(OpenError::NameTaken(_))));
    assert!(matches!(world.a.open("", fast(4)), Err(OpenError::Name(0))));
    assert!(matches!(world.a.open(&"n".repeat(49), fast(4)), Err(OpenError::Name(49))));
    drop(ends);
    assert!(world.a.open("net0", fast(4)).is_ok(), "a channel that is dropped gives its name back");
}

#[test]
fn a_link_that_is_full_says_so() {
    let world = World::new();
    assert!(matches!(world.a.open("big", fast(512)), Err(OpenError::NoRoom { .. })));
    let held: Vec<_> = (0..16).map(|n| world.a.open(&format!("{n}"), fast(4)).unwrap()).collect();
    assert!(matches!(world.a.open("one more", fast(4)), Err(OpenError::NoSlot)));
    drop(held);
    assert!(world.a.open("now", fast(256)).is_ok());
    let tiny = Arc::new(Heap::new(100));
    assert!(matches!(Link::new(Arc::clone(&tiny), tiny), Err(OpenError::NoRoom { .. })));
}

#[test]
fn two_profiles_and_two_layouts_do_not_meet() {
    let world = World::new();
    let mut a = world.a.open("x", fast(16)).unwrap();
    let _b = world.b.open("x", paper(16)).unwrap();
    let error = a.poll().unwrap_err();
    assert_eq!(error.to_string(), "the peer opens \"x\" with profile paper, this side with fast");
    drop(a);

    // Somebody else's directory.
    let world = World::new();
    let mut a = world.a.open("x", fast(16)).unwrap();
    world.a_memory.write(0, b"NTBTRNSP\x01\0\0\0\0\0\0\0").unwrap();
    let error = a.poll().unwrap_err();
    assert!(matches!(error, OpenError::Stranger { found: 0x5053_4E52_5442_544E }), "{error}");

    // A newer one of ours.
    let world = World::new();
    let mut a = world.a.open("x", fast(16)).unwrap();
    let _b = world.b.open("x", fast(16)).unwrap();
    world.a_memory.store_u32(4, 2, StoreOrder::Relaxed).unwrap();
    let error = a.poll().unwrap_err();
    assert!(error.to_string().contains("0x000000024c4c4543"), "{error}");
}

#[test]
fn a_ring_that_does_not_lie_in_the_window_is_refused() {
    for (word, value) in [(0x20, 0), (0x20, 4100), (0x20, 1 << 19), (0x20, u64::MAX), (0x20, u64::MAX - 4095)]
    {
        let world = World::new();
        let mut a = world.a.open("x", fast(256)).unwrap();
        let _b = world.b.open("x", fast(256)).unwrap();
        world.a_memory.store_u64(word, value, StoreOrder::Relaxed).unwrap();
        assert!(matches!(a.poll(), Err(OpenError::Region { .. })), "{value:#x}");
    }
    for (word, value) in
        [(0x10, 2), (0x10, 2 | 16 << 32), (0x18, 3 | 2048 << 32), (0x18, 4 | 1 << 32), (0x18, 0)]
    {
        let world = World::new();
        let mut a = world.a.open("x", fast(256)).unwrap();
        let _b = world.b.open("x", fast(256)).unwrap();
        world.a_memory.store_u64(word, value, StoreOrder::Relaxed).unwrap();
        assert!(matches!(a.poll(), Err(OpenError::Geometry(_))), "{value:#x}");
    }
}

/// A window whose stores are messages: it cannot be loaded from.
#[derive(Debug)]
struct Messaged(Arc<Heap>);

impl Window for Messaged {
    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn kind(&self) -> WindowKind {
        WindowKind::Messaged
    }

    fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.0.write(at, data)
    }

    fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
        self.0.store_u32(at, value, order)
    }

    fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
        self.0.store_u64(at, value, order)
    }

    fn flush(&self) -> Result<(), WindowError> {
        Ok(())
    }

    fn settle(&self) -> Result<(), WindowError> {
        self.0.settle()
    }
}

#[test]
fn fast_runs_over_messages_and_paper_is_refused_there() {
    let (a, b) = (Arc::new(Heap::new(WINDOW)), Arc::new(Heap::new(WINDOW)));
    let here = Link::new(Arc::new(Messaged(Arc::clone(&b))), Arc::clone(&a)).unwrap();
    let there = Link::new(Arc::new(Messaged(a)), b).unwrap();
    assert!(matches!(here.open("x", paper(16)), Err(OpenError::NeedsMapped)));
    let mut a = here.open("x", fast(16)).unwrap();
    let mut b = there.open("x", fast(16)).unwrap();
    let _ = a.poll().unwrap();
    let _ = b.poll().unwrap();
    assert_eq!(a.poll(), Ok(true));
    let (mut send, _) = a.finish().unwrap().unwrap().split();
    let (_, mut receive) = b.finish().unwrap().unwrap().split();
    for len in [0, 1, 2040, 9000] {
        send.try_send(&pattern(len)).unwrap();
        assert_eq!(receive.try_receive().unwrap(), Some(&pattern(len)[..]));
    }
}

#[test]
fn a_peer_that_goes_or_comes_anew_is_noticed() {
    for setup in [paper(16), fast(16)] {
        let world = World::new();
        let ((mut a_send, a_receive), (mut b_send, mut b_receive)) = world.up(&setup);
        a_send.try_send(b"before it goes").unwrap();
        drop((a_send, a_receive));
        // What was sent before the sender went is not lost with it.
        assert_eq!(b_receive.try_receive().unwrap(), Some(&b"before it goes"[..]));
        assert_eq!(b_receive.try_receive(), Err(Fault::PeerClosed));
        assert_eq!(b_send.try_send(b"to nobody"), Err(SendError::Failed(Fault::PeerClosed)));
        assert_eq!(world.b.faults(), 1);
        drop((b_send, b_receive));
        let (a, b) = world.channels(&setup, &setup, (3, 4));
        let ((mut a_send, _), (_, mut b_receive)) = (a.split(), b.split());
        a_send.try_send(b"again").unwrap();
        assert_eq!(b_receive.try_receive().unwrap(), Some(&b"again"[..]));
    }
}

#[test]
fn a_process_that_is_killed_and_comes_back_meets_a_clean_ring() {
    for setup in [paper(16), fast(16)] {
        let world = World::new();
        let ((mut a_send, a_receive), (mut b_send, mut b_receive)) = world.up(&setup);
        a_send.try_send(b"one").unwrap();
        b_send.try_send(b"unread").unwrap();
        // kill -9: nothing is withdrawn. A new process of the same side takes the same windows.
        std::mem::forget((a_send, a_receive));
        let again = Link::new(Arc::clone(&world.b_memory), Arc::clone(&world.a_memory)).unwrap();
        let mut a = again.open_as("x", setup.clone(), 3).unwrap();
        assert_eq!(a.poll(), Ok(false), "B still speaks of the old session");
        assert_eq!(b_receive.try_receive().unwrap(), Some(&b"one"[..]));
        assert_eq!(b_receive.try_receive(), Err(Fault::PeerRestarted));
        // B's old end may still store something before it notices.
        drop((b_send, b_receive));
        let mut b = world.b.open_as("x", setup.clone(), 4).unwrap();
        assert_eq!(b.poll(), Ok(false), "A has answered nobody of this generation");
        assert_eq!(a.poll(), Ok(true));
        assert_eq!(b.poll(), Ok(true));
        let (mut a_send, mut a_receive) = a.finish().unwrap().unwrap().split();
        let (mut b_send, mut b_receive) = b.finish().unwrap().unwrap().split();
        assert_eq!(a_receive.try_receive().unwrap(), None, "the unread frame was another session's");
        a_send.try_send(b"two").unwrap();
        b_send.try_send(b"three").unwrap();
        assert_eq!(b_receive.try_receive().unwrap(), Some(&b"two"[..]));
        assert_eq!(a_receive.try_receive().unwrap(), Some(&b"three"[..]));
    }
}

#[test]
fn both_sides_killed_at_once_come_up_again() {
    for setup in [paper(16), fast(16)] {
        for first in [true, false] {
            let world = World::new();
            let ((mut a_send, a_receive), (mut b_send, b_receive)) = world.up(&setup);
            // Killed in the middle of a frame, both of them.
            a_send.try_send(&pattern(5000)).unwrap();
            b_send.stage(&pattern(3000)).unwrap();
            std::mem::forget((a_send, a_receive, b_send, b_receive));
            let a_link = Link::new(Arc::clone(&world.b_memory), Arc::clone(&world.a_memory)).unwrap();
            let b_link = Link::new(Arc::clone(&world.a_memory), Arc::clone(&world.b_memory)).unwrap();
            let mut a = a_link.open_as("x", setup.clone(), 11).unwrap();
            let mut b = b_link.open_as("x", setup.clone(), 12).unwrap();
            for turn in 0..6 {
                let side = if (turn % 2 == 0) == first { &mut a } else { &mut b };
                let _ = side.poll().unwrap();
            }
            let (mut a_send, mut a_receive) = a.finish().unwrap().unwrap().split();
            let (mut b_send, mut b_receive) = b.finish().unwrap().unwrap().split();
            assert_eq!(a_receive.try_receive().unwrap(), None);
            assert_eq!(b_receive.try_receive().unwrap(), None);
            a_send.try_send(b"a").unwrap();
            b_send.try_send(b"b").unwrap();
            assert_eq!(b_receive.try_receive().unwrap(), Some(&b"a"[..]));
            assert_eq!(a_receive.try_receive().unwrap(), Some(&b"b"[..]));
        }
    }
}

#[test]
fn a_version_that_changes_ends_the_channel() {
    let world = World::new();
    let ((mut a_send, mut a_receive), _b) = world.up(&fast(16));
    world.a_memory.store_u32(4, 9, StoreOrder::Relaxed).unwrap();
    let found = Fault::Stranger { found: 0x0000_0009_4C4C_4543 };
    assert_eq!(a_send.try_send(b""), Err(SendError::Failed(found)));
    assert_eq!(a_receive.try_receive(), Err(found));
}

#[test]
fn a_closer_ends_both_ends_and_tells_the_peer() {
    let world = World::new();
    let (a, b) = world.channels(&fast(16), &fast(16), (1, 2));
    let closer = a.closer();
    let ((mut a_send, mut a_receive), (_, mut b_receive)) = (a.split(), b.split());
    closer.link_down();
    assert_eq!(closer.fault(), Some(Fault::LinkDown));
    assert_eq!(a_send.try_send(b""), Err(SendError::Failed(Fault::LinkDown)));
    assert_eq!(a_receive.receive(SECOND), Err(Fault::LinkDown));
    assert_eq!(b_receive.receive(SECOND), Err(Fault::PeerClosed));
}

/// Bells of two sides, by eventfds.
fn bells() -> (Bells, Bells) {
    let bell = || Arc::new(EventBell::new().unwrap());
    let [a_receiver, a_sender, b_receiver, b_sender] = [bell(), bell(), bell(), bell()];
    let a = Bells {
        peer_receiver: Arc::<EventBell>::clone(&b_receiver),
        peer_sender: Arc::<EventBell>::clone(&b_sender),
        my_receiver: Arc::<EventBell>::clone(&a_receiver),
        my_sender: Arc::<EventBell>::clone(&a_sender),
    };
    let b = Bells {
        peer_receiver: a_receiver,
        peer_sender: a_sender,
        my_receiver: b_receiver,
        my_sender: b_sender,
    };
    (a, b)
}

#[test]
fn sleepers_are_woken_and_nothing_is_lost() {
    for setup in [paper(8), fast(4)] {
        let world = World::new();
        let (a_bells, b_bells) = bells();
        // No polls: whoever finds nothing sleeps at once.
        let a = Setup { bells: Some(a_bells), polls: 0, ..setup.clone() };
        let b = Setup { bells: Some(b_bells), polls: 0, ..setup.clone() };
        let (a, b) = world.channels(&a, &b, (1, 2));
        let (mut send, a_receive) = a.split();
        let (b_send, mut receive) = b.split();
        let reader = std::thread::spawn(move || {
            for number in 0..3000_usize {
                let frame = receive.receive(SECOND).unwrap().expect("a frame");
                assert_eq!(frame, pattern(number));
            }
            receive.counters()
        });
        for number in 0..3000 {
            send.send(&pattern(number), SECOND).unwrap();
        }
        let received = reader.join().unwrap();
        assert_eq!(received.frames, 3000);
        assert!(received.sleeps > 0 && send.counters().rings > 0, "{received:?} {:?}", send.counters());
        drop((a_receive, b_send));
    }
}

#[test]
fn both_sides_measure_how_far_the_other_is() {
    let world = World::new();
    let setup = Setup { measure: true, ..fast(16) };
    let (a, b) =
        (world.a.open_as("x", setup.clone(), 1).unwrap(), world.b.open_as("x", setup.clone(), 2).unwrap());
    let peer = std::thread::spawn(move || b.wait(Duration::from_secs(10)).unwrap());
    let a = a.wait(Duration::from_secs(10)).unwrap();
    let b = peer.join().unwrap();
    // A machine that does not run both sides within half a second has measured nothing, and they talk all the same.
    let ((mut a_send, _), (_, mut b_receive)) = (a.split(), b.split());
    a_send.try_send(b"x").unwrap();
    assert_eq!(b_receive.try_receive().unwrap(), Some(&b"x"[..]));

    // One that does not want to is not waited for.
    drop((a_send, b_receive));
    let (mut a, _b) = world.channels(&setup, &fast(16), (3, 4));
    a.measure(Duration::from_secs(60)).unwrap();
    assert_eq!(a.round_trip(), None);
}

#[test]
fn who_only_polls_is_never_rung() {
    let world = World::new();
    let (a_bells, _) = bells();
    let a = Setup { bells: Some(a_bells), polls: 0, ..fast(4) };
    let (a, b) = world.channels(&a, &fast(4), (1, 2));
    let ((mut a_send, _a), (_b, mut b_receive)) = (a.split(), b.split());
    a_send.try_send(b"x").unwrap();
    assert_eq!(b_receive.receive(SECOND).unwrap(), Some(&b"x"[..]));
    assert_eq!(b_receive.receive(Some(Duration::from_millis(5))), Ok(None));
    a_send.try_send(b"y").unwrap();
    assert_eq!(a_send.counters().rings, 0);
}

#[test]
fn a_wait_that_is_over_says_so() {
    for setup in [paper(2), fast(2)] {
        let world = World::new();
        let ((mut send, mut own), _peer) = world.up(&setup);
        while send.try_send(b"").is_ok() {}
        let soon = Some(Duration::from_millis(5));
        assert!(matches!(send.send(b"", soon), Err(SendError::Full { needs: 1, free: 0 })));
        assert_eq!(send.wait_free(1, soon), Ok(false));
        assert_eq!(own.receive(soon), Ok(None));
        let waiting = world.a.open("nobody", setup).unwrap();
        let error = waiting.wait(Duration::from_millis(5)).unwrap_err();
        assert!(matches!(error, OpenError::TimedOut { .. }), "{error}");
    }
}
