//! The lab's end inside a guest: the same executable as on the host.
//!
//! ```text
//! /init ─▶ agent init (PID 1: mounts, loads virtio, reaps) ─▶ agent serve ◀── virtio-serial ──▶ lab
//!                                                                   ▲ unix socket
//!                                                                  agent ssh (the shim: `ssh b CMD` in guest a)
//! ```
//!
//! It does not depend on the guest's user space: it brings its own loader and libraries, see
//! [`crate::initrd`].

mod command;
mod init;
mod kmsg;
mod serve;
mod ssh;
mod wait;

use crate::copy::CopyLoop;
use crate::vfio::Conformance;
use anyhow::{Context, bail};
use std::ffi::OsString;
use std::process::ExitCode;

/// Where the executable, its loader and its libraries are in a guest.
pub const HOME: &str = "/isthmus";
/// The script that starts the executable in a guest.
pub const SELF: &str = "/isthmus/isthmus.sh";
/// The virtio-serial port's name.
pub const PORT_NAME: &str = "isthmus.agent";
/// Where the agent listens for the `ssh` shim.
const SHIM_SOCKET: &str = "/run/isthmus.sock";

/// What the agent runs and this crate does not know: it links no device and maps no memory.
#[derive(Debug, Clone, Copy)]
pub struct Hands {
    /// For `copy`.
    pub copy_loop: CopyLoop,
    /// For `conformance`.
    pub conformance: Conformance,
}

/// `isthmus lab agent init|serve|kmsg|wait|ssh|copy|conformance ..`; `hands` is what the last two run.
///
/// # Errors
/// When the part cannot go on; in a guest the console shows why.
pub fn main(args: Vec<OsString>, hands: Hands) -> anyhow::Result<ExitCode> {
    let mut args = args.into_iter();
    match args.next().as_deref().and_then(|part| part.to_str()) {
        Some("init") => init::run(),
        Some("serve") => serve::run(),
        Some("kmsg") => kmsg::run(),
        Some("wait") => wait::run(args),
        Some("ssh") => ssh::run(args),
        Some("copy") => copy(args.next(), hands.copy_loop),
        Some("conformance") => conformance(args, hands.conformance),
        _ => bail!("this part of isthmus runs inside the guests of a lab"),
    }
}

/// Carries out an order in JSON, and prints its runs as JSON.
fn copy(order: Option<OsString>, copy_loop: CopyLoop) -> anyhow::Result<ExitCode> {
    let order = order.context("no order")?;
    let order = serde_json::from_slice(order.as_encoded_bytes()).context("not an order")?;
    serde_json::to_writer(std::io::stdout(), &copy_loop(&order)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Drives two devices against each other, and prints what became of each case as JSON.
fn conformance(
    devices: impl Iterator<Item = OsString>,
    conformance: Conformance,
) -> anyhow::Result<ExitCode> {
    let devices: Vec<_> = devices.map(|device| device.to_string_lossy().into_owned()).collect();
    serde_json::to_writer(std::io::stdout(), &conformance(&devices)?)?;
    Ok(ExitCode::SUCCESS)
}
