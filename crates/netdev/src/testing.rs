//! Hosts for tests: a pump that runs between a link and a socket pair in the place of a TAP.

use crate::vnet_header::COMPLETE;
use crate::{
    Agreement, Counters, FrameLink, MacAddress, Offer, Offload, Pump, TapQueue, VNET_HEADER_BYTES, Watcher,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::{Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Tells a test what the pump told the interface.
#[derive(Debug)]
struct Teller(mpsc::Sender<Option<Agreement>>);

impl Watcher for Teller {
    fn link(&mut self, agreement: Option<Agreement>) {
        let _ = self.0.send(agreement);
    }
}

/// A host: a pump that runs, and the kernel's end of its TAP.
pub(crate) struct Host {
    kernel: OwnedFd,
    pub(crate) counters: Arc<Counters>,
    heard: Mutex<mpsc::Receiver<Option<Agreement>>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// A socket pair keeps the bounds of frames, as a TAP does.
fn tap() -> (TapQueue, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, kernels) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    (TapQueue::over(ours), kernels)
}

impl Host {
    pub(crate) fn start(link: impl FrameLink + 'static) -> Self {
        let (queue, kernel) = tap();
        let (tell, heard) = mpsc::channel();
        let mut pump = Pump::new(queue, link, Teller(tell), Duration::ZERO);
        let counters = pump.counters();
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let stopper = Arc::clone(&stop);
        let thread = std::thread::spawn(move || pump.run(stopper.as_fd()));
        Self { kernel, counters, heard: Mutex::new(heard), stop, thread: Some(thread) }
    }

    /// The kernel sends a frame. It waits while the pump does not read.
    pub(crate) fn sends(&self, frame: &[u8]) {
        let whole = [&COMPLETE, frame].concat();
        loop {
            match rustix::io::write(&self.kernel, &whole) {
                Ok(bytes) => return assert_eq!(bytes, whole.len()),
                Err(Errno::AGAIN) => wait(&self.kernel, PollFlags::OUT),
                Err(errno) => panic!("{errno}"),
            }
        }
    }

    /// The kernel receives a frame.
    pub(crate) fn receives(&self) -> Vec<u8> {
        wait(&self.kernel, PollFlags::IN);
        let mut frame = vec![0; 66 << 10];
        let bytes = rustix::io::read(&self.kernel, &mut frame).unwrap();
        assert_eq!(frame[..VNET_HEADER_BYTES], COMPLETE);
        frame[VNET_HEADER_BYTES..bytes].to_vec()
    }

    pub(crate) fn hears(&self) -> Option<Agreement> {
        self.heard.lock().unwrap().recv_timeout(PATIENCE).unwrap()
    }

    pub(crate) fn stops(&mut self) -> io::Result<()> {
        rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()).unwrap();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.thread.is_some() && !std::thread::panicking() {
            self.stops().unwrap();
        }
    }
}

fn wait(descriptor: &OwnedFd, what: PollFlags) {
    let limit = Timespec { tv_sec: PATIENCE.as_secs().try_into().unwrap(), tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(descriptor, what)], Some(&limit)).unwrap();
    assert_eq!(ready, 1, "nothing for {PATIENCE:?}");
}

/// Waits for a counter.
pub(crate) fn until(mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < PATIENCE, "it did not come to that");
        std::thread::yield_now();
    }
}

pub(crate) fn offers(mtu: u32, offload: Offload) -> [Offer; 2] {
    [1, 2].map(|last| Offer { mac: MacAddress::new([2, 0, 0, 0, 0, last]).unwrap(), mtu, offload, queues: 1 })
}

/// A frame with a number, of a length that depends on it.
pub(crate) fn frame(number: u32) -> Vec<u8> {
    let bytes = 18 + usize::try_from(number.wrapping_mul(2_654_435_761) % 1480).unwrap();
    let mut frame = vec![u8::try_from(number % 251).unwrap(); bytes];
    frame[..4].copy_from_slice(&number.to_le_bytes());
    frame
}
