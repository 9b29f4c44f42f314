//! A TAP device: the guest's network becomes one of this machine.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Why there is no TAP device.
#[derive(Debug, thiserror::Error)]
#[error("TAP device {name}: it takes root, or the capability NET_ADMIN, and /dev/net/tun")]
pub struct NoTap {
    name: String,
    #[source]
    source: io::Error,
}

/// A TAP device that lives as long as this does.
pub(crate) struct Tap(SyncDevice);

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").finish_non_exhaustive()
    }
}

impl Tap {
    /// Makes the device, gives it its address and switches it on.
    ///
    /// # Errors
    /// [`NoTap`] when this user may not, or the name is taken.
    pub(crate) fn create(name: &str, address: Ipv4Addr, prefix: u8, mtu: u16) -> Result<Self, NoTap> {
        let make = || {
            let builder = DeviceBuilder::new().name(name).layer(Layer::L2).mtu(mtu);
            let device = builder.ipv4(address, prefix, None).build_sync()?;
            device.set_nonblocking(true)?;
            Ok(device)
        };
        make().map(Self).map_err(|source| NoTap { name: name.to_owned(), source })
    }

    /// Readable when this machine has a frame for the guest.
    #[must_use]
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The next frame for the guest, if there is one.
    ///
    /// # Errors
    /// When the device is gone.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.recv(buffer) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A frame from the guest. Whether it was taken: a device that is switched off takes none.
    pub(crate) fn send(&self, frame: &[u8]) -> bool {
        self.0.send(frame).is_ok()
    }
}
