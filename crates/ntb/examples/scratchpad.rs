//! Two hosts greet each other through scratchpads: `cargo run -p ntb --example scratchpad`.
//!
//! A scratchpad is a register of 32 bits that both ends can read and write. It outlives the link, and needs no memory: it is what a
//! protocol begins with.
#![expect(clippy::print_stdout, reason = "it is an example")]

use ntb::{Bridge, Gen3, Speed, Width};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use twin_local::{LocalTwin, WindowMode};

fn main() -> Result<(), Box<dyn Error>> {
    // Both ends in this process. For a port of `isthmus twin`: VfioUser::connect(socket, control).
    let (usd, dsd) = LocalTwin::pair(WindowMode::Trap)?;
    let usd = Gen3::open(Arc::new(usd))?;
    let dsd = Gen3::open(Arc::new(dsd))?;
    for end in [&usd, &dsd] {
        end.link_enable(Speed::Auto, Width::Auto)?;
    }
    // The link trains for a while; it is up at both ends at the same moment.
    for end in [&usd, &dsd] {
        println!("{}: link {}", end.port(), end.wait_for_link(true, Duration::from_secs(5))?);
    }
    // Each writes its version where the other one looks: in the other one's own scratchpads.
    usd.peer_scratchpad_write(0, 4)?;
    dsd.peer_scratchpad_write(0, 5)?;
    // Reading one's own is cheap. Reading the peer's crosses the bridge.
    println!("USD sees version {}, DSD sees version {}", usd.scratchpad(0)?, dsd.scratchpad(0)?);
    println!("USD reads back {} across the bridge", usd.peer_scratchpad(0)?);
    // While the link is down the peer's scratchpads read all ones, and one's own keep their value.
    usd.link_disable()?;
    dsd.wait_for_link(false, Duration::from_secs(5))?;
    println!("link down: DSD's own {}, USD across {:#x}", dsd.scratchpad(0)?, usd.peer_scratchpad(0)?);
    Ok(())
}
