//! A private apt: another suite's packages, resolved and verified by the machine's apt without touching its state.
//!
//! The machine's apt configuration is still read, for its proxies, credentials and time-outs; everything about
//! where state lives, which sources and pins count, and which hooks run is replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cache::Cache;
use super::error::SetupError;
use super::mirror::{Archive, Mirror};
use super::progress::Progress;
use super::tools::{Log, command};

/// A Debian release as the lab uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Suite {
    /// Its code name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// Its backports, where the lab uses them.
    pub(crate) const fn backports(self) -> Option<&'static str> {
        match self {
            Self::Bookworm => None,
            Self::Trixie => Some("trixie-backports"),
        }
    }
}

/// A package that apt chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    /// The name of its file in the download directory.
    pub(crate) file: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its hash, as apt prints it.
    pub(crate) hash: String,
}

impl Package {
    /// `NAME_VERSION_ARCHITECTURE.deb`, taken apart.
    fn part(&self, index: usize) -> &str {
        self.file.split('_').nth(index).unwrap_or_default()
    }

    /// The package's name.
    pub(crate) fn name(&self) -> &str {
        self.part(0)
    }

    /// Its version; a colon is not allowed in a file name and comes as `%3a`.
    pub(crate) fn version(&self) -> String {
        self.part(1).replace("%3a", ":")
    }

    /// A line of `apt-get --print-uris`: `'URI' FILE BYTES HASH`.
    fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix('\'')?.split_once("' ")?.1;
        let mut fields = rest.split(' ');
        let (file, bytes, hash) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?);
        // A name from the network becomes a path: nothing but a plain file name will do.
        let plain = file.ends_with(".deb") && !file.contains('/');
        plain.then(|| Self { file: file.to_owned(), bytes, hash: hash.to_owned() })
    }
}

/// What to install, as `apt-get install` takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Package names, `NAME=VERSION` allowed.
    pub(crate) packages: &'a [&'a str],
    /// Prefer this release for the whole closure (`-t`), so that libraries of one source stay together.
    pub(crate) prefer: Option<&'a str>,
}

/// One suite's private apt.
#[derive(Debug)]
pub(crate) struct Universe {
    suite: Suite,
    root: PathBuf,
}

impl Universe {
    /// Writes the configuration and fetches the index.
    pub(crate) fn open(
        suite: Suite,
        mirror: &Mirror,
        cache: &Cache,
        log: &Log,
        progress: &mut dyn Progress,
    ) -> Result<Self, SetupError> {
        progress.step(&format!("Reading the index of Debian {}", suite.name()));
        let universe = Self { suite, root: cache.path("apt").join(suite.name()) };
        for directory in ["lists/partial", "archives/partial", "none/partial", "sources", "preferences"] {
            let path = universe.root.join(directory);
            fs::create_dir_all(&path).map_err(SetupError::io("create", &path))?;
        }
        universe.write("status", "")?;
        universe.write("sources/debian.sources", &sources(suite, mirror))?;
        universe.write("apt.conf", &configuration(&universe.root))?;
        match log.run("reading the index", universe.apt().arg("update")) {
            Err(SetupError::Command { log, tail, .. }) => {
                Err(SetupError::Index { suite: suite.name(), log, tail })
            }
            other => other,
        }?;
        Ok(universe)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), SetupError> {
        let path = self.root.join(name);
        fs::write(&path, text).map_err(SetupError::io("write", &path))
    }

    fn apt(&self) -> Command {
        let mut apt = command("apt-get");
        apt.arg("-c").arg(self.root.join("apt.conf")).args(["-q", "-y"]);
        apt
    }

    fn install(&self, wanted: Wanted<'_>) -> Command {
        let mut apt = self.apt();
        if let Some(release) = wanted.prefer {
            apt.args(["-t", release]);
        }
        apt.arg("install").args(wanted.packages);
        apt
    }

    /// The packages that `wanted` needs, all of them, in apt's order.
    pub(crate) fn resolve(&self, wanted: Wanted<'_>, log: &Log) -> Result<Vec<Package>, SetupError> {
        let mut apt = self.install(wanted);
        // apt prints only what is not downloaded yet: an archive directory that stays empty makes it print all.
        apt.arg("--print-uris")
            .arg("-o")
            .arg(format!("Dir::Cache::archives={}", self.root.join("none").display()));
        let what = format!("choosing packages of Debian {}", self.suite.name());
        let text = log.output(&what, &mut apt)?;
        let packages: Vec<Package> = text.lines().filter_map(Package::parse).collect();
        if packages.is_empty() {
            return Err(SetupError::Archive { suite: self.suite.name(), wanted: wanted.packages.join(", ") });
        }
        Ok(packages)
    }

    /// The one resolved package whose name satisfies `is`.
    pub(crate) fn pick<'a>(
        &self,
        packages: &'a [Package],
        wanted: &str,
        is: impl Fn(&str) -> bool,
    ) -> Result<&'a Package, SetupError> {
        let archive = || SetupError::Archive { suite: self.suite.name(), wanted: wanted.to_owned() };
        packages.iter().find(|package| is(package.name())).ok_or_else(archive)
    }

    /// Downloads what [`Universe::resolve`] chose; what is there already, or in part, is not fetched again.
    pub(crate) fn download(
        &self,
        wanted: Wanted<'_>,
        packages: &[Package],
        log: &Log,
        progress: &mut dyn Progress,
    ) -> Result<(), SetupError> {
        let total = packages.iter().map(|package| package.bytes).sum();
        let mut apt = self.install(wanted);
        apt.args(["--download-only", "-o", "APT::Status-Fd=1"]).stdout(Stdio::piped());
        log.stream("downloading packages", &mut apt, |line| {
            if let Some(percent) = download_percent(line) {
                progress.bytes(total / 100 * percent.min(100), total);
            }
        })?;
        progress.bytes(total, total);
        Ok(())
    }

    /// Where a downloaded package is.
    pub(crate) fn deb(&self, package: &Package) -> PathBuf {
        self.root.join("archives").join(&package.file)
    }

    /// Deletes what a finished setup needs no more; the index stays, for a refresh to compare with.
    pub(crate) fn tidy(&self) {
        let archives = fs::read_dir(self.root.join("archives")).into_iter().flatten().flatten();
        let debs =
            archives.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "deb"));
        for path in debs.chain([self.root.join("pkgcache.bin")]) {
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!(?path, %error, "a file was not deleted");
            }
        }
    }

    /// Deletes downloads that have been unpacked; one that stays behind only takes space.
    pub(crate) fn forget(&self, packages: &[Package]) {
        for package in packages {
            let path = self.deb(package);
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!(?path, %error, "a download was not deleted");
            }
        }
    }
}

/// apt's `dlstatus:ITEM:PERCENT:TEXT`.
fn download_percent(line: &str) -> Option<u64> {
    let mut fields = line.strip_prefix("dlstatus:")?.split(':');
    fields.nth(1)?.split('.').next()?.parse().ok()
}

fn sources(suite: Suite, mirror: &Mirror) -> String {
    let name = suite.name();
    let mut suites = vec![name.to_owned(), format!("{name}-updates")];
    suites.extend(suite.backports().map(str::to_owned));
    let mut text = stanza(&mirror.main, &suites);
    if let Some(security) = &mirror.security {
        text.push_str(&stanza(security, &[format!("{name}-security")]));
    }
    text
}

fn stanza(archive: &Archive, suites: &[String]) -> String {
    let Archive { uri, signed_by } = archive;
    let signed = if signed_by.is_empty() { String::new() } else { format!("Signed-By: {signed_by}\n") };
    let suites = suites.join(" ");
    format!(
        "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nArchitectures: amd64\nTargets: Packages\n{signed}\n"
    )
}

/// The directives that make an apt private. The machine's files are read first; this one wins.
fn configuration(root: &Path) -> String {
    let root = root.display();
    format!(
        r#"// Written by `isthmus lab setup`.
#clear APT::Architectures;
#clear APT::Default-Release;
#clear APT::Update;
#clear APT::Install;
#clear DPkg;
APT::Update::Error-Mode "any";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::ForceHash "SHA256";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
Dir::State "{root}";
Dir::State::status "{root}/status";
Dir::State::lists "{root}/lists";
Dir::State::extended_states "{root}/extended_states";
Dir::Cache "{root}";
Dir::Cache::archives "{root}/archives";
Dir::Cache::pkgcache "{root}/pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{root}/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{root}/preferences";
Dir::Log "{root}";
Dir::Log::Planner "/dev/null";
Dir::Log::Solver "/dev/null";
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_uri_is_taken_apart() {
        let line = "'http://mirror.test/pool/main/b/busybox-static_1%3a1.37.0-6%2bb9_amd64.deb' \
                    busybox-static_1%3a1.37.0-6+b9_amd64.deb 955316 SHA256:60ab";
        let package = Package::parse(line).unwrap();
        assert_eq!((package.name(), package.version()), ("busybox-static", "1:1.37.0-6+b9".to_owned()));
        assert_eq!((package.bytes, package.hash.as_str()), (955_316, "SHA256:60ab"));
    }

    #[test]
    fn lines_that_are_no_packages_are_passed_over() {
        for line in ["", "Reading package lists...", "'http://mirror.test/a' ../../etc/passwd 1 SHA256:0"] {
            assert_eq!(Package::parse(line), None, "{line}");
        }
    }

    #[test]
    fn progress_is_read_from_status_lines() {
        assert_eq!(download_percent("dlstatus:12:45.7:Retrieving file 12 of 60"), Some(45));
        assert_eq!(download_percent("Get:1 http://mirror.test x"), None);
    }

    #[test]
    fn sources_name_the_keys_and_the_companion_suites() {
        let archive = |uri: &str| Archive { uri: uri.to_owned(), signed_by: "/keys/a.gpg".to_owned() };
        let mirror = Mirror { main: archive("http://m.test/"), security: Some(archive("http://s.test/")) };
        let text = sources(Suite::Trixie, &mirror);
        assert!(text.contains("Suites: trixie trixie-updates trixie-backports\n"));
        assert!(text.contains("URIs: http://s.test/\nSuites: trixie-security\n"));
        assert_eq!(text.matches("Signed-By: /keys/a.gpg\n").count(), 2);
        assert!(!sources(Suite::Bookworm, &mirror).contains("backports"));
    }
}
