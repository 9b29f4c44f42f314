//! The directory of one run: sockets, consoles, logs, the initial RAM disk.

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A path in a `sockaddr_un`, its end included, has this many bytes.
const SOCKET_PATH_BYTES: usize = 108;
/// The longest file name that a run puts a socket under.
const LONGEST_NAME: usize = 24;
const PREFIX: &str = "isthmus-";
/// Held under a lock while the run lives.
const LOCK: &str = "lock";
/// There from the moment that a run wants its directory kept.
const KEPT: &str = "kept";

/// A private directory, removed at the end unless kept.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes one under the user's runtime directory, and sweeps out those of labs that were killed.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn create() -> anyhow::Result<Self> {
        let base = base();
        sweep(&base);
        let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&base);
        let path = made.with_context(|| format!("cannot make a directory in {}", base.display()))?.keep();
        let file = File::create(path.join(LOCK))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, _lock: file })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps consoles and logs beyond the end of the run; what is large or dead by then goes.
    pub fn keep(&self) {
        let _ = fs::write(self.path.join(KEPT), "");
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.path.join(KEPT).exists() {
            let _ = fs::remove_dir_all(&self.path);
            return;
        }
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.path().extension().is_none_or(|kind| kind != "log") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Where a run's directory goes: `$XDG_RUNTIME_DIR` if sockets under it have room for their names.
#[must_use]
pub fn base() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let fits = |path: &PathBuf| {
        path.is_absolute()
            && path.is_dir()
            && path.as_os_str().len() + PREFIX.len() + 8 + LONGEST_NAME < SOCKET_PATH_BYTES
    };
    runtime.filter(fits).unwrap_or_else(|| PathBuf::from("/tmp"))
}

/// The directory in which a lab that is `up` is found: one a user.
///
/// # Errors
/// When somebody else owns it.
pub fn rendezvous() -> anyhow::Result<PathBuf> {
    let user = rustix::process::getuid().as_raw();
    let path = base().join(format!("isthmus-lab-{user}"));
    let _ = DirBuilder::new().mode(0o700).create(&path);
    let meta = fs::symlink_metadata(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if !meta.is_dir() || meta.uid() != user || meta.mode() & 0o077 != 0 {
        bail!("{} is not a private directory of yours: remove it", path.display());
    }
    Ok(path)
}

/// Removes the directories of runs whose lab was killed: nobody holds their lock.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) || path.join(KEPT).exists() {
            continue;
        }
        let Ok(lock) = File::open(path.join(LOCK)) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_run_and_a_killed_run_is_swept() {
        let base = tempfile::tempdir().unwrap();
        let (dead, alive, kept) = (
            base.path().join("isthmus-dead"),
            base.path().join("isthmus-live"),
            base.path().join("isthmus-kept"),
        );
        for path in [&dead, &alive, &kept] {
            fs::create_dir(path).unwrap();
            fs::write(path.join(LOCK), "").unwrap();
        }
        fs::write(kept.join(KEPT), "").unwrap();
        let lock = File::open(alive.join(LOCK)).unwrap();
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        sweep(base.path());
        assert!(!dead.exists() && alive.exists() && kept.exists());
    }

    #[test]
    fn what_is_kept_is_the_logs() {
        let run = RunDir::create().unwrap();
        let path = run.path().to_owned();
        fs::write(path.join("console-a.log"), "text").unwrap();
        fs::write(path.join("initrd"), "big").unwrap();
        run.keep();
        drop(run);
        assert!(path.join("console-a.log").exists() && !path.join("initrd").exists());
        fs::remove_dir_all(path).unwrap();
    }
}
