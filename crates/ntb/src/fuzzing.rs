//! What the fuzz target `driver` runs: the driver on a device that answers anything, at any time.
//!
//! An input is a byte of honesty (one answer in 1 to 4 is true, so that the driver comes further), the length of a tape and the tape,
//! and then records of 9 bytes: what is done to the bridge, and a number for it. The device answers from the tape, again and
//! again. The driver may do anything but panic, or wait for longer than it was told: the fuzzer's own time-out is for that.

use crate::{
    BarIndex, BarMapping, Bridge, DeviceAddress, DmaMemory, FunctionError, Gen3, Inbound, Mapped, Memory,
    MessageQueue, Outbound, PciFunction, Registrar, Speed, StoreOrder, Width, Window,
};
use ntb_spec::{bar0, config, messages};
use shm::{Access, Mapping, SharedFile};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a bridge is opened on a device, since it often refuses.
const OPENINGS: usize = 4;
/// Records that are run, so that an input ends soon.
const RECORDS: usize = 60;
const RECORD_BYTES: usize = 9;

/// Runs one input.
pub fn run(input: &[u8]) {
    let [honesty, tape_bytes, rest @ ..] = input else { return };
    let (tape, script) = rest.split_at(usize::from(*tape_bytes).min(rest.len()));
    let device = Arc::new(Hostile::new(tape.to_vec(), honesty & 3, false));
    let (records, _) = script.as_chunks::<RECORD_BYTES>();
    for _ in 0..OPENINGS {
        let Ok(bridge) = Gen3::open(Arc::clone(&device) as Arc<dyn PciFunction>) else { continue };
        let bridge: Arc<dyn Bridge> = Arc::new(bridge);
        let mut held = Held::default();
        for [what, number @ ..] in records.iter().take(RECORDS) {
            held.act(&bridge, *what, u64::from_le_bytes(*number));
        }
    }
}

/// Whatever came of it.
pub(crate) fn tried<T>(_outcome: T) {}

/// Windows that a script has opened.
#[derive(Debug, Default)]
pub(crate) struct Held {
    outbound: Vec<Outbound>,
    inbound: Vec<Inbound>,
}

impl Held {
    /// Does one thing to a bridge; whatever comes of it is fine, as long as something does.
    pub(crate) fn act(&mut self, bridge: &Arc<dyn Bridge>, what: u8, number: u64) {
        let [low, ..] = number.to_le_bytes();
        let small = low & 0x3F;
        let window = usize::from(small % 3);
        let at = usize::try_from(number & 0x1FFF).unwrap_or_default();
        let brief = Duration::from_micros(number & 0x3FF);
        match what % 20 {
            0 => tried(bridge.link()),
            1 => tried(bridge.link_enable(Speed::Auto, Width::Lanes(small))),
            2 => tried(bridge.link_disable()),
            3 => tried(bridge.wait_for_link(number & 1 == 0, brief)),
            4 => tried(bridge.set_translation(window, DeviceAddress(number), number >> 7)),
            5 => tried(bridge.clear_translation(window)),
            6 => self.outbound.extend(bridge.outbound(window)),
            7 => self.inbound.extend(bridge.inbound(window, number & 0xFFFF)),
            8 => tried(bridge.outbound_address(window)),
            9 => tried((bridge.doorbells(), bridge.doorbells_clear(number & 0xFF))),
            10 => tried((bridge.doorbells_mask(number & 0xFFFF), bridge.doorbells_unmask(number & 0xFFFF))),
            11 => tried((bridge.ring(number), bridge.ring(number & 7), bridge.doorbell_target(small))),
            12 => tried((bridge.scratchpad(small), bridge.scratchpad_write(small, 1))),
            13 => tried((bridge.peer_scratchpad(small), bridge.peer_scratchpad_write(small, 1))),
            14 => tried((bridge.messages(), bridge.message_take(small), bridge.message_send(small % 4, 1))),
            15 => tried(bridge.events()),
            16 => tried(bridge.wait(brief)),
            17 => {
                if let Ok(mut queue) = MessageQueue::new(Arc::clone(bridge), usize::from(small)) {
                    tried((queue.send(1), queue.receive(), queue.pump()));
                }
            }
            18 => {
                for outbound in &self.outbound {
                    tried((outbound.write(at, &[1; 33]), outbound.store_u32(at, 1, StoreOrder::Release)));
                    tried((outbound.read_across(at, &mut [0; 9]), outbound.settle()));
                }
            }
            _ => {
                for inbound in &self.inbound {
                    tried((inbound.write(at, &[1; 33]), Memory::read(inbound, at, &mut [0; 9])));
                }
                *self = Self::default();
            }
        }
    }
}

/// Answers from a tape of bytes, again and again.
#[derive(Debug)]
pub(crate) struct Hostile {
    state: Mutex<State>,
    /// One answer in so many is true, so that the driver comes further: 1 is always, 0 never.
    honesty: u8,
    /// It passes for a DMA engine.
    engine: bool,
}

#[derive(Debug)]
struct State {
    tape: Vec<u8>,
    at: usize,
    eventfds: Vec<OwnedFd>,
    /// What was given to an engine: its ring first.
    memories: Vec<DmaMemory>,
}

#[derive(Debug)]
struct Forgetful;

impl Registrar for Forgetful {
    fn withdraw(&self, _address: DeviceAddress, _bytes: u64) {}
}

fn memory(bytes: u64) -> Result<Mapped, FunctionError> {
    let none = |source| FunctionError::Memory { what: "a hostile device", source };
    let file = SharedFile::create("hostile", bytes).map_err(none)?;
    let mapping = Mapping::new(&file, 0, bytes, Access::ReadWrite);
    Ok(Mapped::fixed(mapping.map_err(|error| none(io::Error::other(error)))?))
}

impl Hostile {
    pub(crate) fn new(tape: Vec<u8>, honesty: u8, engine: bool) -> Self {
        let state = State { tape, at: 0, eventfds: Vec::new(), memories: Vec::new() };
        Self { state: Mutex::new(state), honesty, engine }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn byte(&self) -> u8 {
        let mut state = self.state();
        state.at = state.at.wrapping_add(1);
        let at = state.at;
        let length = state.tape.len().max(1);
        let byte = state.tape.get(at.checked_rem(length).unwrap_or(0)).copied().unwrap_or(0);
        // Now and then an interrupt that nobody asked for.
        if byte < 32
            && let Some(fd) = state.eventfds.get(usize::from(byte))
        {
            tried(rustix::io::write(fd, &7_u64.to_ne_bytes()));
        }
        let round = at.checked_div(length).unwrap_or(0) % 251;
        byte.wrapping_add(u8::try_from(round).unwrap_or(0))
    }

    fn number(&self) -> u64 {
        u64::from_le_bytes([0; 8].map(|_: u8| self.byte()))
    }

    fn fails(&self) -> Result<(), FunctionError> {
        match self.byte() {
            0 => Err(FunctionError::gone("it says so")),
            1 => Err(FunctionError::Refused { what: "anything", why: "it does not like it".into() }),
            _ => Ok(()),
        }
    }

    fn is_honest(&self) -> bool {
        self.honesty > 0 && self.byte().is_multiple_of(self.honesty)
    }
}

impl PciFunction for Hostile {
    fn config_read(&self, offset: u32, out: &mut [u8]) -> Result<(), FunctionError> {
        self.fails()?;
        out.fill_with(|| self.byte());
        if self.is_honest() {
            let truth: &[u8] = match offset {
                0 if self.engine => &[0x86, 0x80, 0x21, 0x20],
                0 => &[0x86, 0x80, 0x1C, 0x20],
                config::PPD => &[0x11],
                _ => &[],
            };
            for (out, truth) in out.iter_mut().zip(truth) {
                *out = *truth;
            }
        }
        Ok(())
    }

    fn config_write(&self, _offset: u32, _data: &[u8]) -> Result<(), FunctionError> {
        self.fails()
    }

    fn bar_bytes(&self, bar: BarIndex) -> Result<u64, FunctionError> {
        self.fails()?;
        if !self.is_honest() {
            return Ok(self.number().checked_shr(u32::from(self.byte() % 64)).unwrap_or(0));
        }
        let log2 = 12_u32.saturating_add(u32::from(self.byte() % 50));
        Ok(if bar == BarIndex::REGISTERS { bar0::BYTES.into() } else { 1_u64.checked_shl(log2).unwrap_or(0) })
    }

    fn bar_read(&self, _bar: BarIndex, offset: u64, out: &mut [u8]) -> Result<(), FunctionError> {
        self.fails()?;
        out.fill_with(|| self.byte());
        if self.engine && self.is_honest() && out.len() == 1 {
            // Channels, most bytes, and then that a channel is quiet.
            out.fill(match offset {
                0 => 4,
                1 => 20,
                _ => 0,
            });
            return Ok(());
        }
        let tell = |out: &mut [u8], truth: &[u8]| {
            for (out, truth) in out.iter_mut().zip(truth) {
                *out = *truth;
            }
        };
        if self.is_honest() && offset == u64::from(messages::BASE) {
            tell(out, &messages::CAPABILITY.to_le_bytes());
        }
        if self.is_honest() && (offset == 0x18 || offset == 0x28 || offset >= 0x4000) {
            // The limits after opening, so that it opens at all.
            let closed = if offset & 0x20 == 0 { 0x2000_0000_0000_0000_u64 } else { 0x4000_0000_0000_0000 };
            tell(out, &closed.to_le_bytes());
        }
        Ok(())
    }

    /// An engine writes completions whenever it is told anything: of its own descriptors, or of anything.
    fn bar_write(&self, _bar: BarIndex, _offset: u64, _data: &[u8]) -> Result<(), FunctionError> {
        self.fails()?;
        let (number, honest) = (self.number(), self.is_honest());
        let state = self.state();
        if let [ring, rest @ ..] = state.memories.as_slice() {
            let descriptor = (number % 1024).saturating_mul(64);
            let own = ring.address().0.wrapping_add(descriptor) & !0x3F | number >> 60 & 3;
            for memory in rest {
                tried(memory.store_u64(0, if honest { own } else { number }, StoreOrder::Release));
            }
        }
        Ok(())
    }

    fn bar_map(&self, _bar: BarIndex) -> Result<Option<BarMapping>, FunctionError> {
        self.fails()?;
        Ok(match self.byte() % 3 {
            0 => None,
            kind => Some(BarMapping { memory: Arc::new(memory(4096)?), shared: kind == 2 }),
        })
    }

    fn dma_allocate(&self, bytes: u64, _align_bytes: u64) -> Result<DmaMemory, FunctionError> {
        self.fails()?;
        // Often less than was asked for, and anywhere.
        let bytes = if self.engine && self.is_honest() { bytes.clamp(64, 1 << 20) } else { 4096 };
        let memory = DmaMemory::new(memory(bytes)?, DeviceAddress(self.number()), Arc::new(Forgetful));
        let mut state = self.state();
        if self.engine && state.memories.len() < 8 {
            state.memories.push(memory.clone());
        }
        Ok(memory)
    }

    fn enable_vectors(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), FunctionError> {
        self.fails()?;
        let kept = eventfds.iter().flat_map(|fd| fd.try_clone_to_owned()).collect();
        self.state().eventfds = kept;
        Ok(())
    }

    fn disable_vectors(&self) -> Result<(), FunctionError> {
        self.fails()
    }

    fn reset(&self) -> Result<(), FunctionError> {
        self.fails()
    }
}

#[cfg(test)]
mod tests;
