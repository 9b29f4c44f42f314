//! `isthmus`: arguments to plan, plan to run; nothing else.
//!
//! Exit status: 0 done, 1 the thing under test failed, 2 could not run, and the message says what to do.

#![forbid(unsafe_code)]

mod demo;
mod lab;
mod net;
mod opposite;
mod out;
mod overlay;
mod peer_command;
mod perf;
mod port_choice;
mod soak;
mod status;
mod stop;
mod trace;
mod twin_command;
mod vi;
mod window_choice;

use clap::{CommandFactory, Parser, Subcommand};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Two hosts joined by a PCIe non-transparent bridge that needs no hardware.
#[derive(Debug, Parser)]
#[command(
    name = "isthmus",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  isthmus demo                                           two hosts in one process, then in two: no QEMU
  isthmus lab perf                                       two stock guests on a twin: link, ping, ntb_perf, iperf3
  isthmus twin --port-a /tmp/a.sock --port-b /tmp/b.sock   serve a twin to your own QEMUs

Logs go to stderr; ISTHMUS_LOG=debug shows more of them."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Arguments),
    Lab(lab::Arguments),
    Perf(perf::Arguments),
    Twin(twin_command::Arguments),
    Trace(trace::Arguments),
    Status(status::Arguments),
    Peer(peer_command::Arguments),
    Net(net::Arguments),
    Soak(soak::Arguments),
    Vi(vi::Arguments),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  isthmus completions bash > ~/.local/share/bash-completion/completions/isthmus"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How a subcommand ended, when it did not fail to run.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Done,
    /// As the part of the program says that runs inside a guest.
    Exit(ExitCode),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Where a twin is a means, its comings and goings are no news.
    let level =
        if matches!(arguments.command, Command::Demo(_) | Command::Perf(_)) { "warn" } else { "info" };
    let filter = EnvFilter::try_from_env("ISTHMUS_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would tell of lines that cannot be written by `eprintln!`, which panics when nobody reads.
        .log_internal_errors(false)
        .init();
    let result = match arguments.command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Lab(arguments) => lab::run(arguments),
        Command::Perf(arguments) => perf::run(&arguments),
        Command::Twin(arguments) => twin_command::run(&arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Peer(arguments) => peer_command::run(&arguments),
        Command::Net(arguments) => net::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Vi(arguments) => vi::run(&arguments),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "isthmus", &mut std::io::stdout());
            Ok(Outcome::Done)
        }
    };
    match result {
        Ok(Outcome::Done) if out::has_failed() => ExitCode::from(2),
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Exit(code)) => code,
        Err(error) => {
            crate::out::note!("isthmus: {error:#}");
            ExitCode::from(::lab::trouble::exit_code(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
