//! The agent proper: one connection to the lab, any number from `ssh` shims.

use super::{PORT_NAME, SHIM_SOCKET, command, init};
use crate::channel::{Call, Exec, Handler, Hello, Mux, Target, refuse, relay};
use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests from the lab: commands for this guest.
struct Here;

impl Handler for Here {
    fn exec(&self, request: Exec, call: Call) {
        command::run(&request, call);
    }
}

/// Requests from a shim: for this guest, or passed to the lab, which knows the other guest.
struct Shim {
    lab: Mux,
}

impl Handler for Shim {
    fn exec(&self, request: Exec, call: Call) {
        match request.target {
            Target::Here => command::run(&request, call),
            _ => match self.lab.exec(&request) {
                Ok(outgoing) => relay(call, outgoing),
                Err(error) => refuse(&call, &format!("no way to the other guest: {error}")),
            },
        }
    }
}

pub(super) fn run() -> anyhow::Result<ExitCode> {
    let port = find_port(Instant::now() + Duration::from_secs(20))?;
    let reader = File::options().read(true).write(true).open(&port);
    let reader = reader.with_context(|| format!("cannot open {}", port.display()))?;
    let lab = Mux::start(reader.try_clone()?, reader, false, Arc::new(Here));
    let _ = fs::remove_file(SHIM_SOCKET);
    let listener = UnixListener::bind(SHIM_SOCKET).context("cannot listen for the ssh shim")?;
    let shim = Arc::new(Shim { lab: lab.clone() });
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            if let Ok(reader) = stream.try_clone() {
                let handler: Arc<dyn Handler> = Arc::<Shim>::clone(&shim);
                Mux::start(reader, stream, true, handler);
            }
        }
    });
    lab.send_preamble()?;
    lab.send_hello(&Hello {
        side: init::side(),
        release: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
    })?;
    bail!("{}", lab.wait_closed())
}

/// The device node of the lab's port. It appears when virtio_console has probed, so this waits, woken by
/// what the kernel says on its log.
fn find_port(deadline: Instant) -> anyhow::Result<PathBuf> {
    let kmsg = File::options().read(true).open("/dev/kmsg").context("cannot read /dev/kmsg")?;
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == PORT_NAME {
                return Ok(PathBuf::from("/dev").join(entry.file_name()));
            }
        }
        if Instant::now() > deadline {
            bail!(
                "there is no virtio-serial port {PORT_NAME}: are virtio_pci and virtio_console in the image?"
            );
        }
        // Not every kernel logs a new port: the time-out is the second chance.
        let timeout = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let _ = poll(&mut [PollFd::new(&kmsg, PollFlags::PRI)], Some(&timeout));
    }
}
