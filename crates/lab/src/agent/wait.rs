//! `agent wait SECONDS FILE WORD`: until a file of the kernel says a word, or (`!WORD`) says it no more.

use anyhow::{Context, bail};
use rustix::event::{Timespec, poll};
use std::ffi::OsString;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

pub(super) fn run(args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let args: Vec<String> = args.map(|word| word.to_string_lossy().into_owned()).collect();
    let [seconds, file, word] = args.as_slice() else { bail!("usage: wait SECONDS FILE WORD") };
    let deadline = Instant::now() + Duration::from_secs(seconds.parse().context("not a number of seconds")?);
    loop {
        // Some files cannot be read before they have something to say: `carrier` of a device that is down.
        let text = fs::read_to_string(file).unwrap_or_default();
        if says(&text, word) {
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() > deadline {
            bail!("{file} does not come to say {word}: it says {:?}", text.trim());
        }
        // Files of sysfs and debugfs tell nobody when they change: look fifty times a second.
        let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }));
    }
}

fn says(text: &str, word: &str) -> bool {
    match word.strip_prefix('!') {
        Some(word) => !text.split_whitespace().any(|found| found == word),
        None => text.split_whitespace().any(|found| found == word),
    }
}

#[cfg(test)]
mod tests {
    use super::says;

    #[test]
    fn a_word_is_looked_for_as_a_whole() {
        assert!(says("1\n", "1") && !says("10\n", "1") && !says("", "1"));
        assert!(says("0\n", "!1") && says("", "!1") && !says("1\n", "!1"));
    }
}
