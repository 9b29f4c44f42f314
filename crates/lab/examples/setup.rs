//! Makes a lab's artifacts and prints where they are: `cargo run -p lab --example setup -- 6.12 6.1 [--refresh]`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to its terminal")]

use std::error::Error as _;
use std::process::ExitCode;
use std::time::Instant;

use lab::artifacts::{Progress, Series, SetupOptions, setup};

/// One line per step, with its time.
struct Lines {
    started: Instant,
    percent: u64,
}

impl Progress for Lines {
    fn step(&mut self, name: &str) {
        self.percent = 0;
        eprintln!("{:7.1} s  {name}", self.started.elapsed().as_secs_f64());
    }

    fn bytes(&mut self, done: u64, total: u64) {
        let percent = done.saturating_mul(100) / total.max(1);
        if percent >= self.percent + 50 {
            self.percent = percent;
            eprintln!("           {percent} % of {} MB", total / 1_000_000);
        }
    }

    fn message(&mut self, text: &str) {
        eprintln!("           {text}");
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = |series: &Series| arguments.iter().any(|argument| argument == series.name());
    let mut options =
        SetupOptions { refresh: arguments.iter().any(|a| a == "--refresh"), ..Default::default() };
    if Series::ALL.iter().any(asked) {
        options.series = Series::ALL.into_iter().filter(asked).collect();
    }
    let started = Instant::now();
    match setup(&options, &mut Lines { started, percent: 0 }) {
        Ok(artifacts) => {
            println!("{artifacts:#?}");
            eprintln!("{:7.1} s  ready", started.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(source) = error.source() {
                eprintln!("  because: {source}");
            }
            ExitCode::from(2)
        }
    }
}
