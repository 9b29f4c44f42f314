//! Answers ARP and pings, so that a guest finds somebody there.

use crate::ethernet::{Mac, Said, arp, echo, read};
use std::net::Ipv4Addr;

/// Somebody with an address.
#[derive(Debug, Clone, Copy)]
pub struct Responder {
    /// Hardware address.
    pub mac: Mac,
    /// Address.
    pub address: Ipv4Addr,
    /// Sends everything else back, too, to whom it came from.
    pub echo: bool,
}

impl Responder {
    /// The answer to a frame, if it deserves one.
    #[must_use]
    pub fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let me = (self.mac, self.address);
        match read(frame) {
            Said::ArpRequest { mac, sender, target } if target == self.address => {
                Some(arp(false, me, (mac, sender)))
            }
            Said::Echo(asked) if asked.request && asked.to == self.address => {
                Some(echo(false, me, (asked.mac, asked.from), asked.id, asked.data))
            }
            Said::ArpRequest { .. } | Said::ArpReply { .. } | Said::Echo(_) | Said::BadChecksum => None,
            Said::Other => self.send_back(frame),
        }
    }

    fn send_back(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let source = frame.get(6..12).filter(|_| self.echo)?;
        let rest = frame.get(12..)?;
        Some([source, &self.mac.0, rest].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: (Mac, Ipv4Addr) = (Mac([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 0, 77, 1));
    const ME: Responder = Responder { mac: Mac::OURS, address: Ipv4Addr::new(10, 0, 77, 2), echo: false };

    #[test]
    fn answers_what_is_meant_for_it_alone() {
        let question = arp(true, GUEST, (Mac([0; 6]), ME.address));
        assert_eq!(ME.answer(&question), Some(arp(false, (ME.mac, ME.address), GUEST)));
        let ping = echo(true, GUEST, (ME.mac, ME.address), [1; 4], b"data");
        let pong = echo(false, (ME.mac, ME.address), GUEST, [1; 4], b"data");
        assert_eq!(ME.answer(&ping), Some(pong.clone()));
        let other = Ipv4Addr::new(10, 0, 77, 3);
        assert_eq!(ME.answer(&arp(true, GUEST, (Mac([0; 6]), other))), None);
        assert_eq!(ME.answer(&echo(true, GUEST, (ME.mac, other), [1; 4], b"data")), None);
        assert_eq!(ME.answer(&pong), None, "answers are not answered");
        assert_eq!(ME.answer(b"short"), None);
    }

    #[test]
    fn sends_the_rest_back_if_it_is_told_to() {
        let frame = [&ME.mac.0[..], &GUEST.0.0, b"\x86\xddrest"].concat();
        assert_eq!(ME.answer(&frame), None);
        let back = Responder { echo: true, ..ME }.answer(&frame).unwrap();
        assert_eq!(back, [&GUEST.0.0[..], &ME.mac.0, b"\x86\xddrest"].concat());
        assert_eq!(Responder { echo: true, ..ME }.answer(b"short"), None);
    }
}
