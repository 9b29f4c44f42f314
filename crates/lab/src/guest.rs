//! One guest: its QEMU and the agent in it.

use crate::agent::SELF;
use crate::channel::{Call, Captured, Exec, Handler, Hello, Mux, Stream, Target, capture, refuse, relay};
use crate::options::{Accel, Side};
use crate::plan::Plan;
use crate::process::{Process, tail, wait_readable};
use crate::trouble::failed;
use anyhow::{Context, bail};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a guest may take from QEMU's start to its agent's first words.
pub const BOOT: Duration = Duration::from_secs(120);
/// The same where KVM is only tried: a guest that runs under it is there within a few seconds.
const KVM_TRIAL: Duration = Duration::from_secs(30);
/// Until when a guest that KVM is tried on has to have printed something: some KVMs do not fail, they stand.
const KVM_FIRST_WORD: Duration = Duration::from_secs(6);
/// How long an ordinary command may take.
const COMMAND: Duration = Duration::from_secs(60);

/// Knows the way to either guest, for commands from one to the other.
#[derive(Debug, Default)]
pub struct Switchboard {
    guests: Mutex<[Option<Mux>; 2]>,
}

impl Switchboard {
    fn connect(&self, side: Side, mux: Mux) {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)[side.index()] = Some(mux);
    }

    /// The way to a guest, if it has one.
    #[must_use]
    pub fn guest(&self, side: Side) -> Option<Mux> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)[side.index()].clone()
    }

    /// Carries a request out in a guest.
    pub fn forward(&self, to: Side, request: Exec, call: Call) {
        let outgoing = self.guest(to).map(|mux| mux.exec(&request.at(Target::Here)));
        match outgoing {
            Some(Ok(outgoing)) => relay(call, outgoing),
            Some(Err(error)) => refuse(&call, &format!("guest {to} does not answer: {error}")),
            None => refuse(&call, &format!("guest {to} is not running")),
        }
    }
}

/// Requests from the agent of one guest.
struct FromGuest {
    side: Side,
    switchboard: Arc<Switchboard>,
}

impl Handler for FromGuest {
    fn exec(&self, request: Exec, call: Call) {
        match request.target {
            Target::Peer => self.switchboard.forward(self.side.other(), request, call),
            _ => refuse(&call, "a guest runs commands in the other guest only"),
        }
    }
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    side: Side,
    qemu: Process,
    mux: Mux,
    hello: Hello,
    hellos: u64,
}

impl Guest {
    /// Starts QEMU; [`Booting::finish`] waits for the agent.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(plan: &Plan, side: Side, accel: Accel) -> anyhow::Result<Booting> {
        let socket = plan.agent_socket(side);
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket);
        let listener = listener.with_context(|| format!("cannot listen on {}", socket.display()))?;
        listener.set_nonblocking(true)?;
        let name = format!("qemu-{side}");
        let qemu = Process::start(&name, &plan.guest(side, accel), &plan.log(&name))?;
        let trial = accel == Accel::Kvm && plan.options.accel == Accel::Auto;
        let patience = if trial { KVM_TRIAL } else { BOOT };
        let now = Instant::now();
        let first_word = trial.then(|| now + KVM_FIRST_WORD);
        Ok(Booting { side, qemu, listener, deadline: now + patience, first_word })
    }

    /// Which one it is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// The process id of its QEMU.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.qemu.pid()
    }

    /// The way to its agent.
    #[must_use]
    pub fn mux(&self) -> &Mux {
        &self.mux
    }

    /// What its agent said of it.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Runs a shell line and collects what it prints.
    ///
    /// # Errors
    /// When there is no end before the time is over, or the guest is gone. A status that is not 0 is no error.
    pub fn run_for(&self, line: &str, time: Duration) -> anyhow::Result<Captured> {
        tracing::debug!(guest = %self.side, line, "run");
        let told = || format!("`{line}` in guest {}", self.side);
        let call = self.mux.exec(&Exec::shell(line)).with_context(told)?;
        match capture(call, Instant::now() + time) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(failed(format!("{}: {error}", told())))
            }
            captured => captured.with_context(told),
        }
    }

    /// Runs a shell line that has to succeed, and returns its output.
    ///
    /// # Errors
    /// Blames the thing under test when the line fails.
    pub fn sh(&self, line: &str) -> anyhow::Result<String> {
        self.sh_for(line, COMMAND)
    }

    /// The same with a time of its own.
    ///
    /// # Errors
    /// Blames the thing under test when the line fails.
    pub fn sh_for(&self, line: &str, time: Duration) -> anyhow::Result<String> {
        let captured = self.run_for(line, time)?;
        if !captured.status.success() {
            let said = [captured.error_text(), captured.text().trim().to_owned()].join(" ");
            return Err(failed(format!("`{line}` in guest {}: {}: {said}", self.side, captured.status)));
        }
        Ok(captured.text())
    }

    /// Puts a file into the guest.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn put(&self, bytes: &[u8], to: &str, mode: u32) -> anyhow::Result<()> {
        let line = format!("cat > '{to}' && chmod {mode:o} '{to}'");
        let call = self.mux.exec(&Exec::shell(&line))?;
        let writer = call.writer();
        let captured = std::thread::scope(|scope| {
            scope.spawn(move || {
                // A command that ends early is reported by its status.
                let _ = writer.data(Stream::Stdin, bytes).and_then(|()| writer.end(Stream::Stdin));
            });
            capture(call, Instant::now() + COMMAND)
        })?;
        if !captured.status.success() {
            bail!("cannot write {to} in guest {}: {}", self.side, captured.error_text());
        }
        Ok(())
    }

    /// The kernel's messages since boot, each with its level.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn kernel_log(&self) -> anyhow::Result<Vec<(u8, String)>> {
        let text = self.sh(&format!("{SELF} lab agent kmsg"))?;
        Ok(parse_kernel_log(&text))
    }

    /// `kill -9` of its QEMU.
    ///
    /// # Errors
    /// When the kernel does not know the process.
    pub fn kill(&mut self) -> io::Result<()> {
        self.qemu.kill()?;
        // Not before the channel has noticed may a successor take over its place in the switchboard.
        let _ = self.mux.wait_closed();
        Ok(())
    }

    /// Reboots it the hard way a watchdog would, from inside, and waits until its agent is back.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn reboot(&mut self) -> anyhow::Result<()> {
        // Held until the guest is back: dropping a call ends its command. Its end is lost with the guest.
        let _call = self.mux.exec(&Exec::shell("echo b > /proc/sysrq-trigger"))?;
        let waited = self.mux.wait_hello(self.hellos, Instant::now() + BOOT);
        self.hello =
            waited.map_err(|error| failed(format!("guest {} did not come back: {error}", self.side)))?;
        self.hellos = self.mux.hellos();
        Ok(())
    }
}

/// A guest on its way to user space.
#[derive(Debug)]
pub struct Booting {
    side: Side,
    qemu: Process,
    listener: UnixListener,
    deadline: Instant,
    first_word: Option<Instant>,
}

impl Booting {
    /// Waits until the agent has said hello.
    ///
    /// # Errors
    /// When QEMU ends, the machine dies, or the time is over: with what QEMU said and the console's end.
    pub fn finish(mut self, plan: &Plan, switchboard: &Arc<Switchboard>) -> anyhow::Result<Guest> {
        let listener: OwnedFd = self.listener.try_clone()?.into();
        let stream = loop {
            if let Ok((stream, _)) = self.listener.accept() {
                break stream;
            }
            self.check(plan, Ok(()))?;
            wait_readable(&[&listener, self.qemu.exited()], self.deadline)?;
        };
        stream.set_nonblocking(false)?;
        let handler = FromGuest { side: self.side, switchboard: Arc::clone(switchboard) };
        let mux = Mux::start(stream.try_clone()?, stream, true, Arc::new(handler));
        let hello = loop {
            // In slices, because a machine that KVM could not run stands still without ending.
            let slice = self.deadline.min(Instant::now() + Duration::from_millis(250));
            match mux.wait_hello(0, slice) {
                Ok(hello) => break hello,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => self.check(plan, Ok(()))?,
                Err(error) => self.check(plan, Err(error))?,
            }
        };
        mux.send_preamble()?;
        switchboard.connect(self.side, mux.clone());
        tracing::debug!(guest = %self.side, release = hello.release, "up");
        let hellos = mux.hellos();
        Ok(Guest { side: self.side, qemu: self.qemu, mux, hello, hellos })
    }

    fn check(&mut self, plan: &Plan, channel: io::Result<()>) -> anyhow::Result<()> {
        let said = self.qemu.log_tail();
        let side = self.side;
        // QEMU closes its sockets a moment before it is a zombie.
        let patience = if channel.is_err() { Duration::from_secs(2) } else { Duration::ZERO };
        if wait_readable(&[self.qemu.exited()], Instant::now() + patience)? {
            let status = self.qemu.status()?.map_or_else(String::new, |status| format!(" ({status})"));
            bail!("the QEMU of guest {side} ended{status}; it said:\n{said}");
        }
        channel.with_context(|| format!("the channel to guest {side} failed"))?;
        if said.contains("KVM internal error") {
            bail!("KVM cannot run guest {side} on this machine; QEMU said:\n{said}");
        }
        let silent = fs::metadata(plan.console(side)).map_or(0, |meta| meta.len()) == 0;
        if silent && self.first_word.is_some_and(|limit| Instant::now() >= limit) {
            bail!("guest {side} printed nothing within {KVM_FIRST_WORD:?} under KVM");
        }
        if Instant::now() >= self.deadline {
            let console = tail(&plan.console(side), 30);
            bail!("guest {side} did not reach user space in time; its console ends:\n{console}");
        }
        Ok(())
    }
}

/// `<level+facility>,sequence,microseconds,flags;text` lines; the lines that start with a blank belong to
/// dictionaries and are not messages.
fn parse_kernel_log(text: &str) -> Vec<(u8, String)> {
    text.lines()
        .filter_map(|line| {
            let (head, message) = line.split_once(';')?;
            let mut fields = head.split(',');
            let level = fields.next()?.parse::<u32>().ok()? & 7;
            let micros = fields.nth(1)?.parse::<u64>().ok()?;
            let stamp = format!("[{:>5}.{:06}]", micros / 1_000_000, micros % 1_000_000);
            Some((u8::try_from(level).ok()?, format!("{stamp} {message}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_messages_have_a_level_and_a_time() {
        let text = "6,1,0,-;Linux version\n12,2,1500000,-;ntb: bad; really\n SUBSYSTEM=pci\nrubbish\n";
        let log = parse_kernel_log(text);
        assert_eq!(log[0], (6, "[    0.000000] Linux version".to_owned()));
        assert_eq!(log[1], (4, "[    1.500000] ntb: bad; really".to_owned()));
        assert_eq!(log.len(), 2);
    }
}
