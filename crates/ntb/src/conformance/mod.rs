//! What every way to reach a bridge has to do: one suite, run for each of them.
//!
//! ```text
//!   run(name, factory) ──▶ for each case: a fresh Testbed ──attach──▶ two drivers ──▶ Outcome
//! ```
//!
//! A [`Testbed`] is a twin (or two machines) with two free ports. Tests of `twin-local` and of the vfio-user function call
//! [`run`]; so does whoever writes another [`PciFunction`]. Cases wait on facts, never on time.

mod doorbells;
mod link;
mod messages;
mod registers;
mod trouble;
mod windows;

use crate::{Bridge, FunctionError, Gen3, OpenError, PciFunction, Port, Speed, Width, WindowKind};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is not to happen has this long to do so.
const QUIET: Duration = Duration::from_millis(20);

/// Two ports that are joined, free at first.
pub trait Testbed {
    /// Attaches to a port.
    ///
    /// # Errors
    /// [`FunctionError`], above all [`FunctionError::Taken`] where somebody drives it.
    fn attach(&self, port: Port) -> Result<Arc<dyn PciFunction>, FunctionError>;
}

/// Why a case failed.
pub type Failure = Box<dyn Error + Send + Sync>;
type Verdict = Result<(), Failure>;

/// How a case ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its name.
    pub case: &'static str,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, took, failure } = self;
        match failure {
            None => write!(f, "ok      {case} ({took:.1?})"),
            Some(failure) => write!(f, "FAILED  {case}: {failure}"),
        }
    }
}

struct Case {
    name: &'static str,
    run: fn(&dyn Testbed) -> Verdict,
}

macro_rules! cases {
    ($($module:ident::$function:ident),* $(,)?) => {
        &[$(Case { name: concat!(stringify!($module), "::", stringify!($function)), run: $module::$function }),*]
    };
}

static CASES: &[Case] = cases![
    registers::both_ends_are_what_they_are,
    registers::scratchpads_are_seen_at_both_ends,
    registers::scratchpads_outlive_the_link,
    registers::what_there_is_not_is_refused,
    link::it_comes_up_and_both_are_told,
    link::it_goes_down_at_either_end,
    link::one_that_never_comes_up_says_what_was_seen,
    link::a_peer_that_leaves_takes_it_down,
    doorbells::they_ring_at_the_peer_one_by_one,
    doorbells::a_mask_holds_them_back_and_no_longer,
    doorbells::descriptors_wake_who_waits,
    doorbells::nothing_rings_while_the_link_is_down,
    messages::they_lie_until_they_are_taken,
    messages::a_queue_keeps_their_order_and_its_bound,
    windows::stores_reach_the_memory_under_them,
    windows::both_directions_and_both_windows_are_apart,
    windows::translations_that_do_not_fit_are_refused,
    windows::one_that_is_closed_lets_nothing_through,
    windows::one_moves_to_other_memory,
    windows::words_are_stored_whole,
    trouble::a_window_closes_under_a_writer,
    trouble::a_peer_resets_in_mid_write,
    trouble::a_port_takes_one_driver,
    trouble::a_driver_comes_back_ten_times,
];

/// Runs every case on a testbed of its own.
///
/// # Errors
/// When a testbed cannot be made. A case that fails is an [`Outcome`].
pub fn run(factory: &dyn Fn() -> Result<Box<dyn Testbed>, Failure>) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::with_capacity(CASES.len());
    for case in CASES {
        let testbed = factory()?;
        let began = Instant::now();
        let failure = (case.run)(&*testbed).err();
        outcomes.push(Outcome { case: case.name, took: began.elapsed(), failure });
    }
    Ok(outcomes)
}

/// Two drivers at the two ends of one link.
struct Pair {
    usd: Gen3,
    dsd: Gen3,
}

impl Pair {
    fn down(testbed: &dyn Testbed) -> Result<Self, Failure> {
        Ok(Self { usd: driver(testbed, Port::Usd)?, dsd: driver(testbed, Port::Dsd)? })
    }

    fn up(testbed: &dyn Testbed) -> Result<Self, Failure> {
        let pair = Self::down(testbed)?;
        pair.connect()?;
        Ok(pair)
    }

    fn connect(&self) -> Verdict {
        for end in [&self.usd, &self.dsd] {
            end.link_enable(Speed::Auto, Width::Auto)?;
        }
        for end in [&self.usd, &self.dsd] {
            end.wait_for_link(true, PATIENCE)?;
        }
        Ok(())
    }

    /// Each end with its peer.
    fn both(&self) -> [(&Gen3, &Gen3); 2] {
        [(&self.usd, &self.dsd), (&self.dsd, &self.usd)]
    }
}

fn driver(testbed: &dyn Testbed, port: Port) -> Result<Gen3, Failure> {
    Ok(Gen3::open(attach(testbed, port)?)?)
}

/// Attaches, also while the one before is about to leave: a twin in another process hears of that by its socket.
fn attach(testbed: &dyn Testbed, port: Port) -> Result<Arc<dyn PciFunction>, Failure> {
    let until = Instant::now().checked_add(PATIENCE);
    loop {
        match testbed.attach(port) {
            Err(FunctionError::Taken { .. }) if until.is_some_and(|until| Instant::now() < until) => {
                std::thread::yield_now();
            }
            attached => return Ok(attached?),
        }
    }
}

/// Whether windows are one memory of both ports.
fn is_shared(bridge: &Gen3) -> bool {
    bridge.window_count() == 1
}

fn check(fact: bool, what: impl fmt::Display) -> Verdict {
    if fact { Ok(()) } else { Err(format!("not so: {what}").into()) }
}

fn equal<T: PartialEq + fmt::Debug>(what: &str, found: T, expected: T) -> Verdict {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: found {found:?} where {expected:?} was expected").into())
    }
}

/// Waits until something is so that nobody announces.
fn eventually(what: &str, fact: impl Fn() -> Result<bool, Failure>) -> Verdict {
    let until = Instant::now().checked_add(PATIENCE);
    while !fact()? {
        if until.is_none_or(|until| Instant::now() >= until) {
            return Err(format!("it never came: {what}").into());
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// How the windows of a port work, for messages.
fn kind(bridge: &Gen3) -> Result<WindowKind, Failure> {
    Ok(bridge.window_kind(0)?)
}

/// The refusal of a driver that is opened.
fn refusal(opened: Result<Gen3, OpenError>) -> String {
    opened.map_or_else(|error| error.to_string(), |bridge| format!("{bridge:?}"))
}
