//! The machine that a report was made on.

use serde::Serialize;
use std::fmt;
use std::fs;

/// What of a machine its figures depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many of them there are.
    pub processors: usize,
    /// Its memory.
    pub memory_mib: u64,
    /// Its kernel's release.
    pub kernel: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn here() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = field(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Self {
            cpu: field(&cpu, "model name").unwrap_or("an unknown processor").to_owned(),
            processors: cpu.lines().filter(|line| line.starts_with("processor")).count(),
            memory_mib: memory.unwrap_or(0) >> 10,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, processors, memory_mib, kernel } = self;
        write!(f, "{cpu}, {processors} processors, {memory_mib} MiB, Linux {kernel}")
    }
}

/// The first value of a name in `name : value` lines.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_processors_is_named() {
        let text = "processor\t: 0\nmodel name\t: One @ 2 GHz\nprocessor\t: 1\nmodel name\t: Two\n";
        assert_eq!(field(text, "model name"), Some("One @ 2 GHz"));
        assert_eq!(field(text, "flags"), None);
        assert!(Machine::here().processors > 0);
    }
}
