//! Bulk: a stream of numbered records over TCP. The kernel sends again what a fault has lost, so every record must come.

use super::report::Stream;
use super::traffic::{Task, scramble};
use super::world::{Side, pause};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const PORT: u16 = 7001;
/// Number and length of a record, 8 bytes each, before its content.
const HEADER_BYTES: usize = 16;
/// The longest record, header left out.
const RECORD_BYTES: u64 = 200_000;
/// A stream that stands still for longer has failed: the kernel's own tries are up to a minute apart after a long fault.
const STANDSTILL: Duration = Duration::from_secs(120);

pub(super) fn listen(side: Side) -> io::Result<TcpListener> {
    TcpListener::bind((side.address(), PORT))
}

pub(super) fn connect(to: Side) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((to.address(), PORT))?;
    stream.set_write_timeout(Some(STANDSTILL))?;
    Ok(stream)
}

/// Length of the record with this number.
fn record_bytes(number: u64) -> usize {
    usize::try_from(scramble(!number) % RECORD_BYTES).unwrap_or_default()
}

/// Sends until it is over, and checks what comes out at the far end.
pub(super) fn run(
    from: Side,
    connection: TcpStream,
    listener: &TcpListener,
    task: &Task,
) -> anyhow::Result<Stream> {
    let (mut far, _) = listener.accept()?;
    far.set_read_timeout(Some(STANDSTILL))?;
    let (sent, mut stream) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(connection, task));
        let stream = check(&mut far, task);
        // A sender whose receiver has given up gets no further.
        drop(far);
        (sender.join(), stream)
    });
    stream.name = format!("bulk {} to {}", from.name(), from.other().name());
    match sent {
        Ok((sent, failure)) => {
            stream.sent = sent;
            // A sender that the kernel has given up says why; its receiver only waits.
            let both = [failure, stream.failure.take()].into_iter().flatten().collect::<Vec<_>>();
            stream.failure = (!both.is_empty()).then(|| both.join("; "));
            stream.lost =
                stream.lost.saturating_add(sent.saturating_sub(stream.received.saturating_add(stream.lost)));
        }
        Err(_) => stream.failure = Some("the sender panicked".to_owned()),
    }
    Ok(stream)
}

/// Returns how many records were sent whole, and what ended it but the time.
fn send(mut connection: TcpStream, task: &Task) -> (u64, Option<String>) {
    let mut number = 0_u64;
    let (began, mut sent_bytes) = (Instant::now(), 0_u64);
    while !task.is_over() {
        task.mark.sends(number);
        let content = task.content(number, record_bytes(number));
        let length = u64::try_from(content.len()).unwrap_or_default();
        let mut header = [0; HEADER_BYTES];
        header
            .iter_mut()
            .zip(number.to_le_bytes().into_iter().chain(length.to_le_bytes()))
            .for_each(|(to, from)| *to = from);
        if let Err(error) = connection.write_all(&header).and_then(|()| connection.write_all(content)) {
            return (number, Some(format!("sending: {error}")));
        }
        number = number.wrapping_add(1);
        sent_bytes = sent_bytes.saturating_add(length);
        if let Some(rate) = task.rate {
            let due = Duration::from_secs_f64(sent_bytes as f64 / rate);
            pause(due.saturating_sub(began.elapsed()));
        }
    }
    (number, connection.shutdown(std::net::Shutdown::Write).err().map(|error| error.to_string()))
}

/// Checks records until the sender has shut down.
fn check(far: &mut impl Read, task: &Task) -> Stream {
    let mut stream = Stream::default();
    let mut next = 0_u64;
    let mut content = Vec::new();
    loop {
        let mut header = [0; HEADER_BYTES];
        match read_whole(far, &mut header) {
            Ok(true) => {}
            Ok(false) => return stream,
            Err(error) => {
                stream.failure = Some(format!("receiving: {error}"));
                return stream;
            }
        }
        let [a, b, c, d, e, f, g, h, length @ ..] = header;
        let number = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
        if number < next {
            stream.reordered = stream.reordered.wrapping_add(1);
        } else {
            stream.lost = stream.lost.wrapping_add(number.wrapping_sub(next));
            next = number.wrapping_add(1);
        }
        if length != record_bytes(number) {
            stream.corrupt = stream.corrupt.wrapping_add(1);
            stream.failure = Some("a record's length is wrong: what follows cannot be told apart".to_owned());
            return stream;
        }
        content.resize(length, 0);
        if let Err(error) = far.read_exact(&mut content) {
            stream.failure = Some(format!("receiving: {error}"));
            return stream;
        }
        if content == task.content(number, length) {
            stream.received = stream.received.wrapping_add(1);
            task.mark.has_come(number);
            stream.bytes = stream.bytes.wrapping_add(u64::try_from(length).unwrap_or_default());
        } else {
            stream.corrupt = stream.corrupt.wrapping_add(1);
        }
    }
}

/// Fills the buffer; false at the end of the stream, where that is between two records.
fn read_whole(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let first = from.read(buffer)?;
    if first == 0 {
        return Ok(false);
    }
    from.read_exact(buffer.get_mut(first..).unwrap_or_default()).map(|()| true)
}
