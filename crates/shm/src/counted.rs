//! How many bytes the copy routines have moved: so that a test can show what is copied, and how often.

/// Bytes that this thread has copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// From private memory into shared memory.
    pub stored: u64,
    /// From shared memory into private memory.
    pub loaded: u64,
    /// From one mapping to another ([`transfer`](crate::transfer)).
    pub transferred: u64,
}

impl Copied {
    /// What this thread has copied since it began; none in builds without debug assertions, which do not count.
    #[must_use]
    pub fn by_this_thread() -> Option<Self> {
        #[cfg(debug_assertions)]
        return Some(counts::COPIED.get());
        #[cfg(not(debug_assertions))]
        None
    }
}

#[cfg(debug_assertions)]
mod counts {
    use super::Copied;
    use std::cell::Cell;

    thread_local! {
        pub(super) static COPIED: Cell<Copied> = const { Cell::new(Copied { stored: 0, loaded: 0, transferred: 0 }) };
    }
}

#[cfg(debug_assertions)]
fn count(add: impl FnOnce(&mut Copied)) {
    let mut copied = counts::COPIED.get();
    add(&mut copied);
    counts::COPIED.set(copied);
}

#[inline(always)]
pub(crate) fn stored(_bytes: usize) {
    #[cfg(debug_assertions)]
    count(|copied| copied.stored += _bytes as u64);
}

#[inline(always)]
pub(crate) fn loaded(_bytes: usize) {
    #[cfg(debug_assertions)]
    count(|copied| copied.loaded += _bytes as u64);
}

#[inline(always)]
pub(crate) fn transferred(_bytes: usize) {
    #[cfg(debug_assertions)]
    count(|copied| copied.transferred += _bytes as u64);
}
