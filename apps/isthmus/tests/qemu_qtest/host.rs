//! What firmware and the Linux driver do with the device, by hand.

use crate::bench::{DEADLINE, Twin};
use crate::qemu::{Memory, Qemu};
use control::PortName;
use ntb_spec::bar0::{self, Reg, offset_of};
use ntb_spec::{LINK_SOURCE, MSIX_VECTORS, bits, config};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

/// Where the device is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Behind a root port, its BARs above 4 GiB.
    RootPort,
    /// Directly on the root complex, its BARs below 4 GiB.
    RootComplex,
}

/// A function's place: bus and device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    bus: u64,
    device: u64,
}

impl Place {
    /// A function directly on the root complex.
    pub(crate) const fn on_root_complex(device: u64) -> Self {
        Self { bus: 0, device }
    }
}

/// Where configuration space is mapped (q35's PCIEXBAR).
const MMCONFIG: u64 = 0xE000_0000;
/// Where a root port is plugged in.
const ROOT_PORT: Place = Place { bus: 0, device: 2 };
/// The memory controller.
const HOST_BRIDGE: Place = Place { bus: 0, device: 0 };

/// Memory at which MSI-X messages arrive: 16 bytes for each vector.
const MESSAGES: u64 = 0x8000;
/// Message data of vector 0, and what a vector adds.
const MESSAGE_DATA: u64 = 0x4E54_4200;

/// The vector on which Linux's driver wants link changes.
pub(crate) const LINK_VECTOR: u8 = 31;
/// Doorbells that drivers use.
pub(crate) const DOORBELLS: u8 = 31;

/// One guest, played by a test.
pub(crate) struct Host {
    pub(crate) qemu: Qemu,
    pub(crate) port: PortName,
    slot: Slot,
    /// Addresses of BAR 0, 2 and 4, once they have been assigned.
    bars: [u64; 3],
    window_bytes: [u64; 2],
}

/// The device as an argument of QEMU.
pub(crate) fn device(socket: &Path, slot: Slot) -> String {
    let mut device =
        json!({"driver": "vfio-user-pci", "id": "ntb", "socket": {"type": "unix", "path": socket}});
    match slot {
        Slot::RootPort => device["bus"] = json!("rp1"),
        Slot::RootComplex => device["addr"] = json!("3"),
    }
    device.to_string()
}

impl Host {
    /// Attaches a QEMU to a port.
    pub(crate) fn start(twin: &Twin, port: PortName, slot: Slot, memory: Memory) -> Self {
        Self::start_with(twin, port, slot, memory, &[])
    }

    /// The same, and to its DMA engine, which is device 4 of the root complex.
    pub(crate) fn start_with_engine(twin: &Twin, port: PortName, slot: Slot, memory: Memory) -> Self {
        let socket = twin.engine_socket(port);
        let engine = json!({
            "driver": "vfio-user-pci", "id": "dma", "addr": "4", "socket": {"type": "unix", "path": socket},
        });
        Self::start_with(twin, port, slot, memory, &["-device", &engine.to_string()])
    }

    fn start_with(twin: &Twin, port: PortName, slot: Slot, memory: Memory, more: &[&str]) -> Self {
        let device = device(&twin.socket(port), slot);
        let arguments = ["-device", "pcie-root-port,id=rp1,addr=2,chassis=1", "-device", &device];
        let arguments: Vec<String> =
            arguments.iter().chain(more).map(|&argument| argument.to_owned()).collect();
        let qemu = Qemu::start(twin.directory(), &port.to_string(), memory, &arguments);
        let mut host = Self { qemu, port, slot, bars: [0; 3], window_bytes: [0; 2] };
        host.map_config_space();
        host
    }

    // --- firmware ---------------------------------------------------------------------------------------------

    fn map_config_space(&mut self) {
        // 256 buses; the register is 64 bits wide, bit 0 enables. Until then the I/O ports are the only way.
        for (offset, value) in [(0x64, 0), (0x60, MMCONFIG + 1)] {
            self.qemu.port_out(0xCF8, 0x8000_0000 | offset);
            self.qemu.port_out(0xCFC, u32::try_from(value).unwrap());
        }
        if self.slot == Slot::RootPort {
            let bus_numbers = 0x01_01_00;
            self.config_write_at(ROOT_PORT, 0x18, 4, bus_numbers);
        }
    }

    pub(crate) fn place(&self) -> Place {
        match self.slot {
            Slot::RootPort => Place { bus: 1, device: 0 },
            Slot::RootComplex => Place { bus: 0, device: 3 },
        }
    }

    pub(crate) fn config_read_at(&mut self, place: Place, offset: u32, bytes: u32) -> u64 {
        self.qemu.load(config_address(place, offset), bytes)
    }

    pub(crate) fn config_write_at(&mut self, place: Place, offset: u32, bytes: u32, value: u64) {
        self.qemu.store(config_address(place, offset), bytes, value);
    }

    pub(crate) fn config_read(&mut self, offset: u32, bytes: u32) -> u64 {
        self.config_read_at(self.place(), offset, bytes)
    }

    pub(crate) fn config_write(&mut self, offset: u32, bytes: u32, value: u64) {
        self.config_write_at(self.place(), offset, bytes, value);
    }

    /// The size of a 64-bit BAR as its address bits tell, and its type bits.
    pub(crate) fn size_bar(&mut self, offset: u32) -> (u64, u64) {
        let before = self.read_bar(offset);
        self.write_bar(offset, u64::MAX);
        let sizing = self.read_bar(offset);
        self.write_bar(offset, before);
        ((sizing & !0xF).wrapping_neg(), sizing & 0xF)
    }

    pub(crate) fn read_bar(&mut self, offset: u32) -> u64 {
        self.config_read(offset, 4) | self.config_read(offset + 4, 4) << 32
    }

    fn write_bar(&mut self, offset: u32, value: u64) {
        self.config_write(offset, 4, value & 0xFFFF_FFFF);
        self.config_write(offset + 4, 4, value >> 32);
    }

    /// Assigns the BARs, largest alignment first, and switches the device on.
    pub(crate) fn assign_bars(&mut self) {
        self.window_bytes = [0x18, 0x20].map(|bar| self.size_bar(bar).0);
        let first: u64 = match self.slot {
            Slot::RootPort => 0x10_0000_0000,
            Slot::RootComplex => 0x8000_0000,
        };
        let second = first + self.window_bytes[0];
        let registers = second + self.window_bytes[1];
        self.bars = [registers, first, second];
        for (offset, address) in (0x10..).step_by(8).zip(self.bars) {
            self.write_bar(offset, address);
        }
        if self.slot == Slot::RootPort {
            // The prefetchable window of the bridge, and no other.
            let last = registers + u64::from(bar0::BYTES) - 1;
            self.config_write_at(ROOT_PORT, 0x20, 4, 0x0000_FFF0);
            let halves = (first >> 16 & 0xFFF0) | 1 | (last & 0xFFF0_0000) | 0x1_0000;
            self.config_write_at(ROOT_PORT, 0x24, 4, halves);
            self.config_write_at(ROOT_PORT, 0x28, 4, first >> 32);
            self.config_write_at(ROOT_PORT, 0x2C, 4, last >> 32);
            self.config_write_at(ROOT_PORT, 0x04, 2, 0x0006);
        }
        self.set_command(config::COMMAND_MEMORY | config::COMMAND_BUS_MASTER);
    }

    pub(crate) fn set_command(&mut self, bits: u16) {
        self.config_write(config::COMMAND, 2, u64::from(bits));
    }

    /// What chipset firmware does to the memory at 0xC0000 to 0xFFFFF: a nibble for each 16 KiB of it (of the last 64 KiB
    /// there is but one): 0 none, 1 to be read only, 3 to be read and written.
    pub(crate) fn shadow(&mut self, registers: [u8; 7]) {
        for (offset, value) in (0x90..).zip(registers) {
            self.config_write_at(HOST_BRIDGE, offset, 1, u64::from(value));
        }
    }

    // --- driver -----------------------------------------------------------------------------------------------

    pub(crate) fn bar(&self, number: u8) -> u64 {
        self.bars[usize::from(number / 2)]
    }

    pub(crate) fn window_bytes(&self, window: usize) -> u64 {
        self.window_bytes[window]
    }

    pub(crate) fn read_at(&mut self, offset: u32, bytes: u32) -> u64 {
        self.qemu.load(self.bar(0) + u64::from(offset), bytes)
    }

    pub(crate) fn write_at(&mut self, offset: u32, bytes: u32, value: u64) {
        self.qemu.store(self.bar(0) + u64::from(offset), bytes, value);
    }

    /// A register in its own width.
    pub(crate) fn read(&mut self, reg: Reg, index: u8) -> u64 {
        self.read_at(offset_of(reg, index), width(reg))
    }

    pub(crate) fn write(&mut self, reg: Reg, index: u8, value: u64) {
        self.write_at(offset_of(reg, index), width(reg), value);
    }

    /// Everything before the link: BARs, MSI-X, masks, vectors. As `intel_ntb_pci_probe` does it.
    pub(crate) fn probe(&mut self) {
        self.assign_bars();
        self.write(Reg::SpciCmd, 0, 0x0006);
        self.write(Reg::IntDisable, 0, 0x7FFF_FFFF);
        for source in 0..=LINK_SOURCE {
            self.write(Reg::IntVec, source, u64::from(source));
        }
        for vector in 0..MSIX_VECTORS {
            self.write_table_entry(vector, false);
        }
        self.clear_messages();
        let control = self.config_read(config::MSIX_CONTROL, 2);
        self.config_write(config::MSIX_CONTROL, 2, control | u64::from(config::MSIX_ENABLE));
        self.write(Reg::IntVec, LINK_SOURCE, u64::from(LINK_VECTOR));
        // ntb_transport and the like unmask the doorbells that they use.
        self.write(Reg::IntDisable, 0, 0);
    }

    fn write_table_entry(&mut self, vector: u16, masked: bool) {
        let at = bar0::MSIX_TABLE + u32::from(vector) * 16;
        let address = MESSAGES + u64::from(vector) * 16;
        self.write_at(at, 4, address);
        self.write_at(at + 4, 4, 0);
        self.write_at(at + 8, 4, MESSAGE_DATA + u64::from(vector));
        self.write_at(at + 12, 4, u64::from(masked));
    }

    /// Masks a vector where MSI-X does, in its table.
    pub(crate) fn mask_vector(&mut self, vector: u8, masked: bool) {
        self.write_at(bar0::MSIX_TABLE + u32::from(vector) * 16 + 12, 4, u64::from(masked));
    }

    /// `intel_ntb3_mw_set_trans`, with its checks that everything reads back.
    pub(crate) fn set_translation(&mut self, window: usize, address: u64, bytes: u64) {
        let (translation, limit, external_limit, external_base) = match window {
            0 => (Reg::ImBar1Xbase, Reg::ImBar1Xlmt, Reg::EmBar1Xlmt, Reg::EmBar1),
            _ => (Reg::ImBar2Xbase, Reg::ImBar2Xlmt, Reg::EmBar2Xlmt, Reg::EmBar2),
        };
        let own = self.bars[window + 1];
        let external = self.read(external_base, 0) & !0xF;
        let steps = [(translation, address), (limit, own + bytes), (external_limit, external + bytes)];
        for (reg, value) in steps {
            self.write(reg, 0, value);
            assert_eq!(self.read(reg, 0), value, "{reg:?} of port {} must read back", self.port);
        }
    }

    /// Opens both windows in full, to memory that nothing else uses: 0 from 1 MiB on, 1 behind it.
    pub(crate) fn open_windows(&mut self) {
        for window in 0..2 {
            let bytes = self.window_bytes[window];
            self.set_translation(window, self.buffer(window), bytes);
        }
    }

    /// Where [`open_windows`](Self::open_windows) lets the peer store.
    pub(crate) fn buffer(&self, window: usize) -> u64 {
        let first: u64 = 1 << 20;
        if window == 0 {
            first.max(self.window_bytes[0])
        } else {
            first.max(self.window_bytes[0]) + self.window_bytes[0]
        }
    }

    /// `gen3_ntb_link_enable`.
    pub(crate) fn enable_link(&mut self) {
        let control = self.read(Reg::Control, 0);
        self.write(Reg::Control, 0, control & !0x3 | 0x154);
    }

    /// `intel_ntb_link_disable`.
    pub(crate) fn disable_link(&mut self) {
        let control = self.read(Reg::Control, 0);
        self.write(Reg::Control, 0, control & !0x154 | 0x3);
    }

    /// LINK_STATUS as the driver reads it.
    pub(crate) fn link_status(&mut self) -> u64 {
        self.config_read(config::LINK_STATUS, 2)
    }

    /// Polls LINK_STATUS.
    pub(crate) fn wait_for_link(&mut self, up: bool) {
        let status = if up { bits::LinkStatus::UP } else { bits::LinkStatus::DOWN };
        self.wait_until(&format!("LINK_STATUS is {status:?}"), |host| {
            host.link_status() == u64::from(status.into_bits())
        });
    }

    /// What the interrupt handler writes for a link event.
    pub(crate) fn acknowledge_link(&mut self) {
        self.clear_status(0x1_8000_0000);
    }

    /// Clears latched sources. When this returns the peer may ring again: its doorbell finds the bit clear.
    pub(crate) fn clear_status(&mut self, sources: u64) {
        self.write(Reg::IntStatus, 0, sources);
        self.flush();
    }

    pub(crate) fn ring(&mut self, doorbell: u8) {
        self.write(Reg::Doorbell, doorbell, 1);
    }

    /// Waits until the twin has seen everything that this host stored: a load is answered after them.
    pub(crate) fn flush(&mut self) {
        self.read(Reg::Control, 0);
    }

    // --- interrupts -------------------------------------------------------------------------------------------

    /// Forgets which messages have arrived.
    pub(crate) fn clear_messages(&mut self) {
        self.qemu.fill(MESSAGES, u64::from(MSIX_VECTORS) * 16, 0);
    }

    /// The vectors whose messages have arrived in memory.
    pub(crate) fn messages(&mut self) -> Vec<u8> {
        let memory = self.qemu.load_bytes(MESSAGES, usize::from(MSIX_VECTORS) * 16);
        let mut vectors = Vec::new();
        for (vector, cell) in (0..).zip(memory.chunks(16)) {
            let data = u32::from_le_bytes(cell[..4].try_into().unwrap());
            if data != 0 {
                assert_eq!(u64::from(data), MESSAGE_DATA + u64::from(vector), "message of vector {vector}");
                vectors.push(vector);
            }
        }
        vectors
    }

    pub(crate) fn wait_for_vector(&mut self, vector: u8) {
        self.wait_until(&format!("a message of vector {vector}"), |host| host.messages().contains(&vector));
    }

    /// Waits for one message and for nothing else, and forgets it.
    pub(crate) fn expect_only(&mut self, vector: u8) {
        self.wait_for_vector(vector);
        self.qemu.settle();
        assert_eq!(self.messages(), [vector], "vectors at port {}", self.port);
        self.clear_messages();
    }

    /// No message has arrived, though everything that could send one is done.
    pub(crate) fn expect_silence(&mut self) {
        self.flush();
        self.qemu.settle();
        assert_eq!(self.messages(), [0; 0], "vectors at port {}", self.port);
    }

    /// Asks until something is so.
    pub(crate) fn wait_until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        while !so(self) {
            assert!(begun.elapsed() < DEADLINE, "port {}: not within {DEADLINE:?}: {what}", self.port);
        }
    }

    // --- resets -----------------------------------------------------------------------------------------------

    /// The reset button, and what firmware does after it before any driver.
    pub(crate) fn reset(&mut self) {
        self.qemu.qmp("system_reset", json!({}));
        self.qemu.wait_for_event("RESET");
        self.map_config_space();
    }
}

fn config_address(place: Place, offset: u32) -> u64 {
    MMCONFIG + (place.bus << 20) + (place.device << 15) + u64::from(offset)
}

/// Width of a register in bytes.
fn width(reg: Reg) -> u32 {
    let row = bar0::TABLE.iter().find(|row| row.reg == reg).unwrap();
    u32::from(row.bytes)
}
