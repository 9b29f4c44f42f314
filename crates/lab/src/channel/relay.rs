//! Calls that pass through, and calls that are collected.

use super::frame::Stream;
use super::mux::Call;
use super::types::{Event, ExitStatus};
use std::io;
use std::sync::mpsc::channel;
use std::time::Instant;

/// Joins a call that came in to the one that carries it out elsewhere, until it ends.
pub fn relay(mut incoming: Call, mut outgoing: Call) {
    let (to_caller, to_command) = (incoming.writer(), outgoing.writer());
    let granter = incoming.writer();
    incoming.grant_by_hand();
    std::thread::scope(|scope| {
        // Input has a thread of its own: a command that does not read must not keep a signal from it.
        let (input, waiting) = channel::<(Stream, Vec<u8>)>();
        let to_input = to_command.clone();
        scope.spawn(move || {
            while let Ok((stream, bytes)) = waiting.recv() {
                let passed =
                    if bytes.is_empty() { to_input.end(stream) } else { to_input.data(stream, &bytes) };
                if passed.is_err() {
                    return;
                }
                granter.grant(stream, bytes.len());
            }
        });
        // Ends when the caller leaves, or when `exit` below takes the call out of the table.
        scope.spawn(move || {
            loop {
                let passed = match incoming.next_event() {
                    Event::Data(stream, bytes) => input.send((stream, bytes)).is_ok(),
                    Event::End(stream) => input.send((stream, Vec::new())).is_ok(),
                    Event::Signal(signal) => to_command.signal(signal).is_ok(),
                    Event::Resize(rows, columns) => to_command.resize(rows, columns).is_ok(),
                    Event::Cancel | Event::Exit(_) => {
                        // Nobody wants the command's end any more.
                        let _ = to_command.signal(9);
                        return;
                    }
                };
                if !passed {
                    return;
                }
            }
        });
        loop {
            let passed = match outgoing.next_event() {
                Event::Data(stream, bytes) => to_caller.data(stream, &bytes),
                Event::End(stream) => to_caller.end(stream),
                Event::Exit(status) => {
                    to_caller.exit(&status);
                    return;
                }
                Event::Signal(_) | Event::Resize(..) | Event::Cancel => Ok(()),
            };
            if let Err(error) = passed {
                to_caller.exit(&ExitStatus::Lost(error.to_string()));
                return;
            }
        }
    });
}

/// Ends a call that cannot be carried out, with the reason on its standard error.
pub fn refuse(call: &Call, why: &str) {
    let writer = call.writer();
    let _ = writer.data(Stream::Stderr, format!("isthmus: {why}\n").as_bytes());
    writer.exit(&ExitStatus::Lost(why.to_owned()));
}

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub status: ExitStatus,
}

impl Captured {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text, trimmed.
    #[must_use]
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
}

/// Collects a command's output until it ends.
///
/// # Errors
/// `TimedOut` at the deadline (the command is killed), with what it had printed so far.
pub fn capture(mut call: Call, deadline: Instant) -> io::Result<Captured> {
    let mut captured =
        Captured { stdout: Vec::new(), stderr: Vec::new(), status: ExitStatus::Lost(String::new()) };
    loop {
        match call.next_event_before(deadline) {
            Some(Event::Data(Stream::Stderr, bytes)) => captured.stderr.extend(bytes),
            Some(Event::Data(_, bytes)) => captured.stdout.extend(bytes),
            Some(Event::Exit(status)) => {
                captured.status = status;
                return Ok(captured);
            }
            Some(Event::Cancel) => return Ok(captured),
            Some(Event::End(_) | Event::Signal(_) | Event::Resize(..)) => {}
            None => {
                let so_far = format!("{}{}", captured.text(), captured.error_text());
                let text = format!("no end before the deadline; so far it printed:\n{so_far}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Stream;
    use super::super::mux::{Call, Handler, Mux, WINDOW_BYTES};
    use super::super::types::{Event, Exec, ExitStatus, Hello, Program};
    use super::{capture, relay};
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    /// Echoes stdin to stdout, its program to stderr, and exits with 5.
    struct Echo;

    impl Handler for Echo {
        fn exec(&self, request: Exec, mut call: Call) {
            let writer = call.writer();
            let Program::Shell(line) = request.program else { panic!("only lines here") };
            writer.data(Stream::Stderr, line.as_bytes()).unwrap();
            loop {
                match call.next_event() {
                    Event::Data(_, bytes) => writer.data(Stream::Stdout, &bytes).unwrap(),
                    Event::End(_) => break,
                    other => panic!("unexpected {other:?}"),
                }
            }
            writer.exit(&ExitStatus::Code(5));
        }
    }

    struct Relay(Mux);

    impl Handler for Relay {
        fn exec(&self, request: Exec, call: Call) {
            relay(call, self.0.exec(&request).unwrap());
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn pair(near: Arc<dyn Handler>, far: Arc<dyn Handler>) -> (Mux, Mux) {
        let (a, b) = UnixStream::pair().unwrap();
        let near = Mux::start(a.try_clone().unwrap(), a, false, near);
        let far = Mux::start(b.try_clone().unwrap(), b, true, far);
        (near, far)
    }

    #[test]
    fn a_command_that_is_larger_than_the_credit_comes_through_two_hops() {
        let (middle, _far) = pair(Arc::new(Echo), Arc::new(Echo));
        let (near, _middle) = pair(Arc::new(Echo), Arc::new(Relay(middle)));
        let input: Vec<u8> = (0..WINDOW_BYTES * 5).map(|n| n.to_le_bytes()[0]).collect();
        let call = near.exec(&Exec::shell("cat")).unwrap();
        let writer = call.writer();
        let sent = input.clone();
        let sender = std::thread::spawn(move || {
            writer.data(Stream::Stdin, &sent).unwrap();
            writer.end(Stream::Stdin).unwrap();
        });
        let captured = capture(call, soon()).unwrap();
        sender.join().unwrap();
        assert_eq!(captured.status, ExitStatus::Code(5));
        assert_eq!(captured.error_text(), "cat");
        assert!(captured.stdout == input, "{} of {} bytes", captured.stdout.len(), input.len());
    }

    #[test]
    fn garbage_on_the_wire_costs_nothing_but_itself() {
        let (a, mut b) = UnixStream::pair().unwrap();
        let near = Mux::start(a.try_clone().unwrap(), a, false, Arc::new(Echo));
        b.write_all(&[0xf1; 100_000]).unwrap();
        let far = Mux::start(b.try_clone().unwrap(), b, true, Arc::new(Echo));
        far.send_preamble().unwrap();
        let hello = Hello { side: "a".into(), release: "6".into(), boot_id: "1".into() };
        far.send_hello(&hello).unwrap();
        assert_eq!(near.wait_hello(0, soon()).unwrap(), hello);
        assert_eq!(near.hellos(), 1);
    }

    #[test]
    fn calls_end_when_the_other_side_goes_or_starts_anew() {
        let (near, far) = pair(Arc::new(Echo), Arc::new(Echo));
        let call = near.exec(&Exec::shell("one")).unwrap();
        let hello = Hello { side: "a".into(), release: "6".into(), boot_id: "2".into() };
        far.send_hello(&hello).unwrap();
        assert!(matches!(capture(call, soon()).unwrap().status, ExitStatus::Lost(_)));
        let call = near.exec(&Exec::shell("two")).unwrap();
        near.close("the machine died");
        let status = capture(call, soon()).unwrap().status;
        assert_eq!(status, ExitStatus::Lost("the machine died".to_owned()));
        assert!(near.exec(&Exec::shell("three")).is_err());
    }

    #[test]
    fn a_deadline_is_kept() {
        let (near, _far) = pair(Arc::new(Echo), Arc::new(Echo));
        let call = near.exec(&Exec::shell("waits for stdin")).unwrap();
        let error = capture(call, Instant::now() + Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }
}
