//! A receiver of market data: one UDP multicast group comes to this program past the kernel; everything else on the link (ARP, pings,
//! TCP) goes to the kernel's interface as before.
//!
//! ```text
//!   cargo run -p vi-service --example multicast -- /tmp/vi-b.sock 239.1.2.3:5000 1000
//!   isthmus vi send --service /tmp/vi-a.sock --reach 1 -n 1000 239.1.2.3 5000
//! ```
//!
//! Each datagram is taken to begin with a number, little-endian, of 8 bytes: gaps are counted.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::path::Path;
use vi::filter::{Filter, Transport};
use vi::udp::UDP_HEADER_BYTES;
use vi::{Event, ProtectionDomain};
use vi_service::{Client, ClientOptions};

/// Stands for the program's protection domain.
#[derive(Debug)]
struct Market;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, service, group, frames] = arguments.as_slice() else {
        return Err("usage: multicast SERVICE GROUP:PORT FRAMES".into());
    };
    let (count, gaps) = receive(Path::new(service), group.parse()?, frames.parse()?)?;
    println!("{count} datagrams, {gaps} gaps");
    Ok(())
}

/// Takes so many datagrams of a group: how many those were, and how often a number was not the next one.
pub(crate) fn receive(
    service: &Path,
    group: std::net::SocketAddr,
    frames: u64,
) -> Result<(u64, u64), Box<dyn std::error::Error>> {
    let options = ClientOptions { name: "multicast".to_owned(), ..ClientOptions::default() };
    let mut client = Client::<Market>::connect(service, &ProtectionDomain::new(), &options)?;
    client.add_filter(Filter::Local {
        transport: Transport::Udp,
        address: group.ip(),
        first: group.port(),
        last: group.port(),
        vlan: None,
    })?;
    println!("interface {:?} takes udp:{group}", client.number());

    let (mut count, mut expected, mut gaps) = (0, None, 0);
    while count < frames {
        // Lanes and filters come and go with the far side: one load says whether.
        if client.has_news() {
            client.refresh()?;
        }
        let mut events: [Event<'_, Market>; 32] = std::array::from_fn(|_| Event::Nothing);
        let found = client.poll(&mut events);
        for event in &events[..found] {
            let Event::Received(packet) = event else { continue };
            // A private copy of the one word that is looked at; the frame stays where it landed.
            let mut number = [0; 8];
            packet.read(UDP_HEADER_BYTES, &mut number)?;
            let number = u64::from_le_bytes(number);
            gaps += u64::from(expected.is_some_and(|expected| expected != number));
            expected = Some(number + 1);
            count += 1;
        }
        drop(events);
        if found == 0 {
            // A program that must not miss a microsecond polls on instead.
            client.wait(None)?;
        }
    }
    Ok((count, gaps))
}
