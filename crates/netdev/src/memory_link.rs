//! A [`FrameLink`] inside one process: two bounded queues. For tests and demonstrations of what lies above a link.

use crate::{Armed, FrameLink, LinkState, Offer, Sent, Wants};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// One end.
#[derive(Debug)]
pub struct MemoryLink {
    cable: Cable,
    side: Side,
    bells: Arc<[OwnedFd; 2]>,
    received: Vec<u8>,
}

/// What joins both ends, and lets a test be unkind to them.
#[derive(Debug, Clone)]
pub struct Cable(Arc<Mutex<Shared>>, Arc<[OwnedFd; 2]>);

#[derive(Debug, Clone, Copy)]
enum Side {
    A,
    B,
}

#[derive(Debug)]
struct Shared {
    up: bool,
    generation: u64,
    /// Frames on their way, by the side that sent them.
    from: [VecDeque<Vec<u8>>; 2],
    /// Whether a side sleeps, and whether it waits for room.
    sleeping: [Option<Wants>; 2],
    most_frames: usize,
    offers: [Offer; 2],
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// The element of a side: a pattern, so that no index can be out of bounds.
fn of<T>([a, b]: &mut [T; 2], side: Side) -> &mut T {
    match side {
        Side::A => a,
        Side::B => b,
    }
}

impl MemoryLink {
    /// Two ends of a link that is up, with room for `most_frames` in each direction.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn pair(most_frames: usize, offers: [Offer; 2]) -> io::Result<([Self; 2], Cable)> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let bells = Arc::new([eventfd(0, flags)?, eventfd(0, flags)?]);
        let shared = Shared {
            up: true,
            generation: 1,
            from: [VecDeque::new(), VecDeque::new()],
            sleeping: [None; 2],
            most_frames,
            offers,
        };
        let cable = Cable(Arc::new(Mutex::new(shared)), Arc::clone(&bells));
        let end = |side| Self { cable: cable.clone(), side, bells: Arc::clone(&bells), received: Vec::new() };
        Ok(([end(Side::A), end(Side::B)], cable))
    }

    fn bell(&self, side: Side) -> &OwnedFd {
        let [a, b] = &*self.bells;
        match side {
            Side::A => a,
            Side::B => b,
        }
    }
}

impl Cable {
    fn with<T>(&self, work: impl FnOnce(&mut Shared) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the link down. What was on its way is lost, and the number of frames that were is returned.
    pub fn cut(&self) -> usize {
        self.change(|shared| {
            shared.up = false;
            shared.from.iter_mut().map(|frames| frames.drain(..).count()).sum()
        })
    }

    /// Brings it up again.
    pub fn mend(&self) {
        self.change(|shared| {
            shared.up = true;
            shared.generation = shared.generation.saturating_add(1);
        });
    }

    fn change<T>(&self, work: impl FnOnce(&mut Shared) -> T) -> T {
        let result = self.with(work);
        for bell in &*self.1 {
            ring(bell);
        }
        result
    }
}

fn ring(bell: &OwnedFd) {
    // It can fail only where the count is at its end, and then the sleeper is awake anyway.
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

impl FrameLink for MemoryLink {
    fn state(&mut self) -> io::Result<LinkState> {
        let side = self.side;
        Ok(self.cable.with(|shared| {
            let [a, b] = shared.offers;
            let agreement = match side {
                Side::A => a.with(&b),
                Side::B => b.with(&a),
            };
            match agreement {
                Ok(agreement) if shared.up => LinkState::Up { generation: shared.generation, agreement },
                _ => LinkState::Down,
            }
        }))
    }

    fn send(&mut self, frame: &[u8]) -> Sent {
        let side = self.side;
        self.cable.with(|shared| {
            if !shared.up {
                return Sent::Down;
            }
            let most = shared.most_frames;
            let frames = of(&mut shared.from, side);
            if frames.len() >= most {
                return Sent::Full;
            }
            frames.push_back(frame.to_vec());
            Sent::Taken
        })
    }

    fn publish(&mut self) {
        let peer = self.side.other();
        let wake = self.cable.with(|shared| {
            let something = !of(&mut shared.from, peer.other()).is_empty();
            let most = shared.most_frames;
            let room = of(&mut shared.from, peer).len() < most;
            let wake =
                of(&mut shared.sleeping, peer).is_some_and(|wants| something || wants.room.is_some() && room);
            if wake {
                *of(&mut shared.sleeping, peer) = None;
            }
            wake
        });
        if wake {
            ring(self.bell(peer));
        }
    }

    fn receive(&mut self) -> Option<&[u8]> {
        let peer = self.side.other();
        self.received = self.cable.with(|shared| of(&mut shared.from, peer).pop_front())?;
        Some(&self.received)
    }

    fn arm(&mut self, wants: Wants) -> Armed {
        let side = self.side;
        self.cable.with(|shared| {
            let room = of(&mut shared.from, side).len() < shared.most_frames;
            if !of(&mut shared.from, side.other()).is_empty() || wants.room.is_some() && room {
                return Armed::Ready;
            }
            *of(&mut shared.sleeping, side) = Some(wants);
            Armed::Sleep(None)
        })
    }

    fn wake(&self) -> BorrowedFd<'_> {
        self.bell(self.side).as_fd()
    }

    fn woken(&mut self) {
        let mut count = [0; 8];
        // Nothing to read is no failure: something else ended the sleep.
        let _ = rustix::io::read(self.bell(self.side), &mut count);
        let side = self.side;
        self.cable.with(|shared| *of(&mut shared.sleeping, side) = None);
    }
}
