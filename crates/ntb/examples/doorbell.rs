//! A doorbell wakes a thread at the other end: `cargo run -p ntb --example doorbell`.
//!
//! A doorbell is one bit that the peer sets. Unmasked, it raises an interrupt, which here is an eventfd.
#![expect(clippy::print_stdout, reason = "it is an example")]

use ntb::{Bridge, Gen3, Speed, Width};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use twin_local::{LocalTwin, WindowMode};

const PATIENCE: Duration = Duration::from_secs(5);
const READY: u64 = 1 << 0;
const ANSWER: u64 = 1 << 1;

fn main() -> Result<(), Box<dyn Error>> {
    let (usd, dsd) = LocalTwin::pair(WindowMode::Trap)?;
    let usd = Gen3::open(Arc::new(usd))?;
    let dsd = Gen3::open(Arc::new(dsd))?;
    for end in [&usd, &dsd] {
        // All are masked at first: whoever waits for one unmasks it.
        end.doorbells_unmask(READY | ANSWER)?;
        end.link_enable(Speed::Auto, Width::Auto)?;
    }
    usd.wait_for_link(true, PATIENCE)?;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| -> Result<u64, ntb::BridgeError> {
            loop {
                // Blocks. To wait for more than a bridge, poll its event_fd(); events() never waits.
                let events = dsd.wait(PATIENCE)?;
                if events.doorbells & READY != 0 {
                    // Clear first, then look at what it announced: so no ring is lost.
                    dsd.doorbells_clear(READY)?;
                    dsd.ring(ANSWER)?;
                    return Ok(events.doorbells);
                }
            }
        });
        let began = Instant::now();
        usd.ring(READY)?;
        while usd.wait(PATIENCE)?.doorbells & ANSWER == 0 {}
        println!("there and back in {:?}", began.elapsed());
        let rung = waiting.join().map_err(|_| "the waiting thread panicked")??;
        println!("DSD was rung by {rung:#x}, USD has {:#x} pending", usd.doorbells()?);
        Ok(())
    })
}
