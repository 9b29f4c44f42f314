//! What may happen to a guest without costing the other one its link for longer than it lasts.

use crate::options::Side;
use crate::pair::Pair;
use crate::steps;
use control::LinkState;
use std::fmt;
use std::time::Instant;

/// Echo requests after each fault.
pub(super) const PINGS: u32 = 5;

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its QEMU is killed, and another one takes its place.
    Kill(Side),
    /// It reboots at once, without unloading anything.
    Reboot(Side),
    /// Its drivers are unloaded and loaded.
    Reload(Side),
    /// Both sides load their drivers anew, this one first.
    Order(Side),
    /// Its network device is switched off and on.
    Switch(Side),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(side) => write!(f, "kill -9 of the QEMU of {side}"),
            Self::Reboot(side) => write!(f, "reboot of {side}"),
            Self::Reload(side) => write!(f, "rmmod and insmod in {side}"),
            Self::Order(side) => write!(f, "load order, {side} first"),
            Self::Switch(side) => write!(f, "network device of {side} down and up"),
        }
    }
}

impl Fault {
    /// Each of them at each side.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        [Self::Switch, Self::Reload, Self::Order, Self::Reboot, Self::Kill]
            .into_iter()
            .flat_map(|fault| Side::BOTH.map(fault))
    }

    /// Does it, sees that the other side notices, and brings back what was lost.
    pub(super) fn inflict(self, pair: &mut Pair) -> anyhow::Result<()> {
        match self {
            Self::Switch(side) => {
                let guest = pair.guest(side);
                let device = steps::network_device(guest)?;
                guest.sh(&format!("ip link set {device} down"))?;
                steps::wait_carrier(pair.guest(side.other()), false)?;
                guest.sh(&format!("ip link set {device} up"))?;
            }
            Self::Reload(side) => {
                steps::unload(pair.guest(side), true)?;
                notice_loss(pair, side.other())?;
                steps::load(pair.guest(side))?;
                steps::configure(pair.guest(side))?;
            }
            Self::Order(first) => {
                for guest in pair.guests() {
                    steps::unload(guest, true)?;
                }
                steps::bring_up(pair, first)?;
            }
            Self::Reboot(side) => {
                pair.guest_mut(side).reboot()?;
                notice_loss(pair, side.other())?;
                steps::load(pair.guest(side))?;
                steps::configure(pair.guest(side))?;
            }
            Self::Kill(side) => {
                pair.guest_mut(side).kill()?;
                notice_loss(pair, side.other())?;
                pair.replace(side)?;
                steps::load(pair.guest(side))?;
                steps::configure(pair.guest(side))?;
            }
        }
        for guest in pair.guests() {
            steps::wait_carrier(guest, true)?;
        }
        Ok(())
    }
}

/// The twin and the survivor both know that the link is down.
fn notice_loss(pair: &mut Pair, survivor: Side) -> anyhow::Result<()> {
    pair.twin().wait_link(LinkState::Down, Instant::now() + steps::LINK)?;
    steps::wait_carrier(pair.guest(survivor), false)
}
