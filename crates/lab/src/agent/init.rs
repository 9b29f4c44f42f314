//! PID 1 of a guest.

use super::{HOME, SELF};
use anyhow::Context;
use rustix::mount::{MountFlags, mount};
use rustix::process::WaitOptions;
use std::fs;
use std::process::{Command, ExitCode};

const MOUNTS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("debugfs", "/sys/kernel/debug"),
];

/// Makes a system out of a kernel and an archive, starts the agent, and buries the dead.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    for (kind, at) in MOUNTS {
        let _ = fs::create_dir_all(at);
        // Busy means that the kernel or the image has done it already.
        if let Err(error) = mount(kind, at, kind, MountFlags::empty(), None)
            && error != rustix::io::Errno::BUSY
        {
            report(&format!("cannot mount {kind} on {at}: {error}"));
        }
    }
    let _ = fs::create_dir_all("/dev/pts");
    let _ = mount("devpts", "/dev/pts", "devpts", MountFlags::empty(), Some(c"ptmxmode=0666"));
    let _ = fs::write("/proc/sys/kernel/hostname", side());
    // Absent modules are built in; what is really missing shows when the port does not appear.
    for words in [
        &["modprobe", "-q", "virtio_pci"][..],
        &["modprobe", "-q", "virtio_console"],
        &["ip", "link", "set", "lo", "up"],
    ] {
        let _ = Command::new(words[0]).args(&words[1..]).env("PATH", super::command::PATH).status();
    }
    let agent = Command::new(SELF).args(["lab", "agent", "serve"]).current_dir("/").spawn();
    let agent = agent.with_context(|| format!("cannot start the agent in {HOME}"))?.id();
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if u32::try_from(pid.as_raw_nonzero().get()) == Ok(agent) => {
                report(&format!("the agent ended ({status:?}); switching the guest off"));
                rustix::fs::sync();
                rustix::system::reboot(rustix::system::RebootCommand::PowerOff)?;
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("PID 1 has nobody left to wait for"),
        }
    }
}

/// Which guest this is, as the lab wrote it on the kernel command line.
pub(super) fn side() -> String {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    side_in(&line).unwrap_or("guest").to_owned()
}

fn side_in(command_line: &str) -> Option<&str> {
    command_line.split_whitespace().find_map(|word| word.strip_prefix("isthmus.side="))
}

/// Writes to the kernel's log, and so to the console.
pub(super) fn report(text: &str) {
    let _ = fs::write("/dev/kmsg", format!("<4>isthmus: {text}\n"));
}

#[cfg(test)]
mod tests {
    use super::side_in;

    #[test]
    fn the_side_is_found_among_other_words() {
        assert_eq!(side_in("console=ttyS0 isthmus.side=b quiet\n"), Some("b"));
        assert_eq!(side_in("console=ttyS0"), None);
    }
}
