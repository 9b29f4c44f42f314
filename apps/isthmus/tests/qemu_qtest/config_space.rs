//! Configuration space and BARs as a host finds them.

use crate::bench::{Pair, Twin};
use crate::host::{Host, Slot};
use crate::qemu::{Memory, there_is_a_qemu};
use control::PortName;
use ntb_spec::config;

/// PCI capability numbers.
const MSIX: u64 = 0x11;
const PCIE: u64 = 0x10;
const POWER: u64 = 0x01;

/// The chain of capabilities: number and offset of each.
fn capabilities(host: &mut Host) -> Vec<(u64, u32)> {
    let mut found = Vec::new();
    let mut at = host.config_read(0x34, 1);
    while at != 0 && found.len() < 48 {
        let offset = u32::try_from(at).unwrap();
        found.push((host.config_read(offset, 1), offset));
        at = host.config_read(offset + 1, 1);
    }
    found
}

/// The same in extended space.
fn extended_capabilities(host: &mut Host) -> Vec<(u64, u32)> {
    let mut found = Vec::new();
    let mut at = 0x100;
    while at != 0 && found.len() < 48 {
        let head = host.config_read(at, 4);
        found.push((head & 0xFFFF, at));
        at = u32::try_from(head >> 20).unwrap();
    }
    found
}

#[test]
fn qemu_shows_the_whole_configuration_space() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::start(&[]);
    for (host, ppd, behind_a_bridge) in [(&mut pair.a, 0x01, true), (&mut pair.b, 0x11, false)] {
        assert_eq!(host.config_read(0x00, 4), 0x201C_8086, "ids");
        assert_eq!(host.config_read(0x00, 2), 0x8086);
        assert_eq!(host.config_read(0x02, 2), 0x201C);
        assert_eq!(host.config_read(0x08, 4) >> 8, 0x06_8000, "class");
        assert_eq!(host.config_read(0x0B, 1), 0x06);
        assert_eq!(host.config_read(0x0E, 1), 0, "header type");
        assert_eq!(host.config_read(0x2C, 2), 0x8086, "subsystem vendor");
        assert_eq!(host.config_read(0x30, 4), 0, "no ROM");
        assert_eq!(host.config_read(0x3D, 1), 0, "no INTx");
        assert_eq!(host.config_read(0x06, 2) & 0x10, 0x10, "there are capabilities");

        let offset = |wanted: u64, list: &[(u64, u32)]| list.iter().find(|(id, _)| *id == wanted).unwrap().1;
        let chain = capabilities(host);
        assert_eq!(chain.len(), 3, "{chain:x?}");
        let msix = offset(MSIX, &chain);
        assert_eq!(host.config_read(msix + 2, 2), 32, "33 vectors, off");
        assert_eq!(host.config_read(msix + 4, 4), 0x2000, "the table is in BAR 0");
        assert_eq!(host.config_read(msix + 8, 4), 0x3000, "the pending bits are in BAR 0");
        let pcie = offset(PCIE, &chain);
        assert_eq!(pcie, config::PCIE, "Linux reads device status at 0x9A");
        let kind = host.config_read(pcie + 2, 2);
        assert_eq!(kind & 0xF, 2, "version");
        assert_eq!(
            kind >> 4 & 0xF,
            if behind_a_bridge { 0 } else { 9 },
            "endpoint, or integrated in the root complex"
        );
        let power = offset(POWER, &chain);
        assert_eq!(host.config_read(power + 4, 2) & 0x3, 0, "D0");

        let chain = extended_capabilities(host);
        assert_eq!(
            chain,
            [(0x0B, 0x100), (0x01, 0x148)],
            "vendor-specific, AER where Linux reads its status"
        );
        assert_eq!(host.config_read(0x14C, 4), 0);
        assert_eq!(host.config_read(0x158, 4), 0);

        assert_eq!(host.config_read(config::PPD, 1), ppd);
        assert_eq!(host.config_read(config::WINDOW_SIZES, 4), 0x1414_1414, "log2 of 1 MiB, four times");
        assert_eq!(host.config_read(config::LINK_STATUS, 2), 0x0103, "Gen3 x16, down");
        assert_eq!(host.config_read(0xFFC, 4), 0, "the end of extended space");

        // What is read-only stays as it is, in every width.
        for (bytes, value) in [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFF_FFFF)] {
            host.config_write(config::PPD & !3, bytes, value);
            host.config_write(config::LINK_STATUS & !(bytes - 1), bytes, value);
            host.config_write(0x00, bytes, value);
            host.config_write(0x30, bytes, value);
        }
        assert_eq!(host.config_read(0x00, 4), 0x201C_8086);
        assert_eq!(host.config_read(0x30, 4), 0);
        assert_eq!(host.config_read(config::PPD, 1), ppd);
        assert_eq!(host.config_read(config::LINK_STATUS, 2), 0x0103);
    }
    // Firmware reads by the old I/O ports.
    pair.b.qemu.port_out(0xCF8, 0x8000_1800);
    assert_eq!(pair.b.qemu.port_in(0xCFC), 0x201C_8086);
    for port in pair.twin.status().ports {
        assert_eq!(port.refused_messages, 0, "port {}", port.port);
        assert!(port.mapped_bytes > 62 << 20, "port {}: {} bytes", port.port, port.mapped_bytes);
        // The firmware's ROM has no file that could be handed over.
        assert!(port.unreachable_bytes <= 1 << 20, "port {}: {} bytes", port.port, port.unreachable_bytes);
    }
    pair.finish();
}

/// A host alone at port a; what QEMU says of its memory map.
fn alone(window: &str, slot: Slot, bytes: u64) {
    let mut twin = Twin::start(&["--mw-size", window]);
    let mut host = Host::start(&twin, PortName::A, slot, Memory::OneFile);
    for (offset, expected) in [(0x10, 0x1_0000), (0x18, bytes), (0x20, bytes)] {
        let (size, kind) = host.size_bar(offset);
        assert_eq!((size, kind), (expected, 0xC), "BAR at {offset:#x}: 64-bit, prefetchable");
    }
    let log2 = u64::from(bytes.trailing_zeros());
    assert_eq!(host.config_read(config::WINDOW_SIZES, 4), log2 * 0x0101_0101);
    host.assign_bars();
    for (number, offset) in [(0, 0x10), (2, 0x18), (4, 0x20)] {
        assert_eq!(host.read_bar(offset), host.bar(number) | 0xC, "BAR {number} reads back");
    }
    // Every access to a window must be a message: QEMU has it as I/O, not as memory of its own.
    let map = host.qemu.monitor("info mtree -f");
    for number in [2, 4] {
        let (first, last) = (host.bar(number), host.bar(number) + bytes - 1);
        let range = format!("{first:016x}-{last:016x} (prio");
        let line = map.lines().find(|line| line.contains(&range));
        let line = line.unwrap_or_else(|| panic!("BAR {number} is not at {range}:\n{map}"));
        assert!(line.contains(", i/o)"), "{line}");
    }
    // The registers are there, at the first byte and at the last; behind the MSI-X table too.
    assert_eq!(host.read_at(0x0000, 4), 0x3);
    assert_eq!(host.read_at(0xFFFC, 4), 0xFFFF_FFFF);
    assert_eq!(host.read_at(0x4518, 8), 0x2000_0000_0000_000C);
    // Without memory decode they are not: QEMU answers itself.
    host.set_command(0);
    assert_ne!(host.read_at(0x0000, 4), 0x3);
    assert_eq!(twin.port(PortName::A).bad_accesses, 1, "the read at 0xFFFC");
    host.set_command(config::COMMAND_MEMORY);
    assert_eq!(host.read_at(0x0000, 4), 0x3);
    host.qemu.quit();
    twin.finish(&[]);
}

#[test]
fn qemu_sizes_and_places_bars_of_64_kib() {
    if there_is_a_qemu() {
        alone("64K", Slot::RootComplex, 64 << 10);
    }
}

#[test]
fn qemu_sizes_and_places_bars_of_4_mib() {
    if there_is_a_qemu() {
        alone("4M", Slot::RootPort, 4 << 20);
    }
}

#[test]
fn qemu_sizes_and_places_bars_of_512_mib() {
    if there_is_a_qemu() {
        alone("512M", Slot::RootComplex, 512 << 20);
    }
}
