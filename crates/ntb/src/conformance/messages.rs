//! Message registers, where a device has them.

use super::{Failure, PATIENCE, Pair, Testbed, Verdict, check, equal};
use crate::{Bridge, BridgeError, MessageQueue};
use std::sync::Arc;

pub(super) fn they_lie_until_they_are_taken(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    if pair.usd.message_count() == 0 {
        let refused =
            [pair.usd.messages().err(), pair.usd.message_send(0, 1).err(), pair.usd.message_take(0).err()];
        for error in refused {
            check(matches!(error, Some(BridgeError::NoMessages)), format!("{error:?}"))?;
        }
        return Ok(());
    }
    for (end, peer) in pair.both() {
        let count = end.message_count();
        check(end.message_send(count, 0).is_err(), "there is no register behind the last")?;
        peer.messages_mask(0)?;
        for register in 0..count {
            let word = 0xA000 | u32::from(register);
            check(end.message_send(register, word)?, "it goes")?;
            check(
                !end.message_send(register, word.wrapping_add(1))?,
                "the next one does not, while it lies there",
            )?;
            check(peer.wait(PATIENCE)?.messages, "the event")?;
            equal("what lies there", peer.messages()?, 1 << register)?;
            equal("the message", peer.message_take(register)?, Some(word))?;
            equal("taken once", peer.message_take(register)?, None)?;
            equal("a read, so that the taking is done", peer.messages()?, 0)?;
            check(end.message_send(register, word)?, "there is room again")?;
            equal("the second message", peer.message_take(register)?, Some(word))?;
            peer.events()?;
        }
        // A link that goes down takes what lies there along.
        end.link_disable()?;
        peer.wait_for_link(false, PATIENCE)?;
        equal("after link down", peer.messages()?, 0)?;
        check(!end.message_send(0, 1)?, "nothing goes while the link is down")?;
        pair.connect()?;
    }
    Ok(())
}

pub(super) fn a_queue_keeps_their_order_and_its_bound(testbed: &dyn Testbed) -> Verdict {
    const MESSAGES: u32 = 300;
    let Pair { usd, dsd } = Pair::up(testbed)?;
    if usd.message_count() == 0 {
        let refused = MessageQueue::new(Arc::new(usd), 8).err();
        return check(matches!(refused, Some(BridgeError::NoMessages)), format!("{refused:?}"));
    }
    let (usd, dsd): (Arc<dyn Bridge>, Arc<dyn Bridge>) = (Arc::new(usd), Arc::new(dsd));
    let mut sender = MessageQueue::new(Arc::clone(&usd), 8)?;
    let mut full = None;
    for message in 0..100 {
        if let Err(error) = sender.send(message)? {
            full = Some(error);
            break;
        }
    }
    let room = usize::from(usd.message_count()).saturating_add(8);
    equal("what was too much", full.map(|full| full.message), u32::try_from(room).ok())?;
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| -> Result<(), Failure> {
            let mut receiver = MessageQueue::new(Arc::clone(&dsd), 8)?;
            let mut expected = 0;
            while expected < MESSAGES {
                match receiver.receive()? {
                    Some(message) => {
                        equal("the next message", message, expected)?;
                        expected = expected.saturating_add(1);
                    }
                    None => check(dsd.wait(PATIENCE)?.messages, "a message comes")?,
                }
            }
            Ok(())
        });
        let mut next = u32::try_from(room)?;
        while next < MESSAGES {
            match sender.send(next)? {
                Ok(()) => next = next.saturating_add(1),
                Err(_) => check(usd.wait(PATIENCE)?.messages, "there is room again")?,
            }
        }
        while sender.pump()? > 0 {
            check(usd.wait(PATIENCE)?.messages, "there is room again")?;
        }
        receiving.join().map_err(|_| "the receiving thread panicked")?
    })
}
