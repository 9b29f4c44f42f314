//! What is said on a channel.

use super::frame::Stream;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An agent's first words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Which guest it is in, as the kernel command line says.
    pub side: String,
    /// `uname -r`.
    pub release: String,
    /// The kernel's boot id: another one means another boot.
    pub boot_id: String,
}

/// Where a command shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// With whoever receives the request.
    Here,
    /// In the other guest.
    Peer,
    /// In guest a.
    A,
    /// In guest b.
    B,
    /// In the lab itself; the one program there is `down`.
    Lab,
}

/// What shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// A line for the guest's shell.
    Shell(String),
    /// A program and its arguments.
    Argv(Vec<String>),
}

/// A request to run a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Where.
    pub target: Target,
    /// What.
    pub program: Program,
    /// Rows and columns of the terminal it shall have, if it shall have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<(u16, u16)>,
    /// Environment beside the agent's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
}

impl Exec {
    /// A shell line, run by whoever receives it.
    #[must_use]
    pub fn shell(line: impl Into<String>) -> Self {
        Self { target: Target::Here, program: Program::Shell(line.into()), terminal: None, env: Vec::new() }
    }

    /// A program with arguments, run by whoever receives it.
    pub fn argv<I: IntoIterator<Item = S>, S: Into<String>>(words: I) -> Self {
        let words = words.into_iter().map(Into::into).collect();
        Self { target: Target::Here, program: Program::Argv(words), terminal: None, env: Vec::new() }
    }

    /// The same, elsewhere.
    #[must_use]
    pub fn at(mut self, target: Target) -> Self {
        self.target = target;
        self
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitStatus {
    /// It exited.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It never ran, or the way to it was lost; the sentence says why.
    Lost(String),
}

impl ExitStatus {
    /// Whether it exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        *self == Self::Code(0)
    }

    /// As a shell would have it in `$?`: ssh's 255 for a command that was lost.
    #[must_use]
    pub fn shell_code(&self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
            Self::Signal(signal) => u8::try_from((128 + signal) & 0xff).unwrap_or(u8::MAX),
            Self::Lost(_) => 255,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Lost(why) => write!(f, "lost: {why}"),
        }
    }
}

/// What one end of a call hears from the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes of a stream.
    Data(Stream, Vec<u8>),
    /// A stream has ended.
    End(Stream),
    /// The command ended; nothing follows.
    Exit(ExitStatus),
    /// Send this signal to the command.
    Signal(i32),
    /// The terminal has these rows and columns now.
    Resize(u16, u16),
    /// Whoever asked has gone; nothing follows.
    Cancel,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_json_that_they_were() {
        let exec = Exec::shell("uname -r").at(Target::Peer);
        let json = serde_json::to_string(&exec).unwrap();
        assert_eq!(json, r#"{"target":"peer","program":{"shell":"uname -r"}}"#);
        assert_eq!(serde_json::from_str::<Exec>(&json).unwrap(), exec);
        assert_eq!(serde_json::to_string(&ExitStatus::Code(3)).unwrap(), r#"{"code":3}"#);
    }

    #[test]
    fn a_status_becomes_what_a_shell_would_show() {
        assert_eq!(ExitStatus::Code(0).shell_code(), 0);
        assert_eq!(ExitStatus::Code(7).shell_code(), 7);
        assert_eq!(ExitStatus::Signal(9).shell_code(), 137);
        assert_eq!(ExitStatus::Lost(String::new()).shell_code(), 255);
    }
}
