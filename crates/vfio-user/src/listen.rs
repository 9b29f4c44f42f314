//! A UNIX socket at a path, for one client at a time.
//!
//! The path appears at once with mode 0600 and with somebody listening: the socket is made under a temporary name
//! in the same directory, and linked to its own name only when it is ready. So whoever finds a socket that
//! refuses connections may conclude that its owner is gone, and [`Listener::bind`] does. It finds out by connecting,
//! so a living owner sees a client that leaves without a word.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};

/// A listening socket. Unlinks its path when dropped, if the path is still its own.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    place: Option<Place>,
}

/// A path, and which inode it had when we made it.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A living process has this socket.
    #[error("{}: in use by a running process", .0.display())]
    InUse(PathBuf),
    /// Something else is there, which we will not remove.
    #[error("{}: exists and is not a socket; remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The directory is missing.
    #[error("{}: the directory does not exist; create it first", .0.display())]
    NoDirectory(PathBuf),
    /// Longer than a socket's name can be.
    #[error("{}: a socket's path has at most {} bytes, with room for a temporary name", .0.display(), MAX_PATH_BYTES)]
    PathTooLong(PathBuf),
    /// The descriptor that was handed to us is no listening UNIX stream socket.
    #[error("this file descriptor is not a listening socket")]
    NotListening,
    /// The system said no.
    #[error("{}: cannot {action}", path.display())]
    System {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What came of it.
        #[source]
        source: io::Error,
    },
}

/// `sun_path` less its NUL.
const MAX_PATH_BYTES: usize = 107;
/// How often to start over when others create and remove the same path meanwhile.
const ATTEMPTS: u32 = 8;

impl Listener {
    /// Listens at `path`, readable and writable for its owner only. The socket of a process that is gone is
    /// replaced.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, ListenError> {
        let path = path.as_ref();
        let fail = |action, source: io::Error| ListenError::System { path: path.into(), action, source };
        let directory = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(ListenError::NotASocket(path.into())),
        };
        if !directory.is_dir() {
            return Err(ListenError::NoDirectory(directory.into()));
        }
        let socket = stream_socket().map_err(|errno| fail("create a socket", errno.into()))?;
        // A UNIX socket's file gets the mode of the socket, so it is never more open than this, whatever the
        // umask; chmod afterwards adds what a strict umask took away.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .map_err(|errno| fail("set the mode of a socket", errno.into()))?;
        let temporary = bind_temporary(&socket, path)?;
        fs::set_permissions(&temporary.0, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .map_err(|error| fail("set the mode of the socket", error))?;
        // One client at a time: the queue is short, so that a second one is seen soon.
        listen(&socket, 4).map_err(|errno| fail("listen", errno.into()))?;
        for _ in 0..ATTEMPTS {
            match fs::hard_link(&temporary.0, path) {
                Ok(()) => {
                    let made = fs::symlink_metadata(&temporary.0).map_err(|error| fail("look at", error))?;
                    let place = Place { path: path.into(), device: made.dev(), inode: made.ino() };
                    return Ok(Self { socket, place: Some(place) });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => clear_stale(path)?,
                Err(error) => return Err(fail("put the socket in its place", error)),
            }
        }
        Err(ListenError::InUse(path.into()))
    }

    /// Takes over a socket that listens already, as a supervisor hands it down, and makes it non-blocking. Its
    /// path, if any, is the supervisor's.
    ///
    /// # Errors
    /// [`ListenError::NotListening`].
    pub fn from_fd(socket: OwnedFd) -> Result<Self, ListenError> {
        let listens = rustix::net::sockopt::socket_acceptconn(&socket).unwrap_or(false);
        let stream = rustix::net::sockopt::socket_type(&socket) == Ok(SocketType::STREAM);
        let unix = rustix::net::sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX);
        if !(listens && stream && unix) {
            return Err(ListenError::NotListening);
        }
        // Whoever shares this socket may take the client that poll announced; accept must not wait for the next one.
        let flags = rustix::fs::fcntl_getfl(&socket).map_err(|_| ListenError::NotListening)?;
        rustix::fs::fcntl_setfl(&socket, flags | rustix::fs::OFlags::NONBLOCK)
            .map_err(|_| ListenError::NotListening)?;
        Ok(Self { socket, place: None })
    }

    /// The next waiting client, or `None` if there is none; never waits.
    ///
    /// A second client while one is attached should be accepted too, and [told](crate::server::TurnedAway) that the
    /// place is taken: else it waits 5 s for a reply to VERSION.
    ///
    /// # Errors
    /// That of `accept`, such as too many open files. A client that has given up meanwhile is none.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        match rustix::io::retry_on_intr(|| accept_with(&self.socket, SocketFlags::CLOEXEC)) {
            Ok(stream) => Ok(Some(stream.into())),
            Err(Errno::AGAIN | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Where it listens; `None` for one from [`Listener::from_fd`].
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.place.as_ref().map(|place| place.path.as_path())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(Place { path, device, inode }) = &self.place
            && fs::symlink_metadata(path).is_ok_and(|found| found.dev() == *device && found.ino() == *inode)
        {
            // Nothing is lost if it stays: the next one to bind replaces it.
            drop(fs::remove_file(path));
        }
    }
}

/// A name in the directory of the one that is meant; removed when dropped.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    fn name_beside(path: &Path) -> PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, nth) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        path.with_file_name(OsString::from(format!(".{process:x}.{nth:x}")))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// Binds `socket` to a name beside `path`. A name can be taken: process ids repeat across containers, and what a
/// killed process left behind stays.
fn bind_temporary(socket: &OwnedFd, path: &Path) -> Result<Temporary, ListenError> {
    let fail = |source: io::Error| ListenError::System {
        path: path.into(),
        action: "create a socket in this directory",
        source,
    };
    for _ in 0..ATTEMPTS {
        let name = Temporary::name_beside(path);
        let too_long = |path: &Path| path.as_os_str().len() > MAX_PATH_BYTES;
        if too_long(path) || too_long(&name) {
            return Err(ListenError::PathTooLong(path.into()));
        }
        let address = SocketAddrUnix::new(&name).map_err(|errno| fail(errno.into()))?;
        match bind(socket, &address) {
            Ok(()) => return Ok(Temporary(name)),
            Err(Errno::ADDRINUSE) => {}
            Err(errno) => return Err(fail(errno.into())),
        }
    }
    Err(fail(Errno::ADDRINUSE.into()))
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes what is at `path` if it is a socket that nobody listens on. Nothing there at all is fine too.
fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let fail = |action, source: io::Error| ListenError::System { path: path.into(), action, source };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail("look at", error)),
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.into()));
    }
    let probe = stream_socket().map_err(|errno| fail("create a socket", errno.into()))?;
    let name = SocketAddrUnix::new(path).map_err(|errno| fail("name a socket", errno.into()))?;
    match connect(&probe, &name) {
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        // AGAIN: its queue is full, so it has an owner; a bad one, but alive.
        Ok(()) | Err(Errno::AGAIN) => return Err(ListenError::InUse(path.into())),
        Err(errno) => return Err(fail("find out who owns the socket", errno.into())),
    }
    // Take it away under another name first, and look once more: somebody may have replaced it since.
    let away = Temporary(Temporary::name_beside(path));
    match fs::rename(path, &away.0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail("replace the stale socket", error)),
    }
    let taken = fs::symlink_metadata(&away.0).map_err(|error| fail("look at", error))?;
    if (taken.dev(), taken.ino()) == (found.dev(), found.ino()) {
        return Ok(());
    }
    // A living one: put it back, unless a third has come.
    drop(fs::hard_link(&away.0, path));
    Err(ListenError::InUse(path.into()))
}

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;
