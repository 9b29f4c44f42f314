//! The way to the guests: of a lab that is up, or of one that is booted for the purpose.

use crate::channel::{Call, Exec, Handler, Mux, Target, refuse};
use crate::options::Side;
use crate::pair::Pair;
use crate::run_dir;
use anyhow::Context;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a lab that is up listens.
///
/// # Errors
/// When the directory for it is not the user's own.
pub fn socket() -> anyhow::Result<PathBuf> {
    Ok(run_dir::rendezvous()?.join("lab.sock"))
}

/// Answers nothing: for the end of a connection that only asks.
#[derive(Debug, Clone, Copy)]
pub struct Refuser;

impl Handler for Refuser {
    fn exec(&self, _request: Exec, call: Call) {
        refuse(&call, "nothing runs on this side");
    }
}

/// Runs commands in guests.
#[derive(Debug)]
pub enum Access<'a> {
    /// A lab of this process.
    Own(&'a Pair),
    /// A lab that is up, in another process.
    Attached(Mux),
}

impl Access<'_> {
    /// The lab that is up, if one is.
    ///
    /// # Errors
    /// When there is one but it cannot be reached.
    pub fn attach() -> anyhow::Result<Option<Access<'static>>> {
        let socket = socket()?;
        match UnixStream::connect(&socket) {
            Ok(stream) => {
                let mux = Mux::start(stream.try_clone()?, stream, false, Arc::new(Refuser));
                Ok(Some(Access::Attached(mux)))
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("cannot reach the lab at {}", socket.display())),
        }
    }

    /// Starts a command in a guest.
    ///
    /// # Errors
    /// When the way to it is lost.
    pub fn exec(&self, side: Side, request: Exec) -> anyhow::Result<Call> {
        let call = match self {
            Self::Own(pair) => pair.guest(side).mux().exec(&request),
            Self::Attached(mux) => mux.exec(&request.at(match side {
                Side::A => Target::A,
                Side::B => Target::B,
            })),
        };
        call.with_context(|| format!("no way to guest {side}"))
    }
}
