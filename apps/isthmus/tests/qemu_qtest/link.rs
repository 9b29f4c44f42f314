//! The link: up after training, down at a word, and both sides are told.

use crate::bench::Pair;
use crate::host::LINK_VECTOR;
use crate::qemu::there_is_a_qemu;
use control::{Event, LinkState};
use ntb_spec::bar0::Reg;

fn at_ms(event: &Event) -> u64 {
    match event {
        Event::Link { at_ms, .. }
        | Event::Attached { at_ms, .. }
        | Event::Detached { at_ms, .. }
        | Event::Reset { at_ms, .. } => *at_ms,
    }
}

#[test]
fn qemu_sees_the_link_come_up_after_training_and_go_down() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::start(&["--training-ms", "250"]);
    pair.a.probe();
    pair.b.probe();
    pair.a.open_windows();
    pair.b.open_windows();
    pair.a.enable_link();
    pair.a.expect_silence();
    assert_eq!(pair.a.link_status(), 0x0103, "one port alone makes no link");
    assert_eq!(pair.twin.status().link.state, LinkState::Down);

    pair.b.enable_link();
    let training = pair.twin.wait_for_link(LinkState::Training);
    let up = pair.twin.wait_for_link(LinkState::Up);
    assert!(at_ms(&up) - at_ms(&training) >= 249, "{training:?}, {up:?}: it must train");
    for host in [&mut pair.a, &mut pair.b] {
        host.wait_for_link(true);
        assert_eq!(host.link_status(), 0x2103);
        host.expect_only(LINK_VECTOR);
        assert_eq!(host.read(Reg::IntStatus, 0), 1 << 32);
        host.acknowledge_link();
        assert_eq!(host.read(Reg::IntStatus, 0), 0);
    }

    pair.b.disable_link();
    for host in [&mut pair.b, &mut pair.a] {
        host.wait_for_link(false);
        host.expect_only(LINK_VECTOR);
        host.acknowledge_link();
    }
    assert_eq!(pair.b.read(Reg::Control, 0), 0x3);

    pair.b.enable_link();
    pair.wait_until_up();
    let link = pair.twin.status().link;
    assert_eq!((link.ups, link.downs, link.training_ms), (2, 1, 250));
    pair.finish();
}

#[test]
fn qemu_changes_its_mind_while_the_link_trains() {
    if !there_is_a_qemu() {
        return;
    }
    // Longer than anybody waits here: it cannot come up by itself.
    let mut pair = Pair::start(&["--training-ms", "600000"]);
    pair.a.probe();
    pair.b.probe();
    pair.a.enable_link();
    pair.b.enable_link();
    pair.twin.wait_for_link(LinkState::Training);
    pair.a.disable_link();
    pair.twin.wait_for_link(LinkState::Down);
    for host in [&mut pair.a, &mut pair.b] {
        host.expect_silence();
        assert_eq!(host.link_status(), 0x0103);
    }
    let link = pair.twin.status().link;
    assert_eq!((link.ups, link.downs), (0, 0), "it was never up");
    pair.finish();
}
