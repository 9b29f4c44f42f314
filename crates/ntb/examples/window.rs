//! Bytes cross a memory window: `cargo run -p ntb --example window`.
//!
//! A window is a BAR of mine behind which memory of the peer lies: what I store there, the peer finds in its memory.
#![expect(clippy::print_stdout, reason = "it is an example")]

use ntb::{Bridge, Gen3, LoadOrder, Memory, Speed, StoreOrder, Width, Window};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use twin_local::{LocalTwin, WindowMode};

const PATIENCE: Duration = Duration::from_secs(5);
const READY: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    // In mode direct the window is the peer's memory. In mode trap each store is a message; the program is the same.
    let (usd, dsd) = LocalTwin::pair(WindowMode::Direct)?;
    let usd = Gen3::open(Arc::new(usd))?;
    let dsd = Gen3::open(Arc::new(dsd))?;
    // 64 KiB of DSD's memory under USD's window 0, until this is dropped.
    let inbound = dsd.inbound(0, 64 << 10)?;
    for end in [&usd, &dsd] {
        end.link_enable(Speed::Auto, Width::Auto)?;
    }
    let link = usd.wait_for_link(true, PATIENCE)?;
    let outbound = usd.outbound(0)?;
    println!("link {link}; a window of {} bytes, {:?}", outbound.bytes(), outbound.kind());
    // Payload first, then the word that says so: a release store, which the other end's acquire load pairs with.
    outbound.write(0, b"a line for the other side")?;
    outbound.store_u32(READY, 25, StoreOrder::Release)?;
    let bytes = usize::try_from(inbound.load_u32(READY, LoadOrder::Acquire)?)?;
    // What a peer writes is checked before it is used.
    let mut line = vec![0; bytes.min(inbound.bytes())];
    inbound.read(0, &mut line)?;
    println!("DSD found {:?}", String::from_utf8_lossy(&line));
    // The peer is gone: the next store says so, once the event was seen. It would have reached nobody.
    drop(inbound);
    drop(dsd);
    usd.wait_for_link(false, PATIENCE)?;
    println!("a store after that: {:?}", outbound.write(0, b"anybody?"));
    Ok(())
}
