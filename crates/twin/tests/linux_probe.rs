//! What real drivers say to the device, as dialogues: Linux `ntb_hw_gen3.c`, its clients, DPDK's `ntb_hw_intel.c`.
//!
//! A [`Pair`] is two hosts on one twin under a virtual clock. What the twin does reaches [`Pair::heard`] as short
//! sentences, in order, so that a test reads as: somebody writes, these things happen.

#[cfg(test)]
mod tests {
    use std::time::Duration;
    use twin::Side::{A, B};
    use twin::{Effect, LinkState, PeerRange, Refused, Setup, Side, Time, Twin};

    const CONTROL: u32 = 0x0000;
    const STATUS: u32 = 0x0040;
    const DISABLE: u32 = 0x0048;
    const SPAD: u32 = 0x0080;
    const INTVEC: u32 = 0x00D0;
    const DOORBELL: u32 = 0x0100;
    const PEER_SPAD: u32 = 0x0180;
    const LINK_BITS: u64 = 0x1_8000_0000;
    const MIB: u64 = 1 << 20;

    struct Pair {
        twin: Twin,
        now: Time,
        heard: Vec<String>,
    }

    impl Pair {
        /// Two hosts, attached, no driver yet.
        fn new() -> Self {
            let mut pair =
                Self { twin: Twin::new(&Setup::default()), now: Time::default(), heard: Vec::new() };
            for side in Side::BOTH {
                pair.event(|twin, now, effects| twin.attach(now, side, effects));
            }
            pair
        }

        /// Both drivers probed.
        fn probed() -> Self {
            let mut pair = Self::new();
            pair.probe(A);
            pair.probe(B);
            pair
        }

        /// Both drivers probed, both enabled the link, it trained, both polled it.
        fn up() -> Self {
            let mut pair = Self::probed();
            pair.bring_up();
            pair
        }

        fn event(&mut self, event: impl FnOnce(&mut Twin, Time, &mut Vec<Effect>)) {
            let mut effects = Vec::new();
            event(&mut self.twin, self.now, &mut effects);
            for effect in effects {
                let sentence = self.sentence(effect);
                self.heard.push(sentence);
            }
        }

        fn sentence(&mut self, effect: Effect) -> String {
            let name = |side| if side == A { "a" } else { "b" };
            match effect {
                // What a driver would read in its handler: the register must have changed before the vector.
                Effect::Interrupt { side, vector } => {
                    format!("{}: vector {vector}, link {:#06x}", name(side), self.link_status(side))
                }
                Effect::Link(LinkState::Training { .. }) => "link training".into(),
                Effect::Link(state) => format!("link {state:?}").to_lowercase(),
                Effect::Timer(Some(Time(at))) => format!("timer at {at:?}"),
                Effect::Timer(None) => "no timer".into(),
                Effect::Translation { side } => format!("{}: windows", name(side)),
                Effect::Reset { side } => format!("{}: reset", name(side)),
            }
        }

        /// What happened since the last call.
        fn heard(&mut self) -> Vec<String> {
            std::mem::take(&mut self.heard)
        }

        fn wait(&mut self, time: Duration) {
            self.now = self.now.after(time);
            self.event(Twin::advance);
        }

        fn write<const N: usize>(&mut self, side: Side, at: u32, bytes: [u8; N]) {
            self.event(|twin, now, effects| {
                assert!(twin.bar0_write(now, side, at, &bytes, effects), "{at:#x}");
            });
        }

        fn w8(&mut self, side: Side, at: u32, value: u8) {
            self.write(side, at, [value]);
        }

        fn w32(&mut self, side: Side, at: u32, value: u32) {
            self.write(side, at, value.to_le_bytes());
        }

        fn w64(&mut self, side: Side, at: u32, value: u64) {
            self.write(side, at, value.to_le_bytes());
        }

        fn r32(&mut self, side: Side, at: u32) -> u32 {
            let mut out = [0; 4];
            assert!(self.twin.bar0_read(side, at, &mut out), "{at:#x}");
            u32::from_le_bytes(out)
        }

        fn r64(&mut self, side: Side, at: u32) -> u64 {
            let mut out = [0; 8];
            assert!(self.twin.bar0_read(side, at, &mut out), "{at:#x}");
            u64::from_le_bytes(out)
        }

        fn config<const N: usize>(&mut self, side: Side, at: u32, bytes: [u8; N]) {
            self.event(|twin, now, effects| twin.config_write(now, side, at, &bytes, effects));
        }

        fn link_status(&mut self, side: Side) -> u16 {
            let mut out = [0; 2];
            self.twin.config_read(side, 0x1A2, &mut out);
            u16::from_le_bytes(out)
        }

        /// `intel_ntb_pci_probe` as far as the device sees it (gen3-ntb.md, 3.4).
        fn probe(&mut self, side: Side) {
            self.config(side, 0x04, [0x06, 0x04]); // memory, bus master, INTx off
            let mut ppd = [0];
            self.twin.config_read(side, 0xD4, &mut ppd);
            assert_eq!(ppd[0] & 0x13, [0x01, 0x11][usize::from(side == B)], "xeon_ppd_topo");
            for (limit, constant) in [(0x18, 0x2000_0000_0000_0000), (0x28, 0x4000_0000_0000_0000)] {
                self.w64(side, limit, constant);
                assert_eq!(self.r64(side, limit), constant);
            }
            self.w64(side, 0x10, 0);
            self.w64(side, 0x20, 0);
            self.write(side, 0x4504, [0x06, 0x00]);
            self.w64(side, DISABLE, 0x7FFF_FFFF);
            for source in 0..33 {
                self.w8(side, INTVEC + u32::from(source), source);
            }
            self.w8(side, INTVEC + 32, 31); // NTB_HWERR_MSIX_VECTOR32_BAD
            self.w64(side, DISABLE, 0x7FFF_FFFF);
            self.config(side, 0x82, [0x20, 0x80]);
            assert!(self.twin.msix_enabled(side));
            self.poll_link(side);
        }

        /// `gen3_poll_link`: acknowledge, then read.
        fn poll_link(&mut self, side: Side) -> u16 {
            self.w64(side, STATUS, LINK_BITS);
            self.link_status(side)
        }

        /// `intel_ntb3_link_enable`.
        fn link_enable(&mut self, side: Side) {
            let control = self.r32(side, CONTROL) & !0x3 | 0x154;
            self.w32(side, CONTROL, control);
        }

        /// `intel_ntb_link_disable`.
        fn link_disable(&mut self, side: Side) {
            let control = self.r32(side, CONTROL) & !0x154 | 0x3;
            self.w32(side, CONTROL, control);
        }

        fn bring_up(&mut self) {
            for side in Side::BOTH {
                self.link_enable(side);
            }
            self.wait(Duration::from_millis(100));
            for side in Side::BOTH {
                assert_eq!(self.poll_link(side), 0x2103);
            }
            self.heard();
        }

        /// `intel_ntb3_mw_set_trans`, with the checks that it makes.
        fn mw_set_trans(
            &mut self,
            side: Side,
            window: u32,
            address: u64,
            size: u64,
        ) -> Result<(), &'static str> {
            let bar = 0x8000_0000; // wherever this host put its BAR
            if address & (MIB - 1) != 0 || size > MIB {
                return Err("EINVAL");
            }
            for (at, value) in [(0x10 + 0x10 * window, address), (0x18 + 0x10 * window, bar + size)] {
                self.w64(side, at, value);
                if self.r64(side, at) != value {
                    return Err("EIO");
                }
            }
            let limit = (self.r64(side, 0x4518 + 8 * window) & !0xF) + size;
            self.w64(side, 0x4018 + 0x10 * window, limit);
            if self.r64(side, 0x4018 + 0x10 * window) == limit { Ok(()) } else { Err("EIO") }
        }

        fn ring(&mut self, side: Side, doorbell: u32) {
            self.w32(side, DOORBELL + 4 * doorbell, 1);
        }
    }

    #[test]
    fn probe_raises_nothing_and_leaves_the_windows_closed() {
        let mut pair = Pair::new();
        pair.probe(A);
        assert_eq!(pair.heard(), ["a: windows"], "bus master on; translations count with the external limit");
        assert_eq!(pair.link_status(A), 0x0103, "down");
        assert_eq!(pair.twin.counters(A).bad_accesses, 0);
        assert_eq!(pair.r64(A, DISABLE), 0x7FFF_FFFF);
        let mut vectors = [0; 33];
        for (vector, at) in vectors.iter_mut().zip(INTVEC..) {
            pair.twin.bar0_read(A, at, std::slice::from_mut(vector));
        }
        assert!(vectors[..32].iter().copied().eq(0..32));
        assert_eq!(vectors[32], 31);
        assert_eq!(pair.twin.outbound(B, 0), (0, 0));
    }

    #[test]
    fn the_link_comes_up_a_training_time_after_the_second_enable() {
        let mut pair = Pair::probed();
        pair.heard();
        pair.link_enable(A);
        assert_eq!(pair.heard(), [""; 0], "one side is not enough");
        pair.wait(Duration::from_secs(5));
        pair.link_enable(B);
        assert_eq!(pair.heard(), ["link training", "timer at 5.1s"]);
        assert_eq!((pair.link_status(A), pair.link_status(B)), (0x0103, 0x0103));
        pair.wait(Duration::from_micros(99_999));
        assert_eq!(pair.heard(), [""; 0], "not a moment too early: ntb_transport would never start");
        pair.wait(Duration::from_micros(1));
        assert_eq!(
            pair.heard(),
            [
                "link up",
                "no timer",
                "a: windows",
                "b: windows",
                "a: vector 31, link 0x2103",
                "b: vector 31, link 0x2103"
            ]
        );
        for side in Side::BOTH {
            assert_eq!(pair.r64(side, STATUS), 0x1_0000_0000);
            assert_eq!(pair.poll_link(side), 0x2103);
            assert_eq!(pair.r64(side, STATUS), 0, "ntb_test.sh compares the raw doorbell status");
        }
        assert_eq!(pair.twin.link_changes(), (1, 0));
        pair.wait(Duration::from_secs(1));
        pair.link_enable(A);
        assert_eq!(pair.heard(), [""; 0], "enabling again is no change");
    }

    #[test]
    fn a_disable_during_training_cancels_it() {
        let mut pair = Pair::probed();
        pair.link_enable(A);
        pair.link_enable(B);
        pair.heard();
        pair.wait(Duration::from_millis(60));
        pair.link_disable(A);
        assert_eq!(pair.heard(), ["link down", "no timer"], "no interrupt: neither side ever saw it up");
        pair.wait(Duration::from_millis(60));
        assert_eq!(pair.heard(), [""; 0]);
        pair.link_enable(A);
        assert_eq!(pair.heard(), ["link training", "timer at 220ms"], "the whole time anew");
        pair.wait(Duration::from_millis(99));
        assert_eq!(pair.twin.link(), LinkState::Training { until: Time(Duration::from_millis(220)) });
        pair.wait(Duration::from_millis(1));
        assert_eq!(pair.twin.link(), LinkState::Up);
        assert_eq!(pair.twin.link_changes(), (1, 0));
    }

    #[test]
    fn a_disable_reaches_the_other_side_first() {
        // ntb_test.sh, link_test: writes N at one side, waits for "down" there, then reads the other side once.
        for side in Side::BOTH {
            let mut pair = Pair::up();
            pair.link_disable(side);
            let heard = pair.heard();
            assert_eq!(heard[..4], ["link down", "no timer", "a: windows", "b: windows"]);
            let [local, remote] = if side == A { ["a", "b"] } else { ["b", "a"] };
            assert_eq!(heard[4..], [remote, local].map(|name| format!("{name}: vector 31, link 0x0103")));
        }
    }

    #[test]
    fn a_flap_that_nobody_served_is_one_interrupt_and_the_last_state() {
        let mut pair = Pair::up();
        pair.link_disable(A);
        pair.link_enable(A);
        pair.wait(Duration::from_millis(100));
        let interrupts = pair.heard().iter().filter(|said| said.contains("vector")).count();
        assert_eq!(interrupts, 2, "one at each side, for going down; the bit is still set when it comes up");
        assert_eq!(pair.poll_link(B), 0x2103, "acknowledge first, then read: nothing is missed");
        pair.link_disable(A);
        assert!(
            pair.heard().contains(&"b: vector 31, link 0x0103".into()),
            "acknowledged, so the next one fires"
        );
    }

    #[test]
    fn mw_set_trans_opens_what_it_says() {
        let mut pair = Pair::up();
        assert_eq!(pair.mw_set_trans(B, 0, 0x1000_0000, MIB), Ok(()));
        assert_eq!(pair.heard(), ["b: windows"], "the external limit");
        assert_eq!(pair.twin.outbound(A, 0), (0x1000_0000, MIB));
        assert_eq!(pair.twin.outbound(A, 1), (0x0, 0), "the other window");
        assert_eq!(pair.twin.outbound(B, 0), (0x0, 0), "the other direction");
        let at = |address| Ok(PeerRange { side: B, address });
        assert_eq!(pair.twin.route(A, 0, 0, 8), at(0x1000_0000));
        assert_eq!(pair.twin.route(A, 0, MIB - 8, 8), at(0x100F_FFF8));
        for (offset, bytes) in [(MIB - 4, 8), (MIB, 1), (u64::MAX, 1), (u64::MAX - 3, 8), (0, u64::MAX)] {
            assert_eq!(pair.twin.route(A, 0, offset, bytes), Err(Refused::Limit), "{offset:#x}");
        }
        let mut misses = [0; 2];
        assert!(pair.twin.bar0_read(B, 0x70, &mut misses), "USMEMMISS, at the side that was missed");
        assert_eq!(misses, [5, 0]);
        assert_eq!(pair.twin.route(A, 7, 0, 1), Err(Refused::Limit), "there is no window 7");

        // Byte granularity, the second window, and mw_clear_trans.
        assert_eq!(pair.mw_set_trans(B, 1, 0x2000_0000, 5), Ok(()));
        assert_eq!(pair.twin.route(A, 1, 4, 1), at(0x2000_0004));
        assert_eq!(pair.twin.route(A, 1, 4, 2), Err(Refused::Limit));
        assert_eq!(pair.mw_set_trans(B, 0, 0, 0), Ok(()));
        assert_eq!(pair.twin.outbound(A, 0), (0, 0));
        assert_eq!(pair.twin.route(A, 0, 0, 1), Err(Refused::Limit));
    }

    #[test]
    fn a_translation_of_zero_with_a_size_is_open() {
        let mut pair = Pair::up(); // NTRDMA and DPDK: all of the peer's memory from address 0
        assert_eq!(pair.mw_set_trans(A, 1, 0, MIB), Ok(()));
        assert_eq!(pair.twin.route(B, 1, 0x8_0000, 4), Ok(PeerRange { side: A, address: 0x8_0000 }));
    }

    #[test]
    fn a_window_never_exceeds_its_bar_or_the_address_space() {
        let mut pair = Pair::up();
        pair.w64(B, 0x10, !0xFFF);
        pair.w64(B, 0x4018, u64::MAX);
        assert_eq!(pair.twin.outbound(A, 0), (!0xFFF, 0xFFF), "it does not wrap");
        assert_eq!(pair.twin.route(A, 0, 0xFFE, 1), Ok(PeerRange { side: B, address: !1 }));
        assert_eq!(pair.twin.route(A, 0, 0xFFC, 8), Err(Refused::Limit));
        pair.w64(B, 0x10, 0x7777); // not page-aligned: does not read back, and the driver gives up
        assert_eq!(pair.r64(B, 0x10), 0x7000);
        assert_eq!(
            pair.twin.outbound(A, 0),
            (!0xFFF, 0xFFF),
            "as it was, until the external limit is written"
        );
        pair.w64(B, 0x4018, u64::MAX);
        assert_eq!(pair.twin.outbound(A, 0), (0x7000, MIB));
        pair.w64(B, 0x4018, 0x1000); // below EMBAR1
        assert_eq!(pair.twin.outbound(A, 0), (0x7000, 0));
    }

    #[test]
    fn a_window_is_refused_for_the_first_thing_in_the_way() {
        let mut pair = Pair::up();
        pair.mw_set_trans(B, 0, MIB, MIB).unwrap();
        pair.heard();
        pair.config(B, 0x04, [0x02, 0x04]);
        assert_eq!(pair.heard(), ["b: windows"]);
        assert_eq!(
            pair.twin.route(A, 0, 0, 4),
            Err(Refused::NotBusMaster),
            "it is B that touches B's memory"
        );
        assert_eq!(pair.twin.outbound(A, 0), (0, 0));
        pair.link_disable(B);
        assert_eq!(pair.twin.route(A, 0, 0, 4), Err(Refused::LinkDown));
        pair.config(A, 0x04, [0x04, 0x04]);
        assert_eq!(pair.twin.route(A, 0, 0, 4), Err(Refused::MemoryDisabled));
    }

    #[test]
    fn ntb_perf_shakes_hands_through_the_peers_scratchpads() {
        const INVAL: u32 = 0xFFFF_FFFF;
        let mut pair = Pair::probed();
        // perf_enable_service: scratchpads invalid, own notify bit unmasked, then the link.
        for (side, own_bit) in [(A, 1 << 0), (B, 1 << 1)] {
            for index in 0..16 {
                pair.w32(side, SPAD + 4 * index, INVAL);
            }
            pair.w64(side, DISABLE, 0x7FFF_FFFF & !own_bit);
        }
        pair.bring_up();
        // perf_spad_cmd_send by A (index 0: scratchpads 0 to 2, doorbell of index 1).
        assert_eq!(pair.r32(A, PEER_SPAD), INVAL, "the peer has taken the last command");
        pair.w32(A, PEER_SPAD + 4, 0x0010_0000);
        pair.w32(A, PEER_SPAD + 8, 0);
        pair.w32(A, PEER_SPAD, 0);
        assert_eq!(pair.r32(A, PEER_SPAD), 0, "not taken yet");
        pair.ring(A, 1);
        assert_eq!(pair.heard(), ["b: vector 1, link 0x2103"]);
        // perf_spad_cmd_recv by B.
        pair.w64(B, STATUS, 1 << 1);
        assert_eq!(pair.r32(B, SPAD), 0, "PERF_CMD_SSIZE");
        assert_eq!((pair.r32(B, SPAD + 4), pair.r32(B, SPAD + 8)), (0x0010_0000, 0));
        pair.w32(B, SPAD, INVAL);
        assert_eq!(pair.r32(A, PEER_SPAD), INVAL, "A sees that B has taken it");
        // And back: B has index 1, scratchpads 3 to 5, doorbell of index 0.
        assert_eq!(pair.r32(B, PEER_SPAD + 12), INVAL);
        pair.w32(B, PEER_SPAD + 12, 1);
        pair.ring(B, 0);
        assert_eq!(pair.heard(), ["a: vector 0, link 0x2103"]);
        assert_eq!(pair.r32(A, SPAD + 12), 1);
    }

    #[test]
    fn ntb_pingpong_rings_and_then_unmasks() {
        let mut pair = Pair::up();
        for round in 0..3 {
            // pp_ping by A: doorbell of port 1, then listen at one's own bit 0.
            pair.w32(A, PEER_SPAD, round);
            pair.ring(A, 1);
            pair.w64(A, DISABLE, 0x7FFF_FFFE);
            assert_eq!(pair.heard(), [""; 0], "B has not unmasked yet");
            // pp_ping by B: what is pending fires as it unmasks.
            pair.w32(B, PEER_SPAD, round);
            pair.ring(B, 0);
            assert_eq!(pair.heard(), ["a: vector 0, link 0x2103"]);
            pair.w64(B, DISABLE, 0x7FFF_FFFD);
            assert_eq!(pair.heard(), ["b: vector 1, link 0x2103"]);
            // pp_pong on both: mask, clear, read.
            for (side, bit) in [(A, 1), (B, 2)] {
                pair.w64(side, DISABLE, 0x7FFF_FFFF);
                pair.w64(side, STATUS, bit);
                assert_eq!(pair.r32(side, SPAD), round);
            }
            assert_eq!(pair.heard(), [""; 0]);
        }
    }

    #[test]
    fn rings_before_an_acknowledge_are_one_interrupt() {
        let mut pair = Pair::up();
        pair.w64(B, DISABLE, 0);
        for _ in 0..1000 {
            pair.ring(A, 7);
        }
        assert_eq!(pair.heard(), ["b: vector 7, link 0x2103"]);
        pair.w64(B, DISABLE, 0x80);
        pair.w64(B, DISABLE, 0);
        assert_eq!(pair.heard(), ["b: vector 7, link 0x2103"], "unmasked with the bit still pending");
        pair.w64(B, DISABLE, 0);
        assert_eq!(pair.heard(), [""; 0], "it was not masked");
        pair.w64(B, STATUS, 0x80);
        pair.ring(A, 7);
        assert_eq!(pair.heard(), ["b: vector 7, link 0x2103"]);
        let counters = pair.twin.counters(A);
        assert_eq!((counters.doorbells, counters.doorbells_dropped), (1001, 0));
    }

    #[test]
    fn unmasking_by_halves_raises_the_half() {
        let mut pair = Pair::up();
        pair.w64(B, DISABLE, 0x1_FFFF_FFFF);
        pair.ring(A, 0);
        pair.ring(A, 31);
        pair.link_disable(A);
        assert_eq!(pair.heard().iter().filter(|said| said.starts_with("b: vector")).count(), 0);
        pair.w32(B, DISABLE + 4, 0);
        assert_eq!(pair.heard(), ["b: vector 31, link 0x0103"], "the link, moved to vector 31");
        pair.w32(B, DISABLE, 0);
        assert_eq!(pair.heard(), ["b: vector 0, link 0x0103", "b: vector 31, link 0x0103"]);
    }

    #[test]
    fn without_msix_an_interrupt_is_lost_but_its_bit_stays() {
        let mut pair = Pair::up();
        pair.w64(B, DISABLE, 0);
        pair.config(B, 0x82, [0x20, 0x00]);
        pair.ring(A, 4);
        assert_eq!(pair.heard(), [""; 0]);
        assert_eq!(pair.r64(B, STATUS), 0x10);
        pair.config(B, 0x82, [0x20, 0x80]);
        assert_eq!(pair.heard(), [""; 0]);
        pair.w8(B, INTVEC + 4, 33); // no such vector
        pair.w64(B, STATUS, 0x10);
        pair.ring(A, 4);
        assert_eq!(pair.heard(), [""; 0]);
    }

    #[test]
    fn dpdk_unmasks_everything_onto_one_vector() {
        // intel_ntb_dev_init: NTBCNTL up, acknowledge, INT_DISABLE 0, INTVEC all 0 (UIO has one vector).
        let mut pair = Pair::new();
        for side in Side::BOTH {
            pair.config(side, 0x04, [0x06, 0x04]);
            pair.config(side, 0x82, [0x20, 0x80]);
            pair.w64(side, STATUS, 0xFFFF_FFFF);
            pair.w64(side, DISABLE, 0);
            for source in 0..32 {
                pair.w8(side, INTVEC + source, 0);
            }
            pair.link_enable(side);
        }
        pair.wait(Duration::from_millis(100));
        let heard = pair.heard();
        assert_eq!(heard[heard.len() - 2..], ["a: vector 0, link 0x2103", "b: vector 0, link 0x2103"]);
        for doorbell in [0, 2, 31] {
            pair.ring(B, doorbell);
        }
        assert_eq!(pair.heard(), ["a: vector 0, link 0x2103"; 3]);
        assert_eq!(pair.r64(A, STATUS), 0x1_8000_0005);
    }

    #[test]
    fn older_kernels_use_doorbell_31_too() {
        let mut pair = Pair::up();
        pair.w64(B, DISABLE, 0xFFFF_FFFF); // db_valid_mask of older kernels
        pair.ring(A, 31);
        assert_eq!(pair.heard(), [""; 0]);
        pair.w64(B, DISABLE, 0x7FFF_FFFF);
        assert_eq!(pair.heard(), ["b: vector 31, link 0x2103"], "shared with the link");
        assert_eq!(pair.poll_link(B), 0x2103, "whose acknowledge clears it");
        assert_eq!(pair.r64(B, STATUS), 0);
    }

    #[test]
    fn scratchpads_outlive_the_link_and_the_peers_are_all_ones_meanwhile() {
        let mut pair = Pair::up();
        pair.w32(A, PEER_SPAD, 0x1234);
        pair.link_disable(A);
        for side in Side::BOTH {
            assert_eq!(pair.r32(side, PEER_SPAD), 0xFFFF_FFFF);
            pair.w32(side, PEER_SPAD, 0xDEAD);
            pair.ring(side, 3);
            let counters = pair.twin.counters(side);
            assert_eq!((counters.unreachable, counters.doorbells_dropped, counters.doorbells), (2, 1, 0));
            assert_eq!(pair.r64(side, STATUS) & 0xFFFF_FFFF, 0);
        }
        assert_eq!((pair.r32(B, SPAD), pair.r32(A, SPAD)), (0x1234, 0));
        pair.bring_up();
        assert_eq!(pair.r32(A, PEER_SPAD), 0x1234);
    }

    /// Whatever takes B away: how, and what is heard before the link falls.
    type Loss = (fn(&mut Pair), &'static [&'static str]);

    #[test]
    fn a_peer_that_goes_away_leaves_the_survivor_as_it_was() {
        let losses: [Loss; 3] = [
            (|pair| pair.event(|twin, now, effects| twin.detach(now, B, effects)), &["b: windows"]),
            (|pair| pair.event(|twin, now, effects| twin.reset(now, B, effects)), &["b: windows"]),
            (|pair| pair.config(B, 0x98, [0x10, 0xA8]), &["b: reset", "b: windows"]), // pcie_flr
        ];
        for (lose, first) in losses {
            let mut pair = Pair::up();
            pair.w32(A, PEER_SPAD, 0xB);
            pair.w32(B, PEER_SPAD, 0xA);
            pair.mw_set_trans(A, 0, MIB, MIB).unwrap();
            pair.mw_set_trans(B, 0, MIB, MIB).unwrap();
            pair.heard();
            lose(&mut pair);
            let heard = pair.heard();
            assert_eq!(heard[..first.len()], *first);
            let rest = ["link down", "no timer", "a: windows", "b: windows", "a: vector 31, link 0x0103"];
            assert_eq!(heard[first.len()..], rest);

            assert_eq!(pair.poll_link(A), 0x0103);
            assert_eq!((pair.r32(A, SPAD), pair.r64(A, 0x10)), (0xA, MIB), "the survivor keeps its own");
            assert_eq!(pair.r32(A, PEER_SPAD), 0xFFFF_FFFF);
            assert_eq!(pair.twin.route(A, 0, 0, 4), Err(Refused::LinkDown));
            assert_eq!(pair.twin.route(B, 0, 0, 4), Err(Refused::MemoryDisabled));

            // The peer comes back: nothing of its former life, and the survivor does nothing at all.
            pair.event(|twin, now, effects| twin.attach(now, B, effects));
            pair.config(B, 0x04, [0x06, 0x04]);
            assert_eq!((pair.r64(B, STATUS), pair.r64(B, DISABLE)), (0, 0x1_FFFF_FFFF));
            assert_eq!((pair.r32(B, SPAD), pair.r64(B, 0x10), pair.r64(B, 0x4018)), (0, 0, 0));
            pair.wait(Duration::from_secs(10));
            assert_eq!(pair.twin.link(), LinkState::Down, "its driver has not asked for the link yet");
            pair.probe(B);
            pair.heard();
            pair.link_enable(B);
            pair.wait(Duration::from_millis(100));
            let heard = pair.heard();
            assert!(
                heard.ends_with(&["a: vector 31, link 0x2103".into(), "b: vector 31, link 0x2103".into()])
            );
            assert_eq!(
                pair.twin.route(B, 0, 0, 4),
                Ok(PeerRange { side: A, address: MIB }),
                "A's never closed"
            );
            assert_eq!(pair.twin.route(A, 0, 0, 4), Err(Refused::Limit), "B's did");
            assert_eq!(pair.twin.link_changes(), (2, 1));
        }
    }

    #[test]
    fn either_port_may_come_first_and_a_loss_during_training_is_silent() {
        for side in Side::BOTH {
            let mut pair = Pair::probed();
            pair.link_enable(A);
            pair.link_enable(B);
            pair.heard();
            pair.event(|twin, now, effects| twin.detach(now, side, effects));
            let windows = if side == A { "a: windows" } else { "b: windows" };
            assert_eq!(pair.heard(), [windows, "link down", "no timer"]);
            pair.wait(Duration::from_secs(1));
            pair.event(|twin, now, effects| twin.attach(now, side, effects));
            assert_eq!(pair.heard(), [""; 0], "attached, but power-on left it disabled");
            pair.probe(side);
            pair.bring_up();
            assert_eq!(pair.twin.link(), LinkState::Up);
        }
    }

    #[test]
    fn rmmod_and_insmod_of_one_side() {
        let mut pair = Pair::up();
        pair.link_disable(B); // the client's ntb_link_disable
        pair.w64(B, DISABLE, 0x7FFF_FFFF); // xeon_deinit_isr
        pair.config(B, 0x82, [0x20, 0x00]);
        pair.config(B, 0x04, [0x02, 0x04]); // pci_disable_device
        assert_eq!(pair.poll_link(A), 0x0103);
        pair.heard();
        pair.probe(B);
        assert_eq!(pair.heard(), ["b: windows"], "no interrupt left over");
        pair.bring_up();
    }
}
