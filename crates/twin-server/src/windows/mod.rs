//! How data crosses the memory windows: the one place that knows modes.
//!
//! A *messaged* window needs nothing here: every access asks the model. A *mapped* window is memory under a BAR, which an overlay in
//! the host's process changes at the twin's order. What should lie there follows from the model at any moment
//! ([`Windows::wanted`]); what does lie there is remembered; [`plan`] gives the step from one to the other; the
//! overlay carries it out and answers. While a step is under way the host that caused it gets no reply, so that a
//! driver that has opened or closed a window finds it so.

mod memory;
mod mode;
mod overlay_peer;
mod plan;
mod replaced;
mod wanted;

pub(crate) use mode::refusal;
pub use mode::{UnknownMode, WindowMode};

use crate::host::Hosts;
use control::WindowClass;
use memory::{Memory, exchange, given, order, range};
use overlay_peer::{OverlayPeer, PATIENCE};
use plan::{FilePiece, Step, Under, View, next_step};
use replaced::Replaced;
pub(crate) use replaced::Seen;
use shm::{Mapping, SharedFile};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use twin::{Side, Twin};

/// What mappings are made of.
pub(crate) const PAGE: u64 = 4096;
/// How long steps may be under way without a pause: a window that moves takes four.
const PATIENCE_IN_ALL: Duration = PATIENCE.saturating_mul(2);
/// Overlays whose host has not attached yet, or never will.
const MAX_OVERLAYS: usize = 16;

/// The modes of port a's windows, then of port b's.
pub type Modes = [[WindowMode; ntb_spec::WINDOWS]; 2];

/// Which window: the port that stores, and its number.
pub(crate) type Tag = (Side, usize);

/// Which step of which window an order belongs to: an answer may come after its step was given up and another begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticket {
    tag: Tag,
    step: u64,
}

/// All windows of a twin, and the overlays that serve them.
#[derive(Debug)]
pub(crate) struct Windows {
    a: [Slot; ntb_spec::WINDOWS],
    b: [Slot; ntb_spec::WINDOWS],
    /// The memory of windows in *shared* mode, which both ports' BARs are.
    shared: [Option<Memory>; ntb_spec::WINDOWS],
    overlays: Vec<(u32, OverlayPeer<Ticket>)>,
    /// Steps begun so far.
    steps: u64,
    /// Since when some step has been under way without a pause.
    busy_since: Option<Instant>,
    /// Hosts whose memory other processes map too.
    ram_mapped: [bool; 2],
}

/// One window of one port.
#[derive(Debug)]
struct Slot {
    mode: WindowMode,
    /// The mode that was asked for: a host that comes without an overlay has its windows trapped, the next one need not.
    asked_for: WindowMode,
    /// Fixed when the host asks for the region, until it is gone.
    attached: Option<WindowClass>,
    /// What the host maps when it attaches.
    given: Option<Arc<SharedFile>>,
    /// The window's own memory in *alias* mode.
    own: Option<Memory>,
    /// A host that is gone has had that memory, and its process may have it still: the next one gets other memory.
    own_is_worn: bool,
    actual: View,
    /// What of the receiver's memory it sees as a window's, by file: until it got that back, or is gone.
    replaced: Replaced,
    /// Bus address of what is replaced.
    replaced_at: u64,
    busy: Option<Busy>,
    /// Why the window stays closed, told once.
    problem: Option<&'static str>,
}

/// A step under way.
#[derive(Debug)]
struct Busy {
    step: Step,
    number: u64,
    orders_left: usize,
    failed: Option<String>,
}

/// What became of the work, for the machine to act on.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Hosts whose memory mappings the twin cannot vouch for any more: no link until they attach anew.
    pub(crate) untrusted: Vec<Side>,
}

impl Windows {
    pub(crate) fn new(modes: Modes, ram_mapped: [bool; 2]) -> Self {
        let [a, b] = modes.map(|port| port.map(Slot::new));
        Self { a, b, shared: [None, None], overlays: Vec::new(), steps: 0, busy_since: None, ram_mapped }
    }

    fn slot(&self, (side, window): Tag) -> Option<&Slot> {
        match side {
            Side::A => self.a.get(window),
            Side::B => self.b.get(window),
        }
    }

    fn slot_mut(&mut self, (side, window): Tag) -> Option<&mut Slot> {
        match side {
            Side::A => self.a.get_mut(window),
            Side::B => self.b.get_mut(window),
        }
    }

    fn tags() -> impl Iterator<Item = Tag> {
        Side::BOTH.into_iter().flat_map(|side| (0..ntb_spec::WINDOWS).map(move |window| (side, window)))
    }

    /// A window's mode, and its class while a host is attached.
    pub(crate) fn mode(&self, tag: Tag) -> (WindowMode, WindowClass) {
        self.slot(tag).map_or((WindowMode::Trap, WindowClass::Messaged), |slot| {
            (slot.mode, slot.attached.unwrap_or_else(|| slot.mode.class()))
        })
    }

    /// Changes a window's mode.
    ///
    /// # Errors
    /// A sentence, when the host has attached with the other class, or when others map the memory that would be
    /// replaced.
    pub(crate) fn set_mode(&mut self, tag: Tag, mode: WindowMode) -> Result<(), String> {
        // The other window counts as what it is now: a direct one that is closed maps nobody's memory.
        let other = (tag.0, 1_usize.saturating_sub(tag.1));
        let now = self.slot(other).map_or(WindowMode::Trap, |slot| match slot.mode {
            WindowMode::Direct if !matches!(slot.actual.bar, Under::Pieces(_)) => WindowMode::Trap,
            WindowMode::Alias if slot.actual.replaced.is_empty() => WindowMode::Trap,
            mode => mode,
        });
        if matches!(mode, WindowMode::Alias | WindowMode::Direct)
            && let Some(why) = refusal(tag.0, [mode, now], self.ram_mapped)
        {
            return Err(why);
        }
        let slot = self.slot_mut(tag).ok_or("there is no such window")?;
        match slot.attached {
            Some(class) if class != mode.class() => Err(format!(
                "the window attached as {} and {mode} is {}: QEMU maps a window once, when it starts; restart that \
                 guest's QEMU with a twin started with --window {mode}",
                mode::class_name(class),
                mode::class_name(mode.class()),
            )),
            _ => {
                slot.mode = mode;
                slot.asked_for = mode;
                Ok(())
            }
        }
    }

    /// Whether memory is being exchanged: what is stored there meanwhile may be lost.
    pub(crate) fn is_exchanging(&self) -> bool {
        let exchanges =
            |slot: &Slot| matches!(slot.busy, Some(Busy { step: Step::Replace(_) | Step::Restore(_), .. }));
        Self::tags().any(|tag| self.slot(tag).is_some_and(exchanges))
    }

    /// What a process sees where it maps that byte of a file of its memory.
    pub(crate) fn seen_at(&self, file: (u64, u64), offset: u64) -> Seen {
        let mut own = u64::MAX;
        for slot in Self::tags().filter_map(|tag| self.slot(tag)) {
            match slot.replaced.at(file, offset) {
                Seen::File(bytes) => own = own.min(bytes),
                window @ Seen::Window(..) => return window,
            }
        }
        Seen::File(own)
    }

    /// Whether a step is under way.
    pub(crate) fn is_busy(&self) -> bool {
        Self::tags().any(|tag| self.slot(tag).is_some_and(|slot| slot.busy.is_some()))
    }

    // --- hosts ------------------------------------------------------------------------------------------------

    /// The file of a window that a host may map; decides the window's class.
    pub(crate) fn mapping(&mut self, tag: Tag, bytes: u64, hosts: &Hosts) -> Option<BorrowedFd<'_>> {
        let has_overlay = self.overlay_of(tag.0, hosts).is_some();
        let slot = self.slot_mut(tag)?;
        if slot.attached.is_none() {
            slot.attached = Some(match slot.mode.class() {
                WindowClass::Mapped if !has_overlay => {
                    let (port, window) = (crate::status::port_name(tag.0), tag.1);
                    tracing::warn!(%port, window, "no overlay has connected for this host: the window attaches as trap");
                    slot.mode = WindowMode::Trap;
                    WindowClass::Messaged
                }
                class => class,
            });
        }
        if slot.attached != Some(WindowClass::Mapped) {
            return None;
        }
        if slot.given.is_none() {
            match given(bytes) {
                Ok(file) => {
                    slot.given = Some(Arc::new(file));
                    slot.actual.bar = Under::Given;
                }
                Err(error) => {
                    tracing::error!(%error, "no memory for a mapped window: it attaches as trap");
                    slot.mode = WindowMode::Trap;
                    slot.attached = Some(WindowClass::Messaged);
                }
            }
        }
        slot.given.as_ref().map(|file| file.as_fd())
    }

    /// A host is gone: what it mapped is gone with it, and what it had replaced of its memory too.
    pub(crate) fn detach(&mut self, side: Side) {
        for tag in Self::tags() {
            let Some(slot) = self.slot_mut(tag) else { continue };
            if tag.0 == side {
                slot.attached = None;
                slot.mode = slot.asked_for;
                slot.actual.bar = Under::Closed;
                slot.given = None;
                if matches!(slot.busy, Some(Busy { step: Step::Bar(_), .. })) {
                    slot.busy = None;
                }
                slot.own_is_worn = slot.own.is_some();
                slot.renew();
            } else {
                slot.abandon();
                slot.replaced = Replaced::default();
            }
        }
        // The next host is none of the last one's business.
        self.shared = [None, None];
    }

    /// A host has attached. Its BARs are what [`mapping`](Self::mapping) gives to it.
    pub(crate) fn attach(&mut self, side: Side) {
        for tag in Self::tags().filter(|tag| tag.0 == side) {
            if let Some(slot) = self.slot_mut(tag) {
                slot.problem = None;
            }
        }
    }

    /// The memory of a window in *shared* mode, for an access that comes as a message all the same.
    pub(crate) fn shared_memory(&self, tag: Tag) -> Option<&Arc<Mapping>> {
        let slot = self.slot(tag).filter(|slot| slot.mode == WindowMode::Shared)?;
        // Only an open window reaches anybody.
        matches!(slot.actual.bar, Under::Pieces(_)).then_some(())?;
        self.shared.get(tag.1)?.as_ref().map(|memory| &memory.mapping)
    }

    // --- overlays ---------------------------------------------------------------------------------------------

    /// A process's overlay has introduced itself.
    pub(crate) fn admit(&mut self, pid: u32, stream: UnixStream, hosts: &Hosts) -> io::Result<Verdict> {
        if self.overlays.len() >= MAX_OVERLAYS {
            return Err(io::Error::other("there are too many overlays"));
        }
        let peer = OverlayPeer::new(stream)?;
        let mut verdict = Verdict::default();
        if let Some(at) = self.overlays.iter().position(|(other, _)| *other == pid) {
            // It knows nothing of what the first one did.
            self.overlays.remove(at);
            verdict = self.lose(pid, "another overlay of its process has connected", hosts);
        }
        self.overlays.push((pid, peer));
        Ok(verdict)
    }

    /// For the event loop: each overlay's descriptor, and whether it has something to send.
    pub(crate) fn overlays(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>, bool)> {
        self.overlays.iter().map(|(pid, peer)| (*pid, peer.as_fd(), peer.wants_write()))
    }

    /// When the earliest order is late, or all of them are: each may be in time, and together they keep a host waiting for
    /// too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let orders = self.overlays.iter().filter_map(|(_, peer)| peer.deadline());
        orders.chain(self.busy_since.and_then(|since| since.checked_add(PATIENCE_IN_ALL))).min()
    }

    fn overlay_of(&self, side: Side, hosts: &Hosts) -> Option<usize> {
        let pid = hosts.get(side).pid?;
        self.overlays.iter().position(|(owner, _)| *owner == pid)
    }

    /// Lets one overlay read, write and be late.
    pub(crate) fn service(&mut self, pid: u32, hosts: &mut Hosts) -> Verdict {
        let Some(at) = self.overlays.iter().position(|(owner, _)| *owner == pid) else {
            return Verdict::default();
        };
        let Some((_, peer)) = self.overlays.get_mut(at) else { return Verdict::default() };
        match peer.service() {
            Ok(None) => Verdict::default(),
            Ok(Some(outcome)) => self.finish(outcome.tag, outcome.result.map(|_| ()), hosts),
            Err(lost) => {
                self.overlays.remove(at);
                self.lose(pid, &lost.to_string(), hosts)
            }
        }
    }

    /// Lets every overlay that is late be late.
    pub(crate) fn expire(&mut self, hosts: &mut Hosts) -> Verdict {
        let now = Instant::now();
        let late = |peer: &OverlayPeer<Ticket>| peer.deadline().is_some_and(|deadline| now >= deadline);
        let pids: Vec<u32> =
            self.overlays.iter().filter(|(_, peer)| late(peer)).map(|(pid, _)| *pid).collect();
        let mut verdict = Verdict::default();
        let too_long = |since: Instant| now.saturating_duration_since(since) >= PATIENCE_IN_ALL;
        if self.busy_since.is_some_and(too_long) {
            self.busy_since = None;
            let slow = self.overlays.extract_if(.., |(_, peer)| peer.deadline().is_some());
            for (pid, _) in slow.collect::<Vec<_>>() {
                verdict.untrusted.extend(self.lose(pid, "the overlay takes too long", hosts).untrusted);
            }
        }
        for pid in pids {
            verdict.untrusted.extend(self.service(pid, hosts).untrusted);
        }
        verdict
    }

    /// An overlay is gone. It closes its windows by itself if it lives; what it replaced of its host's memory stays so.
    fn lose(&mut self, pid: u32, why: &str, hosts: &Hosts) -> Verdict {
        let mut verdict = Verdict::default();
        for side in Side::BOTH.into_iter().filter(|&side| hosts.get(side).pid == Some(pid)) {
            let mut mattered = false;
            for tag in Self::tags() {
                let Some(slot) = self.slot_mut(tag) else { continue };
                if tag.0 == side {
                    mattered |= slot.attached == Some(WindowClass::Mapped);
                    slot.actual.bar = Under::Closed;
                } else {
                    mattered |= !slot.actual.replaced.is_empty();
                }
                if let Some(busy) = &slot.busy
                    && matches!(busy.step, Step::Bar(_)) == (tag.0 == side)
                {
                    mattered = true;
                    if tag.0 == side {
                        slot.busy = None;
                    }
                }
                if tag.0 != side {
                    slot.abandon();
                }
            }
            if mattered {
                let port = crate::status::port_name(side);
                // A QEMU that ends closes this connection first, so it is a warning at most.
                tracing::warn!(%port, why, "the twin has no hold on this host's windows: no link until it attaches anew");
                verdict.untrusted.push(side);
            }
        }
        verdict
    }

    // --- work -------------------------------------------------------------------------------------------------

    /// Begins every step that can begin. Called whenever anything has changed.
    pub(crate) fn pump(&mut self, twin: &Twin, hosts: &mut Hosts) -> Verdict {
        let mut verdict = Verdict::default();
        for tag in Self::tags() {
            let Some(slot) = self.slot(tag) else { continue };
            if slot.busy.is_some()
                || (slot.attached != Some(WindowClass::Mapped) && slot.actual.replaced.is_empty())
            {
                continue;
            }
            let (wanted, at) = self.wanted(tag, twin, hosts);
            let Some(slot) = self.slot(tag) else { continue };
            let Some(step) = next_step(&slot.actual, &wanted) else { continue };
            let actor = match step {
                Step::Bar(_) => tag.0,
                Step::Replace(_) | Step::Restore(_) => tag.0.peer(),
            };
            // A host without its overlay stays as it is; it has no link.
            let Some(overlay) = self.overlay_of(actor, hosts) else { continue };
            if let Err(why) = self.begin(tag, step, at, overlay) {
                let pid = self.overlays.get(overlay).map(|(pid, _)| *pid);
                self.overlays.remove(overlay);
                if let Some(pid) = pid {
                    verdict.untrusted.extend(self.lose(pid, &why, hosts).untrusted);
                }
            }
        }
        if !self.is_busy() {
            self.busy_since = None;
        }
        verdict
    }

    /// Sends the orders of a step. What has to be copied before is copied.
    fn begin(&mut self, tag: Tag, step: Step, at: u64, overlay: usize) -> Result<(), String> {
        self.steps = self.steps.wrapping_add(1);
        let number = self.steps;
        let ticket = Ticket { tag, step: number };
        let mut orders = Vec::new();
        match &step {
            Step::Bar(under) => {
                let given =
                    self.slot(tag).and_then(|slot| slot.given.clone()).ok_or("the window has no file")?;
                let target = range(&given, 0, given.bytes())?;
                let pieces = match under {
                    Under::Pieces(pieces) => pieces.as_slice(),
                    Under::Closed | Under::Given => &[],
                };
                orders.push(order(target, pieces, true, ticket)?);
            }
            Step::Replace(pieces) => {
                let own =
                    self.slot(tag).and_then(|slot| slot.own.clone()).ok_or("the window has no memory")?;
                for piece in pieces {
                    exchange(&own, piece, false)?;
                    let target = range(&piece.file, piece.offset, piece.bytes)?;
                    let own = FilePiece {
                        at: 0,
                        bytes: piece.bytes,
                        file: Arc::clone(&own.file),
                        offset: piece.at,
                    };
                    orders.push(order(target, &[own], false, ticket)?);
                }
                if let Some(slot) = self.slot_mut(tag) {
                    slot.replaced_at = at;
                }
            }
            Step::Restore(pieces) => {
                let own =
                    self.slot(tag).and_then(|slot| slot.own.clone()).ok_or("the window has no memory")?;
                for piece in pieces {
                    exchange(&own, piece, true)?;
                    let target = range(&piece.file, piece.offset, piece.bytes)?;
                    let ram = FilePiece {
                        at: 0,
                        bytes: piece.bytes,
                        file: Arc::clone(&piece.file),
                        offset: piece.offset,
                    };
                    orders.push(order(target, &[ram], false, ticket)?);
                }
            }
        }
        if let Some(slot) = self.slot_mut(tag) {
            slot.busy = Some(Busy { step, number, orders_left: orders.len(), failed: None });
        }
        self.busy_since = self.busy_since.or_else(|| Some(Instant::now()));
        let (_, peer) = self.overlays.get_mut(overlay).ok_or("the overlay is gone")?;
        orders.into_iter().try_for_each(|order| peer.order(order)).map_err(|lost| lost.to_string())
    }

    /// An order of a step was answered.
    fn finish(&mut self, ticket: Ticket, result: Result<(), String>, hosts: &mut Hosts) -> Verdict {
        let mut verdict = Verdict::default();
        let Ticket { tag, step } = ticket;
        let Some(slot) = self.slot_mut(tag) else { return verdict };
        // A step that was given up (its host is gone) may still be answered.
        let Some(busy) = slot.busy.as_mut().filter(|busy| busy.number == step) else { return verdict };
        busy.orders_left = busy.orders_left.saturating_sub(1);
        if let Err(why) = result {
            busy.failed = Some(why);
        }
        if busy.orders_left > 0 {
            return verdict;
        }
        let Some(Busy { step, failed, .. }) = slot.busy.take() else { return verdict };
        let actor = if matches!(step, Step::Bar(_)) { tag.0 } else { tag.0.peer() };
        if let Some(why) = failed {
            let port = crate::status::port_name(actor);
            tracing::error!(%port, window = tag.1, why, "an overlay failed: no link until this host attaches anew");
            if matches!(step, Step::Bar(_)) {
                // Ordered to close on failure.
                slot.actual.bar = Under::Closed;
            } else {
                // Nobody knows how far it came, and to try again would go on for ever.
                slot.own = None;
                slot.actual.replaced.clear();
            }
            verdict.untrusted.push(actor);
            return verdict;
        }
        if let (Step::Replace(pieces), Some(own)) = (&step, &slot.own) {
            slot.replaced = Replaced::new(pieces, &own.mapping);
            let memory = &mut hosts.get_mut(actor).memory;
            for piece in pieces {
                let first = slot.replaced_at.saturating_add(piece.at);
                memory.add_view(first, piece.bytes, Arc::clone(&own.mapping), piece.at);
            }
        }
        if let (Step::Restore(_), Some(own)) = (&step, &slot.own) {
            hosts.get_mut(actor).memory.remove_views(&own.mapping);
            slot.replaced = Replaced::default();
        }
        slot.actual.after(step);
        slot.renew();
        verdict
    }
}

impl Slot {
    /// The receiver cannot be told any more. What it has of the window's memory stays with it, so that nobody else may
    /// have it: the window gets other memory.
    fn abandon(&mut self) {
        let under_way = matches!(self.busy, Some(Busy { step: Step::Replace(_) | Step::Restore(_), .. }));
        if under_way {
            self.busy = None;
        }
        if under_way || !self.actual.replaced.is_empty() {
            self.actual.replaced.clear();
            self.own = None;
        }
    }

    /// Lets worn memory go as soon as it is nobody's.
    fn renew(&mut self) {
        if self.own_is_worn && self.busy.is_none() && self.actual.replaced.is_empty() {
            self.own = None;
        }
        self.own_is_worn &= self.own.is_some();
    }

    fn new(mode: WindowMode) -> Self {
        Self {
            mode,
            asked_for: mode,
            attached: None,
            given: None,
            own: None,
            own_is_worn: false,
            actual: View::CLOSED,
            replaced: Replaced::default(),
            replaced_at: 0,
            busy: None,
            problem: None,
        }
    }
}
