//! What may happen to a guest without costing the other one its link for longer than it lasts.

use super::client::Client;
use crate::options::Side;
use crate::pair::Pair;
use crate::steps::{self, Network};
use std::fmt;

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
    /// Each of them at each side, as far as a client has what they happen to.
    pub(super) fn all(client: Client) -> impl Iterator<Item = Self> {
        let network = matches!(client, Client::Network { .. });
        [Self::Switch, Self::Reload, Self::Order, Self::Reboot, Self::Kill]
            .into_iter()
            .flat_map(|fault| Side::BOTH.map(fault))
            .filter(move |fault| network || !matches!(fault, Self::Switch(_)))
    }

    /// Does it, sees that the other side notices, and brings back what was lost.
    pub(super) fn inflict(self, pair: &mut Pair, client: Client) -> anyhow::Result<()> {
        match self {
            Self::Switch(side) => {
                let guest = pair.guest(side);
                let device = steps::network_device(guest, Network::Bridge)?;
                guest.sh(&format!("ip link set {device} down"))?;
                steps::wait_carrier(pair.guest(side.other()), Network::Bridge, false)?;
                guest.sh(&format!("ip link set {device} up"))?;
            }
            Self::Reload(side) => {
                client.unload(pair.guest(side))?;
                client.notice_loss(pair, side.other())?;
                client.load(pair.guest(side))?;
            }
            Self::Order(first) => {
                for guest in pair.guests() {
                    client.unload(guest)?;
                }
                client.bring_up(pair, first)?;
            }
            Self::Reboot(side) => {
                pair.reboot(side)?;
                client.notice_loss(pair, side.other())?;
                client.load(pair.guest(side))?;
            }
            Self::Kill(side) => {
                pair.guest_mut(side).kill()?;
                client.notice_loss(pair, side.other())?;
                pair.replace(side)?;
                client.load(pair.guest(side))?;
            }
        }
        client.wait_ready(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_network_device_can_be_switched_off() {
        assert_eq!(Fault::all(Client::Network { dma: false }).count(), 10);
        let mut without = Fault::all(Client::Stores { dma: false });
        assert!(without.all(|fault| !matches!(fault, Fault::Switch(_))));
    }
}
