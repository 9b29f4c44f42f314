//! What a client and the service say to each other, one message a packet of a Unix socket, as JSON with descriptors beside it.

use crate::ViId;
use crate::adapter::{Change, Lane};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The version of this protocol.
pub(crate) const VERSION: u32 = 1;
/// The most bytes of one packet.
const PACKET_BYTES: usize = 32 << 10;
/// The most descriptors beside one.
const PACKET_FILES: usize = 3;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// First of all.
    Hello {
        version: u32,
        /// What it calls itself, for people.
        name: String,
        /// The set that its interface belongs to; of the same user's.
        set: Option<String>,
    },
    AddFilter {
        filter: String,
        /// For the set, not for the interface alone.
        set: bool,
    },
    RemoveFilter {
        id: u16,
    },
    /// What the service has counted.
    Status,
}

/// What the service says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// The client has an interface. Beside it: what its bell waits on, and the page that says that there is news.
    Welcome {
        vi: ViId,
        mac: [u8; 6],
        mtu: u32,
        shape: Shape,
    },
    Up {
        peer_mac: [u8; 6],
        mtu: u32,
        kernel: bool,
    },
    Down,
    /// The peer's table.
    Filters(Change),
    /// A filter of the interface's own, or of its set.
    OwnFilter {
        id: u16,
        filter: String,
    },
    OwnFilterGone(u16),
    /// Beside it: receive area, return area, the bell of whoever receives.
    MaySend {
        lane: Lane,
        peer: ViId,
    },
    /// Beside it: receive area, return area.
    Receives {
        lane: Lane,
        peer: ViId,
    },
    NoMoreSending(Lane),
    NoMoreReceiving(Lane),
    /// To the oldest request that has none yet.
    Answer(Result<Answer, String>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Filter(u16),
    Removed(bool),
    Status(Box<crate::ServiceStatus>),
}

/// The shape of every lane, as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    slots: u32,
    buffers: u32,
    buffer_bytes: u32,
    stamps: bool,
}

impl From<vi::lane::Geometry> for Shape {
    fn from(geometry: vi::lane::Geometry) -> Self {
        let vi::lane::Geometry { slots, buffers, buffer_bytes, stamps, .. } = geometry;
        Self { slots, buffers, buffer_bytes, stamps }
    }
}

impl From<Shape> for vi::lane::Geometry {
    fn from(shape: Shape) -> Self {
        let Shape { slots, buffers, buffer_bytes, stamps } = shape;
        Self { slots, buffers, buffer_bytes, stamps, region: 0, wakes: true }
    }
}

/// A connection whose messages have bounds.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

fn packets() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

impl Socket {
    /// One that a service serves at `path`.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let socket = packets()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    /// Serves at `path`, where nobody does: only its own user and group may connect.
    pub(crate) fn listen(path: &Path) -> io::Result<Self> {
        let socket = packets()?;
        let address = SocketAddrUnix::new(path)?;
        match rustix::net::bind(&socket, &address) {
            Err(Errno::ADDRINUSE)
                if Self::connect(path)
                    .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) =>
            {
                // What a service that was killed has left.
                std::fs::remove_file(path)?;
                rustix::net::bind(&socket, &address)?;
            }
            bound => bound?,
        }
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o660))?;
        rustix::net::listen(&socket, 64)?;
        Ok(Self(socket))
    }

    /// The next who connects; none if nobody does.
    pub(crate) fn accept(&self) -> io::Result<Option<Self>> {
        match rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => Ok(Some(Self(socket))),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends one message. False: there is no room now, for a socket that does not wait.
    pub(crate) fn send(&self, message: &impl Serialize, files: &[BorrowedFd<'_>]) -> io::Result<bool> {
        self.send_bytes(&serde_json::to_vec(message)?, files)
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FILES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let bytes = [IoSlice::new(bytes)];
        match retry_on_intr(|| sendmsg(&self.0, &bytes, &mut ancillary, SendFlags::NOSIGNAL)) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The next message and its descriptors; none if there is none now, for a socket that does not wait, or with `wait` false.
    ///
    /// # Errors
    /// An end of the connection, and what is no message.
    pub(crate) fn receive<T: DeserializeOwned>(&self, wait: bool) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = [0; PACKET_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut flags = RecvFlags::CMSG_CLOEXEC;
        if !wait {
            flags |= RecvFlags::DONTWAIT;
        }
        let mut into = [IoSliceMut::new(&mut bytes)];
        let received = match retry_on_intr(|| recvmsg(&self.0, &mut into, &mut ancillary, flags)) {
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let mut files = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                files.extend(more);
            }
        }
        let whole = !received.flags.contains(ReturnFlags::TRUNC);
        match bytes.get(..received.bytes) {
            Some([]) | None => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(_) if !whole => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long"))
            }
            Some(bytes) => Ok(Some((serde_json::from_slice(bytes)?, files))),
        }
    }

    /// Never waits from now on.
    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.0)?;
        Ok(rustix::fs::fcntl_setfl(&self.0, flags | rustix::fs::OFlags::NONBLOCK)?)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
