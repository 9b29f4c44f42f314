//! Rules by which a peer misbehaves: a TOML file.
//!
//! ```toml
//! [handshake]            # what is announced in the place of the truth
//! version = 5
//!
//! [[rule]]               # the first rule that fits a frame counts; frames are numbered from 1 in each direction
//! on = "receive"         # "receive": from the guest; "send": to it
//! frames = "10..20"      # and "every = 7"; without either, all
//! do = "drop"            # drop, delay, stall, close; on send also corrupt, header
//! ```

use linux_transport::Lies;
use ntb_spec::linux_transport::PayloadHeader;
use serde::Deserialize;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Why a script cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum BadScript {
    /// Not TOML, or a word that there is not.
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    /// A rule that says too little, or what cannot be.
    #[error("rule {number}: {what}")]
    Rule {
        /// Which, from 1.
        number: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// What to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// As without a script.
    Pass,
    /// Throw it away.
    Drop,
    /// Treat it so much later; others overtake it.
    Delay(Duration),
    /// Treat it, and nothing more in its direction for so long: the sender's ring fills.
    Stall(Duration),
    /// Treat it, close the queue pair, and open it again so much later.
    Close(Duration),
    /// Invert a byte of it, counted from its start; the last one where it is shorter.
    Corrupt(usize),
    /// Send it with another header.
    Header(HeaderLie),
}

/// Words of a frame's header, where they are not the right ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeaderLie {
    version: Option<u32>,
    bytes: Option<u32>,
    flags: Option<u32>,
}

impl HeaderLie {
    /// The header with these words in it.
    #[must_use]
    pub fn apply(self, header: PayloadHeader) -> PayloadHeader {
        PayloadHeader {
            version: self.version.unwrap_or(header.version),
            payload_bytes: self.bytes.unwrap_or(header.payload_bytes),
            flags: self.flags.unwrap_or(header.flags),
        }
    }
}

/// From or to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the guest.
    Receive,
    /// To the guest.
    Send,
}

/// All that a file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// What is announced.
    pub lies: Lies,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    on: Direction,
    frames: RangeInclusive<u64>,
    every: u64,
    action: Action,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    handshake: HandShakeText,
    #[serde(default, rename = "rule")]
    rules: Vec<RuleText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HandShakeText {
    version: Option<u32>,
    queues: Option<u32>,
    windows: Option<u32>,
    window_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ActionText {
    Drop,
    Delay,
    Stall,
    Close,
    Corrupt,
    Header,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    on: Direction,
    frames: Option<String>,
    every: Option<u64>,
    #[serde(rename = "do")]
    action: ActionText,
    ms: Option<u64>,
    at: Option<usize>,
    version: Option<u32>,
    bytes: Option<u32>,
    flags: Option<u32>,
}

impl Script {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`BadScript`] says where and what.
    pub fn parse(text: &str) -> Result<Self, BadScript> {
        let file: FileText = toml::from_str(text)?;
        let HandShakeText { version, queues, windows, window_bytes } = file.handshake;
        let rule =
            |(number, text): (usize, RuleText)| text.rule().map_err(|what| BadScript::Rule { number, what });
        Ok(Self {
            lies: Lies { version, queues, windows, window_bytes },
            rules: (1..).zip(file.rules).map(rule).collect::<Result<_, _>>()?,
        })
    }

    /// What to do with a frame, by its number from 1.
    #[must_use]
    pub fn action(&self, on: Direction, number: u64) -> Action {
        let fits = |rule: &&Rule| {
            rule.on == on && rule.frames.contains(&number) && number.checked_rem(rule.every) == Some(0)
        };
        self.rules.iter().find(fits).map_or(Action::Pass, |rule| rule.action)
    }
}

impl RuleText {
    fn rule(self) -> Result<Rule, String> {
        let header = HeaderLie { version: self.version, bytes: self.bytes, flags: self.flags };
        let needs = |what: &str| format!("`{what}` is missing");
        let time = || self.ms.map(Duration::from_millis).ok_or_else(|| needs("ms"));
        let action = match self.action {
            ActionText::Drop => Action::Drop,
            ActionText::Delay => Action::Delay(time()?),
            ActionText::Stall => Action::Stall(time()?),
            ActionText::Close => Action::Close(time()?),
            ActionText::Corrupt => Action::Corrupt(self.at.unwrap_or(usize::MAX)),
            ActionText::Header if header == HeaderLie::default() => {
                return Err(needs("version, bytes or flags"));
            }
            ActionText::Header => Action::Header(header),
        };
        let of_send = matches!(action, Action::Corrupt(_) | Action::Header(_));
        if of_send && self.on == Direction::Receive {
            return Err("only frames that are sent can be falsified".to_owned());
        }
        let every = self.every.unwrap_or(1);
        if every == 0 {
            return Err("`every = 0` fits no frame".to_owned());
        }
        let frames = self.frames.map_or(Ok(1..=u64::MAX), |text| {
            range(&text).ok_or_else(|| format!("{text:?} is no range of frames, such as \"10..20\" or \"7\""))
        })?;
        Ok(Rule { on: self.on, frames, every, action })
    }
}

/// `7`, or `10..20`, both ends included.
fn range(text: &str) -> Option<RangeInclusive<u64>> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (1..=last).contains(&first).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_counts() {
        let script = Script::parse(
            r#"
            [handshake]
            version = 5
            window_bytes = 4096

            [[rule]]
            on = "send"
            frames = "10..20"
            do = "drop"

            [[rule]]
            on = "send"
            every = 5
            do = "corrupt"
            at = 42

            [[rule]]
            on = "receive"
            frames = "7"
            do = "delay"
            ms = 50
            "#,
        )
        .unwrap();
        assert_eq!(
            (script.lies.version, script.lies.window_bytes, script.lies.queues),
            (Some(5), Some(4096), None)
        );
        let sent = |number| script.action(Direction::Send, number);
        assert_eq!(
            [9, 10, 15, 20, 21].map(sent),
            [Action::Pass, Action::Drop, Action::Drop, Action::Drop, Action::Pass]
        );
        assert_eq!([5, 25].map(sent), [Action::Corrupt(42); 2]);
        let received = |number| script.action(Direction::Receive, number);
        assert_eq!([6, 7].map(received), [Action::Pass, Action::Delay(Duration::from_millis(50))]);
        assert_eq!(Script::default().action(Direction::Send, 1), Action::Pass);
    }

    #[test]
    fn headers_are_falsified_word_by_word() {
        let text = "[[rule]]\non = \"send\"\ndo = \"header\"\nversion = 9\n";
        let Action::Header(lie) = Script::parse(text).unwrap().action(Direction::Send, 1) else { panic!() };
        let header = PayloadHeader { version: 1, payload_bytes: 60, flags: 1 };
        assert_eq!(lie.apply(header), PayloadHeader { version: 9, ..header });
    }

    #[test]
    fn what_cannot_be_followed_is_told() {
        let rule = |rest: &str| Script::parse(&format!("[[rule]]\n{rest}\n")).unwrap_err().to_string();
        assert!(rule("on = \"send\"\ndo = \"stall\"").contains("rule 1: `ms` is missing"));
        assert!(rule("on = \"send\"\ndo = \"header\"").contains("version, bytes or flags"));
        assert!(rule("on = \"receive\"\ndo = \"corrupt\"").contains("only frames that are sent"));
        assert!(rule("on = \"send\"\ndo = \"drop\"\nevery = 0").contains("fits no frame"));
        for frames in ["", "0", "0..3", "20..10", "a", "1..", "-1", "99999999999999999999"] {
            assert!(rule(&format!("on = \"send\"\ndo = \"drop\"\nframes = {frames:?}")).contains("no range"));
        }
        assert!(rule("on = \"sent\"\ndo = \"drop\"").contains("sent"));
        assert!(rule("on = \"send\"\ndo = \"drop\"\nmsec = 3").contains("msec"));
        assert!(Script::parse("[handshake]\nversion = -1").is_err());
        assert!(Script::parse("nonsense").is_err());
    }
}
