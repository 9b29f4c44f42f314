//! Where the counters can be had while it runs: a file, or a socket that answers HTTP.

use super::Report;
use anyhow::Context;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// A request is no longer than this.
const REQUEST_BYTES: usize = 4096;
/// Who asks is given so long for its whole request, and for each step: one slow client must keep neither the others nor SIGTERM waiting.
const CLIENT_PATIENCE: Duration = Duration::from_millis(500);

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Metrics {
    File(PathBuf),
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Metrics {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("unix: wants a path".to_owned())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        match text.parse() {
            Ok(address) => Ok(Self::Tcp(address)),
            Err(_) if text.is_empty() => Err("a file, unix:PATH, or ADDRESS:PORT".to_owned()),
            Err(_) => Ok(Self::File(text.into())),
        }
    }
}

/// It, taken into use.
#[derive(Debug)]
pub(super) enum Outlet {
    File(PathBuf),
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Outlet {
    pub(super) fn open(metrics: &Metrics) -> anyhow::Result<Self> {
        match metrics {
            Metrics::File(path) => Ok(Self::File(path.clone())),
            Metrics::Unix(path) => {
                remove_stale(path);
                let listener = UnixListener::bind(path)
                    .with_context(|| format!("cannot listen at {} for --metrics", path.display()))?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(listener, path.clone()))
            }
            Metrics::Tcp(address) => {
                let listener = TcpListener::bind(address)
                    .with_context(|| format!("cannot listen at {address} for --metrics"))?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
        }
    }

    /// What becomes readable when somebody asks.
    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::File(_) => None,
            Self::Unix(listener, _) => Some(listener.as_fd()),
            Self::Tcp(listener) => Some(listener.as_fd()),
        }
    }

    /// Answers who asks, or writes the file.
    pub(super) fn serve(&self, report: impl Fn() -> Report) {
        let result = match self {
            Self::File(path) => replace(path, &report().prometheus()),
            Self::Unix(listener, _) => listener.accept().and_then(|(mut stream, _)| {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
                stream.set_write_timeout(Some(CLIENT_PATIENCE))?;
                answer(&mut stream, report)
            }),
            Self::Tcp(listener) => listener.accept().and_then(|(mut stream, _)| {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
                stream.set_write_timeout(Some(CLIENT_PATIENCE))?;
                answer(&mut stream, report)
            }),
        };
        match result {
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                tracing::debug!(%error, "metrics were not told");
            }
            _ => {}
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that nobody listens at is left over from a process that was killed.
fn remove_stale(path: &Path) {
    let refused = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
    if std::os::unix::net::UnixStream::connect(path).is_err_and(refused) {
        let _ = std::fs::remove_file(path);
    }
}

/// Whoever reads the file sees the old text or the new one, never a part.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, path)
}

/// One request of HTTP/1, one answer, the end.
fn answer(stream: &mut (impl Read + Write), report: impl Fn() -> Report) -> io::Result<()> {
    let mut request = Vec::new();
    let mut chunk = [0; 512];
    let began = Instant::now();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_BYTES {
        if began.elapsed() >= CLIENT_PATIENCE {
            return Err(ErrorKind::TimedOut.into());
        }
        match stream.read(&mut chunk)? {
            0 => break,
            bytes => request.extend_from_slice(chunk.get(..bytes).unwrap_or_default()),
        }
    }
    let line =
        String::from_utf8_lossy(request.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (status, kind, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => ("200 OK", "text/plain; version=0.0.4", report().prometheus()),
        (Some("GET"), Some("/status")) => {
            let body = serde_json::to_string(&report()).map_err(io::Error::other)?;
            ("200 OK", "application/json", body)
        }
        (Some("GET"), _) => ("404 Not Found", "text/plain", "there are /metrics and /status\n".to_owned()),
        _ => ("400 Bad Request", "text/plain", "ask with GET\n".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Asks a running `isthmus net` for its state.
pub(crate) fn ask(place: &str) -> anyhow::Result<Report> {
    let request = "GET /status HTTP/1.1\r\nHost: isthmus\r\n\r\n";
    let mut reply = String::new();
    let nobody = || format!("no `isthmus net --metrics {place}` answers there");
    match place.parse().map_err(anyhow::Error::msg)? {
        Metrics::Tcp(address) => {
            let mut stream = std::net::TcpStream::connect(address).with_context(nobody)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(request.as_bytes())?;
            stream.read_to_string(&mut reply)?;
        }
        Metrics::Unix(path) | Metrics::File(path) => {
            let mut stream = std::os::unix::net::UnixStream::connect(path).with_context(nobody)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(request.as_bytes())?;
            stream.read_to_string(&mut reply)?;
        }
    }
    let (_, body) = reply.split_once("\r\n\r\n").context("what answers there is no `isthmus net`")?;
    serde_json::from_str(body).context("what answers there is an `isthmus net` of another version")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn places_are_told_apart() {
        assert_eq!("unix:/run/x".parse(), Ok(Metrics::Unix("/run/x".into())));
        assert_eq!("127.0.0.1:9100".parse(), Ok(Metrics::Tcp("127.0.0.1:9100".parse().unwrap())));
        assert_eq!("[::1]:9100".parse(), Ok(Metrics::Tcp("[::1]:9100".parse().unwrap())));
        assert_eq!("/var/lib/x.prom".parse(), Ok(Metrics::File("/var/lib/x.prom".into())));
        assert!("".parse::<Metrics>().is_err() && "unix:".parse::<Metrics>().is_err());
    }

    /// A connection whose requests are there already.
    struct Connection(Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Connection {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.0.read(into)
        }
    }

    impl Write for Connection {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            self.1.write(from)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn asked(request: &[u8]) -> String {
        let report = || Report {
            version: "0".to_owned(),
            pid: 1,
            interface: "ntb0".to_owned(),
            mac: String::new(),
            address: None,
            link: None,
            counters: Default::default(),
            queues: Vec::new(),
            kernel: None,
        };
        let mut connection = Connection(Cursor::new(request.to_vec()), Vec::new());
        answer(&mut connection, report).unwrap();
        String::from_utf8(connection.1).unwrap()
    }

    /// A client that says a byte now and then, each in time.
    struct Slow;

    impl Read for Slow {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            std::thread::park_timeout(CLIENT_PATIENCE / 5);
            into[0] = b'G';
            Ok(1)
        }
    }

    impl Write for Slow {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            Ok(from.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_client_that_asks_byte_by_byte_is_left_before_it_is_through() {
        let report = || -> Report { panic!("it has not asked yet") };
        assert_eq!(answer(&mut Slow, report).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn requests_are_answered_whatever_they_are() {
        assert!(asked(b"GET /metrics HTTP/1.1\r\n\r\n").contains("isthmus_net_up{interface=\"ntb0\"} 0"));
        assert!(asked(b"GET /status HTTP/1.1\r\n\r\n").contains("\"interface\":\"ntb0\""));
        assert!(asked(b"GET /other HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        for nonsense in [&b""[..], b"\r\n\r\n", b"PUT /metrics\r\n\r\n", &[0xff; 9000]] {
            assert!(asked(nonsense).starts_with("HTTP/1.1 400"));
        }
    }
}
