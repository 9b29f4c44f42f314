//! Checks and chores of this workspace: `cargo xtask --help`.
//!
//! ```text
//!   ARCHITECTURE.md ──arrows block──▶ arrows ◀── cargo metadata
//!                           └───────▶ sources ◀── every .rs file
//!   ntb-spec tables ────────────────▶ registers ──▶ docs/registers.md
//!   check = fmt, clippy, arrows, sources, registers, doc      test = units, docs, loom, benches, guests
//! ```
//!
//! A human and CI call the same commands: `.ci/run` is `cargo xtask check`, then `cargo xtask test`.
//!
//! What this crate does not do: build anything that users get, or know more of the devices than their tables.
//!
//! Exit status: 0 all is well, 1 something is wrong with the tree, 2 the check itself could not run.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a chore talks to the one who called it")]

mod arrows;
mod check;
mod registers;
mod report;
mod rules;
mod sources;
mod steps;
mod test;
mod workspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Checks and chores of this workspace")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Compare the dependencies between our crates with the arrows in ARCHITECTURE.md
    Arrows,
    /// Read every .rs file: unsafe code, length, unfinished marks, files that no module names
    Sources,
    /// Write docs/registers.md from the register tables
    Registers {
        /// Write nothing; fail if the file is not what the tables say
        #[arg(long)]
        check: bool,
    },
    /// Format, clippy, arrows, sources, register page, documentation: what must hold before a commit
    Check,
    /// The rings of `cells` and the lanes of `vi` in loom: every interleaving, then each ordering weakened alone, which must fail
    Loom,
    /// Unit tests, doc tests, loom, benches compiled; with --guests, or where CI is set, real guests too
    Test {
        /// Boot two guests on a twin as well; always done where the environment variable CI is set
        #[arg(long)]
        guests: bool,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse().chore) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            println!("cannot run this chore: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether the tree passed.
fn run(chore: &Chore) -> Result<bool> {
    let workspace = Workspace::load()?;
    match chore {
        Chore::Arrows => arrows::findings(&workspace).map(|found| tell("arrows", &found)),
        Chore::Sources => sources::findings(&workspace).map(|found| tell("sources", &found)),
        Chore::Registers { check: true } => {
            registers::findings(&workspace).map(|found| tell("registers", &found))
        }
        Chore::Registers { check: false } => registers::write(&workspace).map(|()| true),
        Chore::Loom => steps::run("cargo xtask loom", &workspace, &[test::loom()]),
        Chore::Check => check::run(&workspace),
        Chore::Test { guests } => test::run(&workspace, *guests),
    }
}

/// Prints what a check found; true if that was nothing.
fn tell(check: &str, findings: &[String]) -> bool {
    for finding in findings {
        println!("  {finding}");
    }
    match findings.len() {
        0 => println!("{check}: nothing to object to"),
        1 => println!("{check}: 1 objection"),
        more => println!("{check}: {more} objections"),
    }
    findings.is_empty()
}
