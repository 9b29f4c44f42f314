//! The link: up, down, and what each end hears of it.

use super::{PATIENCE, Pair, Testbed, Verdict, check, driver, equal};
use crate::{Bridge, BridgeError, Link, Port, Speed, Width};
use std::time::Duration;

pub(super) fn it_comes_up_and_both_are_told(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::down(testbed)?;
    pair.usd.link_enable(Speed::Auto, Width::Auto)?;
    check(!pair.usd.link()?.up, "one end alone is no link")?;
    pair.dsd.link_enable(Speed::Generation(1), Width::Lanes(1))?;
    for (end, _) in pair.both() {
        let events = end.wait(PATIENCE)?;
        let up = Link { up: true, speed: 3, width: 16 };
        equal("the event", events.link, Some(up))?;
        equal("the register", end.link()?, up)?;
        equal("no event twice", end.events()?.link, None)?;
    }
    Ok(())
}

pub(super) fn it_goes_down_at_either_end(testbed: &dyn Testbed) -> Verdict {
    let pair = Pair::up(testbed)?;
    for (end, peer) in pair.both() {
        end.link_disable()?;
        for side in [end, peer] {
            let events = side.wait(PATIENCE)?;
            check(
                events.link.is_some_and(|link| !link.up),
                format!("{} hears of it: {events:?}", side.port()),
            )?;
            check(!side.link()?.up, "the register says so, too")?;
        }
        pair.connect()?;
    }
    Ok(())
}

pub(super) fn one_that_never_comes_up_says_what_was_seen(testbed: &dyn Testbed) -> Verdict {
    let usd = driver(testbed, Port::Usd)?;
    let brief = Duration::from_millis(10);
    let Err(error) = usd.wait_for_link(true, brief) else { return Err("a link with nobody".into()) };
    check(error.to_string().contains("this end is disabled"), &error)?;
    usd.link_enable(Speed::Auto, Width::Auto)?;
    let Err(error) = usd.wait_for_link(true, brief) else { return Err("a link with nobody".into()) };
    check(matches!(error, BridgeError::LinkTimeout { link_status: 0x0103, control: 0x154, .. }), &error)?;
    check(error.to_string().contains("the peer is absent"), &error)?;
    usd.wait_for_link(false, Duration::ZERO)?;
    Ok(())
}

pub(super) fn a_peer_that_leaves_takes_it_down(testbed: &dyn Testbed) -> Verdict {
    let Pair { usd, dsd } = Pair::up(testbed)?;
    drop(dsd);
    let events = usd.wait(PATIENCE)?;
    check(events.link.is_some_and(|link| !link.up), format!("{events:?}"))?;
    // The next one finds a clean link, after it has asked for it.
    let dsd = driver(testbed, Port::Dsd)?;
    check(!dsd.link()?.up, "nobody inherits an enabled link")?;
    dsd.link_enable(Speed::Auto, Width::Auto)?;
    usd.wait_for_link(true, PATIENCE)?;
    dsd.wait_for_link(true, PATIENCE)?;
    Ok(())
}
