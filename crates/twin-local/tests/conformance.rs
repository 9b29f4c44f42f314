//! The suite of `ntb`, run on twins in this process.

use ntb::conformance::{Failure, Outcome, Testbed, run};
use ntb::{FunctionError, PciFunction, Port};
use std::sync::Arc;
use std::time::Duration;
use twin_local::{LocalTwin, Setup, Side, WindowMode};

struct Local(LocalTwin);

impl Testbed for Local {
    fn attach(&self, port: Port) -> Result<Arc<dyn PciFunction>, FunctionError> {
        let side = match port {
            Port::Usd => Side::A,
            Port::Dsd => Side::B,
        };
        Ok(Arc::new(self.0.attach(side)?))
    }
}

fn passes_in(mode: WindowMode) {
    // Real devices have no messages: half of the modes are run without.
    let messages = mode != WindowMode::Shared;
    let setup = Setup { training: Duration::from_millis(2), messages, ..Setup::default() };
    let factory =
        || -> Result<Box<dyn Testbed>, Failure> { Ok(Box::new(Local(LocalTwin::new(setup, [mode; 2])?))) };
    let outcomes = run(&factory).unwrap();
    assert!(outcomes.len() > 20);
    let failed: Vec<String> =
        outcomes.iter().filter(|outcome| outcome.failure.is_some()).map(Outcome::to_string).collect();
    assert!(failed.is_empty(), "{mode}:\n{}", failed.join("\n"));
}

#[test]
fn messaged_windows() {
    passes_in(WindowMode::Trap);
}

#[test]
fn direct_windows() {
    passes_in(WindowMode::Direct);
}

#[test]
fn shared_windows() {
    passes_in(WindowMode::Shared);
}
