//! What must hold before a commit.

use crate::steps::{self, Cargo, Step, Work};
use crate::workspace::Workspace;
use crate::{arrows, registers, sources};
use anyhow::Result;

/// Runs every check; true if all passed.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let clippy = Cargo::new("clippy --workspace --all-targets --locked -- -D warnings");
    let doc = Cargo::new("doc --workspace --no-deps --locked").with("RUSTDOCFLAGS", "-D warnings");
    let steps = [
        Step {
            name: "format",
            work: Work::Cargo(Cargo::new("fmt --all --check")),
            advice: "Run `cargo fmt --all`; if the command is missing, `rustup component add rustfmt`.",
        },
        Step {
            name: "arrows",
            work: Work::Look(arrows::findings),
            advice: "Each line above says what to do; `cargo xtask arrows` runs this step alone.",
        },
        Step {
            name: "sources",
            work: Work::Look(sources::findings),
            advice: "Each line above says what to do; `cargo xtask sources` runs this step alone.",
        },
        Step {
            name: "registers",
            work: Work::Look(registers::findings),
            advice: "Run `cargo xtask registers` and commit docs/registers.md.",
        },
        Step {
            name: "clippy",
            work: Work::Cargo(clippy),
            advice: "Mend what it says; if the command is missing, `rustup component add clippy`.",
        },
        Step {
            name: "documentation",
            work: Work::Cargo(doc),
            advice: "Mend the links and examples in the comments it names.",
        },
    ];
    steps::run("cargo xtask check", workspace, &steps)
}
