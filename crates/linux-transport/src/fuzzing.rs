//! What the fuzz target runs: a transport opposite a peer that writes what it likes, where it likes, when it likes.
//!
//! Panics where the transport breaks a promise: that is the point.

use crate::heap::{Link, range};
use crate::{Config, MAX_QUEUES, NotSent, Received, Time, Transport};
use ntb_spec::linux_transport::{HEADER_BYTES, PayloadHeader};
use ntb_spec::{SCRATCHPADS, WINDOWS};

/// Accesses that one call may make: a few a slot of every ring, and a few more.
const MOST_ACCESSES: u64 = 4096;

/// One thing that the peer, the link or the caller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The link comes up or goes down, and the transport is told.
    Link(bool),
    /// So many milliseconds pass, and the transport is polled.
    Poll(u8),
    /// A client opens a queue pair.
    Enable(u8),
    /// It closes it.
    Disable(u8),
    /// It sends a frame of so many bytes.
    Send(u8, u16),
    /// It takes a frame, into a buffer of so many bytes.
    Receive(u8, u16),
    /// The peer writes a scratchpad of mine.
    Word(u8, u32),
    /// The peer says the right words, with windows of this size.
    Greet(u32),
    /// The peer writes a word into a window, at an offset from its start or, if negative, its end.
    Store(u8, i32, u32),
    /// The peer writes a header at the end of a slot of 64 KiB.
    Header(u8, u8, PayloadHeader),
}

/// Takes numbers off the front of an input; zeros once it is used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut out = [0; N];
        for (byte, &new) in out.iter_mut().zip(head) {
            *byte = new;
        }
        out
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}

/// What an input says.
#[must_use]
pub fn actions(input: &[u8]) -> Vec<Action> {
    let mut input = Input(input);
    let mut actions = Vec::new();
    while !input.0.is_empty() {
        actions.push(match input.byte() % 11 {
            0 => Action::Link(false),
            1 => Action::Link(true),
            2 => Action::Poll(input.byte()),
            3 => Action::Enable(input.byte()),
            4 => Action::Disable(input.byte()),
            5 => Action::Send(input.byte(), u16::from_le_bytes(input.take())),
            6 => Action::Receive(input.byte(), u16::from_le_bytes(input.take())),
            7 => Action::Word(input.byte(), input.word()),
            8 => Action::Greet(input.word()),
            9 => Action::Store(input.byte(), i32::from_le_bytes(input.take()), input.word()),
            _ => Action::Header(input.byte(), input.byte(), PayloadHeader::from_bytes(input.take())),
        });
    }
    actions
}

/// Does what an input says to a fresh transport; its first byte chooses how many queue pairs that has.
///
/// # Panics
/// Where the transport breaks a promise.
pub fn run(input: &[u8]) {
    let (&first, rest) = input.split_first().unwrap_or((&0, &[]));
    let queues = usize::from(first).checked_rem(MAX_QUEUES).unwrap_or(0).saturating_add(1);
    let config = Config { queues, ..Config::default() };
    let Ok(transport) = Transport::new(config) else { return };
    let mut world = World { transport, link: Link::new([1 << 20; 2]), now: Time(0), queues };
    world.link.halves[1].inbound = [const { None }; WINDOWS].map(|_: Option<Vec<u8>>| Some(vec![0; 1 << 20]));
    for action in actions(rest) {
        world.link.accesses = 0;
        world.act(action);
        assert!(world.link.accesses <= MOST_ACCESSES, "{action:?}: {} accesses", world.link.accesses);
        world.check();
    }
}

struct World {
    transport: Transport,
    link: Link,
    now: Time,
    queues: usize,
}

impl World {
    fn queue(&self, byte: u8) -> usize {
        usize::from(byte).checked_rem(self.queues).unwrap_or(0)
    }

    fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Link(up) => {
                self.link.up = up;
                assert_eq!(self.transport.link(now, up, &mut self.link.side(0)), Ok(()));
            }
            Action::Poll(milliseconds) => {
                self.now = now.after_ms(milliseconds.into());
                // The heap refuses windows larger than the port's.
                if let Ok(Some(next)) = self.transport.poll(self.now, &mut self.link.side(0)) {
                    assert!(next > self.now);
                }
            }
            Action::Enable(queue) => self.transport.enable(queue.into()),
            Action::Disable(queue) => {
                let queue = self.queue(queue);
                assert_eq!(self.transport.disable(queue, &mut self.link.side(0)), Ok(()));
                assert!(!self.transport.is_up(queue));
            }
            Action::Send(queue, bytes) => {
                let queue = self.queue(queue);
                let frame = vec![0x5A; bytes.into()];
                let (up, most) = (self.transport.is_up(queue), self.transport.max_payload_bytes(queue));
                match self.transport.send(queue, &frame, &mut self.link.side(0)) {
                    Ok(_) => assert!(up && most.is_some_and(|most| (1..=most).contains(&frame.len()))),
                    Err(NotSent::Down(_)) => assert!(!up),
                    Err(NotSent::Length { bytes, most }) => assert!(bytes == 0 || bytes > most),
                    Err(NotSent::Full) => assert!(up),
                    Err(NotSent::Port(refused)) => unreachable_port(refused),
                }
                assert_eq!(self.transport.ring(&mut self.link.side(0)), Ok(()));
            }
            Action::Receive(queue, bytes) => {
                let queue = self.queue(queue);
                let mut buffer = vec![0; bytes.into()];
                let up = self.transport.is_up(queue);
                match self.transport.receive(queue, &mut buffer, &mut self.link.side(0)) {
                    Ok(Some(Received::Frame { bytes, .. })) => assert!(up && bytes <= buffer.len()),
                    Ok(Some(Received::TooLong { .. } | Received::BadVersion { .. })) => assert!(up),
                    Ok(None) => {}
                    Err(refused) => unreachable_port(refused),
                }
            }
            Action::Word(index, value) => {
                let index = usize::from(index).checked_rem(SCRATCHPADS).unwrap_or(0);
                self.words(&[(index, value)]);
            }
            Action::Greet(bytes) => {
                let queues = u32::try_from(self.queues).unwrap_or(0);
                self.words(&[(4, 0), (5, bytes), (6, 0), (7, bytes), (3, 2), (2, queues), (0, 4)]);
            }
            Action::Store(window, at, value) => {
                let size = self.window(window).map_or(0, |memory| memory.len());
                let size = i64::try_from(size).unwrap_or(0);
                let at = i64::from(at).checked_rem(size).unwrap_or(0);
                let at = if at < 0 { at.saturating_add(size) } else { at };
                self.store(window, u64::try_from(at).unwrap_or(0), &value.to_le_bytes());
            }
            Action::Header(window, slot, header) => {
                let end = u64::from(slot).saturating_add(1).saturating_mul(1 << 16);
                self.store(window, end.saturating_sub(HEADER_BYTES as u64), &header.to_bytes());
            }
        }
    }

    /// The peer writes scratchpads.
    fn words(&mut self, words: &[(usize, u32)]) {
        let [mine, _] = &mut self.link.halves;
        for &(index, value) in words {
            if let Some(word) = mine.scratchpads.get_mut(index) {
                *word = value;
            }
        }
    }

    fn window(&mut self, window: u8) -> Option<&mut Vec<u8>> {
        let [mine, _] = &mut self.link.halves;
        mine.inbound.get_mut(usize::from(window & 1))?.as_mut()
    }

    fn store(&mut self, window: u8, at: u64, data: &[u8]) {
        if let Some(to) = self.window(window).and_then(|memory| range(memory, at, data.len())) {
            to.copy_from_slice(data);
        }
    }

    /// A queue pair is up only on a link that is, and only with memory behind its window.
    fn check(&mut self) {
        let [mine, _] = &self.link.halves;
        let open = mine.inbound.iter().all(Option::is_some);
        let closed = mine.inbound.iter().all(Option::is_none);
        assert!(open || closed, "windows are open together");
        for queue in 0..self.queues {
            assert!(!self.transport.is_up(queue) || open && self.link.up);
        }
        assert!(self.transport.take_events().len() <= self.queues.saturating_mul(2).saturating_add(8));
    }
}

/// The heap refuses nothing but windows that are too large.
fn unreachable_port(refused: crate::heap::Refused) {
    assert_eq!(Err::<(), _>(refused), Ok(()));
}

#[cfg(test)]
mod tests;
