//! The DMA engine beside the NTB in the same QEMU: by hand what Linux's ioatdma and a client of it do.

use crate::bench::{BOTH, Pair, Twin};
use crate::host::{Host, Place};
use crate::qemu::{RAM_BYTES, there_is_a_qemu};
use control::{EngineStatus, PortName};
use ntb_spec::bar0::{Reg, offset_of};
use ntb_spec::config;
use ntb_spec::ioat::{self, Channel, Control, Descriptor, channel_offset};

/// Where QEMU has the engine, and where the test puts its BAR.
const PLACE: Place = Place::on_root_complex(4);
const BAR: u64 = 0xA000_0000;
/// Where its messages arrive, its completions, and its descriptors: low memory that nothing else here uses.
const MESSAGES: u64 = 0x9000;
const COMPLETION: u64 = 0xA000;
const RING: u64 = 0xB000;
/// Bytes to copy from.
const SOURCE: u64 = 48 << 20;
const MESSAGE_DATA: u64 = 0x444D_4100;

const DONE: u64 = 1;
const HALTED: u64 = 3;

fn pattern(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((at * 11 + at / 249) % 251).unwrap() ^ seed).collect()
}

impl Host {
    fn engine_register(channel: u8, reg: Channel) -> u64 {
        BAR + u64::from(ioat::block(channel) + channel_offset(reg))
    }

    /// BAR, MSI-X, interrupts, channel 0: `ioat_probe`, `ioat_alloc_chan_resources`.
    fn probe_engine(&mut self) {
        for (offset, value) in [(config::BAR, BAR), (config::BAR + 4, 0), (config::COMMAND, 0x0406)] {
            self.config_write_at(PLACE, offset, if offset == config::COMMAND { 2 } else { 4 }, value);
        }
        for vector in 0..u64::from(ioat::MSIX_VECTORS) {
            let entry = BAR + u64::from(ioat::MSIX_TABLE) + 16 * vector;
            for (at, value) in [(0, MESSAGES + 16 * vector), (4, 0), (8, MESSAGE_DATA + vector), (12, 0)] {
                self.qemu.store(entry + at, 4, value);
            }
        }
        self.qemu.fill(MESSAGES, 64, 0);
        self.config_write_at(PLACE, config::MSIX_CONTROL, 2, u64::from(config::MSIX_ENABLE) | 3);
        self.qemu.store(BAR + 3, 1, 0x09);
        self.qemu.store(Self::engine_register(0, Channel::Control), 2, u64::from(ioat::CONTROL_RUN));
        // By halves, as Linux writes it.
        let completion = Self::engine_register(0, Channel::CompletionAddress);
        self.qemu.store(completion, 4, COMPLETION);
        self.qemu.store(completion + 4, 4, 0);
    }

    fn begin_copy(&mut self, source: u64, destination: u64, size: u32) {
        let control = Control::new().with_interrupt(true).with_completion_write(true);
        let descriptor = Descriptor { size, control, source, destination, next: RING };
        self.qemu.store_bytes(RING, &descriptor.to_bytes());
        self.qemu.store(COMPLETION, 8, 0);
        let chain = Self::engine_register(0, Channel::ChainAddress);
        self.qemu.store(chain, 4, RING);
        self.qemu.store(chain + 4, 4, 0);
        self.qemu.store(Self::engine_register(0, Channel::Count), 2, 1);
    }

    /// Waits for the message of channel 0 and re-arms it; the completion that it found.
    fn await_copy(&mut self) -> u64 {
        self.wait_until("the engine's message", |host| host.qemu.load(MESSAGES, 4) == MESSAGE_DATA);
        self.qemu.fill(MESSAGES, 64, 0);
        self.qemu.store(Self::engine_register(0, Channel::Control), 2, u64::from(ioat::CONTROL_RUN));
        let completion = self.qemu.load(COMPLETION, 8);
        assert_eq!(self.qemu.load(Self::engine_register(0, Channel::Status), 8), completion);
        completion
    }

    fn copy(&mut self, source: u64, destination: u64, size: u32) {
        self.begin_copy(source, destination, size);
        assert_eq!(self.await_copy(), RING | DONE);
    }

    fn engine_error(&mut self) -> u64 {
        self.qemu.load(Self::engine_register(0, Channel::Error), 4)
    }
}

fn status(twin: &mut Twin, port: PortName) -> EngineStatus {
    twin.port(port).engine.unwrap()
}

#[test]
fn qemu_a_copy_by_the_engine_arrives_in_the_memory_of_the_other_host() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::up_with_engines(&["--window", "dma"]);
    for port in BOTH {
        let (from, to, twin) = pair.direction(port);
        assert_eq!(from.config_read_at(PLACE, 0, 4), 0x2021_8086);
        from.probe_engine();
        assert_eq!(from.qemu.load(BAR, 1), 4, "channels");
        // The driver's own test: 2000 bytes within its memory.
        let data = pattern(0x4_B000, u8::from(port == PortName::A));
        from.qemu.store_bytes(SOURCE, &data);
        from.copy(SOURCE, SOURCE + 0x10_0000, 2000);
        assert!(from.qemu.load_bytes(SOURCE + 0x10_0000, 2000) == data[..2000]);
        // 300 KiB through window 0, and back through it.
        let (out, landing, bytes) = (from.bar(2), to.buffer(0), u32::try_from(data.len()).unwrap());
        from.copy(SOURCE, out + 0x123, bytes);
        assert!(to.qemu.load_bytes(landing + 0x123, data.len()) == data, "changed on its way");
        from.copy(out + 0x123, SOURCE + 0x20_0000, bytes);
        assert!(from.qemu.load_bytes(SOURCE + 0x20_0000, data.len()) == data, "changed on its way back");
        // Across the border between the files of which one host's memory is made.
        let border = RAM_BYTES / 2;
        from.copy(SOURCE, border - 0x1003, 0x2006);
        assert!(from.qemu.load_bytes(border - 0x1003, 0x2006) == data[..0x2006]);
        // A doorbell: one word to its register, and the other host has its message.
        to.clear_messages();
        from.qemu.store(SOURCE, 4, 1);
        let doorbell = from.bar(0) + u64::from(offset_of(Reg::Doorbell, 7));
        from.copy(SOURCE, doorbell, 4);
        to.expect_only(7);
        to.clear_status(1 << 7);
        let seen = status(twin, port);
        assert_eq!((seen.descriptors, seen.faults, seen.drops), (5, 0, 0));
        assert_eq!(twin.window(port, 0).stores, 0, "no store came as a message");
        assert_eq!(seen.attached.then_some(seen.pid), Some(twin.port(port).pid), "one QEMU has both");
    }
    pair.finish();
}

#[test]
fn qemu_and_the_twin_survive_what_an_engine_is_told_and_what_happens_around_it() {
    if !there_is_a_qemu() {
        return;
    }
    let mut pair = Pair::up_with_engines(&[]);
    let Pair { a, b, twin, .. } = &mut pair;
    a.probe_engine();
    for (source, destination, error) in [
        (0xFEDC_0000_0000, SOURCE, 0x100),
        (SOURCE, RAM_BYTES - 32, 0x200),
        (SOURCE, BAR, 0x200),
        (u64::MAX - 8, SOURCE, 0x100),
    ] {
        a.begin_copy(source, destination, 64);
        assert_eq!((a.await_copy(), a.engine_error()), (HALTED, error));
        a.qemu.store(Host::engine_register(0, Channel::Error), 4, error);
        a.qemu.store(Host::engine_register(0, Channel::Command), 1, u64::from(ioat::COMMAND_RESET));
        a.wait_until("the channel's reset", |host| {
            host.qemu.load(Host::engine_register(0, Channel::Command), 1) == 0
        });
        a.probe_engine();
    }
    // A reset of the whole machine with a megabyte under way.
    let out = a.bar(2);
    a.begin_copy(SOURCE, out, 1 << 20);
    a.reset();
    assert_eq!(a.qemu.load(RING, 4), 1 << 20, "the machine's memory is there");
    assert!(status(twin, PortName::A).resets > 0);
    a.probe();
    a.open_windows();
    a.enable_link();
    for host in [&mut *a, &mut *b] {
        host.wait_for_link(true);
    }
    a.probe_engine();
    let out = a.bar(2);
    a.copy(SOURCE, out, 1 << 20);
    // The peer dies with a copy under way: what is left of it goes nowhere, and the descriptor completes.
    a.begin_copy(SOURCE, out, 1 << 20);
    b.qemu.kill();
    assert_eq!(a.await_copy(), RING | DONE);
    twin.wait_for_detach(PortName::B);
    let before = status(twin, PortName::A).dropped_bytes;
    a.copy(SOURCE, out, 1 << 20);
    assert_eq!(status(twin, PortName::A).dropped_bytes, before + (1 << 20));
    a.copy(out, SOURCE, 64);
    assert_eq!(a.qemu.load_bytes(SOURCE, 64), [0xFF; 64]);
    a.qemu.quit();
    twin.finish(&[]);
}

#[test]
fn qemu_needs_no_engine_and_the_twin_says_what_a_mode_needs() {
    if !there_is_a_qemu() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (exit, said) = crate::bench::refused_twin(directory.path(), &["--window", "a:1=dma"]);
    assert_eq!(exit.code(), Some(2), "{said}");
    assert!(said.contains("port a has not") && said.contains("--dma-a PATH"), "{said}");
    let pair = Pair::up_with_engines(&["--window", "trap,trap,b:1=dma"]);
    pair.finish();
}
