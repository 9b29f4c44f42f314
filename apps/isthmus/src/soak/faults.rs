//! Faults on request, and when they were: what was on its way then may be lost.

use super::traffic::Traffic;
use super::world::{Side, World, pause};
use anyhow::bail;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A stream on which nothing has come for so long after a fault stands for good: the soak's kernels try again after two
/// seconds at most, and a machine with other things to do has the rest.
const STANDSTILL: Duration = Duration::from_secs(60);
/// How often to look whether all streams move again.
const GLANCE: Duration = Duration::from_millis(5);

/// When there were faults.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults(Arc<Mutex<Vec<Interval>>>);

#[derive(Debug, Clone, Copy)]
struct Interval {
    from: Instant,
    /// `None` while it lasts.
    to: Option<Instant>,
}

impl Faults {
    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let with =
            |act: fn(&mut Vec<Interval>)| act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        with(|intervals| intervals.push(Interval { from: Instant::now(), to: None }));
        let result = work();
        with(|intervals| {
            if let Some(last) = intervals.last_mut() {
                last.to = Some(Instant::now());
            }
        });
        result
    }

    /// Whether there was a fault at some time between these two.
    pub(super) fn touch(&self, from: Instant, to: Instant) -> bool {
        let intervals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        intervals.iter().any(|fault| fault.from <= to && fault.to.is_none_or(|end| end >= from))
    }
}

/// What to do when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan(Vec<(Duration, Fault)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Flap(Side),
    Kill(Side),
}

impl Plan {
    /// So many of each, spread evenly over the time, the sides in turn.
    pub(super) fn new(flaps: u32, kills: u32, time: Duration) -> Self {
        let spread = |count: u32, make: fn(Side) -> Fault| {
            (0..count).map(move |number| {
                let side = if number % 2 == 0 { Side::A } else { Side::B };
                // The last one leaves time to see that all is well again.
                let at = time.mul_f64((f64::from(number) + 0.5) / (f64::from(count) + 0.5));
                (at, make(side))
            })
        };
        let mut plan: Vec<_> = spread(flaps, Fault::Flap).chain(spread(kills, Fault::Kill)).collect();
        plan.sort_by_key(|(at, _)| *at);
        Self(plan)
    }
}

/// How many were made.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    pub(super) flaps: u32,
    pub(super) kills: u32,
}

/// Lets the time pass and makes the faults, until a signal comes. After each fault every stream has to move again before the
/// next one, or the soak ends: the next fault would set right what this one has left behind.
pub(super) fn carry_out(
    plan: Plan,
    time: Duration,
    world: &mut World,
    traffic: &Traffic,
    faults: &Faults,
    stop: &UnixStream,
) -> anyhow::Result<Done> {
    let began = Instant::now();
    let mut done = Done::default();
    for (at, fault) in plan.0 {
        if stopped_before(began, at, stop)? {
            return Ok(done);
        }
        faults.during(|| {
            match fault {
                Fault::Flap(side) => world.flap(side),
                Fault::Kill(side) => world.kill(side),
            }?;
            wait_until_all_move(fault, world, traffic)
        })?;
        match fault {
            Fault::Flap(_) => done.flaps += 1,
            Fault::Kill(_) => done.kills += 1,
        }
        tracing::info!(?fault, flaps = done.flaps, kills = done.kills, "passed");
    }
    stopped_before(began, time, stop)?;
    Ok(done)
}

/// Waits until something that was sent from now on has come on every stream.
fn wait_until_all_move(after: Fault, world: &World, traffic: &Traffic) -> anyhow::Result<()> {
    let (began, milestone) = (Instant::now(), traffic.milestone());
    loop {
        let standing = milestone.standing();
        if standing.is_empty() {
            tracing::debug!(?after, took = ?began.elapsed(), "all streams move again");
            return Ok(());
        }
        if began.elapsed() > STANDSTILL {
            let told: String = world.interfaces().iter().map(crate::net::show).collect();
            bail!("after {after:?} nothing came for {STANDSTILL:?} on {}\n{told}", standing.join(", "));
        }
        pause(GLANCE);
    }
}

/// Waits until so much time has passed; true if a signal came first.
fn stopped_before(began: Instant, at: Duration, stop: &UnixStream) -> anyhow::Result<bool> {
    loop {
        let left = at.saturating_sub(began.elapsed());
        let limit = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&limit)) {
            Ok(0) if at <= began.elapsed() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_spread_over_the_time_and_sides() {
        let time = Duration::from_secs(100);
        let Plan(plan) = Plan::new(4, 2, time);
        assert_eq!(plan.len(), 6);
        assert!(plan.is_sorted_by_key(|(at, _)| *at));
        assert!(plan.iter().all(|(at, _)| *at > Duration::ZERO && *at < time));
        for side in Side::BOTH {
            assert_eq!(plan.iter().filter(|(_, fault)| *fault == Fault::Flap(side)).count(), 2);
            assert_eq!(plan.iter().filter(|(_, fault)| *fault == Fault::Kill(side)).count(), 1);
        }
        assert_eq!(Plan::new(0, 0, time), Plan(Vec::new()));
    }

    #[test]
    fn what_was_sent_around_a_fault_is_excused() {
        let faults = Faults::default();
        let before = Instant::now();
        assert!(!faults.touch(before, before));
        let inside = faults.during(|| {
            let now = Instant::now();
            assert!(faults.touch(now, now), "it lasts");
            now
        });
        assert!(faults.touch(before, inside));
        let later = Instant::now() + Duration::from_millis(1);
        assert!(!faults.touch(later, later));
    }
}
