//! Arbitrary accesses and events on two ports, against a small naive model: every read, every effect, every register.

#[cfg(test)]
#[path = "reference/model.rs"]
mod model;

#[cfg(test)]
mod tests {
    use crate::model::{Model, TRAINING, WINDOWS, register_around};
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::time::Duration;
    use twin::{Effect, LinkState, Setup, Side, Space, Time, Twin, WindowSize};

    #[derive(Debug, Clone)]
    enum Action {
        Attach(Side),
        Detach(Side),
        Reset(Side),
        Wait(u64),
        ConfigRead(Side, u32, usize),
        ConfigWrite(Side, u32, Vec<u8>),
        Read(Side, u32, usize),
        Write(Side, u32, Vec<u8>),
        Route(Side, usize, u64, u64),
    }

    fn side() -> impl Strategy<Value = Side> {
        select(&Side::BOTH[..])
    }

    /// Numbers that sit on edges, and any.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            6 => select(vec![0, 1, 2, 3, 0x154, 0x1000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x1_8000_0000,
                0x1_FFFF_FFFF, 0x2000_0000_0000_0000, 0x2000_0000_0010_0000, 0x4000_0000_0000_8000,
                u64::MAX, !0xFFF, !0xF_FFFF]),
            2 => (0..33_u32).prop_map(|bit| 1 << bit),
            1 => any::<u64>(),
        ]
    }

    /// A whole register, or one half of it: what drivers do.
    fn register() -> impl Strategy<Value = (u32, usize)> {
        let all: Vec<(u32, usize)> = (0..0x5000)
            .filter_map(|byte| register_around(byte).filter(|&(at, _)| at == byte))
            .flat_map(|(at, width)| {
                let halves = if width == 8 { vec![(at, 4), (at + 4, 4)] } else { vec![] };
                [(at, usize::try_from(width).unwrap())].into_iter().chain(halves)
            })
            .collect();
        let busy =
            vec![(0, 4), (0x40, 8), (0x48, 8), (0x48, 4), (0x4C, 4), (0x10, 8), (0x4018, 8), (0x20, 8)];
        let bells = (0..33_u32).prop_map(|n| if n == 32 { (0xF0, 1) } else { (0x100 + 4 * n, 4) });
        prop_oneof![3 => select(busy), 2 => bells, 3 => select(all)]
    }

    fn bar0() -> impl Strategy<Value = (u32, usize)> {
        let edge = select(vec![0_u32, 0xFFFC, 0xFFFF, 0x1_0000, 0x4528, u32::MAX - 3, u32::MAX]);
        prop_oneof![
            12 => register(),
            1 => (register(), 0..16_usize).prop_map(|((at, _), width)| (at, width)),
            1 => (0..0x5000_u32, 0..16_usize),
            1 => (edge, 0..16_usize),
        ]
    }

    fn config() -> impl Strategy<Value = (u32, usize)> {
        let known =
            select(vec![(4, 2), (0x82, 2), (0x98, 2), (0x1A2, 2), (0xD4, 1), (0x10, 4), (0x1C, 4), (0, 64)]);
        let edge = select(vec![4090_u32, 4095, 4096, 0x1_0000, u32::MAX - 2, u32::MAX]);
        prop_oneof![4 => known, 2 => (0..0x1B0_u32, 0..9_usize), 1 => (edge, 0..9_usize)]
    }

    fn data(number: u64, width: usize) -> Vec<u8> {
        number.to_le_bytes().into_iter().cycle().take(width).collect()
    }

    fn action() -> impl Strategy<Value = Action> {
        let command = select(vec![0x0006, 0x0406, 0x0002, 0x0000, 0x0004]).prop_map(|value| (4, 2, value));
        let msix = select(vec![0x8020, 0x8020, 0xC020, 0x0020]).prop_map(|value| (0x82, 2, value));
        let control = select(vec![0x154, 0x154, 0x154, 0x3, 0x0]);
        prop_oneof![
            1 => side().prop_map(Action::Attach),
            1 => prop_oneof![
                side().prop_map(Action::Detach),
                side().prop_map(Action::Reset),
                (side(), any::<u16>()).prop_map(|(side, value)| Action::ConfigWrite(side, 0x98, data(value.into(), 2))),
            ],
            3 => select(vec![0, 1, 50, 99, 100, 101, 1000]).prop_map(Action::Wait),
            3 => (side(), prop_oneof![command, msix]).prop_map(|(side, (at, width, value))| {
                Action::ConfigWrite(side, at, data(value, width))
            }),
            3 => (side(), control).prop_map(|(side, value)| Action::Write(side, 0, data(value, 4))),
            3 => side().prop_map(|side| Action::Write(side, 0x40, data(u64::MAX, 8))),
            2 => (side(), config()).prop_map(|(side, (at, width))| Action::ConfigRead(side, at, width)),
            2 => (side(), config(), number()).prop_map(|(side, (at, width), value)| {
                Action::ConfigWrite(side, at, data(value, width))
            }),
            8 => (side(), bar0()).prop_map(|(side, (at, width))| Action::Read(side, at, width)),
            24 => (side(), bar0(), number()).prop_map(|(side, (at, width), value)| {
                Action::Write(side, at, data(value, width))
            }),
            4 => (side(), 0..3_usize, prop_oneof![Just(0), Just(WINDOWS[1] - 4), number()], 0..65_u64)
                .prop_map(|(side, window, offset, bytes)| Action::Route(side, window, offset, bytes)),
        ]
    }

    /// The accesses that bring the link up: without them a random walk seldom gets there.
    fn bring_up() -> Vec<Action> {
        let mut actions = Vec::new();
        for side in Side::BOTH {
            actions.extend([
                Action::Attach(side),
                Action::ConfigWrite(side, 4, data(6, 2)),
                Action::ConfigWrite(side, 0x82, data(0x8020, 2)),
                Action::Write(side, 0x48, data(0x7FFF_FFFF, 8)),
                Action::Write(side, 0, data(0x154, 4)),
            ]);
        }
        actions.push(Action::Wait(100));
        actions.extend(Side::BOTH.map(|side| Action::Write(side, 0x40, data(u64::MAX, 8))));
        actions
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        (any::<bool>(), prop::collection::vec(action(), 1..120)).prop_map(|(up, mut actions)| {
            if up {
                actions.splice(..0, bring_up());
            }
            actions
        })
    }

    struct Both {
        twin: Twin,
        model: Model,
        now: Time,
    }

    impl Both {
        fn new() -> Self {
            let windows = WINDOWS.map(|bytes| WindowSize::new(bytes).unwrap());
            let twin = Twin::new(&Setup { windows, training: TRAINING, messages: false });
            Self { twin, model: Model::new(), now: Time::default() }
        }

        /// Does it to both and compares what comes back.
        fn act(&mut self, action: &Action) {
            let Self { twin, model, now } = self;
            let (mut effects, mut expected) = (Vec::new(), Vec::new());
            match action {
                &Action::Attach(side) => {
                    twin.attach(*now, side, &mut effects);
                    model.attach(*now, side, &mut expected);
                }
                &Action::Detach(side) => {
                    twin.detach(*now, side, &mut effects);
                    model.detach(*now, side, &mut expected);
                }
                &Action::Reset(side) => {
                    twin.reset(*now, side, &mut effects);
                    model.reset(*now, side, &mut expected);
                }
                &Action::Wait(ms) => {
                    *now = now.after(Duration::from_millis(ms));
                    twin.advance(*now, &mut effects);
                    model.advance(*now, &mut expected);
                }
                &Action::ConfigRead(side, at, width) => {
                    let mut out = vec![0x5A; width];
                    twin.config_read(side, at, &mut out);
                    assert_eq!(out, model.config_read(side, at, width));
                }
                Action::ConfigWrite(side, at, data) => {
                    twin.config_write(*now, *side, *at, data, &mut effects);
                    model.config_write(*now, *side, *at, data, &mut expected);
                }
                &Action::Read(side, at, width) => {
                    let mut out = vec![0x5A; width];
                    let hit = twin.bar0_read(side, at, &mut out);
                    let known = model.bar0_read(side, at, width);
                    assert_eq!(hit, known.is_some());
                    assert_eq!(out, known.unwrap_or_else(|| vec![0xFF; width]));
                }
                Action::Write(side, at, data) => {
                    let hit = twin.bar0_write(*now, *side, *at, data, &mut effects);
                    assert_eq!(hit, model.bar0_write(*now, *side, *at, data, &mut expected));
                }
                &Action::Route(side, window, offset, bytes) => {
                    let route = twin.route(side, window, offset, bytes);
                    assert_eq!(route, model.route(side, window, offset, bytes));
                }
            }
            assert_eq!(effects, expected);
        }

        /// Everything that can be looked at.
        fn compare(&mut self) {
            let Self { twin, model, now: _ } = self;
            assert_eq!(twin.link(), model.link);
            assert_eq!(twin.link_changes(), model.link_changes);
            for side in Side::BOTH {
                for window in 0..3 {
                    assert_eq!(twin.outbound(side, window), model.outbound(side, window));
                }
                let port = model.port(side);
                assert_eq!(twin.counters(side), port.counters);
                let flags = (port.attached, port.memory(), port.master(), port.msix());
                let seen = (twin.attached(side), twin.memory_enabled(side), twin.bus_master(side));
                assert_eq!((seen.0, seen.1, seen.2, twin.msix_enabled(side)), flags);
                for register in twin.registers(side) {
                    let expected = match register.space {
                        Space::Bar0 => port.bar0[&register.offset],
                        Space::Config => {
                            let at = usize::try_from(register.offset).unwrap();
                            let bytes = &port.config[at..at + usize::from(register.bytes)];
                            bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
                        }
                    };
                    assert_eq!(register.value, expected, "{side:?} {} {:#x}", register.name, register.offset);
                }
            }
        }
    }

    /// What the other side would notice: its own registers, and its interrupts.
    fn seen_by(twin: &Twin, side: Side) -> Vec<u64> {
        twin.registers(side).map(|register| register.value).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_twin_is_the_reference(actions in actions()) {
            let mut both = Both::new();
            for (step, action) in actions.iter().enumerate() {
                both.act(action);
                if step % 8 == 7 {
                    both.compare();
                }
            }
            both.compare();
        }

        /// Without the reference: a side that has no link cannot make the other notice anything.
        #[test]
        fn nothing_passes_a_link_that_is_not_up(actions in actions(), actor in side()) {
            let mut both = Both::new();
            for action in &actions {
                let closed = both.twin.link() != LinkState::Up;
                let own = match action {
                    Action::ConfigWrite(side, ..) | Action::Write(side, ..) | Action::Route(side, ..) => *side == actor,
                    _ => false,
                };
                let before = seen_by(&both.twin, actor.peer());
                both.act(action);
                if own && closed && both.twin.link() != LinkState::Up {
                    prop_assert_eq!(seen_by(&both.twin, actor.peer()), before);
                }
            }
        }

        /// A ring makes the effects of at most one interrupt, and two rings without an acknowledge make one.
        #[test]
        fn a_second_ring_is_silent(doorbell in 0..32_u32, mask in number(), vector in any::<u8>(), msix in any::<bool>()) {
            let mut both = Both::new();
            for action in bring_up() {
                both.act(&action);
            }
            let b = Side::B;
            both.act(&Action::ConfigWrite(b, 0x82, data(if msix { 0x8020 } else { 0x20 }, 2)));
            both.act(&Action::Write(b, 0x48, data(mask, 8)));
            both.act(&Action::Write(b, 0xD0 + doorbell, vec![vector]));
            let mut effects = Vec::new();
            both.twin.bar0_write(both.now, Side::A, 0x100 + 4 * doorbell, &[1, 0, 0, 0], &mut effects);
            let heard = msix && vector < 33 && mask >> doorbell & 1 == 0;
            prop_assert_eq!(&effects[..], &[Effect::Interrupt { side: b, vector }][..usize::from(heard)]);
            both.twin.bar0_write(both.now, Side::A, 0x100 + 4 * doorbell, &[1, 0, 0, 0], &mut effects);
            prop_assert_eq!(effects.len(), usize::from(heard));
        }
    }
}
