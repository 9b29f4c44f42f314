//! Why `setup` could not make an artifact: sentences that say what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// Everything that can stop a setup.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Programs of the host are absent.
    #[error("the lab needs {} on PATH; install the packages that have them ({})", tools.join(", "), packages.join(" "))]
    MissingTools {
        /// The programs that were not found.
        tools: Vec<&'static str>,
        /// The Debian packages that contain them.
        packages: Vec<&'static str>,
    },
    /// Not the machine this is for.
    #[error("setup makes x86-64 guests and needs an x86-64 machine to build their modules on")]
    WrongMachine,
    /// No Debian archive is configured.
    #[error(
        "apt on this machine has no source for a Debian archive: add one to /etc/apt/sources.list.d, \
         or set ISTHMUS_DEBIAN_MIRROR to the URI of a Debian mirror (its keys are looked for in \
         /usr/share/keyrings/debian-archive-keyring.gpg, package debian-archive-keyring)"
    )]
    NoMirror,
    /// There is no place for the cache.
    #[error("there is no place for the cache: set ISTHMUS_CACHE, XDG_CACHE_HOME or HOME to a directory")]
    NoCacheRoot,
    /// A cache path that apt's configuration cannot express.
    #[error(
        "the cache path {path:?} holds a quote, a colon or a line break: set ISTHMUS_CACHE to a plainer one"
    )]
    AwkwardPath {
        /// The path in question.
        path: PathBuf,
    },
    /// Too little space for the cache.
    #[error(
        "{path:?} has {free_mib} MiB free and this setup needs about {need_mib} MiB while it builds: \
         free some space, or set ISTHMUS_CACHE to a directory on a larger disk"
    )]
    DiskSpace {
        /// The cache directory.
        path: PathBuf,
        /// What is free, in MiB.
        free_mib: u64,
        /// What is needed, in MiB.
        need_mib: u64,
    },
    /// A file operation failed.
    #[error("cannot {what} {path:?}")]
    Io {
        /// The verb: "create", "read".
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// Its name.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("{what} failed ({program}: {status}); the whole output is in {log:?}, its end is:\n{tail}")]
    Command {
        /// What it was for.
        what: String,
        /// Its name.
        program: String,
        /// Its exit status.
        status: String,
        /// Where all of its output is.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// apt could not read the archive's index.
    #[error(
        "apt cannot read the index of Debian {suite}: check the network and proxy; if a key is missing \
         (NO_PUBKEY), upgrade the package debian-archive-keyring; if this machine's mirror does not carry \
         {suite}, set ISTHMUS_DEBIAN_MIRROR to one that does; the whole output is in {log:?}, its end is:\n{tail}"
    )]
    Index {
        /// The suite whose index it was.
        suite: &'static str,
        /// Where all of apt's output is.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// The archive's packages do not fit together as the recipe expects.
    #[error(
        "Debian {suite} has no {wanted}: run setup again with --refresh later, the archive may be in the middle of an update"
    )]
    Archive {
        /// The suite.
        suite: &'static str,
        /// What was looked for.
        wanted: String,
    },
    /// Neither root nor user namespaces.
    #[error(
        "building kernel modules needs a private root directory, and this user may not enter one: run setup once \
         as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, or on Ubuntu \
         kernel.apparmor_restrict_unprivileged_userns=0)"
    )]
    NoPrivateRoot,
    /// The QEMU that was asked for will not do.
    #[error("{path:?} cannot be used as QEMU: {reason}; unset ISTHMUS_QEMU to let setup choose one")]
    Qemu {
        /// The path given.
        path: PathBuf,
        /// What it lacks.
        reason: String,
    },
    /// A file in the cache is not what setup wrote.
    #[error("{path:?} is damaged ({reason}): delete it and run setup again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl SetupError {
    /// Turns an `io::Error` into a sentence; for `map_err`.
    pub(crate) fn io(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { what, path, source }
    }
}
