//! What the fuzzer runs, and the test that replays its corpus; with the device and the line that other tests use.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::server::{
    Device, IrqChange, Mapping, Next, Progress, Region, ServerSession, SessionError, Vectors,
};
use crate::socket;
use crate::wire::{
    Command, DmaMap, DmaUnmap, Flags, HEADER_BYTES, Header, IrqIndex, IrqInfo, MAX_MESSAGE_BYTES, MessageId,
    RegionIndex, Request, SparseArea, irq_flags,
};

/// A device that remembers what it was told, in words.
#[derive(Debug)]
pub struct Dummy {
    /// One line per call that changes anything.
    pub log: Vec<String>,
    bar0: Vec<u8>,
    config: Vec<u8>,
    file: OwnedFd,
    /// The reply to the last write has to wait.
    pub holds: bool,
}

/// The parts of BAR 2 that may be mapped.
pub const AREAS: [SparseArea; 2] =
    [SparseArea { offset: 0x1000, size: 0x1000 }, SparseArea { offset: 0x8000, size: 0x2000 }];

impl Dummy {
    /// Length of BAR 0 in bytes.
    pub const BAR0_BYTES: usize = 0x20_0000;
    /// A write of this has its reply held.
    pub const HOLD: &[u8] = b"hold this reply!";

    fn new() -> Self {
        Self {
            log: Vec::new(),
            bar0: vec![0; Self::BAR0_BYTES],
            config: vec![0; 4096],
            file: file_of(0x1_0000),
            holds: false,
        }
    }

    fn bytes(&mut self, index: RegionIndex, offset: u64, len: usize) -> Result<&mut [u8], Errno> {
        let memory = match index {
            RegionIndex::BAR0 => &mut self.bar0,
            RegionIndex::CONFIG => &mut self.config,
            _ => return Err(Errno::NODEV),
        };
        let from = usize::try_from(offset).map_err(|_| Errno::FAULT)?;
        // The session has checked this; an out-of-range access here is a bug of the session.
        Ok(&mut memory[from..from + len])
    }
}

/// A file whose length tells it from others.
pub fn file_of(bytes: u64) -> OwnedFd {
    let file = memfd_create("dummy", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&file, bytes).expect("its length");
    file
}

fn lengths(fds: &[OwnedFd]) -> Vec<i64> {
    fds.iter().map(|fd| fstat(fd).map_or(-1, |stat| stat.st_size)).collect()
}

impl Device for Dummy {
    fn region(&self, index: RegionIndex) -> Region {
        match index {
            RegionIndex::BAR0 => Region::read_write(Self::BAR0_BYTES as u64),
            RegionIndex::BAR1 => Region { size: 0x100, readable: true, writeable: false },
            RegionIndex::BAR2 | RegionIndex::BAR4 => Region::read_write(0x1_0000),
            RegionIndex::CONFIG => Region::read_write(4096),
            _ => Region::ABSENT,
        }
    }

    fn mapping(&mut self, index: RegionIndex) -> Option<Mapping<'_>> {
        let areas: &[SparseArea] = match index {
            RegionIndex::BAR2 => &AREAS,
            RegionIndex::BAR4 => &[],
            _ => return None,
        };
        Some(Mapping { fd: self.file.as_fd(), fd_offset: 0, areas })
    }

    fn hold(&self) -> bool {
        self.holds
    }

    fn irq_info(&self, index: IrqIndex) -> IrqInfo {
        match index {
            IrqIndex::INTX => IrqInfo { flags: irq_flags::EVENTFD | irq_flags::MASKABLE, count: 1 },
            IrqIndex::MSIX => IrqInfo { flags: irq_flags::EVENTFD, count: 33 },
            IrqIndex::ERR | IrqIndex::REQ => IrqInfo { flags: irq_flags::EVENTFD, count: 1 },
            _ => IrqInfo::default(),
        }
    }

    fn region_read(&mut self, index: RegionIndex, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        assert!(!data.is_empty(), "an empty read reached the device");
        let bytes = self.bytes(index, offset, data.len())?;
        data.copy_from_slice(bytes);
        Ok(())
    }

    fn region_write(
        &mut self,
        index: RegionIndex,
        offset: u64,
        data: &[u8],
        posted: bool,
    ) -> Result<(), Errno> {
        assert!(!data.is_empty(), "an empty write reached the device");
        self.bytes(index, offset, data.len())?.copy_from_slice(data);
        let posted = if posted { "post" } else { "write" };
        self.log.push(format!("{posted} {index} {offset:#x} {data:x?}"));
        self.holds = data == Self::HOLD;
        Ok(())
    }

    fn dma_map(&mut self, map: DmaMap, fd: Option<OwnedFd>) -> Result<(), Errno> {
        let DmaMap { iova, size, fd_offset, .. } = map;
        let fd: Vec<i64> = lengths(fd.as_slice());
        self.log.push(format!("map {iova}+{size:#x} at {fd_offset:#x} fd {fd:?}"));
        Ok(())
    }

    fn dma_unmap(&mut self, unmap: DmaUnmap) -> Result<(), Errno> {
        match unmap {
            DmaUnmap::Range { iova: crate::wire::DmaAddr(0xdead_0000), .. } => return Err(Errno::NOENT),
            DmaUnmap::Range { iova, size } => self.log.push(format!("unmap {iova}+{size:#x}")),
            DmaUnmap::All => self.log.push("unmap all".into()),
        }
        Ok(())
    }

    fn set_irqs(&mut self, index: IrqIndex, change: IrqChange<'_>) -> Result<(), Errno> {
        let list = |vectors: Vectors<'_>| vectors.iter().collect::<Vec<u32>>();
        self.log.push(match change {
            IrqChange::Assign { start, fds } => format!("{index} assign {start} {:?}", lengths(&fds)),
            IrqChange::Deassign { start, count } => format!("{index} deassign {start} {count}"),
            IrqChange::DisableAll => format!("{index} disable"),
            IrqChange::Trigger(vectors) => format!("{index} trigger {:?}", list(vectors)),
            IrqChange::Mask(vectors) => format!("{index} mask {:?}", list(vectors)),
            IrqChange::Unmask(vectors) => format!("{index} unmask {:?}", list(vectors)),
        });
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.log.push("reset".into());
        Ok(())
    }
}

/// A session with a dummy device, and the client's end of its socket, on one thread.
#[derive(Debug)]
pub struct Line {
    /// Under test.
    pub session: ServerSession,
    /// Behind it.
    pub device: Dummy,
    /// The client's end.
    pub peer: UnixStream,
    heard: Vec<u8>,
}

impl Default for Line {
    fn default() -> Self {
        let (ours, peer) = UnixStream::pair().expect("a pair of sockets");
        Self { session: ServerSession::new(ours), device: Dummy::new(), peer, heard: Vec::new() }
    }
}

impl Line {
    /// Sends as much as fits without waiting.
    pub fn push(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> usize {
        match socket::send(self.peer.as_fd(), bytes, fds, SendFlags::DONTWAIT) {
            Ok(sent) => sent,
            Err(Errno::AGAIN | Errno::PIPE) => 0,
            Err(errno) => panic!("send: {errno}"),
        }
    }

    /// One call of the session.
    pub fn step(&mut self, budget: usize) -> Result<Progress, SessionError> {
        self.session.service(&mut self.device, budget)
    }

    /// Sends all of `bytes` in pieces of at most `piece` bytes, with `fds` beside the first, serving in between.
    pub fn talk(&mut self, bytes: &[u8], piece: usize, fds: &[BorrowedFd<'_>]) -> Result<(), SessionError> {
        let (mut rest, mut fds) = (bytes, fds);
        while !rest.is_empty() {
            let sent = self.push(&rest[..rest.len().min(piece)], fds);
            if sent > 0 {
                fds = &[];
            }
            rest = &rest[sent..];
            self.serve()?;
        }
        Ok(())
    }

    /// Serves until the session has nothing left to do, fetching its replies.
    pub fn serve(&mut self) -> Result<(), SessionError> {
        loop {
            let progress = self.step(7);
            self.fetch();
            match progress?.next {
                Next::Readable | Next::Closed => return Ok(()),
                Next::Again | Next::Held | Next::Writable | Next::Question => {}
            }
        }
    }

    fn fetch(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(got) = socket::receive(self.peer.as_fd(), &mut buffer, RecvFlags::DONTWAIT, drop)
            && got.bytes > 0
        {
            self.heard.extend_from_slice(&buffer[..got.bytes]);
        }
    }

    /// All replies fetched so far, checked for what every reply must be. File descriptors are not kept.
    pub fn replies(&mut self) -> Vec<(Header, Vec<u8>)> {
        self.fetch();
        let mut found = Vec::new();
        while let Some(&header) = Header::peek(&self.heard) {
            let size = header.checked_size(2 * MAX_MESSAGE_BYTES).expect("a good size");
            if self.heard.len() < size {
                break;
            }
            let rest = self.heard.split_off(size);
            let message = std::mem::replace(&mut self.heard, rest);
            match header.flags() {
                Flags::REPLY => assert_eq!(header.error(), 0),
                Flags::ERROR_REPLY => {
                    assert!((1..4096).contains(&header.error()), "an error reply without a real errno");
                    assert_eq!(size, HEADER_BYTES, "an error reply with a body");
                }
                other => panic!("a reply with flags {other:?}"),
            }
            found.push((header, message[HEADER_BYTES..].to_vec()));
        }
        found
    }
}

/// The bytes of one message.
pub fn bytes_of(request: Request<'_>, id: u16, flags: Flags) -> Vec<u8> {
    let mut out = Vec::new();
    request.emit(MessageId(id), flags, &mut out);
    out
}

/// VERSION as the shortest client sends it.
pub fn hello() -> Vec<u8> {
    bytes_of(Request::Version { major: 0, minor: 0, data: &[] }, 0xffff, Flags::COMMAND)
}

/// Feeds `data` to the parser and to a session.
///
/// The first byte says how: bit 0, whether VERSION comes first; bit 1, whether each message's size is put right (so
/// that the fuzzer gets past framing); the others, how the stream is cut. The invariants of the crate's front page
/// are asserted.
pub fn wire(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else { return };
    for command in 0..20 {
        if let Ok(request) = Request::parse(Command(command), data) {
            let message = bytes_of(request, 1, Flags::COMMAND);
            assert_eq!(Request::parse(Command(command), &message[HEADER_BYTES..]), Ok(request));
        }
    }
    let mut line = Line::default();
    if how & 1 != 0 {
        line.talk(&hello(), usize::MAX, &[]).expect("a good VERSION");
    }
    let framed = how & 2 != 0;
    let stream = if framed { with_sizes(data) } else { data.to_vec() };
    let piece = usize::from(how >> 2) * 3 + 1;
    let result = line.talk(&stream, piece, &[]);
    let answered = line.replies().len();
    assert!(answered <= stream.len() / HEADER_BYTES + 1, "more replies than requests");
    if !framed {
        return;
    }
    assert_eq!(result, Ok(()), "framing was right");
    // Whatever was refused: the next good message is read and answered.
    line.talk(&hello(), usize::MAX, &[]).expect("a good VERSION");
    let ask = bytes_of(Request::GetInfo { argsz: 16 }, 0x1234, Flags::COMMAND);
    line.talk(&ask, usize::MAX, &[]).expect("a good question");
    let (header, body) = line.replies().pop().expect("an answer");
    assert_eq!((header.id(), header.flags(), body.len()), (MessageId(0x1234), Flags::REPLY, 16));
}

/// Cuts `data` into messages by the low byte of each size field, and writes sizes that fit.
fn with_sizes(data: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), data);
    while rest.len() >= HEADER_BYTES {
        let size = usize::from(rest[4]).clamp(HEADER_BYTES, rest.len());
        let (message, next) = rest.split_at(size);
        out.extend_from_slice(message);
        let at = out.len() - size + 4;
        out[at..at + 4].copy_from_slice(&u32::try_from(size).unwrap_or(0).to_le_bytes());
        rest = next;
    }
    out
}
