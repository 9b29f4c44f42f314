//! How to attach gdb to a guest, with the symbols of its NTB modules.

use crate::guest::Guest;
use crate::pair::Pair;
use crate::process::quoted;
use std::fmt::Write;
use std::path::Path;

/// The gdb command for the guest whose stub is open; empty when none is.
///
/// # Errors
/// When the guest does not answer.
pub fn instructions(pair: &Pair) -> anyhow::Result<String> {
    let plan = pair.plan();
    let Some(side) = plan.options.gdb else { return Ok(String::new()) };
    let guest = pair.guest(side);
    guest.sh(
        "modprobe ntb_hw_intel; for module in ntb_transport ntb_netdev; do modprobe $module; done; true",
    )?;
    let mut text = format!("gdb for guest {side} (the modules are loaded):\n  gdb");
    let _ = write!(text, " -ex {}", quoted(&format!("target remote {}", plan.gdb_socket(side).display())));
    for file in modules(&plan.image.debug_modules) {
        if let Some(line) = symbols(guest, &file)? {
            let _ = write!(text, " \\\n    -ex {}", quoted(&line));
        }
    }
    Ok(text)
}

fn modules(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "ko"));
    files.sort();
    files
}

/// gdb's `add-symbol-file` for a module that is loaded.
fn symbols(guest: &Guest, file: &Path) -> anyhow::Result<Option<String>> {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
    let line =
        format!("cd /sys/module/{name}/sections 2>/dev/null && grep -H . .text .data .bss .rodata; true");
    let sections = guest.sh(&line)?;
    Ok(add_symbol_file(&file.display().to_string(), &sections))
}

/// From `SECTION:ADDRESS` lines.
fn add_symbol_file(file: &str, sections: &str) -> Option<String> {
    let pairs: Vec<_> = sections.lines().filter_map(|line| line.split_once(':')).collect();
    let (_, text) = pairs.iter().find(|(name, _)| *name == ".text")?;
    let rest = pairs.iter().filter(|(name, _)| *name != ".text");
    let rest = rest.fold(String::new(), |all, (name, address)| format!("{all} -s {name} {address}"));
    Some(format!("add-symbol-file {file} {text}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::add_symbol_file;

    #[test]
    fn sections_become_a_gdb_command() {
        let line = add_symbol_file("/d/ntb.ko", ".text:0xffffffffc0000000\n.bss:0xffffffffc0003000\n");
        let expected = "add-symbol-file /d/ntb.ko 0xffffffffc0000000 -s .bss 0xffffffffc0003000";
        assert_eq!(line.as_deref(), Some(expected));
        assert_eq!(add_symbol_file("/d/ntb.ko", ""), None);
    }
}
