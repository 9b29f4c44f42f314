//! The rules that ARCHITECTURE.md states in its `arrows` block, so that document and check cannot drift.
//!
//! ```text
//! twin-server -> twin, ntb-spec     twin-server may use these crates of ours
//! lab never twin, twin-server       lab links neither of them, by whatever way
//! unsafe in shm                     the crates that may hold unsafe code
//! # a comment
//! ```

use anyhow::{Context as _, Result, bail};
use std::collections::{BTreeMap, BTreeSet};

/// The file that states the rules.
pub(crate) const DOCUMENT: &str = "ARCHITECTURE.md";

/// Names of crates.
pub(crate) type Names = BTreeSet<String>;

/// What the block says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Who may use whom.
    pub(crate) arrows: BTreeMap<String, Names>,
    /// Who may not even indirectly link whom.
    pub(crate) never: BTreeMap<String, Names>,
    /// Who may hold unsafe code.
    pub(crate) may_be_unsafe: Names,
}

impl Rules {
    /// Finds the one block in a Markdown document and reads it.
    pub(crate) fn parse(document: &str) -> Result<Self> {
        let mut lines = document.lines().enumerate();
        let opens = |line: &str| line.trim_end() == "```arrows";
        lines
            .by_ref()
            .find(|(_, line)| opens(line))
            .context("there is no block that opens with ```arrows")?;
        let mut rules = Self::default();
        let mut closed = false;
        for (index, line) in lines.by_ref() {
            if line.trim_end() == "```" {
                closed = true;
                break;
            }
            rules.read(line).with_context(|| format!("line {}, `{}`", index + 1, line.trim()))?;
        }
        if !closed {
            bail!("the arrows block has no end");
        }
        if lines.any(|(_, line)| opens(line)) {
            bail!("there are two arrows blocks; one of them must go");
        }
        Ok(rules)
    }

    fn read(&mut self, line: &str) -> Result<()> {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            return Ok(());
        }
        if let Some((name, list)) = line.split_once("->") {
            insert(&mut self.arrows, name, list)
        } else if let Some((name, list)) = line.split_once(" never ") {
            insert(&mut self.never, name, list)
        } else if let Some(list) = line.strip_prefix("unsafe in ") {
            self.may_be_unsafe.append(&mut names(list)?);
            Ok(())
        } else {
            bail!("neither `name -> a, b` nor `name never a, b` nor `unsafe in a, b`")
        }
    }
}

fn insert(rules: &mut BTreeMap<String, Names>, name: &str, list: &str) -> Result<()> {
    let name = one_name(name)?;
    match rules.insert(name.to_owned(), names(list)?) {
        Some(_) => bail!("{name} has two lines of this kind"),
        None => Ok(()),
    }
}

/// A list of names; empty is a list, too.
fn names(list: &str) -> Result<Names> {
    if list.trim().is_empty() {
        return Ok(Names::new());
    }
    list.split(',').map(|name| one_name(name).map(str::to_owned)).collect()
}

fn one_name(text: &str) -> Result<&str> {
    let name = text.trim();
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if name.is_empty() || !name.bytes().all(fits) {
        bail!("`{name}` is no name of a crate");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(lines: &str) -> Result<Rules> {
        Rules::parse(&format!("# Title\n\n```text\na -> z\n```\n\n```arrows\n{lines}\n```\nprose -> prose\n"))
    }

    fn set(names: &[&str]) -> Names {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn reads_all_three_kinds() {
        let rules =
            block("app -> lib-a, lib_b # all\n\nlib-a ->\nlib_b ->\n# rule\napp never x1\nunsafe in lib-a")
                .unwrap();
        assert_eq!(rules.arrows["app"], set(&["lib-a", "lib_b"]));
        assert_eq!(rules.arrows["lib-a"], Names::new());
        assert_eq!(rules.arrows.len(), 3);
        assert_eq!(rules.never["app"], set(&["x1"]));
        assert_eq!(rules.may_be_unsafe, set(&["lib-a"]));
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let why = |lines: &str| format!("{:#}", block(lines).unwrap_err());
        assert!(why("app lib").contains("line 8, `app lib`: neither"));
        assert!(why("app -> lib,, b").contains("`` is no name"));
        assert!(why("app -> Every crate").contains("`Every crate` is no name"));
        assert!(why("app -> a\napp -> b").contains("app has two lines"));
        assert!(why("```\n```arrows").contains("two arrows blocks"));
    }

    #[test]
    fn needs_a_block_with_an_end() {
        let why = |document: &str| Rules::parse(document).unwrap_err().to_string();
        assert!(why("app -> lib").contains("no block"));
        assert!(why("```arrows\napp -> lib\n").contains("no end"));
    }
}
