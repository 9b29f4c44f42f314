//! Transports against each other, against Linux, and against nobody.

mod both_ours;
mod linux;
mod transcript;

use crate::heap::Link;
use crate::{Config, Event, Received, Time, Transport};

/// A transport on a heap link, and its clock.
pub(super) struct Ours {
    pub(super) transport: Transport,
    pub(super) me: usize,
}

impl Ours {
    pub(super) fn new(me: usize) -> Self {
        Self { transport: Transport::new(Config::default()).unwrap(), me }
    }

    pub(super) fn link(&mut self, now: Time, link: &mut Link) {
        let up = link.up;
        self.transport.link(now, up, &mut link.side(self.me)).unwrap();
    }

    pub(super) fn poll(&mut self, now: Time, link: &mut Link) -> Vec<Event> {
        let next = self.transport.poll(now, &mut link.side(self.me)).unwrap();
        assert!(next.is_none_or(|next| next > now));
        self.transport.take_events()
    }

    pub(super) fn send(&mut self, frame: &[u8], link: &mut Link) -> bool {
        let mut side = link.side(self.me);
        let sent = self.transport.send(0, frame, &mut side).is_ok();
        self.transport.ring(&mut side).unwrap();
        sent
    }

    pub(super) fn receive(&mut self, link: &mut Link) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        match self.transport.receive(0, &mut buffer, &mut link.side(self.me)).unwrap() {
            Some(Received::Frame { bytes, .. }) => {
                buffer.truncate(bytes);
                Some(buffer)
            }
            Some(Received::TooLong { .. } | Received::BadVersion { .. }) | None => None,
        }
    }
}

/// A frame that shows whether it is whole: a number, and bytes that follow from it.
pub(super) fn frame(number: u32) -> Vec<u8> {
    let bytes = 5 + number.wrapping_mul(2_654_435_761) % 300;
    let pattern = (0..bytes).map(|at| number.wrapping_add(at).to_le_bytes()[0]);
    number.to_le_bytes().into_iter().chain(pattern).collect()
}

/// The number of a frame, which is whole.
pub(super) fn number(bytes: &[u8]) -> u32 {
    let number = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    assert_eq!(bytes, frame(number), "frame {number} is broken");
    number
}
