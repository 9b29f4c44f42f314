//! What happens, as lines.

use crate::ethernet::describe;
use linux_transport::{Down, Event, Mismatch, Notice, Received, Sent, Words};

/// A notice in words.
#[must_use]
pub(crate) fn notice(notice: &Notice) -> String {
    match notice {
        Notice::Link(link) => format!("link {link}"),
        Notice::Transport(event) => self::event(event),
    }
}

fn event(event: &Event) -> String {
    match event {
        Event::Announced(words) => format!("announced: {}", self::words(words)),
        Event::Unfit { why, .. } => format!("hand-shake does not fit: {why}"),
        Event::Agreed(words) => format!("hand-shake agreed; the peer has {}", self::words(words)),
        Event::Refused { window, why } => format!("window {window} refused: {why}"),
        Event::TransportUp => "transport up: memory is behind every window".to_owned(),
        Event::TransportDown => "transport down: windows closed, scratchpads zero".to_owned(),
        Event::PeerRestarted => "the peer repeated its hand-shake".to_owned(),
        Event::QueueUp { queue } => format!("queue pair {queue} up"),
        Event::QueueDown { queue, why } => format!("queue pair {queue} down: {}", down(*why)),
    }
}

fn down(why: Down) -> &'static str {
    match why {
        Down::Mine => "closed here",
        Down::Message => "the peer sent \"link down\"",
        Down::Bit => "the peer's ready bit changed, and no frame told of it",
        Down::Count => "the peer counts frames from 0 again",
        Down::HandShake => "the peer repeated its hand-shake",
        Down::Link => "the link went down",
    }
}

fn words(words: &Words) -> String {
    let Words { version, queues, windows, window_bytes } = words;
    let sizes: Vec<_> =
        window_bytes.iter().filter(|bytes| **bytes > 0).map(|bytes| format!("{bytes:#x}")).collect();
    format!("version {version}, {queues} queue pairs, {windows} windows of {} bytes", sizes.join(", "))
}

/// A frame that was sent.
#[must_use]
pub(crate) fn sent(queue: usize, sent: &Sent, frame: &[u8]) -> String {
    let Sent { slot, header } = sent;
    let (version, bytes, flags) = (header.version, header.payload_bytes, header.flags);
    format!("-> qp {queue} slot {slot:<3} ver {version} len {bytes} flags {flags:#x}  {}", describe(frame))
}

/// What was found in the ring.
#[must_use]
pub(crate) fn received(queue: usize, received: &Received, buffer: &[u8]) -> String {
    match received {
        Received::Frame { slot, version, bytes } => {
            let frame = buffer.get(..*bytes).unwrap_or_default();
            format!("<- qp {queue} slot {slot:<3} ver {version} len {bytes} flags 0x1  {}", describe(frame))
        }
        Received::TooLong { slot, bytes } => {
            format!("<- qp {queue} slot {slot:<3} len {bytes}: longer than a slot, thrown away")
        }
        Received::BadVersion { slot, found, expected } => {
            format!("<- qp {queue} slot {slot:<3} ver {found} where {expected} was expected: it stays there")
        }
    }
}

/// What was seen of a peer with which no queue pair came up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// The link was up at the end.
    pub(crate) link: bool,
    /// The transport was up at the end.
    pub(crate) transport: bool,
    /// The last thing that was wrong with the peer's words.
    pub(crate) unfit: Option<Mismatch>,
    /// A window could not be served.
    pub(crate) refused: bool,
}

impl Seen {
    /// Remembers.
    pub(crate) fn note(&mut self, notice: &Notice) {
        match notice {
            Notice::Link(link) => *self = Self { link: link.up, ..Self::default() },
            Notice::Transport(Event::Unfit { why, .. }) => self.unfit = Some(*why),
            Notice::Transport(Event::Refused { .. }) => self.refused = true,
            Notice::Transport(Event::TransportUp) => (self.transport, self.unfit) = (true, None),
            Notice::Transport(Event::TransportDown) => self.transport = false,
            Notice::Transport(_) => {}
        }
    }

    /// What to look at.
    #[must_use]
    pub(crate) fn advice(&self, queue: usize) -> String {
        if !self.link {
            return "the link is down: nobody drives the other port, or its driver has not enabled the link \
                    (in a Linux guest: modprobe ntb_hw_intel ntb_transport)"
                .to_owned();
        }
        if self.transport {
            return format!(
                "the hand-shake is through, but the peer's client of queue pair {queue} is not ready (in a Linux \
                 guest: modprobe ntb_netdev; ip link set eth0 up)"
            );
        }
        if self.refused {
            return "a window of the peer cannot be served (see above)".to_owned();
        }
        match self.unfit {
            Some(why) => format!("the link is up, but {why}"),
            None => "the link is up, but the peer has announced nothing (in a Linux guest: modprobe \
                     ntb_transport)"
                .to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ntb::Link;

    #[test]
    fn what_was_seen_says_what_to_look_at() {
        let mut seen = Seen::default();
        assert!(seen.advice(0).starts_with("the link is down"));
        seen.note(&Notice::Link(Link { up: true, speed: 3, width: 16 }));
        assert!(seen.advice(0).contains("announced nothing"));
        let why = Mismatch::Version(3);
        seen.note(&Notice::Transport(Event::Unfit { words: Words::default(), why }));
        assert_eq!(seen.advice(0), "the link is up, but the peer speaks version 3, not 4");
        seen.note(&Notice::Transport(Event::TransportUp));
        assert!(seen.advice(1).contains("queue pair 1 is not ready"));
        seen.note(&Notice::Link(Link::default()));
        assert!(seen.advice(0).starts_with("the link is down"));
    }
}
