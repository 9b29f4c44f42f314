//! Frames for the tests of this folder.

use std::net::{SocketAddrV4, SocketAddrV6};

pub(crate) fn udp4(mac: [u8; 6], vlan: Option<u16>, from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut frame = ethernet(mac, vlan, 0x0800);
    frame.extend([0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(from.ip().octets());
    frame.extend(to.ip().octets());
    udp(&mut frame, from.port(), to.port());
    frame
}

pub(crate) fn udp6(mac: [u8; 6], from: SocketAddrV6, to: SocketAddrV6) -> Vec<u8> {
    let mut frame = ethernet(mac, None, 0x86DD);
    frame.extend([0x60, 0, 0, 0, 0, 8, 17, 64]);
    frame.extend(from.ip().octets());
    frame.extend(to.ip().octets());
    udp(&mut frame, from.port(), to.port());
    frame
}

pub(crate) fn ethernet(mac: [u8; 6], vlan: Option<u16>, ethertype: u16) -> Vec<u8> {
    let mut frame = mac.to_vec();
    frame.extend([2, 0, 0, 0, 0, 1]);
    if let Some(vlan) = vlan {
        frame.extend([0x81, 0]);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn udp(frame: &mut Vec<u8>, from: u16, to: u16) {
    frame.extend(from.to_be_bytes());
    frame.extend(to.to_be_bytes());
    frame.extend([0, 8, 0, 0]);
}
