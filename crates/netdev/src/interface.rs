//! The interface follows the link: MTU and offloads as agreed, carrier while all queues have a link.

use crate::link::Agreement;
use crate::pump::Watcher;
use crate::tap::{Statistics, Tap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// The interface, as all its pumps see it.
#[derive(Debug)]
pub struct Interface {
    tap: Tap,
    /// What each queue's link has come to.
    queues: Mutex<Vec<Option<Agreement>>>,
}

/// One queue's part in it.
#[derive(Debug)]
pub struct QueueWatcher {
    interface: Arc<Interface>,
    queue: usize,
}

impl Interface {
    /// An interface whose queues all have no link yet, and a watcher for each.
    #[must_use]
    pub fn new(tap: Tap, queues: usize) -> (Arc<Self>, Vec<QueueWatcher>) {
        let interface = Arc::new(Self { tap, queues: Mutex::new(vec![None; queues]) });
        let watchers =
            (0..queues).map(|queue| QueueWatcher { interface: Arc::clone(&interface), queue }).collect();
        (interface, watchers)
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.tap.name()
    }

    /// What all queues have agreed on; `None` while one of them has no link.
    #[must_use]
    pub fn agreement(&self) -> Option<Agreement> {
        common(&self.queues.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The kernel's counters.
    ///
    /// # Errors
    /// When the interface is not in the caller's network namespace.
    pub fn statistics(&self) -> io::Result<Statistics> {
        self.tap.statistics()
    }

    fn change(&self, queue: usize, agreement: Option<Agreement>) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let before = common(&queues);
        if let Some(slot) = queues.get_mut(queue) {
            *slot = agreement;
        }
        let after = common(&queues);
        if before == after {
            return;
        }
        // Under the lock: two queues must not set the carrier in another order than they changed.
        let results = match after {
            Some(Agreement { mtu, offload, peer }) => {
                let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
                tracing::info!(interface = self.tap.name(), mtu, ?offload, peer, "link up");
                // The carrier whatever becomes of the others: frames that do not fit are refused and counted.
                vec![self.tap.set_mtu(mtu), self.tap.set_offload(offload), self.tap.set_carrier(true)]
            }
            None => {
                tracing::info!(interface = self.tap.name(), "link down");
                vec![self.tap.set_carrier(false)]
            }
        };
        for error in results.into_iter().filter_map(Result::err) {
            tracing::error!(%error, "the interface does not follow the link");
        }
    }
}

/// What holds for all, if something does.
fn common(queues: &[Option<Agreement>]) -> Option<Agreement> {
    let (first, others) = queues.split_first()?;
    (*first).filter(|_| others.iter().all(|other| other == first))
}

impl Watcher for QueueWatcher {
    fn link(&mut self, agreement: Option<Agreement>) {
        self.interface.change(self.queue, agreement);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Offload;

    #[test]
    fn there_is_a_carrier_when_all_queues_agree() {
        let one = Agreement { mtu: 1500, offload: Offload::None, peer: None };
        let two = Agreement { mtu: 9000, ..one };
        assert_eq!(common(&[]), None);
        assert_eq!(common(&[None]), None);
        assert_eq!(common(&[Some(one)]), Some(one));
        assert_eq!(common(&[Some(one), None]), None);
        assert_eq!(common(&[Some(one), Some(two)]), None);
        assert_eq!(common(&[Some(one), Some(one)]), Some(one));
    }
}
