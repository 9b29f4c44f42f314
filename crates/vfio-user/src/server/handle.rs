//! One request: judged against the session and the device, carried out, answered.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::counters::{Counters, add, bump};
use super::device::{Device, IrqChange, Region, Vectors};
use super::input::{Message, MessageFds};
use super::output::Output;
use crate::wire::{
    Capabilities, Command, Fault, FaultKind, HEADER_BYTES, Header, IrqAction, IrqData, IrqIndex, MAJOR,
    MAX_DATA_BYTES, MINOR, Records, RegionIndex, RegionReply, Reply, Request, SetIrqs, emit_error,
    emit_read_head, irq_flags, region_flags, server_data,
};

/// What VERSION settled.
#[derive(Debug, Clone, Copy)]
struct Agreed {
    client: Capabilities,
    /// Most bytes of data in one access.
    max_data_bytes: u32,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Work {
    /// How much of the budget it took; at least 1.
    pub(super) cost: usize,
    /// `false`: a multiple write that goes on when it is handed in again.
    pub(super) finished: bool,
}

/// How far a multiple write has come, when the budget ended before its records.
#[derive(Debug, Clone, Copy)]
struct Begun {
    next: usize,
    first_fault: Option<Fault>,
}

/// Bytes that cost as much as a message.
const BYTES_PER_COST: usize = 1024;

/// The part of a session that is neither input nor output.
#[derive(Debug, Default)]
pub(super) struct Desk {
    agreed: Option<Agreed>,
    begun: Option<Begun>,
    pub(super) counters: Counters,
}

impl Desk {
    /// What the client said of itself, once it has.
    pub(super) fn client(&self) -> Option<&Capabilities> {
        self.agreed.as_ref().map(|agreed| &agreed.client)
    }

    /// Carries out one message and puts the answer, if there is to be one, at the end of `out`. Of a multiple write
    /// as many records as `budget` has room for.
    #[inline]
    pub(super) fn handle<D: Device + ?Sized>(
        &mut self,
        message: Message<'_>,
        device: &mut D,
        out: &mut Output,
        budget: usize,
    ) -> Work {
        let Message { header, payload, fds } = message;
        if self.begun.is_none() {
            bump(&mut self.counters.messages);
            add(&mut self.counters.bytes_in, payload.len().saturating_add(HEADER_BYTES));
        }
        let mark = out.bytes.len();
        let mut work = Work { cost: 1, finished: true };
        if let Err(fault) = self.carry_out(&header, payload, fds, device, out, budget, &mut work) {
            // What was begun of a reply is void, and a message that wants no reply gets no error either: QEMU
            // takes one for an answer to something else.
            out.bytes.truncate(mark);
            self.refuse(&header, fault);
            if !header.flags().no_reply() {
                emit_error(&header, fault.errno, &mut out.bytes);
            }
        }
        let replied = out.bytes.len().saturating_sub(mark);
        add(&mut self.counters.bytes_out, replied);
        if header.command() != Command::REGION_WRITE_MULTI {
            work.cost = work.cost.saturating_add(payload.len().saturating_add(replied) / BYTES_PER_COST);
        }
        work
    }

    #[cold]
    fn refuse(&mut self, header: &Header, fault: Fault) {
        self.counters.refused.count(fault.kind);
        tracing::debug!(command = %header.command(), id = header.id().0, %fault, "request refused");
    }

    #[inline]
    fn carry_out<D: Device + ?Sized>(
        &mut self,
        header: &Header,
        payload: &[u8],
        fds: MessageFds,
        device: &mut D,
        out: &mut Output,
        budget: usize,
        work: &mut Work,
    ) -> Result<(), Fault> {
        let (command, posted) = (header.command(), header.flags().no_reply());
        if !header.flags().is_request() {
            return Err(Fault::malformed("the flags are not those of a request"));
        }
        if !fds.is_empty() {
            check_fds(command, &fds)?;
        }
        if posted && is_question(command) {
            return Err(Fault::malformed("a question that wants no answer"));
        }
        let Some(agreed) = self.agreed else {
            return self.negotiate(header, payload, out);
        };
        let reply = match Request::parse(command, payload)? {
            Request::RegionWrite { region, offset, data } => {
                write(device, agreed, region, offset, data, posted)?;
                if posted {
                    bump(&mut self.counters.posted_writes);
                    return Ok(());
                }
                bump(&mut self.counters.writes);
                Reply::Written { region, offset, count: length(data) }
            }
            Request::RegionRead { region, offset, count } => {
                check_access(device, agreed, region, offset, count, |region| region.readable)?;
                emit_read_head(header, region, offset, count, &mut out.bytes);
                let from = out.bytes.len();
                out.bytes.resize(from.saturating_add(usize::try_from(count).unwrap_or(0)), 0);
                let data = out.bytes.get_mut(from..).unwrap_or_default();
                if !data.is_empty() {
                    device.region_read(region, offset, data).map_err(Fault::device)?;
                }
                bump(&mut self.counters.reads);
                return Ok(());
            }
            Request::WriteMulti(records) => {
                self.write_multi(device, agreed, header, records, budget, work)?;
                if !work.finished {
                    return Ok(());
                }
                Reply::WrittenMulti { records: u64::try_from(records.len()).unwrap_or(u64::MAX) }
            }
            Request::Version { .. } => {
                return Err(Fault::new(FaultKind::Order, Errno::INVAL, "VERSION a second time"));
            }
            Request::DmaMap(map) => {
                device.dma_map(map, fds.fds.into_iter().next()).map_err(Fault::device)?;
                Reply::Done
            }
            Request::DmaUnmap(unmap) => {
                device.dma_unmap(unmap).map_err(Fault::device)?;
                Reply::Unmapped(unmap)
            }
            Request::GetInfo { .. } => Reply::Info(device.device_info()),
            Request::GetRegionInfo { argsz, index } => {
                return region_info(device, agreed, header, index, argsz, out);
            }
            Request::GetIrqInfo { index, .. } => {
                check_irq_index(device, index)?;
                Reply::IrqInfo { index, info: device.irq_info(index) }
            }
            Request::SetIrqs(set) => {
                set_irqs(device, set, fds.fds)?;
                Reply::Done
            }
            Request::Reset => {
                device.reset().map_err(Fault::device)?;
                Reply::Done
            }
        };
        if !posted {
            reply.emit(header, &mut out.bytes);
        }
        Ok(())
    }

    fn negotiate(&mut self, header: &Header, payload: &[u8], out: &mut Output) -> Result<(), Fault> {
        let order = Fault::new(FaultKind::Order, Errno::INVAL, "a request before VERSION");
        if header.command() != Command::VERSION {
            return Err(order);
        }
        let Request::Version { major, minor: _, data } = Request::parse(Command::VERSION, payload)? else {
            return Err(order);
        };
        if major != MAJOR {
            return Err(Fault::new(FaultKind::Version, Errno::INVAL, "another major version"));
        }
        let client = Capabilities::parse(data)?;
        let max_data_bytes = client.max_data_xfer_size.min(MAX_DATA_BYTES);
        self.agreed = Some(Agreed { client, max_data_bytes });
        // Any minor version is at least ours, and a reply may name a smaller one.
        Reply::Version { major: MAJOR, minor: MINOR, data: server_data(data.len()) }
            .emit(header, &mut out.bytes);
        Ok(())
    }

    /// Each record stands for a write of its own: one that is refused does not stop the others.
    fn write_multi<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        agreed: Agreed,
        header: &Header,
        records: Records<'_>,
        budget: usize,
        work: &mut Work,
    ) -> Result<(), Fault> {
        let Begun { next, mut first_fault } =
            self.begun.take().unwrap_or(Begun { next: 0, first_fault: None });
        let to = next.saturating_add(budget.max(1)).min(records.len());
        *work = Work { cost: to.saturating_sub(next).max(1), finished: to == records.len() };
        for record in records.iter().take(to).skip(next) {
            match write(device, agreed, record.region, record.offset, record.data(), true) {
                Ok(()) => bump(&mut self.counters.posted_writes),
                Err(fault) if first_fault.is_none() => first_fault = Some(fault),
                Err(fault) => self.refuse(header, fault),
            }
        }
        if !work.finished {
            self.begun = Some(Begun { next: to, first_fault });
            return Ok(());
        }
        first_fault.map_or(Ok(()), Err)
    }
}

/// Commands that make no sense without their reply.
fn is_question(command: Command) -> bool {
    matches!(
        command,
        Command::VERSION
            | Command::GET_INFO
            | Command::GET_REGION_INFO
            | Command::GET_IRQ_INFO
            | Command::REGION_READ
    )
}

fn check_fds(command: Command, fds: &MessageFds) -> Result<(), Fault> {
    if fds.cut {
        return Err(Fault::fds("more file descriptors than max_msg_fds, or than this process can hold"));
    }
    match command {
        Command::SET_IRQS => Ok(()),
        Command::DMA_MAP if fds.fds.len() == 1 => Ok(()),
        Command::DMA_MAP => Err(Fault::fds("DMA_MAP with several file descriptors")),
        _ => Err(Fault::fds("file descriptors where none belong")),
    }
}

fn length(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

#[inline]
fn check_access<D: Device + ?Sized>(
    device: &D,
    agreed: Agreed,
    index: RegionIndex,
    offset: u64,
    count: u32,
    allowed: impl FnOnce(&Region) -> bool,
) -> Result<(), Fault> {
    if count > agreed.max_data_bytes {
        return Err(Fault::new(FaultKind::Range, Errno::TOOBIG, "more data than max_data_xfer_size"));
    }
    if index.0 >= device.device_info().regions {
        return Err(Fault::range("no such region"));
    }
    let region = device.region(index);
    if offset.checked_add(u64::from(count)).is_none_or(|end| end > region.size) {
        return Err(Fault::range("an access beyond the end of the region"));
    }
    if !allowed(&region) {
        return Err(Fault::new(FaultKind::Range, Errno::ACCESS, "an access that the region does not allow"));
    }
    Ok(())
}

#[inline]
fn write<D: Device + ?Sized>(
    device: &mut D,
    agreed: Agreed,
    index: RegionIndex,
    offset: u64,
    data: &[u8],
    posted: bool,
) -> Result<(), Fault> {
    check_access(device, agreed, index, offset, length(data), |region| region.writeable)?;
    if data.is_empty() {
        return Ok(());
    }
    device.region_write(index, offset, data, posted).map_err(Fault::device)
}

fn region_info<D: Device + ?Sized>(
    device: &D,
    agreed: Agreed,
    header: &Header,
    index: RegionIndex,
    room: u32,
    out: &mut Output,
) -> Result<(), Fault> {
    if index.0 >= device.device_info().regions {
        return Err(Fault::range("no such region"));
    }
    let Region { size, readable, writeable } = device.region(index);
    // A client that takes no file descriptor cannot map; saying MMAP would only disappoint it.
    let mapping = device.mapping(index).filter(|_| agreed.client.max_msg_fds > 0 && size > 0);
    let mut flags = 0;
    for (set, flag) in [
        (readable, region_flags::READ),
        (writeable, region_flags::WRITE),
        (mapping.is_some(), region_flags::MMAP),
    ] {
        flags |= if set { flag } else { 0 };
    }
    let region = RegionReply {
        index,
        flags,
        size,
        fd_offset: mapping.map_or(0, |mapping| mapping.fd_offset),
        areas: mapping.map_or(&[], |mapping| mapping.areas),
    };
    let fd: Option<OwnedFd> = match mapping {
        // A short reply makes the client ask again; QEMU would close a descriptor that came with it.
        Some(mapping) if region.fits(room) => {
            Some(rustix::io::fcntl_dupfd_cloexec(mapping.fd.as_fd(), 0).map_err(Fault::device)?)
        }
        _ => None,
    };
    let from = out.bytes.len();
    Reply::RegionInfo { region, room }.emit(header, &mut out.bytes);
    if let Some(fd) = fd {
        out.attach(from, fd);
    }
    Ok(())
}

fn check_irq_index<D: Device + ?Sized>(device: &D, index: IrqIndex) -> Result<(), Fault> {
    if index.0 < device.device_info().irqs { Ok(()) } else { Err(Fault::range("no such interrupt type")) }
}

/// The forms of SET_IRQS. Source: `linux/vfio.h`, `struct vfio_irq_set`; what QEMU sends is in the tests.
fn set_irqs<D: Device + ?Sized>(device: &mut D, set: SetIrqs<'_>, fds: Vec<OwnedFd>) -> Result<(), Fault> {
    let SetIrqs { index, start, count, action, data } = set;
    if data != IrqData::Eventfd && !fds.is_empty() {
        return Err(Fault::fds("SET_IRQS with file descriptors that it does not announce"));
    }
    check_irq_index(device, index)?;
    let info = device.irq_info(index);
    let change = if count == 0 {
        if !(start == 0 && data == IrqData::None && action == IrqAction::Trigger) {
            return Err(Fault::malformed("SET_IRQS of no vectors is not 'disable all'"));
        }
        IrqChange::DisableAll
    } else {
        if start.checked_add(count).is_none_or(|end| end > info.count) {
            return Err(Fault::range("SET_IRQS beyond the last vector"));
        }
        let chosen = match data {
            IrqData::Bool(bytes) => Some(bytes),
            IrqData::None | IrqData::Eventfd => None,
        };
        let vectors = Vectors { start, count, chosen };
        let maskable = info.flags & irq_flags::MASKABLE != 0;
        match (data, action) {
            (IrqData::Eventfd, IrqAction::Trigger) => assignment(info.flags, start, count, fds)?,
            (IrqData::Eventfd, _) => {
                return Err(Fault::new(FaultKind::Unsupported, Errno::OPNOTSUPP, "eventfds for masking"));
            }
            (_, IrqAction::Trigger) => IrqChange::Trigger(vectors),
            (_, IrqAction::Mask) if maskable => IrqChange::Mask(vectors),
            (_, IrqAction::Unmask) if maskable => IrqChange::Unmask(vectors),
            _ => return Err(Fault::malformed("masking an interrupt type that cannot be masked")),
        }
    };
    device.set_irqs(index, change).map_err(Fault::device)
}

fn assignment(flags: u32, start: u32, count: u32, fds: Vec<OwnedFd>) -> Result<IrqChange<'static>, Fault> {
    if fds.is_empty() {
        return Ok(IrqChange::Deassign { start, count });
    }
    if usize::try_from(count) != Ok(fds.len()) {
        return Err(Fault::fds("SET_IRQS has not one file descriptor per vector"));
    }
    if flags & irq_flags::EVENTFD == 0 {
        return Err(Fault::fds("an interrupt type that takes no eventfd"));
    }
    Ok(IrqChange::Assign { start, fds })
}
