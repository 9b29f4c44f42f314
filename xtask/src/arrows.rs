//! Who uses whom: the dependencies between our crates against the arrows that ARCHITECTURE.md allows.

use crate::rules::{DOCUMENT, Names, Rules};
use crate::workspace::{Member, Workspace};
use anyhow::{Context as _, Result};
use std::collections::VecDeque;
use std::fs;

/// Reads the rules of this workspace.
pub(crate) fn rules(workspace: &Workspace) -> Result<Rules> {
    let text =
        fs::read_to_string(workspace.root.join(DOCUMENT)).with_context(|| format!("reading {DOCUMENT}"))?;
    Rules::parse(&text).with_context(|| format!("the arrows block of {DOCUMENT}"))
}

/// Every dependency that has no arrow, and every arrow that means nothing.
pub(crate) fn findings(workspace: &Workspace) -> Result<Vec<String>> {
    Ok(compare(workspace, &rules(workspace)?))
}

fn compare(workspace: &Workspace, rules: &Rules) -> Vec<String> {
    let mut findings = strangers(workspace, rules);
    for member in &workspace.members {
        let name = &member.name;
        let Some(allowed) = rules.arrows.get(name) else {
            findings
                .push(format!("`{name}` has no line in the arrows block of {DOCUMENT}: say what it may use"));
            continue;
        };
        for used in member.uses(workspace).filter(|used| !allowed.contains(*used)) {
            findings.push(format!(
                "`{name}` uses `{used}`, and {DOCUMENT} has no such arrow: drop it from {}, or argue for the arrow there",
                workspace.shown(member.manifest())
            ));
        }
        let programs = |used: &&str| !workspace.member(used).is_some_and(Member::is_library);
        for used in member.tests_use(workspace).filter(programs) {
            findings.push(format!(
                "tests of `{name}` use `{used}`, which is no library: start its program instead"
            ));
        }
    }
    for (name, never) in &rules.never {
        findings.extend(never.iter().filter_map(|far| forbidden_way(workspace, name, far)));
    }
    findings
}

/// Names in the block that no crate has: a slip of the pen would switch a rule off.
fn strangers(workspace: &Workspace, rules: &Rules) -> Vec<String> {
    let lines = rules.arrows.iter().chain(&rules.never);
    let named = lines.flat_map(|(name, list)| list.iter().chain([name])).chain(&rules.may_be_unsafe);
    let strangers: Names = named.filter(|name| workspace.member(name).is_none()).cloned().collect();
    let tell =
        |name: &String| format!("the arrows block of {DOCUMENT} names `{name}`, and there is no such crate");
    strangers.iter().map(tell).collect()
}

/// The shortest chain of dependencies by which `name` links `far`, as a finding.
fn forbidden_way(workspace: &Workspace, name: &str, far: &str) -> Option<String> {
    let mut ways = VecDeque::from([vec![workspace.member(name)?]]);
    let mut seen = Names::from([name.to_owned()]);
    while let Some(way) = ways.pop_front() {
        let end = way.last()?;
        for used in end.uses(workspace) {
            if used == far {
                let by: Vec<_> = way.iter().map(|member| member.name.as_str()).chain([far]).collect();
                return Some(format!(
                    "`{name}` must never link `{far}` ({DOCUMENT}), and does: {}",
                    by.join(" -> ")
                ));
            }
            if let Some(next) = workspace.member(used).filter(|_| seen.insert(used.to_owned())) {
                ways.push_back(way.iter().copied().chain([next]).collect());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A dependency: name and kind.
    type Use = (&'static str, Value);

    /// What `cargo metadata` would print for these crates: name, kind of target, dependencies.
    fn metadata(crates: &[(&str, &str, &[Use])]) -> Workspace {
        let packages: Vec<_> = crates
            .iter()
            .map(|(name, target, uses)| {
                let dependency = |(name, kind): &Use| json!({"name": name, "source": null, "kind": kind});
                let outside =
                    json!({"name": "control", "source": "registry+https://example.org", "kind": null});
                json!({
                    "name": name,
                    "manifest_path": format!("/house/crates/{name}/Cargo.toml"),
                    "dependencies": uses.iter().map(dependency).chain([outside]).collect::<Vec<_>>(),
                    "targets": [{"kind": [target], "src_path": format!("/house/crates/{name}/src/lib.rs")}],
                })
            })
            .collect();
        let json =
            json!({"packages": packages, "workspace_root": "/house", "target_directory": "/house/target"});
        Workspace::parse(&json.to_string()).unwrap()
    }

    fn judge(workspace: &Workspace, block: &str) -> Vec<String> {
        compare(workspace, &Rules::parse(&format!("```arrows\n{block}\n```\n")).unwrap())
    }

    const HOUSE: &str =
        "app -> lab, twin\nlab -> control\ncontrol ->\ntwin ->\nlab never twin\nunsafe in twin";

    #[test]
    fn a_graph_that_keeps_to_the_list_passes() {
        let house = metadata(&[
            ("app", "bin", &[("lab", Value::Null), ("twin", Value::Null)]),
            ("lab", "lib", &[("control", Value::Null), ("twin", json!("dev"))]),
            ("control", "lib", &[]),
            ("twin", "lib", &[]),
        ]);
        assert_eq!(judge(&house, HOUSE), Vec::<String>::new());
    }

    #[test]
    fn a_forbidden_arrow_is_found() {
        for kind in [Value::Null, json!("build")] {
            let house = metadata(&[
                ("app", "bin", &[]),
                ("lab", "lib", &[]),
                ("control", "lib", &[]),
                ("twin", "lib", &[("control", kind)]),
            ]);
            let findings = judge(&house, HOUSE);
            assert_eq!(findings.len(), 1);
            assert!(findings[0].starts_with("`twin` uses `control`"), "{findings:?}");
            assert!(findings[0].contains("crates/twin/Cargo.toml"), "{findings:?}");
        }
    }

    #[test]
    fn an_indirect_link_that_the_document_excludes_is_found_though_each_arrow_is_allowed() {
        let house = metadata(&[
            ("app", "bin", &[]),
            ("lab", "lib", &[("control", Value::Null)]),
            ("control", "lib", &[("twin", Value::Null)]),
            ("twin", "lib", &[]),
        ]);
        let findings = judge(&house, &HOUSE.replace("control ->", "control -> twin"));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].ends_with("lab -> control -> twin"), "{findings:?}");
    }

    #[test]
    fn names_without_a_crate_and_crates_without_a_line_are_found() {
        let house = metadata(&[("app", "bin", &[]), ("cells", "lib", &[])]);
        let findings = judge(&house, "app -> cels");
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].contains("names `cels`"));
        assert!(findings[1].starts_with("`cells` has no line"));
    }

    #[test]
    fn tests_may_use_any_library_and_no_program() {
        let uses: &[Use] = &[("app", json!("dev")), ("twin", json!("dev"))];
        let house = metadata(&[("app", "bin", &[]), ("lab", "lib", uses), ("twin", "lib", &[])]);
        let findings = judge(&house, "app ->\nlab ->\ntwin ->\nlab never twin");
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with("tests of `lab` use `app`"));
    }
}
