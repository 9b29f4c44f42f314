//! A list of steps, run one after the other until one fails, with a last line that says how it went.

use crate::tell;
use crate::workspace::{Workspace, cargo};
use anyhow::{Context as _, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// One step.
pub(crate) struct Step {
    /// A word for it.
    pub(crate) name: &'static str,
    /// What to do.
    pub(crate) work: Work,
    /// What to do about it when it fails.
    pub(crate) advice: &'static str,
}

/// What a step does.
pub(crate) enum Work {
    /// Runs cargo.
    Cargo(Cargo),
    /// Looks at the tree; what it finds is wrong.
    Look(fn(&Workspace) -> Result<Vec<String>>),
    /// Nothing, and says so.
    Skip,
}

/// A run of cargo in the root of the workspace.
#[derive(Default)]
pub(crate) struct Cargo {
    arguments: Vec<&'static str>,
    environment: Vec<(&'static str, &'static str)>,
    limit: Option<Duration>,
    output: Option<PathBuf>,
}

impl Cargo {
    /// `cargo` with these arguments, divided by spaces.
    pub(crate) fn new(arguments: &'static str) -> Self {
        Self { arguments: arguments.split(' ').collect(), ..Self::default() }
    }

    /// With one more variable in the environment.
    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Killed, with all that it started, after so many minutes.
    pub(crate) fn minutes(mut self, minutes: u64) -> Self {
        self.limit = Some(Duration::from_secs(60 * minutes));
        self
    }

    /// Standard output goes to a file.
    pub(crate) fn into_file(mut self, path: PathBuf) -> Self {
        self.output = Some(path);
        self
    }

    fn shown(&self) -> String {
        let environment = self.environment.iter().map(|(name, value)| format!("{name}=\"{value}\" "));
        format!("{}cargo {}", environment.collect::<String>(), self.arguments.join(" "))
    }

    /// The command line: cargo itself, or `timeout` around it.
    fn command_line(&self, on_terminal: bool) -> Vec<OsString> {
        let mut line: Vec<OsString> = Vec::new();
        if let Some(limit) = self.limit {
            line.extend(["timeout", "--kill-after=20"].map(OsString::from));
            if on_terminal {
                // In a process group of its own it would not see Ctrl-C.
                line.push("--foreground".into());
            }
            line.push(limit.as_secs().to_string().into());
        }
        line.push(cargo());
        line.extend(self.arguments.iter().map(OsString::from));
        line
    }

    fn run(&self, workspace: &Workspace) -> Result<ExitStatus> {
        let line = self.command_line(std::io::stdin().is_terminal());
        let (program, arguments) = line.split_first().context("an empty command line")?;
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment.iter().copied()).current_dir(&workspace.root);
        if let Some(path) = &self.output {
            let making = || format!("making {}", path.display());
            fs::create_dir_all(path.parent().unwrap_or(path)).with_context(making)?;
            command.stdout(File::create(path).with_context(making)?);
        }
        command.status().with_context(|| format!("{} does not start", program.display()))
    }
}

/// How a step ended.
enum Outcome {
    Passed,
    Skipped,
    Failed(String),
}

impl Work {
    fn shown(&self, name: &str) -> String {
        match self {
            Self::Cargo(cargo) => cargo.shown(),
            Self::Look(_) => format!("reading the tree for `{name}`"),
            Self::Skip => "skipped".to_owned(),
        }
    }

    fn run(&self, name: &str, workspace: &Workspace) -> Result<Outcome> {
        match self {
            Self::Cargo(cargo) => Ok(judge(cargo.run(workspace)?, cargo.limit)),
            Self::Look(look) => {
                let passed = tell(name, &look(workspace)?);
                Ok(if passed { Outcome::Passed } else { Outcome::Failed("it objects, see above".to_owned()) })
            }
            Self::Skip => Ok(Outcome::Skipped),
        }
    }
}

/// What an exit status means. `timeout` ends with 124, or is itself killed if it has to use force.
fn judge(status: ExitStatus, limit: Option<Duration>) -> Outcome {
    match (status.code(), limit) {
        (Some(0), _) => Outcome::Passed,
        (Some(124) | None, Some(limit)) => {
            Outcome::Failed(format!("it did not end within {} and was killed", human(limit)))
        }
        _ => Outcome::Failed(format!("it ended with {status}")),
    }
}

/// Runs the steps; true if none failed.
pub(crate) fn run(title: &str, workspace: &Workspace, steps: &[Step]) -> Result<bool> {
    let start = Instant::now();
    let mut summary = String::new();
    let mut skipped = String::new();
    for (at, step) in steps.iter().enumerate() {
        let begin = Instant::now();
        println!("\n[{}/{}] {}: {}", at + 1, steps.len(), step.name, step.work.shown(step.name));
        let outcome = step.work.run(step.name, workspace)?;
        let took = human(begin.elapsed());
        match outcome {
            Outcome::Passed => {
                println!("[{}/{}] {} passed in {took}", at + 1, steps.len(), step.name);
                summary.push_str(&format!("  {:<16} passed  {took:>12}\n", step.name));
            }
            Outcome::Skipped => {
                println!("[{}/{}] {} SKIPPED: {}", at + 1, steps.len(), step.name, step.advice);
                summary.push_str(&format!("  {:<16} SKIPPED {:>12}  {}\n", step.name, "", step.advice));
                skipped.push_str(&format!(", {} SKIPPED", step.name));
            }
            Outcome::Failed(why) => {
                summary.push_str(&format!("  {:<16} FAILED  {took:>12}  {why}\n", step.name));
                println!(
                    "\n{title}:\n{summary}\nFAIL: {title}: `{}` failed, {why}. {}",
                    step.name, step.advice
                );
                return Ok(false);
            }
        }
    }
    println!(
        "\n{title}:\n{summary}\nPASS: {title}, {} steps in {}{skipped}",
        steps.len(),
        human(start.elapsed())
    );
    Ok(true)
}

fn human(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nowhere() -> Workspace {
        let root = std::env::temp_dir();
        let metadata = json!({"workspace_root": root, "target_directory": root, "packages": []});
        Workspace::parse(&metadata.to_string()).unwrap()
    }

    fn look(name: &'static str, look: fn(&Workspace) -> Result<Vec<String>>) -> Step {
        Step { name, work: Work::Look(look), advice: "Mend it." }
    }

    #[test]
    fn the_first_failure_ends_the_run() {
        let bad = |_: &Workspace| Ok(vec!["crooked".to_owned()]);
        let never = |_: &Workspace| anyhow::bail!("must not be reached");
        assert!(!run("test", &nowhere(), &[look("bad", bad), look("never", never)]).unwrap());
    }

    #[test]
    fn a_skipped_step_is_no_failure() {
        let good = |_: &Workspace| Ok(Vec::new());
        let skip = Step { name: "guests", work: Work::Skip, advice: "run them" };
        assert!(run("test", &nowhere(), &[skip, look("good", good)]).unwrap());
    }

    #[test]
    fn a_limit_is_kept_and_told() {
        let run = |line: &[OsString]| Command::new(&line[0]).args(&line[1..]).status().unwrap();
        let limited = Cargo::new("run -- lab").minutes(2);
        let mut line = limited.command_line(false);
        assert_eq!(line[..3], ["timeout", "--kill-after=20", "120"].map(OsString::from));
        line[2] = "0.05".into();
        line.splice(3.., ["sleep", "30"].map(OsString::from));
        let Outcome::Failed(why) = judge(run(&line), limited.limit) else { panic!("passed") };
        assert_eq!(why, "it did not end within 2 min 0 s and was killed");
    }

    #[test]
    fn command_lines() {
        let cargo = Cargo::new("doc --no-deps").with("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(cargo.shown(), "RUSTDOCFLAGS=\"-D warnings\" cargo doc --no-deps");
        assert_eq!(cargo.command_line(true).len(), 3);
        assert!(cargo.minutes(1).command_line(true).contains(&"--foreground".into()));
    }
}
