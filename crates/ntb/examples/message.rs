//! Messages without any memory: `cargo run -p ntb --example message`.
//!
//! Message registers are an extension of this twin (`isthmus twin --messages`); no Gen3 hardware has them, other bridges do.
#![expect(clippy::print_stdout, reason = "it is an example")]

use ntb::{Bridge, Gen3, MessageQueue, Speed, Width};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use twin_local::{LocalTwin, Setup, Side, WindowMode};

const PATIENCE: Duration = Duration::from_secs(5);
const COUNT: u32 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let setup = Setup { messages: true, ..Setup::default() };
    let twin = LocalTwin::new(setup, [WindowMode::Trap; 2])?;
    let usd: Arc<dyn Bridge> = Arc::new(Gen3::open(Arc::new(twin.attach(Side::A)?))?);
    let dsd: Arc<dyn Bridge> = Arc::new(Gen3::open(Arc::new(twin.attach(Side::B)?))?);
    for end in [&usd, &dsd] {
        end.link_enable(Speed::Auto, Width::Auto)?;
    }
    usd.wait_for_link(true, PATIENCE)?;
    println!("{} message registers each way", usd.message_count());
    let mut sender = MessageQueue::new(Arc::clone(&usd), 4)?;
    let mut receiver = MessageQueue::new(Arc::clone(&dsd), 4)?;
    let (mut sent, mut received) = (0, Vec::new());
    while received.len() < usize::try_from(COUNT)? {
        // As many as there is room for: four in registers, four in the queue.
        while sent < COUNT && sender.send(sent)?.is_ok() {
            sent += 1;
        }
        println!("{sent} sent, {} wait", sender.pump()?);
        while let Some(message) = receiver.receive()? {
            received.push(message);
        }
        // Taken messages make room at the sender, which hears of it.
        usd.events()?;
    }
    println!("received {received:?}");
    Ok(())
}
