use super::*;
use crate::testing::{Host, frame, offers, until};
use crate::{Cable, MemoryLink, Offload};

fn hosts(most_frames: usize) -> (Host, Host, Cable) {
    let ([a, b], cable) = MemoryLink::pair(most_frames, offers(1500, Offload::None)).unwrap();
    let hosts = (Host::start(a), Host::start(b), cable);
    assert!(hosts.0.hears().is_some());
    assert!(hosts.1.hears().is_some());
    hosts
}

#[test]
fn frames_arrive_whole_and_in_order_both_ways_over_a_link_with_little_room() {
    let (a, b, _cable) = hosts(3);
    let frames = 20_000;
    std::thread::scope(|scope| {
        for (from, to) in [(&a, &b), (&b, &a)] {
            scope.spawn(move || {
                for number in 0..frames {
                    from.sends(&frame(number));
                }
            });
            scope.spawn(move || {
                for number in 0..frames {
                    assert_eq!(to.receives(), frame(number), "{number}");
                }
            });
        }
    });
    for host in [&a, &b] {
        // A frame is counted once it is out of our hands.
        until(|| host.counters.read().rx_frames == 20_000 && host.counters.read().tx_frames == 20_000);
        assert_eq!(host.counters.read().dropped(), 0);
    }
}

#[test]
fn a_pump_that_sleeps_wakes_for_every_single_frame() {
    let (a, b, _cable) = hosts(3);
    for number in 0..2000 {
        // Each frame finds both pumps asleep, or about to sleep.
        a.sends(&frame(number));
        assert_eq!(b.receives(), frame(number));
        b.sends(&frame(number));
        assert_eq!(a.receives(), frame(number));
    }
    assert!(a.counters.read().sleeps > 0);
}

#[test]
fn a_full_link_stops_the_reading_of_the_tap_and_loses_nothing() {
    let ([a, mut far], _cable) = MemoryLink::pair(2, offers(1500, Offload::None)).unwrap();
    let a = Host::start(a);
    for number in 0..5 {
        a.sends(&frame(number));
    }
    until(|| a.counters.read().tx_full == 1);
    assert_eq!(a.counters.read().tx_frames, 2, "one is held, two wait in the TAP");
    for number in 0..5 {
        assert_eq!(next_of(&mut far), frame(number));
        far.publish();
    }
    assert_eq!(a.counters.read().dropped(), 0);
}

/// The next frame of a link whose far end a test is.
fn next_of(far: &mut MemoryLink) -> Vec<u8> {
    let mut next = None;
    until(|| {
        next = far.receive().map(<[u8]>::to_vec);
        next.is_some()
    });
    next.unwrap()
}

#[test]
fn frames_of_impossible_lengths_are_counted_and_not_delivered() {
    let ([a, mut far], _cable) = MemoryLink::pair(16, offers(1500, Offload::None)).unwrap();
    let a = Host::start(a);
    for bytes in [0, 13, 1519, 64 << 10, 70 << 10] {
        assert_eq!(far.send(&vec![7; bytes]), Sent::Taken);
    }
    assert_eq!(far.send(&[9; 1518]), Sent::Taken);
    far.publish();
    assert_eq!(a.receives(), [9; 1518], "the only one that is a frame");
    until(|| a.counters.read().rx_frames == 1);
    let counts = a.counters.read();
    assert_eq!((counts.rx_short, counts.rx_long, counts.rx_frames, counts.dropped()), (2, 3, 1, 5));
}

#[test]
fn a_tap_whose_mtu_was_raised_behind_our_back_costs_the_frames_that_do_not_fit() {
    let (a, b, _cable) = hosts(16);
    a.sends(&[1; 1519]);
    a.sends(&[2; 100]);
    assert_eq!(b.receives(), [2; 100]);
    assert_eq!(a.counters.read().tx_unfit, 1);
}

#[test]
fn the_virtio_header_travels_where_that_is_agreed_and_is_checked() {
    let ([a, mut far], _cable) = MemoryLink::pair(16, offers(1500, Offload::Checksum)).unwrap();
    let a = Host::start(a);
    a.sends(&[5; 60]);
    assert_eq!(next_of(&mut far).len(), 72, "with its header");
    // A checksum outside the frame.
    let mut hostile = [0; 72];
    hostile[0] = 1;
    hostile[6..8].copy_from_slice(&60_u16.to_le_bytes());
    assert_eq!(far.send(&hostile), Sent::Taken);
    assert_eq!(far.send(&[0; 72]), Sent::Taken);
    far.publish();
    assert_eq!(a.receives(), [0; 60]);
    assert_eq!(a.counters.read().rx_bad_header, 1);
}

#[test]
fn while_the_link_is_down_the_tap_is_not_read_and_nothing_is_lost_by_us() {
    let (a, b, cable) = hosts(16);
    cable.cut();
    assert_eq!((a.hears(), b.hears()), (None, None));
    for number in 0..4 {
        a.sends(&frame(number));
    }
    cable.mend();
    assert!(a.hears().is_some() && b.hears().is_some());
    for number in 0..4 {
        assert_eq!(b.receives(), frame(number));
    }
    let counts = a.counters.read();
    assert_eq!((counts.link_ups, counts.link_downs, counts.dropped()), (2, 1, 0));
}

#[test]
fn a_hundred_flaps_under_load_leave_the_order_and_every_frame_whole() {
    const LAST: u32 = 5000;
    let (a, b, cable) = hosts(4);
    std::thread::scope(|scope| {
        let flapper = scope.spawn(|| {
            let mut lost = 0;
            for flap in 1..=100 {
                until(|| a.counters.read().tx_frames >= flap * 40);
                lost += cable.cut();
                cable.mend();
            }
            lost
        });
        let reader = scope.spawn(|| {
            let (mut next, mut received) = (0, 0);
            while next <= LAST {
                let got = b.receives();
                let number = u32::from_le_bytes(got[..4].try_into().unwrap());
                assert!(number >= next, "{number} after {next}");
                assert_eq!(got, frame(number));
                next = number + 1;
                received += 1;
            }
            received
        });
        for number in 0..LAST {
            a.sends(&frame(number));
        }
        let lost = flapper.join().unwrap();
        // The link stays up from now on.
        a.sends(&frame(LAST));
        let received: usize = reader.join().unwrap();
        assert_eq!(received + lost, usize::try_from(LAST).unwrap() + 1, "only what was on its way is lost");
    });
    assert_eq!(a.counters.read().dropped() + b.counters.read().dropped(), 0);
}
