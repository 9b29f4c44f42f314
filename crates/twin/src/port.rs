//! One port: its configuration space, its BAR 0, its interrupt state.

use crate::function::{Bar, Function};
use crate::messages::Messages;
use crate::register_file::RegisterFile;
use crate::{Effect, Setup, Side, WindowSize};
use ntb_spec::bits::{Control, LinkStatus, Ppd, Sources};
use ntb_spec::table::Row;
use ntb_spec::{INTERRUPT_SOURCES, LINK_SOURCE, MSIX_VECTORS, bar0, config, messages};

/// What a port has counted since it was made; no reset clears it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Register accesses that hit no register, or one of another width, or came while memory decode was off.
    pub bad_accesses: u64,
    /// Doorbells rung at the peer.
    pub doorbells: u64,
    /// Accesses to the peer's scratchpads while the link was not up.
    pub unreachable: u64,
    /// Doorbells rung while the link was not up.
    pub doorbells_dropped: u64,
    /// Interrupts raised at this port's host.
    pub interrupts: u64,
    /// Resets of either kind.
    pub resets: u64,
    /// Hosts that attached.
    pub attaches: u64,
}

/// Which register block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Configuration space.
    Config,
    /// BAR 0.
    Bar0,
}

/// One register with its value, as [`Twin::registers`](crate::Twin::registers) lists them.
#[derive(Debug, Clone, Copy)]
pub struct Register {
    /// Its block.
    pub space: Space,
    /// Its offset there.
    pub offset: u32,
    /// Width in bytes.
    pub bytes: u8,
    /// The table's name.
    pub name: &'static str,
    /// Element of an array, 0 otherwise.
    pub index: u8,
    /// Whether it is one of several.
    pub array: bool,
    /// Value.
    pub value: u64,
}

#[derive(Debug)]
pub(crate) struct Port {
    side: Side,
    pub(crate) attached: bool,
    /// Kept from the link until its host attaches anew.
    pub(crate) barred: bool,
    pub(crate) function: Function,
    pub(crate) bar0: RegisterFile,
    /// The extension, if the twin has it.
    pub(crate) messages: Option<Messages>,
    windows: [WindowSize; ntb_spec::WINDOWS],
    /// Translation and length of each window as last latched.
    inbound: [(u64, u64); ntb_spec::WINDOWS],
    pub(crate) counters: Counters,
}

/// Where the registers with behaviour lie.
mod at {
    use ntb_spec::bar0::{Reg, offset_of};

    pub(super) const CONTROL: u32 = offset_of(Reg::Control, 0);
    pub(super) const INT_STATUS: u32 = offset_of(Reg::IntStatus, 0);
    pub(super) const INT_DISABLE: u32 = offset_of(Reg::IntDisable, 0);
    pub(super) const US_MEM_MISS: u32 = offset_of(Reg::UsMemMiss, 0);
    pub(super) const SPAD: u32 = offset_of(Reg::Spad, 0);
    pub(super) const INT_VEC: u32 = offset_of(Reg::IntVec, 0);

    /// The registers that make an inbound window.
    #[derive(Clone, Copy)]
    pub(super) struct Inbound {
        pub(super) translation: u32,
        pub(super) external_limit: u32,
        pub(super) external_base: u32,
    }

    pub(super) const WINDOWS: [Inbound; ntb_spec::WINDOWS] = [
        Inbound {
            translation: offset_of(Reg::ImBar1Xbase, 0),
            external_limit: offset_of(Reg::EmBar1Xlmt, 0),
            external_base: offset_of(Reg::EmBar1, 0),
        },
        Inbound {
            translation: offset_of(Reg::ImBar2Xbase, 0),
            external_limit: offset_of(Reg::EmBar2Xlmt, 0),
            external_base: offset_of(Reg::EmBar2, 0),
        },
    ];
}

impl Port {
    pub(crate) fn new(side: Side, setup: &Setup) -> Self {
        let [first, second] = setup.windows;
        let bars = [u64::from(bar0::BYTES), first.bytes(), second.bytes()];
        let mut function = Function::new(
            config::TABLE,
            config::CLASS,
            &bars.map(|bytes| Bar { kind: config::BAR_TYPE, bytes }),
        );
        let ppd = match side {
            Side::A => Ppd::USD,
            Side::B => Ppd::DSD,
        };
        function.registers.preset(config::PPD, 1, u64::from(ppd.into_bits()));
        let sizes = [first, second, first, second].map(WindowSize::log2);
        function.registers.preset(config::WINDOW_SIZES, 4, u64::from(u32::from_le_bytes(sizes)));
        let mut bar0_file = RegisterFile::new(bar0::TABLE);
        for (offset, source) in (at::INT_VEC..).zip(0..=LINK_SOURCE) {
            bar0_file.preset(offset, 1, u64::from(bar0::reset_vector(source)));
        }
        Self {
            side,
            attached: false,
            barred: false,
            function,
            bar0: bar0_file,
            messages: setup.messages.then(Messages::new),
            windows: setup.windows,
            inbound: [(0, 0); ntb_spec::WINDOWS],
            counters: Counters::default(),
        }
    }

    /// What a bus reset or a function-level reset leaves: registers as after power-on, the host still there.
    pub(crate) fn reset(&mut self) {
        let Self { side: _, attached: _, barred: _, function, bar0, messages, windows: _, inbound, counters } =
            self;
        function.reset();
        bar0.reset();
        if let Some(messages) = messages {
            messages.registers.reset();
        }
        *inbound = [(0, 0); ntb_spec::WINDOWS];
        counters.resets = counters.resets.saturating_add(1);
    }

    /// An access hit nothing.
    pub(crate) fn count_bad_access(&mut self) {
        self.counters.bad_accesses = self.counters.bad_accesses.saturating_add(1);
    }

    /// NTBCNTL bit 1 is clear.
    pub(crate) fn enabled(&self) -> bool {
        let bits = u32::try_from(self.bar0.get(at::CONTROL, 4)).unwrap_or(u32::MAX);
        !Control::from_bits(bits).link_disable()
    }

    /// A host is there, may have the link, and its driver wants it.
    pub(crate) fn ready(&self) -> bool {
        self.attached && !self.barred && self.enabled()
    }

    pub(crate) fn window_bytes(&self, window: usize) -> u64 {
        self.windows.get(window).map_or(0, |size| size.bytes())
    }

    /// What this port opens to the peer: translation and length in bytes.
    pub(crate) fn inbound(&self, window: usize) -> (u64, u64) {
        self.inbound.get(window).copied().unwrap_or_default()
    }

    /// Makes what a window's registers say true.
    ///
    /// Called when EMBARnXLMT is written, the last register of every driver that opens or closes a window. The registers before
    /// it change nothing: Linux closes a window by a translation of 0 first, and the peer would reach the
    /// bottom of memory until the limit follows. The length is EMBARnXLMT less EMBARn; a translation of 0 is as
    /// good as any other (NTRDMA and DPDK use it), so it does not close a window; a window ends where addresses do.
    pub(crate) fn latch_inbound(&mut self, window: usize) {
        let (Some(at), bytes) = (at::WINDOWS.get(window), self.window_bytes(window)) else { return };
        let base = self.bar0.get(at.external_base, 8) & !0xF;
        let open = self.bar0.get(at.external_limit, 8).saturating_sub(base);
        let translation = self.bar0.get(at.translation, 8);
        let before_the_end_of_memory = !translation;
        if let Some(inbound) = self.inbound.get_mut(window) {
            *inbound = (translation, open.min(bytes).min(before_the_end_of_memory));
        }
    }

    /// An access of the peer missed this port's windows.
    pub(crate) fn count_miss(&mut self) {
        let misses = self.bar0.get(at::US_MEM_MISS, 2).wrapping_add(1);
        self.bar0.put(at::US_MEM_MISS, 2, misses);
    }

    pub(crate) fn scratchpad(&self, index: u8) -> u64 {
        self.bar0.get(scratchpad_at(index), 4)
    }

    pub(crate) fn set_scratchpad(&mut self, index: u8, value: u64) {
        self.bar0.put(scratchpad_at(index), 4, value);
    }

    pub(crate) fn set_link(&mut self, up: bool) {
        let status = if up { LinkStatus::UP } else { LinkStatus::DOWN };
        self.function.registers.put(config::LINK_STATUS, 2, u64::from(status.into_bits()));
    }

    /// Latches an interrupt source; the vector follows if it was clear and is not masked.
    pub(crate) fn latch(&mut self, source: u8, effects: &mut Vec<Effect>) {
        let bit = Sources::one(source).0;
        let status = self.bar0.get(at::INT_STATUS, 8);
        self.bar0.put(at::INT_STATUS, 8, status | bit);
        if bit & !status & !self.masked() != 0 {
            self.raise(source, effects);
        }
    }

    /// Forgets every latched source.
    pub(crate) fn clear_pending(&mut self) {
        self.bar0.put(at::INT_STATUS, 8, 0);
    }

    /// INT_DISABLE as it is now.
    pub(crate) fn masked(&self) -> u64 {
        self.bar0.get(at::INT_DISABLE, 8)
    }

    /// Raises what is pending and was unmasked just now.
    pub(crate) fn unmask(&mut self, masked_before: u64, effects: &mut Vec<Effect>) {
        let pending = self.bar0.get(at::INT_STATUS, 8) & masked_before & !self.masked();
        for source in Sources(pending).iter() {
            self.raise(source, effects);
        }
    }

    fn raise(&mut self, source: u8, effects: &mut Vec<Effect>) {
        self.raise_vector(self.bar0.get(at::INT_VEC.saturating_add(u32::from(source)), 1), effects);
    }

    /// Raises a vector, if there is one of that number and MSI-X is on.
    pub(crate) fn raise_vector(&mut self, vector: u64, effects: &mut Vec<Effect>) {
        match u8::try_from(vector) {
            Ok(vector) if u16::from(vector) < MSIX_VECTORS && self.function.msix_enabled() => {
                self.counters.interrupts = self.counters.interrupts.saturating_add(1);
                effects.push(Effect::Interrupt { side: self.side, vector });
            }
            _ => {}
        }
    }

    /// Every register with its value; the peer's scratchpads are left out, they stand at the peer.
    pub(crate) fn registers(&self) -> impl Iterator<Item = Register> {
        let config =
            config::TABLE.iter().flat_map(|row| elements(Space::Config, row, &self.function.registers));
        let bar0 = bar0::TABLE
            .iter()
            .filter(|row| row.reg != bar0::Reg::PeerSpad)
            .flat_map(|row| elements(Space::Bar0, row, &self.bar0));
        let messages = self.messages.iter().flat_map(|block| {
            let rows = messages::TABLE.iter().filter(|row| row.reg != messages::Reg::Outbound);
            rows.flat_map(|row| elements(Space::Bar0, row, &block.registers))
        });
        config.chain(bar0).chain(messages)
    }
}

pub(crate) fn elements<'a, R>(
    space: Space,
    row: &'static Row<R>,
    file: &'a RegisterFile,
) -> impl Iterator<Item = Register> + use<'a, R> {
    (0..row.count).map(move |index| Register {
        space,
        offset: row.offset_of(index),
        bytes: row.bytes,
        name: row.name,
        index,
        array: row.count > 1,
        value: file.get(row.offset_of(index), row.bytes),
    })
}

fn scratchpad_at(index: u8) -> u32 {
    at::SPAD.saturating_add(u32::from(index).saturating_mul(4))
}

const _: () = assert!(INTERRUPT_SOURCES == LINK_SOURCE as usize + 1);
