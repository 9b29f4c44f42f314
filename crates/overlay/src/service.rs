//! An overlay for a process that is a host itself.

use crate::agent::Agent;
use crate::{AgentError, Overlays};
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A thread of this process that carries out a twin's orders, until it is dropped or the twin is gone.
///
/// An order looks for addresses in the list of mappings and then replaces what lies there. Between the two none of those
/// addresses may be unmapped, since the next `mmap` of any thread could get it. So whatever of this process is the
/// target of orders (a BAR's file; in mode *alias*, memory that the device was given) is unmapped by
/// [`unmap`](Self::unmap) and in no other way.
#[derive(Debug)]
pub struct Service {
    overlays: Arc<Mutex<Overlays>>,
    stream: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Connects to a twin's control socket. Once it returns, windows of hosts that attach from this process can be mapped. A
    /// process has one service for each twin: the twin takes a second one for a successor of the first.
    ///
    /// # Errors
    /// [`AgentError`] when nobody serves there, or it is no twin of ours.
    pub fn connect(control: &Path) -> Result<Self, AgentError> {
        let mut agent = Agent::connect(control)?;
        agent.welcome()?;
        Ok(Self::start(agent)?)
    }

    /// Serves a twin that has the other end of `stream` and knows what it is.
    ///
    /// # Errors
    /// When the kernel gives no thread or no memory.
    pub fn on(stream: UnixStream) -> io::Result<Self> {
        Self::start(Agent::on(stream))
    }

    fn start(mut agent: Agent) -> io::Result<Self> {
        let overlays = Arc::new(Mutex::new(Overlays::new()?));
        let stream = agent.stream().try_clone()?;
        let shared = Arc::clone(&overlays);
        let thread = std::thread::Builder::new().name("isthmus overlay".to_owned()).spawn(move || {
            // However it ended, there is no twin any more.
            drop(agent.serve(|command, files| lock(&shared).apply(command, files)));
            lock(&shared).hang_up();
        })?;
        Ok(Self { overlays, stream, thread: Some(thread) })
    }

    /// Whether the twin is there still.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// The file that the twin has put under byte `at` of a file that this process maps ([`Overlays::under`]).
    #[must_use]
    pub fn under(&self, file: (u64, u64), at: u64) -> Option<(Arc<OwnedFd>, u64)> {
        lock(&self.overlays).under(file, at)
    }

    /// Drops what maps a file (its device and inode), while no order is being carried out.
    pub fn unmap<M>(&self, file: (u64, u64), mapping: M) {
        let mut overlays = lock(&self.overlays);
        overlays.forget(file);
        drop(mapping);
    }
}

fn lock(overlays: &Mutex<Overlays>) -> MutexGuard<'_, Overlays> {
    // What it knows is checked against the list of mappings before it is used.
    overlays.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Service {
    fn drop(&mut self) {
        // The thread sees an end of file. A socket that is closed already is as good.
        drop(self.stream.shutdown(Shutdown::Both));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
