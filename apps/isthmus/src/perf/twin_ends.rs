//! Two virtual interfaces across a twin: two hosts in this process, mode direct, every lane in windows.
//!
//! ```text
//!   host a                      window 0 of each host: the receive area of the lane towards it
//!     sender ──outbound 0──▶ b's inbound 0: slots, buffers ──▶ receiver at b
//!     sender ◀─ a's inbound 1: credit, buffers ◀──outbound 1── receiver at b
//! ```

use anyhow::Context;
use ntb::{Bridge, Gen3, Inbound, Outbound, Speed, Width};
use std::sync::Arc;
use std::time::Duration;
use twin_local::{LocalTwin, WindowMode};
use vi::lane::{Geometry, Receiver, Sender};
use yardstick::frames::{End, Ends};

/// Long enough for a link to train on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(20);
/// No lane wakes anybody: both ends poll.
const GEOMETRY: Geometry =
    Geometry { slots: 256, buffers: 256, buffer_bytes: 2048, region: 0, wakes: false, stamps: false };

/// The interfaces, and the hosts whose windows they use.
#[derive(Debug)]
pub(crate) struct TwinEnds {
    pub(crate) ends: Ends<Outbound, Inbound>,
    _hosts: [Gen3; 2],
}

impl TwinEnds {
    /// A twin, its link up, and an interface at each host. Payloads of `stream_from` bytes and more go past the caches.
    pub(crate) fn new(stream_from: usize) -> anyhow::Result<Self> {
        let (a, b) = LocalTwin::pair(WindowMode::Direct)?;
        let hosts = [Gen3::open(Arc::new(a))?, Gen3::open(Arc::new(b))?];
        let [a, b] = &hosts;
        let inbound = |host: &Gen3| -> anyhow::Result<[Inbound; 2]> {
            Ok([host.inbound(0, GEOMETRY.receive_bytes())?, host.inbound(1, GEOMETRY.return_bytes())?])
        };
        let (a_in, b_in) = (inbound(a)?, inbound(b)?);
        for host in &hosts {
            host.link_enable(Speed::Auto, Width::Auto)?;
        }
        for host in &hosts {
            host.wait_for_link(true, PATIENCE).context("the twin's link does not come up")?;
        }
        let end = |host: &Gen3, [receive, returned]: [Inbound; 2]| -> anyhow::Result<_> {
            let sender = Sender::new(GEOMETRY, host.outbound(0)?, returned)?;
            sender.stream_from(stream_from);
            Ok(End::new(sender, Receiver::new(GEOMETRY, receive, host.outbound(1)?)?)?)
        };
        let ends = Ends::new(end(a, a_in)?, end(b, b_in)?);
        Ok(Self { ends, _hosts: hosts })
    }
}
