//! `isthmus vi`: frames in user space, with the tools that users of ef_vi know.

mod capture;
mod endpoint;
mod forward;
mod latency;
mod replay;
mod rss;
mod send;
mod serve;
mod sink;

use crate::Outcome;
use endpoint::{Endpoint, tell};

/// Virtual interfaces: frames in user space, through a service that holds a host's port
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, two hosts on one machine:
  isthmus twin --port-a /tmp/a.sock --port-b /tmp/b.sock --control /tmp/twin.sock --window direct --mw-size 16M &
  isthmus vi serve --port /tmp/a.sock --control /tmp/twin.sock --socket /tmp/vi-a.sock &
  isthmus vi serve --port /tmp/b.sock --control /tmp/twin.sock --socket /tmp/vi-b.sock &
  isthmus vi sink --service /tmp/vi-b.sock udp:10.9.0.2:5000 &
  isthmus vi send --service /tmp/vi-a.sock -n 1000 10.9.0.2 5000")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Latency(latency::Arguments),
    Send(send::Arguments),
    Sink(sink::Arguments),
    Forward(forward::Arguments),
    Rss(rss::Arguments),
    Capture(capture::Arguments),
    Replay(replay::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    match &arguments.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Latency(arguments) => latency::run(arguments),
        Command::Send(arguments) => send::run(arguments),
        Command::Sink(arguments) => sink::run(arguments),
        Command::Forward(arguments) => forward::run(arguments),
        Command::Rss(arguments) => rss::run(arguments),
        Command::Capture(arguments) => capture::run(arguments),
        Command::Replay(arguments) => replay::run(arguments),
    }
}
