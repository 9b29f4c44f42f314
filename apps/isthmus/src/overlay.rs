//! Where the overlay object is, which a QEMU with mapped windows loads.

use anyhow::bail;
use std::path::PathBuf;

/// The object's file name.
const OBJECT: &str = "libisthmus_overlay.so";

/// The object beside this program: where cargo builds it, or where a package installs it.
pub(crate) fn find(chosen: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = chosen {
        if !path.is_file() {
            bail!("{} is no file: give the path of {OBJECT} to --overlay", path.display());
        }
        return Ok(std::path::absolute(path)?);
    }
    let program = std::env::current_exe()?;
    let Some(directory) = program.parent() else { bail!("this program is in no directory") };
    let places = [
        directory.join(OBJECT),
        directory.join("deps").join(OBJECT),
        directory.join("../lib/isthmus").join(OBJECT),
    ];
    match places.iter().find(|place| place.is_file()) {
        Some(found) => Ok(found.clone()),
        None => bail!(
            "{OBJECT} is not beside this program: build it with `cargo build --release --workspace`, or name it with --overlay"
        ),
    }
}
