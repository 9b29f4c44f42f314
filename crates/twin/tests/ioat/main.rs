//! The I/OAT engine: every register, what the Linux driver says to it, what goes wrong.

#[cfg(test)]
#[path = "../common/mod.rs"]
mod common;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod host;
#[cfg(test)]
mod linux;
#[cfg(test)]
mod order;
#[cfg(test)]
mod table;
