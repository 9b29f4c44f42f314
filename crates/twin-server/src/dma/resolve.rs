//! Where an address leads, at this moment.

use crate::machine::Machine;
use crate::windows::{Seen, WindowMode};
use ntb_spec::WINDOWS;
use shm::Mapping;
use std::sync::Arc;
use twin::Side;

/// Some bytes from an address on that lie in one place.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) place: Place,
    /// At least 1.
    pub(super) bytes: u64,
}

/// What an address means to an engine.
#[derive(Debug)]
pub(super) enum Place {
    /// Memory, at an offset of a mapping.
    Memory(Arc<Mapping>, usize),
    /// A window that reaches nothing: all ones, or dropped.
    Nowhere,
    /// The registers of the host's NTB, at an offset.
    Registers(u32),
}

/// What an engine wants to do at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Load,
    Store,
}

impl Machine {
    /// Where the first of `bytes` bytes at `address` lie, for the engine of a host. `None`: nowhere, which is an error.
    pub(super) fn resolve(&mut self, side: Side, address: u64, bytes: u64, wish: Wish) -> Option<Span> {
        self.resolve_memory(side, address, bytes, wish)
            .or_else(|| self.resolve_bar(side, address, bytes, wish))
    }

    /// The same in the host's own memory alone: descriptors and completions are nowhere else.
    pub(super) fn resolve_memory(&self, side: Side, address: u64, bytes: u64, wish: Wish) -> Option<Span> {
        let span = self.dma.get(side)?.memory.span(address, bytes, wish == Wish::Store)?;
        // The host may see a window's memory there, and this map does not know.
        Some(match self.windows.seen_at(span.file, span.offset) {
            Seen::Window(mapping, at, more) => {
                Span { place: Place::Memory(mapping, at), bytes: span.bytes.min(more) }
            }
            Seen::File(more) => {
                Span { place: Place::Memory(span.mapping, span.at), bytes: span.bytes.min(more) }
            }
        })
    }

    fn resolve_bar(&mut self, side: Side, address: u64, bytes: u64, wish: Wish) -> Option<Span> {
        if !self.is_one_host(side) {
            return None;
        }
        let within = |(first, size): (u64, u64)| {
            let offset = address.checked_sub(first).filter(|&offset| offset < size)?;
            Some((offset, bytes.min(size.saturating_sub(offset))))
        };
        if let Some((offset, bytes)) = self.twin.bar_range(side, 0).and_then(within) {
            return Some(Span { place: Place::Registers(u32::try_from(offset).ok()?), bytes });
        }
        (0..WINDOWS).zip([2, 4]).find_map(|(window, bar)| {
            let (offset, bytes) = self.twin.bar_range(side, bar).and_then(within)?;
            Some(self.through(side, window, offset, bytes, wish))
        })
    }

    /// Where bytes of a window lead. What reaches nothing ends where the window may open again.
    fn through(&mut self, side: Side, window: usize, offset: u64, bytes: u64, wish: Wish) -> Span {
        let nowhere = |bytes| Span { place: Place::Nowhere, bytes };
        if self.windows.mode((side, window)).0 == WindowMode::Shared {
            // As for a store by the processor: it is open or it is not.
            let memory = self.windows.shared_memory((side, window));
            return match memory.zip(usize::try_from(offset).ok()) {
                Some((memory, at)) => Span { place: Place::Memory(Arc::clone(memory), at), bytes },
                None => nowhere(bytes),
            };
        }
        let (_, open) = self.twin.outbound(side, window);
        let inside = open.saturating_sub(offset).min(bytes);
        let bytes = if inside == 0 { bytes } else { inside };
        match self.twin.route(side, window, offset, bytes) {
            Ok(range) => {
                let memory = &self.hosts.get(range.side).memory;
                match memory.span(range.address, bytes, wish == Wish::Store) {
                    Some(span) => Span { place: Place::Memory(span.mapping, span.at), bytes: span.bytes },
                    None => nowhere(bytes.min(memory.gap(range.address))),
                }
            }
            Err(_) => nowhere(bytes),
        }
    }

    /// Whether the engine and the NTB of a port belong to one host, as far as anybody can tell: another one's windows are
    /// none of its business.
    fn is_one_host(&self, side: Side) -> bool {
        let engine = self.dma.get(side).and_then(|host| host.pid);
        match (engine, self.hosts.get(side).pid) {
            (Some(engine), Some(port)) => engine == port,
            _ => true,
        }
    }
}
