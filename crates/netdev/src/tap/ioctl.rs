//! The ioctls of TUN/TAP (`include/uapi/linux/if_tun.h`) and of interfaces (`netdevice(7)`), as functions that are safe to call.
//!
//! This is the crate's one file with unsafe code. Three shapes of argument occur: an `ifreq`, a pointer to an `int`, and
//! a number in the place of a pointer. Each has one function here whose opcode decides the call, and the opcodes that
//! may be used with it stand beside it: none of them lets the kernel write past the argument, or keep its address.

use rustix::io::Result;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};
use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;

/// The longest name of an interface, without its closing zero (`IFNAMSIZ - 1`).
pub(crate) const NAME_BYTES: usize = 15;

/// Flags of [`tun_attach`].
pub(crate) const IFF_TAP: u16 = 0x0002;
/// Frames without the four bytes of packet information.
pub(crate) const IFF_NO_PI: u16 = 0x1000;
/// A virtio header stands before each frame.
pub(crate) const IFF_VNET_HDR: u16 = 0x4000;
/// Several descriptors share one device.
pub(crate) const IFF_MULTI_QUEUE: u16 = 0x0100;

/// What the reader of a TAP can finish itself: frames without a checksum come.
pub(crate) const TUN_F_CSUM: u32 = 0x01;
/// TCP over IPv4 comes unsegmented.
pub(crate) const TUN_F_TSO4: u32 = 0x02;
/// TCP over IPv6 comes unsegmented.
pub(crate) const TUN_F_TSO6: u32 = 0x04;
/// UDP over IPv4 comes unsegmented (Linux 6.2).
pub(crate) const TUN_F_USO4: u32 = 0x20;
/// UDP over IPv6 comes unsegmented (Linux 6.2).
pub(crate) const TUN_F_USO6: u32 = 0x40;

/// The interface is up (`IFF_UP`).
pub(crate) const IFF_UP: u16 = 0x0001;

const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNGETFEATURES: Opcode = opcode::read::<u32>(b'T', 207);
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<i32>(b'T', 216);
const TUNSETVNETLE: Opcode = opcode::write::<i32>(b'T', 220);
const TUNSETCARRIER: Opcode = opcode::write::<i32>(b'T', 226);

const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFADDR: Opcode = 0x8916;
const SIOCSIFNETMASK: Opcode = 0x891c;
const SIOCGIFMTU: Opcode = 0x8921;
const SIOCSIFMTU: Opcode = 0x8922;
const SIOCSIFHWADDR: Opcode = 0x8924;
const SIOCGIFHWADDR: Opcode = 0x8927;
const SIOCSIFTXQLEN: Opcode = 0x8943;

/// The family of an address that is an Ethernet address (`ARPHRD_ETHER`).
const ARPHRD_ETHER: u16 = 1;
/// The family of an IPv4 address (`AF_INET`).
const AF_INET: u16 = 2;

/// `struct ifreq`: the name of an interface, and a union that the opcode gives its meaning.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
struct InterfaceRequest {
    name: [u8; 16],
    union: [u8; 24],
}

impl InterfaceRequest {
    /// The kernel takes the first 15 bytes of a name; the callers have checked that there are no more.
    fn new(name: &str) -> Self {
        let mut request = Self { name: [0; 16], union: [0; 24] };
        for (to, from) in request.name.iter_mut().take(NAME_BYTES).zip(name.bytes()) {
            *to = from;
        }
        request
    }

    fn with(name: &str, start: &[u8]) -> Self {
        let mut request = Self::new(name);
        for (to, from) in request.union.iter_mut().zip(start) {
            *to = *from;
        }
        request
    }

    fn word(&self) -> u16 {
        let [low, high, ..] = self.union;
        u16::from_ne_bytes([low, high])
    }

    fn long(&self) -> u32 {
        let [a, b, c, d, ..] = self.union;
        u32::from_ne_bytes([a, b, c, d])
    }
}

/// Calls with an `ifreq`. Private, and only with the opcodes above that take one.
fn with_request<const OPCODE: Opcode>(descriptor: impl AsFd, request: &mut InterfaceRequest) -> Result<()> {
    // SAFETY: every opcode that this function is given takes a pointer to `struct ifreq`, which is 40 bytes as
    // `InterfaceRequest` is, all of them plain; the kernel reads and writes those alone and keeps no address.
    let update = unsafe { Updater::<OPCODE, InterfaceRequest>::new(request) };
    // SAFETY: as above.
    unsafe { ioctl(descriptor, update) }
}

/// Calls with a pointer to an `int` that the kernel reads.
fn with_int<const OPCODE: Opcode>(tun: impl AsFd, value: i32) -> Result<()> {
    // SAFETY: every opcode that this function is given takes a pointer to an `int` and only reads it.
    let set = unsafe { Setter::<OPCODE, i32>::new(value) };
    // SAFETY: as above.
    unsafe { ioctl(tun, set) }
}

/// What this kernel's TUN driver can do: flags as in [`tun_attach`].
pub(crate) fn tun_features(tun: &File) -> Result<u32> {
    let mut features = 0_u32;
    // SAFETY: TUNGETFEATURES takes a pointer to an unsigned `int` and writes it.
    let get = unsafe { Updater::<TUNGETFEATURES, u32>::new(&mut features) };
    // SAFETY: as above.
    unsafe { ioctl(tun, get) }?;
    Ok(features)
}

/// Makes the device, or attaches to it where it is there (TUNSETIFF). The name may be a pattern such as `ntb%d`: the
/// kernel's choice is returned.
pub(crate) fn tun_attach(tun: &File, name: &str, flags: u16) -> Result<String> {
    let mut request = InterfaceRequest::with(name, &flags.to_ne_bytes());
    with_request::<TUNSETIFF>(tun, &mut request)?;
    let name: Vec<u8> = request.name.iter().copied().take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// What the kernel may leave undone in frames that it sends. A state of the device, not of the descriptor.
pub(crate) fn tun_set_offload(tun: &File, offload: u32) -> Result<()> {
    let value = usize::try_from(offload).unwrap_or_default();
    // SAFETY: TUNSETOFFLOAD takes its argument as a number in the place of the pointer.
    let set = unsafe { IntegerSetter::<TUNSETOFFLOAD>::new_usize(value) };
    // SAFETY: as above.
    unsafe { ioctl(tun, set) }
}

/// How many bytes stand before each frame.
pub(crate) fn tun_set_vnet_header_bytes(tun: &File, bytes: i32) -> Result<()> {
    with_int::<TUNSETVNETHDRSZ>(tun, bytes)
}

/// The numbers in the virtio header are little-endian, whatever the machine.
pub(crate) fn tun_set_vnet_little_endian(tun: &File) -> Result<()> {
    with_int::<TUNSETVNETLE>(tun, 1)
}

/// Carrier on or off (Linux 5.0).
pub(crate) fn tun_set_carrier(tun: &File, on: bool) -> Result<()> {
    with_int::<TUNSETCARRIER>(tun, i32::from(on))
}

/// The flags of an interface.
pub(crate) fn flags(socket: &UdpSocket, name: &str) -> Result<u16> {
    let mut request = InterfaceRequest::new(name);
    with_request::<SIOCGIFFLAGS>(socket, &mut request)?;
    Ok(request.word())
}

/// Sets the flags of an interface.
pub(crate) fn set_flags(socket: &UdpSocket, name: &str, flags: u16) -> Result<()> {
    with_request::<SIOCSIFFLAGS>(socket, &mut InterfaceRequest::with(name, &flags.to_ne_bytes()))
}

/// The MTU of an interface, in bytes.
pub(crate) fn mtu(socket: &UdpSocket, name: &str) -> Result<u32> {
    let mut request = InterfaceRequest::new(name);
    with_request::<SIOCGIFMTU>(socket, &mut request)?;
    Ok(request.long())
}

/// Sets the MTU of an interface, in bytes.
pub(crate) fn set_mtu(socket: &UdpSocket, name: &str, bytes: u32) -> Result<()> {
    with_request::<SIOCSIFMTU>(socket, &mut InterfaceRequest::with(name, &bytes.to_ne_bytes()))
}

/// How many frames wait for a reader of the TAP before the kernel drops one.
pub(crate) fn set_queue_length(socket: &UdpSocket, name: &str, frames: u32) -> Result<()> {
    with_request::<SIOCSIFTXQLEN>(socket, &mut InterfaceRequest::with(name, &frames.to_ne_bytes()))
}

/// The Ethernet address of an interface.
pub(crate) fn hardware_address(socket: &UdpSocket, name: &str) -> Result<[u8; 6]> {
    let mut request = InterfaceRequest::new(name);
    with_request::<SIOCGIFHWADDR>(socket, &mut request)?;
    let [_, _, a, b, c, d, e, f, ..] = request.union;
    Ok([a, b, c, d, e, f])
}

/// Sets the Ethernet address of an interface.
pub(crate) fn set_hardware_address(socket: &UdpSocket, name: &str, address: [u8; 6]) -> Result<()> {
    let mut start = [0; 8];
    let (family, bytes) = start.split_at_mut(2);
    family.copy_from_slice(&ARPHRD_ETHER.to_ne_bytes());
    bytes.copy_from_slice(&address);
    with_request::<SIOCSIFHWADDR>(socket, &mut InterfaceRequest::with(name, &start))
}

/// Gives an interface its IPv4 address.
pub(crate) fn set_address(socket: &UdpSocket, name: &str, address: Ipv4Addr) -> Result<()> {
    with_request::<SIOCSIFADDR>(socket, &mut InterfaceRequest::with(name, &socket_address(address)))
}

/// Gives an interface the mask of its IPv4 network.
pub(crate) fn set_netmask(socket: &UdpSocket, name: &str, mask: Ipv4Addr) -> Result<()> {
    with_request::<SIOCSIFNETMASK>(socket, &mut InterfaceRequest::with(name, &socket_address(mask)))
}

/// The start of a `sockaddr_in`: family, port 0, address.
fn socket_address(address: Ipv4Addr) -> [u8; 8] {
    let mut start = [0; 8];
    let (family, rest) = start.split_at_mut(2);
    family.copy_from_slice(&AF_INET.to_ne_bytes());
    let (_port, bytes) = rest.split_at_mut(2);
    bytes.copy_from_slice(&address.octets());
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_request_is_laid_out_as_the_kernel_reads_it() {
        assert_eq!(size_of::<InterfaceRequest>(), 40);
        let request = InterfaceRequest::with("ntb0", &1500_u32.to_ne_bytes());
        assert_eq!(request.name.get(..5), Some(&b"ntb0\0"[..]));
        assert_eq!(request.long(), 1500);
        let long = InterfaceRequest::new("a-name-that-is-much-too-long");
        assert_eq!(long.name.last(), Some(&0), "always closed by a zero");
    }

    #[test]
    fn the_opcodes_are_those_of_the_kernels_headers() {
        assert_eq!(
            [TUNSETIFF, TUNGETFEATURES, TUNSETOFFLOAD, TUNSETVNETHDRSZ, TUNSETVNETLE, TUNSETCARRIER],
            [0x4004_54ca, 0x8004_54cf, 0x4004_54d0, 0x4004_54d8, 0x4004_54dc, 0x4004_54e2]
        );
    }

    #[test]
    fn an_address_is_a_sockaddr_in() {
        let [f0, f1, port @ .., a, b, c, d] = socket_address(Ipv4Addr::new(10, 9, 0, 1));
        assert_eq!(u16::from_ne_bytes([f0, f1]), 2);
        assert_eq!((port, [a, b, c, d]), ([0, 0], [10, 9, 0, 1]));
    }
}
