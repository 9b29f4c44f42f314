//! Pings: numbered datagrams of every length that the far end sends back. Nobody sends them again, so a frame that is lost is seen here.

use super::faults::Faults;
use super::report::Stream;
use super::traffic::{Task, scramble};
use super::world::Side;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PORT: u16 = 7002;
/// One ping in so much time.
const PERIOD: Duration = Duration::from_millis(5);
/// A reply that has not come after this is lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Room in a socket: some seconds of pings.
const RECEIVE_BYTES: usize = 64 << 20;
/// The longest datagram: one frame of the largest MTU holds it.
const LONGEST: u64 = 60_000;
const NUMBER_BYTES: usize = 8;

pub(super) fn bind(side: Side) -> io::Result<UdpSocket> {
    let socket = with_room(UdpSocket::bind((side.address(), PORT))?);
    socket.set_read_timeout(Some(PERIOD))?;
    Ok(socket)
}

pub(super) fn bind_any(side: Side) -> io::Result<UdpSocket> {
    let socket = with_room(UdpSocket::bind((side.address(), 0))?);
    socket.connect((side.other().address(), PORT))?;
    Ok(socket)
}

/// Room for what comes while this process has no processor: a socket that overflows would look like a link that loses. Without
/// the right to so much it has what it is given.
fn with_room(socket: UdpSocket) -> UdpSocket {
    let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES);
    socket
}

/// Sends back what comes, until nobody waits for it.
pub(super) fn echo(socket: &UdpSocket, answered: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !answered.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((bytes, from)) => {
                // During a fault there may be no way back: then it is lost, as on any wire.
                let _ = socket.send_to(buffer.get(..bytes).unwrap_or_default(), from);
            }
            Err(error) if waits(&error) => {}
            Err(error) => tracing::debug!(%error, "the echo's socket"),
        }
    }
}

/// Pings until it is over, then waits for the replies that are missing.
pub(super) fn run(from: Side, socket: &UdpSocket, task: &Task) -> anyhow::Result<Stream> {
    let mut pings = Pings { stream: Stream::default(), missing: BTreeMap::new(), last: None };
    pings.stream.name = format!("ping {} to {}", from.name(), from.other().name());
    let mut buffer = vec![0; 1 << 16];
    let mut number = 0_u64;
    let mut due = Instant::now();
    loop {
        let now = Instant::now();
        pings.give_up(now, task);
        let over = task.is_over();
        if over && pings.missing.is_empty() {
            return Ok(pings.stream);
        }
        if !over && now >= due {
            due = now + PERIOD;
            let content = task.content(number, content_bytes(number));
            let datagram = [&number.to_le_bytes(), content].concat();
            // During a fault there may be no way: then nothing was sent.
            if socket.send(&datagram).is_ok() {
                pings.stream.sent = pings.stream.sent.wrapping_add(1);
                pings.missing.insert(number, Missing { sent: now, overtaken: None });
            }
            number = number.wrapping_add(1);
            task.mark.sends(number);
        }
        let wait = due.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), PERIOD);
        socket.set_read_timeout(Some(wait))?;
        match socket.recv(&mut buffer) {
            Ok(bytes) => pings.reply(buffer.get(..bytes).unwrap_or_default(), task),
            Err(error) if waits(&error) => {}
            Err(error) => tracing::debug!(%error, "a ping's socket"),
        }
    }
}

fn content_bytes(number: u64) -> usize {
    usize::try_from(scramble(!number) % LONGEST).unwrap_or_default()
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// A ping without a reply.
#[derive(Debug, Clone, Copy)]
struct Missing {
    sent: Instant,
    /// When one that was sent later came back: this one was on its way no longer.
    overtaken: Option<Instant>,
}

impl Missing {
    /// Whether a fault was made while it was on its way.
    fn is_excused(&self, faults: &Faults) -> bool {
        faults.touch(self.sent, self.overtaken.unwrap_or(self.sent + PATIENCE))
    }
}

#[derive(Debug)]
struct Pings {
    stream: Stream,
    missing: BTreeMap<u64, Missing>,
    /// The greatest number that came back.
    last: Option<u64>,
}

impl Pings {
    fn reply(&mut self, datagram: &[u8], task: &Task) {
        let Some((number, content)) = datagram.split_first_chunk::<NUMBER_BYTES>() else {
            self.stream.corrupt = self.stream.corrupt.wrapping_add(1);
            return;
        };
        let number = u64::from_le_bytes(*number);
        let Some(ping) = self.missing.remove(&number) else {
            // Too late, and counted as lost; or a number that was never sent.
            if number >= self.stream.sent {
                self.stream.corrupt = self.stream.corrupt.wrapping_add(1);
            }
            return;
        };
        if content == task.content(number, content_bytes(number)) {
            task.mark.has_come(number);
            self.stream.received = self.stream.received.wrapping_add(1);
            self.stream.bytes =
                self.stream.bytes.wrapping_add(u64::try_from(datagram.len()).unwrap_or_default());
        } else {
            self.stream.corrupt = self.stream.corrupt.wrapping_add(1);
        }
        if self.last.is_some_and(|last| number < last) {
            let count = match ping.is_excused(&task.faults) {
                true => &mut self.stream.reordered_in_faults,
                false => &mut self.stream.reordered,
            };
            *count = count.wrapping_add(1);
        }
        let now = Instant::now();
        for (_, earlier) in self.missing.range_mut(..number) {
            earlier.overtaken.get_or_insert(now);
        }
        self.last = self.last.max(Some(number));
    }

    fn give_up(&mut self, now: Instant, task: &Task) {
        while let Some(first) = self.missing.first_entry() {
            let ping = *first.get();
            if now.saturating_duration_since(ping.sent) < PATIENCE {
                return;
            }
            first.remove();
            if ping.is_excused(&task.faults) {
                self.stream.lost_in_faults = self.stream.lost_in_faults.wrapping_add(1);
            } else {
                self.stream.lost = self.stream.lost.wrapping_add(1);
            }
        }
    }
}
