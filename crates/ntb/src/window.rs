//! The two ends of a memory window.

use crate::memory::memory_of;
use crate::{BarIndex, DeviceAddress, DmaMemory, FunctionError, Mapped, PciFunction};
use shm::{LoadOrder, Memory, Routine, StoreOrder, Window, WindowError, WindowKind};
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts how often the link went down, as this process has noticed.
///
/// Windows compare it with what it was when they were asked for: so a store knows that its peer is gone without
/// a read across the bridge.
#[derive(Debug, Default)]
pub struct LinkGeneration(AtomicU64);

impl LinkGeneration {
    /// The link has gone down.
    pub(crate) fn advance(&self) {
        // Pairs with the Acquire in `now`: whoever sees the new number sees what was known when it changed.
        self.0.fetch_add(1, Ordering::Release);
    }

    #[inline]
    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The way into the peer: a window of mine that reaches its memory.
///
/// Stores through a *mapped* window are stores: no system call, no lock. The peer sees them in the order in which
/// they were made on x86 (on other machines, and with write-combining, put a fence before the doorbell). Through a *messaged* one each
/// is a posted write of the function.
///
/// A window that is closed, at either end, drops stores and loads all ones: a messaged one at the twin, which counts them;
/// a mapped one is then a private page. Neither is an error here, since nothing tells without a read across
/// the bridge. What this process knows by itself is that the link was down: after it has seen that event,
/// every access is [`WindowError::Closed`], until the window is asked for again.
#[derive(Debug, Clone)]
pub struct Outbound {
    way: Way,
    bytes: usize,
    address: Option<DeviceAddress>,
    link: Arc<LinkGeneration>,
    generation: u64,
}

#[derive(Debug, Clone)]
enum Way {
    Mapped(Arc<Mapped>),
    Messaged(Arc<dyn PciFunction>, BarIndex),
}

impl Outbound {
    pub(crate) fn mapped(memory: Arc<Mapped>, link: Arc<LinkGeneration>) -> Self {
        let (bytes, generation) = (Window::bytes(&*memory), link.now());
        Self { way: Way::Mapped(memory), bytes, address: None, link, generation }
    }

    pub(crate) fn messaged(
        function: Arc<dyn PciFunction>,
        bar: BarIndex,
        bytes: usize,
        link: Arc<LinkGeneration>,
    ) -> Self {
        let generation = link.now();
        Self { way: Way::Messaged(function, bar), bytes, address: None, link, generation }
    }

    /// The same window, which devices of this host find at an address.
    pub(crate) fn at(self, address: DeviceAddress) -> Self {
        Self { address: Some(address), ..self }
    }

    /// Where a DMA engine of this host finds the window.
    #[must_use]
    pub fn address(&self) -> Option<DeviceAddress> {
        self.address
    }

    /// The memory of a mapped window, for atomics and for loops that check [`is_current`](Self::is_current) themselves.
    #[must_use]
    pub fn memory(&self) -> Option<&Arc<Mapped>> {
        match &self.way {
            Way::Mapped(memory) => Some(memory),
            Way::Messaged(..) => None,
        }
    }

    /// The file that the peer has put under byte `at`, and which of its bytes lies there: what a process may be given that is to
    /// store there and nowhere else. None for a messaged window, for a closed one, and on hardware.
    #[must_use]
    pub fn under(&self, at: u64) -> Option<(Arc<OwnedFd>, u64)> {
        self.memory()?.under(at)
    }

    /// Whether the link has been up, as far as this process has noticed, ever since the window was asked for. One load of
    /// memory of this process.
    #[inline]
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.link.now() == self.generation
    }

    /// Loads from `at`: a read across the bridge, slow, and never needed on a hot path.
    ///
    /// # Errors
    /// [`WindowError`], and `out` is unchanged.
    pub fn read_across(&self, at: usize, out: &mut [u8]) -> Result<(), WindowError> {
        let offset = self.check(at, out.len())?;
        match &self.way {
            Way::Mapped(memory) => Memory::read(&**memory, at, out),
            Way::Messaged(function, bar) => function.bar_read(*bar, offset, out).map_err(gone),
        }
    }

    /// Whether the access may be made; its offset as the BAR has it.
    fn check(&self, at: usize, bytes: usize) -> Result<u64, WindowError> {
        if !self.is_current() {
            return Err(WindowError::Closed);
        }
        match at.checked_add(bytes) {
            Some(end) if end <= self.bytes => u64::try_from(at).map_err(|_| WindowError::OutOfBounds),
            _ => Err(WindowError::OutOfBounds),
        }
    }

    fn word<const N: usize>(&self, at: usize, word: [u8; N]) -> Result<(), WindowError> {
        if !at.is_multiple_of(N) {
            return Err(WindowError::Misaligned);
        }
        self.write(at, &word)
    }
}

/// Length in bytes is that of the BAR; the peer may have opened less.
impl Window for Outbound {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn kind(&self) -> WindowKind {
        match self.way {
            Way::Mapped(_) => WindowKind::Mapped,
            Way::Messaged(..) => WindowKind::Messaged,
        }
    }

    /// Of a mapped window that is current. Whoever keeps it asks [`is_current`](Outbound::is_current) by himself.
    fn as_memory(&self) -> Option<&dyn Memory> {
        match &self.way {
            Way::Mapped(memory) if self.is_current() => Some(&**memory),
            _ => None,
        }
    }

    fn as_mapping(&self) -> Option<&shm::Mapping> {
        self.as_memory()?.as_mapping()
    }

    #[inline]
    fn is_open(&self) -> bool {
        self.is_current()
    }

    #[inline]
    fn write(&self, at: usize, data: &[u8]) -> Result<(), WindowError> {
        let offset = self.check(at, data.len())?;
        match &self.way {
            Way::Mapped(memory) => Window::write(&**memory, at, data),
            Way::Messaged(function, bar) => function.bar_write(*bar, offset, data).map_err(gone),
        }
    }

    #[inline]
    fn write_by(&self, routine: Routine, at: usize, data: &[u8]) -> Result<(), WindowError> {
        match &self.way {
            Way::Mapped(memory) if self.is_current() => memory.write_by(routine, at, data),
            _ => self.write(at, data),
        }
    }

    #[inline]
    fn store_u32(&self, at: usize, value: u32, order: StoreOrder) -> Result<(), WindowError> {
        match &self.way {
            Way::Mapped(memory) if self.is_current() => memory.store_u32(at, value, order),
            _ => self.word(at, value.to_le_bytes()),
        }
    }

    #[inline]
    fn store_u64(&self, at: usize, value: u64, order: StoreOrder) -> Result<(), WindowError> {
        match &self.way {
            Way::Mapped(memory) if self.is_current() => memory.store_u64(at, value, order),
            _ => self.word(at, value.to_le_bytes()),
        }
    }

    /// Messages keep their order, so a messaged window has nothing to do.
    fn flush(&self) -> Result<(), WindowError> {
        self.check(0, 0)?;
        match &self.way {
            Way::Mapped(memory) => memory.flush(),
            Way::Messaged(..) => Ok(()),
        }
    }

    /// Of a messaged window: a read, which returns after the writes before it.
    fn settle(&self) -> Result<(), WindowError> {
        match &self.way {
            Way::Mapped(memory) if self.is_current() => memory.settle(),
            _ => self.read_across(0, &mut [0; 4]),
        }
    }
}

/// A window without its function leads nowhere.
fn gone(error: FunctionError) -> WindowError {
    tracing::debug!(%error, "an access through a window failed");
    WindowError::Closed
}

/// Closes the peer's way into this host.
pub(crate) trait Closer: fmt::Debug + Send + Sync {
    fn close(&self, window: usize);
}

/// The way from the peer: memory of mine that its window reaches. Closed when dropped.
///
/// The peer writes any byte at any time: take numbers out once, check them, then use them.
#[derive(Debug)]
pub struct Inbound {
    memory: Source,
}

#[derive(Debug)]
enum Source {
    /// My memory, under the peer's window.
    Own { memory: DmaMemory, window: usize, closer: Arc<dyn Closer> },
    /// A BAR of mine that is the peer's BAR too.
    Shared(Arc<Mapped>),
}

impl Inbound {
    pub(crate) fn own(memory: DmaMemory, window: usize, closer: Arc<dyn Closer>) -> Self {
        Self { memory: Source::Own { memory, window, closer } }
    }

    pub(crate) fn shared(memory: Arc<Mapped>) -> Self {
        Self { memory: Source::Shared(memory) }
    }

    /// The memory.
    #[inline]
    #[must_use]
    pub fn memory(&self) -> &Mapped {
        match &self.memory {
            Source::Own { memory, .. } => memory.memory(),
            Source::Shared(memory) => memory,
        }
    }

    /// Where devices of this host find it, for a DMA engine that reads it; `None` in mode *shared*.
    #[must_use]
    pub fn address(&self) -> Option<DeviceAddress> {
        match &self.memory {
            Source::Own { memory, .. } => Some(memory.address()),
            Source::Shared(_) => None,
        }
    }
}

memory_of!(Inbound, |me| Ok::<_, WindowError>(me.memory()));

impl Drop for Inbound {
    fn drop(&mut self) {
        if let Source::Own { window, closer, .. } = &self.memory {
            closer.close(*window);
        }
    }
}
