//! A device that answers anything: the driver neither panics nor hangs.

use ntb::dma::{DmaCopy, DmaEngine, DmaTarget, Ioat};
use ntb::{
    BarIndex, BarMapping, Bridge, DeviceAddress, DmaMemory, FunctionError, Gen3, Inbound, Mapped, Memory,
    MessageQueue, Outbound, PciFunction, Registrar, Speed, StoreOrder, Width, Window,
};
use ntb_spec::{bar0, config, messages};
use proptest::prelude::*;
use shm::{Access, Mapping, SharedFile};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Answers from a tape of bytes, again and again.
#[derive(Debug)]
struct Hostile {
    state: Mutex<State>,
    /// One answer in so many is true, so that the driver comes further: 1 is always.
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

impl Hostile {
    fn byte(&self) -> u8 {
        let mut state = self.state.lock().unwrap();
        state.at += 1;
        let at = state.at;
        let byte = state.tape[at % state.tape.len()];
        // Now and then an interrupt that nobody asked for.
        if byte < 32
            && let Some(fd) = state.eventfds.get(usize::from(byte))
        {
            rustix::io::write(fd, &7_u64.to_ne_bytes()).ok();
        }
        byte.wrapping_add(u8::try_from(at / state.tape.len() % 251).unwrap())
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
        self.byte().is_multiple_of(self.honesty)
    }
}

#[derive(Debug)]
struct Forgetful;

impl Registrar for Forgetful {
    fn withdraw(&self, _address: DeviceAddress, _bytes: u64) {}
}

fn memory(bytes: u64) -> Mapped {
    let file = SharedFile::create("hostile", bytes).unwrap();
    Mapped::fixed(Mapping::new(&file, 0, bytes, Access::ReadWrite).unwrap())
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
            return Ok(self.number() >> (self.byte() % 64));
        }
        Ok(if bar == BarIndex::REGISTERS { bar0::BYTES.into() } else { 1 << (12 + self.byte() % 50) })
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
        if self.is_honest() && offset == u64::from(messages::BASE) {
            out.copy_from_slice(&messages::CAPABILITY.to_le_bytes());
        }
        if self.is_honest() && (offset == 0x18 || offset == 0x28 || offset >= 0x4000) {
            // The limits after opening, so that it opens at all.
            let closed = if offset & 0x20 == 0 { 0x2000_0000_0000_0000_u64 } else { 0x4000_0000_0000_0000 };
            out.iter_mut().zip(closed.to_le_bytes()).for_each(|(out, byte)| *out = byte);
        }
        Ok(())
    }

    /// An engine writes completions whenever it is told anything: of its own descriptors, or of anything.
    fn bar_write(&self, _bar: BarIndex, _offset: u64, _data: &[u8]) -> Result<(), FunctionError> {
        self.fails()?;
        let (number, honest) = (self.number(), self.is_honest());
        let state = self.state.lock().unwrap();
        if let [ring, rest @ ..] = state.memories.as_slice() {
            let own = ring.address().0.wrapping_add(number % 1024 * 64) & !0x3F | number >> 60 & 3;
            for memory in rest {
                memory.store_u64(0, if honest { own } else { number }, StoreOrder::Release).unwrap();
            }
        }
        Ok(())
    }

    fn bar_map(&self, _bar: BarIndex) -> Result<Option<BarMapping>, FunctionError> {
        self.fails()?;
        Ok(match self.byte() % 3 {
            0 => None,
            kind => Some(BarMapping { memory: Arc::new(memory(4096)), shared: kind == 2 }),
        })
    }

    fn dma_allocate(&self, bytes: u64, _align_bytes: u64) -> Result<DmaMemory, FunctionError> {
        self.fails()?;
        // Often less than was asked for, and anywhere.
        let bytes = if self.engine && self.is_honest() { bytes.clamp(64, 1 << 20) } else { 4096 };
        let memory = DmaMemory::new(memory(bytes), DeviceAddress(self.number()), Arc::new(Forgetful));
        let mut state = self.state.lock().unwrap();
        if self.engine && state.memories.len() < 8 {
            state.memories.push(memory.clone());
        }
        Ok(memory)
    }

    fn enable_vectors(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), FunctionError> {
        self.fails()?;
        let kept = eventfds.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
        self.state.lock().unwrap().eventfds = kept;
        Ok(())
    }

    fn disable_vectors(&self) -> Result<(), FunctionError> {
        self.fails()
    }

    fn reset(&self) -> Result<(), FunctionError> {
        self.fails()
    }
}

/// Whatever came of it.
fn tried<T>(_outcome: T) {}

/// Does one thing to a bridge; whatever comes of it is fine, as long as something does.
fn act(bridge: &Arc<dyn Bridge>, what: u8, number: u64, held: &mut (Vec<Outbound>, Vec<Inbound>)) {
    let small = u8::try_from(number & 0x3F).unwrap();
    let window = usize::from(small % 3);
    let at = usize::try_from(number & 0x1FFF).unwrap();
    let brief = Duration::from_micros(number & 0x3FF);
    match what % 20 {
        0 => tried(bridge.link()),
        1 => tried(bridge.link_enable(Speed::Auto, Width::Lanes(small))),
        2 => tried(bridge.link_disable()),
        3 => tried(bridge.wait_for_link(number & 1 == 0, brief)),
        4 => tried(bridge.set_translation(window, DeviceAddress(number), number >> 7)),
        5 => tried(bridge.clear_translation(window)),
        6 => held.0.extend(bridge.outbound(window)),
        7 => held.1.extend(bridge.inbound(window, number & 0xFFFF)),
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
            for outbound in &held.0 {
                tried((outbound.write(at, &[1; 33]), outbound.store_u32(at, 1, StoreOrder::Release)));
                tried((outbound.read_across(at, &mut [0; 9]), outbound.settle()));
            }
        }
        _ => {
            for inbound in &held.1 {
                tried((inbound.write(at, &[1; 33]), Memory::read(inbound, at, &mut [0; 9])));
            }
            *held = (Vec::new(), Vec::new());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_device_answers_makes_the_driver_panic_or_hang(
        tape in prop::collection::vec(any::<u8>(), 16..400),
        honesty in 1_u8..4,
        script in prop::collection::vec((any::<u8>(), any::<u64>()), 0..60),
    ) {
        let began = Instant::now();
        let state = Mutex::new(State { tape, at: 0, eventfds: Vec::new(), memories: Vec::new() });
        let device = Arc::new(Hostile { state, honesty, engine: false });
        for _ in 0..8 {
            let function: Arc<dyn PciFunction> = Arc::clone(&device) as Arc<dyn PciFunction>;
            let Ok(bridge) = Gen3::open(function) else { continue };
            let bridge: Arc<dyn Bridge> = Arc::new(bridge);
            let mut held = (Vec::new(), Vec::new());
            for (what, number) in &script {
                act(&bridge, *what, *number, &mut held);
            }
        }
        prop_assert!(began.elapsed() < Duration::from_secs(50), "it took {:?}", began.elapsed());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn nor_does_an_engine(
        tape in prop::collection::vec(any::<u8>(), 16..400),
        honesty in 1_u8..3,
        numbers in prop::collection::vec(any::<u64>(), 0..20),
    ) {
        let state = Mutex::new(State { tape, at: 0, eventfds: Vec::new(), memories: Vec::new() });
        let device: Arc<dyn PciFunction> = Arc::new(Hostile { state, honesty, engine: true });
        for _ in 0..8 {
            let Ok(mut engine) = Ioat::open(Arc::clone(&device), 1) else { continue };
            for number in &numbers {
                let Ok(memory) = engine.allocate(4096) else { continue };
                let bytes = usize::try_from(number % 5000).unwrap();
                let copy =
                    DmaCopy { from: memory.clone(), from_at: 0, to: DmaTarget::Memory(memory), to_at: 0, bytes };
                tried(engine.copy(copy, Some(Box::new(tried))));
                if number % 3 == 0 {
                    engine.fence();
                }
                tried((engine.poll(), engine.finish(Duration::from_micros(number % 500))));
            }
        }
    }
}

#[test]
fn it_is_opened_often_enough_to_test_anything() {
    let opened = (1_u8..=200).filter(|seed| {
        let tape = (0..97_u8).map(|at| at.wrapping_mul(*seed).wrapping_add(*seed) | 0x10).collect();
        let state = Mutex::new(State { tape, at: 0, eventfds: Vec::new(), memories: Vec::new() });
        Gen3::open(Arc::new(Hostile { state, honesty: 1, engine: false })).is_ok()
    });
    let opened = opened.count();
    assert!(opened >= 50, "{opened} of 200");
}
