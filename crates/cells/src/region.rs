//! The two memories that a channel lies in.

use std::sync::Arc;

/// A channel's two regions: the peer's, which I store into, and mine, which the peer stores into.
#[derive(Debug)]
pub(crate) struct Ends<O, I> {
    /// The window into the peer's memory.
    pub(crate) out: Arc<O>,
    /// Where the peer's region begins in it.
    pub(crate) theirs: usize,
    /// My memory.
    pub(crate) own: Arc<I>,
    /// Where my region begins in it.
    pub(crate) mine: usize,
}

// Not derived: that would ask for windows that can be cloned.
impl<O, I> Clone for Ends<O, I> {
    fn clone(&self) -> Self {
        Self { out: Arc::clone(&self.out), theirs: self.theirs, own: Arc::clone(&self.own), mine: self.mine }
    }
}
