//! What goes over the link, word by word, with a peer that is written out here.

use super::Ours;
use crate::heap::Link;
use crate::{BadLayout, Config, Down, Event, Lies, Mismatch, NotSent, Received, Time, Transport, Words};
use ntb_spec::linux_transport::PayloadHeader;

const MIB: u32 = 1 << 20;

/// A link whose peer has announced itself as a stock guest does, with memory of its own behind its windows.
fn greeted() -> (Ours, Link) {
    let mut link = Link::new([1 << 20; 2]);
    let mut ours = Ours::new(0);
    link.up = true;
    link.halves[0].scratchpads[..8].copy_from_slice(&[4, 0, 2, 2, 0, MIB, 0, MIB]);
    link.halves[1].inbound = [const { None }; 2].map(|_: Option<Vec<u8>>| Some(vec![0; 1 << 20]));
    ours.link(Time(0), &mut link);
    (ours, link)
}

/// The same with queue pair 0 up.
fn up() -> (Ours, Link) {
    let (mut ours, mut link) = greeted();
    ours.transport.enable(0);
    link.halves[0].scratchpads[1] = 1;
    let events = ours.poll(Time(0), &mut link);
    assert_eq!(events.last(), Some(&Event::QueueUp { queue: 0 }));
    (ours, link)
}

fn word(memory: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(memory[at..at + 4].try_into().unwrap())
}

fn put_header(link: &mut Link, slot: usize, version: u32, payload_bytes: u32, flags: u32) {
    let header = PayloadHeader { version, payload_bytes, flags };
    let end = (slot + 1) << 16;
    link.halves[0].inbound[0].as_mut().unwrap()[end - 12..end].copy_from_slice(&header.to_bytes());
}

#[test]
fn the_hand_shake_is_linuxs() {
    let (mut ours, mut link) = greeted();
    let events = ours.poll(Time(0), &mut link);
    let window_bytes = [1 << 20, 1 << 20, 0, 0, 0, 0];
    let words = Words { version: 4, queues: 2, windows: 2, window_bytes };
    assert_eq!(events, [Event::Announced(words), Event::Agreed(words), Event::TransportUp]);
    assert_eq!(link.halves[1].scratchpads[..8], [4, 0, 2, 2, 0, MIB, 0, MIB]);
    let memory = link.halves[0].inbound[0].as_ref().unwrap();
    // 15 slots: all but one are the peer's to send into, and no header says that anything lies there.
    assert_eq!(word(memory, (1 << 20) - 4), 14);
    assert!((1..=15).all(|slot| memory[(slot << 16) - 12..slot << 16] == [0; 12]));

    // No client: no bit. Then one, and the queue pair is up when the peer's bit is there, too.
    assert_eq!(link.halves[1].scratchpads[1], 0);
    ours.transport.enable(0);
    assert!(ours.poll(Time(10), &mut link).is_empty());
    assert_eq!(link.halves[1].scratchpads[1], 1);
    link.halves[0].scratchpads[1] = 1;
    assert!(ours.poll(Time(19), &mut link).is_empty(), "looks again after 10 ms, not earlier");
    assert_eq!(ours.poll(Time(20), &mut link), [Event::QueueUp { queue: 0 }]);
    assert_eq!(ours.transport.max_payload_bytes(0), Some(65524));
}

#[test]
fn a_frame_is_payload_then_header_and_a_slot_goes_back_by_its_number() {
    let (mut ours, mut link) = up();
    assert!(ours.send(b"hello", &mut link));
    assert!(ours.send(b"again", &mut link));
    let memory = link.halves[1].inbound[0].as_ref().unwrap();
    assert_eq!(&memory[..5], b"hello");
    assert_eq!(memory[(1 << 16) - 12..1 << 16], [0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(memory[(2 << 16) - 12..2 << 16], [1, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(link.halves[1].doorbells, 1);

    link.halves[0].inbound[0].as_mut().unwrap()[..5].copy_from_slice(b"howdy");
    put_header(&mut link, 0, 0, 5, PayloadHeader::DESC_DONE);
    assert_eq!(ours.receive(&mut link).unwrap(), b"howdy");
    assert_eq!(word(link.halves[0].inbound[0].as_ref().unwrap(), (1 << 16) - 4), 0, "flags");
    assert_eq!(word(link.halves[1].inbound[0].as_ref().unwrap(), (1 << 20) - 4), 0, "slot 0 is empty again");
    assert_eq!(ours.receive(&mut link), None);
    let statistics = ours.transport.statistics(0);
    assert_eq!((statistics.rx_frames, statistics.rx_bytes), (1, 5));
    assert_eq!((statistics.tx_frames, statistics.tx_bytes), (2, 10));
}

#[test]
fn a_full_ring_is_full_until_the_peer_says_otherwise() {
    let (mut ours, mut link) = up();
    for _ in 0..14 {
        assert!(ours.send(b"x", &mut link));
    }
    let full = ours.transport.send(0, b"x", &mut link.side(0));
    assert!(matches!(full, Err(NotSent::Full)));
    let info = |link: &mut Link, slot: u32| {
        let memory = link.halves[0].inbound[0].as_mut().unwrap();
        memory[(1 << 20) - 4..].copy_from_slice(&slot.to_le_bytes());
    };
    info(&mut link, 2);
    assert_eq!(ours.transport.free(0, &mut link.side(0)), Ok(3));
    // A number that is no slot's frees nothing.
    for bad in [15, u32::MAX] {
        info(&mut link, bad);
        assert_eq!(ours.transport.free(0, &mut link.side(0)), Ok(0));
    }
    assert_eq!(ours.transport.statistics(0).bad_rx_info, 2);
    for bytes in [0, 65525] {
        let refused = ours.transport.send(0, &vec![0; bytes], &mut link.side(0));
        assert!(matches!(refused, Err(NotSent::Length { most: 65524, .. })));
    }
    assert!(matches!(ours.transport.send(1, b"x", &mut link.side(0)), Err(NotSent::Down(1))));
    assert!(matches!(ours.transport.send(9, b"x", &mut link.side(0)), Err(NotSent::Down(9))));
}

#[test]
fn frames_that_cannot_be_are_told_and_cost_nothing_more() {
    let (mut ours, mut link) = up();
    let mut buffer = [0; 100];
    let mut receive = |link: &mut Link| ours.transport.receive(0, &mut buffer, &mut link.side(0)).unwrap();
    put_header(&mut link, 0, 7, 5, PayloadHeader::DESC_DONE);
    let bad = Received::BadVersion { slot: 0, found: 7, expected: 0 };
    assert_eq!(receive(&mut link), Some(bad));
    assert_eq!(receive(&mut link), None, "told once");
    put_header(&mut link, 0, 0, u32::MAX, PayloadHeader::DESC_DONE);
    assert_eq!(receive(&mut link), Some(Received::TooLong { slot: 0, bytes: u32::MAX }));
    // In the slot, but not in the buffer.
    put_header(&mut link, 1, 1, 101, PayloadHeader::DESC_DONE);
    assert_eq!(receive(&mut link), Some(Received::TooLong { slot: 1, bytes: 101 }));
    put_header(&mut link, 2, 2, 100, PayloadHeader::DESC_DONE);
    assert_eq!(receive(&mut link), Some(Received::Frame { slot: 2, version: 2, bytes: 100 }));
}

#[test]
fn link_down_is_said_and_understood() {
    let (mut ours, mut link) = up();
    assert!(ours.send(b"x", &mut link));
    link.halves[1].doorbells = 0;
    ours.transport.disable(0, &mut link.side(0)).unwrap();
    assert_eq!(ours.transport.take_events(), [Event::QueueDown { queue: 0, why: Down::Mine }]);
    let memory = link.halves[1].inbound[0].as_ref().unwrap();
    assert_eq!(memory[(2 << 16) - 12..2 << 16], [1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!((link.halves[1].doorbells, link.halves[1].scratchpads[1]), (1, 0));

    // It comes back when the peer has noticed, which sets its bit anew then.
    ours.transport.enable(0);
    assert!(ours.poll(Time(10), &mut link).is_empty());
    assert_eq!(link.halves[1].scratchpads[1], 0, "held back");
    link.halves[0].scratchpads[1] = 1;
    assert_eq!(ours.poll(Time(20), &mut link), [Event::QueueUp { queue: 0 }]);
    assert_eq!(link.halves[1].scratchpads[1], 1);
    let memory = link.halves[1].inbound[0].as_ref().unwrap();
    assert!(
        (1..=15).all(|slot| word(memory, (slot << 16) - 4) == 0),
        "nothing old is left in the peer's ring"
    );

    // The peer's turn: its bit goes, then its frame comes.
    link.halves[0].scratchpads[1] = 0;
    put_header(&mut link, 0, 0, 0, PayloadHeader::DESC_DONE | PayloadHeader::LINK_DOWN);
    assert_eq!(ours.receive(&mut link), None);
    assert_eq!(ours.poll(Time(30), &mut link), [Event::QueueDown { queue: 0, why: Down::Message }]);
    link.halves[0].scratchpads[1] = 1;
    assert_eq!(ours.poll(Time(40), &mut link), [Event::QueueUp { queue: 0 }]);
}

#[test]
fn a_farewell_into_a_full_ring_is_said_in_every_slot() {
    let (mut ours, mut link) = up();
    while ours.send(b"x", &mut link) {}
    ours.transport.disable(0, &mut link.side(0)).unwrap();
    let memory = link.halves[1].inbound[0].as_ref().unwrap();
    assert!((1..=15).all(|slot| word(memory, (slot << 16) - 4) == 3));
    assert_eq!(word(memory, (1 << 16) - 8), 1, "the length stays");
}

#[test]
fn a_peer_that_begins_anew_without_a_word_is_noticed() {
    // Its bit goes and no frame comes.
    let (mut ours, mut link) = up();
    link.halves[0].scratchpads[1] = 0;
    assert!(ours.poll(Time(100), &mut link).is_empty(), "once is nothing");
    assert_eq!(ours.poll(Time(200), &mut link), [Event::QueueDown { queue: 0, why: Down::Bit }]);
    assert_eq!(link.halves[1].scratchpads[1], 0);

    // It goes and comes again between two looks.
    let (mut ours, mut link) = up();
    assert!(ours.poll(Time(1000), &mut link).is_empty());
    assert_eq!(link.halves[0].scratchpads[1], 1 | 1 << 31, "marked as seen");
    link.halves[0].scratchpads[1] = 1;
    assert_eq!(ours.poll(Time(1100), &mut link), [Event::QueueDown { queue: 0, why: Down::Bit }]);
    // Another queue pair's bit in the same word is no news of this one.
    let (mut ours, mut link) = up();
    ours.poll(Time(1000), &mut link);
    link.halves[0].scratchpads[1] = 3;
    assert!(ours.poll(Time(1100), &mut link).is_empty());
    assert_eq!(link.halves[0].scratchpads[1], 3 | 1 << 31);

    // Its count begins at 0 again.
    let (mut ours, mut link) = up();
    put_header(&mut link, 0, 0, 5, PayloadHeader::DESC_DONE);
    assert!(ours.receive(&mut link).is_some());
    put_header(&mut link, 0, 0, 6, PayloadHeader::DESC_DONE);
    assert!(ours.receive(&mut link).is_none());
    assert_eq!(ours.poll(Time(10), &mut link), [Event::QueueDown { queue: 0, why: Down::Count }]);
    // Wherever the peer looks, it sees that I am gone, and sets its bit anew.
    let memory = link.halves[1].inbound[0].as_ref().unwrap();
    assert!((1..=15).all(|slot| word(memory, (slot << 16) - 4) == 3));
    assert_eq!(link.halves[1].scratchpads[1], 0);
    link.halves[0].scratchpads[1] = 1;
    assert_eq!(ours.poll(Time(20), &mut link), [Event::QueueUp { queue: 0 }]);

    // It repeats its hand-shake.
    let (mut ours, mut link) = up();
    assert!(ours.poll(Time(100), &mut link).is_empty());
    link.halves[0].scratchpads[0] = 4;
    let down = |why| Event::QueueDown { queue: 0, why };
    assert_eq!(ours.poll(Time(200), &mut link), [Event::PeerRestarted, down(Down::HandShake)]);
    assert!(ours.poll(Time(210), &mut link).is_empty(), "until the peer's bit is set anew");
    link.halves[0].scratchpads[1] = 1;
    assert_eq!(ours.poll(Time(220), &mut link), [Event::QueueUp { queue: 0 }]);

    // With other windows.
    link.halves[0].scratchpads[..8].copy_from_slice(&[4, 1, 2, 2, 0, MIB, 0, MIB / 2]);
    let restarted = [Event::PeerRestarted, down(Down::Link), Event::TransportDown];
    assert_eq!(ours.poll(Time(300), &mut link), restarted);
    assert_eq!(link.halves[0].scratchpads, [0; 16]);
    link.halves[0].scratchpads[..8].copy_from_slice(&[4, 1, 2, 2, 0, MIB, 0, MIB / 2]);
    assert_eq!(ours.poll(Time(310), &mut link).last(), Some(&Event::QueueUp { queue: 0 }));
}

#[test]
fn words_that_do_not_fit_are_told_once_and_looked_at_again() {
    for (at, value, why) in [
        (0, 3, Mismatch::Version(3)),
        (2, 1, Mismatch::Queues { peer: 1, mine: 2 }),
        (3, u32::MAX, Mismatch::Windows { peer: u32::MAX, mine: 2 }),
    ] {
        let (mut ours, mut link) = greeted();
        let right = std::mem::replace(&mut link.halves[0].scratchpads[at], value);
        let events = ours.poll(Time(0), &mut link);
        assert!(matches!(events[1], Event::Unfit { why: told, .. } if told == why), "{events:?}");
        assert!(ours.poll(Time(10), &mut link).is_empty());
        link.halves[0].scratchpads[at] = right;
        assert_eq!(ours.poll(Time(20), &mut link).last(), Some(&Event::TransportUp));
    }
}

#[test]
fn windows_that_cannot_be_served_end_it_until_the_link_was_down() {
    let (mut ours, mut link) = greeted();
    link.halves[0].scratchpads[7] = 29;
    let events = ours.poll(Time(0), &mut link);
    let why = BadLayout::TooSmall { window_bytes: 29, pairs: 1 };
    assert_eq!(events.last(), Some(&Event::Refused { window: 1, why }));
    assert!(link.halves[0].inbound.iter().all(Option::is_none));
    assert_eq!(ours.transport.poll(Time(10), &mut link.side(0)), Ok(None));

    // Larger than the port's: the port says so, and nothing stays open.
    let (mut ours, mut link) = greeted();
    link.halves[0].scratchpads[7] = 2 * MIB;
    assert!(ours.transport.poll(Time(0), &mut link.side(0)).is_err());
    assert!(link.halves[0].inbound.iter().all(Option::is_none));
    link.halves[0].scratchpads[7] = MIB;
    assert_eq!(ours.transport.poll(Time(10), &mut link.side(0)), Ok(None));
    ours.link(Time(20), &mut link);
    assert_eq!(link.halves[0].scratchpads, [0; 16]);
    link.halves[0].scratchpads[..8].copy_from_slice(&[4, 0, 2, 2, 0, MIB, 0, MIB]);
    assert_eq!(ours.poll(Time(20), &mut link).last(), Some(&Event::TransportUp));
}

#[test]
fn a_link_that_goes_takes_everything_with_it() {
    let (mut ours, mut link) = up();
    ours.send(b"x", &mut link);
    link.up = false;
    ours.link(Time(50), &mut link);
    let down = Event::QueueDown { queue: 0, why: Down::Link };
    assert_eq!(ours.poll(Time(50), &mut link), [down, Event::TransportDown]);
    assert_eq!(link.halves[0].scratchpads, [0; 16]);
    assert!(link.halves[0].inbound.iter().all(Option::is_none));
    assert!(matches!(ours.transport.send(0, b"x", &mut link.side(0)), Err(NotSent::Down(0))));
    assert_eq!(ours.receive(&mut link), None);
    // The client is still ready: nothing has to be said again when the link returns.
    link.up = true;
    ours.link(Time(60), &mut link);
    link.halves[0].scratchpads[..8].copy_from_slice(&[4, 1, 2, 2, 0, MIB, 0, MIB]);
    assert_eq!(ours.poll(Time(60), &mut link).last(), Some(&Event::QueueUp { queue: 0 }));
}

#[test]
fn closing_leaves_nothing_open() {
    let (mut ours, mut link) = up();
    ours.transport.close(&mut link.side(0)).unwrap();
    assert!(link.halves[0].inbound.iter().all(Option::is_none));
    assert_eq!((link.halves[0].scratchpads, link.halves[1].scratchpads[1]), ([0; 16], 0));
    let memory = link.halves[1].inbound[0].as_ref().unwrap();
    assert_eq!(word(memory, (1 << 16) - 4), 3, "the peer is told");
}

#[test]
fn what_was_announced_too_early_is_announced_again() {
    let (mut ours, mut link) = greeted();
    ours.transport.enable(0);
    ours.poll(Time(0), &mut link);
    link.halves[1].scratchpads = [0; 16];
    for now in (10..=200).step_by(10) {
        ours.poll(Time(now), &mut link);
    }
    assert_eq!(link.halves[1].scratchpads[..8], [4, 1, 2, 2, 0, MIB, 0, MIB]);
}

#[test]
fn lies_are_announced_and_not_believed() {
    let mut link = Link::new([1 << 20; 2]);
    link.up = true;
    let lies = Lies { version: Some(5), queues: Some(9), windows: Some(0), window_bytes: Some(7 << 32) };
    let mut transport = Transport::new(Config { lies, ..Config::default() }).unwrap();
    transport.link(Time(0), true, &mut link.side(0)).unwrap();
    transport.poll(Time(0), &mut link.side(0)).unwrap();
    assert_eq!(link.halves[1].scratchpads[..8], [5, 0, 9, 0, 7, 0, 7, 0]);
}

#[test]
fn a_header_can_be_falsified() {
    let (mut ours, mut link) = up();
    let sent = ours.transport.send_altered(
        0,
        b"x",
        |header| PayloadHeader { version: 9, payload_bytes: 70_000, ..header },
        &mut link.side(0),
    );
    assert_eq!(sent.unwrap().header.version, 9);
    let memory = link.halves[1].inbound[0].as_ref().unwrap();
    assert_eq!(memory[(1 << 16) - 12..1 << 16], [9, 0, 0, 0, 0x70, 0x11, 1, 0, 1, 0, 0, 0]);
}
