//! Doorbells: rung, masked, cleared, waited for.

use super::{PATIENCE, Pair, QUIET, Testbed, Verdict, check, equal};
use crate::Bridge;
use crate::events::wait_readable;
use std::time::Duration;

pub(super) fn they_ring_at_the_peer_one_by_one(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    for (end, peer) in pair.both() {
        peer.doorbells_unmask(peer.doorbell_valid_mask())?;
        for doorbell in 0..31 {
            let bit = 1 << doorbell;
            end.ring(bit)?;
            equal("the event", peer.wait(PATIENCE)?.doorbells, bit)?;
            equal("the register", peer.doorbells()?, bit)?;
            equal("my own", end.doorbells()?, 0)?;
            peer.doorbells_clear(bit)?;
            equal("after clearing", peer.doorbells()?, 0)?;
        }
        end.ring(0x5555_5555)?;
        super::eventually("several at once", || Ok(peer.doorbells()? == 0x5555_5555))?;
        peer.doorbells_clear(0x1111_1111)?;
        equal("what was not cleared", peer.doorbells()?, 0x4444_4444)?;
        peer.doorbells_clear(0x4444_4444)?;
        peer.events()?;
        peer.doorbells_mask(peer.doorbell_valid_mask())?;
    }
    Ok(())
}

pub(super) fn a_mask_holds_them_back_and_no_longer(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    for (end, peer) in pair.both() {
        end.ring(1 << 4)?;
        super::eventually("the masked one is latched", || Ok(peer.doorbells()? == 1 << 4))?;
        equal("and raises nothing", peer.wait(QUIET)?.doorbells, 0)?;
        peer.doorbells_unmask(1 << 4)?;
        equal("the mask", peer.doorbell_mask(), 0x7FFF_FFFF & !(1 << 4))?;
        equal("until it is unmasked", peer.wait(PATIENCE)?.doorbells, 1 << 4)?;
        end.ring(1 << 4)?;
        equal("a bell that is set rings no more", peer.wait(QUIET)?.doorbells, 0)?;
        peer.doorbells_clear(1 << 4)?;
        end.ring(1 << 4)?;
        equal("one that was cleared does", peer.wait(PATIENCE)?.doorbells, 1 << 4)?;
        peer.doorbells_mask(1 << 4)?;
        peer.doorbells_clear(1 << 4)?;
    }
    Ok(())
}

pub(super) fn descriptors_wake_who_waits(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    let (end, peer) = (&pair.usd, &pair.dsd);
    peer.events()?;
    peer.doorbells_unmask(1 << 9 | 1 << 10)?;
    check(!wait_readable(peer.event_fd(), Duration::ZERO)?, "nothing has happened, so nothing is readable")?;
    let woken = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| peer.wait(PATIENCE));
        end.ring(1 << 9)?;
        Ok::<_, super::Failure>(waiter.join().map_err(|_| "the waiting thread panicked")??)
    })?;
    equal("a thread that waits", woken.doorbells, 1 << 9)?;
    peer.doorbells_clear(1 << 9)?;
    end.ring(1 << 10)?;
    check(wait_readable(peer.event_fd(), PATIENCE)?, "the descriptor for everything")?;
    check(wait_readable(peer.doorbell_fd(10)?, PATIENCE)?, "the descriptor of the vector")?;
    check(!wait_readable(peer.doorbell_fd(9)?, Duration::ZERO)?, "the descriptor of another vector")?;
    equal("what it was", peer.events()?.doorbells, 1 << 10)?;
    check(!wait_readable(peer.event_fd(), Duration::ZERO)?, "an event is handed out once")
}

pub(super) fn nothing_rings_while_the_link_is_down(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::down(testbed)?;
    pair.dsd.doorbells_unmask(1)?;
    pair.usd.ring(1)?;
    equal("a read, so that the ring is done", pair.usd.doorbells()?, 0)?;
    equal("at the peer", pair.dsd.doorbells()?, 0)?;
    pair.connect()?;
    equal("it is lost, not late", pair.dsd.doorbells()?, 0)
}
