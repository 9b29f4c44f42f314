//! The driver of the I/OAT engine (8086:2021): what Linux's `drivers/dma/ioat` does with one channel.

use super::{DmaCopy, DmaDone, DmaEngine, DmaError, DmaTarget, check};
use crate::events::wait_readable;
use crate::{BarIndex, DeviceAddress, DmaMemory, LoadOrder, Memory, PciFunction, StoreOrder, Window};
use ntb_spec::function;
use ntb_spec::ioat::{
    self, CHANNELS, COMMAND_RESET, CONTROL_RUN, Channel, Control, DESCRIPTOR_BYTES, Descriptor, Global,
    STATUS_COMPLETED, State, block, channel_offset, config, global_offset,
};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read};
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Descriptors of the ring. One stays free, so that a completion names one and no other.
const RING: u64 = 1024;
const RING_BYTES: u64 = RING.saturating_mul(64);
const _: () = assert!(DESCRIPTOR_BYTES == 64);
/// INTRCTRL: interrupts on, a vector for each channel (Linux `ioat_dma_setup_interrupts`).
const INTERRUPTS: u8 = 0x09;
/// How long a channel may take to become quiet (Linux: 200 ms).
const QUIET: Duration = Duration::from_secs(1);
/// How long a wait goes on before it looks whether the channel has halted.
const GLANCE: Duration = Duration::from_millis(20);

/// One channel of an engine.
pub struct Ioat {
    function: Arc<dyn PciFunction>,
    channel: u8,
    /// The most bytes of a descriptor.
    transfer_bytes: usize,
    ring: DmaMemory,
    completion: DmaMemory,
    /// Descriptors since the chain was begun: numbers without end.
    issued: u64,
    /// Of these, how many the engine has been told of.
    started: u64,
    completed: u64,
    under_way: VecDeque<UnderWay>,
    fence: bool,
    vectors: Vec<OwnedFd>,
}

/// A copy that has not ended. It keeps its memory.
struct UnderWay {
    /// It has ended when so many descriptors have completed.
    ends_at: u64,
    _copy: DmaCopy,
    done: Option<DmaDone>,
}

impl Ioat {
    /// Takes a channel of an engine into use. One driver has the engine: it sets the vectors of all channels.
    ///
    /// # Errors
    /// [`DmaError`] says what the device is instead, or what it does not do.
    pub fn open(function: Arc<dyn PciFunction>, channel: u8) -> Result<Self, DmaError> {
        let mut id = [0; 4];
        function.config_read(0, &mut id)?;
        let [vendor_low, vendor_high, device_low, device_high] = id;
        let vendor = u16::from_le_bytes([vendor_low, vendor_high]);
        let device = u16::from_le_bytes([device_low, device_high]);
        if (vendor, device) != (function::VENDOR, config::DEVICE) {
            return Err(DmaError::NotAnEngine { vendor, device });
        }
        let bar_bytes = function.bar_bytes(BarIndex::REGISTERS)?;
        if bar_bytes < u64::from(ioat::BYTES) {
            return Err(DmaError::Registers { register: "BAR 0 size", value: bar_bytes });
        }
        let on = function::COMMAND_MEMORY | function::COMMAND_BUS_MASTER;
        function.config_write(config::COMMAND, &on.to_le_bytes())?;
        let [channels] = global(&*function, Global::ChannelCount)?;
        if channels & 0x1F <= channel || usize::from(channel) >= CHANNELS {
            return Err(DmaError::Registers { register: "CHANCNT", value: channels.into() });
        }
        let [log2] = global(&*function, Global::XferCap)?;
        let transfer_bytes = match log2 & 0x1F {
            log2 @ 12.. => 1_usize.checked_shl(log2.into()),
            _ => None,
        };
        let transfer_bytes =
            transfer_bytes.ok_or(DmaError::Registers { register: "XFERCAP", value: log2.into() })?;
        let ring = function.dma_allocate(RING_BYTES, 64)?;
        let completion = function.dma_allocate(64, 64)?;
        let vectors = (0..CHANNELS).map(|_| eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC));
        let vectors: Vec<OwnedFd> = vectors
            .collect::<Result<_, Errno>>()
            .map_err(|errno| DmaError::Function(format!("there are no eventfds: {errno}")))?;
        let fds: Vec<BorrowedFd<'_>> = vectors.iter().map(AsFd::as_fd).collect();
        function.enable_vectors(&fds)?;
        let at = global_offset(Global::InterruptControl);
        function.bar_write(BarIndex::REGISTERS, at.into(), &[INTERRUPTS])?;
        let mut engine = Self {
            function,
            channel,
            transfer_bytes,
            ring,
            completion,
            issued: 0,
            started: 0,
            completed: 0,
            under_way: VecDeque::new(),
            fence: false,
            vectors,
        };
        engine.begin()?;
        Ok(engine)
    }

    /// Readable when a copy has ended.
    #[must_use]
    pub fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.vectors.get(usize::from(self.channel)).map(AsFd::as_fd)
    }

    fn set(&self, reg: Channel, data: &[u8]) -> Result<(), DmaError> {
        let at = block(self.channel).saturating_add(channel_offset(reg));
        Ok(self.function.bar_write(BarIndex::REGISTERS, at.into(), data)?)
    }

    fn get<const N: usize>(&self, reg: Channel) -> Result<[u8; N], DmaError> {
        let mut bytes = [0; N];
        let at = block(self.channel).saturating_add(channel_offset(reg));
        self.function.bar_read(BarIndex::REGISTERS, at.into(), &mut bytes)?;
        Ok(bytes)
    }

    /// Resets the channel and begins a chain (Linux `ioat_reset_hw`, `ioat_alloc_chan_resources`).
    fn begin(&mut self) -> Result<(), DmaError> {
        self.set(Channel::Command, &[COMMAND_RESET])?;
        let began = Instant::now();
        while self.get::<1>(Channel::Command)? != [0] {
            if began.elapsed() > QUIET {
                return Err(DmaError::NotQuiet);
            }
            std::thread::yield_now();
        }
        let errors: [u8; 4] = self.get(Channel::Error)?;
        self.set(Channel::Error, &errors)?;
        (self.issued, self.started, self.completed, self.fence) = (0, 0, 0, false);
        self.completion.store_u64(0, 0, StoreOrder::Release)?;
        self.set(Channel::CompletionAddress, &self.completion.address().0.to_le_bytes())?;
        self.set(Channel::Control, &CONTROL_RUN.to_le_bytes())?;
        self.set(Channel::ChainAddress, &self.ring.address().0.to_le_bytes())
    }

    /// Which descriptor of the ring a number is, as an offset there.
    fn slot(number: u64) -> usize {
        usize::try_from(number % RING).unwrap_or_default().saturating_mul(DESCRIPTOR_BYTES)
    }

    fn free(&self) -> u64 {
        RING.saturating_sub(1).saturating_sub(self.issued.saturating_sub(self.completed))
    }

    fn put(&mut self, size: usize, control: Control, from: u64, to: u64) -> Result<(), DmaError> {
        let base = self.ring.address().0;
        let next = Self::slot(self.issued.saturating_add(1));
        let descriptor = Descriptor {
            size: u32::try_from(size).map_err(|_| DmaError::Range { at: 0, bytes: size })?,
            control,
            source: from,
            destination: to,
            next: base.saturating_add(u64::try_from(next).unwrap_or_default()),
        };
        self.ring.write(Self::slot(self.issued), &descriptor.to_bytes())?;
        self.issued = self.issued.saturating_add(1);
        Ok(())
    }

    /// What the engine has written of its progress: local memory, no register.
    fn note_completion(&mut self) -> Result<(), DmaError> {
        let completion = self.completion.load_u64(0, LoadOrder::Acquire)?;
        let address = completion & STATUS_COMPLETED;
        if address != 0 {
            let never = DmaError::Completion { completion };
            let offset = address.checked_sub(self.ring.address().0).filter(|&offset| offset < RING_BYTES);
            let slot = offset.ok_or(never.clone())? >> 6;
            // How far it is from the one that is due next, around the ring.
            let ahead = slot.wrapping_sub(self.completed % RING) % RING;
            let done = self.completed.saturating_add(ahead).saturating_add(1);
            // The one before the next is where it was.
            if ahead.saturating_add(1) < RING {
                if done > self.issued {
                    return Err(never);
                }
                self.completed = done;
            }
        }
        if State::of(completion) == Some(State::Halted) {
            return Err(self.halted()?);
        }
        Ok(())
    }

    fn halted(&self) -> Result<DmaError, DmaError> {
        Ok(DmaError::Halted { channel_error: u32::from_le_bytes(self.get(Channel::Error)?) })
    }

    /// Tells those whose copies have ended.
    fn tell(&mut self) -> usize {
        let mut count: usize = 0;
        while self.under_way.front().is_some_and(|copy| copy.ends_at <= self.completed) {
            if let Some(UnderWay { done: Some(done), .. }) = self.under_way.pop_front() {
                done(Ok(()));
            }
            count = count.saturating_add(1);
        }
        count
    }

    /// Gives everything up and begins anew.
    fn fail(&mut self, error: DmaError) -> DmaError {
        for copy in std::mem::take(&mut self.under_way) {
            if let Some(done) = copy.done {
                done(Err(error.clone()));
            }
        }
        match self.begin() {
            Ok(()) => error,
            Err(worse) => worse,
        }
    }

    /// Takes the interrupt, if there is one, and has the next one raised.
    fn rearm(&self) -> Result<(), DmaError> {
        let mut count = [0; 8];
        if self.event_fd().is_some_and(|fd| read(fd, &mut count).is_ok()) {
            self.set(Channel::Control, &CONTROL_RUN.to_le_bytes())?;
        }
        Ok(())
    }

    fn has_halted(&self) -> Result<bool, DmaError> {
        Ok(State::of(u64::from_le_bytes(self.get(Channel::Status)?)) == Some(State::Halted))
    }
}

impl DmaEngine for Ioat {
    fn allocate(&self, bytes: u64) -> Result<DmaMemory, DmaError> {
        Ok(self.function.dma_allocate(bytes, 64)?)
    }

    fn queue(&mut self, copy: DmaCopy, done: Option<DmaDone>) -> Result<(), DmaError> {
        check(&copy)?;
        let to = match &copy.to {
            DmaTarget::Window(outbound) => outbound.address().ok_or(DmaError::Unreachable)?,
            DmaTarget::Memory(memory) => memory.address(),
            DmaTarget::Address(address) => *address,
        };
        let end = |address: DeviceAddress, at: usize| {
            let first = address.0.checked_add(u64::try_from(at).ok()?)?;
            first.checked_add(u64::try_from(copy.bytes).ok()?).map(|_| first)
        };
        let range = DmaError::Range { at: copy.to_at, bytes: copy.bytes };
        let (mut from, mut to) =
            end(copy.from.address(), copy.from_at).zip(end(to, copy.to_at)).ok_or(range)?;
        let pieces = u64::try_from(copy.bytes.div_ceil(self.transfer_bytes)).unwrap_or(u64::MAX);
        if pieces.saturating_add(self.fence.into()) > self.free() {
            return Err(DmaError::Full);
        }
        if std::mem::take(&mut self.fence) {
            // What follows a descriptor with the fence bit waits until it is done (Linux `ioat_prep_interrupt_lock`).
            self.put(1, Control::new().with_null(true).with_fence(true), 0, 0)?;
        }
        let mut left = copy.bytes;
        while left > 0 {
            let now = left.min(self.transfer_bytes);
            left = left.saturating_sub(now);
            let last = left == 0;
            let control = Control::new().with_interrupt(last).with_completion_write(last);
            self.put(now, control, from, to)?;
            let step = u64::try_from(now).unwrap_or_default();
            (from, to) = (from.saturating_add(step), to.saturating_add(step));
        }
        self.under_way.push_back(UnderWay { ends_at: self.issued, _copy: copy, done });
        Ok(())
    }

    fn start(&mut self) -> Result<(), DmaError> {
        if self.started == self.issued {
            return Ok(());
        }
        // The descriptors are memory of this host; the write of the count is behind them on every way there is.
        let [low, high, ..] = self.issued.to_le_bytes();
        self.set(Channel::Count, &[low, high])?;
        self.started = self.issued;
        Ok(())
    }

    fn fence(&mut self) {
        self.fence = true;
    }

    fn poll(&mut self) -> Result<usize, DmaError> {
        self.start()?;
        self.rearm()?;
        let noted = self.note_completion();
        let count = self.tell();
        noted.map_err(|error| self.fail(error))?;
        Ok(count)
    }

    fn pending(&self) -> usize {
        self.under_way.len()
    }

    fn finish(&mut self, timeout: Duration) -> Result<usize, DmaError> {
        let began = Instant::now();
        let mut count = self.poll()?;
        while !self.under_way.is_empty() {
            let Some(left) = timeout.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else {
                break;
            };
            if let Some(fd) = self.event_fd() {
                wait_readable(fd, left.min(GLANCE))?;
            }
            count = count.saturating_add(self.poll()?);
            if !self.under_way.is_empty() && self.has_halted()? {
                let error = self.halted()?;
                return Err(self.fail(error));
            }
        }
        Ok(count)
    }
}

impl Drop for Ioat {
    /// The channel must be quiet before its ring is taken away; a device that is gone is.
    fn drop(&mut self) {
        if let Err(error) = self.begin() {
            tracing::debug!(%error, "the channel could not be reset");
        }
    }
}

impl fmt::Debug for Ioat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ioat")
            .field("function", &self.function)
            .field("channel", &self.channel)
            .field("issued", &self.issued)
            .field("completed", &self.completed)
            .finish_non_exhaustive()
    }
}

fn global<const N: usize>(function: &dyn PciFunction, reg: Global) -> Result<[u8; N], DmaError> {
    let mut bytes = [0; N];
    function.bar_read(BarIndex::REGISTERS, global_offset(reg).into(), &mut bytes)?;
    Ok(bytes)
}
