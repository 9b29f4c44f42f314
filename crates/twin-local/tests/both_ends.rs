//! Two drivers, one twin, one process.

use ntb::{
    Bridge, BridgeError, FunctionError, Gen3, Inbound, Memory, Outbound, Speed, Width, Window, WindowKind,
};
use std::sync::Arc;
use std::time::Duration;
use twin_local::{LocalTwin, Setup, Side, StartError, WindowMode};

const PATIENCE: Duration = Duration::from_secs(20);

fn twin(mode: WindowMode) -> LocalTwin {
    let setup = Setup { training: Duration::from_millis(5), ..Setup::default() };
    LocalTwin::new(setup, [mode; 2]).unwrap()
}

fn open(twin: &LocalTwin, side: Side) -> Gen3 {
    Gen3::open(Arc::new(twin.attach(side).unwrap())).unwrap()
}

/// Both ends with the link up, and the way from the first into the second.
fn pair(twin: &LocalTwin) -> (Gen3, Gen3, Outbound, Inbound) {
    let (a, b) = (open(twin, Side::A), open(twin, Side::B));
    let inbound = b.inbound(0, 64 << 10).unwrap();
    a.link_enable(Speed::Auto, Width::Auto).unwrap();
    b.link_enable(Speed::Auto, Width::Auto).unwrap();
    a.wait_for_link(true, PATIENCE).unwrap();
    b.wait_for_link(true, PATIENCE).unwrap();
    let outbound = a.outbound(0).unwrap();
    (a, b, outbound, inbound)
}

#[test]
fn stores_reach_the_peer_in_every_mode_that_a_process_can_have_with_itself() {
    for (mode, kind) in [
        (WindowMode::Trap, WindowKind::Messaged),
        (WindowMode::Direct, WindowKind::Mapped),
        (WindowMode::Shared, WindowKind::Mapped),
    ] {
        let twin = twin(mode);
        let (a, b, outbound, inbound) = pair(&twin);
        assert_eq!((a.window_kind(0).unwrap(), outbound.kind()), (kind, kind), "{mode}");
        outbound.write(0x123, b"across").unwrap();
        outbound.settle().unwrap();
        let mut seen = [0; 6];
        inbound.read(0x123, &mut seen).unwrap();
        assert_eq!(&seen, b"across", "{mode}");
        b.link_disable().unwrap();
        a.wait_for_link(false, PATIENCE).unwrap();
        assert!(outbound.write(0x123, b"nobody").is_err(), "{mode}");
        inbound.read(0x123, &mut seen).unwrap();
        if mode == WindowMode::Shared {
            assert_eq!(seen, [0xFF; 6], "a shared window is nobody's memory while it is closed");
        } else {
            assert_eq!(&seen, b"across", "{mode}");
        }
    }
}

#[test]
fn a_doorbell_wakes_the_peer() {
    let twin = twin(WindowMode::Trap);
    let (a, b, ..) = pair(&twin);
    assert!(b.events().unwrap().doorbells == 0);
    a.ring(1 << 5).unwrap();
    assert_eq!(b.doorbells().unwrap(), 1 << 5);
    assert_eq!(b.wait(Duration::from_millis(20)).unwrap().doorbells, 0, "it is masked");
    b.doorbells_unmask(1 << 5).unwrap();
    assert_eq!(b.wait(PATIENCE).unwrap().doorbells, 1 << 5);
    b.doorbells_clear(1 << 5).unwrap();
    assert_eq!(b.doorbells().unwrap(), 0);
}

#[test]
fn a_port_has_one_driver_and_then_the_next() {
    let twin = twin(WindowMode::Direct);
    let first = open(&twin, Side::A);
    let memory = first.dma_allocate(4096, 4096).unwrap();
    assert!(matches!(twin.attach(Side::A), Err(FunctionError::Taken { .. })));
    drop(first);
    let second = open(&twin, Side::A);
    let again = second.dma_allocate(4096, 4096).unwrap();
    assert_eq!(again.address(), memory.address());
    // What is left of the first one takes nothing away from the second.
    drop(memory);
    second.set_translation(0, ntb::DeviceAddress(0), 0).unwrap();
    assert!(matches!(second.link(), Ok(link) if !link.up));
}

#[test]
fn a_link_that_never_comes_up_says_what_it_saw() {
    let twin = twin(WindowMode::Trap);
    let a = open(&twin, Side::A);
    a.link_enable(Speed::Auto, Width::Auto).unwrap();
    let error = a.wait_for_link(true, Duration::from_millis(10)).unwrap_err();
    assert!(matches!(error, BridgeError::LinkTimeout { .. }));
    assert!(error.to_string().contains("the peer is absent"), "{error}");
}

#[test]
fn alias_needs_a_process_of_its_own() {
    let refused = LocalTwin::new(Setup::default(), [WindowMode::Alias; 2]);
    assert!(matches!(refused, Err(StartError::Alias)));
}
