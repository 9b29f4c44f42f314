//! The contract of a window: bytes that are shared with a peer who may write them at any time.
//!
//! ```text
//!   my process                                   the peer's
//!   outbound: impl Window  ──stores, copies──▶  inbound: impl Memory   (its own memory)
//!   inbound:  impl Memory  ◀──stores, copies──  outbound: impl Window
//! ```
//!
//! What every window can do is carry stores to the peer: [`Window`]. Only memory that is mapped here can be loaded
//! from as well: [`Memory`]. A *messaged* window, where each store travels as a message, is a `Window` and no more,
//! so code that is generic over `Window` cannot read across the bridge by accident.

use crate::{Mapping, Routine};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How the stores of a window travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowKind {
    /// The processor stores straight into the memory: 4 and 8 byte stores are atomic, no system call is made.
    Mapped,
    /// Each store is a message: they arrive in order, and a copy may be seen in part.
    Messaged,
}

/// How a load is ordered with what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadOrder {
    /// Not at all.
    Relaxed,
    /// What the peer stored before its [`StoreOrder::Release`] store that this load sees is seen by what follows.
    Acquire,
}

/// How a store is ordered with what comes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreOrder {
    /// Not at all.
    Relaxed,
    /// Whoever sees this store by a [`LoadOrder::Acquire`] load sees all that was stored before it, streamed copies
    /// excepted: those need a [`Window::flush`] first.
    Release,
}

impl From<LoadOrder> for Ordering {
    fn from(order: LoadOrder) -> Self {
        match order {
            LoadOrder::Relaxed => Self::Relaxed,
            LoadOrder::Acquire => Self::Acquire,
        }
    }
}

impl From<StoreOrder> for Ordering {
    fn from(order: StoreOrder) -> Self {
        match order {
            StoreOrder::Relaxed => Self::Relaxed,
            StoreOrder::Release => Self::Release,
        }
    }
}

/// Why an access was not made. Nothing was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// It leaves the window.
    #[error("an access outside the window")]
    OutOfBounds,
    /// A word at an address that its size does not divide.
    #[error("a word that is not aligned to its size")]
    Misaligned,
    /// A store into memory that is mapped for loads only.
    #[error("a store into memory that may only be read")]
    ReadOnly,
    /// The window leads nowhere: the link is down or the peer has taken its memory back.
    #[error("the window is closed")]
    Closed,
}

/// Bytes of a peer that stores reach, or of one's own memory that a peer reads.
///
/// Offsets and lengths are in bytes; words are little-endian in memory, whatever the machine. An access that may not
/// be made is an error and touches nothing. Word stores need an offset that their size divides, counted from a base
/// that is itself aligned to 8 bytes at least.
pub trait Window: Send + Sync {
    /// Length in bytes. Never changes.
    fn bytes(&self) -> usize;

    /// How stores travel: what is promised below for mapped windows holds for those alone.
    fn kind(&self) -> WindowKind;

    /// The window as memory that can be loaded from, if it is mapped. A load may have to cross the bridge.
    fn as_memory(&self) -> Option<&dyn Memory> {
        None
    }

    /// The window as the mapping that it is, if it is one, the same for as long as the window lives: then
    /// [`transfer`](crate::transfer) copies from it and to it without a stop in private memory. Whoever holds it asks by
    /// himself whether the window [leads anywhere](Self::is_open).
    fn as_mapping(&self) -> Option<&Mapping> {
        None
    }

    /// Whether the window leads to the peer still, as far as this process knows: a word of its own memory tells it.
    #[inline]
    fn is_open(&self) -> bool {
        true
    }

    /// Copies `data` to offset `at`. Not ordered by itself, and the peer may see a part of it.
    ///
    /// # Errors
    /// [`WindowError`]; nothing was stored.
    fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError>;

    /// The same, by a routine that the caller chose for the size and the place of the peer. A window that has no
    /// choice takes its own.
    ///
    /// # Errors
    /// [`WindowError`]; nothing was stored.
    fn write_by(&self, _routine: Routine, at: usize, data: &[u8]) -> Result<(), WindowError> {
        self.write(at, data)
    }

    /// One store of 4 bytes. Mapped: atomic, and ordered as asked. Messaged: in order with all others.
    ///
    /// # Errors
    /// [`WindowError`]; nothing was stored.
    fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError>;

    /// One store of 8 bytes, in the same way.
    ///
    /// # Errors
    /// [`WindowError`]; nothing was stored.
    fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError>;

    /// Write fence: all that was stored before, streamed and write-combined copies too, reaches the peer before all
    /// that is stored after. Never waits for the peer.
    ///
    /// # Errors
    /// [`WindowError::Closed`].
    fn flush(&self) -> Result<(), WindowError>;

    /// Full fence, for the way to sleep: when it returns, every store of mine is visible to the peer, and every store
    /// that the peer made before it could see mine is visible to me.
    ///
    /// On memory of one machine this is [`full_fence`](crate::full_fence). Across a bridge it takes a round trip (on
    /// PCI Express a read, which pushes posted writes before it in both directions), so it is for slow paths.
    ///
    /// # Errors
    /// [`WindowError::Closed`].
    fn settle(&self) -> Result<(), WindowError>;
}

/// Memory that this process can load from: its own, which the peer stores into, or a mapped window.
pub trait Memory: Window {
    /// Copies out of offset `at` into private memory. The peer may write meanwhile: what arrives is to be checked,
    /// and never read a second time.
    ///
    /// # Errors
    /// [`WindowError`], and `out` is unchanged.
    fn read(&self, at: usize, out: &mut [u8]) -> Result<(), WindowError>;

    /// The same, by a routine of the caller's choice.
    ///
    /// # Errors
    /// [`WindowError`], and `out` is unchanged.
    fn read_by(&self, _routine: Routine, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        self.read(at, out)
    }

    /// Says that loads of `bytes` bytes from `at` on follow soon: a mapped window has the processor fetch the lines while the
    /// program does something else. A range that is out of bounds is ignored.
    ///
    /// A line that the peer has not written yet is taken away from it for nothing.
    #[inline]
    fn will_load(&self, _at: usize, _bytes: usize) {}

    /// One atomic load of 4 bytes.
    ///
    /// # Errors
    /// [`WindowError`].
    fn load_u32(&self, at: usize, order: LoadOrder) -> Result<u32, WindowError>;

    /// One atomic load of 8 bytes.
    ///
    /// # Errors
    /// [`WindowError`].
    fn load_u64(&self, at: usize, order: LoadOrder) -> Result<u64, WindowError>;
}

macro_rules! through {
    ($($pointer:ty),*) => {$(
        impl<T: Window + ?Sized> Window for $pointer {
            #[inline]
            fn bytes(&self) -> usize {
                (**self).bytes()
            }

            #[inline]
            fn kind(&self) -> WindowKind {
                (**self).kind()
            }

            #[inline]
            fn as_memory(&self) -> Option<&dyn Memory> {
                (**self).as_memory()
            }

            #[inline]
            fn as_mapping(&self) -> Option<&Mapping> {
                (**self).as_mapping()
            }

            #[inline]
            fn is_open(&self) -> bool {
                (**self).is_open()
            }

            #[inline]
            fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
                (**self).write(at, data)
            }

            #[inline]
            fn write_by(&self, routine: Routine, at: usize, data: &[u8]) -> Result<(), WindowError> {
                (**self).write_by(routine, at, data)
            }

            #[inline]
            fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
                (**self).store_u32(at, value, order)
            }

            #[inline]
            fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
                (**self).store_u64(at, value, order)
            }

            #[inline]
            fn flush(&self) -> Result<(), WindowError> {
                (**self).flush()
            }

            #[inline]
            fn settle(&self) -> Result<(), WindowError> {
                (**self).settle()
            }
        }

        impl<T: Memory + ?Sized> Memory for $pointer {
            #[inline]
            fn read(&self, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
                (**self).read(at, out)
            }

            #[inline]
            fn read_by(&self, routine: Routine, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
                (**self).read_by(routine, at, out)
            }

            #[inline]
            fn will_load(&self, at: usize, bytes: usize) {
                (**self).will_load(at, bytes);
            }

            #[inline]
            fn load_u32(&self, at: usize, order: LoadOrder) -> Result<u32, WindowError> {
                (**self).load_u32(at, order)
            }

            #[inline]
            fn load_u64(&self, at: usize, order: LoadOrder) -> Result<u64, WindowError> {
                (**self).load_u64(at, order)
            }
        }
    )*};
}

// Both ends of a test, or two layers of a process, share one window.
through!(&T, Arc<T>, Box<T>);
