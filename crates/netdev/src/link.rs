//! What a network device asks of the link below it: [`FrameLink`].

use crate::{MacAddress, Offload};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What one end brings to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The Ethernet address of its interface.
    pub mac: MacAddress,
    /// The greatest MTU that it wants, in bytes.
    pub mtu: u32,
    /// The most that its kernel may leave undone.
    pub offload: Offload,
    /// How many queues it has.
    pub queues: u16,
}

/// What both ends keep to, from link up to link down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The lesser of both wishes, and no more than the link carries, in bytes.
    pub mtu: u32,
    /// The lesser of both.
    pub offload: Offload,
    /// The peer's Ethernet address, where the link tells it.
    pub peer: Option<MacAddress>,
}

/// Why two ends do not get together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    /// Both have the same Ethernet address: no frame would find its way.
    #[error("the peer has the same Ethernet address, {0}: give one of the two another by --mac")]
    SameMac(MacAddress),
    /// A different number of queues.
    #[error("the peer has {theirs} queues and this end {ours}: start both with the same --queues")]
    Queues {
        /// Mine.
        ours: u16,
        /// The peer's.
        theirs: u16,
    },
    /// A ring that is too short for a frame.
    #[error(
        "the peer takes frames of {takes} bytes, and the agreement needs {needs}: choose a smaller --mtu, or larger windows"
    )]
    Ring {
        /// What the longest frame has.
        needs: usize,
        /// What the peer's ring takes.
        takes: usize,
    },
}

impl Offer {
    /// What this offer and the peer's come to.
    ///
    /// # Errors
    /// [`Disagreement`].
    pub fn with(&self, peer: &Self) -> Result<Agreement, Disagreement> {
        if self.mac == peer.mac {
            return Err(Disagreement::SameMac(self.mac));
        }
        if self.queues != peer.queues {
            return Err(Disagreement::Queues { ours: self.queues, theirs: peer.queues });
        }
        Ok(Agreement {
            mtu: self.mtu.min(peer.mtu),
            offload: self.offload.min(peer.offload),
            peer: Some(peer.mac),
        })
    }
}

/// The link as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Nothing is carried.
    Down,
    /// Frames pass as agreed.
    Up {
        /// Another number each time that the link comes up.
        generation: u64,
        /// What holds until it goes down.
        agreement: Agreement,
    },
}

/// What became of a frame that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// The link has it, and the peer will.
    Taken,
    /// There is no room now: offer it again after a wake-up.
    Full,
    /// The link is down: offer it again when it is up.
    Down,
    /// No frame of this length will ever be taken.
    TooLong,
}

/// What a sleeper waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// Room for a frame of so many bytes that was refused as [`Sent::Full`]. Frames and the state of the link are always
    /// waited for.
    pub room: Option<usize>,
}

/// Whether one may sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Armed {
    /// What was waited for is there already: do not sleep.
    Ready,
    /// From now on [`FrameLink::wake`] becomes readable when it comes. Sleep no longer than this, if there is a limit.
    Sleep(Option<Duration>),
}

/// One end of a link that carries frames whole, once and in order, and loses none while it is up.
///
/// One thread uses it. All calls but [`arm`](Self::arm) and [`woken`](Self::woken) make no system call where the link
/// is mapped memory.
///
/// ```text
///   loop:  state ── up? ──▶ receive until None ──▶ send until Full ──▶ publish
///            ▲                                                             │ nothing to do
///            └── woken ◀── wait for wake() ◀── Sleep ── arm(wants) ◀───────┘
/// ```
pub trait FrameLink: Send + fmt::Debug {
    /// The state now. Also what keeps the set-up going: it is called in each turn, and costs little.
    ///
    /// # Errors
    /// When what the link stood on is gone for good: the device, or the twin that serves it.
    fn state(&mut self) -> io::Result<LinkState>;

    /// Sends a frame. It may not leave before [`publish`](Self::publish).
    fn send(&mut self, frame: &[u8]) -> Sent;

    /// Lets the peer see what was sent, and my exit offset, and wakes it if it sleeps.
    fn publish(&mut self);

    /// Takes the next frame, if there is one. It is private memory, and stays until the next call.
    fn receive(&mut self) -> Option<&[u8]>;

    /// Announces a sleep, so that the peer rings; then looks once more. No wake-up is lost between the two.
    fn arm(&mut self, wants: Wants) -> Armed;

    /// What becomes readable to end a sleep.
    fn wake(&self) -> BorrowedFd<'_>;

    /// Ends a sleep: [`wake`](Self::wake) is emptied, and the peer need not ring.
    fn woken(&mut self);

    /// Frames that were [`Sent::Taken`] over links that have ended, and that the peer had not been seen to take then: at most so
    /// many were lost. Each is told once.
    fn unconfirmed(&mut self) -> u64 {
        0
    }
}

impl FrameLink for Box<dyn FrameLink> {
    fn state(&mut self) -> io::Result<LinkState> {
        (**self).state()
    }

    fn send(&mut self, frame: &[u8]) -> Sent {
        (**self).send(frame)
    }

    fn publish(&mut self) {
        (**self).publish();
    }

    fn receive(&mut self) -> Option<&[u8]> {
        (**self).receive()
    }

    fn arm(&mut self, wants: Wants) -> Armed {
        (**self).arm(wants)
    }

    fn wake(&self) -> BorrowedFd<'_> {
        (**self).wake()
    }

    fn woken(&mut self) {
        (**self).woken();
    }

    fn unconfirmed(&mut self) -> u64 {
        (**self).unconfirmed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(last: u8, mtu: u32, offload: Offload, queues: u16) -> Offer {
        Offer { mac: MacAddress::new([2, 0, 0, 0, 0, last]).unwrap(), mtu, offload, queues }
    }

    #[test]
    fn both_ends_come_to_the_same() {
        let (a, b) = (offer(1, 65521, Offload::Checksum, 2), offer(2, 9000, Offload::Segmentation, 2));
        let (at_a, at_b) = (a.with(&b).unwrap(), b.with(&a).unwrap());
        assert_eq!((at_a.mtu, at_a.offload), (9000, Offload::Checksum));
        assert_eq!((at_b.mtu, at_b.offload), (at_a.mtu, at_a.offload));
        assert_eq!((at_a.peer, at_b.peer), (Some(b.mac), Some(a.mac)));
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_helps() {
        let a = offer(1, 1500, Offload::None, 1);
        let twin = a.with(&offer(1, 1500, Offload::None, 1)).unwrap_err();
        assert!(twin.to_string().contains("--mac"));
        let queues = a.with(&offer(2, 1500, Offload::None, 4)).unwrap_err();
        assert_eq!(queues, Disagreement::Queues { ours: 1, theirs: 4 });
        assert!(queues.to_string().contains("--queues"));
    }
}
