//! A TAP: a network interface of the kernel whose cable ends in this process.
//!
//! What the kernel sends is read, one frame each time, and what is written the kernel receives. The ioctls are made here and not by a crate:
//! `tun-rs`, the best of them, sets neither the length of the virtio header nor the carrier, and enables every offload or none,
//! so that its descriptor would need the same ioctls after it, and two dozen more crates with them.

mod error;
pub(crate) mod ioctl;
mod statistics;

pub use error::TapError;
pub use statistics::{Statistics, statistics};

use crate::MacAddress;
use crate::vnet_header::{Offload, VNET_HEADER_BYTES};
use ioctl::{IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_UP, IFF_VNET_HDR};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The greatest MTU of a TAP in bytes: with the Ethernet header it is 65535 (`tun_net_init`, drivers/net/tun.c).
pub const MTU_MAX: u32 = 65521;
/// The least MTU in bytes (`ETH_MIN_MTU`).
pub const MTU_MIN: u32 = 68;
/// The most queues that are worth a thread each.
pub const QUEUES_MAX: usize = 64;

/// What interface is wanted.
#[derive(Debug, Clone)]
pub struct TapOptions {
    /// Its name. One that ends in `%d` lets the kernel choose the number.
    pub name: String,
    /// Its Ethernet address.
    pub mac: MacAddress,
    /// Bytes of an IP packet at most.
    pub mtu: u32,
    /// Its IPv4 address and the length of its network's prefix.
    pub address: Option<(Ipv4Addr, u8)>,
    /// How many queues it has. Each is read and written by a thread of its own.
    pub queues: usize,
    /// How many frames of a queue wait for their reader before the kernel drops one. A TAP does not stop the
    /// layer above when they are full: this is all the patience that there is.
    pub queue_frames: u32,
}

/// The interface. It ends with this value, unless it was there before as a persistent one.
#[derive(Debug)]
pub struct Tap {
    name: String,
    /// One of the queues' descriptors, for what concerns the device.
    control: File,
    /// Any socket: the calls on interfaces want one, and its network namespace is the interface's.
    socket: UdpSocket,
}

/// One queue of it. The descriptor does not block.
#[derive(Debug)]
pub struct TapQueue {
    descriptor: OwnedFd,
}

impl Tap {
    /// Makes the interface, or attaches to a persistent one of that name, sets it up, and brings it up without a carrier.
    ///
    /// # Errors
    /// [`TapError`] says what is in the way. Nothing is left behind.
    pub fn open(options: &TapOptions) -> Result<(Self, Vec<TapQueue>), TapError> {
        check(options)?;
        let socket = socket(&options.name)?;
        if let Some((address, _)) = options.address {
            refuse_taken(address.into())?;
        }
        let control = open_driver(&options.name)?;
        let available = ioctl::tun_features(&control)
            .map_err(|errno| TapError::of("asking the driver", &options.name, errno))?;
        let mut flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
        if options.queues > 1 {
            flags |= IFF_MULTI_QUEUE;
        }
        if u32::from(flags) & !available != 0 {
            return Err(TapError::Unsupported("TAP devices with a virtio header and several queues"));
        }
        let name = attach(&control, &options.name, flags)?;
        let tap = Self { name, control, socket };
        let mut queues = vec![TapQueue::new(&tap.control, &tap.name)?];
        for _ in 1..options.queues {
            let more = open_driver(&tap.name)?;
            attach(&more, &tap.name, flags)?;
            queues.push(TapQueue::new(&more, &tap.name)?);
        }
        tap.set_up(options)?;
        Ok((tap, queues))
    }

    fn set_up(&self, options: &TapOptions) -> Result<(), TapError> {
        let bytes = i32::try_from(VNET_HEADER_BYTES).unwrap_or(i32::MAX);
        self.step("setting the virtio header", ioctl::tun_set_vnet_header_bytes(&self.control, bytes))?;
        self.step("setting the byte order", ioctl::tun_set_vnet_little_endian(&self.control))?;
        // The offloads are a state of the device, and a persistent one keeps those of its last owner.
        self.set_offload(Offload::None)?;
        self.set_carrier(false)?;
        let (socket, name) = (&self.socket, self.name.as_str());
        // What an ordinary user's interface has already need not be permitted again.
        if self.step("asking for the address", ioctl::hardware_address(socket, name))? != options.mac.bytes()
        {
            let set = ioctl::set_hardware_address(socket, name, options.mac.bytes());
            self.step("setting the Ethernet address", set)?;
        }
        self.set_mtu(options.mtu)?;
        let length = ioctl::set_queue_length(socket, name, options.queue_frames);
        self.step("setting the length of the queue", length)?;
        if let Some((address, prefix)) = options.address {
            let mask =
                Ipv4Addr::from_bits(u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0));
            self.step("setting the IP address", ioctl::set_address(socket, name, address))?;
            self.step("setting the network mask", ioctl::set_netmask(socket, name, mask))?;
        }
        let flags = self.step("asking for the flags", ioctl::flags(socket, name))?;
        if flags & IFF_UP == 0 {
            self.step("bringing up", ioctl::set_flags(socket, name, flags | IFF_UP))?;
        }
        Ok(())
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets the MTU, in bytes.
    ///
    /// # Errors
    /// [`TapError::Mtu`], or what the kernel said.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), TapError> {
        if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
            return Err(TapError::Mtu(mtu));
        }
        if self.step("asking for the MTU", ioctl::mtu(&self.socket, &self.name))? == mtu {
            return Ok(());
        }
        self.step("setting the MTU", ioctl::set_mtu(&self.socket, &self.name, mtu))
    }

    /// Carrier on or off: whether the cable is plugged in. Without it the kernel sends nothing.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_carrier(&self, on: bool) -> Result<(), TapError> {
        self.step("setting the carrier", ioctl::tun_set_carrier(&self.control, on))
    }

    /// What the kernel may leave undone in the frames that it sends. A kernel that cannot leave UDP unsegmented does so for
    /// TCP alone.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_offload(&self, offload: Offload) -> Result<(), TapError> {
        let mut result = Ok(());
        for flags in offload.tun_flags() {
            result = ioctl::tun_set_offload(&self.control, *flags);
            if result.is_ok() {
                break;
            }
        }
        self.step("setting the offloads", result)
    }

    /// The kernel's counters of it, as seen in the caller's network namespace.
    ///
    /// # Errors
    /// When the interface is in another namespace.
    pub fn statistics(&self) -> std::io::Result<Statistics> {
        statistics(&self.name)
    }

    fn step<T>(&self, step: &'static str, result: rustix::io::Result<T>) -> Result<T, TapError> {
        result.map_err(|errno| TapError::of(step, &self.name, errno))
    }
}

impl TapQueue {
    fn new(file: &File, name: &str) -> Result<Self, TapError> {
        let descriptor = rustix::io::fcntl_dupfd_cloexec(file, 3)
            .map_err(|errno| TapError::of("taking the descriptor", name, errno))?;
        Ok(Self { descriptor })
    }

    /// Anything that keeps the bounds of what is written to it: the far end of a socket pair, in tests.
    #[cfg(test)]
    pub(crate) fn over(descriptor: OwnedFd) -> Self {
        Self { descriptor }
    }

    /// Takes the next frame that the kernel sends: a virtio header and an Ethernet frame. The part that does not fit is lost.
    ///
    /// # Errors
    /// `EAGAIN` when there is none.
    #[inline]
    pub(crate) fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::read(&self.descriptor, into)
    }

    /// The same without the virtio header, which says nothing where there are no offloads: an Ethernet frame.
    ///
    /// # Errors
    /// `EAGAIN` when there is none.
    pub fn read_plain(&self, frame: &mut [u8]) -> Result<usize, Errno> {
        let mut header = [0; VNET_HEADER_BYTES];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(frame)];
        Ok(rustix::io::readv(&self.descriptor, &mut parts)?.saturating_sub(VNET_HEADER_BYTES))
    }

    /// Gives the kernel an Ethernet frame of which nothing is left undone.
    ///
    /// # Errors
    /// `EIO` while the interface is down, `EINVAL` for what is no frame.
    pub fn write_plain(&self, frame: &[u8]) -> Result<(), Errno> {
        self.write(&[0; VNET_HEADER_BYTES], frame)
    }

    /// Gives the kernel a frame to receive.
    ///
    /// # Errors
    /// `EIO` while the interface is down, `EINVAL` for what is no frame.
    #[inline]
    pub(crate) fn write(&self, header: &[u8; VNET_HEADER_BYTES], frame: &[u8]) -> Result<(), Errno> {
        let parts = [IoSlice::new(header), IoSlice::new(frame)];
        rustix::io::writev(&self.descriptor, &parts).map(|_| ())
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn check(options: &TapOptions) -> Result<(), TapError> {
    let name = &options.name;
    let refused = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty()
        || name.len() > ioctl::NAME_BYTES
        || matches!(name.as_str(), "." | "..")
        || name.contains(refused)
    {
        return Err(TapError::Name(name.clone()));
    }
    if !(MTU_MIN..=MTU_MAX).contains(&options.mtu) {
        return Err(TapError::Mtu(options.mtu));
    }
    if !(1..=QUEUES_MAX).contains(&options.queues) {
        return Err(TapError::Queues(options.queues));
    }
    Ok(())
}

fn socket(name: &str) -> Result<UdpSocket, TapError> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|source| TapError::Step {
        step: "opening a socket for the set-up",
        name: name.to_owned(),
        source,
    })
}

/// Only an address that an interface of this namespace has can be bound to; the kernel itself lets two interfaces have one.
fn refuse_taken(address: IpAddr) -> Result<(), TapError> {
    // In a network namespace that was just made, whose loopback is down, the kernel lets anything be bound: this address
    // (RFC 5737) is nobody's.
    let anything_goes = UdpSocket::bind((Ipv4Addr::new(192, 0, 2, 255), 0)).is_ok()
        || std::fs::read_to_string("/proc/sys/net/ipv4/ip_nonlocal_bind")
            .is_ok_and(|text| text.trim() == "1");
    if !anything_goes && UdpSocket::bind((address, 0)).is_ok() {
        return Err(TapError::AddressTaken { address });
    }
    Ok(())
}

fn open_driver(name: &str) -> Result<File, TapError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open("/dev/net/tun", flags, Mode::empty()) {
        Ok(descriptor) => Ok(descriptor.into()),
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => Err(TapError::NoDriver),
        Err(errno) => Err(TapError::of("opening /dev/net/tun for a queue", name, errno)),
    }
}

fn attach(tun: &File, name: &str, flags: u16) -> Result<String, TapError> {
    ioctl::tun_attach(tun, name, flags).map_err(|errno| {
        let taken = |by| TapError::NameTaken { name: name.to_owned(), by };
        match errno {
            Errno::BUSY => taken("another program has this TAP open"),
            // An interface of another kind, a TUN, or a TAP with another number of queues.
            Errno::INVAL => taken("an interface of another kind has it"),
            errno => TapError::of("making", name, errno),
        }
    })
}

#[cfg(test)]
mod tests;
