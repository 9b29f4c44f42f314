//! As much of Ethernet, ARP, IPv4 and ICMP as it takes to answer a ping, and to send one (RFC 826, 791, 792).

use std::fmt;
use std::net::Ipv4Addr;

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xFF; 6]);
    /// Nobody in particular: locally administered.
    pub const OURS: Self = Self([0x02, b'i', b's', b't', b'h', 0x01]);
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Bytes of an Ethernet header.
pub const ETHERNET_BYTES: usize = 14;
/// Bytes of the headers of an echo: Ethernet, IPv4 without options, ICMP.
pub const ECHO_HEADER_BYTES: usize = ETHERNET_BYTES + IPV4_BYTES + ICMP_BYTES;
const IPV4_BYTES: usize = 20;
const ICMP_BYTES: usize = 8;
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// Hardware Ethernet, protocol IPv4, 6 and 4 bytes.
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
const PROTOCOL_ICMP: u8 = 1;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// What a frame says, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// Who has `target`? Tell `sender`.
    ArpRequest {
        /// Who asks.
        mac: Mac,
        /// Who asks.
        sender: Ipv4Addr,
        /// Who is asked for.
        target: Ipv4Addr,
    },
    /// `sender` is at `mac`.
    ArpReply {
        /// Its hardware address.
        mac: Mac,
        /// Its address.
        sender: Ipv4Addr,
    },
    /// An echo, request or reply, whose checksum is right.
    Echo(Echo<'a>),
    /// An ICMP message whose checksum is wrong.
    BadChecksum,
    /// Something else.
    Other,
}

/// An ICMP echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<'a> {
    /// A request; else a reply.
    pub request: bool,
    /// From whom.
    pub mac: Mac,
    /// From whom.
    pub from: Ipv4Addr,
    /// To whom.
    pub to: Ipv4Addr,
    /// Identifier and sequence number.
    pub id: [u8; 4],
    /// Data.
    pub data: &'a [u8],
}

/// Reads a frame.
#[must_use]
pub fn read(frame: &[u8]) -> Said<'_> {
    read_checked(frame).unwrap_or(Said::Other)
}

fn read_checked(frame: &[u8]) -> Option<Said<'_>> {
    let (_to, rest) = frame.split_first_chunk::<6>()?;
    let (source, rest) = rest.split_first_chunk::<6>()?;
    let (kind, packet) = rest.split_first_chunk::<2>()?;
    match *kind {
        TYPE_ARP => read_arp(packet),
        TYPE_IPV4 => read_echo(Mac(*source), packet),
        _ => None,
    }
}

fn read_arp(packet: &[u8]) -> Option<Said<'_>> {
    let (head, rest) = packet.split_first_chunk::<6>()?;
    let (operation, rest) = rest.split_first_chunk::<2>()?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let (sender, rest) = rest.split_first_chunk::<4>()?;
    let target: &[u8; 4] = rest.get(6..)?.first_chunk()?;
    let (mac, sender, target) = (Mac(*mac), Ipv4Addr::from(*sender), Ipv4Addr::from(*target));
    match (*head, *operation) {
        (ARP_HEAD, [0, 1]) => Some(Said::ArpRequest { mac, sender, target }),
        (ARP_HEAD, [0, 2]) => Some(Said::ArpReply { mac, sender }),
        _ => None,
    }
}

fn read_echo(mac: Mac, packet: &[u8]) -> Option<Said<'_>> {
    let (header, _) = packet.split_first_chunk::<IPV4_BYTES>()?;
    let [version, _, high, low, _, _, frag_high, frag_low, _, protocol, _, _, a, b, c, d, e, f, g, h] =
        *header;
    let more_or_offset = u16::from_be_bytes([frag_high, frag_low]) & 0x3FFF;
    if version != 0x45 || protocol != PROTOCOL_ICMP || more_or_offset != 0 {
        return None;
    }
    // What is longer than it says is padding.
    let message = packet.get(..usize::from(u16::from_be_bytes([high, low])))?.get(IPV4_BYTES..)?;
    let (icmp, data) = message.split_first_chunk::<ICMP_BYTES>()?;
    let [kind, code, _, _, i, j, k, l] = *icmp;
    if code != 0 || (kind != ECHO_REQUEST && kind != ECHO_REPLY) {
        return None;
    }
    if checksum(message) != 0 {
        return Some(Said::BadChecksum);
    }
    Some(Said::Echo(Echo {
        request: kind == ECHO_REQUEST,
        mac,
        from: Ipv4Addr::new(a, b, c, d),
        to: Ipv4Addr::new(e, f, g, h),
        id: [i, j, k, l],
        data,
    }))
}

/// An ARP question to everybody, or the answer to somebody.
#[must_use]
pub fn arp(request: bool, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = ethernet(from.0, if request { Mac::BROADCAST } else { to.0 }, TYPE_ARP);
    frame.extend(ARP_HEAD);
    frame.extend([0, if request { 1 } else { 2 }]);
    for (mac, address) in [from, to] {
        frame.extend(mac.0);
        frame.extend(address.octets());
    }
    frame
}

/// An echo; data behind the 65487th byte is cut off.
#[must_use]
pub fn echo(request: bool, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr), id: [u8; 4], data: &[u8]) -> Vec<u8> {
    let most = usize::from(u16::MAX).saturating_sub(IPV4_BYTES).saturating_sub(ICMP_BYTES);
    let data = data.get(..most).unwrap_or(data);
    let mut icmp = vec![if request { ECHO_REQUEST } else { ECHO_REPLY }, 0, 0, 0];
    icmp.extend(id);
    icmp.extend(data);
    put_checksum(&mut icmp, 2);
    let total = u16::try_from(icmp.len().saturating_add(IPV4_BYTES)).unwrap_or(u16::MAX);
    let [high, low] = total.to_be_bytes();
    // Don't fragment; 64 hops.
    let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, PROTOCOL_ICMP, 0, 0];
    header.extend(from.1.octets());
    header.extend(to.1.octets());
    put_checksum(&mut header, 10);
    let mut frame = ethernet(from.0, to.0, TYPE_IPV4);
    frame.append(&mut header);
    frame.append(&mut icmp);
    frame
}

fn ethernet(from: Mac, to: Mac, kind: [u8; 2]) -> Vec<u8> {
    to.0.into_iter().chain(from.0).chain(kind).collect()
}

fn put_checksum(bytes: &mut [u8], at: usize) {
    let sum = checksum(bytes).to_be_bytes();
    if let Some(place) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = sum;
    }
}

/// The Internet checksum (RFC 1071): 0 over what holds its own.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(u16::from_be_bytes([high, 0])),
        _ => 0,
    };
    // At most 32768 words of 16 bits each: no overflow.
    let mut sum = bytes.chunks(2).take(32768).fold(0_u32, |sum, pair| sum.wrapping_add(word(pair)));
    while let Ok(carry @ 1..) = u16::try_from(sum >> 16) {
        sum = (sum & 0xFFFF).wrapping_add(carry.into());
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// A frame in a few words.
#[must_use]
pub fn describe(frame: &[u8]) -> String {
    match read(frame) {
        Said::ArpRequest { sender, target, .. } => format!("ARP who has {target}? tell {sender}"),
        Said::ArpReply { mac, sender } => format!("ARP {sender} is at {mac}"),
        Said::Echo(echo) => {
            let [_, _, high, low] = echo.id;
            let (what, number) =
                (if echo.request { "request" } else { "reply" }, u16::from_be_bytes([high, low]));
            format!(
                "ICMP echo {what} {} > {}, number {number}, {} bytes",
                echo.from,
                echo.to,
                echo.data.len()
            )
        }
        Said::BadChecksum => "ICMP with a wrong checksum".to_owned(),
        Said::Other => {
            let kind = frame
                .get(12..14)
                .map_or(0, |kind| kind.iter().fold(0, |all, byte| all << 8 | u32::from(*byte)));
            format!("ethertype {kind:#06x}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: (Mac, Ipv4Addr) = (Mac([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 0, 77, 1));
    const B: (Mac, Ipv4Addr) = (Mac::OURS, Ipv4Addr::new(10, 0, 77, 2));

    #[test]
    fn an_echo_is_read_as_it_was_written() {
        for data in [&b""[..], b"x", b"some data", &[0xFF; 1473]] {
            let frame = echo(true, A, B, [1, 2, 3, 4], data);
            let expected = Echo { request: true, mac: A.0, from: A.1, to: B.1, id: [1, 2, 3, 4], data };
            assert_eq!(read(&frame), Said::Echo(expected));
            // Padding does not matter, and the header's own checksum is right.
            let padded = [frame.clone(), vec![0xAA; 7]].concat();
            assert_eq!(read(&padded), Said::Echo(expected));
            assert_eq!(checksum(&frame[14..34]), 0);
        }
    }

    #[test]
    fn a_bit_that_flips_is_noticed() {
        let frame = echo(false, A, B, [0; 4], b"some data");
        for at in 34..frame.len() {
            let mut bad = frame.clone();
            bad[at] ^= 1;
            assert!(!matches!(read(&bad), Said::Echo(_)), "byte {at}");
        }
    }

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        // RFC 1071, section 3: 0001 f203 f4f5 f6f7 sums up to ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]), !0xDDF2);
        assert_eq!(checksum(&[]), 0xFFFF);
    }

    #[test]
    fn questions_and_answers_of_arp() {
        let request = arp(true, A, (Mac([0; 6]), B.1));
        assert_eq!(read(&request), Said::ArpRequest { mac: A.0, sender: A.1, target: B.1 });
        assert_eq!((&request[..6], request.len()), (&[0xFF; 6][..], 42));
        let reply = arp(false, B, A);
        assert_eq!(read(&reply), Said::ArpReply { mac: B.0, sender: B.1 });
        assert_eq!(reply[..6], A.0.0);
    }

    #[test]
    fn what_is_cut_short_is_something_else() {
        for frame in [echo(true, A, B, [0; 4], b"data"), arp(true, A, B)] {
            for bytes in 0..frame.len() {
                assert!(matches!(read(&frame[..bytes]), Said::Other), "{bytes}");
            }
        }
    }

    #[test]
    fn frames_in_a_few_words() {
        assert_eq!(describe(&arp(true, A, (Mac([0; 6]), B.1))), "ARP who has 10.0.77.2? tell 10.0.77.1");
        let text = describe(&echo(false, B, A, [0, 7, 1, 2], b"abc"));
        assert_eq!(text, "ICMP echo reply 10.0.77.2 > 10.0.77.1, number 258, 3 bytes");
        assert_eq!(describe(&[0; 14]), "ethertype 0x0000");
        assert_eq!(describe(&[]), "ethertype 0x0000");
    }
}
