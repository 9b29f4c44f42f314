//! A pattern through each window: ntb_perf never looks at what arrives.

use super::report::Pattern;
use crate::guest::Guest;
use crate::options::Side;
use crate::pair::Pair;
use crate::steps;
use crate::trouble::failed;
use std::time::Duration;

/// Every store is a message, and ntb_tool stores a byte at a time in places: this much is enough to see
/// misplaced, lost and reordered stores.
const BYTES: u64 = 256 << 10;
/// An emulated guest needs a while for a window of single stores.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends random bytes through both windows, both ways, and compares sums of what was sent and what arrived.
pub(super) fn check(pair: &Pair) -> anyhow::Result<Vec<Pattern>> {
    for guest in pair.guests() {
        // ntb_tool enables no link by itself.
        guest.sh("modprobe ntb_tool")?;
        guest.sh(&format!("echo Y > {}/../link", tool(guest)?))?;
    }
    for guest in pair.guests() {
        guest.sh_for(&format!("echo Y > {}/link_event", tool(guest)?), PATIENCE)?;
    }
    let bytes = BYTES.min(pair.plan().options.window_bytes);
    let mut rows = Vec::new();
    for window in [0, 1] {
        for from in Side::BOTH {
            rows.push(send(pair, from, window, bytes)?);
        }
    }
    for guest in pair.guests() {
        guest.sh("rmmod ntb_tool")?;
    }
    Ok(rows)
}

fn send(pair: &Pair, from: Side, window: u8, bytes: u64) -> anyhow::Result<Pattern> {
    let (sender, receiver) = (pair.guest(from), pair.guest(from.other()));
    let (there, here) = (tool(sender)?, tool(receiver)?);
    // The receiver opens the window; its file mwN is its memory, the sender's peer_mwN the way there.
    receiver.sh(&format!("echo {bytes} > {here}/mw_trans{window}"))?;
    sender.sh(&format!("echo 0:{bytes} > {there}/peer_mw_trans{window}"))?;
    let pattern = format!("/tmp/pattern{window}");
    sender.sh(&format!("head -c {bytes} /dev/urandom > {pattern}"))?;
    sender.sh_for(&format!("dd if={pattern} of={there}/peer_mw{window} bs=64k"), PATIENCE)?;
    let sent = sum(&sender.sh(&format!("sha256sum {pattern}"))?);
    // Reading through the window crosses the bridge once more, and comes after every store before it.
    let through = format!("head -c {bytes} {there}/peer_mw{window} | sha256sum");
    let back = sum(&sender.sh_for(&through, PATIENCE)?);
    let arrived = sum(&receiver.sh(&format!("head -c {bytes} {here}/mw{window} | sha256sum"))?);
    if sent != arrived || sent != back {
        return Err(failed(format!(
            "window {window} from {from} to {}: sent {sent}, arrived {arrived}, read back {back}",
            from.other()
        )));
    }
    sender.sh(&format!("echo 0:0 > {there}/peer_mw_trans{window}; rm {pattern}"))?;
    receiver.sh(&format!("echo 0 > {here}/mw_trans{window}"))?;
    Ok(Pattern { from: from.name(), to: from.other().name(), window, bytes, sha256: sent })
}

/// Where ntb_tool is steered, in a guest.
fn tool(guest: &Guest) -> anyhow::Result<String> {
    Ok(format!("/sys/kernel/debug/ntb_tool/{}/peer0", steps::ntb_device(guest)?))
}

fn sum(line: &str) -> String {
    line.split_whitespace().next().unwrap_or_default().to_owned()
}
