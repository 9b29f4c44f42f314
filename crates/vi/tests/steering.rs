//! Frames reach the interfaces whose filters take them, and no other.

use vi::filter::{Block, Filter, FlowCache, Table, Target, Verdict};
use vi::lane::{Geometry, SharedLane};
use vi::{Event, LaneId, ProtectionDomain, RequestId, Vi};

#[derive(Debug)]
struct Host;

/// One sender and three receivers on a lane of their own each.
fn host() -> (Vi<Host>, Vec<Vi<Host>>) {
    let domain = ProtectionDomain::new();
    let mut sender = Vi::new(&domain);
    let receivers = (0..3).map(|_| {
        let lane = SharedLane::create(Geometry { slots: 8, buffers: 0, ..Geometry::default() }).unwrap();
        sender.attach_sender(lane.sender().unwrap(), None);
        let mut receiver = Vi::new(&domain);
        receiver.attach_receiver(lane.receiver().unwrap());
        receiver
    });
    let receivers = receivers.collect();
    (sender, receivers)
}

fn frame(port: u16, mark: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 9]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 9, 0, 0, mark]);
    frame
}

fn received(vi: &Vi<Host>) -> Vec<(u16, u8)> {
    let mut events: [Event<'_, Host>; 16] = std::array::from_fn(|_| Event::Nothing);
    let count = vi.poll(&mut events);
    let packets = events[..count].iter().map(|event| {
        let Event::Received(packet) = event else { panic!("{event:?}") };
        let header: [u8; 64] = packet.header();
        (packet.filter().number(), header[packet.len() - 1])
    });
    packets.collect()
}

#[test]
fn each_interface_gets_exactly_its_frames() {
    let (sender, receivers) = host();
    let (mut table, mut cache) = (Table::new(), FlowCache::default());
    let low: Filter = "udp:10.0.0.2:0-99".parse().unwrap();
    let high: Filter = "udp:10.0.0.2:100-199".parse().unwrap();
    table.add(low, Target::One(LaneId(0))).unwrap();
    table.add(high, Target::One(LaneId(1))).unwrap();
    table.add(Filter::Sniff, Target::One(LaneId(2))).unwrap();
    table.block_kernel(Block { unicast: false, multicast: true });
    let mut expected = [Vec::new(), Vec::new(), Vec::new()];
    for n in 0..2000_u16 {
        let (port, mark) = (n.wrapping_mul(7) % 250, n.to_le_bytes()[0]);
        let steered =
            sender.transmit_steered(&table, &mut cache, &frame(port, mark), 0, RequestId(0)).unwrap();
        let taken = port < 200;
        assert_eq!(steered.verdict, if taken { Verdict::Taken } else { Verdict::Kernel });
        assert_eq!((steered.sent, steered.full), (if taken { 2 } else { 1 }, 0));
        if taken {
            expected[usize::from(port / 100)].push((port / 100 + 1, mark));
        }
        expected[2].push((3, mark));
        for (receiver, expected) in receivers.iter().zip(&mut expected) {
            assert_eq!(received(receiver), std::mem::take(expected));
        }
        sender.transmit_unbundle(&mut [RequestId(0); 2]);
    }
    let mut multicast = frame(1, 1);
    multicast[0] = 1;
    multicast[33] = 9;
    let steered = sender.transmit_steered(&table, &mut cache, &multicast, 0, RequestId(0)).unwrap();
    assert_eq!(steered.verdict, Verdict::Blocked);
}

#[test]
fn one_who_has_no_room_does_not_hold_up_the_others() {
    let (sender, receivers) = host();
    let (mut table, mut cache) = (Table::new(), FlowCache::default());
    table.add(Filter::UnicastAll, Target::One(LaneId(0))).unwrap();
    table.add(Filter::UnicastAll, Target::One(LaneId(1))).unwrap();
    for n in 0..10 {
        let steered = sender.transmit_steered(&table, &mut cache, &frame(1, n), 0, RequestId(0)).unwrap();
        assert_eq!((steered.sent, steered.full), if n < 8 { (2, 0) } else { (1, 1) });
        assert_eq!(received(&receivers[1]), [(2, n)]);
    }
    assert_eq!(sender.statistics().full, 2);
    assert_eq!(received(&receivers[0]).len(), 8);
    let short = sender.transmit_steered(&table, &mut cache, &[2; 13], 0, RequestId(0)).unwrap();
    assert_eq!((short.verdict, short.sent), (Verdict::Kernel, 0));
}
