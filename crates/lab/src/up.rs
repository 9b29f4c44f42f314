//! `lab up` and `lab down`: a lab that stays, for commands and shells that come and go.

use crate::access::{self, Access};
use crate::channel::{Call, Exec, ExitStatus, Handler, Mux, Program, Stream, Target, capture, refuse};
use crate::guest::Switchboard;
use crate::interrupt;
use crate::options::Side;
use crate::pair::Pair;
use anyhow::{Context, bail};
use serde_json::json;
use std::fs;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long `down` waits for the lab to have gone.
const DOWN: Duration = Duration::from_secs(30);

/// Requests from whoever attaches.
struct FromOutside {
    switchboard: Arc<Switchboard>,
    end: Mutex<Sender<String>>,
    about: String,
}

impl Handler for FromOutside {
    fn exec(&self, request: Exec, call: Call) {
        match (request.target, &request.program) {
            (Target::A, _) => self.switchboard.forward(Side::A, request, call),
            (Target::B, _) => self.switchboard.forward(Side::B, request, call),
            (Target::Lab, Program::Argv(words)) if *words == ["down"] => {
                call.writer().exit(&ExitStatus::Code(0));
                let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = end.send("it was told to".to_owned());
            }
            (Target::Lab, Program::Argv(words)) if *words == ["about"] => {
                let writer = call.writer();
                let _ = writer.data(Stream::Stdout, self.about.as_bytes());
                writer.exit(&ExitStatus::Code(0));
            }
            _ => refuse(&call, "a lab that is up runs commands in its guests, and `down`"),
        }
    }
}

/// Serves a lab until it is told to end, or something in it ends; `ready` is called once it can be reached.
///
/// # Errors
/// When another lab is up, or a part of this one ended by itself.
pub fn serve(pair: &mut Pair, ready: impl FnOnce(&str)) -> anyhow::Result<()> {
    let socket = access::socket()?;
    if Access::attach()?.is_some() {
        bail!("a lab is up already: `isthmus lab down` ends it");
    }
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket);
    let listener = listener.with_context(|| format!("cannot listen on {}", socket.display()))?;
    let (end, ended) = channel();
    for side in Side::BOTH {
        let (mux, end) = (pair.guest(side).mux().clone(), end.clone());
        std::thread::spawn(move || end.send(format!("guest {side}: {}", mux.wait_closed())));
    }
    let about = about(pair);
    let handler: Arc<dyn Handler> = Arc::new(FromOutside {
        switchboard: Arc::clone(pair.switchboard()),
        end: Mutex::new(end),
        about: about.clone(),
    });
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            if let Ok(reader) = stream.try_clone() {
                Mux::start(reader, stream, true, Arc::clone(&handler));
            }
        }
    });
    ready(&about);
    let why = ended.recv().unwrap_or_default();
    let _ = fs::remove_file(&socket);
    if why.starts_with("guest") && !interrupt::interrupted() {
        bail!("the lab ended: {why}");
    }
    Ok(())
}

/// What there is to know of a lab that is up, as one JSON object.
fn about(pair: &Pair) -> String {
    let plan = pair.plan();
    json!({
        "pid": std::process::id(),
        "directory": plan.directory,
        "control": plan.control_socket(),
        "kernel": pair.guest(Side::A).hello().release,
        "accel": pair.accel().to_string(),
        "window": plan.options.windows.to_string(),
        "consoles": Side::BOTH.map(|side| plan.console(side)),
    })
    .to_string()
}

/// Ends the lab that is up; false when there is none.
///
/// # Errors
/// When it does not end.
pub fn down() -> anyhow::Result<bool> {
    let Some(Access::Attached(mux)) = Access::attach()? else { return Ok(false) };
    let call = mux.exec(&Exec::argv(["down"]).at(Target::Lab))?;
    let deadline = Instant::now() + DOWN;
    // The lab's own end may overtake its answer.
    let _ = capture(call, deadline);
    let (gone, waiting) = channel();
    std::thread::spawn(move || gone.send(mux.wait_closed()));
    waiting.recv_timeout(DOWN).ok().context("the lab does not end")?;
    Ok(true)
}
