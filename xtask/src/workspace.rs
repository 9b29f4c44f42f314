//! The workspace as `cargo metadata` sees it: members, their dependencies, their crate roots.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Everything that the checks need to know about the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    #[serde(rename = "workspace_root")]
    pub(crate) root: PathBuf,
    #[serde(rename = "target_directory")]
    pub(crate) target: PathBuf,
    #[serde(rename = "packages")]
    pub(crate) members: Vec<Member>,
}

/// One crate of ours.
#[derive(Debug, Deserialize)]
pub(crate) struct Member {
    pub(crate) name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    source: Option<String>,
    kind: Option<Kind>,
}

/// A dependency that is not a normal one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Dev,
    Build,
}

/// What cargo builds from a crate: a library, a program, a test, ..
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    kind: Vec<String>,
    pub(crate) src_path: PathBuf,
}

impl Workspace {
    /// Asks cargo, without the network and without touching Cargo.lock.
    pub(crate) fn load() -> Result<Self> {
        let output = Command::new(cargo())
            .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
            .stderr(Stdio::inherit())
            .output()
            .context("cargo does not start: is Rust installed?")?;
        if !output.status.success() {
            bail!("`cargo metadata --locked` failed: a Cargo.toml is broken, or Cargo.lock is out of date");
        }
        Self::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Reads what `cargo metadata` prints.
    pub(crate) fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).context("cargo metadata printed something unexpected")
    }

    /// The member of that name.
    pub(crate) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// A path as a reader of this repository knows it.
    pub(crate) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

impl Member {
    /// The directory of its Cargo.toml.
    pub(crate) fn directory(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }

    /// Its Cargo.toml.
    pub(crate) fn manifest(&self) -> &Path {
        &self.manifest_path
    }

    /// Crates of ours that end up in what this one builds: normal and build dependencies.
    pub(crate) fn uses<'a>(&'a self, workspace: &'a Workspace) -> impl Iterator<Item = &'a str> {
        self.ours(workspace).filter(|(_, kind)| *kind != Some(Kind::Dev)).map(|(name, _)| name)
    }

    /// Crates of ours that only its tests, examples and benches use.
    pub(crate) fn tests_use<'a>(&'a self, workspace: &'a Workspace) -> impl Iterator<Item = &'a str> {
        self.ours(workspace).filter(|(_, kind)| *kind == Some(Kind::Dev)).map(|(name, _)| name)
    }

    fn ours<'a>(&'a self, workspace: &'a Workspace) -> impl Iterator<Item = (&'a str, Option<Kind>)> {
        let local = self.dependencies.iter().filter(|dependency| dependency.source.is_none());
        local
            .filter(|dependency| workspace.member(&dependency.name).is_some())
            .map(|dependency| (dependency.name.as_str(), dependency.kind))
    }

    /// Whether other crates can link it.
    pub(crate) fn is_library(&self) -> bool {
        self.targets.iter().any(Target::is_library)
    }
}

impl Target {
    fn is(&self, kind: &str) -> bool {
        self.kind.iter().any(|own| own == kind)
    }

    fn is_library(&self) -> bool {
        ["lib", "rlib", "cdylib", "dylib", "staticlib", "proc-macro"].iter().any(|kind| self.is(kind))
    }

    /// Whether users get what it builds.
    pub(crate) fn is_shipped(&self) -> bool {
        self.is_library() || self.is("bin")
    }
}

/// The cargo that runs us.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
