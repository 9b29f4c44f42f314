//! The framework over a twin: two processes at its ports, windows in mode *direct*, cells carried by the processor, by the
//! twin's I/OAT engine, and by the processor in an engine's place.

use super::rings::{self, Turn};
use super::{Rows, WINDOW_BYTES, class, setup};
use crate::lab::progress::Progress;
use crate::opposite::{FarSide, Opposite, PATIENCE, await_bell};
use anyhow::Context;
use cells::{Link, Profile};
use netdev::CellsEngine;
use ntb::dma::{CpuCopy, DmaEngine, Ioat};
use ntb::{Bridge, PciFunction, Speed, VfioUser, Width};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use twin_server::WindowMode;

/// Tells the far side that this one's window is open.
const GO: u8 = 2;
/// Buffers are longer than this; what ends a turn is shorter, and goes by the processor.
const ENGINE_FROM: usize = 4096;
/// The longest buffer.
const STAGING_BYTES: u64 = 2 << 20;

/// Who carries the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    /// This processor, into the window.
    Processor,
    /// The twin's engine.
    Ioat,
    /// This processor in an engine's place: what the staging costs.
    CpuEngine,
}

impl Carrier {
    fn name(self, profile: Profile) -> String {
        match self {
            Self::Processor => format!("{profile}, twin"),
            Self::Ioat => format!("{profile}, twin, I/OAT"),
            Self::CpuEngine => format!("{profile}, twin, CPU engine"),
        }
    }

    fn engine(self, socket: &Path) -> anyhow::Result<Option<Box<dyn DmaEngine>>> {
        if self == Self::Processor {
            return Ok(None);
        }
        let function: Arc<dyn PciFunction> = Arc::new(VfioUser::connect(socket, None)?);
        Ok(Some(if self == Self::Ioat {
            Box::new(Ioat::open(function, 0)?)
        } else {
            Box::new(CpuCopy::new(function))
        }))
    }
}

pub(super) fn measure(time: Duration, rows: &mut Rows, progress: &Progress) -> anyhow::Result<()> {
    for profile in [Profile::Paper, Profile::Fast] {
        for carrier in [Carrier::Processor, Carrier::CpuEngine, Carrier::Ioat] {
            let name = carrier.name(profile);
            progress.tell(&name);
            one(profile, carrier, &name, time, rows).with_context(|| name.clone())?;
        }
    }
    Ok(())
}

fn one(
    profile: Profile,
    carrier: Carrier,
    name: &str,
    time: Duration,
    rows: &mut Rows,
) -> anyhow::Result<()> {
    let mut far = vec!["perf", "sweep-twin-far"];
    if profile == Profile::Paper {
        far.push("--paper");
    }
    let opposite = Opposite::start_with(&far, WindowMode::Direct, WINDOW_BYTES, true)?;
    let near = &*opposite.near;
    let inbound = Arc::new(near.inbound(0, WINDOW_BYTES)?);
    near.ring(1 << GO)?;
    let outbound = near.outbound(0)?;
    let link = Link::new(Arc::new(outbound.clone()), inbound)?;
    let channel = link.open("sweep", setup(profile)?)?.wait(PATIENCE)?;
    let class = class(channel.round_trip());
    let (mut send, receive) = channel.split();
    let socket = opposite.engine.as_deref().context("this twin has no engine")?;
    if let Some(engine) = carrier.engine(socket)? {
        let engine = CellsEngine::new(engine, outbound, STAGING_BYTES)?;
        send.attach_dma(Box::new(engine), ENGINE_FROM);
    }
    // An engine takes long for a turn of many small buffers.
    let bytes = if carrier == Carrier::Processor { 8 << 20 } else { 2 << 20 };
    rings::measure((send, receive), name, class, Turn { bytes, time }, rows)
}

/// The process opposite.
pub(in crate::perf) fn serve(far_side: &FarSide, paper: bool) -> anyhow::Result<()> {
    let bridge = far_side.attach()?;
    let inbound = Arc::new(bridge.inbound(0, WINDOW_BYTES)?);
    bridge.doorbells_unmask(1 << GO)?;
    bridge.link_enable(Speed::Auto, Width::Auto)?;
    bridge.wait_for_link(true, PATIENCE)?;
    await_bell(&bridge, GO)?;
    let link = Link::new(Arc::new(bridge.outbound(0)?), inbound)?;
    let profile = if paper { Profile::Paper } else { Profile::Fast };
    rings::serve(link.open("sweep", setup(profile)?)?.wait(PATIENCE)?.split())
}
