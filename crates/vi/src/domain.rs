//! Protection domains: whose buffers may be posted where.
//!
//! A buffer is a token that cannot be copied. It names its domain twice: by a type, so that a program which mixes up
//! two domains does not compile, and by a number, since two domains may have the same type and since a token is worth
//! checking before memory is.

use crate::lane::Geometry;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

static NUMBER: AtomicU64 = AtomicU64::new(1);

/// A number that nothing else in this process has.
pub(crate) fn unique() -> u64 {
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// A protection domain. `D` is a type of the application's that stands for it: a buffer of `ProtectionDomain<Left>`
/// cannot be posted to a virtual interface of `ProtectionDomain<Right>`.
///
/// ```compile_fail
/// # use vi::{PacketBuffer, ProtectionDomain, RequestId, Vi};
/// struct Left;
/// struct Right;
/// fn post(vi: &Vi<Left>, buffer: PacketBuffer<Right>) {
///     let _ = vi.receive_init(buffer, RequestId(0)); // a buffer of another domain: does not compile
/// }
/// ```
#[derive(Debug)]
pub struct ProtectionDomain<D> {
    number: u64,
    marker: PhantomData<fn() -> D>,
}

impl<D> ProtectionDomain<D> {
    /// A domain that no other is equal to.
    #[must_use]
    pub fn new() -> Self {
        Self { number: unique(), marker: PhantomData }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl<D> Default for ProtectionDomain<D> {
    fn default() -> Self {
        Self::new()
    }
}

/// One receive buffer that the application has. Posting it gives it away; a received packet that is
/// [kept](crate::Packet::keep) gives it back.
#[must_use = "a buffer that is dropped is never posted again"]
#[derive(Debug)]
pub struct PacketBuffer<D> {
    domain: u64,
    lane: u64,
    index: u32,
    marker: PhantomData<fn() -> D>,
}

impl<D> PacketBuffer<D> {
    pub(crate) fn new(domain: u64, lane: u64, index: u32) -> Self {
        Self { domain, lane, index, marker: PhantomData }
    }

    /// All buffers of a lane that has just been made.
    pub(crate) fn all(domain: u64, lane: u64, geometry: &Geometry) -> Vec<Self> {
        (0..geometry.buffers).map(|index| Self::new(domain, lane, index)).collect()
    }

    /// Its number among the buffers of its lane.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn domain(&self) -> u64 {
        self.domain
    }

    pub(crate) fn lane(&self) -> u64 {
        self.lane
    }
}
