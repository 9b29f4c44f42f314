//! Whether KVM runs guests here. That /dev/kvm opens does not say so: on some virtual machines a guest then
//! stands or dies at once. Only trying tells, and trying takes seconds, so a failure is remembered until the
//! machine boots again.

use crate::plan::Plan;
use crate::run_dir::rendezvous;
use std::fs::{self, File};
use std::path::PathBuf;

/// Whether a guest should be tried under KVM.
pub(crate) fn worth_trying(plan: &Plan) -> bool {
    let opens = File::options().read(true).write(true).open("/dev/kvm").is_ok();
    opens && note().and_then(|note| fs::read_to_string(note).ok()) != Some(facts(plan))
}

/// Guests of this plan did not come up under KVM.
pub(crate) fn remember_failure(plan: &Plan) {
    if let Some(note) = note() {
        // Nothing is lost but time where this cannot be written.
        let _ = fs::write(note, facts(plan));
    }
}

fn note() -> Option<PathBuf> {
    Some(rendezvous().ok()?.join("kvm-fails"))
}

/// What a failure depends on: another boot, QEMU or kernel deserves another trial.
fn facts(plan: &Plan) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{}\n{:?}\n{}\n", boot.trim(), plan.qemu.version, plan.image.release)
}
