//! The example of a market-data receiver: one multicast group is the program's, and the rest of the link the kernel's, at the same time.

mod world;

/// The program itself, as it is built for people.
#[path = "../examples/multicast.rs"]
#[expect(dead_code, reason = "its main takes arguments of a command line")]
mod multicast;

use std::path::Path;
use std::process::{Command, Stdio};
use world::{Parent, Process, World, frame, reach, send};

const GROUP: &str = "239.1.2.3:5000";

/// Not a test: what the processes of this program's tests do.
#[test]
fn part() {
    world::play(|part, arguments| match part {
        "receiver" => {
            Parent.say("begins");
            let frames = arguments[1].parse().unwrap();
            let (count, gaps) =
                multicast::receive(Path::new(arguments[0]), GROUP.parse().unwrap(), frames).unwrap();
            Parent.say(&format!("{count} datagrams, {gaps} gaps"));
        }
        _ => panic!("{part}"),
    });
}

/// Runs a command in the network namespace of a service.
fn at(service: &Process, command: &[&str]) -> String {
    let id = service.id().to_string();
    let output = Command::new("nsenter")
        .args(["--net", "-t", &id])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_group_comes_to_the_program_from_programs_and_kernels_and_the_rest_to_the_kernel() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: two kernels take two network namespaces, and root");
        return;
    }
    const FRAMES: u64 = 5000;
    let world = World::with(16, Some(["10.99.0.1", "10.99.0.2"]));
    let mut receiver = world.process("b", "receiver", &(FRAMES + 1).to_string());
    receiver.expect("begins");
    let mut near = world.client("a");
    reach(&mut near, 1);
    // What a kernel sends before there is a way is lost; the first answer ends that.
    at(&world.services[0], &["sh", "-c", "until ping -q -c 1 -W 1 10.99.0.2; do :; done"]);
    let before = near.status().unwrap().kernel;
    let ping = ["ping", "-q", "-c", "40", "-i", "0.02", "-W", "60", "10.99.0.2"];
    let pings = std::thread::scope(|scope| {
        let pings = scope.spawn(|| at(&world.services[0], &ping));
        // Beside each datagram of the group one of another, and one to another port: they are the kernel's.
        for n in 0..FRAMES {
            let steered = send(&near, &frame(GROUP, &n.to_le_bytes()));
            assert!(matches!(steered.verdict, vi::filter::Verdict::Taken), "{steered:?}");
            if n % 10 == 0 {
                for other in ["239.1.2.4:5000", "239.1.2.3:5001"] {
                    let steered = send(&near, &frame(other, &n.to_le_bytes()));
                    assert!(matches!(steered.verdict, vi::filter::Verdict::Kernel), "{steered:?}");
                }
            }
            if near.has_news() {
                near.refresh().unwrap();
            }
        }
        pings.join().unwrap()
    });
    assert!(pings.contains("40 packets transmitted, 40 received"), "{pings}");
    // The last datagram comes from the other host's kernel, by an ordinary socket: the filter takes it, too.
    let interface = at(&world.services[0], &["ip", "-o", "-4", "addr", "show", "dev", "vi0"]);
    assert!(interface.contains("10.99.0.1"), "{interface}");
    at(&world.services[0], &["ip", "route", "add", "239.0.0.0/8", "dev", "vi0"]);
    let next = FRAMES.to_le_bytes().iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    at(&world.services[0], &["bash", "-c", &format!("printf '{next}' > /dev/udp/239.1.2.3/5000")]);
    receiver.expect(&format!("{} datagrams, 0 gaps", FRAMES + 1));
    let (mut far, kernel) = (world.client("b"), near.status().unwrap().kernel);
    assert!(kernel.from_kernel > before.from_kernel + 40, "{kernel:?}");
    // All that was not the program's: the pings, and the two other groups' datagrams.
    let kernel = far.status().unwrap().kernel;
    assert!((FRAMES / 5 + 40..FRAMES / 2).contains(&kernel.to_kernel), "{kernel:?}");
}
