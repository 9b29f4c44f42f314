//! Bytes and file descriptors through a UNIX stream socket: the only calls to the kernel of both sessions.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::wire::MAX_MESSAGE_FDS;

/// What one `recvmsg` brought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// 0 at the end of the stream, as long as the buffer was not empty.
    pub(crate) bytes: usize,
    /// File descriptors handed to the caller.
    pub(crate) fds: usize,
    /// The kernel dropped file descriptors for want of room, here or in our descriptor table (`MSG_CTRUNC`).
    pub(crate) cut: bool,
}

/// Receives once. File descriptors are close-on-exec from birth. `AGAIN` if nothing is there and `flags` or the
/// socket say not to wait.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
    mut take: impl FnMut(OwnedFd),
) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_MESSAGE_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let message =
        retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut *buffer)], &mut control, flags))?;
    let mut fds: usize = 0;
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            for fd in rights {
                fds = fds.saturating_add(1);
                take(fd);
            }
        }
    }
    Ok(Received { bytes: message.bytes, fds, cut: message.flags.contains(ReturnFlags::CTRUNC) })
}

/// Sends once, with `fds` (at most [`MAX_MESSAGE_FDS`]) beside the first byte. Returns how many bytes went; if any
/// did, so did the file descriptors.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<usize, Errno> {
    let flags = flags | SendFlags::NOSIGNAL;
    if fds.is_empty() {
        return retry_on_intr(|| rustix::net::send(socket, bytes, flags));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_MESSAGE_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOMANYREFS);
    }
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags))
}
