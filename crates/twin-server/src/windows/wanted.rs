//! What should lie under a window: it follows from the model, the hosts' memory and the mode, at any moment.

use super::memory::{Memory, pieces};
use super::plan::{FilePiece, Step, Under, View, meet};
use super::{Busy, PAGE, Tag, WindowMode, Windows};
use crate::host::Hosts;
use control::WindowClass;
use std::sync::Arc;
use twin::Twin;

impl Windows {
    /// What a window should be now, and the bus address at which its receiver's memory begins.
    pub(super) fn wanted(&mut self, tag: Tag, twin: &Twin, hosts: &Hosts) -> (View, u64) {
        let (side, window) = tag;
        let bytes = twin.window_bytes(side, window);
        let Some(slot) = self.slot(tag) else { return (View::CLOSED, 0) };
        let (mode, attached) = (slot.mode, slot.attached == Some(WindowClass::Mapped));
        let untouched = slot.actual.bar == Under::Given && !twin.memory_enabled(side);
        let (own, worn) = (slot.own.clone(), slot.own_is_worn);
        let closed = if untouched { View::GIVEN } else { View::CLOSED };
        let (translation, open) = twin.outbound(side, window);
        let whole = |memory: &Memory, bytes| {
            Under::Pieces(vec![FilePiece { at: 0, bytes, file: Arc::clone(&memory.file), offset: 0 }])
        };
        let other = (side, 1_usize.saturating_sub(window));
        let mut problem = None;
        let view = match mode {
            _ if !attached => closed,
            WindowMode::Trap | WindowMode::Dma => closed,
            WindowMode::Shared => match self.shared_of(window, bytes) {
                Some(memory) if twin.link() == twin::LinkState::Up => {
                    View { bar: whole(&memory, bytes), replaced: Vec::new() }
                }
                _ => closed,
            },
            WindowMode::Alias | WindowMode::Direct if open == 0 => closed,
            // The receiver gets its own memory back first.
            WindowMode::Alias if worn => closed,
            WindowMode::Alias | WindowMode::Direct => {
                // Mappings have pages: the last one opens whole.
                let open = open.next_multiple_of(PAGE);
                match (pieces(hosts, side.peer(), translation, open), own) {
                    (Ok(pieces), _) if self.has_taken(other, &pieces) => {
                        problem = Some("the other window has taken that memory");
                        closed
                    }
                    (Ok(pieces), _) if mode == WindowMode::Alias && self.has_mapped(other, &pieces) => {
                        problem = Some("the other window is direct and maps that memory");
                        closed
                    }
                    (Err(why), _) => {
                        problem = Some(why);
                        closed
                    }
                    (Ok(pieces), _) if mode == WindowMode::Direct => {
                        View { bar: Under::Pieces(pieces), replaced: Vec::new() }
                    }
                    (Ok(replaced), Some(memory)) => View { bar: whole(&memory, open), replaced },
                    (Ok(replaced), None) => match Memory::new("isthmus alias window", bytes) {
                        Ok(memory) => {
                            let bar = whole(&memory, open);
                            if let Some(slot) = self.slot_mut(tag) {
                                slot.own = Some(memory);
                            }
                            View { bar, replaced }
                        }
                        Err(_) => {
                            problem = Some("there is no memory for it");
                            closed
                        }
                    },
                }
            }
        };
        if let Some(slot) = self.slot_mut(tag)
            && slot.problem != problem
        {
            slot.problem = problem;
            if let Some(why) = problem {
                let port = crate::status::port_name(side);
                tracing::warn!(%port, window, why, "the window stays closed");
            }
        }
        (view, translation)
    }

    /// Whether some of this memory of the receiver is a window's own.
    fn has_taken(&self, tag: Tag, pieces: &[FilePiece]) -> bool {
        let Some(slot) = self.slot(tag) else { return false };
        let coming = match &slot.busy {
            Some(Busy { step: Step::Replace(coming), .. }) => coming.as_slice(),
            _ => &[],
        };
        meet(slot.actual.replaced.iter().chain(coming), pieces)
    }

    /// Whether some of this memory of the receiver lies under a window's BAR, in the other host's process: that would not see
    /// what is put in its place.
    fn has_mapped(&self, tag: Tag, pieces: &[FilePiece]) -> bool {
        let Some(slot) = self.slot(tag) else { return false };
        let under = |under: &Under| match under {
            Under::Pieces(mapped) => meet(mapped, pieces),
            Under::Given | Under::Closed => false,
        };
        let coming = |busy: &Busy| matches!(&busy.step, Step::Bar(bar) if under(bar));
        under(&slot.actual.bar) || slot.busy.as_ref().is_some_and(coming)
    }

    fn shared_of(&mut self, window: usize, bytes: u64) -> Option<Memory> {
        let slot = self.shared.get_mut(window)?;
        if slot.is_none() {
            *slot = Memory::new("isthmus shared window", bytes).ok();
        }
        slot.clone()
    }
}
