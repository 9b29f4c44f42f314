//! Which Debian mirror this machine uses, from its own apt configuration.
//!
//! The lab asks for suites that the machine may not have (Debian 13 on Debian 12), so it reuses the URI and the
//! keys of the entry that serves Debian's main archive. `apt-get indextargets` resolves all of apt's formats to
//! one list; only the keys, which it does not print, are read from the source file that it names.

use std::fs;
use std::path::Path;

use super::error::SetupError;
use super::tools::{Log, command};

/// Debian's keyring as the package `debian-archive-keyring` installs it; Debian 13 has both names.
const KEYRINGS: &[&str] =
    &["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// Suites by which an archive is known to be Debian's when its index was never fetched.
const SUITES: &[&str] = &[
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
];

/// One target per line, fields by tabs.
const FORMAT: &str = "$(CREATED_BY)\t$(ORIGIN)\t$(RELEASE)\t$(COMPONENT)\t$(REPO_URI)\t$(SOURCESENTRY)";

/// A Debian archive and the keys that sign it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// The main archive.
    pub(crate) main: Archive,
    /// The security archive, if the machine uses one.
    pub(crate) security: Option<Archive>,
}

/// One URI of a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    /// As apt takes it, with the trailing slash.
    pub(crate) uri: String,
    /// The deb822 value of `Signed-By`; empty for the machine's trusted keys.
    pub(crate) signed_by: String,
}

/// A line of `apt-get indextargets`.
struct Target<'a> {
    release: &'a str,
    uri: &'a str,
    entry: &'a str,
}

impl Mirror {
    /// Finds the mirror: the given URI, else the one in `ISTHMUS_DEBIAN_MIRROR`, else what apt is configured with.
    pub(crate) fn find(explicit: Option<&str>, log: &Log) -> Result<Self, SetupError> {
        let variable = std::env::var("ISTHMUS_DEBIAN_MIRROR").ok().filter(|uri| !uri.is_empty());
        if let Some(uri) = explicit.map(str::to_owned).or(variable) {
            let main = Archive { uri: with_slash(&uri), signed_by: with_debian_keyring("") };
            return Ok(Self { main, security: None });
        }
        // apt lists what it has fetched, with its origin; on a machine that never ran `apt-get update`
        // that is nothing, and what is merely configured has to do.
        for which in ["--release-info", "--no-release-info"] {
            let mut apt = command("apt-get");
            apt.args(["indextargets", which, "--format", FORMAT]);
            if let Some(mirror) = Self::choose(&log.output("asking apt for its sources", &mut apt)?) {
                return Ok(mirror);
            }
        }
        Err(SetupError::NoMirror)
    }

    fn choose(listing: &str) -> Option<Self> {
        let targets: Vec<Target<'_>> = listing.lines().filter_map(parse_target).collect();
        let is_base = |target: &&Target<'_>| !target.release.contains(['-', '/']);
        // Others name their suites after Debian's: what else a URI serves tells the archive from them.
        let serves_updates =
            |uri: &str| targets.iter().any(|t| t.uri == uri && t.release.ends_with("-updates"));
        let likeness = |target: &&Target<'_>| {
            2 * u8::from(serves_updates(target.uri))
                + u8::from(target.uri.trim_end_matches('/').ends_with("/debian"))
        };
        // The first of the likeliest: max_by_key gives the last.
        let main = targets.iter().rev().filter(is_base).max_by_key(likeness)?;
        let security = targets.iter().find(|target| target.release.ends_with("-security"));
        Some(Self { main: main.archive(), security: security.map(Target::archive) })
    }
}

impl Target<'_> {
    fn archive(&self) -> Archive {
        let signed_by = self.entry.rsplit_once(':').and_then(|(file, place)| {
            let text = fs::read_to_string(file).ok()?;
            let place: usize = place.parse().ok()?;
            let deb822 = Path::new(file).extension().is_some_and(|extension| extension == "sources");
            if deb822 { signed_by_of_stanza(&text, place) } else { signed_by_of_line(&text, place) }
        });
        Archive { uri: with_slash(self.uri), signed_by: with_debian_keyring(&signed_by.unwrap_or_default()) }
    }
}

/// A package index of Debian's `main`, or nothing.
fn parse_target(line: &str) -> Option<Target<'_>> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [created_by, origin, release, component, uri, entry] = fields[..] else { return None };
    let base = release.split(['-', '/']).next().unwrap_or(release);
    // An origin that apt does not know yet is printed as the placeholder itself.
    let debian =
        origin == "Debian" || ((origin.is_empty() || origin.starts_with('$')) && SUITES.contains(&base));
    let usable = created_by == "Packages" && component == "main" && debian && !uri.starts_with("cdrom:");
    usable.then_some(Target { release, uri, entry })
}

fn with_slash(uri: &str) -> String {
    if uri.ends_with('/') { uri.to_owned() } else { format!("{uri}/") }
}

/// Adds Debian's own keyring to the machine's choice, which may know only the machine's suite.
fn with_debian_keyring(signed_by: &str) -> String {
    if signed_by.contains("BEGIN PGP") {
        return signed_by.to_owned();
    }
    let mut keys: Vec<&str> = signed_by.split([' ', ',', '\n', '\t']).filter(|key| !key.is_empty()).collect();
    let keyring = KEYRINGS.iter().find(|path| Path::new(path).is_file());
    if let Some(keyring) = keyring.filter(|keyring| !keys.contains(keyring)) {
        keys.push(keyring);
    }
    keys.join(", ")
}

/// `Signed-By` of the `place`th stanza (from 1) of a deb822 file, continuation lines kept.
fn signed_by_of_stanza(text: &str, place: usize) -> Option<String> {
    let mut stanzas: Vec<Vec<&str>> = vec![Vec::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match stanzas.last_mut() {
            Some(stanza) if !line.trim().is_empty() => stanza.push(line),
            Some(stanza) if !stanza.is_empty() => stanzas.push(Vec::new()),
            _ => {}
        }
    }
    let stanza = stanzas.get(place.checked_sub(1)?)?;
    let mut lines = stanza.iter().skip_while(|line| field(line, "signed-by").is_none());
    let first = field(lines.next()?, "signed-by")?;
    let rest = lines.take_while(|line| line.starts_with([' ', '\t']));
    Some(rest.fold(first.to_owned(), |value, line| value + "\n" + line))
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = line.split_once(':')?;
    key.eq_ignore_ascii_case(name).then(|| value.trim())
}

/// `signed-by` of a one-line entry's options.
fn signed_by_of_line(text: &str, place: usize) -> Option<String> {
    let line = text.lines().nth(place.checked_sub(1)?)?;
    let options = line.split_once('[')?.1.split_once(']')?.0;
    let value = options.split_whitespace().find_map(|option| {
        let (key, value) = option.split_once('=')?;
        key.eq_ignore_ascii_case("signed-by").then_some(value)
    })?;
    Some(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_archive_is_chosen_over_its_companions() {
        let listing = "Packages\tOther\tnodistro\tmain\thttp://other.test/\t/none:1\n\
            DEP-11\tDebian\tbookworm\tmain\thttp://mirror.test/wrong/\t/none:1\n\
            Packages\tDebian\tbookworm-updates\tmain\thttp://mirror.test/updates/\t/none:1\n\
            Packages\tDebian\tbookworm\tcontrib\thttp://mirror.test/contrib/\t/none:1\n\
            Packages\tDebian\tbookworm\tmain\thttp://mirror.test/debian\t/none:1\n\
            Packages\tDebian\tbookworm-security\tmain\thttp://mirror.test/security/\t/none:2\n";
        let mirror = Mirror::choose(listing).unwrap();
        assert_eq!(mirror.main.uri, "http://mirror.test/debian/");
        assert_eq!(mirror.security.unwrap().uri, "http://mirror.test/security/");
    }

    #[test]
    fn a_mirror_whose_index_was_never_fetched_is_known_by_its_suite() {
        let listing = "Packages\t$(ORIGIN)\ttrixie\tmain\thttp://mirror.test/debian/\t/none:1\n";
        assert_eq!(Mirror::choose(listing).unwrap().main.uri, "http://mirror.test/debian/");
        let ubuntu = "Packages\t$(ORIGIN)\tnoble\tmain\thttp://mirror.test/ubuntu/\t/none:1\n";
        assert_eq!(Mirror::choose(ubuntu), None);
    }

    #[test]
    fn a_vendor_that_borrows_debians_suite_name_is_not_debian() {
        let listing = "Packages\t$(ORIGIN)\tbookworm\tmain\thttp://vendor.test/apt/\t/none:1\n\
            Packages\t$(ORIGIN)\tbookworm-vendor\tmain\thttp://vendor.test/other/\t/none:1\n\
            Packages\t$(ORIGIN)\tbookworm\tmain\thttp://mirror.test/plain/\t/none:1\n\
            Packages\t$(ORIGIN)\tbookworm-updates\tmain\thttp://mirror.test/plain/\t/none:1\n";
        assert_eq!(Mirror::choose(listing).unwrap().main.uri, "http://mirror.test/plain/");
    }

    #[test]
    fn keys_are_read_from_the_stanza_that_apt_names() {
        let text = "# comment\nTypes: deb\nURIs: http://a.test\nSigned-By: /keys/a.gpg\n\n\n\
            Types: deb\nsigned-by:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\nSuites: x\n";
        assert_eq!(signed_by_of_stanza(text, 1).unwrap(), "/keys/a.gpg");
        let inline = signed_by_of_stanza(text, 2).unwrap();
        assert_eq!(inline, "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc");
        assert_eq!(with_debian_keyring(&inline), inline);
        assert_eq!(signed_by_of_stanza(text, 3), None);
    }

    #[test]
    fn keys_are_read_from_a_one_line_entry() {
        let text = "# first\ndeb [arch=amd64 signed-by=/keys/b.gpg] http://b.test bookworm main\n";
        assert_eq!(signed_by_of_line(text, 2).unwrap(), "/keys/b.gpg");
        assert_eq!(signed_by_of_line("deb http://b.test bookworm main\n", 1), None);
    }

    #[test]
    fn the_keyring_of_debian_joins_the_machines_own() {
        assert!(with_debian_keyring("/keys/a.gpg").starts_with("/keys/a.gpg"));
        let once = with_debian_keyring("");
        assert_eq!(with_debian_keyring(&once), once);
    }
}
