//! The client's side of one connection: blocking, one question at a time.
//!
//! For tests, benches and user-space drivers. It trusts the server as little as the server trusts its clients:
//! replies are bounded and matched to their request, and a server that breaks the protocol costs an error, after
//! which the connection is not used again.

mod exchange;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::wire::{
    Capabilities, Command, DeviceInfo, DmaMap, DmaUnmap, Flags, Header, IrqAction, IrqData, IrqIndex,
    IrqInfo, MAJOR, MAX_MESSAGE_BYTES, MAX_MESSAGE_FDS, MINOR, MessageId, Record, RegionIndex, Request,
    SetIrqs, SparseArea, answer, emit_write_multi,
};

/// How long a client waits for a reply unless told otherwise: QEMU's `x-msg-timeout`.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a vfio-user server.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    next_id: u16,
    out: Vec<u8>,
    body: Vec<u8>,
    server: Capabilities,
    broken: bool,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves there.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// What came of it.
        #[source]
        source: io::Error,
    },
    /// The server refused the request. The connection is good.
    #[error("the server refused {command}: {}", io::Error::from_raw_os_error(*errno))]
    Refused {
        /// What was asked.
        command: Command,
        /// The errno of the reply; 0 if the server gave none.
        errno: i32,
    },
    /// More data or file descriptors than the server takes in one message. Nothing was sent.
    #[error("more than the server takes in one message")]
    TooMuch,
    /// The server did not answer in time.
    #[error("the server did not answer in time")]
    TimedOut,
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection failed")]
    Socket(#[source] io::Error),
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    /// An earlier error left the connection in an unknown state.
    #[error("the connection is unusable after an earlier error")]
    Broken,
}

/// What a client hears about a region.
#[derive(Debug)]
pub struct RegionInfo {
    /// Length in bytes; 0 if the device has no such region.
    pub size: u64,
    /// See [`region_flags`](crate::wire::region_flags).
    pub flags: u32,
    /// Where the region begins in `fd`, in bytes.
    pub fd_offset: u64,
    /// The parts that may be mapped; empty with an `fd`: all of it.
    pub areas: Vec<SparseArea>,
    /// The file to map.
    pub fd: Option<OwnedFd>,
}

impl Client {
    /// Connects to the socket at `path` and negotiates.
    ///
    /// # Errors
    /// [`ClientError::Connect`], or that of [`Client::negotiate`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path)
            .map_err(|source| ClientError::Connect { path: path.to_path_buf(), source })?;
        let mut client = Self::from_stream(stream)?;
        client.negotiate(&Capabilities::CLIENT)?;
        Ok(client)
    }

    /// A client on a connected stream, before VERSION.
    ///
    /// # Errors
    /// [`ClientError::Socket`] if it is no socket.
    pub fn from_stream(stream: UnixStream) -> Result<Self, ClientError> {
        stream.set_nonblocking(false).map_err(ClientError::Socket)?;
        let client = Self {
            stream,
            next_id: 0,
            out: Vec::new(),
            body: Vec::new(),
            server: Capabilities::default(),
            broken: false,
        };
        client.set_timeout(Some(DEFAULT_TIMEOUT))?;
        Ok(client)
    }

    /// Sets how long a call may wait for the server, in either direction; `None` for ever.
    ///
    /// # Errors
    /// [`ClientError::Socket`], also for a timeout of zero.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<(), ClientError> {
        self.stream.set_read_timeout(timeout).map_err(ClientError::Socket)?;
        self.stream.set_write_timeout(timeout).map_err(ClientError::Socket)
    }

    /// What the server said of itself.
    #[must_use]
    pub fn server(&self) -> &Capabilities {
        &self.server
    }

    /// Sends VERSION; must come first.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Protocol`] if the server answers with another version, or that of
    /// the connection.
    pub fn negotiate(&mut self, ours: &Capabilities) -> Result<(), ClientError> {
        let data = ours.into_data();
        self.ask(Request::Version { major: MAJOR, minor: MINOR, data: &data }, &[], 4096)?;
        let (major, minor, server) = self.understood(answer::version)?;
        if major != MAJOR || minor > MINOR {
            return Err(self.fail(ClientError::Protocol("another version")));
        }
        self.server = server;
        Ok(())
    }

    /// Asks what the device is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn device_info(&mut self) -> Result<DeviceInfo, ClientError> {
        self.ask(Request::GetInfo { argsz: 16 }, &[], 16)?;
        self.understood(answer::info)
    }

    /// Asks about a region; a second time, with more room, if the server has more to say.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn region_info(&mut self, index: RegionIndex) -> Result<RegionInfo, ClientError> {
        let (mut argsz, mut last) = (32, false);
        loop {
            let room = usize::try_from(argsz).unwrap_or(usize::MAX);
            let mut fds = self.ask(Request::GetRegionInfo { argsz, index }, &[], room)?;
            let found = self.understood(answer::region_info)?;
            if found.index != index {
                return Err(self.fail(ClientError::Protocol("another region")));
            }
            if found.argsz > argsz {
                let bounded = usize::try_from(found.argsz).is_ok_and(|bytes| bytes < MAX_MESSAGE_BYTES);
                if last || !bounded {
                    return Err(self.fail(ClientError::Protocol("an argsz without bound")));
                }
                (argsz, last) = (found.argsz, true);
                continue;
            }
            if fds.len() > 1 {
                return Err(self.fail(ClientError::Protocol("several file descriptors for one region")));
            }
            let (size, flags, fd_offset, areas) = (found.size, found.flags, found.fd_offset, found.areas);
            return Ok(RegionInfo { size, flags, fd_offset, areas, fd: fds.pop() });
        }
    }

    /// Asks about an interrupt type.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn irq_info(&mut self, index: IrqIndex) -> Result<IrqInfo, ClientError> {
        self.ask(Request::GetIrqInfo { argsz: 16, index }, &[], 16)?;
        let (answered, info) = self.understood(answer::irq_info)?;
        if answered != index {
            return Err(self.fail(ClientError::Protocol("another interrupt type")));
        }
        Ok(info)
    }

    /// Offers a range of memory; without `fd` the server cannot reach it directly.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn dma_map(&mut self, map: DmaMap, fd: Option<BorrowedFd<'_>>) -> Result<(), ClientError> {
        self.ask(Request::DmaMap(map), fd.as_slice(), 0).map(drop)
    }

    /// Withdraws memory. The server has let go of it when this returns.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn dma_unmap(&mut self, unmap: DmaUnmap) -> Result<(), ClientError> {
        self.ask(Request::DmaUnmap(unmap), &[], 24).map(drop)
    }

    /// Sends SET_IRQS as it is, with `fds` beside it.
    ///
    /// # Errors
    /// [`ClientError::TooMuch`] for more file descriptors than the server takes, else see [`ClientError`].
    pub fn set_irqs(&mut self, set: SetIrqs<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        if fds.len() > self.max_fds() {
            return Err(ClientError::TooMuch);
        }
        self.ask(Request::SetIrqs(set), fds, 0).map(drop)
    }

    /// Has vector `start + n` signal `fds[n]`, in as many messages as the server needs. An error may leave some of
    /// them assigned.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn assign_irqs(
        &mut self,
        index: IrqIndex,
        start: u32,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let mut start = start;
        for fds in fds.chunks(self.max_fds().max(1)) {
            let count = u32::try_from(fds.len()).map_err(|_| ClientError::TooMuch)?;
            let (action, data) = (IrqAction::Trigger, IrqData::Eventfd);
            self.set_irqs(SetIrqs { index, start, count, action, data }, fds)?;
            start = start.checked_add(count).ok_or(ClientError::TooMuch)?;
        }
        Ok(())
    }

    /// Turns an interrupt type off.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn disable_irqs(&mut self, index: IrqIndex) -> Result<(), ClientError> {
        let (action, data) = (IrqAction::Trigger, IrqData::None);
        self.set_irqs(SetIrqs { index, start: 0, count: 0, action, data }, &[])
    }

    /// Fills `data` from a region.
    ///
    /// # Errors
    /// [`ClientError::TooMuch`] if `data` is longer than the server's `max_data_xfer_size`, else see
    /// [`ClientError`].
    pub fn region_read(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), ClientError> {
        let count = self.checked_count(data.len())?;
        self.ask(Request::RegionRead { region, offset, count }, &[], data.len().saturating_add(16))?;
        match answer::access(&self.body) {
            Some((answered, at, counted, bytes))
                if (answered, at, counted) == (region, offset, count) && bytes.len() == data.len() =>
            {
                data.copy_from_slice(bytes);
                Ok(())
            }
            _ => Err(self.fail(ClientError::Protocol("the answer to another read"))),
        }
    }

    /// Writes to a region and waits until it is done.
    ///
    /// # Errors
    /// As for [`Client::region_read`].
    pub fn region_write(&mut self, region: RegionIndex, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        self.checked_count(data.len())?;
        self.ask(Request::RegionWrite { region, offset, data }, &[], 16)?;
        let (answered, at, count, _) = self.understood(|body| {
            let (region, offset, count, rest) = answer::access(body)?;
            Some((region, offset, count, rest.len()))
        })?;
        if (answered, at) != (region, offset) || usize::try_from(count) != Ok(data.len()) {
            return Err(self.fail(ClientError::Protocol("the answer to another write")));
        }
        Ok(())
    }

    /// Writes to a region without waiting; nobody will tell if it fails. One system call, as in QEMU.
    ///
    /// # Errors
    /// As for [`Client::region_read`], without those of a reply.
    pub fn region_write_posted(
        &mut self,
        region: RegionIndex,
        offset: u64,
        data: &[u8],
    ) -> Result<(), ClientError> {
        self.checked_count(data.len())?;
        self.post(Request::RegionWrite { region, offset, data })
    }

    /// Sends several small posted writes in one message.
    ///
    /// # Errors
    /// [`ClientError::TooMuch`] for more than fit a message, else as for [`Client::region_write_posted`].
    pub fn write_multi(&mut self, records: &[Record]) -> Result<(), ClientError> {
        const MAX_RECORDS: usize = 1 << 15;
        if records.len() > MAX_RECORDS {
            return Err(ClientError::TooMuch);
        }
        let id = self.new_id();
        self.out.clear();
        emit_write_multi(id, records, &mut self.out);
        self.send_out(&[])
    }

    /// Resets the device.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn reset(&mut self) -> Result<(), ClientError> {
        self.ask(Request::Reset, &[], 0).map(drop)
    }

    /// Sends `bytes` as they are, for tests that misbehave. At most 16 file descriptors.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send_raw(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        self.out.clear();
        self.out.extend_from_slice(bytes);
        self.send_out(fds)
    }

    /// Receives one message of at most [`MAX_MESSAGE_BYTES`], whatever it is: header, body, file descriptors.
    ///
    /// # Errors
    /// Those of the socket, and [`ClientError::Protocol`] for an impossible size.
    pub fn receive_raw(&mut self) -> Result<(Header, Vec<u8>, Vec<OwnedFd>), ClientError> {
        let (header, fds) = self.receive(MAX_MESSAGE_BYTES)?;
        Ok((header, self.body.clone(), fds))
    }

    fn max_fds(&self) -> usize {
        usize::try_from(self.server.max_msg_fds).unwrap_or(usize::MAX).min(MAX_MESSAGE_FDS)
    }

    fn checked_count(&self, bytes: usize) -> Result<u32, ClientError> {
        u32::try_from(bytes)
            .ok()
            .filter(|count| *count <= self.server.max_data_xfer_size.min(crate::wire::MAX_DATA_BYTES))
            .ok_or(ClientError::TooMuch)
    }

    /// Reads the reply's body with `read`; what that does not understand breaks the connection.
    fn understood<T>(&mut self, read: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, ClientError> {
        match read(&self.body) {
            Some(found) => Ok(found),
            None => Err(self.fail(ClientError::Protocol("a reply that is not as specified"))),
        }
    }

    fn fail(&mut self, error: ClientError) -> ClientError {
        self.broken = true;
        error
    }

    fn new_id(&mut self) -> MessageId {
        self.next_id = self.next_id.wrapping_add(1);
        MessageId(self.next_id)
    }

    fn post(&mut self, request: Request<'_>) -> Result<(), ClientError> {
        let id = self.new_id();
        self.out.clear();
        request.emit(id, Flags::POSTED, &mut self.out);
        self.send_out(&[])
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn socket_error(errno: Errno) -> ClientError {
    match errno {
        Errno::AGAIN => ClientError::TimedOut,
        Errno::PIPE | Errno::CONNRESET => ClientError::Closed,
        errno => ClientError::Socket(errno.into()),
    }
}
