//! What happens at a bridge, and how to wait for it.

use crate::{BridgeError, FunctionError, Link, PciFunction};
use ntb_spec::MSIX_VECTORS;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::{Errno, read, retry_on_intr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// What has happened since somebody asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Events {
    /// The link has changed, and is now so (`ntb_link_event`).
    pub link: Option<Link>,
    /// Doorbells whose vector was signalled (`ntb_db_event`). Which of them are set now says
    /// [`doorbells`](crate::Bridge::doorbells).
    pub doorbells: u64,
    /// A message has arrived, or there is room for one (`ntb_msg_event`).
    pub messages: bool,
}

impl Events {
    /// Nothing has happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One eventfd for each MSI-X vector, and one descriptor that is readable when any of them is.
#[derive(Debug)]
pub(crate) struct Vectors {
    eventfds: Vec<OwnedFd>,
    any: OwnedFd,
}

impl Vectors {
    pub(crate) fn new() -> Result<Self, BridgeError> {
        let make = || {
            let any = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let mut eventfds = Vec::with_capacity(usize::from(MSIX_VECTORS));
            for vector in 0..MSIX_VECTORS {
                let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
                epoll::add(&any, &fd, epoll::EventData::new_u64(vector.into()), epoll::EventFlags::IN)?;
                eventfds.push(fd);
            }
            Ok(Self { eventfds, any })
        };
        make().map_err(|errno: Errno| BridgeError::Eventfd(errno.into()))
    }

    /// Has a function signal them.
    pub(crate) fn enable(&self, function: &dyn PciFunction) -> Result<(), FunctionError> {
        let fds: Vec<BorrowedFd<'_>> = self.eventfds.iter().map(AsFd::as_fd).collect();
        function.enable_vectors(&fds)
    }

    /// Readable while a vector is signalled.
    pub(crate) fn any(&self) -> BorrowedFd<'_> {
        self.any.as_fd()
    }

    /// The eventfd of a vector.
    pub(crate) fn one(&self, vector: u8) -> Option<BorrowedFd<'_>> {
        self.eventfds.get(usize::from(vector)).map(AsFd::as_fd)
    }

    /// Takes what is signalled: bit n for vector n.
    pub(crate) fn take(&self) -> Result<u64, BridgeError> {
        let mut found =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
                MSIX_VECTORS as usize];
        let now = Timespec::default();
        let count = retry_on_intr(|| epoll::wait(&self.any, &mut found, Some(&now)))
            .map_err(|errno| BridgeError::Wait(errno.into()))?;
        let mut vectors = 0;
        for event in found.iter().take(count) {
            let Ok(vector) = u8::try_from(event.data.u64()) else { continue };
            if self.take_one(vector) {
                vectors |= 1_u64.checked_shl(vector.into()).unwrap_or(0);
            }
        }
        Ok(vectors)
    }

    /// Takes one vector's signal, if there is one.
    pub(crate) fn take_one(&self, vector: u8) -> bool {
        let mut count = [0; 8];
        self.one(vector).is_some_and(|fd| read(fd, &mut count).is_ok())
    }
}

/// Waits until a descriptor is readable. Returns whether it is.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> Result<bool, BridgeError> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let timeout = Timespec::try_from(timeout)
        .map_err(|_| BridgeError::Wait(io::Error::from(io::ErrorKind::InvalidInput)))?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        // The caller's loop looks again, and at the clock.
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(BridgeError::Wait(errno.into())),
    }
}
