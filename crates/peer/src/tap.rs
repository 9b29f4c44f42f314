//! A TAP device: the guest's network becomes one of this machine.

use netdev::{MacAddress, Tap, TapError, TapOptions, TapQueue};
use rustix::io::Errno;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

/// How many frames wait for us before the kernel drops one (`tun_net_init` has the same).
const QUEUE_FRAMES: u32 = 500;

/// A TAP device with one queue and no offloads, that lives as long as this does.
#[derive(Debug)]
pub(crate) struct PlainTap {
    /// It is there while this is.
    _tap: Tap,
    queue: TapQueue,
}

impl PlainTap {
    /// Makes the device, gives it its address and switches it on. Its carrier is on: what comes while the guest is away waits.
    ///
    /// # Errors
    /// [`TapError`] when this user may not, or the name or the address is taken.
    pub(crate) fn create(name: &str, address: Ipv4Addr, prefix: u8, mtu: u16) -> Result<Self, TapError> {
        let (tap, queues) = Tap::open(&TapOptions {
            name: name.to_owned(),
            mac: MacAddress::random(),
            mtu: mtu.into(),
            address: Some((address, prefix)),
            queues: 1,
            queue_frames: QUEUE_FRAMES,
        })?;
        tap.set_carrier(true)?;
        let queue = queues.into_iter().next().ok_or(TapError::Queues(0))?;
        Ok(Self { _tap: tap, queue })
    }

    /// Readable when this machine has a frame for the guest.
    #[must_use]
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }

    /// The next frame for the guest, if there is one.
    ///
    /// # Errors
    /// When the device is gone.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.queue.read_plain(buffer) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A frame from the guest. Whether it was taken: a device that is switched off takes none.
    pub(crate) fn send(&self, frame: &[u8]) -> bool {
        self.queue.write_plain(frame).is_ok()
    }
}
