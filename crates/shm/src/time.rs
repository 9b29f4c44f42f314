//! What a processor and the kernel know of time, where asking takes an instruction or a call that Rust counts as unsafe.

use std::io;

/// The processor's cycle counter; none where there is no instruction for one (then [`ticks_are_invariant`] is false).
///
/// Nothing orders it: the processor may read it some tens of cycles before or after what stands beside it.
#[inline(always)]
#[must_use]
pub fn ticks() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction; a kernel that forbids it (PR_TSC_SIGSEGV) ends this process
    // and cannot make it misbehave.
    return Some(unsafe { std::arch::x86_64::_rdtsc() });
    #[cfg(not(target_arch = "x86_64"))]
    return None;
}

/// Whether the processor promises that [`ticks`] runs at one rate on all its cores, whatever it sleeps or clocks at
/// (CPUID 8000_0007, EDX bit 8: "invariant TSC").
#[must_use]
pub fn ticks_are_invariant() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        const HIGHEST_EXTENDED: u32 = 0x8000_0000;
        const POWER: u32 = 0x8000_0007;
        cpuid(HIGHEST_EXTENDED).eax >= POWER && cpuid(POWER).edx & (1 << 8) != 0
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(target_arch = "x86_64")]
#[expect(
    unused_unsafe,
    reason = "the instruction is safe to call since Rust 1.94, and this builds with older ones"
)]
fn cpuid(leaf: u32) -> std::arch::x86_64::CpuidResult {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { std::arch::x86_64::__cpuid(leaf) }
}

/// How good the kernel says its clock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelClock {
    /// Somebody (NTP, PTP) disciplines it.
    pub synchronised: bool,
    /// How far it may be off, in nanoseconds, as who disciplines it says; the kernel lets it grow to 16 s.
    pub most_error_ns: u64,
    /// Seconds that TAI is ahead of UTC; 0 when nobody has told the kernel, whose CLOCK_TAI then is UTC.
    pub tai_offset_s: i32,
}

/// Asks the kernel about its clock, by adjtimex without a change.
///
/// # Errors
/// The kernel's, where a sandbox forbids the call.
pub fn kernel_clock() -> io::Result<KernelClock> {
    // SAFETY: a structure of integers, for which zeros are a value.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is valid for the call, and `modes` is 0: nothing is changed.
    let state = unsafe { libc::adjtimex(&raw mut clock) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(KernelClock {
        synchronised: clock.status & libc::STA_UNSYNC == 0 && state != libc::TIME_ERROR,
        most_error_ns: u64::try_from(clock.maxerror).unwrap_or(0).saturating_mul(1000),
        tai_offset_s: clock.tai,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariant_ticks_go_forwards() {
        if ticks_are_invariant() {
            let before = ticks().unwrap();
            assert!((0..1000).all(|_| ticks().unwrap() >= before));
        }
    }

    #[test]
    fn the_kernel_says_how_good_its_clock_is() {
        let clock = kernel_clock().unwrap();
        assert!(clock.tai_offset_s == 0 || (10..100).contains(&clock.tai_offset_s), "{clock:?}");
        assert!(clock.most_error_ns <= 16_000_000_000 + 1_000_000_000, "{clock:?}");
    }
}
