//! Peers that run on the two threads of this process: rtrb, iceoryx2, Unix sockets.

use crate::peer::{Peer, Task};
use anyhow::{Context, Result, bail, ensure};
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use rtrb::{Consumer, Producer, RingBuffer};
use rustix::net::{RecvFlags, SendFlags, recv, send, socketpair};
use std::cell::RefCell;
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use yardstick::{CHUNK, Chunks, Pair, Patience, TRIPS_IN_ALL, frames_of};

/// Places of every queue, as many as Isthmus's lanes have.
const PLACES: usize = 256;
/// Messages that are handed over together in a stream.
const BATCH: usize = 32;

/// A wait-free queue of one process, from slot to slot: the message is moved in and moved out.
pub struct Rtrb<const N: usize> {
    here: (Producer<[u8; N]>, Consumer<[u8; N]>),
    there: Arc<Mutex<(Producer<[u8; N]>, Consumer<[u8; N]>)>>,
}

impl<const N: usize> Rtrb<N> {
    pub fn new() -> Self {
        let (out, from_here) = RingBuffer::new(PLACES);
        let (back, from_there) = RingBuffer::new(PLACES);
        Self { here: (out, from_there), there: Arc::new(Mutex::new((back, from_here))) }
    }

    fn round_trip(&mut self, pair: &mut Pair<'_>) -> Result<f64> {
        let (here, there) = (&mut self.here, Arc::clone(&self.there));
        let (ours, theirs) = pair.both(
            || {
                let mut message = [7; N];
                let mut chunks = Chunks::of_trips();
                for chunk in chunks.by_ref() {
                    for _ in chunk {
                        push(&mut here.0, black_box(message))?;
                        message = pop(&mut here.1)?;
                        black_box(&message);
                    }
                }
                anyhow::Ok(chunks.median_ns())
            },
            move || {
                let (back, from) = &mut *there.lock().unwrap_or_else(PoisonError::into_inner);
                for _ in 0..TRIPS_IN_ALL {
                    let message = pop(from)?;
                    black_box(&message);
                    push(back, message)?;
                }
                anyhow::Ok(())
            },
        );
        theirs?;
        ours
    }

    fn rate(&mut self, pair: &mut Pair<'_>) -> Result<f64> {
        let (here, there) = (&mut self.here, Arc::clone(&self.there));
        let frames = frames_of(N);
        let (ours, theirs) = pair.both(
            || {
                let message = [7; N];
                let mut chunks = Chunks::of_frames(frames);
                for chunk in chunks.by_ref() {
                    for _ in chunk.step_by(BATCH) {
                        // The whole batch goes by one store of the index.
                        let mut patience = Patience::default();
                        let places = loop {
                            match here.0.write_chunk_uninit(BATCH) {
                                Ok(places) => break places,
                                Err(_) => patience.spin()?,
                            }
                        };
                        places.fill_from_iter(std::iter::repeat_n(black_box(message), BATCH));
                    }
                }
                anyhow::Ok(chunks.millions_per_s())
            },
            move || {
                let (_, from) = &mut *there.lock().unwrap_or_else(PoisonError::into_inner);
                let mut patience = Patience::default();
                let mut left = frames;
                while left > 0 {
                    let ready = from.slots().min(BATCH);
                    if ready == 0 {
                        patience.spin()?;
                        continue;
                    }
                    patience = Patience::default();
                    for message in from.read_chunk(ready)? {
                        black_box(&message);
                        left -= 1;
                    }
                }
                anyhow::Ok(())
            },
        );
        theirs?;
        ours
    }
}

fn push<const N: usize>(to: &mut Producer<[u8; N]>, message: [u8; N]) -> Result<()> {
    let mut patience = Patience::default();
    while to.is_full() {
        patience.spin()?;
    }
    to.push(message).context("a queue that is not full is full")
}

fn pop<const N: usize>(from: &mut Consumer<[u8; N]>) -> Result<[u8; N]> {
    let mut patience = Patience::default();
    loop {
        match from.pop() {
            Ok(message) => return Ok(message),
            Err(_) => patience.spin()?,
        }
    }
}

impl<const N: usize> Peer for Rtrb<N> {
    fn name(&self) -> &'static str {
        "rtrb"
    }

    fn tasks(&self) -> Vec<Task> {
        vec![Task::Trip(N), Task::Rate(N)]
    }

    fn measure(&mut self, pair: &mut Pair<'_>, task: Task) -> Result<f64> {
        match task {
            Task::Trip(_) => self.round_trip(pair),
            Task::Rate(_) => self.rate(pair),
        }
    }
}

/// One side of two iceoryx2 services. Its ports stay on the thread that made them.
struct Ports<const N: usize> {
    out: Publisher<ipc::Service, [u8; N], ()>,
    from: Subscriber<ipc::Service, [u8; N], ()>,
}

impl<const N: usize> Ports<N> {
    fn open(out: &str, from: &str) -> Result<Self> {
        let node = NodeBuilder::new().create::<ipc::Service>()?;
        // Tuned: one of each, no history, no overflow, nothing initialised before it is written.
        let service = |name: &str| -> Result<_> {
            Ok(node
                .service_builder(&name.try_into()?)
                .publish_subscribe::<[u8; N]>()
                .max_publishers(1)
                .max_subscribers(1)
                .history_size(0)
                .subscriber_max_buffer_size(PLACES)
                .subscriber_max_borrowed_samples(2)
                .enable_safe_overflow(false)
                .open_or_create()?)
        };
        let (to, from) = (service(out)?, service(from)?);
        let publisher = to
            .publisher_builder()
            .max_loaned_samples(2)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        Ok(Self { out: publisher, from: from.subscriber_builder().buffer_size(PLACES).create()? })
    }

    fn send(&self, message: &[u8; N]) -> Result<()> {
        self.out.loan_uninit()?.write_payload(*black_box(message)).send()?;
        Ok(())
    }

    fn receive(&self) -> Result<[u8; N]> {
        let mut patience = Patience::default();
        loop {
            match self.from.receive()? {
                Some(sample) => return Ok(*sample),
                None => patience.spin()?,
            }
        }
    }
}

thread_local! {
    static PORTS_64: RefCell<Option<Ports<64>>> = const { RefCell::new(None) };
    static PORTS_1500: RefCell<Option<Ports<1500>>> = const { RefCell::new(None) };
}

/// Publish and subscribe in shared memory, the publication that aims at the same latencies.
pub struct Iceoryx2<const N: usize> {
    here: Ports<N>,
    there: &'static std::thread::LocalKey<RefCell<Option<Ports<N>>>>,
    names: [String; 2],
    opened: bool,
}

impl Iceoryx2<64> {
    pub fn of_64() -> Result<Self> {
        Self::new(&PORTS_64)
    }
}

impl Iceoryx2<1500> {
    pub fn of_1500() -> Result<Self> {
        Self::new(&PORTS_1500)
    }
}

impl<const N: usize> Iceoryx2<N> {
    fn new(there: &'static std::thread::LocalKey<RefCell<Option<Ports<N>>>>) -> Result<Self> {
        let names = ["out", "back"].map(|way| format!("isthmus-peers/{}/{N}/{way}", std::process::id()));
        Ok(Self { here: Ports::open(&names[0], &names[1])?, there, names, opened: false })
    }

    /// The other thread's ports, made by it.
    fn open_there(&mut self, pair: &mut Pair<'_>) -> Result<()> {
        if self.opened {
            return Ok(());
        }
        let ([out, back], there) = (self.names.clone(), self.there);
        pair.both(
            || (),
            move || -> Result<()> {
                let ports = Ports::open(&back, &out)?;
                there.with(|place| place.replace(Some(ports)));
                Ok(())
            },
        )
        .1?;
        self.opened = true;
        Ok(())
    }
}

impl<const N: usize> Peer for Iceoryx2<N> {
    fn name(&self) -> &'static str {
        "iceoryx2"
    }

    fn tasks(&self) -> Vec<Task> {
        vec![Task::Trip(N), Task::Rate(N)]
    }

    fn measure(&mut self, pair: &mut Pair<'_>, task: Task) -> Result<f64> {
        self.open_there(pair)?;
        let (here, there) = (&self.here, self.there);
        // One message at a time takes a microsecond: a quarter of the others' frames keeps the window short.
        let frames = frames_of(N) / 4;
        let (ours, theirs) = pair.both(
            || {
                let mut message = [7; N];
                let mut chunks = task.chunks(frames);
                for chunk in chunks.by_ref() {
                    for _ in chunk {
                        here.send(&message)?;
                        if matches!(task, Task::Trip(_)) {
                            message = here.receive()?;
                            black_box(&message);
                        }
                    }
                }
                anyhow::Ok(task.figure(&chunks))
            },
            move || {
                there.with_borrow(|ports| {
                    let ports = ports.as_ref().context("the ports were not opened")?;
                    let count = if matches!(task, Task::Trip(_)) { TRIPS_IN_ALL } else { frames };
                    for _ in 0..count {
                        let message = ports.receive()?;
                        black_box(&message);
                        if matches!(task, Task::Trip(_)) {
                            ports.send(&message)?;
                        }
                    }
                    anyhow::Ok(())
                })
            },
        );
        theirs?;
        ours
    }
}

/// A pair of Unix sockets that keep message boundaries; both sides spin, neither sleeps.
pub struct UnixSockets {
    here: OwnedFd,
    there: Arc<OwnedFd>,
}

impl UnixSockets {
    pub fn new() -> Result<Self> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (here, there) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok(Self { here, there: Arc::new(there) })
    }
}

fn send_by(socket: &OwnedFd, message: &[u8]) -> Result<()> {
    let mut patience = Patience::default();
    loop {
        match send(socket, message, SendFlags::empty()) {
            Ok(sent) => {
                ensure!(sent == message.len(), "a message was cut");
                return Ok(());
            }
            Err(rustix::io::Errno::AGAIN) => patience.spin()?,
            Err(error) => bail!(error),
        }
    }
}

fn receive_by(socket: &OwnedFd, message: &mut [u8]) -> Result<()> {
    let mut patience = Patience::default();
    loop {
        match recv(socket, &mut *message, RecvFlags::empty()) {
            Ok((_, got)) => {
                ensure!(got == message.len(), "a message came with another length");
                return Ok(());
            }
            Err(rustix::io::Errno::AGAIN) => patience.spin()?,
            Err(error) => bail!(error),
        }
    }
}

impl Peer for UnixSockets {
    fn name(&self) -> &'static str {
        "Unix sockets"
    }

    fn tasks(&self) -> Vec<Task> {
        vec![Task::Trip(64), Task::Rate(64), Task::Trip(1500), Task::Rate(1500)]
    }

    fn measure(&mut self, pair: &mut Pair<'_>, task: Task) -> Result<f64> {
        let (here, there) = (&self.here, Arc::clone(&self.there));
        let (Task::Trip(bytes) | Task::Rate(bytes)) = task;
        let frames = 2 * CHUNK;
        let (ours, theirs) = pair.both(
            || {
                let mut message = vec![7; bytes];
                let mut chunks = task.chunks(frames);
                for chunk in chunks.by_ref() {
                    for _ in chunk {
                        send_by(here, &message)?;
                        if matches!(task, Task::Trip(_)) {
                            receive_by(here, &mut message)?;
                        }
                    }
                }
                Ok(task.figure(&chunks))
            },
            move || {
                let mut message = vec![0; bytes];
                let count = if matches!(task, Task::Trip(_)) { TRIPS_IN_ALL } else { frames };
                for _ in 0..count {
                    receive_by(&there, &mut message)?;
                    black_box(&message);
                    if matches!(task, Task::Trip(_)) {
                        send_by(&there, &message)?;
                    }
                }
                anyhow::Ok(())
            },
        );
        theirs?;
        ours
    }
}
