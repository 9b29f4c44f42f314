//! A real TAP in a network namespace of its own. Where that is not permitted these tests say so and pass, but not in CI.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a test that is left out says so")]

use netdev::namespace::Namespace;
use netdev::{
    Agreement, Interface, MacAddress, MemoryLink, Offer, Offload, Pump, Tap, TapError, TapOptions, TapQueue,
    Watcher,
};
use rustix::event::{EventfdFlags, eventfd};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// A namespace, or nothing where this is not permitted and nobody insists.
fn namespace() -> Option<Namespace> {
    let tap = Path::new("/dev/net/tun").exists();
    match Namespace::new() {
        Ok(namespace) if tap => Some(namespace),
        result => {
            let why =
                result.err().map_or_else(|| "there is no /dev/net/tun".to_owned(), |error| error.to_string());
            assert!(std::env::var_os("CI").is_none(), "CI must be able to test a TAP: {why}");
            eprintln!("skipped: {why}");
            None
        }
    }
}

fn options(name: &str) -> TapOptions {
    TapOptions {
        name: name.to_owned(),
        mac: MacAddress::new([2, 0, 0, 0, 0, 1]).unwrap(),
        mtu: 1500,
        address: Some((Ipv4Addr::new(10, 9, 0, 1), 24)),
        queues: 1,
        queue_frames: 1000,
    }
}

/// What `ip` says of an interface of the caller's namespace.
fn shown(name: &str) -> String {
    let output =
        std::process::Command::new("ip").args(["-details", "address", "show", "dev", name]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Waits for a fact.
fn until<T>(mut fact: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = fact() {
            return result;
        }
        assert!(start.elapsed() < PATIENCE, "it did not come to that");
        std::thread::yield_now();
    }
}

#[test]
fn a_tap_is_set_up_as_asked_and_follows_the_agreement() {
    let Some(namespace) = namespace() else { return };
    namespace
        .run(|| {
            let (tap, queues) = Tap::open(&TapOptions { mtu: 65521, queues: 2, ..options("ntb%d") }).unwrap();
            assert_eq!((tap.name(), queues.len()), ("ntb0", 2));
            let text = shown("ntb0");
            for part in [
                "NO-CARRIER",
                "mtu 65521",
                "02:00:00:00:00:01",
                "inet 10.9.0.1/24",
                "tap",
                "vnet_hdr on",
                "qlen 1000",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(text.contains("numtxqueues"), "{text}");
            let (interface, mut watchers) = Interface::new(tap, 2);
            let agreement = Agreement { mtu: 9000, offload: Offload::Segmentation, peer: None };
            watchers[0].link(Some(agreement));
            assert!(shown("ntb0").contains("NO-CARRIER"), "one queue has no link yet");
            watchers[1].link(Some(agreement));
            until(|| shown("ntb0").contains("LOWER_UP").then_some(()));
            assert!(shown("ntb0").contains("mtu 9000"));
            assert_eq!(interface.agreement(), Some(agreement));
            watchers[0].link(None);
            until(|| shown("ntb0").contains("NO-CARRIER").then_some(()));
            drop((interface, watchers, queues));
            assert!(!shown("ntb0").contains("ntb0"), "a TAP ends with its owner");
        })
        .unwrap();
}

#[test]
fn what_cannot_be_had_is_refused_with_what_helps() {
    let Some(namespace) = namespace() else { return };
    namespace
        .run(|| {
            for name in ["", ".", "..", "sixteen-bytes-xx", "a/b", "a b", "a:b"] {
                assert!(matches!(Tap::open(&options(name)), Err(TapError::Name(_))), "{name:?}");
            }
            for mtu in [0, 67, 65522, u32::MAX] {
                assert!(matches!(Tap::open(&TapOptions { mtu, ..options("t") }), Err(TapError::Mtu(_))));
            }
            assert!(matches!(Tap::open(&TapOptions { queues: 0, ..options("t") }), Err(TapError::Queues(0))));

            let (_tap, _queues) = Tap::open(&options("ntb0")).unwrap();
            let other = TapOptions { address: None, ..options("ntb0") };
            let taken = Tap::open(&other).unwrap_err();
            assert!(matches!(taken, TapError::NameTaken { .. }), "{taken}");
            assert!(taken.to_string().contains("--tap"), "{taken}");
            let bridge = Tap::open(&TapOptions { name: "lo".to_owned(), ..other }).unwrap_err();
            assert!(matches!(bridge, TapError::NameTaken { .. }), "{bridge}");
            let address = Tap::open(&options("ntb1")).unwrap_err();
            assert!(matches!(address, TapError::AddressTaken { .. }), "{address}");
            assert!(!shown("ntb1").contains("ntb1"), "nothing is left behind");
        })
        .unwrap();
}

#[test]
fn who_may_not_make_interfaces_hears_of_it() {
    let Some(namespace) = namespace() else { return };
    // A process without any capability, in the same namespace.
    let output = namespace
        .command("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--clear-groups"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "an_ordinary_user_is_refused", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("CAP_NET_ADMIN"), "{said}");
}

#[test]
#[ignore = "run by another test, as an ordinary user"]
fn an_ordinary_user_is_refused() {
    let error = Tap::open(&options("ntb0")).unwrap_err();
    assert!(matches!(error, TapError::Permission { .. }), "{error}");
    println!("{error}");
}

/// Two hosts on one machine: a namespace each, and a link in memory between them.
fn joined(offload: Offload, work: impl FnOnce(&Namespace, &Namespace)) {
    let (Some(a), Some(b)) = (namespace(), namespace()) else { return };
    let offers = [1, 2].map(|last| Offer {
        mac: MacAddress::new([2, 0, 0, 0, 0, last]).unwrap(),
        mtu: 1500,
        offload,
        queues: 1,
    });
    let (links, _cable) = MemoryLink::pair(64, offers).unwrap();
    let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    std::thread::scope(|scope| {
        for ((namespace, link), (offer, last)) in
            [&a, &b].into_iter().zip(links).zip(offers.into_iter().zip(1..))
        {
            let options = TapOptions {
                mac: offer.mac,
                address: Some((Ipv4Addr::new(10, 9, 0, last), 24)),
                ..options("ntb0")
            };
            let (tap, queue) = namespace.run(|| open_one(&options)).unwrap();
            let (_interface, mut watchers) = Interface::new(tap, 1);
            let mut pump = Pump::new(queue, link, watchers.pop().unwrap(), Duration::ZERO);
            let stop = stop.as_fd();
            scope.spawn(move || pump.run(stop).unwrap());
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&a, &b)));
        rustix::io::write(&stop, &1_u64.to_ne_bytes()).unwrap();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

fn open_one(options: &TapOptions) -> (Tap, TapQueue) {
    let (tap, mut queues) = Tap::open(options).unwrap();
    (tap, queues.pop().unwrap())
}

#[test]
fn datagrams_of_every_length_cross_between_two_kernels_at_each_offload() {
    for offload in [Offload::None, Offload::Checksum, Offload::Segmentation] {
        joined(offload, |a, b| {
            let far = b.run(|| UdpSocket::bind("10.9.0.2:7000").unwrap()).unwrap();
            far.set_read_timeout(Some(PATIENCE)).unwrap();
            let near = a.run(|| UdpSocket::bind("10.9.0.1:7000").unwrap()).unwrap();
            // Until the carrier is on and the addresses are known, the kernel may drop.
            let mut buffer = vec![0; 70_000];
            far.set_nonblocking(true).unwrap();
            until(|| {
                let _ = near.send_to(b"first", "10.9.0.2:7000");
                far.recv(&mut buffer).ok()
            });
            far.set_nonblocking(false).unwrap();
            // 65507 bytes are fragmented by the kernel, or by nobody.
            for bytes in [0, 1, 17, 18, 1471, 1472, 1473, 9000, 65_507] {
                let sent: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
                near.send_to(&sent, "10.9.0.2:7000").unwrap();
                let received = until(|| {
                    let received = far.recv(&mut buffer).unwrap();
                    (&buffer[..received] != b"first").then_some(received)
                });
                assert_eq!(buffer[..received], sent, "{bytes} bytes at {offload:?}");
            }
        });
    }
}

#[test]
fn a_tap_that_is_deleted_ends_its_pump_with_the_reason() {
    let Some(namespace) = namespace() else { return };
    let offers = [1, 2].map(|last| Offer {
        mac: MacAddress::new([2, 0, 0, 0, 0, last]).unwrap(),
        mtu: 1500,
        offload: Offload::None,
        queues: 1,
    });
    let ([link, _far], _cable) = MemoryLink::pair(64, offers).unwrap();
    let (tap, queue) = namespace.run(|| open_one(&options("ntb0"))).unwrap();
    let (interface, mut watchers) = Interface::new(tap, 1);
    let mut pump = Pump::new(queue, link, watchers.pop().unwrap(), Duration::ZERO);
    let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| pump.run(stop.as_fd()));
        until(|| interface.agreement());
        assert!(namespace.command("ip").args(["link", "delete", "ntb0"]).status().unwrap().success());
        assert!(ended.join().unwrap().is_err());
    });
}
