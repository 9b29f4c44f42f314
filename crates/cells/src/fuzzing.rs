//! Two ends of a channel while somebody writes whatever they like into both memories, also in the middle of a call.
//!
//! The fuzz target `cells` and the replay of its corpus run this. An input is a byte that chooses the ring (see
//! `World::new`), then records: a byte that says what is done and on which side, then its arguments; what is missing at
//! the end is 0. After the last record both sides start anew on the same memories, and then a frame must pass.

mod watched;

use crate::layout::{
    ARMED, CREDIT, DIRECTORY_BYTES, ENTRY, EXIT, Geometry, Profile, RING, SLOT_BYTES, WANTED,
};
use crate::{Alarm, Bell, BellFailed, Bells, Fault, Link, Opening, Receiver, SendError, Sender, Setup};
use shm::{Heap, Memory, Window};
use std::sync::Arc;
use std::time::Duration;
use watched::{Ambush, Engine, Watched};

const WINDOW: usize = 40_960;
/// Frames of so many bytes and more are carried by an engine, where there is one.
const ENGINE_FROM: usize = 10;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A side opens the channel, or goes on with opening it.
    Open(bool),
    /// A side drops what it has.
    Drop(bool),
    /// A side is killed: it drops its link and tells nobody. Then it has a new link.
    Kill(bool),
    /// A side sends a frame of so many bytes if there is room.
    Send(bool, u16),
    /// A side takes a frame if there is one.
    Receive(bool),
    /// A side asks to be woken, for a frame or for room.
    Arm(bool, u16),
    /// The header of a cell in this side's memory.
    Header(bool, u8, u64),
    /// A word in front of this side's ring: credit, armed, wanted, entry, exit.
    Word(bool, u8, u64),
    /// A word of the announcement in the first slot of this side's directory.
    Announcement(bool, u8, u64),
    /// Eight bytes anywhere in this side's memory.
    Anywhere(bool, u16, u64),
    /// The same between two loads of this side: after so many loads from its own memory, anywhere, or (none) over the
    /// word that was just loaded.
    Ambush(bool, u8, Option<u16>, u64),
}

/// What an input says: the ring, and what happens to it.
#[must_use]
pub fn actions(input: &[u8]) -> (u8, Vec<Action>) {
    let mut rest = input.iter().copied();
    let ring = rest.next().unwrap_or(0);
    let mut actions = Vec::new();
    while let Some(what) = rest.next() {
        let side = what & 0x80 != 0;
        let mut byte = || rest.next().unwrap_or(0);
        let mut short = || u16::from_le_bytes([byte(), byte()]);
        actions.push(match what & 0x0F {
            0 | 1 => Action::Open(side),
            2 => Action::Drop(side),
            3 => Action::Kill(side),
            4 | 5 => Action::Send(side, short()),
            6 | 7 => Action::Receive(side),
            8 => Action::Arm(side, short()),
            9 | 10 => Action::Header(side, byte(), u64::from_le_bytes(std::array::from_fn(|_| byte()))),
            11 | 12 => Action::Word(side, byte(), u64::from_le_bytes(std::array::from_fn(|_| byte()))),
            13 => Action::Announcement(side, byte(), u64::from_le_bytes(std::array::from_fn(|_| byte()))),
            14 => {
                let at = short();
                Action::Anywhere(side, at, u64::from_le_bytes(std::array::from_fn(|_| byte())))
            }
            _ => {
                let after_loads = byte();
                let at = (what & 0x40 != 0).then(|| u16::from_le_bytes([byte(), byte()]));
                let value = u64::from_le_bytes(std::array::from_fn(|_| byte()));
                Action::Ambush(side, after_loads, at, value)
            }
        });
    }
    (ring, actions)
}

/// A bell that nobody hears: the fuzzer never sleeps.
#[derive(Debug)]
struct Silent;

impl Bell for Silent {
    fn ring(&self) -> Result<(), BellFailed> {
        Ok(())
    }
}

impl Alarm for Silent {
    fn sleep(&self, _limit: Option<Duration>) -> Result<bool, BellFailed> {
        Ok(true)
    }

    fn rouse(&self) -> Result<(), BellFailed> {
        Ok(())
    }
}

#[derive(Debug)]
enum State {
    Closed,
    Opening(Opening<Watched, Watched>),
    Up(Box<(Sender<Watched, Watched>, Receiver<Watched, Watched>)>, Option<Fault>),
}

#[derive(Debug)]
struct Side {
    out: Arc<Watched>,
    own: Arc<Watched>,
    link: Arc<Link<Watched, Watched>>,
    state: State,
}

impl Side {
    fn new(out: Arc<Watched>, own: Arc<Watched>) -> Self {
        let link = Link::new(Arc::clone(&out), Arc::clone(&own)).expect("a window with room for a directory");
        Self { out, own, link, state: State::Closed }
    }
}

/// Does what an input says.
///
/// # Panics
/// Panics where a promise is broken: that is the point.
pub fn run(input: &[u8]) {
    let (ring, actions) = actions(input);
    let mut world = World::new(ring);
    for action in actions {
        world.act(action);
    }
    world.start_anew();
}

struct World {
    sides: [Side; 2],
    setup: Setup,
    generation: u32,
    /// After how many copies an engine that carries the longer frames gives up; none: there is no engine.
    engine: Option<usize>,
}

impl World {
    /// Bits 0 and 1: profile and size. Bit 2: nobody sleeps. Bit 3: frames of half the ring at most. Bit 4: an engine
    /// carries the longer frames; bit 5: it fails soon. Bit 6: the longer header of `paper`.
    fn new(ring: u8) -> Self {
        let geometry = match ring % 4 {
            0 if ring & 64 != 0 => Geometry::tiny(Profile::Paper, 5, 20).with_long_header(),
            0 => Geometry::tiny(Profile::Paper, 5, 20),
            1 => Geometry::tiny(Profile::Fast, 4, 24),
            2 => Geometry::paper(20).expect("a ring"),
            _ => Geometry::fast(8, 2048).expect("a ring"),
        };
        let bell = Bells {
            peer_receiver: Arc::new(Silent),
            peer_sender: Arc::new(Silent),
            my_receiver: Arc::new(Silent),
            my_sender: Arc::new(Silent),
        };
        let longest_frame =
            if ring & 8 == 0 { geometry.longest_frame() } else { geometry.longest_frame() / 2 };
        let bells = (ring & 4 == 0).then_some(bell);
        let setup = Setup { longest_frame, bells, ..Setup::new(geometry) };
        let region_end = DIRECTORY_BYTES + geometry.region_bytes();
        let (a, b) = (Arc::new(Heap::new(WINDOW)), Arc::new(Heap::new(WINDOW)));
        let side = |out: &Arc<Heap>, own: &Arc<Heap>| {
            Side::new(Watched::new(out, WINDOW), Watched::new(own, region_end))
        };
        let engine = (ring & 16 != 0).then_some(if ring & 32 == 0 { usize::MAX } else { 3 });
        Self { sides: [side(&b, &a), side(&a, &b)], setup, generation: 0, engine }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open(side) => self.open(usize::from(side)),
            Action::Drop(side) => self.side(side).state = State::Closed,
            Action::Kill(side) => self.kill(usize::from(side)),
            Action::Send(side, bytes) => self.send(side, usize::from(bytes)),
            Action::Receive(side) => self.receive(side),
            Action::Arm(side, bytes) => {
                if let State::Up(ends, _) = &mut self.side(side).state {
                    let _either_way = ends.0.arm(usize::from(bytes));
                    let _either_way = ends.1.arm();
                }
            }
            Action::Header(side, cell, value) => {
                let cells = self.setup.geometry.cells();
                let at = DIRECTORY_BYTES + self.setup.geometry.cell_at(u32::from(cell) % cells);
                let bytes = value.to_le_bytes();
                let len = usize::try_from(self.setup.geometry.header_bytes()).expect("2, 4 or 8");
                self.tamper(side, at, &bytes[..len]);
            }
            Action::Word(side, which, value) => {
                let ring = DIRECTORY_BYTES + RING;
                let (at, len) = match which % 5 {
                    0 => (DIRECTORY_BYTES + CREDIT, 8),
                    1 => (DIRECTORY_BYTES + ARMED, 8),
                    2 => (DIRECTORY_BYTES + WANTED, 8),
                    3 => (ring + ENTRY, 4),
                    _ => (ring + EXIT, 4),
                };
                self.tamper(side, at, &value.to_le_bytes()[..len]);
            }
            Action::Announcement(side, word, value) => {
                self.tamper(side, usize::from(word) * 8 % SLOT_BYTES, &value.to_le_bytes());
            }
            Action::Anywhere(side, at, value) => {
                self.tamper(side, usize::from(at) % (WINDOW - 8), &value.to_le_bytes());
            }
            Action::Ambush(side, after_loads, at, value) => {
                let at = at.map(|at| usize::from(at) % WINDOW);
                self.side(side).own.lay(Ambush { after_loads, at, value });
            }
        }
    }

    fn side(&mut self, side: bool) -> &mut Side {
        &mut self.sides[usize::from(side)]
    }

    fn tamper(&mut self, side: bool, at: usize, bytes: &[u8]) {
        self.side(side).own.heap.write(at, bytes).expect("inside the window");
    }

    fn open(&mut self, side: usize) {
        self.generation += 1;
        let (generation, setup, engine) = (self.generation, self.setup.clone(), self.engine);
        let side = &mut self.sides[side];
        side.state = match std::mem::replace(&mut side.state, State::Closed) {
            State::Closed => side.link.open_as("x", setup, generation).map_or(State::Closed, State::Opening),
            State::Opening(mut opening) => match opening.poll() {
                Ok(true) => match opening.finish() {
                    Ok(Ok(channel)) => {
                        let mut ends = channel.split();
                        if let Some(left) = engine {
                            let to = Arc::clone(&side.out);
                            ends.0
                                .attach_dma(Box::new(Engine { to, waiting: Vec::new(), left }), ENGINE_FROM);
                        }
                        State::Up(Box::new(ends), None)
                    }
                    Ok(Err(opening)) => State::Opening(opening),
                    Err(_) => State::Closed,
                },
                Ok(false) => State::Opening(opening),
                Err(_) => State::Closed,
            },
            up @ State::Up(..) => up,
        };
    }

    fn kill(&mut self, side: usize) {
        let side = &mut self.sides[side];
        // A process that is killed withdraws nothing: what its end stores as it goes is undone, all of it in the directory.
        let mut directory = vec![0; DIRECTORY_BYTES];
        side.out.heap.read(0, &mut directory).expect("inside the window");
        side.state = State::Closed;
        side.out.heap.write(0, &directory).expect("inside the window");
        *side = Side::new(Arc::clone(&side.out), Arc::clone(&side.own));
    }

    fn send(&mut self, side: bool, bytes: usize) {
        let State::Up(ends, fault) = &mut self.side(side).state else { return };
        let sender = &mut ends.0;
        let longest = sender.longest_frame();
        let frame: Vec<u8> = (0..bytes).map(|at| at.to_le_bytes()[0]).collect();
        match sender.try_send(&frame) {
            Ok(()) => assert!(bytes <= longest && fault.is_none()),
            Err(SendError::TooLong { .. }) => assert!(bytes > longest),
            Err(SendError::Full { needs, free }) => assert!(free < needs),
            Err(SendError::Failed(found)) => note(fault, found),
        }
    }

    fn receive(&mut self, side: bool) {
        let most = self.setup.longest_frame;
        let State::Up(ends, fault) = &mut self.side(side).state else { return };
        match ends.1.try_receive() {
            Ok(frame) => {
                assert!(frame.is_none_or(|frame| frame.len() <= most));
                // What came before the peer went is delivered.
                assert!(fault.is_none_or(|fault| fault.is_absence() && frame.is_some()));
            }
            Err(found) => note(fault, found),
        }
    }

    /// Whatever has happened: two new processes on the same memories come up, and frames pass both ways.
    fn start_anew(&mut self) {
        // What goes wrong below is nobody's doing but ours.
        self.engine = self.engine.map(|_| usize::MAX);
        for side in 0..2 {
            self.sides[side].own.call_off();
            self.kill(side);
        }
        self.frames_pass_again();
    }

    /// Both sides open the channel, on the links that they have, and a frame as long as the ring passes both ways.
    fn frames_pass_again(&mut self) {
        for turn in 0..8 {
            self.open(turn % 2);
        }
        let longest = self.setup.longest_frame;
        let frame: Vec<u8> = (0..longest).map(|at| at.to_le_bytes()[0]).collect();
        for from in 0..2 {
            let State::Up(ends, _) = &mut self.sides[from].state else { panic!("it does not open again") };
            ends.0.try_send(&frame).expect("an empty ring has room for the longest frame");
            let State::Up(ends, _) = &mut self.sides[1 - from].state else { panic!("it does not open") };
            assert_eq!(ends.1.try_receive(), Ok(Some(&frame[..])), "a frame after everything");
        }
    }
}

/// A channel that failed stays so, for the first reason.
fn note(fault: &mut Option<Fault>, found: Fault) {
    assert_eq!(*fault.get_or_insert(found), found);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    const UP: [u8; 6] = [0, 0x80, 0, 0x80, 0, 0x80];

    fn after_up(ring: u8, records: &[&[u8]]) -> Vec<u8> {
        [&[ring], &UP[..]].into_iter().chain(records.iter().copied()).flatten().copied().collect()
    }

    fn word(side: u8, which: u8, value: u64) -> Vec<u8> {
        [vec![side | 11, which], value.to_le_bytes().to_vec()].concat()
    }

    fn header(side: u8, cell: u8, value: u64) -> Vec<u8> {
        [vec![side | 9, cell], value.to_le_bytes().to_vec()].concat()
    }

    /// The inputs that the fuzzer starts from: the bad input that somebody thought of.
    fn scenarios() -> Vec<(String, Vec<u8>)> {
        const B: u8 = 0x80;
        let send = |bytes: u16| [vec![4], bytes.to_le_bytes().to_vec()].concat();
        let take: &[u8] = &[B | 6];
        let mut all = Vec::new();
        let mut add = |name: &str, ring: u8, records: &[&[u8]]| {
            all.push((format!("{name}-{ring}"), after_up(ring, records)));
        };
        for ring in (0..8_u8).chain([16, 17, 19, 48, 49, 64, 80]) {
            add(
                "traffic",
                ring,
                &[&send(3), take, &send(40), take, &send(0), &send(60), take, take, &[8, 9, 0]],
            );
            add(
                "restart",
                ring,
                &[&send(70), &[3], take, &[0], &[B | 2], &[B], &[0], &[B], &[0], &send(4), take],
            );
            add("both-killed", ring, &[&send(50), &[3, B | 3], &[0, B, 0, B, 0, B], &send(5), take]);
            add("version", ring, &[&[B | 13, 0, 0x43, 0x45, 0x4C, 0x4C, 9, 0, 0, 0], &send(1), take, take]);
            add("other-state", ring, &[&[B | 13, 1, 7, 0, 0, 0, 7, 0, 0, 0], take, &send(1)]);
            add("longest", ring, &[&send(u16::MAX), &send(1515), take]);
        }
        for (name, entry) in [("entry-out", 99), ("entry-last", 4), ("entry-huge", u64::MAX)] {
            add(name, 0, &[&word(B, 3, entry), take]);
        }
        add("entry-back", 0, &[&send(3), take, &header(B, 1, 99), &word(B, 3, 0), take]);
        add("exit-out", 0, &[&word(B, 4, 77), &send(3)]);
        add("exit-past-entry", 0, &[&word(B, 4, 3), &send(3)]);
        add("exit-back", 0, &[&send(3), take, &send(3), take, &send(3), &word(B, 4, 1), &send(3)]);
        for (name, value) in [
            ("length", 0x0013),
            ("last-outside", 0xC000 | 5),
            ("last-itself", 0xC000),
            ("last-behind-entry", 0xC000 | 3),
            ("not-first", 0x8000 | 4),
            ("whole-and-first", 0x4000 | 4),
        ] {
            add(name, 0, &[&send(3), &send(3), &header(B, 0, value), take]);
        }
        add("middle-with-length", 0, &[&send(50), &header(B, 1, 0x8007), take]);
        add("first-inside", 0, &[&send(50), &header(B, 1, 0xC002), take]);
        add("last-too-long", 0, &[&send(50), &header(B, 2, 0xBFFF), take]);
        for (name, value) in [
            ("sequence-ahead", 9),
            ("length", 1 | 17 << 32 | 1 << 62),
            ("not-first", 1 | 3 << 32),
            ("reserved", 1 | 3 << 32 | 3 << 62),
            ("never-ends", 1 | 16 << 32 | 0x3FFF << 48 | 1 << 62),
            ("not-full", 1 | 3 << 32 | 1 << 48 | 1 << 62),
            ("two-announced", 1 | 16 << 32 | 1 << 48 | 1 << 62),
        ] {
            add(name, 1, &[&header(B, 0, value), take, take]);
        }
        add("first-inside", 1, &[&send(40), &header(B, 1, 2 | 16 << 32 | 1 << 48 | 1 << 62), take]);
        add("counts-up", 1, &[&send(40), &header(B, 1, 2 | 16 << 32 | 2 << 48), take]);
        add("credit-ahead", 1, &[&word(0, 0, 3), &send(3), &send(60)]);
        add("credit-huge", 1, &[&word(0, 0, u64::MAX), &send(60), &send(60)]);
        // What is there changes between two loads: over what was loaded, or anywhere.
        for loads in 0..24 {
            let over = [vec![B | 15, loads], 0x4141_4141_0000_0001_u64.to_le_bytes().to_vec()].concat();
            let state = [vec![B | 0x40 | 15, loads, 8, 0], 7_u64.to_le_bytes().to_vec()].concat();
            let exit = [vec![0x40 | 15, loads, 0, 18], 9_u64.to_le_bytes().to_vec()].concat();
            for (ring, bytes) in [(0, 50), (1, 50)] {
                let step = |what: &[u8]| [what, &send(bytes), take, take, &send(3), take].concat();
                add(&format!("ambush-over-{loads}"), ring, &[&step(&over)]);
                add(&format!("ambush-state-{loads}"), ring, &[&step(&state)]);
                add(&format!("ambush-words-{loads}"), ring, &[&step(&exit)]);
            }
        }
        for loads in 0..40 {
            // In the middle of reading an announcement.
            let record = [vec![B | 15, loads], 0xFFFF_FFFF_0000_0007_u64.to_le_bytes().to_vec()].concat();
            let steps: &[&[u8]] = &[&[B | 2], &record, &[B, 0, B, 0, B, 0, B], &send(9), take];
            add(&format!("ambush-announcement-{loads}"), 1, steps);
        }
        for ring in [48, 49] {
            add("engine-fails", ring, &[&send(40), take, &send(40), take, &send(3)]);
        }
        add("last-outside-long", 64, &[&send(3), &header(B, 0, 0xC000_0005), take]);
        add("length-long", 64, &[&send(3), &header(B, 0, 17), take]);
        add("wanted-and-armed", 1, &[&word(0, 1, 5), &word(B, 2, 6), &send(3), take, &[B | 8, 3, 0]]);
        all
    }

    fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/cells")
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
        assert!(files.len() >= 70);
        for file in files {
            run(&fs::read(file).unwrap());
        }
    }

    /// What each scenario of nonsense is called: a fault that is not told apart would be a check that is not made. Whoever
    /// found it counts it once, and opens the channel anew on the same link.
    #[test]
    fn nonsense_is_told_by_name() {
        let faults = |name: &str| {
            let (_, input) = scenarios().into_iter().find(|(found, _)| found == name).unwrap();
            let (ring, actions) = actions(&input);
            let mut world = World::new(ring);
            actions.into_iter().for_each(|action| world.act(action));
            let faults = world.sides.iter().filter_map(|side| match &side.state {
                State::Up(_, Some(fault)) => {
                    assert_eq!(side.link.faults(), 1, "{name}");
                    Some(fault.to_string())
                }
                State::Up(_, None) | State::Closed | State::Opening(_) => None,
            });
            let faults: Vec<String> = faults.collect();
            world.engine = None;
            world.sides.iter_mut().for_each(|side| side.state = State::Closed);
            world.frames_pass_again();
            faults.join(", ")
        };
        for (name, says) in [
            ("entry-out-0", "99 as its entry offset in a ring of 5"),
            ("entry-back-0", "more bytes than the cell has"),
            ("exit-out-0", "77 as its exit offset in a ring of 5"),
            ("exit-past-entry-0", "exit offset moved from 0 to 3"),
            ("length-0", "more bytes than the cell has"),
            ("last-outside-0", "outside the ring"),
            ("last-itself-0", "does not lie before the entry offset"),
            ("last-behind-entry-0", "does not lie before the entry offset"),
            ("not-first-0", "a frame begins that is not marked as one"),
            ("whole-and-first-0", "marked as a fragment's beginning"),
            ("middle-with-length-0", "before the last has a length"),
            ("first-inside-0", "a frame begins inside another"),
            ("last-too-long-0", "more bytes than the cell has"),
            ("sequence-ahead-1", "says sequence 9 where 1 comes next"),
            ("length-1", "more bytes than the cell has"),
            ("not-first-1", "a frame begins that is not marked as one"),
            ("reserved-1", "bit 63 is set"),
            ("never-ends-1", "more fragments than the ring has cells"),
            ("not-full-1", "is not full"),
            ("first-inside-1", "a frame begins inside another"),
            ("counts-up-1", "do not count down"),
            ("credit-ahead-1", "it has taken 3 cells of"),
            ("credit-huge-1", "it has taken 18446744073709551615 cells of"),
            ("engine-fails-48", "the DMA engine failed"),
            ("engine-fails-49", "the DMA engine failed"),
            ("last-outside-long-64", "outside the ring"),
            ("length-long-64", "more bytes than the cell has"),
            ("version-1", "0x000000094c4c4543"),
            ("other-state-1", "started the channel anew"),
        ] {
            assert!(faults(name).contains(says), "{name}: {}", faults(name));
        }
    }
}
