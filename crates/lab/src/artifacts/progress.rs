//! How a setup tells what it is doing, without knowing who watches.

/// Receives what a setup does, in order.
pub trait Progress {
    /// A new step begins; the one before it is done.
    fn step(&mut self, name: &str);
    /// The present step has handled `done` of `total` bytes.
    fn bytes(&mut self, done: u64, total: u64);
    /// Something worth a line, within the present step.
    fn message(&mut self, text: &str);
}

/// Nobody watches.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn step(&mut self, _name: &str) {}
    fn bytes(&mut self, _done: u64, _total: u64) {}
    fn message(&mut self, _text: &str) {}
}
