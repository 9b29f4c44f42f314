//! The device once more, as naively as it can be said: a map from offset to value, bytes, and `if`s. Written from
//! gen3-ntb.md, section 3, and the PCI specifications; it shares no table and no code with the twin.

use std::collections::BTreeMap;
use std::time::Duration;
use twin::{Counters, Effect, LinkState, PeerRange, Refused, Side, Time};

/// Window sizes that the model is for.
pub(crate) const WINDOWS: [u64; 2] = [1 << 20, 1 << 16];
/// Training time that the model is for.
pub(crate) const TRAINING: Duration = Duration::from_millis(100);

/// One port.
pub(crate) struct Port {
    side: Side,
    pub(crate) attached: bool,
    pub(crate) config: Vec<u8>,
    /// Offset of a register to its value.
    pub(crate) bar0: BTreeMap<u32, u64>,
    pub(crate) counters: Counters,
    /// The windows as they were when their external limit was written last.
    opened: [(u64, u64); 2],
}

/// Two ports and a link.
pub(crate) struct Model {
    pub(crate) ports: [Port; 2],
    pub(crate) link: LinkState,
    pub(crate) link_changes: (u64, u64),
}

/// First byte and width of the register that has a byte of BAR 0.
pub(crate) fn register_around(byte: u32) -> Option<(u32, u32)> {
    let width = match byte {
        0xD0..=0xF0 => 1,
        0x70..=0x71 | 0x4504..=0x4505 => 2,
        0x0..=0x3 | 0x80..=0xBF | 0x100..=0x1BF | 0x4080..=0x40BF => 4,
        0x10..=0x2F | 0x40..=0x4F | 0x4008..=0x402F | 0x4040..=0x404F => 8,
        0x4100..=0x4107 | 0x4510..=0x4527 => 8,
        _ => return None,
    };
    Some((byte / width * width, width))
}

/// Which bits of a configuration byte a host can change.
fn config_writable(byte: u32) -> u8 {
    match byte {
        0x04 => 0x46,                      // memory, master, parity
        0x05 => 0x05,                      // SERR, INTx disable
        0x0C | 0x3C => 0xFF,               // cache line, interrupt line
        0x12..=0x17 => 0xFF,               // BAR 0: 64 KiB
        0x1A => 0xF0,                      // BAR 2: 1 MiB
        0x1B..=0x1F | 0x22..=0x27 => 0xFF, // and BAR 4: 64 KiB
        0x83 => 0xC0,                      // MSI-X enable, mask
        0x98 => 0xFF,
        0x99 => 0x7F, // bit 15 is an order
        0xA0 | 0x1A0 => 0xEB,
        0xA1 | 0x1A1 => 0x0F,
        0xB8 => 0x1F,
        0xC0 => 0x0F,
        0xE4 => 0x03,
        0x150 | 0x154 => 0x30,
        0x151 | 0x155 => 0xF0,
        0x152 | 0x156 => 0xFF,
        0x153 | 0x157 => 0x01,
        0x15C => 0xC1,
        0x15D => 0xF1,
        _ => 0,
    }
}

fn config_at_power_on(side: Side) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0x00, &[0x86, 0x80, 0x1C, 0x20]);
    put(0x06, &[0x10]);
    put(0x08, &[0x04, 0x00, 0x80, 0x06]);
    put(0x10, &[0x0C]);
    put(0x18, &[0x0C]);
    put(0x20, &[0x0C]);
    put(0x2C, &[0x86, 0x80]);
    put(0x34, &[0x80]);
    put(0x80, &[0x11, 0x90, 32, 0, 0x00, 0x20, 0, 0, 0x00, 0x30]);
    put(0x90, &[0x10, 0xE0, 0x02, 0x00, 0x01, 0x80, 0x00, 0x10, 0x10, 0x28]);
    put(0x9C, &[0x03, 0x01, 0, 0, 0, 0, 0x03, 0x11]);
    put(0xBC, &[0x0E, 0, 0, 0, 0x03]);
    put(0xD0, &[20, 16, 20, 16, if side == Side::A { 0x01 } else { 0x11 }]);
    put(0xE0, &[0x01, 0x00, 0x03, 0x00, 0x08]);
    put(0x100, &[0x0B, 0x00, 0x81, 0x14, 0x01, 0x00, 0xC1, 0x00]);
    put(0x148, &[0x01, 0x00, 0x02, 0x00]);
    put(0x154, &[0x30, 0x20, 0x06, 0x00]);
    put(0x15C, &[0x00, 0x20]);
    put(0x1A2, &[0x03, 0x01]);
    bytes
}

fn bar0_at_power_on() -> BTreeMap<u32, u64> {
    let mut registers = BTreeMap::new();
    for byte in 0..0x5000 {
        if let Some((at, _)) = register_around(byte) {
            registers.insert(at, 0);
        }
    }
    registers.insert(0x0, 3);
    registers.insert(0x48, 0x1_FFFF_FFFF);
    registers.insert(0x4048, 0x1_FFFF_FFFF);
    for doorbell in 0..32 {
        registers.insert(0xD0 + doorbell, u64::from(doorbell) + 1);
    }
    registers.insert(0x4010, 0x2000_0000_0000_0000);
    registers.insert(0x4020, 0x4000_0000_0000_0000);
    registers.insert(0x4510, 0xC);
    registers.insert(0x4518, 0x2000_0000_0000_000C);
    registers.insert(0x4520, 0x4000_0000_0000_000C);
    registers
}

impl Port {
    fn new(side: Side) -> Self {
        Self {
            side,
            attached: false,
            config: config_at_power_on(side),
            bar0: bar0_at_power_on(),
            counters: Counters::default(),
            opened: [(0, 0); 2],
        }
    }

    pub(crate) fn memory(&self) -> bool {
        self.config[4] & 2 != 0
    }

    pub(crate) fn master(&self) -> bool {
        self.config[4] & 4 != 0
    }

    pub(crate) fn msix(&self) -> bool {
        self.config[0x83] & 0x80 != 0
    }

    fn wants_link(&self) -> bool {
        self.attached && self.bar0[&0] & 2 == 0
    }

    fn fire(&mut self, source: u32, effects: &mut Vec<Effect>) {
        let vector = u8::try_from(self.bar0[&(0xD0 + source)]).unwrap();
        if self.msix() && vector <= 32 {
            self.counters.interrupts += 1;
            effects.push(Effect::Interrupt { side: self.side, vector });
        }
    }

    fn set_status(&mut self, source: u32, effects: &mut Vec<Effect>) {
        let bit = 1_u64 << source;
        let was_set = self.bar0[&0x40] & bit != 0;
        *self.bar0.get_mut(&0x40).unwrap() |= bit;
        if !was_set && self.bar0[&0x48] & bit == 0 {
            self.fire(source, effects);
        }
    }

    /// What the registers say of a window: address and bytes. It counts when the external limit is written.
    fn open(&self, window: usize) -> (u64, u64) {
        let (xbase, limit, base) = match window {
            0 => (0x10, 0x4018, 0x4518),
            1 => (0x20, 0x4028, 0x4520),
            _ => return (0, 0),
        };
        let address = self.bar0[&xbase];
        let (limit, base) = (self.bar0[&limit], self.bar0[&base] / 16 * 16);
        let mut bytes = limit.saturating_sub(base);
        if bytes > WINDOWS[window] {
            bytes = WINDOWS[window];
        }
        if u128::from(address) + u128::from(bytes) > u128::from(u64::MAX) {
            bytes = u64::MAX - address;
        }
        (address, bytes)
    }
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { ports: Side::BOTH.map(Port::new), link: LinkState::Down, link_changes: (0, 0) }
    }

    pub(crate) fn port(&mut self, side: Side) -> &mut Port {
        &mut self.ports[usize::from(side == Side::B)]
    }

    fn link_event(&mut self, now: Time, first: Side, effects: &mut Vec<Effect>) {
        let wanted = self.ports.iter().all(Port::wants_link);
        let next = match self.link {
            LinkState::Down if wanted => LinkState::Training { until: Time(now.0 + TRAINING) },
            LinkState::Training { until } if wanted && now >= until => LinkState::Up,
            LinkState::Training { .. } | LinkState::Up if !wanted => LinkState::Down,
            same => same,
        };
        if next == self.link {
            return;
        }
        let carried = self.link == LinkState::Up;
        self.link = next;
        effects.push(Effect::Link(next));
        effects.push(Effect::Timer(match next {
            LinkState::Training { until } => Some(until),
            _ => None,
        }));
        let carries = next == LinkState::Up;
        if carries != carried {
            if carries {
                self.link_changes.0 += 1;
            } else {
                self.link_changes.1 += 1;
            }
            for port in &mut self.ports {
                port.config[0x1A3] = if carries { 0x21 } else { 0x01 };
            }
            effects.extend(Side::BOTH.map(|side| Effect::Translation { side }));
            self.port(first).set_status(32, effects);
            self.port(first.peer()).set_status(32, effects);
        }
    }

    pub(crate) fn attach(&mut self, now: Time, side: Side, effects: &mut Vec<Effect>) {
        self.port(side).attached = true;
        self.port(side).counters.attaches += 1;
        self.link_event(now, side.peer(), effects);
    }

    pub(crate) fn detach(&mut self, now: Time, side: Side, effects: &mut Vec<Effect>) {
        self.port(side).attached = false;
        self.reset(now, side, effects);
    }

    pub(crate) fn reset(&mut self, now: Time, side: Side, effects: &mut Vec<Effect>) {
        let port = self.port(side);
        port.config = config_at_power_on(side);
        port.bar0 = bar0_at_power_on();
        port.opened = [(0, 0); 2];
        port.counters.resets += 1;
        effects.push(Effect::Translation { side });
        self.link_event(now, side.peer(), effects);
        self.port(side).bar0.insert(0x40, 0);
    }

    pub(crate) fn advance(&mut self, now: Time, effects: &mut Vec<Effect>) {
        self.link_event(now, Side::A, effects);
    }

    pub(crate) fn config_read(&mut self, side: Side, offset: u32, bytes: usize) -> Vec<u8> {
        let port = self.port(side);
        let at = |n: usize| usize::try_from(offset).unwrap() + n;
        if bytes > 0 && at(bytes) > 4096 {
            port.counters.bad_accesses += 1;
        }
        (0..bytes).map(|n| port.config.get(at(n)).copied().unwrap_or(0xFF)).collect()
    }

    pub(crate) fn config_write(
        &mut self,
        now: Time,
        side: Side,
        offset: u32,
        data: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let port = self.port(side);
        let master = port.master();
        let (mut behind, mut flr) = (false, false);
        for (n, &new) in data.iter().enumerate() {
            let Some(at) = u32::try_from(n).ok().and_then(|n| offset.checked_add(n)).filter(|&at| at < 4096)
            else {
                behind = true;
                continue;
            };
            let mask = config_writable(at);
            let old = &mut port.config[usize::try_from(at).unwrap()];
            *old = *old & !mask | new & mask;
            flr |= at == 0x99 && new & 0x80 != 0;
        }
        port.counters.bad_accesses += u64::from(behind);
        if flr {
            effects.push(Effect::Reset { side });
            self.reset(now, side, effects);
        } else if master != port.master() {
            effects.push(Effect::Translation { side });
        }
    }

    /// The register an access means, and the bit where the access starts in it.
    fn decode(&mut self, side: Side, offset: u32, bytes: usize) -> Option<(u32, u32)> {
        let found = register_around(offset).filter(|_| self.port(side).memory()).and_then(|(at, width)| {
            let fits = match (width, bytes) {
                (1, 1) | (2, 2) | (4, 4) | (8, 8) => offset == at,
                (8, 4) => offset.is_multiple_of(4),
                _ => false,
            };
            fits.then_some((at, 8 * (offset - at)))
        });
        if found.is_none() {
            self.port(side).counters.bad_accesses += 1;
        }
        found
    }

    pub(crate) fn bar0_read(&mut self, side: Side, offset: u32, bytes: usize) -> Option<Vec<u8>> {
        let (at, shift) = self.decode(side, offset, bytes)?;
        let value = if (0x180..0x1C0).contains(&at) {
            if self.link == LinkState::Up {
                self.port(side.peer()).bar0[&(at - 0x100)]
            } else {
                self.port(side).counters.unreachable += 1;
                u64::MAX
            }
        } else {
            self.port(side).bar0[&at]
        };
        Some((value >> shift).to_le_bytes()[..bytes].to_vec())
    }

    pub(crate) fn bar0_write(
        &mut self,
        now: Time,
        side: Side,
        offset: u32,
        data: &[u8],
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some((at, shift)) = self.decode(side, offset, data.len()) else { return false };
        let up = self.link == LinkState::Up;
        let (mut value, mut touched) = (0, 0);
        for (n, &byte) in data.iter().enumerate() {
            value |= u64::from(byte) << (8 * n);
            touched |= 0xFF_u64 << (8 * n);
        }
        (value, touched) = (value << shift, touched << shift);
        let old = self.port(side).bar0[&at];
        let stored = |mask: u64| old & !(touched & mask) | value & touched & mask;
        let new = match at {
            0x0 => stored(0xF3FF),
            0x40 | 0x4040 => old & !value, // write one to clear
            0x48 | 0x4048 => stored(0x1_FFFF_FFFF),
            0x10 | 0x20 | 0x4008 | 0x4010 | 0x4020 => stored(!0xFFF), // pages
            0x4510..=0x4520 => stored(!0xFFF),
            0x4504 => stored(0x547),
            0x70 | 0x4100 | 0x100..=0x1BF => old, // read-only, or the peer's
            _ => stored(u64::MAX),
        };
        self.port(side).bar0.insert(at, new);
        match at {
            0x0 => self.link_event(now, side.peer(), effects),
            0x48 => {
                for source in 0..33 {
                    let bit = |value: u64| value >> source & 1 == 1;
                    if bit(old) && !bit(new) && bit(self.port(side).bar0[&0x40]) {
                        self.port(side).fire(source, effects);
                    }
                }
            }
            0x4018 | 0x4028 => {
                let window = usize::from(at == 0x4028);
                let port = self.port(side);
                port.opened[window] = port.open(window);
                effects.push(Effect::Translation { side });
            }
            0x100..=0x17F if value & 1 == 0 => {}
            0x100..=0x17F if up => {
                self.port(side).counters.doorbells += 1;
                self.port(side.peer()).set_status((at - 0x100) / 4, effects);
            }
            0x100..=0x17F => self.port(side).counters.doorbells_dropped += 1,
            0x180..=0x1BF if up => {
                self.port(side.peer()).bar0.insert(at - 0x100, value);
            }
            0x180..=0x1BF => self.port(side).counters.unreachable += 1,
            _ => {}
        }
        true
    }

    pub(crate) fn route(
        &mut self,
        side: Side,
        window: usize,
        offset: u64,
        bytes: u64,
    ) -> Result<PeerRange, Refused> {
        if !self.port(side).memory() {
            return Err(Refused::MemoryDisabled);
        }
        if self.link != LinkState::Up {
            return Err(Refused::LinkDown);
        }
        let peer = self.port(side.peer());
        let (address, open) = peer.opened.get(window).copied().unwrap_or_default();
        if u128::from(offset) + u128::from(bytes) > u128::from(open) {
            let missed = peer.bar0.get_mut(&0x70).unwrap();
            *missed = (*missed + 1) % 0x1_0000;
            return Err(Refused::Limit);
        }
        if !peer.master() {
            return Err(Refused::NotBusMaster);
        }
        Ok(PeerRange { side: side.peer(), address: address + offset })
    }

    pub(crate) fn outbound(&mut self, side: Side, window: usize) -> (u64, u64) {
        let up = self.link == LinkState::Up;
        let peer = self.port(side.peer());
        if up && peer.master() { peer.opened.get(window).copied().unwrap_or_default() } else { (0, 0) }
    }
}
