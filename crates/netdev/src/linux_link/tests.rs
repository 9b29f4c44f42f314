//! Two ends that speak Linux's frames, on a twin in this process.

use super::*;
use crate::testing::{Host, frame, offers, until};
use linux_transport::Config;
use ntb::Gen3;
use twin_local::{LocalTwin, WindowMode};

fn bridges(mode: WindowMode) -> [Arc<dyn Bridge>; 2] {
    let (a, b) = LocalTwin::pair(mode).unwrap();
    [a, b].map(|port| Arc::new(Gen3::open(Arc::new(port)).unwrap()) as Arc<dyn Bridge>)
}

fn hosts(bridges: &[Arc<dyn Bridge>; 2]) -> [Host; 2] {
    let [a, b] = offers(1500, Offload::Segmentation);
    let open =
        |bridge: &Arc<dyn Bridge>, offer| Host::start(LinuxLink::open(Arc::clone(bridge), &offer).unwrap());
    let hosts = [open(&bridges[0], a), open(&bridges[1], b)];
    for host in &hosts {
        let agreement = host.hears().unwrap();
        assert_eq!((agreement.mtu, agreement.offload, agreement.peer), (1500, Offload::None, None));
    }
    hosts
}

fn every_frame_arrives(mode: WindowMode, frames: u32) {
    let [a, b] = hosts(&bridges(mode));
    std::thread::scope(|scope| {
        for (from, to) in [(&a, &b), (&b, &a)] {
            scope.spawn(move || (0..frames).for_each(|number| from.sends(&frame(number))));
            scope.spawn(move || {
                for number in 0..frames {
                    assert_eq!(to.receives(), frame(number), "{number}");
                }
            });
        }
    });
    for host in [&a, &b] {
        until(|| host.counters.read().rx_frames == u64::from(frames));
        assert_eq!(host.counters.read().dropped(), 0);
    }
}

#[test]
fn every_frame_arrives_in_order_through_direct_windows() {
    every_frame_arrives(WindowMode::Direct, 3000);
}

#[test]
fn every_frame_arrives_in_order_through_trapped_windows() {
    every_frame_arrives(WindowMode::Trap, 200);
}

#[test]
fn pumps_that_sleep_wake_for_every_single_frame() {
    let [a, b] = hosts(&bridges(WindowMode::Direct));
    for number in 0..200 {
        a.sends(&frame(number));
        assert_eq!(b.receives(), frame(number));
        b.sends(&frame(number));
        assert_eq!(a.receives(), frame(number));
    }
}

#[test]
fn a_peer_that_is_started_anew_is_met_again() {
    let bridges = bridges(WindowMode::Direct);
    let [mine, theirs] = offers(1500, Offload::None);
    let host = Host::start(LinuxLink::open(Arc::clone(&bridges[1]), &theirs).unwrap());
    for number in 0..3 {
        let peer = Host::start(LinuxLink::open(Arc::clone(&bridges[0]), &mine).unwrap());
        assert!(peer.hears().is_some() && host.hears().is_some());
        peer.sends(&frame(number));
        assert_eq!(host.receives(), frame(number));
        drop(peer);
        assert_eq!(host.hears(), None);
    }
}

#[test]
fn a_frame_that_came_while_this_end_went_to_sleep_is_delivered_although_the_link_went_down_then() {
    let bridges = bridges(WindowMode::Direct);
    let offers = offers(1500, Offload::None);
    let open = |end: usize| LinuxLink::open(Arc::clone(&bridges[end]), &offers[end]).unwrap();
    let is_up = |end: &mut LinuxLink| {
        end.woken();
        matches!(end.state().unwrap(), LinkState::Up { .. })
    };
    let (mut a, mut b) = (open(0), open(1));
    until(|| [&mut a, &mut b].map(is_up) == [true, true]);
    assert_eq!(a.send(&frame(7)), Sent::Taken);
    a.publish();
    until(|| matches!(b.arm(Wants { room: None }), Armed::Ready) && b.stashed.is_some());
    drop(a);
    until(|| !is_up(&mut b));
    assert!(matches!(b.arm(Wants { room: None }), Armed::Sleep(_)), "nobody takes it now");
    let mut a = open(0);
    until(|| [&mut a, &mut b].map(is_up) == [true, true]);
    assert_eq!(b.receive(), Some(&*frame(7)));
}

#[test]
fn frames_that_no_interface_of_the_agreement_sends_are_counted() {
    let bridges = bridges(WindowMode::Direct);
    let [mine, _] = offers(1500, Offload::None);
    let host = Host::start(LinuxLink::open(Arc::clone(&bridges[1]), &mine).unwrap());
    let mut peer = Endpoint::open(Arc::clone(&bridges[0]), Config::default()).unwrap();
    peer.enable(QUEUE);
    until(|| {
        peer.turn(Duration::from_millis(1)).unwrap();
        peer.transport().is_up(QUEUE)
    });
    assert!(host.hears().is_some());
    for bytes in [1, 13, 1519, 60_000, 60] {
        peer.send(QUEUE, &vec![9; bytes]).unwrap();
    }
    peer.ring().unwrap();
    assert_eq!(host.receives(), [9; 60]);
    let counts = host.counters.read();
    assert_eq!((counts.rx_short, counts.rx_long), (2, 2));
}
