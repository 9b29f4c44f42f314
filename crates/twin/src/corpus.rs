//! A fuzz target's corpus on disk: that it holds every scenario, and that it replays.

use std::fs;
use std::path::PathBuf;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// Each scenario stands in the corpus of `target`, byte for byte; with `UPDATE_CORPUS` set it is written there first.
pub(crate) fn holds<'a>(target: &str, scenarios: impl IntoIterator<Item = (&'a str, Vec<u8>)>) {
    for (name, bytes) in scenarios {
        let file = folder(target).join(name);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs::create_dir_all(folder(target)).unwrap();
            fs::write(&file, &bytes).unwrap();
        }
        assert_eq!(fs::read(&file).unwrap(), bytes, "{name}: run this test with UPDATE_CORPUS=1");
    }
}

/// Runs every file of the corpus of `target`; there are at least so many.
pub(crate) fn replay(target: &str, at_least: usize, run: impl Fn(&[u8])) {
    let files: Vec<_> = fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= at_least);
    for file in files {
        run(&fs::read(file).unwrap());
    }
}
