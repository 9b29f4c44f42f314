//! Two transports of ours against each other, while the link and the clients come and go at any moment.

use super::{Ours, frame, number};
use crate::heap::Link;
use crate::{Config, Time, Transport};
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
enum Action {
    Link(bool),
    /// A side learns of the link's changes so far.
    Tell(usize),
    Poll(usize),
    Enable(usize),
    Disable(usize),
    /// Its process is killed: the link falls, the port is reset, and another one starts.
    Kill(usize),
    Send(usize, u8),
    Receive(usize, u8),
    Wait(u8),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let side = 0_usize..2;
    let one = prop_oneof![
        1 => any::<bool>().prop_map(Action::Link),
        4 => side.clone().prop_map(Action::Tell),
        10 => side.clone().prop_map(Action::Poll),
        4 => side.clone().prop_map(Action::Enable),
        2 => side.clone().prop_map(Action::Disable),
        1 => side.clone().prop_map(Action::Kill),
        6 => (side.clone(), 1_u8..20).prop_map(|(who, count)| Action::Send(who, count)),
        6 => (side, 1_u8..20).prop_map(|(who, count)| Action::Receive(who, count)),
        8 => (0_u8..120).prop_map(Action::Wait),
    ];
    prop::collection::vec(one, 0..120)
}

struct World {
    link: Link,
    /// Changes of the link, and how many of them a side knows.
    changes: u32,
    known: [u32; 2],
    ours: [Ours; 2],
    now: Time,
    sent: [u32; 2],
    /// The highest number that each side has received.
    received: [Option<u32>; 2],
}

impl World {
    fn new() -> Self {
        Self {
            link: Link::new([256 << 10; 2]),
            changes: 0,
            known: [0; 2],
            ours: [Ours::new(0), Ours::new(1)],
            now: Time(0),
            sent: [0; 2],
            received: [None; 2],
        }
    }

    fn set_link(&mut self, up: bool) {
        if self.link.up != up {
            self.link.up = up;
            self.changes += 1;
        }
    }

    fn tell(&mut self, who: usize) {
        if self.known[who] != self.changes {
            self.known[who] = self.changes;
            self.ours[who].link(self.now, &mut self.link);
        }
    }

    fn send(&mut self, who: usize) -> bool {
        let sent = self.ours[who].send(&frame(self.sent[who]), &mut self.link);
        self.sent[who] += u32::from(sent);
        sent
    }

    /// Frames are whole, and never come twice or in another order, whatever happens in between.
    fn receive(&mut self, who: usize) -> bool {
        let Some(bytes) = self.ours[who].receive(&mut self.link) else { return false };
        let number = number(&bytes);
        assert!(self.received[who].is_none_or(|last| last < number), "{number} after {:?}", self.received);
        self.received[who] = Some(number);
        true
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Link(up) => self.set_link(up),
            Action::Tell(who) => self.tell(who),
            Action::Poll(who) => drop(self.ours[who].poll(self.now, &mut self.link)),
            Action::Enable(who) => self.ours[who].transport.enable(0),
            Action::Disable(who) => {
                self.ours[who].transport.disable(0, &mut self.link.side(who)).unwrap();
            }
            Action::Kill(who) => {
                self.set_link(false);
                self.link.halves[who].scratchpads = [0; 16];
                self.link.halves[who].inbound = [const { None }; 2];
                self.ours[who].transport = Transport::new(Config::default()).unwrap();
            }
            Action::Send(who, count) => drop((0..count).all(|_| self.send(who))),
            Action::Receive(who, count) => drop((0..count).all(|_| self.receive(who))),
            Action::Wait(milliseconds) => self.now = self.now.after_ms(milliseconds.into()),
        }
    }

    /// A while in which nobody disturbs.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.now = self.now.after_ms(10);
            for who in [0, 1] {
                self.tell(who);
                self.ours[who].poll(self.now, &mut self.link);
                while self.receive(who) {}
            }
        }
    }

    /// Whatever was before: two clients that want it get a queue pair that loses nothing.
    fn must_work(&mut self) {
        self.set_link(true);
        for who in [0, 1] {
            self.ours[who].transport.enable(0);
        }
        self.settle();
        for who in [0, 1] {
            assert!(self.ours[who].transport.is_up(0), "side {who} is not up");
        }
        for _ in 0..60 {
            for who in [0, 1] {
                assert!(self.send(who));
                assert!(self.receive(1 - who));
                assert_eq!(self.received[1 - who], Some(self.sent[who] - 1));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn it_works_after_any_history(actions in actions()) {
        let mut world = World::new();
        for action in actions {
            world.act(action);
        }
        world.must_work();
    }
}

#[test]
fn both_close_at_once_and_come_back() {
    let mut world = World::new();
    world.must_work();
    for who in [0, 1] {
        world.act(Action::Send(who, 3));
    }
    for who in [0, 1] {
        world.act(Action::Disable(who));
    }
    world.must_work();
}

#[test]
fn the_link_drops_in_the_middle_of_traffic() {
    let mut world = World::new();
    world.must_work();
    for round in 0..20 {
        for who in [0, 1] {
            world.act(Action::Send(who, 5));
        }
        world.set_link(false);
        world.act(Action::Tell(round % 2));
        world.act(Action::Receive(round % 2, 9));
        world.act(Action::Send(1 - round % 2, 5));
        world.must_work();
    }
}
