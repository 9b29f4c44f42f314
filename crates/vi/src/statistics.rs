//! What a virtual interface counts.

use std::cell::Cell;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the interface was made, or since the last reset.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Statistics {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Cell<u64>,)*
        }

        impl Counters {
            pub(crate) fn get(&self) -> Statistics {
                Statistics { $($name: self.$name.get(),)* }
            }

            pub(crate) fn reset(&self) {
                $(self.$name.set(0);)*
            }
        }
    };
}

counters! {
    /// Packets received; a jumbo frame is several.
    received_packets,
    /// Their bytes.
    received_bytes,
    /// Frames sent.
    sent_frames,
    /// Their bytes.
    sent_bytes,
    /// Frames that were not sent for want of room.
    full,
    /// Receivers that were woken.
    wakeups,
    /// Software events that found no room.
    overflows,
    /// Lanes that are over.
    lanes_over,
}

#[inline(always)]
pub(crate) fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get().wrapping_add(count));
}
