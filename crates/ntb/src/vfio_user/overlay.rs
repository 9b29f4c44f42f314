//! The overlay of this process: one for each twin, however many of its ports are driven here.

use crate::memory::Unmapper;
use crate::{BarIndex, FunctionError, PciFunction};
use control::{Reply, Request, Role, WindowMode};
use isthmus_overlay::{AgentError, Service};
use ntb_spec::bits::Ppd;
use ntb_spec::config;
use shm::Mapping;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// How long a twin may take to say how its windows work.
const PATIENCE: Duration = Duration::from_secs(5);

/// Carries out a twin's orders in this process.
#[derive(Debug)]
pub(super) struct Overlay {
    service: Service,
    control: PathBuf,
}

/// The overlays of this process: a twin tells them apart by process, so there must not be two for one twin.
static OVERLAYS: Mutex<Vec<Weak<Overlay>>> = Mutex::new(Vec::new());

impl Overlay {
    /// The one for the twin at `control`.
    pub(super) fn connect(control: &Path) -> Result<Arc<Self>, FunctionError> {
        let at = control.canonicalize().map_err(|source| super::no_socket(control, source))?;
        let mut overlays = OVERLAYS.lock().unwrap_or_else(PoisonError::into_inner);
        overlays.retain(|overlay| overlay.strong_count() > 0);
        let known = overlays.iter().filter_map(Weak::upgrade);
        if let Some(known) = known.into_iter().find(|known| known.control == at && known.service.is_serving())
        {
            return Ok(known);
        }
        let service = Service::connect(&at).map_err(|error| match error {
            AgentError::Io(source) => super::no_socket(control, source),
            error => FunctionError::Refused { what: "an overlay", why: error.to_string() },
        })?;
        let overlay = Arc::new(Self { service, control: at });
        overlays.push(Arc::downgrade(&overlay));
        Ok(overlay)
    }

    /// Whether a window of a function is the peer's window, too: no register tells, so the twin is asked.
    pub(super) fn is_shared(&self, function: &dyn PciFunction, bar: BarIndex) -> Result<bool, FunctionError> {
        let mut ppd = [0];
        function.config_read(config::PPD, &mut ppd)?;
        let role = if Ppd::from_bits(ppd[0]).downstream() { Role::Dsd } else { Role::Usd };
        let status = self.status()?;
        let port = status.ports.iter().find(|port| port.role == role);
        let nth = [BarIndex::WINDOW_0, BarIndex::WINDOW_1].iter().position(|window| *window == bar);
        let named = |window: &&control::WindowStatus| Some(usize::from(window.window)) == nth;
        let window = port.and_then(|port| port.windows.iter().find(named));
        Ok(window.is_some_and(|window| window.mode == WindowMode::Shared))
    }

    fn status(&self) -> Result<control::Status, FunctionError> {
        let gone = |error: io::Error| FunctionError::gone(error);
        let stream = UnixStream::connect(&self.control).map_err(gone)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(gone)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(gone)?;
        match control::Client::new(stream).call(&Request::Status).map_err(FunctionError::gone)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(FunctionError::gone("its control socket speaks something else")),
        }
    }
}

impl Unmapper for Overlay {
    fn unmap(&self, file: (u64, u64), mapping: Mapping) {
        self.service.unmap(file, mapping);
    }

    fn under(&self, file: (u64, u64), at: u64) -> Option<(Arc<OwnedFd>, u64)> {
        self.service.under(file, at)
    }
}
