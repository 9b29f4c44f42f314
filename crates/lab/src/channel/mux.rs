//! One connection with any number of calls on it.

use super::frame::{Decoder, Frame, Kind, MAX_BODY_BYTES, Stream, preamble, word};
use super::types::{Event, Exec, ExitStatus, Hello};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much of a stream may be on the way before its receiver has taken some.
pub const WINDOW_BYTES: usize = 256 * 1024;
/// Requests that may wait for a thread of their own.
const WAITING_REQUESTS: usize = 64;
/// The initiator's bit in a call id: the two ends number their calls apart.
const LISTENER_BIT: u32 = 1 << 31;

/// What a connection does with a request from its other end. Runs on a thread of its own.
pub trait Handler: Send + Sync + 'static {
    /// Carries the request out and ends the call with [`CallWriter::exit`].
    fn exec(&self, request: Exec, call: Call);
}

/// A connection; clones are the same connection.
#[derive(Clone)]
pub struct Mux {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Mux {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mux").field("closed", &lock(&self.shared.state).closed).finish_non_exhaustive()
    }
}

struct Shared {
    out: Mutex<Box<dyn Write + Send>>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    calls: HashMap<u32, Entry>,
    next_id: u32,
    hello: Option<Hello>,
    hellos: u64,
    closed: Option<String>,
}

struct Entry {
    events: Sender<Event>,
    queued: [usize; 3],
    credit: [usize; 3],
    /// Whether this end asked for the command.
    mine: bool,
}

/// Locks even where another thread panicked: every critical section here leaves the state whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mux {
    /// Runs the protocol over a connection: `listener` is true at the end that accepted it.
    pub fn start<R, W>(mut reader: R, writer: W, listener: bool, handler: Arc<dyn Handler>) -> Self
    where
        R: Read + Send + 'static,
        W: Write + Send + 'static,
    {
        let state = State {
            calls: HashMap::new(),
            next_id: if listener { LISTENER_BIT } else { 0 },
            hello: None,
            hellos: 0,
            closed: None,
        };
        let shared = Arc::new(Shared {
            out: Mutex::new(Box::new(writer)),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let (requests, waiting) = sync_channel(WAITING_REQUESTS);
        std::thread::spawn(move || {
            while let Ok((request, call)) = waiting.recv() {
                let handler = Arc::clone(&handler);
                std::thread::spawn(move || handler.exec(request, call));
            }
        });
        let mux = Self { shared };
        let reading = mux.clone();
        std::thread::spawn(move || {
            let why = reading.read_all(&mut reader, &requests);
            reading.close(&why);
        });
        mux
    }

    /// Completes whatever a predecessor on the same byte stream left half written.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_preamble(&self) -> io::Result<()> {
        self.write(&preamble())
    }

    /// Tells the other end that an agent has started.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_hello(&self, hello: &Hello) -> io::Result<()> {
        self.send(&Frame::new(Kind::Hello, 0, serde_json::to_vec(hello)?))
    }

    /// How many times the other end has said hello.
    #[must_use]
    pub fn hellos(&self) -> u64 {
        lock(&self.shared.state).hellos
    }

    /// Waits until the other end has said hello more than `seen` times.
    ///
    /// # Errors
    /// `TimedOut` at the deadline, `NotConnected` with the reason when the connection closes.
    pub fn wait_hello(&self, seen: u64, deadline: Instant) -> io::Result<Hello> {
        let mut state = lock(&self.shared.state);
        loop {
            if let (true, Some(hello)) = (state.hellos > seen, &state.hello) {
                return Ok(hello.clone());
            }
            if let Some(why) = &state.closed {
                return Err(io::Error::new(io::ErrorKind::NotConnected, why.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the connection is gone, and says why.
    #[must_use]
    pub fn wait_closed(&self) -> String {
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(why) = &state.closed {
                return why.clone();
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Starts a command at the other end.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn exec(&self, request: &Exec) -> io::Result<Call> {
        let body = serde_json::to_vec(request)?;
        if body.len() > MAX_BODY_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is longer than a frame"));
        }
        let id = {
            let mut state = lock(&self.shared.state);
            let id = state.next_id;
            state.next_id = (id & LISTENER_BIT) | (id.wrapping_add(1) & !LISTENER_BIT);
            id
        };
        let call = self.register(id, true)?;
        self.send(&Frame::new(Kind::Exec, id, body))?;
        Ok(call)
    }

    /// Ends the connection here: every call on it is lost for the reason given.
    pub fn close(&self, why: &str) {
        let mut state = lock(&self.shared.state);
        if state.closed.is_none() {
            state.closed = Some(why.to_owned());
        }
        lose_calls(&mut state, why);
        drop(state);
        self.shared.changed.notify_all();
    }

    fn register(&self, id: u32, mine: bool) -> io::Result<Call> {
        let (events, received) = channel();
        let mut state = lock(&self.shared.state);
        if let Some(why) = &state.closed {
            return Err(io::Error::new(io::ErrorKind::NotConnected, why.clone()));
        }
        let entry = Entry { events, queued: [0; 3], credit: [WINDOW_BYTES; 3], mine };
        state.calls.insert(id, entry);
        Ok(Call {
            writer: CallWriter { id, mux: self.clone() },
            events: received,
            mine,
            ended: false,
            manual: false,
        })
    }

    fn read_all(&self, reader: &mut dyn Read, requests: &SyncSender<(Exec, Call)>) -> String {
        let mut decoder = Decoder::default();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return "the other end of the channel closed it".to_owned(),
                Ok(count) => {
                    decoder.push(chunk.get(..count).unwrap_or_default());
                    while let Some(frame) = decoder.next_frame() {
                        self.take(frame, requests);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return format!("the channel failed: {error}"),
            }
        }
    }

    /// Acts on one frame. Never writes: see the invariants of the module.
    fn take(&self, frame: Frame, requests: &SyncSender<(Exec, Call)>) {
        if frame.kind == Kind::Exec {
            self.take_request(&frame, requests);
            return;
        }
        let mut state = lock(&self.shared.state);
        if frame.kind == Kind::Hello {
            if let Ok(hello) = serde_json::from_slice(&frame.body) {
                lose_calls(&mut state, "the guest started anew");
                state.hello = Some(hello);
                state.hellos += 1;
                drop(state);
                self.shared.changed.notify_all();
            }
            return;
        }
        let Some(entry) = state.calls.get_mut(&frame.id) else { return };
        let stream = frame.stream;
        let event = match frame.kind {
            Kind::Data if frame.body.is_empty() => Some(Event::End(stream)),
            Kind::Data => {
                entry.queued[stream.index()] += frame.body.len();
                if entry.queued[stream.index()] > WINDOW_BYTES {
                    // A peer that ignores its credit does not get our memory.
                    state.calls.remove(&frame.id);
                    return;
                }
                Some(Event::Data(stream, frame.body))
            }
            Kind::Credit => {
                let more = word(&frame.body, 0).and_then(|more| usize::try_from(more).ok()).unwrap_or(0);
                let credit = &mut entry.credit[stream.index()];
                *credit = credit.saturating_add(more).min(WINDOW_BYTES);
                self.shared.changed.notify_all();
                None
            }
            Kind::Signal => {
                word(&frame.body, 0).and_then(|signal| i32::try_from(signal).ok()).map(Event::Signal)
            }
            Kind::Resize => word(&frame.body, 0)
                .map(u32::to_le_bytes)
                .map(|[a, b, c, d]| Event::Resize(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))),
            Kind::Exit if entry.mine => Some(Event::Exit(
                serde_json::from_slice(&frame.body)
                    .unwrap_or_else(|_| ExitStatus::Lost("its exit status could not be read".to_owned())),
            )),
            Kind::Cancel if !entry.mine => Some(Event::Cancel),
            Kind::Exit | Kind::Cancel | Kind::Hello | Kind::Exec => None,
        };
        let Some(event) = event else { return };
        let last = matches!(event, Event::Exit(_) | Event::Cancel);
        // A receiver that has gone is no news: its Drop has said so to the other end.
        let _ = entry.events.send(event);
        if last {
            state.calls.remove(&frame.id);
            drop(state);
            self.shared.changed.notify_all();
        }
    }

    fn take_request(&self, frame: &Frame, requests: &SyncSender<(Exec, Call)>) {
        if lock(&self.shared.state).calls.contains_key(&frame.id) {
            return;
        }
        let Ok(call) = self.register(frame.id, false) else { return };
        let Ok(request) = serde_json::from_slice(&frame.body) else { return };
        match requests.try_send((request, call)) {
            Ok(()) => {}
            Err(TrySendError::Full((_, call)) | TrySendError::Disconnected((_, call))) => {
                // Refusing means writing, which a reader must not do.
                std::thread::spawn(move || {
                    call.writer().exit(&ExitStatus::Lost("too many commands at once".to_owned()));
                });
            }
        }
    }

    fn send(&self, frame: &Frame) -> io::Result<()> {
        self.write(&frame.emit())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = lock(&self.shared.out);
        out.write_all(bytes)?;
        out.flush()
    }
}

fn lose_calls(state: &mut State, why: &str) {
    for (_, entry) in state.calls.drain() {
        let event = if entry.mine { Event::Exit(ExitStatus::Lost(why.to_owned())) } else { Event::Cancel };
        let _ = entry.events.send(event);
    }
}

/// One end of a running command.
#[derive(Debug)]
pub struct Call {
    writer: CallWriter,
    events: Receiver<Event>,
    mine: bool,
    ended: bool,
    manual: bool,
}

/// The sending half of a call; clones send for the same call.
#[derive(Debug, Clone)]
pub struct CallWriter {
    id: u32,
    mux: Mux,
}

impl Call {
    /// The sending half.
    #[must_use]
    pub fn writer(&self) -> CallWriter {
        self.writer.clone()
    }

    /// From now on the receiver calls [`CallWriter::grant`] itself, once it has passed the bytes on.
    pub fn grant_by_hand(&mut self) {
        self.manual = true;
    }

    /// The next event; the last ones are `Exit` and `Cancel`, and they are given again if asked for again.
    pub fn next_event(&mut self) -> Event {
        let event = self.events.recv();
        self.took(event.unwrap_or_else(|_| self.lost()))
    }

    /// The next event, or nothing at the deadline.
    pub fn next_event_before(&mut self, deadline: Instant) -> Option<Event> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(left) {
            Ok(event) => Some(self.took(event)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                let lost = self.lost();
                Some(self.took(lost))
            }
        }
    }

    fn lost(&self) -> Event {
        if self.mine { Event::Exit(ExitStatus::Lost("the call has ended".to_owned())) } else { Event::Cancel }
    }

    fn took(&mut self, event: Event) -> Event {
        match &event {
            Event::Data(stream, bytes) if !self.manual => self.writer.grant(*stream, bytes.len()),
            Event::Data(..) => {}
            Event::Exit(_) | Event::Cancel => self.ended = true,
            Event::End(_) | Event::Signal(_) | Event::Resize(..) => {}
        }
        event
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let known = lock(&self.writer.mux.shared.state).calls.remove(&self.writer.id).is_some();
        if known && self.mine && !self.ended {
            let _ = self.writer.mux.send(&Frame::new(Kind::Cancel, self.writer.id, Vec::new()));
        }
    }
}

impl CallWriter {
    /// Sends bytes of a stream; waits for credit.
    ///
    /// # Errors
    /// When the call has ended or the connection is gone.
    pub fn data(&self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(MAX_BODY_BYTES) {
            self.take_credit(stream, piece.len())?;
            let frame = Frame { kind: Kind::Data, stream, id: self.id, body: piece.to_vec() };
            self.mux.send(&frame)?;
        }
        Ok(())
    }

    /// Ends a stream.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn end(&self, stream: Stream) -> io::Result<()> {
        self.mux.send(&Frame { kind: Kind::Data, stream, id: self.id, body: Vec::new() })
    }

    /// Ends the call that this end carried out.
    pub fn exit(&self, status: &ExitStatus) {
        if let Ok(body) = serde_json::to_vec(status) {
            let _ = self.mux.send(&Frame::new(Kind::Exit, self.id, body));
        }
        lock(&self.mux.shared.state).calls.remove(&self.id);
    }

    /// Sends a signal to the command.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.mux.send(&Frame::new(Kind::Signal, self.id, signal.to_le_bytes().to_vec()))
    }

    /// Tells the command's terminal its new size.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let body = [rows.to_le_bytes(), columns.to_le_bytes()].concat();
        self.mux.send(&Frame::new(Kind::Resize, self.id, body))
    }

    fn take_credit(&self, stream: Stream, bytes: usize) -> io::Result<()> {
        let mut state = lock(&self.mux.shared.state);
        loop {
            let Some(entry) = state.calls.get_mut(&self.id) else {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the call has ended"));
            };
            let credit = &mut entry.credit[stream.index()];
            if *credit >= bytes {
                *credit -= bytes;
                return Ok(());
            }
            // The time-out guards against nothing but a lost wake-up; the condition is what counts.
            let waited = self.mux.shared.changed.wait_timeout(state, Duration::from_secs(1));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets the other end send that much more of a stream.
    pub fn grant(&self, stream: Stream, bytes: usize) {
        let known = {
            let mut state = lock(&self.mux.shared.state);
            state.calls.get_mut(&self.id).map(|entry| {
                let queued = &mut entry.queued[stream.index()];
                *queued = queued.saturating_sub(bytes);
            })
        };
        if known.is_some() {
            let body = u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes().to_vec();
            let _ = self.mux.send(&Frame { kind: Kind::Credit, stream, id: self.id, body });
        }
    }
}
