//! Fences, and where loom takes their place.

/// Orders every load and store before it with every load and store after it, of the whole process.
///
/// Sleep and wake need it: a store to one word, then a load of another, must not change places. A sequentially
/// consistent store and load would do on hardware, but not in loom, which treats those accesses as acquire and release.
pub fn full_fence() {
    #[cfg(not(loom))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    #[cfg(loom)]
    loom::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// Orders every store before it, streamed ones too, before every store after it.
pub(crate) fn store_fence() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    // SAFETY: every x86-64 processor has SSE, which is all that the instruction needs.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
    #[cfg(all(not(target_arch = "x86_64"), not(loom)))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
    // loom knows no streamed stores; the release store that follows orders the others.
}
