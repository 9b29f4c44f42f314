//! What runs across the bridge while faults happen: the network device, or, where a mode or a size has none, ntb_perf.

use crate::guest::Guest;
use crate::options::{MIN_NETWORK_WINDOW_BYTES, Options, Side};
use crate::pair::Pair;
use crate::perf::parse;
use crate::steps::{self, Network};
use crate::trouble::failed;
use control::LinkState;
use std::time::{Duration, Instant};

/// Echo requests after each fault.
const PINGS: u32 = 5;
/// Bytes of a run of ntb_perf after each fault, as a power of two.
const ORDER: u32 = 20;

/// A kind of client driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// ntb_transport and ntb_netdev; `dma`: by the I/OAT engine.
    Network { dma: bool },
    /// ntb_perf.
    Stores { dma: bool },
}

impl Client {
    /// The best that a mode and a size can do.
    pub(super) fn of(options: &Options) -> Self {
        let dma = options.dma;
        if options.windows.reach_ram() && options.window_bytes >= MIN_NETWORK_WINDOW_BYTES {
            Self::Network { dma }
        } else {
            Self::Stores { dma }
        }
    }

    /// What it does, in words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Network { dma: false } => "ntb_netdev, ping",
            Self::Network { dma: true } => "ntb_netdev by DMA, ping",
            Self::Stores { dma: false } => "ntb_perf",
            Self::Stores { dma: true } => "ntb_perf by DMA",
        }
    }

    /// Loads its drivers in one guest.
    pub(super) fn load(self, guest: &Guest) -> anyhow::Result<()> {
        match self {
            Self::Network { dma } => {
                steps::load(guest, dma)?;
                steps::configure(guest, Network::Bridge)
            }
            Self::Stores { dma } => {
                let dma = u8::from(dma);
                let line =
                    format!("modprobe ntb_hw_intel && modprobe ntb_perf total_order={ORDER} use_dma={dma}");
                guest.sh(&line).map(drop)
            }
        }
    }

    /// Unloads its drivers and the hardware's.
    pub(super) fn unload(self, guest: &Guest) -> anyhow::Result<()> {
        match self {
            Self::Network { .. } => steps::unload(guest, true),
            Self::Stores { .. } => guest.sh("rmmod ntb_perf && rmmod ntb_hw_intel").map(drop),
        }
    }

    /// Loads its drivers on both sides, one first, and waits until both know of each other.
    pub(super) fn bring_up(self, pair: &mut Pair, first: Side) -> anyhow::Result<()> {
        match self {
            Self::Network { dma } => steps::bring_up(pair, first, dma).map(drop),
            Self::Stores { .. } => steps::train(pair, first, |guest| self.load(guest)).map(drop),
        }
    }

    /// Waits until the survivor of a fault and the twin know that the link is down.
    pub(super) fn notice_loss(self, pair: &mut Pair, survivor: Side) -> anyhow::Result<()> {
        pair.twin().wait_link(LinkState::Down, Instant::now() + steps::LINK)?;
        match self {
            Self::Network { .. } => steps::wait_carrier(pair.guest(survivor), Network::Bridge, false),
            Self::Stores { .. } => Ok(()),
        }
    }

    /// Waits until both sides are connected again.
    pub(super) fn wait_ready(self, pair: &mut Pair) -> anyhow::Result<()> {
        match self {
            Self::Network { .. } => {
                let mut guests = pair.guests().iter();
                guests.try_for_each(|guest| steps::wait_carrier(guest, Network::Bridge, true))
            }
            // The run file waits for the rest.
            Self::Stores { .. } => pair.twin().wait_link(LinkState::Up, Instant::now() + steps::LINK),
        }
    }

    /// Sees that data crosses, from one side.
    pub(super) fn check(self, guest: &Guest) -> anyhow::Result<()> {
        match self {
            Self::Network { .. } => steps::ping(guest, Network::Bridge, PINGS).map(drop),
            Self::Stores { .. } => {
                let file = format!("/sys/kernel/debug/ntb_perf/{}/run", steps::ntb_device(guest)?);
                let line = format!("echo 0 > {file} && cat {file}");
                let text = guest.sh_for(&line, Duration::from_secs(60))?;
                let runs = parse::ntb_perf(&text).map_err(failed)?;
                if runs.iter().any(|run| run.bytes == 1 << ORDER) {
                    return Ok(());
                }
                Err(failed(format!("ntb_perf in guest {} stored something else: {text}", guest.side())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::windows::Window;

    #[test]
    fn the_network_runs_wherever_it_can() {
        let options = |window: Window, window_bytes| Options {
            windows: window.into(),
            window_bytes,
            ..Options::default()
        };
        assert_eq!(Client::of(&options(Window::Direct, 1 << 20)), Client::Network { dma: false });
        assert_eq!(Client::of(&options(Window::Shared, 1 << 20)), Client::Stores { dma: false });
        assert_eq!(Client::of(&options(Window::Trap, 64 << 10)), Client::Stores { dma: false });
        let dma = Options { dma: true, ..options(Window::Dma, 1 << 20) };
        assert_eq!(Client::of(&dma), Client::Network { dma: true });
    }
}
