//! Random sequences of what both ends can do, beside a model that knows nothing of lines, laps and credit: frames come out
//! in the order in which they went in, each once, as soon as they are published and no sooner.
#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use super::{Body, Claim, FilterId, Geometry, LaneError, LaneOver, Meta, Receiver, SendError, Sender};
use proptest::prelude::*;
use shm::{
    Access, Heap, LoadOrder, Mapping, Memory, Routine, SharedFile, StoreOrder, Window, WindowError,
    WindowKind,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A way into memory that says it is a mapping, or does not, and that refuses one store.
struct Way {
    memory: Arc<Mapping>,
    mapped: bool,
    /// Stores until one is refused.
    left: AtomicU64,
    refused: Arc<AtomicBool>,
    /// Stores after that one.
    late: Arc<AtomicU64>,
}

impl Way {
    fn store(&self) -> Result<&Mapping, WindowError> {
        if self.refused.load(Ordering::Relaxed) {
            self.late.fetch_add(1, Ordering::Relaxed);
        } else if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.refused.store(true, Ordering::Relaxed);
            return Err(WindowError::Closed);
        }
        Ok(&self.memory)
    }
}

impl Window for Way {
    fn bytes(&self) -> usize {
        self.memory.bytes()
    }
    fn kind(&self) -> WindowKind {
        WindowKind::Mapped
    }
    fn as_mapping(&self) -> Option<&Mapping> {
        self.mapped.then_some(&self.memory)
    }
    /// Asked before each store that is made without the window.
    fn is_open(&self) -> bool {
        (self.refused.load(Ordering::Relaxed) || self.left.load(Ordering::Relaxed) > 0)
            && self.store().is_ok()
    }
    fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
        Window::write(self.store()?, at, data)
    }
    fn write_by(&self, routine: Routine, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.store()?.write_by(routine, at, data)
    }
    fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
        self.store()?.store_u32(at, value, order)
    }
    fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
        self.store()?.store_u64(at, value, order)
    }
    fn flush(&self) -> Result<(), WindowError> {
        self.memory.flush()
    }
    fn settle(&self) -> Result<(), WindowError> {
        self.memory.settle()
    }
}

impl Memory for Way {
    fn read(&self, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        Memory::read(&*self.memory, at, out)
    }
    fn load_u32(&self, at: usize, order: LoadOrder) -> Result<u32, WindowError> {
        self.memory.load_u32(at, order)
    }
    fn load_u64(&self, at: usize, order: LoadOrder) -> Result<u64, WindowError> {
        self.memory.load_u64(at, order)
    }
}

/// Both ends, and what is known of them.
struct Model {
    sender: Sender<Way, Way>,
    receiver: Receiver<Way, Way>,
    geometry: Geometry,
    refused: Arc<AtomicBool>,
    late: Arc<AtomicU64>,
    /// Frames that were taken over: the slot where each begins, the one behind it, its bytes, its filter.
    sent: VecDeque<(u64, u64, Vec<u8>, FilterId)>,
    /// Bytes of the first one that came in parts already.
    came: usize,
    /// What was taken and not let go, and what it holds.
    held: Vec<(Body, Vec<u8>)>,
    /// Frames ever.
    count: u64,
    /// Whether there was an announcement: then one that leads nowhere may be what is next.
    announced: bool,
    claims: Vec<(Claim, Vec<u8>, Meta)>,
}

const LENGTHS: [usize; 32] = [
    64, 64, 64, 64, 61, 62, 63, 60, 60, 59, 56, 57, 55, 48, 49, 52, 53, 40, 0, 1, 65, 80, 100, 112, 113, 116,
    120, 121, 128, 129, 200, 384,
];

fn way(bytes: u64, mapped: bool, left: u64) -> (Way, Way, Arc<AtomicBool>, Arc<AtomicU64>) {
    let file = SharedFile::create("model", bytes).unwrap();
    let memory = Arc::new(Mapping::new(&file, 0, bytes, Access::ReadWrite).unwrap());
    let (refused, late) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let to = Way {
        memory: Arc::clone(&memory),
        mapped,
        left: AtomicU64::new(left),
        refused: Arc::clone(&refused),
        late: Arc::clone(&late),
    };
    let own =
        Way { memory, mapped, left: AtomicU64::new(u64::MAX), refused: Arc::default(), late: Arc::default() };
    (to, own, refused, late)
}

impl Model {
    fn new(geometry: Geometry, mapped: bool, left: u64) -> Self {
        let (to, own, refused, late) = way(geometry.receive_bytes(), mapped, left);
        let (back, here, ..) = way(geometry.return_bytes(), mapped, u64::MAX);
        let this = Self {
            sender: Sender::new(geometry, to, here).unwrap(),
            receiver: Receiver::new(geometry, own, back).unwrap(),
            geometry,
            refused,
            late,
            sent: VecDeque::new(),
            came: 0,
            held: Vec::new(),
            count: 0,
            announced: false,
            claims: Vec::new(),
        };
        (0..geometry.buffers).for_each(|index| this.receiver.post(index).unwrap());
        this.receiver.push().unwrap();
        this
    }

    fn frame(&mut self, len: usize) -> (Vec<u8>, Meta) {
        self.count += 1;
        let seed = self.count.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let bytes = (0..len as u64).map(|at| (seed.wrapping_mul(at + 1) >> 56) as u8).collect();
        let filter = FilterId::new(self.count as u16 & FilterId::MOST).unwrap();
        (bytes, Meta { filter, stamp: self.count, hash: 0 })
    }

    /// Parts of a frame: slots that it has at most, and buffers.
    fn needs(&self, len: usize) -> (u32, u32) {
        if len <= self.geometry.line_most() {
            return (1, 0);
        }
        if len <= self.geometry.short_most() {
            return (2, 0);
        }
        let parts = len.div_ceil(self.geometry.buffer_bytes as usize) as u32;
        (parts, parts)
    }

    /// Has the sender do something with a frame, and checks what it says.
    fn send(
        &mut self,
        len: usize,
        act: impl FnOnce(&Sender<Way, Way>, &[u8], Meta) -> Result<(), SendError>,
    ) -> bool {
        let (bytes, meta) = self.frame(len);
        let over = self.refused.load(Ordering::Relaxed);
        let before = self.sender.next.get();
        let done = act(&self.sender, &bytes, meta);
        match done {
            Ok(()) => {
                assert!(!over, "the lane is over");
                self.sent.push_back((before, self.sender.next.get(), bytes, meta.filter));
                assert!(self.sender.next.get() - self.sender.published.get() <= super::sender::BATCH + 1);
                true
            }
            Err(SendError::Full) => {
                assert!(!over && self.sender.next.get() == before);
                let (slots, buffers) = self.needs(len);
                let room = (self.sender.space().unwrap(), self.sender.buffers().unwrap());
                assert!(room.0 < slots || room.1 < buffers, "{len} bytes are refused with room for {room:?}");
                false
            }
            Err(SendError::TooLong { .. }) => {
                let most = self.geometry.buffers.min(self.geometry.slots) * self.geometry.buffer_bytes;
                assert!(len > self.geometry.short_most() && len > most as usize);
                false
            }
            Err(SendError::Failed(LaneOver)) => {
                assert!(self.refused.load(Ordering::Relaxed));
                assert_eq!(self.sender.failure(), Some(LaneError::Window(WindowError::Closed)));
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The next frame, or the part of one: its bytes, and whether it goes on.
    fn next(&self) -> Option<(Vec<u8>, bool)> {
        let (.., bytes, _) = self.sent.front()?;
        if bytes.len() <= self.geometry.short_most() {
            return Some((bytes.clone(), false));
        }
        let rest = &bytes[self.came..];
        let part = rest.len().min(self.geometry.buffer_bytes as usize);
        Some((rest[..part].to_vec(), part < rest.len()))
    }

    fn take(&mut self) -> bool {
        let published = self.sender.published.get();
        let Some(arrival) = self.receiver.take().unwrap() else {
            assert!(self.sent.front().is_none_or(|(_, end, ..)| *end > published), "a frame is lost");
            return false;
        };
        let (expected, continues) = self.next().expect("a frame that nobody sent");
        let (begins, _, _, filter) = self.sent.front().unwrap();
        assert!(*begins < published, "a frame that was not published");
        let body = arrival.body;
        assert_eq!((body.len(), arrival.meta.filter), (expected.len(), *filter));
        assert_eq!((body.starts(), body.continues()), (self.came == 0, continues));
        self.came = if continues { self.came + expected.len() } else { 0 };
        if !continues {
            self.sent.pop_front();
        }
        self.held.push((body, expected));
        true
    }

    /// A frame is what it was until it is let go, whatever the sender does meanwhile.
    fn let_go(&mut self, which: usize) {
        if self.held.is_empty() {
            return;
        }
        let (body, expected) = self.held.remove(which % self.held.len());
        let mut bytes = vec![0; expected.len()];
        self.receiver.read(&body, 0, &mut bytes).unwrap();
        assert_eq!(bytes, expected);
        let at = which % (expected.len() + 1);
        let mut part = vec![0; (expected.len() - at).min(which / 7 % 70)];
        self.receiver.read(&body, at, &mut part).unwrap();
        assert_eq!(part, expected[at..at + part.len()]);
        if which.is_multiple_of(2) {
            self.receiver.let_go_packet(&body).unwrap();
        } else {
            self.receiver.let_go(&body).unwrap();
            self.receiver.let_go(&body).unwrap();
        }
    }

    fn peek(&mut self) {
        let published = self.sender.published.get();
        let seen = self.receiver.peek().unwrap();
        if self.announced {
            return;
        }
        match (seen, self.next()) {
            (Some((len, beginning)), Some((bytes, _))) => {
                let some = bytes.len().min(40);
                assert_eq!((len as usize, &beginning[..some]), (bytes.len(), &bytes[..some]));
                assert!(self.sent.front().is_some_and(|(begins, ..)| *begins < published));
            }
            (None, _) => assert!(self.sent.front().is_none_or(|(_, end, ..)| *end > published)),
            (Some(_), None) => panic!("nothing was sent"),
        }
    }

    /// Claims a buffer and fills it, announces the frame or not; or does what was left to do of the first one.
    fn claim(&mut self, len: usize, what: u16) {
        if what & 3 == 0 && !self.claims.is_empty() {
            let (claim, bytes, meta) = self.claims.remove(0);
            if what & 4 == 0 {
                self.announced |= self.sender.announce(&claim, bytes.len(), &bytes, meta).is_ok();
            }
            let before = self.sender.next.get();
            match self.sender.publish(claim, bytes.len(), meta) {
                Ok(()) => self.sent.push_back((before, self.sender.next.get(), bytes, meta.filter)),
                Err((claim, _)) => self.sender.give_back(claim).unwrap(),
            }
            return;
        }
        let Ok(claim) = self.sender.claim() else { return };
        let (bytes, meta) = self.frame(len.min(self.geometry.buffer_bytes as usize));
        if self.sender.fill(&claim, 0, &bytes).is_ok() && what & 4 == 0 {
            self.announced |= self.sender.announce(&claim, bytes.len(), &bytes, meta).is_ok();
        }
        self.claims.push((claim, bytes, meta));
    }

    fn act(&mut self, what: u8, much: u16) {
        let len = LENGTHS[usize::from(much) % LENGTHS.len()];
        let count = usize::from(much) / LENGTHS.len();
        match what {
            0..4 => {
                // Many of one length, or one of each.
                for n in 0..if what == 0 { count % 40 } else { 1 + count % 2 } {
                    let len = if what == 1 { LENGTHS[(usize::from(much) + n) % 8] } else { len };
                    self.send(len, |sender, frame, meta| {
                        let before = sender.next.get();
                        let staged = sender.stage_one(frame, meta);
                        // Of a frame in several buffers some may have been staged.
                        assert!(staged.is_ok() || sender.next.get() == before || frame.len() > 128);
                        let slots = staged?;
                        assert_eq!(u64::from(slots), sender.next.get() - before);
                        Ok(())
                    });
                }
            }
            4 => {
                self.send(len, |sender, frame, meta| {
                    let cut = count % (frame.len() + 1);
                    sender.stage(&[&frame[..cut], &[], &frame[cut..]], meta)
                });
            }
            5 => {
                for _ in 0..=count % 3 {
                    self.send(len, |sender, frame, meta| sender.send(frame, meta).map(drop));
                }
            }
            6 => {
                let over = self.refused.load(Ordering::Relaxed);
                let pushed = self.sender.push();
                assert!(!over || pushed == Err(LaneOver));
                if pushed.is_ok() {
                    assert_eq!(self.sender.next.get(), self.sender.published.get());
                }
            }
            7 => (0..=count % 70).take_while(|_| self.take()).for_each(drop),
            8 => self.let_go(much.into()),
            9 => (0..count % 70).for_each(|n| self.let_go(usize::from(much) + n * 31)),
            10 => self.claim(len, much >> 6),
            11 => {
                let _any = (self.sender.space(), self.sender.warm(&[0xAB; 120][..len.min(120)]));
                self.sender.will_send(len);
            }
            12 => self.peek(),
            13 => {
                let _any = (self.receiver.arm().unwrap(), self.receiver.has_event().unwrap());
            }
            14 => {
                let source = Heap::new(512);
                self.send(len, |sender, frame, meta| {
                    source.write(7, frame).unwrap();
                    sender.stage_from(&source, 7, frame.len(), meta)
                });
            }
            // All that came is taken and let go, as a program does that keeps up.
            _ => {
                while self.take() {
                    self.let_go(0);
                }
                while !self.held.is_empty() {
                    self.let_go(0);
                }
                // Nothing comes: the sender is told.
                self.take();
            }
        }
        assert_eq!(self.late.load(Ordering::Relaxed), 0, "a store into a lane that is over");
        assert_eq!(self.receiver.failure(), None);
    }

    fn run(mut self, actions: &[(u8, u16)]) {
        for &(what, much) in actions {
            self.act(what, much);
        }
        self.act(6, 0);
        self.act(15, 0);
        for (claim, ..) in self.claims.drain(..) {
            self.sender.give_back(claim).unwrap();
        }
        if !self.refused.load(Ordering::Relaxed) {
            assert_eq!(self.sent.len(), 0);
            let room = (self.sender.space(), self.sender.buffers());
            assert_eq!(room, (Ok(self.geometry.slots), Ok(self.geometry.buffers)), "something is lost");
        }
    }
}

fn shape(slots: u32, buffers: u32, stamps: bool) -> Geometry {
    Geometry { slots, buffers, buffer_bytes: 128, region: 9, wakes: true, stamps }
}

/// Fewer buffers than a line of posts has, as many, and some that end within one.
fn buffers() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(3_u32), 2 => 0_u32..21]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn frames_come_out_as_they_went_in(
        actions in proptest::collection::vec((0_u8..16, any::<u16>()), 0..300),
        slots in 1_u32..9, buffers in buffers(), stamps in proptest::bool::weighted(0.2), mapped: bool,
    ) {
        Model::new(shape(1 << slots, buffers, stamps), mapped, u64::MAX).run(&actions);
    }

    /// One store is refused: what was published stays, nothing else comes, and nothing is stored any more.
    #[test]
    fn a_lane_that_ends_in_the_middle_ends(
        actions in proptest::collection::vec((0_u8..16, any::<u16>()), 0..150),
        slots in 1_u32..9, buffers in buffers(), stamps in proptest::bool::weighted(0.2), mapped: bool, left in 0_u64..400,
    ) {
        Model::new(shape(1 << slots, buffers, stamps), mapped, left).run(&actions);
    }
}
