//! Interfaces whose peers write whatever they like, and filters that nobody in his senses would add.
//!
//! The fuzz target `vi` and the replay of its corpus run this. An input is a byte that chooses the shape of the lane, then
//! records: a byte that says what is done, then its arguments; what is missing at the end is 0. After the last record
//! a second lane of the same interfaces, which nobody tampered with, must carry a frame.

use crate::filter::{Block, Filter, FlowCache, HEADER_BYTES, Headers, Table, Target};
use crate::lane::{Address, Geometry, LaneError, LaneOver, Meta, Receiver, SendError, Sender};
use crate::{Event, LaneId, Packet, PacketBuffer, Pio, ProtectionDomain, RequestId, TransmitError, Vi};
use shm::{Heap, LoadOrder, Memory, Routine, StoreOrder, Window, WindowError, WindowKind};
use std::sync::Arc;

#[derive(Debug)]
struct Domain;

type Interface = Vi<Domain, Watched, Arc<Heap>>;
type Received<'vi> = Packet<'vi, Domain, Watched, Arc<Heap>>;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A frame of so many bytes is sent at once.
    Send(u16),
    /// One is staged: as a whole if the number's first bit is set, else in parts.
    Stage(u16),
    /// What is staged is pushed.
    Push,
    /// One is announced with its beginning, then sent.
    CutThrough(u16),
    /// A frame is staged with the receiver, patched, sent.
    Staged(u16),
    /// The receiver polls for so many events; bits say which of them it holds, keeps and drops.
    Poll(u8, u8),
    /// The receiver drops the packet that it has held longest, or the last one.
    Drop(bool),
    /// The receiver posts the buffers that it has kept.
    Post,
    /// The receiver peeks, asks whether there is an event, arms.
    Ask,
    /// The sender asks for its fill levels and for what may be lost.
    Account,
    /// A word of a slot: which slot, which of its words, what.
    Slot(u8, u8, u64),
    /// The last word of a slot with the lap that the receiver waits for: all but its lap.
    Tag(u8, u64),
    /// A word of the return area: credit, armed, posted buffers.
    Return(u8, u64),
    /// A posted buffer: which place, its lap, which buffer.
    Posted(u8, u8, u8),
    /// Eight bytes anywhere in the receive area.
    Anywhere(u16, u64),
    /// A filter is added: kind and numbers.
    Filter(u8, u32),
    /// A frame is steered: which of its words is changed, to what, and how long it is.
    Steer(u8, u64, u8),
}

/// What an input says: the shape, and what happens.
#[must_use]
pub fn actions(input: &[u8]) -> (u8, Vec<Action>) {
    let mut rest = input.iter().copied();
    let shape = rest.next().unwrap_or(0);
    let mut actions = Vec::new();
    while let Some(what) = rest.next() {
        let mut byte = || rest.next().unwrap_or(0);
        actions.push(match what % 20 {
            0 | 1 => Action::Send(u16::from_le_bytes([byte(), byte()])),
            2 => Action::Stage(u16::from_le_bytes([byte(), byte()])),
            3 => Action::Push,
            4 => Action::CutThrough(u16::from_le_bytes([byte(), byte()])),
            5 => Action::Staged(u16::from_le_bytes([byte(), byte()])),
            6 | 7 => Action::Poll(byte(), byte()),
            8 => Action::Drop(what & 0x80 != 0),
            9 => Action::Post,
            10 => Action::Ask,
            11 => Action::Account,
            12 => Action::Slot(byte(), byte(), u64::from_le_bytes(std::array::from_fn(|_| byte()))),
            13 | 14 => Action::Tag(byte(), u64::from_le_bytes(std::array::from_fn(|_| byte()))),
            15 => Action::Return(byte(), u64::from_le_bytes(std::array::from_fn(|_| byte()))),
            16 => Action::Posted(byte(), byte(), byte()),
            17 => {
                let at = u16::from_le_bytes([byte(), byte()]);
                Action::Anywhere(at, u64::from_le_bytes(std::array::from_fn(|_| byte())))
            }
            18 => Action::Filter(byte(), u32::from_le_bytes(std::array::from_fn(|_| byte()))),
            _ => Action::Steer(byte(), u64::from_le_bytes(std::array::from_fn(|_| byte())), byte()),
        });
    }
    (shape, actions)
}

/// The other end's memory as one end sees it: a sender may store into slots and buffers, a receiver into the words of
/// the return area.
#[derive(Debug)]
struct Watched {
    heap: Arc<Heap>,
    geometry: Geometry,
    sends: bool,
}

impl Watched {
    fn allowed(&self, at: usize, len: usize) -> usize {
        let geometry = &self.geometry;
        let end = at + len;
        let allowed = if self.sends {
            let slots = geometry.slots as usize * 64;
            let bytes = geometry.buffer_bytes as usize;
            let in_buffer = (0..geometry.buffers).any(|index| {
                let first = geometry.buffer_at(index);
                at >= first && end <= first + bytes
            });
            end <= slots && at / 64 == end.saturating_sub(1).max(at) / 64 || in_buffer
        } else {
            let posted = geometry.posted_at(0)..geometry.posted_at(0) + geometry.posted_slots() as usize * 8;
            len == 8 && (at == Geometry::CREDIT || at == Geometry::ARMED || posted.contains(&at))
        };
        assert!(allowed, "a store of {len} bytes at {at:#x}");
        at
    }
}

impl Window for Watched {
    fn bytes(&self) -> usize {
        self.heap.bytes()
    }

    fn kind(&self) -> WindowKind {
        WindowKind::Mapped
    }

    fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.heap.write(self.allowed(at, data.len()), data)
    }

    fn write_by(&self, routine: Routine, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.heap.write_by(routine, self.allowed(at, data.len()), data)
    }

    fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
        self.heap.store_u32(self.allowed(at, 4), value, order)
    }

    fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
        self.heap.store_u64(self.allowed(at, 8), value, order)
    }

    fn flush(&self) -> Result<(), WindowError> {
        self.heap.flush()
    }

    fn settle(&self) -> Result<(), WindowError> {
        self.heap.settle()
    }
}

/// The memories of one lane, and its two ends.
type Lane = (Arc<Heap>, Arc<Heap>, Sender<Watched, Arc<Heap>>, Receiver<Arc<Heap>, Watched>);

fn lane(geometry: Geometry) -> Lane {
    let heap = |bytes: u64| Arc::new(Heap::new(usize::try_from(bytes).expect("small")));
    let (area, back) = (heap(geometry.receive_bytes()), heap(geometry.return_bytes()));
    let towards = |heap: &Arc<Heap>, sends| Watched { heap: Arc::clone(heap), geometry, sends };
    let sender = Sender::new(geometry, towards(&area, true), Arc::clone(&back)).expect("a lane");
    let receiver = Receiver::new(geometry, Arc::clone(&area), towards(&back, false)).expect("a lane");
    (area, back, sender, receiver)
}

/// What happened, for tests.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Why the lane that was tampered with is over, as the receiver says.
    pub received: Option<LaneError>,
    /// The same as the sender says.
    pub sent: Option<LaneError>,
    /// Packets that were received.
    pub packets: usize,
}

/// Does what an input says.
///
/// # Panics
/// Panics where a promise is broken: that is the point.
pub fn run(input: &[u8]) -> Outcome {
    let (shape, actions) = actions(input);
    let geometry = Geometry {
        slots: [2, 4, 8, 16][usize::from(shape & 3)],
        buffers: [3, 0, 1, 8][usize::from(shape >> 2 & 3)],
        buffer_bytes: if shape & 0x10 == 0 { 128 } else { 64 },
        region: 9,
        wakes: shape & 0x20 != 0,
        stamps: shape & 0x40 != 0,
    };
    let domain = ProtectionDomain::new();
    let (mut from, mut to) = (Interface::new(&domain), Interface::new(&domain));
    let (area, back, sender, receiver) = lane(geometry);
    from.attach_sender(sender, None);
    let (_, mut kept) = to.attach_receiver(receiver);
    let (_, _, sender, receiver) = lane(geometry);
    let untouched = from.attach_sender(sender, None);
    to.attach_receiver(receiver);
    let mut world = World {
        from: &from,
        to: &to,
        geometry,
        area,
        back,
        held: Vec::new(),
        kept: Vec::new(),
        table: Table::new(),
        cache: FlowCache::default(),
        outcome: Outcome::default(),
    };
    world.kept.append(&mut kept);
    world.post();
    for action in actions {
        world.act(action);
    }
    world.finish(untouched)
}

struct World<'vi> {
    from: &'vi Interface,
    to: &'vi Interface,
    geometry: Geometry,
    area: Arc<Heap>,
    back: Arc<Heap>,
    held: Vec<Received<'vi>>,
    kept: Vec<PacketBuffer<Domain>>,
    table: Table<LaneId>,
    cache: FlowCache<LaneId>,
    outcome: Outcome,
}

const TAMPERED: LaneId = LaneId(0);

fn frame(len: u16) -> Vec<u8> {
    (0..len % 1200).map(|at| at.to_le_bytes()[0]).collect()
}

impl<'vi> World<'vi> {
    fn act(&mut self, action: Action) {
        let (meta, request) = (Meta::default(), RequestId(1));
        match action {
            Action::Send(len) => self.told(|vi| vi.transmit(TAMPERED, &frame(len), meta, request)),
            Action::Stage(len) if len & 0x8000 != 0 => {
                self.told(|vi| vi.transmit_init(TAMPERED, &frame(len), meta, request));
            }
            Action::Stage(len) => {
                let frame = frame(len);
                let (one, other) = frame.split_at(frame.len() / 3);
                self.told(|vi| vi.transmitv_init(TAMPERED, &[one, &[], other], meta, request));
            }
            Action::Push => self.told(|vi| vi.transmit_push(TAMPERED)),
            Action::CutThrough(len) => {
                self.told(|vi| vi.transmit_ctpio(TAMPERED, &frame(len), meta, request));
            }
            Action::Staged(len) => self.told(|vi| {
                let mut pio: Pio = vi.pio(TAMPERED, &frame(len));
                let sent = pio
                    .stage(vi)
                    .and_then(|()| pio.patch(vi, usize::from(len / 2), &[7; 3]))
                    .and_then(|()| pio.send(vi, meta, request));
                pio.discard(vi)?;
                sent
            }),
            Action::Poll(count, what) => self.poll(usize::from(count % 9), what),
            Action::Drop(first) => {
                if !self.held.is_empty() {
                    drop(self.held.remove(if first { 0 } else { self.held.len() - 1 }));
                }
            }
            Action::Post => self.post(),
            Action::Ask => {
                let _any = (self.to.peek(TAMPERED), self.to.has_event(), self.to.prime());
            }
            Action::Account => {
                let _any = (self.from.transmit_space(TAMPERED), self.from.transmit_flushed(TAMPERED));
                let mut lost = 0;
                self.from.failed_transmits(TAMPERED, |_| lost += 1).expect("the lane is there");
                assert!(lost <= self.geometry.slots as usize);
            }
            Action::Slot(slot, word, value) => {
                self.store(u64::from(slot), usize::from(word % 8), value);
            }
            Action::Tag(slot, value) => {
                // Without knowing the receiver's count, the lap of what stands there or the first one is the likely one.
                let at = self.geometry.slot_at(u64::from(slot)) + 56;
                let there = self.area.load_u64(at, LoadOrder::Relaxed).expect("inside") >> 56;
                let lap = (there % 255 + 1) << 56;
                self.store(u64::from(slot), 7, value & !(0xFF << 56) | lap);
            }
            Action::Return(which, value) => {
                let at = match which % 4 {
                    0 => Geometry::CREDIT,
                    1 => Geometry::ARMED,
                    _ => self.geometry.posted_at(u64::from(which / 4)),
                };
                self.back.store_u64(at, value, StoreOrder::Release).expect("inside");
            }
            Action::Posted(place, lap, index) => {
                let offset = u64::from(index) * u64::from(self.geometry.buffer_bytes);
                let address = Address::new(9, offset).expect("small").with_lap(lap);
                let at = self.geometry.posted_at(u64::from(place));
                self.back.store_u64(at, address, StoreOrder::Release).expect("inside");
            }
            Action::Anywhere(at, value) => {
                let at = usize::from(at) % (self.area.bytes() - 8);
                self.area.write(at, &value.to_le_bytes()).expect("inside");
            }
            Action::Filter(kind, numbers) => self.filter(kind, numbers),
            Action::Steer(word, value, len) => self.steer(word, value, len),
        }
        // Completions are of no interest here; they must not hold up what comes.
        while self.from.transmit_unbundle(&mut [RequestId(0); 64]) > 0 {}
    }

    fn store(&self, slot: u64, word: usize, value: u64) {
        let at = self.geometry.slot_at(slot) + word * 8;
        let stored = if word == 7 {
            self.area.store_u64(at, value, StoreOrder::Release)
        } else {
            self.area.write(at, &value.to_le_bytes())
        };
        stored.expect("inside");
    }

    /// Does something with the sender; a failure stays what it is.
    fn told(&mut self, act: impl FnOnce(&Interface) -> Result<(), TransmitError>) {
        let failed = act(self.from).err();
        let reason = match failed {
            Some(TransmitError::Lane(SendError::Failed(LaneOver))) => self.from.transmit_failure(LaneId(0)),
            Some(TransmitError::NoSuchLane | TransmitError::CompletionsWait) => panic!("{failed:?}"),
            _ => None,
        };
        if let Some(before) = self.outcome.sent {
            assert!(failed.is_some() && reason.is_none_or(|reason| reason == before), "{failed:?}");
        }
        self.outcome.sent = self.outcome.sent.or(reason);
    }

    fn post(&mut self) {
        for buffer in std::mem::take(&mut self.kept) {
            if let Err(not) = self.to.receive_init(buffer, RequestId(5)) {
                assert!(self.outcome.received.is_some() || self.over(), "{:?}", not.reason);
                self.kept.push(not.buffer);
            }
        }
        self.to.receive_push();
    }

    /// Whether the receiving lane is over, told or not: peeking then finds nothing and an event waits.
    fn over(&self) -> bool {
        self.to.peek(TAMPERED).is_none() && self.to.has_event()
    }

    fn poll(&mut self, count: usize, what: u8) {
        let mut events: Vec<_> = std::iter::repeat_with(|| Event::Nothing).take(count).collect();
        let got = self.to.poll(&mut events);
        assert!(got <= count);
        for (n, event) in events.into_iter().enumerate() {
            match event {
                Event::Received(packet) => {
                    assert!(self.outcome.received.is_none(), "nothing comes after the end");
                    self.packet(packet, what >> (n % 4 * 2) & 3);
                }
                Event::ReceiveFailed { lane, reason } => {
                    assert_eq!((lane, self.outcome.received), (TAMPERED, None), "told once");
                    self.outcome.received = Some(reason);
                }
                Event::Nothing => assert!(n >= got),
                _ => {}
            }
        }
    }

    fn packet(&mut self, packet: Received<'vi>, what: u8) {
        self.outcome.packets += 1;
        let most = self.geometry.short_most().max(self.geometry.buffer_bytes as usize);
        assert!(packet.len() <= most);
        let mut bytes = vec![0; packet.len() + 1];
        assert_eq!(packet.copy_to(&mut bytes), Ok(packet.len()));
        assert!(packet.read(0, &mut bytes).is_err(), "the packet ends there");
        let header: [u8; 64] = packet.header();
        let _filters = Headers::parse(&header);
        match what {
            0 => drop(packet),
            1 => self.kept.extend(packet.keep()),
            _ => self.held.push(packet),
        }
    }

    fn finish(mut self, untouched: LaneId) -> Outcome {
        let (from, to) = (self.from, self.to);
        self.held.clear();
        let frame = [0x5A; 50];
        from.transmit(untouched, &frame, Meta::default(), RequestId(9)).expect("the other lane is unharmed");
        for _ in 0..2 * self.geometry.slots {
            let mut events = [Event::Nothing];
            to.poll(&mut events);
            if let [Event::Received(packet)] = &events
                && packet.lane() == LaneId(1)
            {
                assert_eq!(packet.header::<50>(), frame);
                return self.outcome;
            }
        }
        panic!("a frame on a lane that nobody touched did not arrive");
    }

    fn filter(&mut self, kind: u8, numbers: u32) {
        let [a, b, c, d] = numbers.to_le_bytes();
        let vlan = if c & 1 == 0 { String::new() } else { format!("vid={},", u16::from(c) * 33) };
        let text = match kind % 12 {
            0 => format!("udp:{vlan}10.0.0.{}:{},10.0.0.{}:{}", a % 4, b % 4, c % 4, d % 4),
            1 => format!("tcp:{vlan}10.0.0.{}:{}-{}", a % 4, b % 4, d),
            2 => format!("udp:{vlan}10.0.0.{}:{}", a % 4, d % 4),
            3 => format!("udp:{vlan}[fd00::{a:x}]:{b}-{d}"),
            4 => format!("eth:{vlan}2:2:2:2:2:{a:x}"),
            5 => format!("ip-protocol:{vlan}{a}"),
            6 => format!("ethertype:{vlan}0x{a:x}{b:x}"),
            7 => "sniff".to_owned(),
            8 => if a & 1 == 0 { "unicast-all" } else { "multicast-all" }.to_owned(),
            9 => if a & 1 == 0 { "unicast-mis" } else { "multicast-mis" }.to_owned(),
            10 => {
                self.table.block_kernel(Block { unicast: a & 1 == 0, multicast: a & 2 == 0 });
                return;
            }
            // Anything: four characters after a kind.
            _ => format!("udp:{}", String::from_utf8_lossy(&numbers.to_le_bytes())),
        };
        let Ok(filter) = text.parse::<Filter>() else { return };
        assert_eq!(filter.to_string().parse(), Ok(filter), "{text}");
        let target = if d & 0x80 == 0 {
            Target::One(LaneId(u32::from(d & 1)))
        } else {
            Target::Set(vec![LaneId(0), LaneId(1)])
        };
        if let Ok(id) = self.table.add(filter, target.clone()) {
            assert_eq!(self.table.query(id), Some((&filter, &target)));
            if b == 0xFF {
                assert!(self.table.remove(id));
            }
        }
    }

    fn steer(&mut self, word: u8, value: u64, len: u8) {
        let mut frame =
            vec![2, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0];
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2, 0, 8, 0, 0]);
        frame.resize(64, 0);
        let at = usize::from(word % 8) * 8;
        frame[at..at + 8].copy_from_slice(&value.to_le_bytes());
        frame.truncate(usize::from(len) + 1);
        let mut kept = Vec::new();
        let verdict = self.cache.steer(&self.table, &frame, |to, filter| kept.push((to, filter)));
        let headers = Headers::parse(&frame[..frame.len().min(HEADER_BYTES)]);
        let mut asked = Vec::new();
        match headers {
            Some(headers) => {
                assert_eq!(self.table.steer(&headers, |to, filter| asked.push((to, filter))), verdict);
            }
            None => assert!(frame.len() < 14),
        }
        assert_eq!(kept, asked, "what is kept is what the table says");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::Nonsense;
    use std::fs;
    use std::path::PathBuf;

    fn eight(what: &[u8], value: u64) -> Vec<u8> {
        [what, &value.to_le_bytes()].concat()
    }

    /// The inputs that the fuzzer starts from: the bad input that somebody thought of.
    fn scenarios() -> Vec<(String, Vec<u8>)> {
        let send = |what: u8, len: u16| [vec![what], len.to_le_bytes().to_vec()].concat();
        let poll: &[u8] = &[6, 4, 0];
        let hold: &[u8] = &[6, 8, 0b1010_0110];
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        let mut add = |name: &str, shape: u8, records: &[&[u8]]| {
            let records = records.iter().copied().flatten().copied();
            all.push((format!("{name}-{shape:02x}"), [shape].into_iter().chain(records).collect()));
        };
        for shape in [0x00, 0x01, 0x12, 0x23, 0x40, 0x61, 0x0D] {
            add(
                "traffic",
                shape,
                &[&send(0, 60), poll, &send(0, 64), &send(0, 128), poll, &send(0, 300), poll],
            );
            add(
                "staged",
                shape,
                &[&send(2, 10), &send(2, 61), &send(2, 121), &[3], hold, &[8, 0x88], &[9, 3]],
            );
            add(
                "programmed",
                shape,
                &[&send(4, 100), &[10], poll, &send(5, 90), hold, &[11], &send(5, 1000)],
            );
            add(
                "filters",
                shape,
                &[
                    &[18, 0, 2, 80, 1, 1],
                    &[18, 2, 2, 0, 0, 2],
                    &[18, 7, 0, 0, 0, 0],
                    &eight(&[19, 4], 0x0200_0001_0000_0A02),
                    &[40],
                    &eight(&[19, 1], 5),
                    &[63],
                ],
            );
        }
        for (name, last) in [
            ("lap", 9 << 56),
            ("kind-0", 1 << 56),
            ("kind-7", 1 << 56 | 7 << 53),
            ("too-long", 1 << 56 | 1 << 53 | 61 << 47),
            ("two-lines-cut", 1 << 56 | 4 << 53 | 9 << 47),
            ("outside", 1 << 56 | 2 << 53 | 1 << 31 | 64),
            ("buffer-too-long", 1 << 56 | 2 << 53 | 129),
        ] {
            // The address of the first buffer of the lane's region, so that what is told is what the name says.
            let address = if name == "outside" { 9 << 40 | (7 * 128) } else { 9 << 40 };
            add(name, 0x02, &[&eight(&[12, 0, 0], address), &eight(&[12, 0, 7], last), poll, poll]);
        }
        add(
            "no-credit",
            0x00,
            &[&send(0, 60), &send(0, 60), &[6, 2, 0b1010], &eight(&[13, 0], 1 << 53), poll],
        );
        add("credit-ahead", 0x00, &[&send(0, 60), &eight(&[15, 0], 9), &[11], &send(0, 60)]);
        add("credit-huge", 0x00, &[&eight(&[15, 0], u64::MAX), &[11], &send(0, 60)]);
        add("posted-lap", 0x09, &[&[16, 1, 7, 0], &send(0, 125), &send(0, 125)]);
        add("posted-outside", 0x09, &[&[16, 1, 1, 200], &send(0, 125), &send(0, 125)]);
        add("posted-often", 0x03, &[&[16, 3, 1, 0], &[16, 0, 1, 0], &[16, 0, 2, 0], &send(0, 128), &[11]]);
        add("armed", 0x20, &[&eight(&[15, 1], 5), &send(0, 60), &[10], &send(0, 60), poll]);
        all
    }

    fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/vi")
    }

    #[test]
    fn the_corpus_holds_every_scenario_and_replays() {
        for (name, bytes) in scenarios() {
            let file = folder().join(&name);
            if std::env::var_os("UPDATE_CORPUS").is_some() {
                fs::create_dir_all(folder()).unwrap();
                fs::write(&file, &bytes).unwrap();
            }
            assert_eq!(fs::read(&file).unwrap(), bytes, "{name}: run this test with UPDATE_CORPUS=1");
        }
        let files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 40);
        for file in files {
            run(&fs::read(file).unwrap());
        }
    }

    /// What each scenario of nonsense is called: one that is not told apart would be a check that is not made.
    #[test]
    fn nonsense_is_told_by_name() {
        let outcome = |name: &str| {
            let (_, input) = scenarios().into_iter().find(|(found, _)| found == name).unwrap();
            run(&input)
        };
        let received = |name: &str| match outcome(name).received {
            Some(LaneError::Nonsense(nonsense)) => nonsense,
            other => panic!("{name}: {other:?}"),
        };
        assert!(matches!(received("lap-02"), Nonsense::Lap { seen: 9, expected: 1, .. }));
        assert_eq!(received("kind-0-02"), Nonsense::Kind(0));
        assert_eq!(received("kind-7-02"), Nonsense::Kind(7));
        assert_eq!(received("too-long-02"), Nonsense::Length { bytes: 61, most: 60 });
        assert!(matches!(received("two-lines-cut-02"), Nonsense::Lap { slot: 1, seen: 0, .. }));
        assert!(matches!(received("outside-02"), Nonsense::Address(_)));
        assert_eq!(received("buffer-too-long-02"), Nonsense::Length { bytes: 129, most: 128 });
        assert_eq!(received("no-credit-00"), Nonsense::NoCredit(0));
        let sent = |name: &str| match outcome(name).sent {
            Some(LaneError::Nonsense(nonsense)) => nonsense,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(sent("credit-ahead-00"), Nonsense::Credit { seen: 9, before: 0, sent: 1 });
        assert!(matches!(sent("credit-huge-00"), Nonsense::Credit { seen: u64::MAX, .. }));
        assert!(matches!(sent("posted-lap-09"), Nonsense::PostedLap { .. }));
        assert!(matches!(sent("posted-outside-09"), Nonsense::Address(_)));
        assert_eq!(outcome("traffic-12").packets, 4);
    }
}
