//! What a pump counts, and how it is shown.

use crate::vnet_header::Unfit;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $text:literal])+ $name:ident,)*) => {
        /// What one pump has counted since it began. It alone writes; anybody may read.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $text])+ pub(crate) $name: Counter,)*
        }

        /// The counters at one moment, or the sum over several pumps.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Counts {
            $($(#[doc = $text])+ pub $name: u64,)*
        }

        impl Counters {
            /// The counts now.
            #[must_use]
            pub fn read(&self) -> Counts {
                Counts { $($name: self.$name.get(),)* }
            }

        }

        impl Counts {
            /// Each counter: its name, what it counts, its value.
            #[must_use]
            pub fn rows(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($text),+).trim_ascii(), self.$name),)*]
            }
        }

        impl std::ops::AddAssign for Counts {
            fn add_assign(&mut self, other: Self) {
                $(self.$name = self.$name.wrapping_add(other.$name);)*
            }
        }
    };
}

counters! {
    /// Frames read from the TAP and given to the link
    tx_frames,
    /// Their bytes, without the virtio header
    tx_bytes,
    /// Frames of the TAP that do not fit the agreement, dropped
    tx_unfit,
    /// Times that the link was full and the TAP was not read on
    tx_full,
    /// Frames given to the link that the peer was not seen to take before it went down: at most so many were lost
    tx_unconfirmed,
    /// Frames that came from the link and were written into the TAP
    rx_frames,
    /// Their bytes, without the virtio header
    rx_bytes,
    /// Frames from the link that are shorter than an Ethernet header, dropped
    rx_short,
    /// Frames from the link that are longer than agreed, dropped
    rx_long,
    /// Frames from the link with a virtio header that contradicts them, dropped
    rx_bad_header,
    /// Frames from the link that the kernel did not take: the interface was brought down
    rx_refused,
    /// Times that the link came up
    link_ups,
    /// Times that the link went down
    link_downs,
    /// Times that the pump went to sleep
    sleeps,
}

/// A number with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// A load and a store: with one writer nothing is lost, and no locked instruction is needed.
    #[inline]
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.get().wrapping_add(more), Ordering::Relaxed);
    }

    #[inline]
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// Counts a frame from the link that is not passed on.
    pub(crate) fn refuse(&self, why: Unfit) {
        match why {
            Unfit::Short => self.rx_short.add(1),
            Unfit::Long => self.rx_long.add(1),
            Unfit::Header => self.rx_bad_header.add(1),
        }
    }
}

impl Counts {
    /// Frames that this end has thrown away, whoever is to blame.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        [self.tx_unfit, self.rx_short, self.rx_long, self.rx_bad_header, self.rx_refused]
            .into_iter()
            .fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_name_themselves() {
        let counters = Counters::default();
        counters.tx_frames.add(2);
        counters.refuse(Unfit::Long);
        let mut sum = counters.read();
        sum += counters.read();
        assert_eq!((sum.tx_frames, sum.rx_long, sum.dropped()), (4, 2, 2));
        let rows = sum.rows();
        assert!(
            rows.contains(&("tx_frames", "Frames read from the TAP and given to the link", 4)),
            "{rows:?}"
        );
    }
}
