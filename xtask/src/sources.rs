//! Every `.rs` file: where unsafe code may be, how long a file may grow, marks of unfinished work, files that no
//! module names.
//!
//! It reads lines, not syntax trees: what it looks for stands at the start of a line after `cargo fmt`.

use crate::rules::{DOCUMENT, Rules};
use crate::workspace::{Member, Workspace};
use crate::{arrows, tell};
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A file that is longer has outgrown one subject.
const MOST_LINES: usize = 700;
/// From here on it is worth a thought.
const MANY_LINES: usize = 600;
/// The attribute that every crate root says, but for those that may hold unsafe code.
const FORBID: &str = concat!("#![forbid(", "unsafe_code)]");
/// The lint's name.
const LINT: &str = concat!("unsafe", "_code");
/// What a crate root with unsafe code says of it.
const REASON: &str = concat!("UNSAFETY", ":");
/// What unfinished work leaves behind, and why it may not stay. Cut in two, so that this file passes.
const MARKS: [(&str, &str); 5] = [
    (concat!("to", "do!("), "it panics where it is reached"),
    (concat!("unimple", "mented!("), "it panics where it is reached"),
    (concat!("FIX", "ME"), "mend it, or write an issue"),
    (concat!("XX", "X"), "mend it, or write an issue"),
    (concat!("#[ign", "ore]"), "a test that is left out says why: = \"reason\""),
];

/// The text of every `.rs` file, by its path.
type Files = BTreeMap<PathBuf, String>;

/// Everything that is wrong; what is merely worth a thought is printed at once.
pub(crate) fn findings(workspace: &Workspace) -> Result<Vec<String>> {
    let rules = arrows::rules(workspace)?;
    let mut files = Files::new();
    collect(&workspace.root, &workspace.target, &mut files)?;
    let mut findings = Vec::new();
    let mut long = Vec::new();
    for (path, text) in &files {
        let shown = workspace.shown(path);
        let lines = text.lines().count();
        if lines > MOST_LINES {
            findings.push(format!("{shown} has {lines} lines, more than {MOST_LINES}: it is about more than one thing, divide it"));
        } else if lines > MANY_LINES {
            long.push(format!("{shown} has {lines} lines; {MOST_LINES} is the end"));
        }
        findings.extend(marks(&shown, text));
    }
    for member in &workspace.members {
        findings.extend(unsafe_code(workspace, &rules, member, &files));
        findings.extend(orphans(workspace, member, &files));
        findings.extend(lints(workspace, member)?);
    }
    if !long.is_empty() {
        tell("long files", &long);
    }
    Ok(findings)
}

/// Reads every `.rs` file below a directory; hidden directories and what cargo built are no sources.
fn collect(directory: &Path, target: &Path, files: &mut Files) -> Result<()> {
    let reading = || format!("reading {}", directory.display());
    for entry in fs::read_dir(directory).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().with_context(reading)?;
        if kind.is_dir() {
            if path != target && name != "target" && !name.to_string_lossy().starts_with('.') {
                collect(&path, target, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            files.insert(path, text);
        }
    }
    Ok(())
}

fn marks(shown: &str, text: &str) -> Vec<String> {
    let found = |(at, line): (usize, &str)| {
        let (mark, why) = MARKS.iter().find(|(mark, _)| line.contains(mark))?;
        Some(format!("{shown}:{} says {mark}: {why}", at + 1))
    };
    text.lines().enumerate().filter_map(found).collect()
}

fn unsafe_code(workspace: &Workspace, rules: &Rules, member: &Member, files: &Files) -> Vec<String> {
    let mut findings = Vec::new();
    let trusted = rules.may_be_unsafe.contains(&member.name);
    for target in member.targets.iter().filter(|target| target.is_shipped()) {
        let root = &target.src_path;
        let text = files.get(root).map_or("", String::as_str);
        let shown = workspace.shown(root);
        if trusted && text.contains(LINT) && !text.contains(REASON) {
            findings.push(format!("{shown} holds unsafe code without a reason that begins with {REASON}"));
        } else if !trusted && !text.lines().any(|line| line.trim_end() == FORBID) {
            findings.push(format!(
                "{shown} does not say {FORBID}; {DOCUMENT} lists the crates that may do without"
            ));
        }
    }
    if !trusted {
        for (path, text) in files.iter().filter(|(path, _)| path.starts_with(member.directory())) {
            let shown = workspace.shown(path);
            let told =
                |at| format!("{shown}:{}: `{}` may hold no unsafe code ({DOCUMENT})", at + 1, member.name);
            findings.extend(loosened(text).into_iter().map(told));
        }
    }
    findings
}

/// Lines (from 0) of attributes that speak of unsafe code, other than to forbid it.
fn loosened(text: &str) -> Vec<usize> {
    let attribute = |line: &str| line.starts_with(LINT) || line.starts_with('#') && line.contains(LINT);
    let lines = text.lines().map(str::trim).enumerate();
    lines.filter(|(_, line)| attribute(line) && *line != FORBID).map(|(at, _)| at).collect()
}

/// Files that no crate root reaches: nobody compiles them.
fn orphans(workspace: &Workspace, member: &Member, files: &Files) -> Vec<String> {
    let mut open: Vec<_> = member.targets.iter().map(|target| (target.src_path.clone(), true)).collect();
    let mut left: Files = files.clone();
    left.retain(|path, _| path.starts_with(member.directory()));
    while let Some((path, is_root)) = open.pop() {
        if let Some(text) = left.remove(&path) {
            open.extend(named_by(&path, is_root, &text).into_iter().map(|path| (path, false)));
        }
    }
    let told = |path: &PathBuf| format!("{} belongs to no crate: no `mod` names it", workspace.shown(path));
    left.keys().map(told).collect()
}

/// Where the modules that a file names may be.
fn named_by(path: &Path, is_root: bool, text: &str) -> Vec<PathBuf> {
    let beside = path.parent().unwrap_or(Path::new("."));
    let is_mod = path.file_name().is_some_and(|name| name == "mod.rs");
    let below = if is_root || is_mod { beside.to_owned() } else { path.with_extension("") };
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = module(line) {
            paths.push(below.join(format!("{name}.rs")));
            paths.push(below.join(name).join("mod.rs"));
        } else if let Some(file) = quoted(line, "#[path = \"").or_else(|| quoted(line, "include!(\"")) {
            paths.push(beside.join(file));
        }
    }
    paths
}

/// The name in `pub(crate) mod name;`.
fn module(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub").map_or(line, |rest| match rest.split_once(')') {
        Some((scope, rest)) if scope.starts_with('(') => rest,
        _ => rest,
    });
    line.trim_start().strip_prefix("mod ")?.strip_suffix(';')
}

fn quoted<'a>(line: &'a str, before: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(before)?;
    rest.split('"').next()
}

/// A manifest that leaves the lints of the workspace out would be checked less than its neighbours.
fn lints(workspace: &Workspace, member: &Member) -> Result<Option<String>> {
    let shown = workspace.shown(member.manifest());
    let text = fs::read_to_string(member.manifest()).with_context(|| format!("reading {shown}"))?;
    let inherits =
        text.split_once("[lints]").is_some_and(|(_, rest)| rest.trim_start().starts_with("workspace = true"));
    Ok((!inherits).then(|| format!("{shown} does not say [lints] workspace = true")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;
    use serde_json::json;

    /// A workspace of one crate, `twin`, on disk.
    fn house(files: &[(&str, &str)]) -> (tempfile::TempDir, Workspace) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let manifest = ("crates/twin/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n");
        let document = (DOCUMENT, "```arrows\ntwin ->\n```\n");
        for (path, text) in [manifest, document].iter().chain(files) {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let metadata = json!({
            "workspace_root": root, "target_directory": root.join("target"),
            "packages": [{
                "name": "twin", "dependencies": [], "manifest_path": root.join("crates/twin/Cargo.toml"),
                "targets": [{"kind": ["lib"], "src_path": root.join("crates/twin/src/lib.rs")}],
            }],
        });
        let workspace = Workspace::parse(&metadata.to_string()).unwrap();
        (directory, workspace)
    }

    fn judge(files: &[(&str, &str)]) -> Vec<String> {
        let (_directory, workspace) = house(files);
        findings(&workspace).unwrap()
    }

    fn lib(rest: &str) -> String {
        format!("//! Doc.\n{FORBID}\n{rest}\n")
    }

    #[test]
    fn a_clean_tree_passes() {
        let lib = lib("mod port;\npub(crate) mod link;\n#[cfg(test)]\nmod tests;");
        let files = [
            ("crates/twin/src/lib.rs", lib.as_str()),
            ("crates/twin/src/port.rs", "pub mod deep;\n"),
            ("crates/twin/src/port/deep.rs", "#[path = \"odd name.rs\"]\nmod odd;\n"),
            ("crates/twin/src/port/odd name.rs", "// No unsafe code here.\n"),
            ("crates/twin/src/link/mod.rs", "mod train;\n"),
            ("crates/twin/src/link/train.rs", ""),
            ("crates/twin/src/tests.rs", ""),
            ("target/debug/build/made.rs", MARKS[0].0),
        ];
        assert_eq!(judge(&files), Vec::<String>::new());
    }

    #[test]
    fn a_root_that_does_not_forbid_unsafe_code_is_found() {
        let findings = judge(&[("crates/twin/src/lib.rs", "//! Doc.\n")]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with("crates/twin/src/lib.rs does not say"));
    }

    #[test]
    fn a_module_that_allows_itself_unsafe_code_is_found() {
        let module = format!("#![expect(\n    {LINT},\n    reason = \"speed\"\n)]\n");
        let findings =
            judge(&[("crates/twin/src/lib.rs", &lib("mod fast;")), ("crates/twin/src/fast.rs", &module)]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with("crates/twin/src/fast.rs:2: `twin` may hold no"));
    }

    #[test]
    fn a_trusted_crate_says_why() {
        let (directory, workspace) = house(&[("crates/twin/src/lib.rs", &format!("#![expect({LINT})]\n"))]);
        fs::write(directory.path().join(DOCUMENT), "```arrows\ntwin ->\nunsafe in twin\n```\n").unwrap();
        let found = findings(&workspace).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("without a reason"));
    }

    #[test]
    fn long_files_marks_orphans_and_missing_lints_are_found() {
        let long = "//\n".repeat(MOST_LINES + 1);
        for (mark, _) in MARKS {
            let text = format!("fn f() {{\n    {mark}\n}}\n");
            let findings =
                judge(&[("crates/twin/src/lib.rs", &lib("mod a;")), ("crates/twin/src/a.rs", &text)]);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].starts_with("crates/twin/src/a.rs:2 says"), "{findings:?}");
        }
        let findings = judge(&[("crates/twin/src/lib.rs", &lib("mod a;")), ("crates/twin/src/a.rs", &long)]);
        assert!(findings[0].contains("has 701 lines"), "{findings:?}");
        let findings = judge(&[("crates/twin/src/lib.rs", &lib("// mod a;")), ("crates/twin/src/a.rs", "")]);
        assert!(findings[0].contains("belongs to no crate"), "{findings:?}");
        let findings =
            judge(&[("crates/twin/src/lib.rs", &lib("")), ("crates/twin/Cargo.toml", "[package]\n")]);
        assert!(findings[0].contains("[lints] workspace"), "{findings:?}");
    }
}
