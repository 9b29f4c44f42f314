//! Progress on standard error: a spinner on a terminal, a line each elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Tells what a run is doing.
pub(crate) struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    begun: Instant,
}

impl Progress {
    pub(crate) fn new(what: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_draw_target(ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_prefix(what);
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { what, bar, begun: Instant::now() }
    }

    pub(crate) fn tell(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => crate::out::note!("[{:>4} s] {}: {text}", self.begun.elapsed().as_secs(), self.what),
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A setup's steps.
pub(super) struct SetupProgress {
    progress: Progress,
    step: String,
    shown: u64,
}

impl SetupProgress {
    pub(super) fn new() -> Self {
        Self { progress: Progress::new("setup"), step: String::new(), shown: 0 }
    }
}

impl ::lab::artifacts::Progress for SetupProgress {
    fn step(&mut self, name: &str) {
        name.clone_into(&mut self.step);
        self.shown = 0;
        self.progress.tell(name);
    }

    fn bytes(&mut self, done: u64, total: u64) {
        let percent = (done * 100).checked_div(total).unwrap_or(100);
        // Without a terminal each call is a line: quarters are enough.
        if self.progress.bar.is_none() && (percent < self.shown + 25 || percent == 100) {
            return;
        }
        self.shown = percent;
        self.progress.tell(&format!("{}: {} of {} MiB", self.step, done >> 20, total >> 20));
    }

    fn message(&mut self, text: &str) {
        match &self.progress.bar {
            Some(bar) => bar.println(text),
            None => self.progress.tell(text),
        }
    }
}
