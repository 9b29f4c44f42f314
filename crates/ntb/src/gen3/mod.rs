//! The driver of Intel NTB Gen3: what Linux's `ntb_hw_gen3.c` and `ntb_hw_gen1.c` do, over any way to reach the function.

mod bridge;
mod messages;
mod registers;
mod windows;

use crate::addresses::bar_address;
use crate::events::{Vectors, wait_readable};
use crate::window::{Closer, LinkGeneration};
use crate::{BarIndex, BridgeError, DeviceAddress, Events, Link, OpenError, PciFunction, Port};
use messages::MessageBlock;
use ntb_spec::bar0::{self, Reg};
use ntb_spec::bits::{Control, LinkStatus, Ppd};
use ntb_spec::{DOORBELLS, LINK_SOURCE, config, function};
use registers::Registers;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use windows::WindowBars;

/// The vector of link changes: vector 32 does not work on the hardware (Linux `NTB_HWERR_MSIX_VECTOR32_BAD`).
const LINK_VECTOR: u8 = 31;
/// Doorbells that can be used: 31 shares its vector with the link.
const VALID_DOORBELLS: u64 = (1 << LINK_VECTOR) - 1;
/// What acknowledges a link change: bit 32 and, with it, bit 31 (Linux `gen3_poll_link`, `db_link_mask`).
const LINK_BITS: u64 = 1 << LINK_SOURCE | 1 << LINK_VECTOR;
/// NTBCNTL: both snoop controls of both windows (Linux `gen3_ntb_link_enable`).
const SNOOP: Control = Control::new()
    .with_s2p_bar2_snoop(1)
    .with_p2s_bar2_snoop(1)
    .with_s2p_bar4_snoop(1)
    .with_p2s_bar4_snoop(1);
/// NTBCNTL: locked and disabled.
const DISABLED: Control = Control::new().with_config_lock(true).with_link_disable(true);
/// SPCICMD: the external side decodes memory and masters the bus.
const EXTERNAL_COMMAND: u64 = (function::COMMAND_MEMORY | function::COMMAND_BUS_MASTER) as u64;
/// The smallest window there can be (DPDK `ntb.rst`: 2^12 bytes).
const MIN_WINDOW_BYTES: u64 = 1 << 12;
/// How long a wait goes on before it looks at the register, in case that somebody else took the event.
const GLANCE: Duration = Duration::from_millis(20);

/// A port of a Gen3 bridge. See [`Bridge`](crate::Bridge) for what it does.
///
/// Dropping it takes the link down, closes the windows and switches interrupts off; so does the end of the process, through the
/// twin or the kernel.
#[derive(Debug)]
pub struct Gen3 {
    port: Port,
    registers: Registers,
    windows: WindowBars,
    /// The extension that no hardware has, if it is there.
    messages: Option<MessageBlock>,
    vectors: Vectors,
    state: Mutex<State>,
    link_generation: Arc<LinkGeneration>,
}

/// What the driver remembers.
#[derive(Debug)]
struct State {
    /// INT_DISABLE as written last, link bits left out.
    masked: u64,
    /// The link as it was told last.
    link: Link,
    /// The last change was read from the register, and its event is still to come.
    awaits_event: bool,
}

impl Gen3 {
    /// Takes a function into use: checks what it is, sets it up as Linux's probe does, switches its interrupts on. The link
    /// stays disabled, every window closed, every doorbell masked.
    ///
    /// # Errors
    /// [`OpenError`] says what the device is or has instead.
    pub fn open(function: Arc<dyn PciFunction>) -> Result<Self, OpenError> {
        let registers = Registers::new(function);
        let port = identify(&registers)?;
        let windows = WindowBars::find(&registers, port)?;
        let on = function::COMMAND_MEMORY | function::COMMAND_BUS_MASTER;
        let command = u16::from_le_bytes(registers.config(config::COMMAND)?) | on;
        registers.function().config_write(config::COMMAND, &command.to_le_bytes())?;
        windows.close_all(&registers)?;
        registers.write(Reg::SpciCmd, 0, EXTERNAL_COMMAND)?;
        registers.write(Reg::IntDisable, 0, VALID_DOORBELLS)?;
        for (source, vector) in (0..=LINK_SOURCE).zip(0_u64..) {
            let vector = if source == LINK_SOURCE { LINK_VECTOR.into() } else { vector };
            registers.write(Reg::IntVec, source, vector)?;
        }
        let messages = MessageBlock::find(&registers)?;
        let vectors = Vectors::new()?;
        vectors.enable(&**registers.function())?;
        registers.write(Reg::IntStatus, 0, LINK_BITS)?;
        let driver = Self {
            port,
            registers,
            windows,
            messages,
            vectors,
            state: Mutex::new(State { masked: VALID_DOORBELLS, link: Link::default(), awaits_event: false }),
            link_generation: Arc::default(),
        };
        driver.state().link = driver.read_link()?;
        Ok(driver)
    }

    /// The function below, for what the driver does not offer.
    #[must_use]
    pub fn function(&self) -> &Arc<dyn PciFunction> {
        self.registers.function()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whatever panicked meanwhile, two numbers are two numbers.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link_status(&self) -> Result<LinkStatus, BridgeError> {
        Ok(LinkStatus::from_bits(u16::from_le_bytes(self.registers.config(config::LINK_STATUS)?)))
    }

    fn read_link(&self) -> Result<Link, BridgeError> {
        let status = self.link_status()?;
        Ok(Link { up: status.active(), speed: status.speed(), width: status.width() })
    }

    /// The link's vector was signalled: acknowledges it, and says what has changed (Linux `gen3_poll_link`).
    fn poll_link(&self) -> Result<Option<Link>, BridgeError> {
        self.registers.write(Reg::IntStatus, 0, LINK_BITS)?;
        let link = self.read_link()?;
        let mut state = self.state();
        let is_late = std::mem::take(&mut state.awaits_event);
        let changed = state.link != link;
        // A link that went down and came up again unseen is no other one in the register, but its windows are: so an event without
        // a change counts as one, unless it is that of a change that was read before it came.
        if changed && state.link.up || !changed && link.up && !is_late {
            self.link_generation.advance();
        }
        state.link = link;
        Ok(changed.then_some(link))
    }

    /// The register was read without an event.
    fn note_link(&self, link: Link) {
        let mut state = self.state();
        if state.link != link {
            if state.link.up {
                self.link_generation.advance();
            }
            state.link = link;
            state.awaits_event = true;
        }
    }

    fn set_masked(&self, change: impl FnOnce(u64) -> u64) -> Result<(), BridgeError> {
        let mut state = self.state();
        let masked = change(state.masked);
        self.registers.write(Reg::IntDisable, 0, masked)?;
        state.masked = masked;
        Ok(())
    }

    fn take_events(&self) -> Result<Events, BridgeError> {
        let vectors = self.vectors.take()?;
        let link = if vectors >> LINK_VECTOR & 1 == 1 { self.poll_link()? } else { None };
        let messages = self.messages.is_some() && vectors >> messages::VECTOR & 1 == 1;
        Ok(Events { link, doorbells: vectors & VALID_DOORBELLS, messages })
    }

    fn await_link(&self, up: bool, timeout: Duration) -> Result<Link, BridgeError> {
        let began = Instant::now();
        loop {
            let link = match self.vectors.take_one(LINK_VECTOR) {
                true => {
                    self.poll_link()?;
                    self.state().link
                }
                false => self.read_link()?,
            };
            if link.up == up {
                self.note_link(link);
                return Ok(link);
            }
            let Some(left) = timeout.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else {
                return Err(self.link_timeout(link, timeout));
            };
            if let Some(fd) = self.vectors.one(LINK_VECTOR) {
                wait_readable(fd, left.min(GLANCE))?;
            }
        }
    }

    fn link_timeout(&self, link: Link, waited: Duration) -> BridgeError {
        let link_status = self.link_status().map_or(u16::MAX, LinkStatus::into_bits);
        let control = self.registers.read(Reg::Control, 0).ok().and_then(|bits| u32::try_from(bits).ok());
        let control = control.unwrap_or(u32::MAX);
        let hint = match (link.up, Control::from_bits(control).link_disable()) {
            _ if control == u32::MAX => {
                "the registers read all ones: memory decode is off, or the device is gone"
            }
            (true, _) => "disable it at either end",
            (false, true) => "this end is disabled: call link_enable",
            (false, false) => "this end is enabled: the peer is absent, or has not enabled its own",
        };
        BridgeError::LinkTimeout { link, waited, link_status, control, hint }
    }

    fn bar_address(&self, bar: BarIndex) -> Result<DeviceAddress, BridgeError> {
        Ok(bar_address(&**self.registers.function(), bar)?)
    }
}

/// What the device is, and which end of the link.
fn identify(registers: &Registers) -> Result<Port, OpenError> {
    let [vendor_low, vendor_high, device_low, device_high] = registers.config(0)?;
    let vendor = u16::from_le_bytes([vendor_low, vendor_high]);
    let device = u16::from_le_bytes([device_low, device_high]);
    if (vendor, device) != (function::VENDOR, config::DEVICE) {
        return Err(OpenError::NotAnNtb { vendor, device });
    }
    let has_bytes = registers.function().bar_bytes(BarIndex::REGISTERS)?;
    let needs_bytes = u64::from(bar0::offset_of(Reg::EmBar2, 0)).saturating_add(8).next_power_of_two();
    if has_bytes < needs_bytes {
        return Err(OpenError::BarSize { bar: 0, has_bytes, needs_bytes });
    }
    let [ppd] = registers.config(config::PPD)?;
    // Linux `xeon_ppd_topo`, mask 0x13.
    match Ppd::from_bits(ppd & 0x13) {
        Ppd::USD => Ok(Port::Usd),
        Ppd::DSD => Ok(Port::Dsd),
        _ => Err(OpenError::Topology { ppd }),
    }
}

impl Drop for Gen3 {
    /// What fails here fails because the device is gone, and then it is down already.
    fn drop(&mut self) {
        let down = self
            .registers
            .write(Reg::Control, 0, DISABLED.into_bits().into())
            .and_then(|()| self.registers.write(Reg::IntDisable, 0, u64::MAX))
            .and_then(|()| self.registers.function().disable_vectors());
        if let Err(error) = down {
            tracing::debug!(%error, "the port could not be taken down");
        }
        self.windows.close_quietly(&self.registers);
    }
}

/// Closes one window of a driver that may be gone by then.
#[derive(Debug)]
struct CloseWindow {
    registers: Registers,
    windows: WindowBars,
}

impl Closer for CloseWindow {
    fn close(&self, window: usize) {
        if let Err(error) = self.windows.close(&self.registers, window) {
            tracing::debug!(%error, window, "the window could not be closed");
        }
    }
}

const _: () = assert!(DOORBELLS == LINK_VECTOR as usize + 1);
