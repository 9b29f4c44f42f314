//! The kernel's interface: number 0. What no filter takes goes to it, and what it sends is steered like anybody's.

use crate::attachment::Attachment;
use netdev::{Tap, TapQueue};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vi::clock::Clock;
use vi::{Bell, Event, ProtectionDomain, RequestId};

/// Frames that are moved in one turn, each way.
const BUDGET: usize = 64;

/// Stands for the kernel's protection domain.
#[derive(Debug)]
pub(super) struct Domain;

/// What went to and from the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCounts {
    /// Frames that the kernel was given.
    pub to_kernel: u64,
    /// Frames that it has sent.
    pub from_kernel: u64,
    /// Frames for it that it did not take, or that nobody can be given.
    pub refused: u64,
    /// Copies of its frames that found no room at the peer.
    pub dropped: u64,
}

#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) attachment: Attachment<Domain>,
    pub(super) tap: Option<(Tap, TapQueue)>,
    counts: KernelCounts,
    buffer: Vec<u8>,
}

impl Kernel {
    pub(super) fn new(tap: Option<(Tap, TapQueue)>, frame_bytes: usize, clock: Option<Clock>) -> Self {
        let attachment = Attachment::new(&ProtectionDomain::new(), None::<Bell>, clock);
        Self { attachment, tap, counts: KernelCounts::default(), buffer: vec![0; frame_bytes] }
    }

    pub(super) fn counts(&self) -> KernelCounts {
        KernelCounts { dropped: self.attachment.dropped(), ..self.counts }
    }

    /// Moves frames both ways. True: there may be more at once.
    pub(super) fn turn(&mut self) -> bool {
        let received = self.receive();
        let sent = self.send();
        received || sent
    }

    fn receive(&mut self) -> bool {
        let Self { attachment, tap, counts, buffer } = self;
        let mut events: [Event<'_, Domain>; BUDGET] = std::array::from_fn(|_| Event::Nothing);
        let count = attachment.vi().poll(&mut events);
        for event in events.iter().take(count) {
            let Event::Received(packet) = event else { continue };
            let whole = packet.starts() && !packet.continues();
            let written = match (&tap, packet.copy_to(buffer)) {
                (Some((_, queue)), Ok(len)) if whole => {
                    buffer.get(..len).is_some_and(|frame| queue.write_plain(frame).is_ok())
                }
                _ => false,
            };
            let counter = if written { &mut counts.to_kernel } else { &mut counts.refused };
            *counter = counter.wrapping_add(1);
        }
        count > 0
    }

    fn send(&mut self) -> bool {
        let Some((_, queue)) = &self.tap else { return false };
        let mut done = [RequestId(0); BUDGET];
        for _ in 0..BUDGET {
            let len = match queue.read_plain(&mut self.buffer) {
                Ok(len) => len,
                Err(Errno::INTR) => continue,
                Err(_) => return false,
            };
            self.counts.from_kernel = self.counts.from_kernel.wrapping_add(1);
            let frame = self.buffer.get(..len).unwrap_or_default();
            // A lane that is over is taken away by the adapter; its frames are lost as on a cable that is pulled.
            let _ = self.attachment.transmit(frame, RequestId(0));
            self.attachment.vi().transmit_unbundle(&mut done);
        }
        true
    }
}
