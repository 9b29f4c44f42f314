//! What goes wrong between hosts.

use super::{Failure, PATIENCE, Pair, Testbed, Verdict, check, driver, equal};
use crate::{Bridge, FunctionError, Gen3, Memory, Outbound, Port, Window, WindowError};
use std::sync::atomic::{AtomicBool, Ordering};

/// Stores without end, until told to stop. Returns how many stores were made, and the first error.
fn store_until(stop: &AtomicBool, outbound: &Outbound) -> (u64, Option<WindowError>) {
    let data = [0x5A; 1024];
    let mut stores: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        let at = usize::try_from(stores % 60).unwrap_or_default().saturating_mul(data.len());
        if let Err(error) = outbound.write(at, &data) {
            return (stores, Some(error));
        }
        stores = stores.saturating_add(1);
    }
    (stores, None)
}

/// Runs something while a thread stores; the stores may be lost, or refused as closed, and nothing else.
fn under_a_writer(outbound: &Outbound, action: impl FnOnce() -> Verdict) -> Verdict {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| store_until(&stop, outbound));
        let done = action();
        stop.store(true, Ordering::Relaxed);
        let (_, error) = writer.join().map_err(|_| "the writing thread panicked")?;
        check(matches!(error, None | Some(WindowError::Closed)), format!("the writer's error: {error:?}"))?;
        done
    })
}

pub(super) fn a_window_closes_under_a_writer(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    let outbound = pair.usd.outbound(0)?;
    under_a_writer(&outbound, || {
        for _ in 0..20 {
            let inbound = pair.dsd.inbound(0, 64 << 10)?;
            super::eventually("a store of the writer", || {
                let mut seen = [0; 1];
                inbound.read(0, &mut seen)?;
                Ok(seen == [0x5A])
            })?;
        }
        pair.dsd.link_disable()?;
        pair.usd.wait_for_link(false, PATIENCE)?;
        Ok(())
    })?;
    check(!outbound.is_current(), "the writer's window is not current")?;
    equal("one more store", outbound.write(0, &[1]), Err(WindowError::Closed))
}

pub(super) fn a_peer_resets_in_mid_write(testbed: &dyn Testbed) -> Verdict {
    let Pair { usd, dsd } = Pair::up(testbed)?;
    let inbound = dsd.inbound(0, 64 << 10)?;
    let outbound = usd.outbound(0)?;
    under_a_writer(&outbound, || {
        dsd.function().reset()?;
        let link = usd.wait_for_link(false, PATIENCE)?;
        check(!link.up, link)
    })?;
    drop(inbound);
    drop(dsd);
    // The one that comes next has a bridge that works.
    let dsd = driver(testbed, Port::Dsd)?;
    let pair = Pair { usd, dsd };
    pair.connect()?;
    let (outbound, inbound) = (pair.usd.outbound(0)?, pair.dsd.inbound(0, 4096)?);
    outbound.write(0, b"again")?;
    outbound.settle()?;
    let mut seen = [0; 5];
    inbound.read(0, &mut seen)?;
    equal("a store after all that", &seen, b"again")
}

pub(super) fn a_port_takes_one_driver(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    for port in [Port::Usd, Port::Dsd] {
        match testbed.attach(port) {
            Err(error @ FunctionError::Taken { .. }) => {
                check(error.to_string().contains("is taken"), &error)?;
            }
            Err(error) => return Err(error.into()),
            Ok(function) => return Err(super::refusal(Gen3::open(function)).into()),
        }
    }
    // The drivers that were there notice nothing.
    pair.usd.peer_scratchpad_write(0, 5)?;
    equal("a scratchpad", pair.usd.peer_scratchpad(0)?, 5)
}

pub(super) fn a_driver_comes_back_ten_times(testbed: &dyn Testbed) -> Verdict {
    let usd = driver(testbed, Port::Usd)?;
    for round in 1..=10_u8 {
        let dsd = driver(testbed, Port::Dsd)?;
        let inbound = dsd.inbound(0, 8192)?;
        for end in [&usd, &dsd] {
            end.link_enable(crate::Speed::Auto, crate::Width::Auto)?;
        }
        usd.wait_for_link(true, PATIENCE)?;
        dsd.wait_for_link(true, PATIENCE)?;
        let outbound = usd.outbound(0)?;
        outbound.write(4096, &[round; 16])?;
        outbound.settle()?;
        let mut seen = [0; 16];
        inbound.read(4096, &mut seen)?;
        equal("this round's store", seen, [round; 16])?;
        drop(inbound);
        drop(dsd);
        usd.wait_for_link(false, PATIENCE)?;
        equal("a store to nobody", outbound.write(0, &[1]), Err(WindowError::Closed))?;
    }
    Ok::<(), Failure>(())
}
