//! The test command: everything that needs no guest, then, where they are asked for, the guests.

use crate::report;
use crate::steps::{self, Cargo, Step, Work};
use crate::workspace::Workspace;
use anyhow::Result;
use std::process::{Command, Stdio};

/// Runs the tests; true if all passed.
pub(crate) fn run(workspace: &Workspace, guests: bool) -> Result<bool> {
    let ci = in_ci(std::env::var("CI").ok().as_deref());
    let units = without_guests(ci, has_nextest());
    // What the guests need is made first: tests with a QEMU and no guest use that QEMU.
    let steps: Vec<Step> = if ci || guests {
        artifacts().into_iter().chain(units).chain(with_guests(workspace)).collect()
    } else {
        units.into_iter().chain([left_out()]).collect()
    };
    steps::run("cargo xtask test", workspace, &steps)
}

/// Whether the variable that CI services set is set, and not to a no.
fn in_ci(value: Option<&str>) -> bool {
    !matches!(value, None | Some("" | "0" | "false"))
}

fn has_nextest() -> bool {
    let asked = Command::new(crate::workspace::cargo())
        .args(["nextest", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

fn without_guests(ci: bool, nextest: bool) -> Vec<Step> {
    let units = match (nextest, ci) {
        (true, true) => "nextest run --workspace --locked --profile ci",
        (true, false) => "nextest run --workspace --locked",
        (false, _) => "test --workspace --locked --lib --bins --tests --examples",
    };
    vec![
        Step {
            name: "units",
            work: Work::Cargo(Cargo::new(units).minutes(10)),
            advice: "The failing test is named above; run it alone by `cargo test -p CRATE NAME`.",
        },
        Step {
            name: "doc tests",
            work: Work::Cargo(Cargo::new("test --workspace --locked --doc").minutes(5)),
            advice: "An example in a comment does not do what it says.",
        },
        Step {
            name: "features",
            work: Work::Cargo(Cargo::new("test -p ntb --features tokio --test tokio --locked").minutes(5)),
            advice: "What is behind a feature of ntb does not build, or does not do what it should.",
        },
        loom(),
        Step {
            name: "benches",
            // Built as they are, and not optimised: this shows that they link.
            work: Work::Cargo(Cargo::new("bench --workspace --locked --no-run --profile dev").minutes(5)),
            advice: "A bench does not build.",
        },
    ]
}

/// Every interleaving of the rings and lanes, and each of their orderings weakened alone.
pub(crate) fn loom() -> Step {
    // Another cfg is another build of everything below: it has a target directory of its own.
    let models = Cargo::new("test -p cells -p vi --lib --locked --target-dir target/loom");
    Step {
        name: "loom",
        work: Work::Cargo(models.with("RUSTFLAGS", "--cfg loom").minutes(5)),
        advice: "A model failed, or an ordering can go without a model that fails; both are named above.",
    }
}

/// The program, and what its guests are made of.
fn artifacts() -> Vec<Step> {
    vec![
        Step {
            name: "release build",
            work: Work::Cargo(Cargo::new("build --release --locked").minutes(10)),
            advice: "The program does not build.",
        },
        Step {
            name: "lab setup",
            work: Work::Cargo(Cargo::new("run --release --locked -- lab setup").minutes(12)),
            advice: "The guests' QEMU, kernel or root could not be made; the message above says which.",
        },
    ]
}

/// Each way through a window on a guest's kernel, with the faults once each: the smallest windows where stores are
/// messages (by ntb_perf, as no network device works with them), the default ones elsewhere.
const MODES: [(&str, &str); 6] = [
    ("lab test", "run --release --locked -- lab test"),
    ("lab trap 64K", "run --release --locked -- lab test --window trap --mw-size 64K"),
    ("lab dma 64K", "run --release --locked -- lab test --window dma --mw-size 64K"),
    ("lab shared", "run --release --locked -- lab test --window shared"),
    ("lab alias", "run --release --locked -- lab test --window alias"),
    ("lab direct", "run --release --locked -- lab test --window direct --dma"),
];

fn with_guests(workspace: &Workspace) -> Vec<Step> {
    let perf = Cargo::new("run --release --locked -- lab perf --json").minutes(6);
    let modes = MODES.into_iter().map(|(name, line)| Step {
        name,
        work: Work::Cargo(Cargo::new(line).minutes(8)),
        advice: "Both consoles and the registers of both ports are above.",
    });
    let figures = [
        Step {
            name: "soak",
            work: Work::Cargo(
                Cargo::new("run --release --locked -- soak --minutes 1 --flaps 3 --kills 2").minutes(4),
            ),
            advice: "What was lost, corrupt or out of order is in the table above; it takes root and two network namespaces.",
        },
        Step {
            name: "lab test --peer",
            work: Work::Cargo(Cargo::new("run --release --locked -- lab test --peer").minutes(8)),
            advice: "What the process said, and the guest's console, are above.",
        },
        Step {
            name: "lab test --vfio",
            work: Work::Cargo(Cargo::new("run --release --locked -- lab test --vfio").minutes(6)),
            advice: "What the suite or the process said, and the guests' consoles, are above.",
        },
        Step {
            name: "lab perf",
            work: Work::Cargo(perf.into_file(report::path(workspace))),
            advice: "Both consoles and the registers of both ports are above.",
        },
        Step {
            name: "lab report",
            work: Work::Look(report::findings),
            advice: "The report of `lab perf --json` is in target/xtask/lab-perf.json.",
        },
    ];
    modes.chain(figures).collect()
}

fn left_out() -> Step {
    Step {
        name: "guests",
        work: Work::Skip,
        advice: "two guests on a twin were NOT tested; `cargo xtask test --guests` does it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_is_a_variable_that_says_yes() {
        assert!(in_ci(Some("true")) && in_ci(Some("1")));
        assert!(!in_ci(None) && !in_ci(Some("")) && !in_ci(Some("false")));
    }

    #[test]
    fn no_guest_step_can_be_skipped_once_guests_are_asked_for() {
        let metadata = r#"{"workspace_root": "/", "target_directory": "/target", "packages": []}"#;
        let workspace = Workspace::parse(metadata).unwrap();
        let steps = artifacts().into_iter().chain(with_guests(&workspace));
        assert!(steps.into_iter().all(|step| !matches!(step.work, Work::Skip)));
        assert!(matches!(left_out().work, Work::Skip));
    }

    #[test]
    fn every_mode_runs_once_at_least() {
        let line = |(_, line): &(&str, &'static str)| *line;
        for mode in ["trap", "dma", "shared", "alias", "direct"] {
            assert!(MODES.iter().map(line).any(|line| line.contains(&format!("--window {mode}"))), "{mode}");
        }
    }
}
