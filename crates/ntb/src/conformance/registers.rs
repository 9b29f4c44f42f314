//! What the device is, and its scratchpads.

use super::{Pair, Testbed, Verdict, check, equal};
use crate::{Bridge, BridgeError, Port};

pub(super) fn both_ends_are_what_they_are(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::down(testbed)?;
    equal("port of the USD", pair.usd.port(), Port::Usd)?;
    equal("port of the DSD", pair.dsd.port(), Port::Dsd)?;
    for (end, _) in pair.both() {
        equal("scratchpads", end.scratchpad_count(), 16)?;
        equal("valid doorbells", end.doorbell_valid_mask(), 0x7FFF_FFFF)?;
        equal("doorbell vectors", end.doorbell_vector_count(), 31)?;
        equal("doorbells masked at first", end.doorbell_mask(), 0x7FFF_FFFF)?;
        equal("the union of vectors", (0..=40).map(|v| end.doorbell_vector_mask(v)).sum(), 0x7FFF_FFFF_u64)?;
        check(!end.link()?.up, "the link is down before anybody enables it")?;
        for window in 0..end.window_count() {
            let align = end.window_align(window)?;
            check(align.max_bytes.is_power_of_two() && align.max_bytes >= 4096, format!("{align:?}"))?;
            equal("the window's address is its own size's multiple", align.address_bytes, align.max_bytes)?;
            let address = end.outbound_address(window)?.0;
            check(address > 0 && address.is_multiple_of(align.max_bytes), format!("BAR at {address:#x}"))?;
        }
        let first = end.doorbell_target(0)?;
        let last = end.doorbell_target(30)?;
        equal("doorbells are 4 bytes apart", last.address.0.checked_sub(first.address.0), Some(120))?;
        equal("what rings a doorbell", first.value, 1)?;
    }
    Ok(())
}

pub(super) fn scratchpads_are_seen_at_both_ends(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    for (end, peer) in pair.both() {
        for index in 0..end.scratchpad_count() {
            let value = 0x1000_0000 | u32::from(index) | u32::from(end.port().number()) << 8;
            end.peer_scratchpad_write(index, value)?;
            equal("what I wrote at the peer, read across", end.peer_scratchpad(index)?, value)?;
            equal("what the peer finds", peer.scratchpad(index)?, value)?;
        }
        end.scratchpad_write(3, 0xABCD_0003)?;
        equal("my own", end.scratchpad(3)?, 0xABCD_0003)?;
        equal("my own, read by the peer", peer.peer_scratchpad(3)?, 0xABCD_0003)?;
    }
    Ok(())
}

pub(super) fn scratchpads_outlive_the_link(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    pair.usd.peer_scratchpad_write(7, 77)?;
    equal("before, across", pair.usd.peer_scratchpad(7)?, 77)?;
    equal("before", pair.dsd.scratchpad(7)?, 77)?;
    pair.usd.link_disable()?;
    pair.dsd.wait_for_link(false, super::PATIENCE)?;
    equal("the peer's while the link is down", pair.usd.peer_scratchpad(7)?, u32::MAX)?;
    pair.usd.peer_scratchpad_write(7, 78)?;
    equal("a read, so that the write is done", pair.usd.peer_scratchpad(7)?, u32::MAX)?;
    equal("my own while the link is down", pair.dsd.scratchpad(7)?, 77)?;
    pair.connect()?;
    equal("after", pair.usd.peer_scratchpad(7)?, 77)
}

pub(super) fn what_there_is_not_is_refused(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    let bridge = &pair.usd;
    for index in [16, 17, 255] {
        let refused = [
            bridge.scratchpad(index).err(),
            bridge.scratchpad_write(index, 0).err(),
            bridge.peer_scratchpad(index).err(),
            bridge.peer_scratchpad_write(index, 0).err(),
        ];
        for error in refused {
            check(matches!(error, Some(BridgeError::NoScratchpad { .. })), format!("{error:?}"))?;
        }
    }
    for bits in [1 << 31, 1 << 32, u64::MAX] {
        let refused = [
            bridge.ring(bits),
            bridge.doorbells_clear(bits),
            bridge.doorbells_mask(bits),
            bridge.doorbells_unmask(bits),
        ];
        for result in refused {
            check(matches!(result, Err(BridgeError::NoDoorbell { .. })), format!("{result:?}"))?;
        }
    }
    for doorbell in [31, 32, 64, 255] {
        check(bridge.doorbell_target(doorbell).is_err(), format!("a target of doorbell {doorbell}"))?;
        check(bridge.doorbell_fd(doorbell).is_err(), format!("a descriptor of vector {doorbell}"))?;
    }
    for window in [2, 3, usize::MAX] {
        let refused = [
            bridge.outbound(window).err(),
            bridge.inbound(window, 4096).err(),
            bridge.window_align(window).err(),
            bridge.clear_translation(window).err(),
            bridge.outbound_address(window).err(),
        ];
        for error in refused {
            check(matches!(error, Some(BridgeError::NoWindow { .. })), format!("{error:?}"))?;
        }
    }
    Ok(())
}
