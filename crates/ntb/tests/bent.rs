//! Devices that are not what they should be.

use ntb::{
    BarIndex, BarMapping, Bridge, DmaMemory, FunctionError, Gen3, OpenError, PciFunction, Speed, Width,
};
use ntb_spec::config;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use twin_local::{LocalPort, LocalTwin, WindowMode};

/// A good port, but for something.
#[derive(Debug)]
struct Bent {
    port: LocalPort,
    ppd: Option<u8>,
    bar_bytes: Option<(BarIndex, u64)>,
    /// Registers forget what was written.
    forgets: bool,
    few_vectors: bool,
    /// Interrupts come when the test says so: the driver's eventfds.
    late: Option<Arc<Mutex<Vec<OwnedFd>>>>,
}

impl Bent {
    fn new() -> Self {
        let (port, _) = LocalTwin::pair(WindowMode::Trap).unwrap();
        Self::of(port)
    }

    fn of(port: LocalPort) -> Self {
        Self { port, ppd: None, bar_bytes: None, forgets: false, few_vectors: false, late: None }
    }

    fn open(self) -> OpenError {
        Gen3::open(Arc::new(self)).map(drop).unwrap_err()
    }
}

impl PciFunction for Bent {
    fn config_read(&self, offset: u32, out: &mut [u8]) -> Result<(), FunctionError> {
        self.port.config_read(offset, out)?;
        if let (config::PPD, Some(ppd)) = (offset, self.ppd) {
            out.fill(ppd);
        }
        Ok(())
    }

    fn config_write(&self, offset: u32, data: &[u8]) -> Result<(), FunctionError> {
        self.port.config_write(offset, data)
    }

    fn bar_bytes(&self, bar: BarIndex) -> Result<u64, FunctionError> {
        match self.bar_bytes {
            Some((bent, bytes)) if bent == bar => Ok(bytes),
            _ => self.port.bar_bytes(bar),
        }
    }

    fn bar_read(&self, bar: BarIndex, offset: u64, out: &mut [u8]) -> Result<(), FunctionError> {
        self.port.bar_read(bar, offset, out)
    }

    fn bar_write(&self, bar: BarIndex, offset: u64, data: &[u8]) -> Result<(), FunctionError> {
        if self.forgets { Ok(()) } else { self.port.bar_write(bar, offset, data) }
    }

    fn bar_map(&self, bar: BarIndex) -> Result<Option<BarMapping>, FunctionError> {
        self.port.bar_map(bar)
    }

    fn dma_allocate(&self, bytes: u64, align_bytes: u64) -> Result<DmaMemory, FunctionError> {
        self.port.dma_allocate(bytes, align_bytes)
    }

    fn enable_vectors(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), FunctionError> {
        if self.few_vectors {
            return Err(FunctionError::Refused {
                what: "interrupt vectors",
                why: "it has 1 of 33".to_owned(),
            });
        }
        if let Some(late) = &self.late {
            late.lock().unwrap().extend(eventfds.iter().map(|fd| fd.try_clone_to_owned().unwrap()));
            return Ok(());
        }
        self.port.enable_vectors(eventfds)
    }

    fn disable_vectors(&self) -> Result<(), FunctionError> {
        self.port.disable_vectors()
    }

    fn reset(&self) -> Result<(), FunctionError> {
        self.port.reset()
    }
}

#[test]
fn a_port_that_is_not_back_to_back_is_refused() {
    for ppd in [0x00, 0x02, 0x03, 0x12, 0x13, 0xFF] {
        let error = Bent { ppd: Some(ppd), ..Bent::new() }.open();
        assert!(matches!(error, OpenError::Topology { ppd: seen } if seen == ppd), "{error}");
    }
}

#[test]
fn a_bar_that_is_too_small_or_no_power_of_two_is_refused_and_named() {
    let sizes = [
        (BarIndex::REGISTERS, 0x4000),
        (BarIndex::WINDOW_0, 0),
        (BarIndex::WINDOW_1, 2048),
        (BarIndex::WINDOW_0, 12288),
    ];
    for (bar, bytes) in sizes {
        let error = Bent { bar_bytes: Some((bar, bytes)), ..Bent::new() }.open();
        let OpenError::BarSize { bar: named, has_bytes, .. } = error else { panic!("{error}") };
        assert_eq!((named, has_bytes), (bar.0, bytes));
    }
}

#[test]
fn registers_that_forget_are_named() {
    let error = Bent { forgets: true, ..Bent::new() }.open().to_string();
    assert!(error.starts_with("IMBAR1XLMT reads 0x0 after 0x2000000000000000 was written"), "{error}");
}

#[test]
fn too_few_vectors_are_refused() {
    let error = Bent { few_vectors: true, ..Bent::new() }.open().to_string();
    assert_eq!(error, "the device refused interrupt vectors: it has 1 of 33");
}

#[test]
fn an_interrupt_that_comes_after_its_change_was_read_closes_no_window() {
    let (usd, dsd) = LocalTwin::pair(WindowMode::Trap).unwrap();
    let late = Arc::new(Mutex::new(Vec::new()));
    let usd = Gen3::open(Arc::new(Bent { late: Some(Arc::clone(&late)), ..Bent::of(usd) })).unwrap();
    let dsd = Gen3::open(Arc::new(dsd)).unwrap();
    let interrupt = || rustix::io::write(&late.lock().unwrap()[31], &1_u64.to_ne_bytes()).unwrap();
    for end in [&usd, &dsd] {
        end.link_enable(Speed::Auto, Width::Auto).unwrap();
    }
    usd.wait_for_link(true, Duration::from_secs(20)).unwrap();
    let outbound = usd.outbound(0).unwrap();
    interrupt();
    assert_eq!(usd.events().unwrap().link, None, "it was told already");
    assert!(outbound.is_current());
    // One more is another matter: the link went down and came up again meanwhile.
    interrupt();
    assert_eq!(usd.events().unwrap().link, None);
    assert!(!outbound.is_current());
    let outbound = usd.outbound(0).unwrap();
    dsd.link_disable().unwrap();
    interrupt();
    assert!(usd.events().unwrap().link.is_some_and(|link| !link.up));
    assert!(!outbound.is_current());
}
