//! A PCI function behind a vfio-user socket: any twin's port, as QEMU has it.

mod overlay;

use crate::addresses::{AddressSpace, place_bars};
use crate::divided::{DividedMemory, Planter};
use crate::memory::{BarMapping, BarMappings, DmaMemory, DmaProvider, Mapped, Registrar, Unmapper};
use crate::{BarIndex, DeviceAddress, FunctionError, PciFunction};
use ntb_spec::function;
use overlay::Overlay;
use shm::{Access, Mapping, SharedFile};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_user::client::{Client, ClientError};
use vfio_user::wire::{Command, DmaAddr, DmaMap, DmaUnmap, IrqIndex, RegionIndex};

const PAGE: u64 = 4096;
/// Most bytes of one message: larger accesses are cut.
const MESSAGE_BYTES: usize = 1 << 16;
const BARS: usize = 6;

/// A function that a process drives through a vfio-user socket. Dropping it disconnects: the twin takes that for a host that has lost
/// power.
///
/// Each access is a system call; a read waits for the twin. With the twin's control socket, windows of modes *shared*,
/// *alias* and *direct* are memory: a thread of this process then carries out the twin's orders to replace what lies
/// under them, as the object in a QEMU does.
#[derive(Debug)]
pub struct VfioUser {
    session: Arc<Session>,
    sizes: [u64; BARS],
    mappings: BarMappings,
    overlay: Option<Arc<Overlay>>,
}

/// The connection. Memory that was given to the device holds it, too: it is taken back through it.
#[derive(Debug)]
struct Session {
    /// `None` once the function was dropped.
    client: Mutex<Option<Client>>,
    addresses: Mutex<AddressSpace>,
    /// Most bytes of one access.
    transfer_bytes: usize,
}

impl VfioUser {
    /// Attaches to the port that is served at `socket`. `control` is the twin's control socket; without it every window is
    /// messaged.
    ///
    /// # Errors
    /// [`FunctionError::Absent`], [`FunctionError::Permission`] and [`FunctionError::Taken`] say what is at the socket, or
    /// at the control socket.
    pub fn connect(socket: &Path, control: Option<&Path>) -> Result<Self, FunctionError> {
        // First, since the twin decides by it how the windows of a host that attaches work.
        let overlay = control.map(Overlay::connect).transpose()?;
        let client = Client::connect(socket).map_err(|error| unreachable_socket(socket, error))?;
        Self::new(client, overlay)
    }

    fn new(mut client: Client, overlay: Option<Arc<Overlay>>) -> Result<Self, FunctionError> {
        let mut sizes = [0; BARS];
        for (bar, size) in (0..).zip(&mut sizes) {
            *size = client.region_info(RegionIndex(bar)).map_err(failed)?.size;
        }
        let most = usize::try_from(client.server().max_data_xfer_size).unwrap_or(usize::MAX);
        let session = Session {
            client: Mutex::new(Some(client)),
            addresses: Mutex::default(),
            transfer_bytes: most.clamp(8, MESSAGE_BYTES),
        };
        let function = Self { session: Arc::new(session), sizes, mappings: BarMappings::default(), overlay };
        place_bars(&function)?;
        Ok(function)
    }

    fn check(&self, bar: BarIndex, offset: u64, bytes: usize) -> Result<(), FunctionError> {
        let size = self.sizes.get(usize::from(bar.0)).copied().unwrap_or(0);
        within(offset, bytes, size).ok_or_else(|| FunctionError::Range {
            space: bar.to_string(),
            offset,
            bytes,
        })
    }

    fn map(&self, bar: BarIndex) -> Result<Option<BarMapping>, FunctionError> {
        let Some(overlay) = &self.overlay else { return Ok(None) };
        let info = self.session.ask(|client| client.region_info(RegionIndex(bar.0.into())))?;
        // A BAR of which only parts may be mapped is none of a twin's windows.
        let (Some(fd), true) = (info.fd, info.areas.is_empty()) else { return Ok(None) };
        let memory = |source| FunctionError::Memory { what: "a window", source };
        let end =
            info.fd_offset.checked_add(info.size).ok_or_else(|| FunctionError::gone("a BAR without end"))?;
        let file = SharedFile::accept(fd, end).map_err(|unfit| memory(io::Error::other(unfit)))?;
        let mapping = Mapping::new(&file, info.fd_offset, info.size, Access::ReadWrite);
        let mapping = mapping.map_err(|error| memory(io::Error::other(error)))?;
        let memory =
            Arc::new(Mapped::overlaid(file.identity(), mapping, Arc::clone(overlay) as Arc<dyn Unmapper>));
        let shared = overlay.is_shared(self, bar)?;
        Ok(Some(BarMapping { memory, shared }))
    }
}

impl PciFunction for VfioUser {
    fn config_read(&self, offset: u32, out: &mut [u8]) -> Result<(), FunctionError> {
        check_config(offset, out.len())?;
        self.session.ask(|client| client.region_read(RegionIndex::CONFIG, offset.into(), out))
    }

    fn config_write(&self, offset: u32, data: &[u8]) -> Result<(), FunctionError> {
        check_config(offset, data.len())?;
        self.session.ask(|client| client.region_write(RegionIndex::CONFIG, offset.into(), data))
    }

    fn bar_bytes(&self, bar: BarIndex) -> Result<u64, FunctionError> {
        Ok(self.sizes.get(usize::from(bar.0)).copied().unwrap_or(0))
    }

    fn bar_read(&self, bar: BarIndex, offset: u64, out: &mut [u8]) -> Result<(), FunctionError> {
        self.check(bar, offset, out.len())?;
        let mut at = offset;
        for chunk in out.chunks_mut(self.session.transfer_bytes) {
            self.session.ask(|client| client.region_read(RegionIndex(bar.0.into()), at, chunk))?;
            at = after(at, chunk.len());
        }
        Ok(())
    }

    fn bar_write(&self, bar: BarIndex, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        self.check(bar, offset, data.len())?;
        let mut at = offset;
        for chunk in data.chunks(self.session.transfer_bytes) {
            self.session.ask(|client| client.region_write_posted(RegionIndex(bar.0.into()), at, chunk))?;
            at = after(at, chunk.len());
        }
        Ok(())
    }

    fn bar_map(&self, bar: BarIndex) -> Result<Option<BarMapping>, FunctionError> {
        self.mappings.get(bar, || self.map(bar))
    }

    fn dma_allocate(&self, bytes: u64, align_bytes: u64) -> Result<DmaMemory, FunctionError> {
        let provider = DmaProvider {
            addresses: &self.session.addresses,
            page_bytes: PAGE,
            // In mode alias the twin has its pages replaced.
            unmapper: self.overlay.as_ref().map(|overlay| Arc::clone(overlay) as Arc<dyn Unmapper>),
            registrar: Arc::clone(&self.session) as Arc<dyn Registrar>,
        };
        provider.allocate(bytes, align_bytes, |address, file, mapping| {
            let size = u64::try_from(mapping.bytes()).unwrap_or(u64::MAX);
            let iova = DmaAddr(address.0);
            let map = DmaMap { iova, size, fd_offset: 0, readable: true, writeable: true };
            self.session.ask(|client| client.dma_map(map, Some(file.as_fd())))
        })
    }

    fn dma_divide(&self, bytes: u64, align_bytes: u64) -> Result<DividedMemory, FunctionError> {
        let none = || FunctionError::NoAddress { bytes };
        let bytes = bytes.max(1).checked_next_multiple_of(PAGE).ok_or_else(none)?;
        let address = self.session.lock_addresses().take(bytes, align_bytes.max(PAGE))?;
        Ok(DividedMemory::new(address, bytes, Arc::clone(&self.session) as Arc<dyn Planter>))
    }

    fn enable_vectors(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), FunctionError> {
        let count = self.session.ask(|client| client.irq_info(IrqIndex::MSIX))?.count;
        if usize::try_from(count).is_ok_and(|count| count < eventfds.len()) {
            let why = format!("it has {count} of {}", eventfds.len());
            return Err(FunctionError::Refused { what: "interrupt vectors", why });
        }
        self.session.ask(|client| client.assign_irqs(IrqIndex::MSIX, 0, eventfds))?;
        self.config_write(function::MSIX_CONTROL, &function::MSIX_ENABLE.to_le_bytes())
    }

    fn disable_vectors(&self) -> Result<(), FunctionError> {
        self.config_write(function::MSIX_CONTROL, &[0, 0])?;
        self.session.ask(|client| client.disable_irqs(IrqIndex::MSIX))
    }

    fn reset(&self) -> Result<(), FunctionError> {
        self.session.ask(Client::reset)?;
        place_bars(self)
    }
}

impl Session {
    fn ask<T>(
        &self,
        question: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, FunctionError> {
        // A panic of another thread leaves a client that knows by itself whether it is broken.
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let client = client.as_mut().ok_or_else(|| FunctionError::gone("it was closed here"))?;
        question(client).map_err(failed)
    }

    fn lock_addresses(&self) -> MutexGuard<'_, AddressSpace> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Planter for Session {
    fn plant(&self, address: DeviceAddress, file: &SharedFile) -> Result<(), FunctionError> {
        let (iova, size) = (DmaAddr(address.0), file.bytes());
        let map = DmaMap { iova, size, fd_offset: 0, readable: true, writeable: true };
        self.ask(|client| client.dma_map(map, Some(file.as_fd())))
    }

    fn uproot(&self, address: DeviceAddress, bytes: u64) {
        let unmap = DmaUnmap::Range { iova: DmaAddr(address.0), size: bytes };
        if let Err(error) = self.ask(|client| client.dma_unmap(unmap)) {
            tracing::debug!(%error, %address, "a file could not be withdrawn");
        }
    }
}

impl Registrar for Session {
    fn withdraw(&self, address: DeviceAddress, bytes: u64) {
        let unmap = DmaUnmap::Range { iova: DmaAddr(address.0), size: bytes };
        if let Err(error) = self.ask(|client| client.dma_unmap(unmap)) {
            // Then the twin has let go of all of it.
            tracing::debug!(%error, %address, "memory could not be withdrawn");
        }
        self.lock_addresses().give_back(address);
    }
}

impl Drop for VfioUser {
    fn drop(&mut self) {
        *self.session.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn check_config(offset: u32, bytes: usize) -> Result<(), FunctionError> {
    let (offset, space) = (u64::from(offset), || "configuration space".to_owned());
    within(offset, bytes, function::BYTES.into()).ok_or_else(|| FunctionError::Range {
        space: space(),
        offset,
        bytes,
    })
}

/// Whether a range lies in a space.
fn within(offset: u64, bytes: usize, size: u64) -> Option<()> {
    let end = offset.checked_add(u64::try_from(bytes).ok()?)?;
    (end <= size).then_some(())
}

/// Where the next chunk of a checked range begins.
fn after(at: u64, bytes: usize) -> u64 {
    at.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// Why nobody is at the other end.
fn unreachable_socket(socket: &Path, error: ClientError) -> FunctionError {
    match error {
        ClientError::Connect { path, source } => no_socket(&path, source),
        ClientError::Refused { command: Command::VERSION, errno } if errno == BUSY => {
            FunctionError::Taken { what: socket.display().to_string() }
        }
        // One that has no time to say so hangs up.
        ClientError::Closed => FunctionError::Taken { what: socket.display().to_string() },
        error => failed(error),
    }
}

/// EBUSY: what a twin answers at a port that is taken.
const BUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();

fn no_socket(path: &Path, source: io::Error) -> FunctionError {
    match source.kind() {
        io::ErrorKind::PermissionDenied => FunctionError::Permission { path: path.to_owned() },
        _ => FunctionError::Absent { path: path.to_owned(), source },
    }
}

fn failed(error: ClientError) -> FunctionError {
    match error {
        ClientError::Refused { errno, .. } => {
            FunctionError::Refused { what: "a request", why: io::Error::from_raw_os_error(errno).to_string() }
        }
        ClientError::TooMuch => {
            FunctionError::Refused { what: "a request", why: "more than it takes in one message".to_owned() }
        }
        error => FunctionError::gone(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_open_the_socket_is_told_so() {
        let denied = ClientError::Connect {
            path: "/run/a.sock".into(),
            source: io::Error::from(io::ErrorKind::PermissionDenied),
        };
        let error = unreachable_socket(Path::new("/run/a.sock"), denied);
        assert!(matches!(error, FunctionError::Permission { .. }));
        assert_eq!(
            error.to_string(),
            "/run/a.sock may not be opened: run as the user who started the twin, or as root"
        );
        let absent = VfioUser::connect(Path::new("/nowhere/at/all"), None);
        assert!(matches!(absent, Err(FunctionError::Absent { .. })));
        let no_control = VfioUser::connect(Path::new("/nowhere/a"), Some(Path::new("/nowhere/control")));
        assert!(
            matches!(no_control, Err(FunctionError::Absent { path, .. }) if path == Path::new("/nowhere/control"))
        );
    }
}
