//! The message registers: absent unless asked for; a message lies until it is taken.

use ntb_spec::bar0;
use ntb_spec::config;
use ntb_spec::messages::{ALL, CAPABILITY, Reg, TABLE, offset_of};
use std::time::Duration;
use twin::{Effect, Setup, Side, Time, Twin};

struct Bench {
    twin: Twin,
    effects: Vec<Effect>,
}

impl Bench {
    fn new(messages: bool) -> Self {
        let training = Duration::ZERO;
        let mut bench =
            Self { twin: Twin::new(&Setup { messages, training, ..Setup::default() }), effects: Vec::new() };
        for side in Side::BOTH {
            bench.twin.attach(Time::default(), side, &mut bench.effects);
            let Self { twin, effects } = &mut bench;
            twin.config_write(Time::default(), side, config::COMMAND, &[6, 0], effects);
            twin.config_write(Time::default(), side, config::MSIX_CONTROL, &[0, 0x80], effects);
            bench.link(side, true);
        }
        bench.twin.advance(Time(Duration::from_secs(3)), &mut bench.effects);
        bench.effects.clear();
        bench
    }

    fn link(&mut self, side: Side, on: bool) {
        let control: u32 = if on { 0x154 } else { 3 };
        let at = bar0::offset_of(bar0::Reg::Control, 0);
        self.twin.bar0_write(
            Time(Duration::from_secs(2)),
            side,
            at,
            &control.to_le_bytes(),
            &mut self.effects,
        );
    }

    fn read(&mut self, side: Side, reg: Reg, index: u8) -> u32 {
        let mut out = [0; 4];
        assert!(self.twin.bar0_read(side, offset_of(reg, index), &mut out));
        u32::from_le_bytes(out)
    }

    fn write(&mut self, side: Side, reg: Reg, index: u8, value: u32) {
        let at = offset_of(reg, index);
        assert!(self.twin.bar0_write(Time::default(), side, at, &value.to_le_bytes(), &mut self.effects));
    }

    /// The interrupts since the last call.
    fn raised(&mut self) -> Vec<(Side, u8)> {
        let raised = |effect| match effect {
            Effect::Interrupt { side, vector } => Some((side, vector)),
            _ => None,
        };
        self.effects.drain(..).filter_map(raised).collect()
    }
}

#[test]
fn a_twin_that_was_not_asked_for_them_has_none() {
    let mut bench = Bench::new(false);
    for row in TABLE {
        for index in 0..row.count {
            let mut out = vec![0; usize::from(row.bytes)];
            assert!(!bench.twin.bar0_read(Side::A, row.offset_of(index), &mut out), "{}", row.name);
            assert!(out.iter().all(|&byte| byte == 0xFF));
            let (at, now) = (row.offset_of(index), Time::default());
            assert!(!bench.twin.bar0_write(now, Side::A, at, &out, &mut bench.effects));
        }
    }
    assert!(bench.effects.is_empty());
}

#[test]
fn every_row_has_its_reset_value_and_its_own_width_alone() {
    let mut bench = Bench::new(true);
    for row in TABLE {
        for index in 0..row.count {
            for width in [1, 2, 4, 8] {
                let mut out = vec![0; width];
                let hit = bench.twin.bar0_read(Side::B, row.offset_of(index), &mut out);
                assert_eq!(hit, width == usize::from(row.bytes), "{} {width}", row.name);
                if hit {
                    let value = out.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
                    assert_eq!(value, row.reset, "{}", row.name);
                }
            }
        }
    }
    assert_eq!(bench.read(Side::A, Reg::Capability, 0), CAPABILITY);
    // The tables of Gen3 are as without.
    assert_eq!(bench.twin.registers(Side::A).count(), Bench::new(false).twin.registers(Side::A).count() + 8);
}

#[test]
fn a_message_lies_until_it_is_taken() {
    let mut bench = Bench::new(true);
    bench.write(Side::A, Reg::Mask, 0, 0);
    bench.write(Side::B, Reg::Mask, 0, 0);
    bench.write(Side::A, Reg::Outbound, 2, 0xCAFE);
    assert_eq!(bench.raised(), [(Side::B, 32)]);
    assert_eq!((bench.read(Side::B, Reg::Inbound, 2), bench.read(Side::B, Reg::Status, 0)), (0xCAFE, 1 << 2));
    bench.write(Side::A, Reg::Outbound, 2, 0xBAD);
    assert_eq!(bench.raised(), [(Side::A, 32)], "the refusal is the sender's");
    assert_eq!(bench.read(Side::A, Reg::Status, 0), 1 << 18);
    assert_eq!(bench.read(Side::B, Reg::Inbound, 2), 0xCAFE);
    bench.write(Side::A, Reg::Status, 0, 1 << 18);
    bench.write(Side::B, Reg::Status, 0, 1 << 2);
    assert_eq!(bench.raised(), [(Side::A, 32)], "there is room again");
    assert_eq!(bench.read(Side::A, Reg::Status, 0), 1 << 10);
    bench.write(Side::B, Reg::Status, 0, ALL);
    assert!(bench.raised().is_empty(), "what was not there is not taken");
}

#[test]
fn masks_hold_back_and_unmasking_raises() {
    let mut bench = Bench::new(true);
    bench.write(Side::A, Reg::Outbound, 0, 1);
    assert!(bench.raised().is_empty(), "all is masked after reset");
    bench.write(Side::B, Reg::Mask, 0, ALL & !1);
    assert_eq!(bench.raised(), [(Side::B, 32)]);
    bench.twin.bar0_write(Time::default(), Side::B, offset_of(Reg::Vector, 0), &[200], &mut bench.effects);
    bench.write(Side::B, Reg::Mask, 0, ALL);
    bench.write(Side::B, Reg::Mask, 0, 0);
    assert!(bench.raised().is_empty(), "a vector that there is not");
}

#[test]
fn a_link_that_goes_down_takes_messages_along_and_nothing_goes_without() {
    let mut bench = Bench::new(true);
    bench.write(Side::A, Reg::Outbound, 1, 7);
    bench.link(Side::B, false);
    assert_eq!(bench.read(Side::B, Reg::Status, 0), 0);
    bench.write(Side::A, Reg::Outbound, 1, 8);
    assert_eq!(bench.read(Side::A, Reg::Status, 0), 1 << 17);
    assert_eq!((bench.read(Side::B, Reg::Status, 0), bench.read(Side::B, Reg::Inbound, 1)), (0, 7));
    let mut effects = Vec::new();
    bench.twin.reset(Time::default(), Side::B, &mut effects);
    bench.twin.config_write(Time::default(), Side::B, config::COMMAND, &[6, 0], &mut effects);
    assert_eq!((bench.read(Side::B, Reg::Inbound, 1), bench.read(Side::B, Reg::Mask, 0)), (0, ALL));
}
