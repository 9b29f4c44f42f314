//! Where artifacts live: directories named by the hash of what made them.
//!
//! ```text
//! CACHE/lock                 held by the one setup that builds
//!      /setup.log            what the children of the last setup said
//!      /current.json         which artifact answers which request, for a start without network
//!      /qemu/KEY/            one artifact, complete or absent
//!      /kernel/KEY/
//!      /image/KEY/
//!      /apt/UNIVERSE/        index and downloads
//!      /tmp/                 what an artifact is before it is complete; emptied by the next setup
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::SetupError;
use super::progress::Progress;

/// Hex digits of a key: 64 bits name a handful of directories safely.
const KEY_DIGITS: usize = 16;

/// The cache directory.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// Held while building; released when dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Which artifact directory (relative to the cache) answers which request, and by which recipe.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Current {
    /// Request to its answer.
    pub(crate) answers: BTreeMap<String, Answer>,
}

/// One line of [`Current`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Hash of the recipe text that chose it: another program version asks again.
    pub(crate) recipe: String,
    /// The artifact's directory, relative to the cache.
    pub(crate) directory: String,
}

impl Cache {
    /// Opens the cache at `explicit`, or where the environment says, creating it.
    pub(crate) fn open(explicit: Option<&Path>) -> Result<Self, SetupError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = explicit
            .map(Path::to_owned)
            .or_else(|| variable("ISTHMUS_CACHE"))
            .or_else(|| variable("XDG_CACHE_HOME").map(|base| base.join("isthmus")))
            .or_else(|| variable("HOME").map(|base| base.join(".cache/isthmus")))
            .ok_or(SetupError::NoCacheRoot)?;
        let root = std::path::absolute(&root).map_err(SetupError::io("find", &root))?;
        // apt's configuration quotes with ", and the loader's --library-path separates with :.
        if root.to_str().is_none_or(|text| text.contains(['"', ':', '\n', '\\'])) {
            return Err(SetupError::AwkwardPath { path: root });
        }
        fs::create_dir_all(&root).map_err(SetupError::io("create the cache", &root))?;
        Ok(Self { root })
    }

    /// A path inside.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// Waits until no other setup builds here, and keeps others out; clears what a killed one left.
    pub(crate) fn lock(&self, progress: &mut dyn Progress) -> Result<Lock, SetupError> {
        let path = self.path("lock");
        let file = File::create(&path).map_err(SetupError::io("create", &path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            progress.message("waiting for another setup that builds in the same cache");
            flock(&file, FlockOperation::LockExclusive).map_err(|errno| SetupError::Io {
                what: "lock",
                path: path.clone(),
                source: errno.into(),
            })?;
        }
        let scratch = self.path("tmp");
        if scratch.exists() {
            fs::remove_dir_all(&scratch).map_err(SetupError::io("clear", &scratch))?;
        }
        fs::create_dir_all(&scratch).map_err(SetupError::io("create", &scratch))?;
        Ok(Lock { _file: file })
    }

    /// An empty directory to build in; the next setup deletes it if nobody renames it.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, SetupError> {
        let path = self.path("tmp").join(name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(SetupError::io("clear", &path))?;
        }
        fs::create_dir_all(&path).map_err(SetupError::io("create", &path))?;
        Ok(path)
    }

    /// Makes a finished scratch directory the artifact `kind/key`, in one step.
    pub(crate) fn publish(&self, scratch: &Path, directory: &str) -> Result<PathBuf, SetupError> {
        let path = self.path(directory);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(SetupError::io("create", parent))?;
        }
        // A name that is there promises content: after a power cut too.
        let directory = File::open(scratch).map_err(SetupError::io("open", scratch))?;
        rustix::fs::syncfs(&directory).map_err(|errno| SetupError::Io {
            what: "write out",
            path: scratch.to_owned(),
            source: errno.into(),
        })?;
        fs::rename(scratch, &path).map_err(SetupError::io("publish", &path))?;
        Ok(path)
    }

    /// Fails early if the disk cannot hold a build.
    pub(crate) fn check_space(&self, need_mib: u64) -> Result<(), SetupError> {
        let Ok(space) = rustix::fs::statvfs(&self.root) else { return Ok(()) };
        let free_mib = space.f_bavail.saturating_mul(space.f_frsize) >> 20;
        if free_mib < need_mib {
            return Err(SetupError::DiskSpace { path: self.root.clone(), free_mib, need_mib });
        }
        Ok(())
    }

    /// Deletes artifacts that no answer names any more. The lock must be held.
    pub(crate) fn prune(&self, kinds: &[&str]) {
        let current = self.current();
        for kind in kinds {
            for entry in fs::read_dir(self.path(kind)).into_iter().flatten().flatten() {
                let name = format!("{kind}/{}", entry.file_name().to_string_lossy());
                if current.answers.values().any(|answer| answer.directory == name) {
                    continue;
                }
                tracing::info!(artifact = name, "deleting an artifact that nothing uses");
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    tracing::warn!(artifact = name, %error, "it was not deleted");
                }
            }
        }
    }

    /// What earlier setups chose; nothing if there were none, or if their record cannot be read.
    pub(crate) fn current(&self) -> Current {
        let read = || serde_json::from_slice(&fs::read(self.path("current.json")).ok()?).ok();
        read().unwrap_or_default()
    }

    /// The directory that answers `request`, if this recipe chose it and it is still there.
    pub(crate) fn answer(&self, request: &str, recipe: &str) -> Option<PathBuf> {
        let current = self.current();
        let answer = current.answers.get(request).filter(|answer| answer.recipe == recipe)?;
        Some(self.path(&answer.directory)).filter(|path| path.is_dir())
    }

    /// Records which directory answers `request`.
    pub(crate) fn record(&self, request: &str, recipe: &str, directory: &str) -> Result<(), SetupError> {
        let mut current = self.current();
        let answer = Answer { recipe: recipe.to_owned(), directory: directory.to_owned() };
        current.answers.insert(request.to_owned(), answer);
        let (path, new) = (self.path("current.json"), self.path("tmp/current.json"));
        let text = serde_json::to_vec_pretty(&current).unwrap_or_default();
        fs::write(&new, text).map_err(SetupError::io("write", &new))?;
        fs::rename(&new, &path).map_err(SetupError::io("replace", &path))
    }
}

/// A short name for content: the hash of `parts`, each with its length so that no two lists collide.
pub(crate) fn key<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let mut text: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(KEY_DIGITS);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::progress::Silent;

    #[test]
    fn keys_depend_on_every_part_and_its_borders() {
        assert_eq!(key(["ab", "c"]).len(), KEY_DIGITS);
        assert_eq!(key(["ab", "c"]), key(["ab", "c"]));
        assert_ne!(key(["ab", "c"]), key(["a", "bc"]));
        assert_ne!(key(["ab", "c"]), key(["ab"]));
        assert_ne!(key(["ab", "c"]), key(["c", "ab"]));
    }

    #[test]
    fn an_answer_holds_for_its_recipe_while_the_directory_is_there() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(root.path())).unwrap();
        let _lock = cache.lock(&mut Silent).unwrap();
        let scratch = cache.scratch("new").unwrap();
        let path = cache.publish(&scratch, "qemu/1").unwrap();
        cache.record("qemu", "recipe", "qemu/1").unwrap();
        assert_eq!(cache.answer("qemu", "recipe"), Some(path.clone()));
        assert_eq!(cache.answer("qemu", "other recipe"), None);
        fs::remove_dir(&path).unwrap();
        assert_eq!(cache.answer("qemu", "recipe"), None);
    }

    #[test]
    fn pruning_keeps_what_is_answered() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(root.path())).unwrap();
        let _lock = cache.lock(&mut Silent).unwrap();
        for name in ["kernel/old", "kernel/new"] {
            let scratch = cache.scratch("new").unwrap();
            cache.publish(&scratch, name).unwrap();
            cache.record("kernel", "recipe", name).unwrap();
        }
        cache.prune(&["kernel", "absent"]);
        assert!(!cache.path("kernel/old").exists());
        assert!(cache.path("kernel/new").exists());
    }

    #[test]
    fn a_lock_clears_what_a_killed_setup_left() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(root.path())).unwrap();
        drop(cache.lock(&mut Silent).unwrap());
        fs::write(cache.path("tmp/half"), "made").unwrap();
        drop(cache.lock(&mut Silent).unwrap());
        assert!(!cache.path("tmp/half").exists());
    }

    #[test]
    fn a_path_that_apt_cannot_express_is_refused() {
        let error = Cache::open(Some(Path::new("/tmp/a\"b"))).unwrap_err();
        assert!(matches!(error, SetupError::AwkwardPath { .. }));
    }
}
