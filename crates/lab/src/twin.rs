//! The twin of a lab: a process like any user's, and its control socket.

use crate::plan::Plan;
use crate::process::{Process, wait_readable};
use anyhow::{Context, bail};
use control::{CallError, Client, Event, LinkState, PortName, Registers, Reply, Request, Status, StoreMode};
use rustix::fs::inotify;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a twin may take for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A running twin.
#[derive(Debug)]
pub struct Twin {
    process: Process,
    socket: PathBuf,
    client: Client<UnixStream>,
}

impl Twin {
    /// Starts one and waits until it serves.
    ///
    /// # Errors
    /// When it cannot be started or ends at once: with what it said.
    pub fn start(plan: &Plan) -> anyhow::Result<Self> {
        let socket = plan.control_socket();
        let mut process = Process::start("the twin", &plan.twin(), &plan.log("twin"))?;
        let stream = connect(&socket, &mut process, Instant::now() + Duration::from_secs(10))?;
        Ok(Self { process, socket, client: Client::new(stream) })
    }

    /// Where its control socket is.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Link, ports, windows, counters.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&mut self) -> anyhow::Result<Status> {
        match self.call(&Request::Status)? {
            Reply::Status(status) => Ok(*status),
            other => bail!("the twin answered {other:?} instead of its status"),
        }
    }

    /// Every register of both ports.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn registers(&mut self) -> anyhow::Result<Registers> {
        match self.call(&Request::Registers)? {
            Reply::Registers(registers) => Ok(registers),
            other => bail!("the twin answered {other:?} instead of its registers"),
        }
    }

    /// What becomes of window stores from now on.
    ///
    /// # Errors
    /// When it refuses or does not answer.
    pub fn set_stores(&mut self, stores: StoreMode) -> anyhow::Result<()> {
        match self.call(&Request::SetStores { stores })? {
            Reply::Done => Ok(()),
            other => bail!("the twin answered {other:?} to a change of the store mode"),
        }
    }

    fn call(&mut self, request: &Request) -> anyhow::Result<Reply> {
        match self.client.call(request) {
            Err(CallError::Io(_)) => {
                // A connection that was lost once is not the twin's end: ask again on a fresh one.
                self.client = Client::new(open(&self.socket).with_context(|| self.last_words())?);
                Ok(self.client.call(request)?)
            }
            answer => Ok(answer?),
        }
    }

    fn last_words(&self) -> String {
        format!("the twin does not answer; it said:\n{}", self.process.log_tail())
    }

    /// A connection that is told of every change from now on.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn watch(&self) -> anyhow::Result<Watch> {
        let mut client = Client::new(open(&self.socket).with_context(|| self.last_words())?);
        client.call(&Request::Watch)?;
        Ok(Watch { client })
    }

    /// Waits until the link is in a state, whether it is already or gets there.
    ///
    /// # Errors
    /// At the deadline.
    pub fn wait_link(&mut self, state: LinkState, deadline: Instant) -> anyhow::Result<()> {
        let mut watch = self.watch()?;
        if self.status()?.link.state == state {
            return Ok(());
        }
        watch
            .wait_for(deadline, |event| matches!(event, Event::Link { state: new, .. } if *new == state))
            .with_context(|| format!("waiting for the twin's link to be {state}"))?;
        Ok(())
    }

    /// The state of both ports as text, for whoever has to find out why something timed out.
    #[must_use]
    pub fn describe(&mut self) -> String {
        let mut text = String::new();
        match self.status() {
            Ok(status) => drop(writeln!(text, "link {} for {} ms", status.link.state, status.link.for_ms)),
            Err(error) => drop(writeln!(text, "{error:#}")),
        }
        match self.registers() {
            Ok(registers) => text.push_str(&side_by_side(&registers)),
            Err(error) => drop(writeln!(text, "{error:#}")),
        }
        text
    }

    /// Ends it, and says whether it ended well.
    ///
    /// # Errors
    /// When it had ended before, or did not end cleanly on SIGTERM.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.process.status()? {
            bail!("the twin had ended before the run did ({status}); it said:\n{}", self.process.log_tail());
        }
        let status = self.process.stop(Duration::from_secs(5))?;
        if !status.success() {
            bail!("the twin did not end cleanly ({status}); it said:\n{}", self.process.log_tail());
        }
        Ok(())
    }
}

/// A stream of changes.
#[derive(Debug)]
pub struct Watch {
    client: Client<UnixStream>,
}

impl Watch {
    /// Waits for an event that fits.
    ///
    /// # Errors
    /// `TimedOut` at the deadline, or when the twin has gone.
    pub fn wait_for(&mut self, deadline: Instant, fits: impl Fn(&Event) -> bool) -> anyhow::Result<Event> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            self.client.stream().set_read_timeout(Some(left))?;
            match self.client.next_event() {
                Ok(event) if fits(&event) => return Ok(event),
                Ok(_) => {}
                Err(CallError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn open(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    Ok(stream)
}

/// Connects as soon as the socket is there.
fn connect(socket: &Path, process: &mut Process, deadline: Instant) -> anyhow::Result<UnixStream> {
    let directory = socket.parent().context("a socket without a directory")?;
    let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let interest = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::ATTRIB;
    inotify::add_watch(&changes, directory, interest)?;
    loop {
        if let Ok(stream) = open(socket) {
            return Ok(stream);
        }
        if let Some(status) = process.status()? {
            bail!("the twin ended at once ({status}); it said:\n{}", process.log_tail());
        }
        if Instant::now() > deadline {
            bail!("the twin does not serve {}; it said:\n{}", socket.display(), process.log_tail());
        }
        // Nothing announces the moment between bind and listen: hence the short time-out.
        wait_readable(&[&changes, process.exited()], Instant::now() + Duration::from_millis(20))?;
        let mut drained = [0; 4096];
        while rustix::io::read(&changes, &mut drained).is_ok_and(|count| count > 0) {}
    }
}

/// One line a register, both ports beside each other; registers that are zero on both sides are left out,
/// as are the vectors' assignments, which the driver sets once.
fn side_by_side(registers: &Registers) -> String {
    let all = &registers.registers;
    let mut text = format!("{:<8}{:>6}  {:<22}{:<54}b\n", "space", "offset", "register", "a");
    let mut seen = BTreeSet::new();
    for register in all {
        let key = (register.space.as_str(), register.offset);
        let zero = all.iter().all(|r| (r.space.as_str(), r.offset) != key || r.value == 0);
        if !seen.insert(key) || register.name.starts_with("INTVEC") || zero && register.name != "NTBCNTL" {
            continue;
        }
        let of = |port| {
            let found = all.iter().find(|r| r.port == port && (r.space.as_str(), r.offset) == key);
            found.map_or_else(String::new, |r| {
                let digits = usize::from(r.bytes) * 2;
                let meaning = if r.meaning.is_empty() { String::new() } else { format!(" {}", r.meaning) };
                format!("{:0digits$x}{meaning}", r.value)
            })
        };
        let (a, b) = (of(PortName::A), of(PortName::B));
        let _ =
            writeln!(text, "{:<8}{:>6x}  {:<22}{a:<54}{b}", register.space, register.offset, register.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::RegisterValue;

    #[test]
    fn registers_of_both_ports_stand_beside_each_other() {
        let register = |port, offset, value, meaning: &str| RegisterValue {
            port,
            space: "bar0".to_owned(),
            offset,
            bytes: 4,
            name: "NTBCNTL".to_owned(),
            value,
            meaning: meaning.to_owned(),
        };
        let registers = Registers {
            registers: vec![register(PortName::A, 0, 2, "disabled"), register(PortName::B, 0, 0, "")],
        };
        let text = side_by_side(&registers);
        let line = text.lines().nth(1).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["bar0", "0", "NTBCNTL", "00000002", "disabled", "00000000"]
        );
    }
}
