//! What a guest's kernel must not have said.

use crate::pair::Pair;
use crate::trouble::failed;

/// Words of a kernel in trouble, whatever level they come with.
const TROUBLE: [&str; 12] = [
    "WARNING:",
    "BUG:",
    "Oops",
    "Call Trace",
    "general protection fault",
    "Kernel panic",
    "soft lockup",
    "self-detected stall",
    "detected stalls",
    "blocked for more than",
    "Unable to handle",
    "refcount_t:",
];

/// What the module loader says, under a module's name, of any module that was built outside the kernel tree.
const LOADER: [&str; 2] = ["loading out-of-tree module taints kernel", "module verification failed"];

/// The level of a warning; lower is worse.
const WARNING: u8 = 4;

/// Lines of a kernel log that speak of trouble, or come from an NTB driver or ioatdma with level warning or worse. That
/// includes `ioat_eh`: a peer that goes closes its window, and stores by DMA are dropped there without an error.
#[must_use]
pub fn complaints(log: &[(u8, String)]) -> Vec<String> {
    let bad = |(level, text): &&(u8, String)| {
        let from_ntb = *level <= WARNING && speaks_of_ntb(text);
        let harmless = LOADER.iter().any(|said| text.contains(said));
        TROUBLE.iter().any(|word| text.contains(word)) || from_ntb && !harmless
    };
    log.iter().filter(bad).map(|(level, text)| format!("<{level}> {text}")).collect()
}

fn speaks_of_ntb(text: &str) -> bool {
    // A word that begins so: ntb_hw_intel, ntb0, ntb_transport, ioatdma; also the prefix of "Software Queue-Pair ..".
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.into_iter().any(|word| word.starts_with("ntb") || word.starts_with("ioat"))
        || text.contains("Software Queue-Pair Transport")
}

/// Looks at both guests' logs.
///
/// # Errors
/// Blames the thing under test with the lines that are wrong.
pub fn check(pair: &Pair) -> anyhow::Result<()> {
    for guest in pair.guests() {
        let wrong = complaints(&guest.kernel_log()?);
        if !wrong.is_empty() {
            let text = format!("the kernel of guest {} complains:\n{}", guest.side(), wrong.join("\n"));
            return Err(failed(text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::complaints;

    fn found(level: u8, text: &str) -> bool {
        !complaints(&[(level, text.to_owned())]).is_empty()
    }

    #[test]
    fn trouble_is_found_and_the_rest_is_not() {
        assert!(found(4, "ntb_hw_intel 0000:01:00.0: BAR 2 is odd"));
        assert!(found(3, "ntb_transport 0000:01:00.0: unable to allocate"));
        assert!(found(6, "rcu: INFO: rcu_preempt self-detected stall on CPU"));
        assert!(found(4, "WARNING: CPU: 0 PID: 1 at kernel/x.c:1"));
        assert!(found(3, "INFO: task ntb:12 blocked for more than 120 seconds."));
        assert!(found(3, "ioatdma 0000:02:00.0: Self-test copy failed compare, disabling"));
        assert!(found(3, "ioatdma 0000:02:00.0: ioat_eh: Errors: 0x100"));
        assert!(!found(6, "ioatdma 0000:02:00.0: enabling device (0000 -> 0002)"));
        assert!(!found(6, "ntb_hw_intel 0000:01:00.0: NTB device registered."));
        assert!(!found(4, "ntb: loading out-of-tree module taints kernel."));
        assert!(!found(4, "clocksource: Long readout interval"));
        assert!(!found(4, "acpi PNP0A08:00: fail to add MMCONFIG"));
    }
}
